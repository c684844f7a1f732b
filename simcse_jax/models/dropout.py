"""Dropout as a pure function of the sentence's key and of the place within the sentence.

SimCSE's augmentation is nothing but these masks, so what they depend on is part of the contract:
the mask of an activation follows from its sentence's key, its token's position in the sentence,
the place in the network, and the feature. It does not depend on how sentences are laid out in
rows, so that one device and several, a whole batch and one cut into chunks give the same update.

The bits come from a hash of 32-bit integers with a state of 64 bits, ten operations for two
activations of 16 bits each; Threefry, the generator behind `jax.random`, takes about a hundred.
Masks need no more than that, and everything else that is random stays with `jax.random`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from simcse_jax.arrays import AnyArray
from simcse_jax.models.batch import Batch

_ID_BITS, _HEAD_BITS = 24, 13


def token_seeds(keys: Key[Array, "S"], batch: Batch) -> UInt32[Array, "R L 2"]:
    """Draw 64 bits for each token, from its sentence's key and its position in the sentence.

    Args:
        keys: one for each sentence.
        batch: of the tokens.
    """
    words = jax.vmap(lambda key: jax.random.bits(key, (2,)))(keys)  # [S 2]
    words = words[jnp.maximum(jnp.asarray(batch.segment_ids) - 1, 0)]  # [R L 2]
    positions = jnp.asarray(batch.position_ids)
    return _scramble(words + _scramble(positions.astype(jnp.uint32) + 1)[..., None])


def dropout(
    x: Float[Array, "*T D"], seeds: UInt32[Array, "*T 2"] | None, rate: float, dropout_id: int
) -> Float[Array, "*T D"]:
    """Zero features with probability ``rate`` and scale the others by ``1 / (1 - rate)``.

    Args:
        x: the features of tokens.
        seeds: of these tokens; None leaves ``x`` alone.
        rate: from 0 to 1, used to 16 bits.
        dropout_id: the number of the place in the network.
    """
    if seeds is None or rate == 0:
        return x
    width = x.shape[-1]
    counters = jnp.arange(-(-width // 2), dtype=jnp.uint32)
    return _apply(
        x, keep(seeds[..., None, :], counters, rate, dropout_id, axis=-1)[..., :width], rate
    )


def attention_dropout(
    probs: Float[Array, "R N Q K"],
    seeds: UInt32[Array, "R Q 2"] | None,
    positions: Int[AnyArray, "R K"],
    rate: float,
    dropout_id: int,
) -> Float[Array, "R N Q K"]:
    """Apply `dropout` to attention probabilities.

    Args:
        probs: by head, query and key.
        seeds: of the queries.
        positions: of the keys in their sentence.
        rate: as in `dropout`.
        dropout_id: as in `dropout`.
    """
    if seeds is None or rate == 0:
        return probs
    heads = probs.shape[1]
    counters = head_counters(heads, positions)[:, :, None]  # [R N/2 1 K]
    mask = keep(seeds[:, None, :, None], counters, rate, dropout_id, axis=1)[:, :heads]
    return _apply(probs, mask, rate)


def head_counters(heads: int, positions: Int[AnyArray, "R K"]) -> UInt32[Array, "R P K"]:
    """Return the counters of pairs of heads at each key, ``P = ceil(heads / 2)``."""
    pairs = jnp.arange(-(-heads // 2), dtype=jnp.uint32)[None, :, None]
    return (pairs << _HEAD_BITS) + jnp.asarray(positions, jnp.uint32)[:, None]


def keep(
    seeds: UInt32[Array, "*#T 2"],
    counters: UInt32[Array, "*#T"],
    rate: float,
    dropout_id: int,
    axis: int,
) -> Bool[Array, "..."]:
    """Decide twice for each counter, by its low half and then, along ``axis``, by its high one.

    So the result has the shape of seeds and counters together, and twice the length along ``axis``.
    """
    counters = counters + jnp.uint32((dropout_id + 1) << _ID_BITS)
    x = _half_scramble(seeds[..., 0] + counters * jnp.uint32(0x9E3779B1)) ^ seeds[..., 1]
    words = _scramble(x)
    # Kept with probability 1 - rate, to 16 bits.
    border = jnp.uint32(round(rate * 2**16))
    return jnp.concatenate([(words & 0xFFFF) >= border, (words >> 16) >= border], axis)


def _apply(x: Float[Array, "*T"], mask: Bool[Array, "*T"], rate: float) -> Float[Array, "*T"]:
    if rate >= 1:
        return jnp.zeros_like(x)
    return jnp.where(mask, x * (1 / (1 - rate)), 0).astype(x.dtype)


def _half_scramble(x: UInt32[Array, "*T"]) -> UInt32[Array, "*T"]:
    return (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)


def _scramble(x: UInt32[Array, "*T"]) -> UInt32[Array, "*T"]:
    """Wellons' lowbias32: every bit of the result depends on every bit of ``x``."""
    x = _half_scramble(x)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
