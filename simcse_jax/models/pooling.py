"""Pooling: from one vector a token to one vector a sentence.

Each pooling is a choice of layers, which are averaged, and a reduction over the tokens.

========================  ==================================================================
name                      what it is
========================  ==================================================================
``cls``                   the first token of the last layer, before any pooler (SimCSE's test
                          time for the unsupervised models)
``pooler``                `tanh(cls W + b)` with the model's own pooler (what SimCSE calls cls)
``mean``                  the mean of the last layer's tokens, special tokens included (SBERT)
``max``                   the maximum over time of the last layer (SBERT)
``mean-sqrt-len``         the sum of the last layer's tokens over the square root of their number
``weighted-mean``         the mean of the last layer, a token's weight being its place from 1
``last-token``            the last token of the last layer
``last-2``                the mean of the last two layers, then of the tokens
``first-last``            the mean of the first transformer layer and the last, then of the
                          tokens: the "first-last avg" of BERT-flow and BERT-whitening
``embedding-last``        the same with the static embeddings instead of the first layer: the
                          historical slip behind SimCSE's printed first-last row
``layer-K``               the mean of the tokens of layer K (0 is the embedding layer)
``ditto-LAYER-HEAD``      as ``embedding-last``, a token's weight being the attention that it pays
                          itself in a head of a layer, both counted from 1: `models.ditto`
``cls+mean``, …           several of the last layer's, one after another, in this order
========================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import did_you_mean, quoted
from simcse_jax.models.batch import Batch, first_token_indices, take_or_zero
from simcse_jax.models.config import BertConfig

_LAYERS_AND_REDUCTION: dict[str, tuple[tuple[int, ...], str]] = {
    "cls": ((-1,), "cls"),
    "pooler": ((-1,), "cls"),
    "mean": ((-1,), "mean"),
    "max": ((-1,), "max"),
    "mean-sqrt-len": ((-1,), "mean-sqrt-len"),
    "weighted-mean": ((-1,), "weighted-mean"),
    "last-token": ((-1,), "last-token"),
    "last-2": ((-2, -1), "mean"),
    "first-last": ((1, -1), "mean"),
    "embedding-last": ((0, -1), "mean"),
}
POOLINGS = (*_LAYERS_AND_REDUCTION, "layer-K", "ditto-LAYER-HEAD")
REDUCTIONS = ("cls", "max", "mean", "mean-sqrt-len", "weighted-mean", "last-token")
"""What can be joined by a plus."""


def layers_and_reduction(pooling: str) -> tuple[tuple[int, ...], str]:
    """Look up which layers a pooling averages (as indices into the hidden states), and how.

    Several reductions are joined by a plus.

    Raises:
        ValueError: the name is none of :data:`POOLINGS`.
    """
    if pooling in _LAYERS_AND_REDUCTION:
        return _LAYERS_AND_REDUCTION[pooling]
    if set(pooling.split("+")) <= set(REDUCTIONS):
        return (-1,), pooling
    prefix, _, number = pooling.partition("-")
    if prefix == "layer" and _is_number(number):
        return (int(number),), "mean"
    if ditto_head(pooling) is not None:
        return (0, -1), pooling
    near = did_you_mean(pooling, _LAYERS_AND_REDUCTION)
    known = ", ".join(POOLINGS)
    raise ValueError(
        f"pooling {quoted(pooling)} is none of {known} (both counted from 1), or cls+mean{near}"
    )


def _is_number(text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) < 10


def ditto_head(pooling: str) -> tuple[int, int] | None:
    """Return the layer and the head, both from 1, whose attention weighs the tokens, or None."""
    name, *numbers = pooling.split("-")
    counted = all(_is_number(n) and n[0] != "0" for n in numbers)
    if name != "ditto" or len(numbers) != 2 or not counted:
        return None
    return int(numbers[0]), int(numbers[1])


def pooled_size(pooling: str, hidden_size: int) -> int:
    """Return the number of dimensions that a pooling gives."""
    return hidden_size * len(layers_and_reduction(pooling)[1].split("+"))


def first_only(pooling: str) -> bool:
    """Tell whether a pooling looks at nothing but the last layer's first tokens."""
    return layers_and_reduction(pooling) == ((-1,), "cls")


def check_pooling(pooling: str, config: BertConfig) -> None:
    """Raise ValueError where a model of this architecture cannot be pooled so."""
    layers, _ = layers_and_reduction(pooling)
    layer, head = ditto_head(pooling) or (max(layers), 1)
    if layer > config.num_hidden_layers:
        raise ValueError(
            f"pooling {pooling!r} needs layer {layer} of {config.num_hidden_layers}; name one of 1 "
            f"to {config.num_hidden_layers}"
        )
    if head > config.num_attention_heads:
        raise ValueError(
            f"pooling {pooling!r} needs head {head} of {config.num_attention_heads} in a layer; "
            f"name one of 1 to {config.num_attention_heads}"
        )


def _argmax_so_far(x: Float[Array, "T D"], segments: Int[Array, "T"]) -> Int[Array, "T D"]:
    """Find the token of the highest value in each token's segment up to it, per dimension.

    An index rather than the value itself: the gradient of a maximum looks for the operand that
    equals it, and finds none where the compiler rounds the operand differently the second time.
    """
    starts = jnp.concatenate([jnp.ones(1, bool), segments[1:] != segments[:-1]])

    def combine(left: Any, right: Any) -> Any:
        (value, index, start), (own, own_index, own_start) = left, right
        take = own_start | (own > value)
        return (
            jnp.where(take, own, value),
            jnp.where(take, own_index, index),
            start | own_start,
        )

    tokens = jnp.broadcast_to(jnp.arange(len(segments))[:, None], x.shape)
    scanned = jax.lax.associative_scan(combine, (jax.lax.stop_gradient(x), tokens, starts[:, None]))
    return scanned[1]


def pool(
    states: Sequence[Float[AnyArray, "R L D"]],
    batch: Batch,
    pooling: str,
    num_sentences: int,
    weights: Float[AnyArray, "R L"] | None = None,
) -> Float[Array, "S P"]:
    """Pool the tokens of each sentence to one float32 vector.

    Args:
        states: every hidden state of the encoder, ``[R, L, D]`` each.
        batch: the batch they came from.
        pooling: a name of :data:`POOLINGS`; for ``pooler`` the head is still to be applied.
        num_sentences: the (static) number of sentences S; sentence ``s`` is the one whose
            ``segment_ids`` are ``s + 1``.
        weights: of the tokens, positive; for ``ditto-LAYER-HEAD``, and for no other pooling.

    Returns:
        ``[S, P]`` float32 with P as `pooled_size` gives it; zero for a sentence that is not there.

    Raises:
        ValueError: an unknown pooling, or one whose weights are missing.
    """
    layers, reduction = layers_and_reduction(pooling)
    if weights is None and ditto_head(pooling) is not None:
        raise ValueError(f"pooling {pooling!r} needs weights, see simcse_jax.models.ditto")
    if weights is not None and ditto_head(pooling) is None:
        raise ValueError(f"pooling {pooling!r} takes no weights")
    chosen = [jnp.asarray(states[i]).astype(jnp.float32) for i in layers]
    x = sum(chosen[1:], chosen[0]) / len(chosen)  # [R L D]
    reduced = [_reduce(x, batch, name, num_sentences, weights) for name in reduction.split("+")]
    return jnp.concatenate(reduced, axis=-1) if len(reduced) > 1 else reduced[0]


def _reduce(
    x: Float[Array, "R L D"],
    batch: Batch,
    reduction: str,
    num_sentences: int,
    weights: Float[AnyArray, "R L"] | None,
) -> Float[Array, "S D"]:
    """Reduce the tokens of each sentence to one vector; zero for a sentence that is not there."""
    flat = x.reshape(-1, x.shape[-1])  # [R·L D]
    if reduction == "cls":
        return take_or_zero(flat, first_token_indices(batch, num_sentences))
    segments = jnp.asarray(batch.segment_ids).reshape(-1)  # [R·L], 0 at padding
    # Slot 0 is padding's, and cut off.
    count = jax.ops.segment_sum(jnp.ones_like(segments), segments, num_sentences + 1)[1:, None]
    if reduction in ("max", "last-token"):
        tokens = jnp.arange(len(segments))
        last = jax.ops.segment_max(tokens, segments, num_sentences + 1)[1:]  # [S]
        last = jnp.maximum(last, 0)  # of a sentence that is not there it is the least integer
        if reduction == "last-token":
            return jnp.where(count > 0, flat[last], 0.0)
        highest = _argmax_so_far(flat, segments)[last]  # [S D]
        return jnp.where(count > 0, jnp.take_along_axis(flat, highest, 0), 0.0)
    if weights is not None:
        return _weighted_mean(flat, segments, jnp.asarray(weights).reshape(-1), num_sentences)
    if reduction == "weighted-mean":
        weights = jnp.asarray(batch.position_ids).reshape(-1) + 1
        return _weighted_mean(flat, segments, weights, num_sentences)
    total = jax.ops.segment_sum(flat, segments, num_sentences + 1)[1:]
    divisor = jnp.maximum(count, 1)
    return total / (jnp.sqrt(divisor) if reduction == "mean-sqrt-len" else divisor)


def _weighted_mean(
    x: Float[Array, "T D"], segments: Int[Array, "T"], weights: Real[Array, "T"], num_sentences: int
) -> Float[Array, "S D"]:
    """Average the tokens of each sentence; zero for a sentence that is not there."""
    sums = jax.ops.segment_sum(weights, segments, num_sentences + 1)[1:, None]
    total = jax.ops.segment_sum(x * weights[:, None], segments, num_sentences + 1)[1:]
    return total / jnp.where(sums > 0, sums, 1)
