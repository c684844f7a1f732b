"""InfoNCE a block of rows at a time: memory linear in the number of candidates.

Letters: b rows of a block; the others as in `simcse_jax.losses.info_nce.logits`.
"""

import functools

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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def blockwise_sums(
    options: StaticOptions,
    queries: Float[Array, "R D"],
    candidates: Float[Array, "C D"],
    row_ids: Int[Array, "R"] | None,
    column_ids: Int[Array, "P"] | None,
    scale: Float[Array, ""],
    offset: int | Int[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return what `simcse_jax.losses.info_nce.dense.dense_sums` returns, for the same arguments."""

    def body(carry: None, rows: tuple) -> tuple[None, tuple]:
        positive, max_negative, exps = _softmax_terms(options, candidates, column_ids, scale, rows)
        loss, _ = row_loss(positive, max_negative, exps.sum(axis=1))
        return carry, (loss, positive > max_negative)

    positive_index = offset + jnp.arange(queries.shape[0])
    rows = (queries, row_ids, positive_index)
    _, (loss, correct) = scan_rows(body, None, rows, options.block_size)
    return loss.sum(), correct.sum(dtype=loss.dtype)


def _softmax_terms(
    options: StaticOptions,
    candidates: Float[Array, "C D"],
    column_ids: Int[Array, "P"] | None,
    scale: Float[Array, ""],
    rows: tuple[Float[Array, "b D"], Int[Array, "b"] | None, Int[Array, "b"]],
) -> tuple[Float[Array, "b"], Float[Array, "b"], Float[Array, "b C"]]:
    """Return each row's positive logit, its largest negative one, and the negatives' exponentials.

    The exponentials are relative to the largest of all logits of the row.
    """
    query, ids, positive_index = rows
    logits = scaled_logits(options, query, candidates, scale)  # [b C]
    positive = positive_logits(logits, positive_index)
    logits = negative_logits(options, logits, ids, column_ids, positive_index)
    max_negative = logits.max(axis=1)
    return positive, max_negative, jnp.exp(logits - jnp.maximum(positive, max_negative)[:, None])


def _forward(
    options: StaticOptions,
    queries: Float[Array, "R D"],
    candidates: Float[Array, "C D"],
    row_ids: Int[Array, "R"] | None,
    column_ids: Int[Array, "P"] | None,
    scale: Float[Array, ""],
    offset: int | Int[Array, ""],
) -> tuple[tuple[Array, Array], tuple]:
    """Return the loss and, from the same pass, its gradient.

    One pass is enough because a block of rows sees the whole softmax denominator at once. With
    p the softmax, ``d loss_i / d logit_ij = p_ij - [j is the positive]``. The positive's column is
    left out of the products and enters as ``1 - p_positive = negatives / total``, in float32 and
    without cancellation.
    """

    def body(d_candidates: Array, rows: tuple) -> tuple[Array, tuple]:
        query = rows[0]
        positive, max_negative, exps = _softmax_terms(options, candidates, column_ids, scale, rows)
        negatives = exps.sum(axis=1)
        loss, total = row_loss(positive, max_negative, negatives)
        exps = exps.astype(query.dtype)
        weight = scale / total
        d_query = weight[:, None] * dot(exps, candidates, ((1,), (0,)), options.precision)
        weighted = (weight[:, None] * query).astype(query.dtype)
        d_candidates = d_candidates + dot(exps, weighted, ((0,), (0,)), options.precision)
        return d_candidates, (loss, positive > max_negative, d_query, weight * negatives)

    count = queries.shape[0]
    start = jnp.zeros_like(candidates, dtype=scale.dtype)
    # positive_weight is (1 - p_positive) / τ.
    d_candidates, (loss, correct, d_queries, positive_weight) = scan_rows(
        body, start, (queries, row_ids, offset + jnp.arange(count)), options.block_size
    )
    positives = lax.dynamic_slice_in_dim(candidates, offset, count)
    d_positives = lax.dynamic_slice_in_dim(d_candidates, offset, count)
    d_positives = d_positives - positive_weight[:, None] * queries
    d_candidates = lax.dynamic_update_slice_in_dim(d_candidates, d_positives, offset, 0)
    d_queries = d_queries - positive_weight[:, None] * positives
    # The logits of a row are scale * query . candidate, hence:
    d_scale = (d_queries * queries).sum() / scale
    sums = (loss.sum(), correct.sum(dtype=loss.dtype))
    return sums, (d_queries, d_candidates, d_scale)


def _backward(options: StaticOptions, residuals: tuple, cotangents: tuple) -> tuple:
    d_queries, d_candidates, d_scale = residuals
    g = cotangents[0]
    return (
        (g * d_queries).astype(options.dtype),
        (g * d_candidates).astype(options.dtype),
        None,
        None,
        g * d_scale,
        None,
    )


blockwise_sums.defvjp(_forward, _backward)
