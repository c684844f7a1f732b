"""MPNet's relative positions (Song et al. 2020; from T5, Raffel et al. 2020, section 2.1).

A learnt number for each head and each bucket of distances is added to the attention's scores, the
same in every layer. Distances up to 7 have a bucket each, larger ones share buckets whose width
grows with the logarithm (eight steps to 128), so that from 91 on all share the last one; keys
before and after the query have buckets of their own.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simcse_jax.arrays import AnyArray
from simcse_jax.models.config import RELATIVE_BUCKETS, BertConfig

# The distances at which a bucket begins, of keys on one side of the query: 0 to 8, then eight steps
# of the logarithm to 128, which is 2^(k/2) times 8.
_BEGINNINGS = (*range(1, 9), *(math.ceil(8 * 2 ** (k / 2)) for k in range(1, 8)))


class RelativePositions(nn.Module):
    """Look the numbers of distances up, by head."""

    config: BertConfig

    @nn.compact
    def __call__(self, distances: Int[Array, "R *T"]) -> Float[Array, "R N *T"]:
        """Return what is added to the scores at these distances.

        Args:
            distances: position of the key minus that of the query, for each row.
        """
        cfg = self.config
        init = nn.initializers.normal(cfg.initializer_range)
        shape = (cfg.relative_attention_num_buckets, cfg.num_attention_heads)
        table = self.param("embedding", init, shape)
        return jnp.moveaxis(table[bucket(distances)], -1, 1)


def relative_positions(config: BertConfig) -> RelativePositions | None:
    """Make an encoder's relative positions, from within it; None where the model has none."""
    if not config.relative_attention_num_buckets:
        return None
    return RelativePositions(config, name="relative_positions")


def between(positions: Int[AnyArray, "R L"]) -> Int[Array, "R Q K"]:
    """Return the distance of each key from each query of its row."""
    positions = jnp.asarray(positions)
    return positions[:, None, :] - positions[:, :, None]


def bucket(distances: Int[Array, "*T"]) -> Int[Array, "*T"]:
    """Number the bucket of a distance, from 0; those of keys after the query come second."""
    beginnings = jnp.array(_BEGINNINGS)
    number = jnp.searchsorted(beginnings, jnp.abs(distances), side="right").astype(jnp.int32)
    return number + jnp.where(distances > 0, RELATIVE_BUCKETS // 2, 0)
