"""The BERT and RoBERTa encoder (Devlin et al. 2019; Liu et al. 2019) as Flax Linen modules.

Post-norm transformer layers, learned absolute positions, dropout at the three usual places:
on the embeddings, on the attention probabilities, and on the output of every sub-layer.
SimCSE's augmentation is nothing but these masks, so they are part of the contract.

Letters in the einsums: B batch, L length (Q queries, K keys), N heads, H head size, D hidden,
V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# Batches are made on the host and used on the device.
AnyArray = Array | np.ndarray

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape of an encoder; the fields are those of Hugging Face's ``config.json``.

    Attributes:
        model_type: ``"bert"`` or ``"roberta"``. RoBERTa's positions start at
            ``pad_token_id + 1``, and it has a single token type.
        layer_norm_eps: 1e-12 in BERT, 1e-5 in RoBERTa.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    pad_token_id: int = 0
    model_type: str = "bert"

    def __post_init__(self):
        if self.model_type not in ("bert", "roberta"):
            raise ValueError(f"model_type is {self.model_type!r}; it must be 'bert' or 'roberta'")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {self.hidden_act!r} is none of {sorted(ACTIVATIONS)}")

    @property
    def position_offset(self) -> int:
        """The row of the position table that belongs to the first token."""
        return self.pad_token_id + 1 if self.model_type == "roberta" else 0

    @property
    def max_length(self) -> int:
        """The longest input in tokens, special tokens included."""
        return self.max_position_embeddings - self.position_offset


@flax.struct.dataclass
class Batch:
    """Tokenised sentences, one a row, padded on the right; or several packed into a row.

    Attributes:
        input_ids: token ids.
        attention_mask: True where there is a token.
        token_type_ids: the sentence a token belongs to, for cross-encoders; None is all zero.
        segment_ids: for packed rows, the number 1, 2, … of the sentence each token belongs to,
            counted through the whole batch, 0 at padding. Tokens attend within their segment
            only. None means a sentence a row.
        position_ids: the place of each token within its sentence, needed for packed rows.
    """

    input_ids: Int[AnyArray, "B L"]
    attention_mask: Bool[AnyArray, "B L"]
    token_type_ids: Int[AnyArray, "B L"] | None = None
    segment_ids: Int[AnyArray, "B L"] | None = None
    position_ids: Int[AnyArray, "B L"] | None = None


@flax.struct.dataclass
class EncoderOutput:
    """Every hidden state: the embedding layer's first, then one per transformer layer."""

    hidden_states: tuple[Float[Array, "B L D"], ...]

    @property
    def last(self) -> Float[Array, "B L D"]:
        """The last layer's hidden states."""
        return self.hidden_states[-1]


def _dense(config: BertConfig, features: int, dtype, name: str) -> nn.Dense:
    init = nn.initializers.normal(config.initializer_range)
    return nn.Dense(features, dtype=dtype, kernel_init=init, name=name)


def _layer_norm(config: BertConfig, name: str) -> nn.LayerNorm:
    # float32 whatever the compute type: the mean square of 768 bfloat16 values is too coarse.
    # use_fast_variance subtracts two large numbers, which costs digits against torch.
    return nn.LayerNorm(
        epsilon=config.layer_norm_eps, dtype=jnp.float32, use_fast_variance=False, name=name
    )


class Embeddings(nn.Module):
    """Word + position + token type embeddings, layer norm, dropout."""

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch, deterministic: bool) -> Float[Array, "B L D"]:
        cfg = self.config
        init = nn.initializers.normal(cfg.initializer_range)

        def table(rows: int, name: str) -> nn.Embed:
            return nn.Embed(rows, cfg.hidden_size, embedding_init=init, name=name)

        word = table(cfg.vocab_size, "word")
        position = table(cfg.max_position_embeddings, "position")
        token_type = table(cfg.type_vocab_size, "token_type")

        position_ids = batch.position_ids
        if position_ids is None:
            position_ids = jnp.arange(batch.input_ids.shape[1])[None]  # [1 L]
        token_type_ids = batch.token_type_ids
        if token_type_ids is None:
            token_type_ids = jnp.zeros((1, 1), jnp.int32)
        x = (
            word(batch.input_ids)
            + position(position_ids + cfg.position_offset)
            + token_type(token_type_ids)
        )  # [B L D]
        x = _layer_norm(cfg, "norm")(x)
        return nn.Dropout(cfg.hidden_dropout_prob)(x, deterministic).astype(self.dtype)


class SelfAttention(nn.Module):
    """Multi-head attention, `softmax(QKᵀ/√H + mask) V`, with one fused projection for Q, K, V."""

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], bias: Float[Array, "B 1 Q K"], deterministic: bool
    ) -> Float[Array, "B L D"]:
        cfg = self.config
        batch, length, hidden = x.shape
        heads = cfg.num_attention_heads
        qkv = _dense(cfg, 3 * hidden, self.dtype, "qkv")(x)  # [B L 3·D]
        qkv = qkv.reshape(batch, length, 3, heads, hidden // heads)  # [B L 3 N H]
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # [B L N H]

        scores = jnp.einsum("BQNH,BKNH->BNQK", query, key, preferred_element_type=jnp.float32)
        scores = scores * (hidden // heads) ** -0.5 + bias
        probs = jax.nn.softmax(scores, axis=-1)  # float32
        probs = nn.Dropout(cfg.attention_probs_dropout_prob)(probs, deterministic)
        context = jnp.einsum("BNQK,BKNH->BQNH", probs.astype(self.dtype), value)
        context = context.reshape(batch, length, hidden)  # [B L D]
        return _dense(cfg, hidden, self.dtype, "output")(context)


class Layer(nn.Module):
    """One post-norm transformer layer: attention, add & norm, feed-forward, add & norm."""

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], bias: Float[Array, "B 1 Q K"], deterministic: bool
    ) -> Float[Array, "B L D"]:
        cfg = self.config
        dropout = nn.Dropout(cfg.hidden_dropout_prob)
        attended = SelfAttention(cfg, self.dtype, name="attention")(x, bias, deterministic)
        x = _layer_norm(cfg, "attention_norm")(x + dropout(attended, deterministic))
        x = x.astype(self.dtype)
        inner = _dense(cfg, cfg.intermediate_size, self.dtype, "intermediate")(x)  # [B L 4·D]
        inner = ACTIVATIONS[cfg.hidden_act](inner)
        output = _dense(cfg, cfg.hidden_size, self.dtype, "output")(inner)  # [B L D]
        x = _layer_norm(cfg, "output_norm")(x + dropout(output, deterministic))
        return x.astype(self.dtype)


def attention_bias(batch: Batch) -> Float[Array, "B 1 Q K"]:
    """The additive mask: 0 where a query may look, the most negative float32 elsewhere.

    Finite rather than −inf, so that a row that is all padding gives finite numbers.
    """
    if batch.segment_ids is None:
        allowed = batch.attention_mask[:, None, None, :]  # [B 1 1 K]
    else:
        segments = batch.segment_ids
        allowed = (segments[:, :, None] == segments[:, None, :])[:, None]  # [B 1 Q K]
    return jnp.where(allowed, 0.0, jnp.finfo(jnp.float32).min)


class BertEncoder(nn.Module):
    """The encoder: a batch in, every hidden state out.

    Attributes:
        config: the architecture.
        dtype: the compute type; parameters are float32, layer norm and softmax run in float32.
    """

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch, deterministic: bool = True) -> EncoderOutput:
        """Encode a batch.

        Args:
            batch: ids and mask, ``[B, L]``.
            deterministic: False switches dropout on and needs ``rngs={"dropout": key}``.

        Returns:
            ``num_hidden_layers + 1`` hidden states of shape ``[B, L, D]`` in ``dtype``.
        """
        bias = attention_bias(batch)
        x = Embeddings(self.config, self.dtype, name="embeddings")(batch, deterministic)
        states = [x]
        # Unrolled: lax.scan over layers is slower by about a third in comparable trainers.
        for i in range(self.config.num_hidden_layers):
            x = Layer(self.config, self.dtype, name=f"layer_{i}")(x, bias, deterministic)
            states.append(x)
        return EncoderOutput(tuple(states))
