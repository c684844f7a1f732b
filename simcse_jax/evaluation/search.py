"""Exact semantic search: the top k of a corpus for every query, in blocks on the device."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int, Real
from tqdm import tqdm

from simcse_jax.arrays import AnyArray, Lists
from simcse_jax.checks import check_choice, check_count, check_finite_rows, check_matrix
from simcse_jax.losses.geometry import divide_by_norms, float32_directions

# Columns whose largest score is looked at before any of them is sorted.
_GROUP = 64

_divide_by_norms = jax.jit(divide_by_norms)


class SearchResult(NamedTuple):
    """The best of the corpus for every query, best first.

    Attributes:
        scores: ``[m, k]`` float32; cosines or inner products.
        indices: ``[m, k]`` int64; rows of the corpus. Of equal scores the lower row comes first.
    """

    scores: Float[np.ndarray, "m k"]
    indices: Int[np.ndarray, "m k"]


def similarity_search(
    queries: Real[AnyArray, "m D"] | Lists,
    corpus: Real[AnyArray, "n D"] | Lists,
    top_k: int = 10,
    *,
    similarity: Literal["cosine", "dot"] = "cosine",
    query_block: int = 256,
    corpus_block: int = 32_768,
    exclude_self: bool = False,
    show_progress: bool | None = None,
) -> SearchResult:
    """Find the ``top_k`` rows of ``corpus`` most similar to every query, exactly.

    The device holds one block of the corpus, one of the queries and their scores at a time, so
    memory does not grow with either; the corpus may be a ``np.memmap`` larger than memory.

    Args:
        queries: one embedding a row; an array of any real numbers, or lists.
        corpus: the same; what is not float32 is converted block by block.
        top_k: how many to return; at most the corpus' rows.
        similarity: "cosine" (0 for a zero vector) or "dot". Embeddings that have unit norm
            already give the same with both, faster with "dot".
        query_block: rows of queries at a time.
        corpus_block: rows of the corpus at a time; the scores need
            ``4 · query_block · corpus_block`` bytes.
        exclude_self: query i is row i of the corpus and should not find itself.
        show_progress: a progress bar; default where standard error is a terminal and the work
            takes more than a second.

    Returns:
        Scores and indices, ``[m, top_k]`` each.

    Raises:
        ValueError: shapes that do not meet, an embedding that is not finite, ``top_k`` not from
            1 to the number of rows there are to find, or an unknown similarity.
    """
    check_choice("similarity", similarity, ("cosine", "dot"))
    queries = np.asarray(check_matrix("queries", queries))
    corpus = np.asarray(check_matrix("corpus", corpus))
    if queries.shape[1] != corpus.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions, the corpus has {corpus.shape[1]}"
        )
    check_count("query_block", query_block)
    check_count("corpus_block", corpus_block)
    check_count("top_k", top_k)
    m, n = len(queries), len(corpus)
    if exclude_self and m > n:
        raise ValueError(f"exclude_self needs a corpus row for every query: {m} queries, {n} rows")
    available = n - exclude_self
    if top_k > available:
        raise ValueError(f"top_k is {top_k}; it must be from 1 to {available}, the rows to find")

    on_device = functools.partial(_on_device, cosine=similarity == "cosine")
    # Every block has one shape, the last one padded, so that one program is compiled. Blocks are
    # whole groups; the group is smaller where the corpus is.
    rows = min(query_block, max(m, 1))
    columns = -(-max(min(corpus_block, n), top_k) // _GROUP) * _GROUP
    scores = np.full((m, top_k), -np.inf, np.float32)
    indices = np.full((m, top_k), -1, np.int64)
    starts = range(0, n, columns)
    with tqdm(
        total=n * m, desc="search", unit=" pairs", unit_scale=True, delay=1,
        disable=None if show_progress is None else not show_progress,
    ) as bar:  # fmt: skip
        # The corpus outside: each of its blocks is read, checked and moved to the device once.
        for low in starts:
            block = on_device("corpus", corpus[low : low + columns], low, columns)
            for first in range(0, m, rows):
                part = queries[first : first + rows]
                own = slice(first, first + len(part))
                query = on_device("queries", part, first, rows)
                best, where = _block_top_k(
                    query, block, jnp.int32(n - low), top_k,
                    jnp.int32(first - low) if exclude_self else None,
                )  # fmt: skip
                _merge(
                    scores[own], indices[own], np.asarray(best)[: len(part)],
                    np.asarray(where)[: len(part)].astype(np.int64) + low,
                )  # fmt: skip
                bar.update(len(part) * min(columns, n - low))
    return SearchResult(scores, indices)


def _on_device(
    name: str, x: Real[np.ndarray, "n D"], start: int, rows: int, *, cosine: bool
) -> Float32[Array, "rows D"]:
    """Return a block of so many rows, zeros at its end; of length one for the cosine.

    Raises:
        ValueError: a number that is not finite, or, for the inner product, not in float32.
    """
    if cosine:
        # Scaled on the host, where subnormal numbers are not yet zeros.
        check_finite_rows(name, x, start)
        part = float32_directions(x)
    else:
        with np.errstate(over="ignore"):
            part = np.asarray(x, np.float32)
        check_finite_rows(name, part, start)
    if len(part) < rows:
        part = np.pad(part, ((0, rows - len(part)), (0, 0)))
    return _divide_by_norms(jnp.asarray(part)) if cosine else jnp.asarray(part)


@jax.jit(static_argnames="k")
def _block_top_k(
    queries: Float[Array, "q D"],
    block: Float[Array, "c D"],
    valid: Int[Array, ""],
    k: int,
    own: Int[Array, ""] | None,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """Top k of one block; columns from ``valid`` on are padding, ``own + i`` is query i itself.

    Sorting is what a search spends its time on beside the product. The k best columns lie in the
    k groups with the largest maxima, and a maximum is cheap.
    """
    # A GPU would otherwise round the factors to 10 bits, and neighbours would change places.
    scores = jnp.einsum("qd,cd->qc", queries, block, precision=lax.Precision.HIGHEST)
    column = jnp.arange(block.shape[0])
    scores = jnp.where(column < valid, scores, -jnp.inf)
    if own is not None:
        self_column: Bool[Array, "q c"] = column == own + jnp.arange(len(queries))[:, None]
        scores = jnp.where(self_column, -jnp.inf, scores)
    groups = len(column) // _GROUP
    if k < groups:
        grouped = scores.reshape(len(queries), groups, _GROUP)
        _, chosen = lax.top_k(jnp.max(grouped, axis=-1), k)
        chosen = jnp.sort(chosen, axis=-1)  # so that of equal scores the lower row comes first
        scores = jnp.take_along_axis(grouped, chosen[:, :, None], axis=1)
        scores = scores.reshape(len(queries), k * _GROUP)
        column = (chosen[:, :, None] * _GROUP + jnp.arange(_GROUP)).reshape(scores.shape)
    else:
        column = jnp.broadcast_to(column, scores.shape)
    best, where = lax.top_k(scores, k)
    return best, jnp.take_along_axis(column, where, axis=1)


def _merge(
    scores: Float[np.ndarray, "q k"],
    indices: Int[np.ndarray, "q k"],
    new_scores: Float[np.ndarray, "q k"],
    new_indices: Int[np.ndarray, "q k"],
) -> None:
    """Put the best of both into ``scores`` and ``indices``; what was there wins a tie."""
    both = np.concatenate([scores, new_scores], axis=1)
    order = np.argsort(-both, axis=1, kind="stable")[:, : scores.shape[1]]
    scores[:] = np.take_along_axis(both, order, axis=1)
    indices[:] = np.take_along_axis(np.concatenate([indices, new_indices], axis=1), order, axis=1)
