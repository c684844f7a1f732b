"""InfoNCE with all logits of a device's rows at once, differentiated by JAX."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simcse_jax.losses.info_nce.logits import (
    StaticOptions,
    own_hard_negatives,
    positive_logits,
    scaled_logits,
)


def dense_sums(
    options: StaticOptions,
    queries: Float[Array, "R D"],
    candidates: Float[Array, "C D"],
    row_ids: Int[Array, "R"] | None,
    column_ids: Int[Array, "P"] | None,
    scale: Float[Array, ""],
    offset: int | Int[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the sum of the rows' losses and the number of rows whose positive scores highest.

    Args:
      options: of the loss.
      queries: ``[R, D]``, the rows of this device.
      candidates: ``[C, D]``, those of all devices: positives, then hard negatives.
      row_ids: ``[R]``, the queries' group ids, or None.
      column_ids: ``[P]``, the positives' group ids, or None.
      scale: 1/τ.
      offset: the column of the first query's positive.
    """
    logits = scaled_logits(options, queries, candidates, scale)  # [R C]
    positives = offset + jnp.arange(queries.shape[0])
    positive_index = positives[:, None]  # [R 1]
    column = jnp.arange(candidates.shape[0])[None, :]  # [1 C]
    if options.log_alpha:
        own = own_hard_negatives(options, positives, candidates.shape[0])
        logits = logits + jnp.where(own, options.log_alpha, 0)
    if row_ids is not None and column_ids is not None:
        same = row_ids[:, None] == column_ids[None, :]  # [R P]
        duplicate = jnp.zeros(logits.shape, bool).at[:, : same.shape[1]].set(same)
        logits = jnp.where(duplicate & (column != positive_index), -jnp.inf, logits)
    positive = positive_logits(logits, positives)  # [R]
    loss = jax.nn.logsumexp(logits, axis=1) - positive
    negatives = jnp.where(column == positive_index, -jnp.inf, logits)
    correct = positive > negatives.max(axis=1)
    return loss.sum(), correct.sum(dtype=loss.dtype)
