"""Sentence-BERT's regression objective: the cosine should be the gold similarity."""

from __future__ import annotations

from typing import Literal, get_args

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Regressand = Literal["cosine", "shifted"]
"""What is compared with the gold similarity: `cos(u, v)`, or `(cos(u, v) + 1) / 2`."""

REGRESSANDS: tuple[Regressand, ...] = get_args(Regressand)


def pair_cosine(u: Float[Array, "B D"], v: Float[Array, "B D"]) -> Float[Array, "B"]:
    """Cosine of each row of u with the same row of v, in float32 at least.

    A zero vector has cosine 0 with everything, and finite gradients.

    Raises:
      ValueError: the shapes differ.
    """
    if u.ndim != 2 or u.shape != v.shape:
        raise ValueError(f"u {u.shape} and v {v.shape} must be of one shape [B, D].")
    return jnp.sum(_unit(u) * _unit(v), axis=1)


def cosine_regression(
    u: Float[Array, "B D"],
    v: Float[Array, "B D"],
    similarities: Float[Array, "B"],
    *,
    regressand: Regressand = "cosine",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    r"""Mean squared error of the cosine (Reimers & Gurevych 2019, section 3).

    .. math:: \ell = \frac{1}{B} \sum_i \left(\cos(u_i, v_i) - y_i\right)^2

    As in the authors' code y is the gold score over 5, from 0 to 1, although a cosine may be
    negative. BERT-flow's authors note that ``"shifted"`` leads to a large decrease.

    Args:
      u: ``[B, D]``, the first sentence of each pair.
      v: ``[B, D]``, the second.
      similarities: ``[B]``, y: the gold similarities in [0, 1], STS scores over 5.
      regressand: ``"cosine"``, or ``"shifted"`` for `(cos + 1) / 2`.
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
    if regressand not in REGRESSANDS:
        raise ValueError(
            f"regressand is {regressand!r}; it must be one of {', '.join(REGRESSANDS)}"
        )
    found = pair_cosine(u, v)
    if similarities.shape != found.shape or not len(found):
        raise ValueError(
            f"similarities {similarities.shape} must be [B] with B > 0, u is {u.shape}."
        )
    if regressand == "shifted":
        found = (found + 1) / 2
    loss = jnp.mean(jnp.square(found - similarities))
    return loss if axis_name is None else lax.pmean(loss, axis_name)


def _unit(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-16))
