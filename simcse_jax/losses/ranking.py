"""InfoNCE from logits: a positive for each anchor, and a row of negatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from simcse_jax.losses.info_nce import InfoNCE
from simcse_jax.losses.shares import mean_over_shares


def rank_positives(
    positives: Float[Array, "B"], negatives: Float[Array, "B C"], axis_name: str | None
) -> InfoNCE:
    """Return InfoNCE of each anchor's positive against its negatives.

    Args:
        positives: logits, ``[B]``.
        negatives: logits, ``[B, C]``; -inf is none.
        axis_name: the mapped axis over which the batch is spread, in equal shares.
    """
    # log(1 + e^(…)), in which a small loss does not cancel.
    loss = jnp.mean(jax.nn.softplus(jax.nn.logsumexp(negatives, axis=1) - positives))
    correct = jnp.mean(positives > negatives.max(axis=1), dtype=positives.dtype)
    loss, correct = mean_over_shares((loss, correct), axis_name)
    return InfoNCE(loss, lax.stop_gradient(correct))
