"""The masked language model's cross entropy, SimCSE's auxiliary loss."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_array, check_classes

IGNORED = -100
"""The label of a position that is not to be predicted."""

CHUNK = 256
"""So many tokens are scored at a time; their scores of a vocabulary of 30,522 are 31 MB."""

Score = Callable[[Any, Array], Array]
"""``(params, states [C D]) -> logits [C V]``."""


def masked_lm_loss(
    logits: Float[AnyArray, "B L V"],
    labels: Int[AnyArray, "B L"],
    *,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    r"""Return the mean cross entropy over the masked positions.

    .. math:: \ell = -\frac{1}{|M|} \sum_{(b,l) \in M} \log p_{b,l}(\text{label}_{b,l})

    M are the masked positions. SimCSE adds it to its own loss, times λ (table D.2 of the paper).

    Args:
      logits: ``[B, L, V]``, any float dtype; the softmax is computed in float32.
      labels: ``[B, L]``, token ids; -100 where nothing is to be predicted.
      axis_name: the mapped axis over which the batch is spread; the mean is then over the masked
        positions of all devices.

    Returns:
      A float32 scalar, 0 if no position is masked.

    Raises:
      ValueError: ``labels`` does not have the leading shape of ``logits``, or one is no token.

    Example:
      >>> print(f"{masked_lm_loss(jnp.zeros((1, 2, 8)), jnp.array([[3, -100]])):.4f}")  # log 8
      2.0794
    """
    logits = check_array("logits", logits, 3)
    labels = check_array("labels", labels, 2, whole=True)
    if labels.shape != logits.shape[:2]:
        raise ValueError(
            f"labels {labels.shape} must be [B, L] where logits {logits.shape} are [B, L, V]."
        )
    check_classes("labels", labels, logits.shape[2], IGNORED)
    total, count = _sum(logits, labels), jnp.sum(labels != IGNORED)
    if axis_name is not None:
        total, count = lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1)


def _sum(logits: Float[AnyArray, "*B V"], labels: Int[AnyArray, "*B"]) -> Float[Array, ""]:
    """Return the sum of the masked positions' cross entropies."""
    masked = labels != IGNORED
    logits = jnp.asarray(logits, jnp.promote_types(logits.dtype, jnp.float32))
    index = jnp.where(masked, labels, 0)[..., None]  # [*B 1]
    label_logits = jnp.take_along_axis(logits, index, axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - label_logits  # [*B]
    return jnp.sum(losses, where=masked)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def masked_lm_sum(
    score: Score, params: Any, states: Float[Array, "T D"], labels: Int[Array, "T"]
) -> Float[Array, ""]:
    """Return the sum of the masked tokens' cross entropies, scoring no other tokens.

    It is `masked_lm_loss` of ``score(params, states)``, times the number of masked tokens. These
    are gathered and scored `CHUNK` at a time, in as many chunks as it takes: work and memory
    follow their number, and none is left out however many there are. (Under `jax.shard_map` it
    needs ``check_vma=False``, as the training step has it.)

    Args:
      score: from the parameters and the states of some tokens to logits, row by row. It must not
        close over traced values.
      params: a tree of what ``score`` needs beside the states; differentiated.
      states: ``[T, D]``, one for each token; differentiated.
      labels: ``[T]``, token ids; -100 where nothing is to be predicted.

    Returns:
      A float32 scalar, 0 if no token is masked.
    """
    places, chunks = _masked_places(labels)

    def add_chunk(number: Array, total: Array) -> Array:
        _, chosen, their_labels = _chunk(states, labels, places, number)
        return total + _sum(score(params, chosen), their_labels)

    return lax.fori_loop(0, chunks, add_chunk, jnp.zeros(()))


def _forward(
    score: Score, params: Any, states: Float[Array, "T D"], labels: Int[Array, "T"]
) -> tuple[Float[Array, ""], tuple[Any, Float[Array, "T D"]]]:
    """Return the sum and, from the same pass, its gradient.

    One pass is enough because a chunk's gradient needs its own scores alone; so they are neither
    kept nor made again.
    """
    places, chunks = _masked_places(labels)

    def add_chunk(number: Array, sums: tuple[Array, Any, Array]) -> tuple[Array, Any, Array]:
        total, d_params, d_states = sums
        own, chosen, their_labels = _chunk(states, labels, places, number)
        value, (d_own, d_chosen) = jax.value_and_grad(
            lambda params, chosen: _sum(score(params, chosen), their_labels), argnums=(0, 1)
        )(params, chosen)
        d_params = jax.tree.map(jnp.add, d_params, d_own)
        return total + value, d_params, d_states.at[own].set(d_chosen, mode="drop")

    start = jnp.zeros(()), *jax.tree.map(jnp.zeros_like, (params, states))
    total, d_params, d_states = lax.fori_loop(0, chunks, add_chunk, start)
    return total, (d_params, d_states)


def _backward(
    score: Score, gradient: tuple[Any, Float[Array, "T D"]], d_total: Float[Array, ""]
) -> tuple[Any, Float[Array, "T D"], None]:
    d_params, d_states = jax.tree.map(lambda x: (x * d_total).astype(x.dtype), gradient)
    return d_params, d_states, None


masked_lm_sum.defvjp(_forward, _backward)


def _masked_places(labels: Int[Array, "T"]) -> tuple[Int[Array, "P"], Int[Array, ""]]:
    """Return the masked tokens' places, then T over and over; and how many chunks they fill."""
    size = min(CHUNK, len(labels))
    whole = -(-len(labels) // size) * size
    masked = labels != IGNORED
    (places,) = jnp.nonzero(masked, size=whole, fill_value=len(labels))
    return places, -(-jnp.sum(masked) // size)


def _chunk(
    states: Float[Array, "T D"],
    labels: Int[Array, "T"],
    places: Int[Array, "P"],
    number: Int[Array, ""],
) -> tuple[Int[Array, "C"], Float[Array, "C D"], Int[Array, "C"]]:
    """Return places, states and labels of a chunk's tokens; what fills it up is not masked."""
    size = min(CHUNK, len(labels))
    own = lax.dynamic_slice_in_dim(places, number * size, size)
    chosen = states.at[own].get(mode="fill", fill_value=0)
    return own, chosen, labels.at[own].get(mode="fill", fill_value=IGNORED)
