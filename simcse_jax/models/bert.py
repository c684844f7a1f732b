"""The BERT and RoBERTa encoder (Devlin et al. 2019; Liu et al. 2019) as Flax Linen modules.

Post-norm transformer layers, learned absolute positions, dropout at the three usual places:
on the embeddings, on the attention probabilities, and on the output of every sub-layer.
SimCSE's augmentation is nothing but these masks, so they are part of the contract.

Its relatives are the same but for a part: DistilBERT (Sanh et al. 2019) and MPNet (Song et al.
2020) have no token types, MPNet adds a bias to the attention by the distance of two tokens
(`models.relative_positions`), and ELECTRA (Clark et al. 2020) projects narrow embeddings.

Letters in shapes and einsums: R rows, L length (Q queries, K keys), N heads, H head size,
D hidden, S sentences.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key, UInt32

from simcse_jax.arrays import AnyArray
from simcse_jax.models.batch import Batch, same_segment
from simcse_jax.models.config import BertConfig
from simcse_jax.models.dense import ACTIVATIONS, Dense, layer_norm, product
from simcse_jax.models.dropout import attention_dropout, dropout, token_seeds
from simcse_jax.models.fused_attention import Attention, Fused, fused_attention, fused_for
from simcse_jax.models.relative_positions import RelativePositions, between, relative_positions


class Places(NamedTuple):
    """Where the tokens of a batch are.

    Attributes:
        bias: what is added to the attention's scores: the mask, see `attention_bias`, and MPNet's
            relative positions, which differ by head.
        positions: of each token in its sentence.
        fused: what computes the attention in place of the scores and their bias; None for nothing.
    """

    bias: Float[Array, "R #N Q K"]
    positions: Int[AnyArray, "R L"]
    fused: Fused | None = None


class BertEncoder(nn.Module):
    """Map a batch to every hidden state.

    Attributes:
        config: the architecture.
        dtype: the compute type; parameters are float32, layer norm and softmax run in float32.
        attention: how rows attend where there is no dropout, see `models.fused_attention`.
    """

    config: BertConfig
    dtype: jnp.dtype = jnp.float32
    attention: Attention = "dense"

    @nn.compact
    def __call__(
        self, batch: Batch, keys: Key[Array, "S"] | None = None
    ) -> tuple[Float[Array, "R L D"], ...]:
        """Encode a batch.

        Args:
            batch: rows of tokens.
            keys: switches dropout on: a key for each sentence. The masks depend on key and place
                in the sentence alone, see `models.dropout`.

        Returns:
            The embedding layer's state, then one per transformer layer, in ``dtype``.
        """
        fused = fused_for(self.attention, self.config, batch, keys)
        places = places_of(batch, relative_positions(self.config), fused)
        seeds = None if keys is None else token_seeds(keys, batch)
        states = [Embeddings(self.config, self.dtype, name="embeddings")(batch, seeds)]
        # Unrolled: lax.scan over layers is slower by about a third in comparable trainers.
        for i in range(self.config.num_hidden_layers):
            layer = Layer(self.config, i, self.dtype, name=f"layer_{i}")
            states.append(layer(states[-1], places, seeds))
        return tuple(states)


class Embeddings(nn.Module):
    """Word + position + token type embeddings, layer norm, dropout; ELECTRA's projection."""

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch, seeds: UInt32[Array, "R L 2"] | None) -> Float[Array, "R L D"]:
        cfg = self.config
        init = nn.initializers.normal(cfg.initializer_range)

        def table(rows: int, name: str) -> nn.Embed:
            return nn.Embed(rows, cfg.embedding_width, embedding_init=init, name=name)

        word = table(cfg.vocab_size, "word")
        position = table(cfg.max_position_embeddings, "position")
        x = word(batch.input_ids) + position(batch.position_ids + cfg.position_offset)  # [R L D]
        if cfg.type_vocab_size:
            token_type_ids = batch.token_type_ids
            if token_type_ids is None:
                token_type_ids = jnp.zeros((1, 1), jnp.int32)
            x = x + table(cfg.type_vocab_size, "token_type")(token_type_ids)
        x = layer_norm(cfg.layer_norm_eps, "norm")(x)
        x = dropout(x, seeds, cfg.hidden_dropout_prob, dropout_id=0).astype(self.dtype)
        if cfg.embedding_width != cfg.hidden_size:
            x = Dense(cfg.hidden_size, cfg.initializer_range, self.dtype, name="projection")(x)
        return x


class Layer(nn.Module):
    """One post-norm transformer layer: attention, add & norm, feed-forward, add & norm."""

    config: BertConfig
    number: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "R L D"], places: Places, seeds: UInt32[Array, "R L 2"] | None
    ) -> Float[Array, "R L D"]:
        attention = SelfAttention(self.config, self.number, self.dtype, name="attention")
        return after_attention(self, x, attention(x, places, seeds), seeds)


class SelfAttention(nn.Module):
    """Multi-head attention, `softmax(QKᵀ/√H + mask) V`, with one fused projection for Q, K, V."""

    config: BertConfig
    number: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "R L D"], places: Places, seeds: UInt32[Array, "R L 2"] | None
    ) -> Float[Array, "R L D"]:
        cfg = self.config
        width = cfg.hidden_size
        qkv = Dense(3 * width, cfg.initializer_range, self.dtype, name="qkv")(x)
        # lax.split, since the gradient of three slices is padded and summed.
        query, key, value = (
            split_heads(cfg, part) for part in lax.split(qkv, (width,) * 3, axis=-1)
        )  # [R L N H] each
        if places.fused is None:
            context = self.attend(query, key, value, places, seeds)
        else:
            context = fused_attention(query, key, value, places.fused)
        context = context.reshape(*context.shape[:-2], width)
        return Dense(width, cfg.initializer_range, self.dtype, name="output")(context)

    def attend(
        self,
        query: Float[Array, "R L N H"],
        key: Float[Array, "R L N H"],
        value: Float[Array, "R L N H"],
        places: Places,
        seeds: UInt32[Array, "R L 2"] | None,
    ) -> Float[Array, "R L N H"]:
        """Average the values, by the softmax of each query with the keys of its sentence."""
        cfg = self.config
        # Scaled before the product: fewer numbers, and XLA would write the factor out for every
        # score where it fuses the products on a CPU.
        query = query * query.shape[-1] ** -0.5
        query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))  # [R N L H]
        scores = product("RNQH,RNKH->RNQK", query, key) + places.bias
        # A softmax whose division comes after the product with the values, where there are fewer
        # numbers to divide and where it does not keep XLA from fusing on a CPU. float32.
        highest = lax.stop_gradient(scores.max(-1, keepdims=True))
        weights = jnp.exp(scores - highest)
        total = weights.sum(-1, keepdims=True)  # [R N Q 1]
        rate, dropout_id = cfg.attention_probs_dropout_prob, attention_dropout_id(self.number)
        weights = attention_dropout(weights, seeds, places.positions, rate, dropout_id)
        weights = weights.astype(self.dtype)
        context = product("RNQK,RNKH->RNQH", weights, value)
        return jnp.swapaxes((context / total).astype(self.dtype), 1, 2)  # [R L N H]


def after_attention(
    layer: nn.Module,
    x: Float[Array, "*T D"],
    attended: Float[Array, "*T D"],
    seeds: UInt32[Array, "*T 2"] | None,
) -> Float[Array, "*T D"]:
    """Finish a layer: add & norm, feed-forward, add & norm, of any tokens.

    Args:
        layer: has ``config``, ``number`` and ``dtype``; the parameters become its own.
        x: what went into the layer.
        attended: what the attention made of it.
        seeds: of the same tokens' dropout.
    """
    cfg, number, dtype = layer.config, layer.number, layer.dtype

    def drop(x: Float[Array, "*T D"], place: int) -> Float[Array, "*T D"]:
        return dropout(x, seeds, cfg.hidden_dropout_prob, dropout_id=3 * number + place)

    x = layer_norm(cfg.layer_norm_eps, "attention_norm")(x + drop(attended, 2)).astype(dtype)
    inner = Dense(cfg.intermediate_size, cfg.initializer_range, dtype, name="intermediate")(x)
    inner = ACTIVATIONS[cfg.hidden_act](inner)  # [… 4·D]
    output = Dense(cfg.hidden_size, cfg.initializer_range, dtype, name="output")(inner)
    return layer_norm(cfg.layer_norm_eps, "output_norm")(x + drop(output, 3)).astype(dtype)


def attention_dropout_id(layer: int) -> int:
    """Number the dropout of a layer's attention probabilities."""
    return 3 * layer + 1


def split_heads(config: BertConfig, x: Float[Array, "*T D"]) -> Float[Array, "*T N H"]:
    """Cut the features into heads."""
    heads = config.num_attention_heads
    return x.reshape(*x.shape[:-1], heads, config.hidden_size // heads)


def places_of(
    batch: Batch, relative: RelativePositions | None, fused: Fused | None = None
) -> Places:
    """Find what the layers need to know of where the tokens are.

    Args:
        batch: of the tokens.
        relative: the encoder's relative positions, if it has any.
        fused: what computes the attention, if not the scores with a bias.
    """
    bias = attention_bias(batch)
    if relative is not None:
        bias = bias + relative(between(batch.position_ids))
    return Places(bias, batch.position_ids, fused)


def attention_bias(batch: Batch) -> Float[Array, "R 1 Q K"]:
    """Mask the attention: 0 within a sentence, the most negative float32 elsewhere.

    Finite rather than −inf, so that a row that is all padding gives finite numbers.
    """
    return jnp.where(same_segment(batch.segment_ids), 0.0, jnp.finfo(jnp.float32).min)
