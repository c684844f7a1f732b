"""Ditto's weights of one sentence, from the parameters in NumPy."""

import jax.numpy as jnp
import numpy as np

from simcse_jax.models.relative_positions import bucket


def weights_by_hand(config, encoder, state, layer, head):
    """One sentence without padding, ``[L, D]``: softmax of its scores, the diagonal, in float64."""
    qkv = encoder[f"layer_{layer - 1}"]["attention"]["qkv"]
    kernel, bias = (np.asarray(qkv[name], np.float64) for name in ("kernel", "bias"))
    query, key, _ = np.split(state @ kernel + bias, 3, axis=1)
    size = config.hidden_size // config.num_attention_heads
    query, key = (np.split(x, config.num_attention_heads, axis=1)[head - 1] for x in (query, key))
    scores = query @ key.T / np.sqrt(size)
    if config.relative_attention_num_buckets:
        places = np.arange(len(state))
        table = np.asarray(encoder["relative_positions"]["embedding"], np.float64)
        scores += table[np.asarray(bucket(jnp.asarray(places[None] - places[:, None]))), head - 1]
    attention = np.exp(scores - scores.max(1, keepdims=True))
    return np.diagonal(attention / attention.sum(1, keepdims=True))
