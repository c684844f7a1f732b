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
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key, UInt32

from simcse_jax.models.batch import AnyArray, Batch, first_token_indices, take_or_zero
from simcse_jax.models.dropout import attention_dropout, dropout, head_counters, keep, token_seeds


def gelu(x: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
    """`x Φ(x)` exactly, by erf as torch does it: erfc takes two exponentials more on a CPU."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * wide * (1 + lax.erf(wide * 0.5**0.5))).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
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
class EncoderOutput:
    """Hidden states.

    Attributes:
        hidden_states: the embedding layer's, then one per transformer layer.
        first_tokens: instead of the last layer's state, where only this was asked for: that of
            every sentence's first token.
    """

    hidden_states: tuple[Float[Array, "B L D"], ...]
    first_tokens: Float[Array, "S D"] | None = None

    @property
    def last(self) -> Float[Array, "B L D"]:
        """The last layer's hidden states."""
        return self.hidden_states[-1]


class Dense(nn.Module):
    """`x W + b`, for tokens in any arrangement.

    The gradient is written out: `dW = xᵀ dy` in this order, and `db = 1ᵀ dy` as a product too. On
    a CPU, XLA makes of the derived gradient two transposed copies and a slow sum over the tokens.
    Both are summed in float32 whatever the compute type.
    """

    config: BertConfig
    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*T D"], columns: tuple[int, int] | None = None
    ) -> Float[Array, "*T F"]:
        """Apply all features, or the columns from the first up to the second."""
        init = nn.initializers.normal(self.config.initializer_range)
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if columns is not None:
            kernel, bias = kernel[:, slice(*columns)], bias[slice(*columns)]
        return linear(x.astype(self.dtype), kernel, bias)


@jax.custom_vjp
def linear(
    x: Float[Array, "*T D"], kernel: Float[Array, "D F"], bias: Float[Array, "F"]
) -> Float[Array, "*T F"]:
    """`x W + b` in the type of ``x``; the gradients of W and b are float32."""
    return jnp.matmul(x, kernel.astype(x.dtype)) + bias.astype(x.dtype)


def _linear_forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    return linear(x, kernel, bias), (x, kernel)


def _linear_backward(saved: tuple[Array, Array], d_y: Array) -> tuple[Array, Array, Array]:
    x, kernel = saved
    rows = d_y.reshape(-1, d_y.shape[-1])  # [T F]
    d_x = jnp.matmul(d_y, kernel.astype(d_y.dtype).T)
    d_kernel = jnp.matmul(x.reshape(-1, x.shape[-1]).T, rows, preferred_element_type=kernel.dtype)
    ones = jnp.ones((1, len(rows)), rows.dtype)
    d_bias = jnp.matmul(ones, rows, preferred_element_type=kernel.dtype)[0]
    return d_x, d_kernel, d_bias


linear.defvjp(_linear_forward, _linear_backward)


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
    def __call__(self, batch: Batch, seeds: UInt32[Array, "B L 2"] | None) -> Float[Array, "B L D"]:
        cfg = self.config
        init = nn.initializers.normal(cfg.initializer_range)

        def table(rows: int, name: str) -> nn.Embed:
            return nn.Embed(rows, cfg.hidden_size, embedding_init=init, name=name)

        word = table(cfg.vocab_size, "word")
        position = table(cfg.max_position_embeddings, "position")
        token_type = table(cfg.type_vocab_size, "token_type")

        token_type_ids = batch.token_type_ids
        if token_type_ids is None:
            token_type_ids = jnp.zeros((1, 1), jnp.int32)
        x = (
            word(batch.input_ids)
            + position(positions_of(batch) + cfg.position_offset)
            + token_type(token_type_ids)
        )  # [B L D]
        x = _layer_norm(cfg, "norm")(x)
        return dropout(x, seeds, cfg.hidden_dropout_prob, site=0).astype(self.dtype)


class SelfAttention(nn.Module):
    """Multi-head attention, `softmax(QKᵀ/√H + mask) V`, with one fused projection for Q, K, V."""

    config: BertConfig
    number: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        places: Places,
        seeds: UInt32[Array, "B L 2"] | None,
        firsts: FirstTokens | None = None,
    ) -> Float[Array, "B L D"] | Float[Array, "S D"]:
        cfg = self.config
        hidden, heads = cfg.hidden_size, cfg.num_attention_heads
        qkv = Dense(cfg, 3 * hidden, self.dtype, name="qkv")

        def split(x: Array) -> Array:
            return x.reshape(*x.shape[:-1], heads, hidden // heads)

        if firsts is None:
            # lax.split, since the gradient of three slices is padded and summed.
            query, key, value = map(split, lax.split(qkv(x), (hidden,) * 3, axis=-1))
            context = self.attend(query, key, value, places, seeds)  # [B L N H]
        else:
            query = split(qkv(firsts.of(x), (0, hidden)))  # [S N H]
            both = qkv(x, (hidden, 3 * hidden))
            key, value = map(split, lax.split(both, (hidden,) * 2, axis=-1))
            if firsts.starts is None:
                one = None if seeds is None else seeds[:, :1]
                context = self.attend(query[:, None], key, value, places, one)[:, 0]
            else:
                context = self.attend_segments(query, key, value, places, seeds, firsts)
        context = context.reshape(*context.shape[:-2], hidden)
        return Dense(cfg, hidden, self.dtype, name="output")(context)

    @property
    def site(self) -> int:
        """The number of the probabilities' dropout."""
        return 3 * self.number + 1

    def attend(
        self,
        query: Float[Array, "B Q N H"],
        key: Float[Array, "B K N H"],
        value: Float[Array, "B K N H"],
        places: Places,
        seeds: UInt32[Array, "B Q 2"] | None,
    ) -> Float[Array, "B Q N H"]:
        """Every query to the keys of its row."""
        bias = places.bias[:, :, : query.shape[1]]  # [B 1 1|Q K]
        # Scaled before the product: fewer numbers, and XLA would write the factor out for every
        # score where it fuses the products on a CPU.
        query = query * query.shape[-1] ** -0.5
        query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))  # [B N L H]
        scores = jnp.einsum("BNQH,BNKH->BNQK", query, key, preferred_element_type=jnp.float32)
        scores = scores + bias
        # A softmax whose division comes after the product with the values, where there are fewer
        # numbers to divide and where it does not keep XLA from fusing on a CPU. float32.
        highest = lax.stop_gradient(scores.max(-1, keepdims=True))
        weights = jnp.exp(scores - highest)
        total = weights.sum(-1, keepdims=True)  # [B N Q 1]
        rate = self.config.attention_probs_dropout_prob
        weights = attention_dropout(weights, seeds, places.positions, rate, self.site)
        weights = weights.astype(self.dtype)
        context = jnp.einsum("BNQK,BNKH->BNQH", weights, value, preferred_element_type=jnp.float32)
        return jnp.swapaxes((context / total).astype(self.dtype), 1, 2)

    def attend_segments(
        self,
        query: Float[Array, "S N H"],
        key: Float[Array, "B L N H"],
        value: Float[Array, "B L N H"],
        places: Places,
        seeds: UInt32[Array, "B L 2"] | None,
        firsts: FirstTokens,
    ) -> Float[Array, "S N H"]:
        """One query for each segment of packed rows, to the keys of its segment.

        Every token meets one query, so that the scores are ``[T, N]``.
        """
        segment = firsts.segments  # [T], 0 at padding
        assert segment is not None
        own = jnp.where(segment > 0, segment - 1, len(query))  # out of range at padding

        def to_segments(x: Float[Array, "T *N"]) -> Float[Array, "S *N"]:
            return jax.ops.segment_sum(x, own, len(query))

        heads, size = query.shape[1:]
        keys, values = (x.reshape(-1, heads, size).astype(jnp.float32) for x in (key, value))
        queries = take_or_zero(query.astype(jnp.float32), own)  # [T N H]
        scores = jnp.sum(queries * keys, -1) * size**-0.5  # [T N]
        # Any constant leaves the softmax as it is; the highest score keeps it in range.
        highest = jax.ops.segment_max(lax.stop_gradient(scores), own, len(query))
        weights = jnp.where(
            segment[:, None] > 0, jnp.exp(scores - take_or_zero(highest, own)), 0.0
        )  # [T N]
        total = to_segments(weights)  # [S N]
        rate = self.config.attention_probs_dropout_prob
        if seeds is not None and rate > 0:
            seeds = take_or_zero(firsts.of_seeds(seeds), own)  # [T 2]
            counters = head_counters(heads, places.positions.reshape(-1, 1))[..., 0]  # [T N/2]
            mask = keep(seeds[:, None], counters, rate, self.site, axis=1)[:, :heads]
            weights = jnp.where(mask, weights / (1 - rate), 0.0) if rate < 1 else 0 * weights
        context = to_segments(weights[..., None] * values)
        return (context / jnp.where(total > 0, total, 1.0)[..., None]).astype(self.dtype)


class Layer(nn.Module):
    """One post-norm transformer layer: attention, add & norm, feed-forward, add & norm."""

    config: BertConfig
    number: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        places: Places,
        seeds: UInt32[Array, "B L 2"] | None,
        firsts: FirstTokens | None = None,
    ) -> Float[Array, "B L D"] | Float[Array, "S D"]:
        """The new state of every token, or of each sentence's first one alone."""
        cfg = self.config
        attention = SelfAttention(cfg, self.number, self.dtype, name="attention")
        attended: Array = attention(x, places, seeds, firsts)
        if firsts is not None:
            x = firsts.of(x)
            seeds = None if seeds is None else firsts.of_seeds(seeds)

        def drop(x: Array, place: int) -> Array:
            return dropout(x, seeds, cfg.hidden_dropout_prob, 3 * self.number + place)

        x = _layer_norm(cfg, "attention_norm")(x + drop(attended, 2)).astype(self.dtype)
        inner = Dense(cfg, cfg.intermediate_size, self.dtype, name="intermediate")(x)  # [… 4·D]
        inner = ACTIVATIONS[cfg.hidden_act](inner)
        output = Dense(cfg, cfg.hidden_size, self.dtype, name="output")(inner)
        return _layer_norm(cfg, "output_norm")(x + drop(output, 3)).astype(self.dtype)


class Places(NamedTuple):
    """Where the tokens of a batch are.

    Attributes:
        bias: the attention's, see `attention_bias`.
        positions: in the sentence, ``[B or 1, L]``.
    """

    bias: Float[Array, "B 1 Q K"]
    positions: AnyArray


class FirstTokens(NamedTuple):
    """The first token of each sentence of a batch.

    Attributes:
        segments: of packed rows, ``[B·L]``: the sentence of each token, 0 at padding.
        starts: of packed rows, as `first_token_indices` gives it.
    """

    segments: Int[Array, "T"] | None = None
    starts: Int[Array, "S"] | None = None

    def of(self, x: Float[Array, "B L D"]) -> Float[Array, "S D"]:
        """Their states; zero for a sentence that is not there."""
        if self.starts is None:
            return x[:, 0]
        return take_or_zero(x.reshape(-1, x.shape[-1]), self.starts)

    def of_seeds(self, seeds: UInt32[Array, "B L 2"]) -> UInt32[Array, "S 2"]:
        """Their seeds."""
        if self.starts is None:
            return seeds[:, 0]
        return take_or_zero(seeds.reshape(-1, 2), self.starts)


def first_tokens(batch: Batch, num_segments: int | None) -> FirstTokens:
    """The first tokens of a batch; ``num_segments`` is needed for packed rows.

    Raises:
        ValueError: packed rows without ``num_segments``.
    """
    if batch.segment_ids is None:
        return FirstTokens()
    if num_segments is None:
        raise ValueError("a packed batch needs num_segments for its first tokens")
    segments = jnp.asarray(batch.segment_ids).reshape(-1)
    return FirstTokens(segments, first_token_indices(batch, num_segments))


def positions_of(batch: Batch) -> AnyArray:
    """Each token's place in its sentence, ``[B or 1, L]``."""
    if batch.position_ids is not None:
        return batch.position_ids
    return jnp.arange(batch.input_ids.shape[1])[None]


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
    def __call__(
        self,
        batch: Batch,
        keys: Key[Array, "S"] | None = None,
        *,
        first_only: bool = False,
        num_segments: int | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            batch: ids and mask, ``[B, L]``.
            keys: switches dropout on: a key for each row, or for each segment of packed rows. The
                masks depend on key and place in the sentence alone, see `models.dropout`.
            first_only: of the last layer compute the first tokens' states only, all that cls
                pooling looks at: keys and values of all tokens, everything else of one a sentence.
            num_segments: with ``first_only``, the (static) number of segments of packed rows.

        Returns:
            ``num_hidden_layers + 1`` hidden states of shape ``[B, L, D]`` in ``dtype``; with
            ``first_only`` ``num_hidden_layers`` of them and ``first_tokens``, ``[S, D]``.
        """
        places = Places(attention_bias(batch), positions_of(batch))
        seeds = None if keys is None else token_seeds(keys, batch)
        x = Embeddings(self.config, self.dtype, name="embeddings")(batch, seeds)
        states = [x]
        # Unrolled: lax.scan over layers is slower by about a third in comparable trainers.
        for i in range(self.config.num_hidden_layers):
            layer = Layer(self.config, i, self.dtype, name=f"layer_{i}")
            if first_only and i == self.config.num_hidden_layers - 1:
                firsts = first_tokens(batch, num_segments)
                return EncoderOutput(tuple(states), layer(x, places, seeds, firsts))
            x = layer(x, places, seeds)
            states.append(x)
        return EncoderOutput(tuple(states))
