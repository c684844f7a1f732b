"""InfoNCE where candidates travel from device to device and are never held together.

Each device holds a shard: its candidates (positives, then hard negatives) and the positives' group
ids. At every hop each device hands the shard that it holds to the next one, until all devices have
seen all shards.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from simcse_jax.losses.info_nce.blocks import scan_rows
from simcse_jax.losses.info_nce.logits import (
    StaticOptions,
    dot,
    negative_logits,
    positive_logits,
    row_loss,
    scaled_logits,
)


class _RunningSoftmax(NamedTuple):
    """The softmax of each row over the shards seen so far.

    Attributes:
      positive: the positive's logit.
      max_negative: the largest logit of a negative.
      negatives: sum of the negatives' exponentials, relative to ``max(positive, max_negative)``.
    """

    positive: Float[Array, "R"]
    max_negative: Float[Array, "R"]
    negatives: Float[Array, "R"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def ring_sums(
    options: StaticOptions,
    queries: Float[Array, "R D"],
    candidates: Float[Array, "C D"],
    group_ids: Int[Array, "R"] | None,
    scale: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the sum of the rows' losses and the number of rows whose positive scores highest.

    Args:
      options: of the loss, with ``axis_name``.
      queries: ``[R, D]``, the rows of this device.
      candidates: ``[C, D]``, those of this device: its rows' positives, then their hard negatives.
      group_ids: ``[R]``, of this device's rows, or None.
      scale: 1/τ.
    """
    return _forward(options, queries, candidates, group_ids, scale)[0]


def _forward(
    options: StaticOptions,
    queries: Float[Array, "R D"],
    candidates: Float[Array, "C D"],
    group_ids: Int[Array, "R"] | None,
    scale: Float[Array, ""],
) -> tuple[tuple[Array, Array], tuple]:
    """Return the sums after one trip of the shards, and what the backward trip needs."""
    merge = functools.partial(_merge_shard, options, queries, group_ids, scale)

    def hop(carry: tuple, _: None) -> tuple[tuple, None]:
        shard, running = carry
        # Sent on before it is used, so that the transfer can hide behind the products.
        return (_send(shard, options.axis_name), merge(shard, running)), None

    shard = (candidates, group_ids)
    running = merge(shard, None)
    if (devices := lax.axis_size(options.axis_name)) > 1:
        shard = _send(shard, options.axis_name)
        (_, running), _ = lax.scan(hop, (shard, running), length=devices - 1)
    positive, max_negative, negatives = running
    loss, total = row_loss(positive, max_negative, negatives)
    log_total = jnp.maximum(positive, max_negative) + jnp.log(total)
    correct = (positive > max_negative).sum(dtype=loss.dtype)
    residuals = (queries, candidates, group_ids, scale, log_total, negatives / total)
    return (loss.sum(), correct), residuals


def _merge_shard(
    options: StaticOptions,
    queries: Float[Array, "R D"],
    group_ids: Int[Array, "R"] | None,
    scale: Float[Array, ""],
    shard: tuple[Float[Array, "C D"], Int[Array, "R"] | None],
    running: _RunningSoftmax | None,
) -> _RunningSoftmax:
    """Merge a shard into the running softmax; without one, the shard holds the rows' positives."""
    candidates, candidate_ids = shard

    def body(carry: None, rows: tuple) -> tuple[None, _RunningSoftmax]:
        query, ids, positive_index, block = rows
        logits = scaled_logits(options, query, candidates, scale)  # [b C]
        if positive_index is not None:
            positive = positive_logits(logits, positive_index)
            before, negatives = jnp.full_like(positive, -jnp.inf), jnp.zeros_like(positive)
        else:
            positive, before, negatives = block
        logits = negative_logits(options, logits, ids, candidate_ids, positive_index)
        max_negative = jnp.maximum(before, logits.max(axis=1))
        top = jnp.maximum(positive, max_negative)  # finite, even where all are masked
        negatives = negatives * jnp.exp(jnp.maximum(positive, before) - top)
        negatives = negatives + jnp.exp(logits - top[:, None]).sum(axis=1)
        return carry, _RunningSoftmax(positive, max_negative, negatives)

    positive_index = jnp.arange(queries.shape[0]) if running is None else None
    rows = (queries, group_ids, positive_index, running)
    return scan_rows(body, None, rows, options.block_size)[1]


def _backward(options: StaticOptions, residuals: tuple, cotangents: tuple) -> tuple:
    """Return the gradients after a second trip, on which each shard carries its own.

    The gradient of a shard's candidates is complete when the shard arrives home.
    """
    queries, candidates, group_ids, scale, log_total, not_positive = residuals
    weight = cotangents[0] * scale
    add_gradients = functools.partial(
        _add_gradients, options, queries, group_ids, scale, log_total, weight
    )

    def hop(carry: tuple, _: None) -> tuple[tuple, None]:
        shard, d_queries = add_gradients(*carry, None)
        return (_send(shard, options.axis_name), d_queries), None

    count = queries.shape[0]
    positive_weight = weight * not_positive[:, None]  # [R 1], (1 - p_positive) / τ
    d_candidates = jnp.zeros_like(candidates, dtype=scale.dtype)
    d_candidates = d_candidates.at[:count].add(-positive_weight * queries)
    d_queries = -positive_weight * candidates[:count]
    shard = (candidates, group_ids, d_candidates)
    shard, d_queries = add_gradients(shard, d_queries, jnp.arange(count))
    if (devices := lax.axis_size(options.axis_name)) > 1:
        shard = _send(shard, options.axis_name)
        (shard, d_queries), _ = lax.scan(hop, (shard, d_queries), length=devices - 1)
    d_candidates = shard[2]
    d_scale = (d_queries * queries).sum() / scale
    return d_queries.astype(options.dtype), d_candidates.astype(options.dtype), None, d_scale


def _add_gradients(
    options: StaticOptions,
    queries: Float[Array, "R D"],
    group_ids: Int[Array, "R"] | None,
    scale: Float[Array, ""],
    log_total: Float[Array, "R"],
    weight: Float[Array, ""],
    shard: tuple[Float[Array, "C D"], Int[Array, "R"] | None, Float[Array, "C D"]],
    d_queries: Float[Array, "R D"],
    positive_index: Int[Array, "R"] | None,
) -> tuple[tuple, Array]:
    """Add what the negatives of a shard contribute to its gradient and to that of the queries."""
    candidates, candidate_ids, d_candidates = shard

    def body(d_candidates: Array, rows: tuple) -> tuple[Array, Array]:
        query, ids, positive_index, log_total, d_query = rows
        logits = scaled_logits(options, query, candidates, scale)  # [b C]
        logits = negative_logits(options, logits, ids, candidate_ids, positive_index)
        p = jnp.exp(logits - log_total[:, None]).astype(query.dtype)
        d_query = d_query + weight * dot(p, candidates, ((1,), (0,)), options.precision)
        d_candidates = d_candidates + weight * dot(p, query, ((0,), (0,)), options.precision)
        return d_candidates, d_query

    rows = (queries, group_ids, positive_index, log_total, d_queries)
    d_candidates, d_queries = scan_rows(body, d_candidates, rows, options.block_size)
    return (candidates, candidate_ids, d_candidates), d_queries


ring_sums.defvjp(_forward, _backward)


def _send(tree: Any, axis_name: str | None) -> Any:
    """Hand a tree of arrays to the next device of the ring."""
    size = lax.axis_size(axis_name)
    return lax.ppermute(tree, axis_name, [(i, (i + 1) % size) for i in range(size)])
