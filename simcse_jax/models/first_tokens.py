"""The encoder for poolings that look at first tokens alone: the last layer costs next to nothing.

cls pooling reads one token a sentence, so of the last layer only the keys and values of all tokens
are needed, and everything else of one token a sentence. Parameters and results are those of
`models.bert.BertEncoder`; a test holds them together.

Letters: T tokens of all rows, S sentences, N heads, H head size, D hidden.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key, UInt32

from simcse_jax.arrays import AnyArray
from simcse_jax.models.batch import Batch, first_token_indices, take_or_zero
from simcse_jax.models.bert import (
    Embeddings,
    Layer,
    after_attention,
    attention_dropout_id,
    places_of,
    split_heads,
)
from simcse_jax.models.config import BertConfig
from simcse_jax.models.dense import Dense
from simcse_jax.models.dropout import head_counters, keep, token_seeds
from simcse_jax.models.fused_attention import Attention, fused_for
from simcse_jax.models.relative_positions import relative_positions


class FirstTokenEncoder(nn.Module):
    """Map a batch to the last layer's state of every sentence's first token.

    Attributes:
        config: the architecture, of one layer at least.
        dtype: the compute type, as in `models.bert.BertEncoder`.
        attention: how rows attend in all layers but the last, as there.
    """

    config: BertConfig
    dtype: jnp.dtype = jnp.float32
    attention: Attention = "dense"

    @nn.compact
    def __call__(
        self, batch: Batch, keys: Key[Array, "S"] | None = None, *, num_sentences: int
    ) -> Float[Array, "S D"]:
        """Encode a batch.

        Args:
            batch: rows of tokens.
            keys: switches dropout on: a key for each sentence.
            num_sentences: the (static) number of sentences S.

        Returns:
            ``[S, D]`` in ``dtype``; of no meaning for a sentence that is not there.
        """
        relative = relative_positions(self.config)
        fused = fused_for(self.attention, self.config, batch, keys)
        places, firsts = places_of(batch, relative, fused), first_tokens(batch, num_sentences)
        if relative is not None:  # the queries are at position 0
            bias = jnp.moveaxis(relative(jnp.asarray(batch.position_ids)), 1, 2)  # [R L N]
            firsts = firsts._replace(bias=bias.reshape(-1, bias.shape[-1]))
        seeds = None if keys is None else token_seeds(keys, batch)
        x = Embeddings(self.config, self.dtype, name="embeddings")(batch, seeds)
        last = self.config.num_hidden_layers - 1
        for i in range(last):
            x = Layer(self.config, i, self.dtype, name=f"layer_{i}")(x, places, seeds)
        layer = FirstTokenLayer(self.config, last, self.dtype, name=f"layer_{last}")
        return layer(x, firsts, seeds)


class FirstTokens(NamedTuple):
    """The first token of each sentence of a batch, and which sentence each token belongs to.

    Attributes:
        starts: where the first tokens are, as `first_token_indices` gives it.
        sentences: the sentence of each token, from 0; out of range at padding.
        positions: of each token in its sentence.
        bias: what MPNet adds to the score of each token; None for nothing.
    """

    starts: Int[Array, "S"]
    sentences: Int[Array, "T"]
    positions: Int[AnyArray, "R L"]
    bias: Float[Array, "T N"] | None = None


def first_tokens(batch: Batch, num_sentences: int) -> FirstTokens:
    """Find the first tokens of a batch."""
    segments = jnp.asarray(batch.segment_ids).reshape(-1)
    sentences = jnp.where(segments > 0, segments - 1, num_sentences)
    return FirstTokens(first_token_indices(batch, num_sentences), sentences, batch.position_ids)


class FirstTokenLayer(nn.Module):
    """A transformer layer, of first tokens alone."""

    config: BertConfig
    number: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "R L D"], firsts: FirstTokens, seeds: UInt32[Array, "R L 2"] | None
    ) -> Float[Array, "S D"]:
        attention = FirstTokenAttention(self.config, self.number, self.dtype, name="attention")
        if seeds is not None:
            seeds = take_or_zero(seeds.reshape(-1, 2), firsts.starts)  # [S 2]
        attended = attention(x, firsts, seeds)
        return after_attention(self, first_of(x, firsts), attended, seeds)


def first_of(x: Float[Array, "R L D"], firsts: FirstTokens) -> Float[Array, "S D"]:
    """Take the first tokens' states; zero for a sentence that is not there."""
    return take_or_zero(x.reshape(-1, x.shape[-1]), firsts.starts)


class FirstTokenAttention(nn.Module):
    """Self-attention with one query a sentence, to the keys of its sentence.

    Every token meets one query, so that the scores are ``[T, N]``.
    """

    config: BertConfig
    number: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "R L D"], firsts: FirstTokens, seeds: UInt32[Array, "S 2"] | None
    ) -> Float[Array, "S D"]:
        cfg = self.config
        width = cfg.hidden_size
        qkv = Dense(3 * width, cfg.initializer_range, self.dtype, name="qkv")
        query = split_heads(cfg, qkv(first_of(x, firsts), (0, width)))  # [S N H]
        both = qkv(x, (width, 3 * width))
        key, value = (split_heads(cfg, part) for part in lax.split(both, (width,) * 2, axis=-1))
        context = self.attend(query, key, value, firsts, seeds)  # [S N H]
        context = context.reshape(*context.shape[:-2], width)
        return Dense(width, cfg.initializer_range, self.dtype, name="output")(context)

    def attend(
        self,
        query: Float[Array, "S N H"],
        key: Float[Array, "R L N H"],
        value: Float[Array, "R L N H"],
        firsts: FirstTokens,
        seeds: UInt32[Array, "S 2"] | None,
    ) -> Float[Array, "S N H"]:
        """Average the values of each sentence, by the softmax of its query with its keys."""
        sentence_of, (count, heads, size) = firsts.sentences, query.shape

        def to_sentences(x: Float[Array, "T *N"]) -> Float[Array, "S *N"]:
            return jax.ops.segment_sum(x, sentence_of, count)

        keys, values = (x.reshape(-1, heads, size).astype(jnp.float32) for x in (key, value))
        queries = take_or_zero(query.astype(jnp.float32), sentence_of)  # [T N H]
        scores = jnp.sum(queries * keys, -1) * size**-0.5  # [T N]
        if firsts.bias is not None:
            scores = scores + firsts.bias
        # Any constant leaves the softmax as it is; the highest score keeps it in range.
        highest = jax.ops.segment_max(lax.stop_gradient(scores), sentence_of, count)
        inside = (sentence_of < count)[:, None]
        weights = jnp.where(inside, jnp.exp(scores - take_or_zero(highest, sentence_of)), 0.0)
        total = to_sentences(weights)  # [S N]
        weights = self.drop(weights, firsts, seeds)
        context = to_sentences(weights[..., None] * values)
        return (context / jnp.where(total > 0, total, 1.0)[..., None]).astype(self.dtype)

    def drop(
        self, weights: Float[Array, "T N"], firsts: FirstTokens, seeds: UInt32[Array, "S 2"] | None
    ) -> Float[Array, "T N"]:
        """Drop the weights that `models.dropout.attention_dropout` drops of these queries."""
        rate, heads = self.config.attention_probs_dropout_prob, weights.shape[1]
        if seeds is None or rate == 0:
            return weights
        if rate >= 1:
            return jnp.zeros_like(weights)
        seeds = take_or_zero(seeds, firsts.sentences)  # [T 2]
        counters = head_counters(heads, firsts.positions.reshape(-1, 1))[..., 0]  # [T N/2]
        dropout_id = attention_dropout_id(self.number)
        mask = keep(seeds[:, None], counters, rate, dropout_id, axis=1)[:, :heads]
        return jnp.where(mask, weights / (1 - rate), 0.0)
