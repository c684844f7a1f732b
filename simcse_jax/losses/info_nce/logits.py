"""What the implementations share: logits, which of them are negatives, and the loss of a row.

Letters: R rows (queries) of this device or block, C candidates, P positives of them, D dimensions.
The candidates are the positives and then, K times in the same order, a hard negative of each row.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

Precision = lax.PrecisionLike


class StaticOptions(NamedTuple):
    """The options that are fixed when the loss is traced, not differentiated with respect to.

    Attributes:
      block_size: rows whose logits are held at a time.
      log_alpha: what is added to the logits of a row's own hard negatives.
      hard_negatives: their number K for each row.
      dtype: of the inputs, which their gradients get as well.
      precision: of the matrix products.
      axis_name: the mapped axis over which the batch is spread, or None.
    """

    block_size: int
    log_alpha: float
    hard_negatives: int
    dtype: jnp.dtype
    precision: Precision
    axis_name: str | None = None


def dot(
    left: Array, right: Array, contract: tuple[tuple[int], tuple[int]], precision: Precision
) -> Array:
    """Return a matrix product in the inputs' dtype, accumulated in float32 at least."""
    return lax.dot_general(
        left,
        right,
        (contract, ((), ())),
        precision=precision,
        preferred_element_type=jnp.promote_types(left.dtype, jnp.float32),
    )


def scaled_logits(
    options: StaticOptions,
    queries: Float[Array, "R D"],
    candidates: Float[Array, "C D"],
    scale: Float[Array, ""],
) -> Float[Array, "R C"]:
    """Return the similarity of each query with each candidate, times ``scale``, which is 1/τ."""
    return scale * dot(queries, candidates, ((1,), (1,)), options.precision)


def positive_logits(
    logits: Float[Array, "R C"], positive_index: Int[Array, "R"]
) -> Float[Array, "R"]:
    """Return the logit of each row's positive, which lies in column ``positive_index``."""
    return jnp.take_along_axis(logits, positive_index[:, None], axis=1)[:, 0]


def own_hard_negatives(
    options: StaticOptions, positive_index: Int[Array, "R"], count: int
) -> Bool[Array, "R C"]:
    """Tell which of ``count`` candidates are hard negatives of the row itself."""
    positives = count // (1 + options.hard_negatives)
    column = lax.broadcasted_iota(jnp.int32, (1, count), 1)
    return (column % positives == positive_index[:, None]) & (column >= positives)


def negative_logits(
    options: StaticOptions,
    logits: Float[Array, "R C"],
    row_ids: Int[Array, "R"] | None,
    column_ids: Int[Array, "P"] | None,
    positive_index: Int[Array, "R"] | None,
) -> Float[Array, "R C"]:
    """Return the logits of the negatives: log α added, the positive and its duplicates at -inf.

    ``positive_index`` is the column of each row's positive, None where these columns hold none of
    them.
    """
    count = logits.shape[1]
    column = lax.broadcasted_iota(jnp.int32, (1, count), 1)
    if positive_index is not None:
        if options.log_alpha:
            own = own_hard_negatives(options, positive_index, count)
            logits = logits + jnp.where(own, options.log_alpha, 0.0).astype(logits.dtype)
        logits = jnp.where(column == positive_index[:, None], -jnp.inf, logits)
    if row_ids is not None and column_ids is not None:
        same = row_ids[:, None] == column_ids[None, :]  # [R P]
        same = jnp.pad(same, ((0, 0), (0, count - same.shape[1])))  # [R C]
        logits = jnp.where(same, -jnp.inf, logits)
    return logits


def row_loss(
    positive: Float[Array, "R"], max_negative: Float[Array, "R"], negatives: Float[Array, "R"]
) -> tuple[Float[Array, "R"], Float[Array, "R"]]:
    """Return loss and softmax denominator; ``negatives`` and denominator are relative to exp(top).

    ``top = max(positive, max_negative)``, and ``negatives`` is the sum of the negatives'
    exponentials. Nothing cancels: a loss of 1e-12 comes out as 1e-12.
    """
    top = jnp.maximum(positive, max_negative)
    loss = (top - positive) + jnp.log1p(negatives + jnp.expm1(positive - top))
    return loss, negatives + jnp.exp(positive - top)
