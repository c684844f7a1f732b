"""Sentence-BERT's regression objective: the cosine should be the gold similarity."""

from __future__ import annotations

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_array, check_choice
from simcse_jax.losses.geometry import float_rows, unit_rows
from simcse_jax.losses.shares import mean_over_shares

Score = Literal["cosine", "shifted"]
"""What is compared with the gold similarity: `cos(u, v)`, or `(cos(u, v) + 1) / 2`."""

SCORES: tuple[Score, ...] = get_args(Score)


def pair_cosine(u: Float[AnyArray, "B D"], v: Float[AnyArray, "B D"]) -> Float[Array, "B"]:
    """Return the cosine of each row of u with the same row of v, in float32 at least.

    A zero vector has cosine 0 with everything, and finite gradients.

    Args:
      u: ``[B, D]``.
      v: ``[B, D]``.

    Raises:
      ValueError: the shapes differ.
    """
    u, v = float_rows("u", u), float_rows("v", v)
    if u.shape != v.shape:
        raise ValueError(f"u {u.shape} and v {v.shape} must be of one shape [B, D].")
    u, v = (jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32)) for x in (u, v))
    product = unit_rows(u, differentiable=True) * unit_rows(v, differentiable=True)
    return jnp.sum(product, axis=1)


def cosine_regression(
    u: Float[AnyArray, "B D"],
    v: Float[AnyArray, "B D"],
    similarities: Float[AnyArray, "B"],
    *,
    score: Score = "cosine",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    r"""Return the mean squared error of the cosine (Reimers & Gurevych 2019, section 3).

    .. math:: \ell = \frac{1}{B} \sum_i \left(\cos(u_i, v_i) - y_i\right)^2

    As in the authors' code y is the gold score over 5, from 0 to 1, although a cosine may be
    negative. BERT-flow's authors note that ``"shifted"`` leads to a large decrease.

    Args:
      u: ``[B, D]``, the first sentence of each pair.
      v: ``[B, D]``, the second sentence of each pair.
      similarities: ``[B]``, y: the gold similarities in [0, 1], STS scores over 5.
      score: what is fitted to y: ``"cosine"``, or ``"shifted"`` for `(cos + 1) / 2`.
      axis_name: the mapped axis over which the batch is spread, in equal shares.

    Returns:
      A float32 scalar (float64 for float64 inputs).

    Raises:
      ValueError: shapes that differ, an empty batch, or an unknown name.

    Example:
      >>> u = jnp.eye(2)
      >>> print(f"{cosine_regression(u, u, jnp.array([1.0, 0.5])):.4f}")  # (0² + 0.5²) / 2
      0.1250
    """
    check_choice("score", score, SCORES)
    scores = pair_cosine(u, v)
    similarities = check_array("similarities", similarities, 1)
    if similarities.shape != scores.shape or not len(scores):
        raise ValueError(
            f"similarities {similarities.shape} must be [B] with B > 0, u has {len(scores)} rows."
        )
    if score == "shifted":
        scores = (scores + 1) / 2
    loss = jnp.mean(jnp.square(scores - similarities))
    return mean_over_shares(loss, axis_name)
