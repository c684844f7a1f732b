"""Sentence-BERT's triplet objective: the positive should be nearer than the negative."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_at_least, check_choice, check_matrix
from simcse_jax.losses.cosine_regression import pair_cosine
from simcse_jax.losses.geometry import float_rows
from simcse_jax.losses.shares import mean_over_shares

Distance = Literal["euclidean", "cosine", "manhattan"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)


class Triplet(NamedTuple):
    """What `triplet_loss` returns: two scalars over the global batch.

    Attributes:
      loss: mean of the hinge.
      accuracy: share of anchors that are nearer to the positive than to the negative (a tie is
        wrong); it has no gradient.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


def pair_distance(
    x: Float[AnyArray, "B D"], y: Float[AnyArray, "B D"], distance: Distance = "euclidean"
) -> Float[Array, "B"]:
    """Return the distance of each row of x to the same row of y, in float32 at least.

    Its gradient is finite everywhere, and 0 where the rows are equal.

    Args:
      x: ``[B, D]``.
      y: ``[B, D]``.
      distance: ``"euclidean"``, ``"cosine"`` (1 - cosine) or ``"manhattan"``.

    Raises:
      ValueError: the shapes differ, or an unknown name.
    """
    check_choice("distance", distance, DISTANCES)
    x, y = float_rows("x", x), float_rows("y", y)
    if distance == "cosine":
        return 1 - pair_cosine(x, y)
    if x.shape != y.shape:
        raise ValueError(f"{x.shape} and {y.shape} must be of one shape [B, D].")
    accum = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    difference = jnp.asarray(x, accum) - jnp.asarray(y, accum)
    if distance == "manhattan":
        return jnp.abs(difference).sum(1)
    square = jnp.square(difference).sum(1)
    # The root's slope at 0 is infinite, and infinity times 0 is NaN: no root is taken there.
    differ = square > 0
    return jnp.where(differ, jnp.sqrt(jnp.where(differ, square, 1.0)), 0.0)


def triplet_loss(
    anchors: Float[AnyArray, "B D"],
    positives: Float[AnyArray, "B D"],
    negatives: Float[AnyArray, "B D"],
    *,
    margin: float = 1.0,
    distance: Distance = "euclidean",
    axis_name: str | None = None,
) -> Triplet:
    r"""Return the triplet hinge and its accuracy (Reimers & Gurevych 2019, section 3).

    .. math:: \ell = \frac{1}{B} \sum_i \max(d(a_i, p_i) - d(a_i, n_i) + \epsilon, 0)

    Args:
      anchors: ``[B, D]``, a.
      positives: ``[B, D]``, p.
      negatives: ``[B, D]``, n.
      margin: ε; 1 as in the paper, where sentence-transformers' default is 5.
      distance: d; ``"euclidean"`` as in the paper, ``"cosine"`` or ``"manhattan"``.
      axis_name: the mapped axis over which the batch is spread, in equal shares.

    Returns:
      ``Triplet(loss, accuracy)``, float32 scalars (float64 for float64 inputs).

    Raises:
      ValueError: shapes that differ, an empty batch, an unknown name, or a margin below 0.

    Example:
      >>> a, p, n = jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]]), jnp.array([[1.5, 0.0]])
      >>> loss, accuracy = triplet_loss(a, p, n)
      >>> print(f"{loss:.1f} {accuracy:.0f}")  # 1 - 1.5 + 1
      0.5 1
    """
    check_at_least("margin", margin, 0)
    anchors = check_matrix("anchors", anchors)
    if not len(anchors):
        raise ValueError(f"anchors {anchors.shape} must be [B, D] with B > 0.")
    near = pair_distance(anchors, positives, distance)
    far = pair_distance(anchors, negatives, distance)
    loss = jnp.mean(jnp.maximum(near - far + float(margin), 0.0))
    accuracy = lax.stop_gradient(jnp.mean(near < far, dtype=loss.dtype))
    return Triplet(*mean_over_shares((loss, accuracy), axis_name))
