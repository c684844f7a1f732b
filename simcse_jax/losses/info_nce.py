"""In-batch InfoNCE, the loss of SimCSE: one equation, four ways to compute it.

- ``dense``: the equation as written; holds the ``B x C`` logits.
- ``blockwise``: a block of rows at a time, memory ``O(block * C)``; the gradient is formed in the
  same pass, so forward and backward together cost three matrix products, ``6 B C D`` operations.
- either of them with ``axis_name``: rows stay on their device, candidates are gathered once.
- ``ring``: candidates travel from device to device and are never held together; the logits are
  recomputed on the way back, so it costs four products, ``8 B C D`` operations.

All give the same loss, accuracy and gradients to rounding.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

Similarity = Literal["cosine", "dot"]
Implementation = Literal["auto", "dense", "blockwise", "ring"]

# `auto` holds the logits below this many entries (4 bytes each) and goes blockwise above.
_DENSE_LOGITS = 1 << 20
# Bytes of float32 logits in one block: about what stays in the last-level cache of a CPU, and
# what fills the matrix units of an accelerator.
_BLOCK_BYTES = {"cpu": 32 << 20}
_BLOCK_BYTES_ACCELERATOR = 256 << 20

Precision = lax.PrecisionLike


class InfoNCE(NamedTuple):
    """What `info_nce` returns: two scalars over the global batch.

    Attributes:
      loss: mean negative log-likelihood of the own positive.
      accuracy: share of anchors whose own positive scores strictly above every other candidate, so
        a collapsed encoder has accuracy 0. It is a by-product of the log-sum-exp and has no
        gradient.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


class _Settings(NamedTuple):
    """What the differentiation rules need to know at trace time."""

    block_size: int
    log_alpha: float
    dtype: jnp.dtype
    precision: Precision
    axis_name: str | None = None


def info_nce(
    anchors: Float[Array, "B D"],
    positives: Float[Array, "B D"],
    hard_negatives: Float[Array, "B D"] | None = None,
    *,
    temperature: float | Float[Array, ""] = 0.05,
    hard_negative_weight: float = 0.0,
    similarity: Similarity = "cosine",
    symmetric: bool = False,
    group_ids: Int[Array, "B"] | None = None,
    implementation: Implementation = "auto",
    block_size: int | None = None,
    axis_name: str | None = None,
    precision: Precision = None,
) -> InfoNCE:
    r"""In-batch InfoNCE loss and accuracy (SimCSE, equations 1, 4 and 5).

    .. math::
      \ell_i = -\log \frac{e^{s(h_i, h_i^+)/\tau}}
        {\sum_j e^{s(h_i, h_j^+)/\tau} + \sum_j \alpha^{[i=j]} e^{s(h_i, h_j^-)/\tau}}

    averaged over the batch; without hard negatives the second sum is absent. As in the authors'
    code, ``hard_negative_weight`` is :math:`\log\alpha` and acts on the own hard negative only.

    Across devices, call it inside ``jax.shard_map`` or ``jax.pmap`` with ``axis_name``; each
    device passes its rows, as many as every other. Loss and accuracy are then those of the global
    batch, the same on every device, and differentiating is exact:

    - ``jax.grad`` outside of ``shard_map`` gives the gradient of the global loss, nothing to add;
    - ``jax.grad`` inside of ``shard_map`` (``check_vma=True``, its default) with respect to
      replicated parameters gives that same gradient: JAX has summed over the axis already;
    - inside of ``jax.pmap``, or with ``check_vma=False``, each device gets the number of devices
      times its own share, so take ``jax.lax.pmean`` of the gradients, as is usual there.

    Args:
      anchors: ``h``, ``[B, D]``, float32 or bfloat16 (float64 under x64).
      positives: ``h+``, ``[B, D]``; row i belongs to anchor i.
      hard_negatives: ``h-``, ``[B, D]``, or None.
      temperature: ``τ``; a float, or a scalar array if it is learnt.
      hard_negative_weight: ``log α``, 0 for the plain equation 5; unused without hard negatives.
      similarity: ``"cosine"``, or ``"dot"`` as in the paper's ablation.
      symmetric: also rank the anchors for each positive, as CLIP does, and average loss and
        accuracy of both directions. Hard negatives take part in the first direction only.
      group_ids: ``[B]``; rows with equal ids are duplicates of each other, and the positive of one
        is left out of the denominator of the other. Hard negatives are never left out.
      implementation: ``"dense"``, ``"blockwise"``, ``"ring"`` (needs ``axis_name``), or ``"auto"``:
        dense while the logits are small, blockwise above. Blockwise and ring have no forward mode.
      block_size: rows per block; by default a size measured on CPU, larger on accelerators.
      axis_name: the mapped axis over which the global batch is spread, or None.
      precision: of the matrix products, as in `jax.lax.dot`. Products take the inputs' dtype and
        always accumulate in float32 (float64 for float64).

    Returns:
      ``InfoNCE(loss, accuracy)``, float32 scalars (float64 for float64 inputs).

    Raises:
      ValueError: shapes that differ, an empty batch, an unknown name, a temperature or a block
        size that is not positive, or ``"ring"`` without ``axis_name``.

    Example:
      >>> h = jnp.eye(4)
      >>> loss, accuracy = info_nce(h, h, temperature=1.0)
      >>> print(f"{loss:.4f} {accuracy:.0f}")  # log(1 + 3 / e)
      0.7437 1
    """
    _check(
        anchors, positives, hard_negatives, group_ids, similarity, implementation, axis_name,
        temperature, block_size,
    )  # fmt: skip
    inputs = (
        [anchors, positives] if hard_negatives is None else [anchors, positives, hard_negatives]
    )
    dtype = jnp.result_type(*inputs)
    accum = jnp.promote_types(dtype, jnp.float32)
    inputs = [x.astype(accum) for x in inputs]
    if similarity == "cosine":
        inputs = [_normalize(x) for x in inputs]
    anchors, positives, *others = (x.astype(dtype) for x in inputs)
    # The zero makes 1/τ vary over the mapped axis where the anchors do.
    scale = jnp.zeros_like(anchors, shape=(), dtype=accum) + 1.0 / jnp.asarray(temperature, accum)

    rows = anchors.shape[0]
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    columns = rows * devices * (1 + len(others))
    if implementation == "auto":
        implementation = "dense" if rows * columns <= _DENSE_LOGITS else "blockwise"
    if implementation == "ring":
        columns //= devices
    settings = _Settings(
        block_size=block_size or _default_block_size(rows, columns),
        log_alpha=float(hard_negative_weight) if others else 0.0,
        dtype=dtype,
        precision=precision,
        axis_name=axis_name,
    )

    def direction(
        settings: _Settings, queries: Array, keys: Array, negatives: list[Array]
    ) -> tuple[Array, Array]:
        """Sums of loss and hits over this device's rows, each against all candidates."""
        if implementation == "ring":
            candidates = jnp.concatenate([keys, *negatives])
            return _ring(settings, queries, candidates, group_ids, scale)
        candidates = jnp.concatenate([_gather(x, axis_name) for x in (keys, *negatives)])
        column_ids = None if group_ids is None else _gather(group_ids, axis_name)
        offset = 0 if axis_name is None else lax.axis_index(axis_name) * rows
        tile = _dense if implementation == "dense" else _blockwise
        return tile(settings, queries, candidates, group_ids, column_ids, scale, offset)

    loss, hits = direction(settings, anchors, positives, others)
    if symmetric:
        back = direction(settings._replace(log_alpha=0.0), positives, anchors, [])
        loss, hits = (loss + back[0]) / 2, (hits + back[1]) / 2
    if axis_name is not None:
        loss, hits = lax.psum((loss, hits), axis_name)
    return InfoNCE(loss / (rows * devices), lax.stop_gradient(hits) / (rows * devices))


def info_nce_loss(
    anchors: Float[Array, "B D"],
    positives: Float[Array, "B D"],
    hard_negatives: Float[Array, "B D"] | None = None,
    **options: Any,
) -> Float[Array, ""]:
    """The loss of `info_nce` alone, for ``jax.grad``; takes the same options.

    Example:
      >>> print(f"{info_nce_loss(jnp.ones((8, 3)), jnp.ones((8, 3))):.4f}")  # log 8
      2.0794
    """
    return info_nce(anchors, positives, hard_negatives, **options).loss


# ------------------------------------------------------------------------------------- one tile


def _logits(
    settings: _Settings,
    queries: Float[Array, "R D"],
    candidates: Float[Array, "C D"],
    scale: Float[Array, ""],
) -> Float[Array, "R C"]:
    return scale * _dot(queries, candidates, ((1,), (1,)), settings.precision)


def _pick(logits: Float[Array, "R C"], own: Int[Array, "R"]) -> Float[Array, "R"]:
    return jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]


def _others(
    settings: _Settings,
    logits: Float[Array, "R C"],
    row_ids: Int[Array, "R"] | None,
    column_ids: Int[Array, "P"] | None,
    own: Int[Array, "R"] | None,
) -> Float[Array, "R C"]:
    """Logits of the other candidates: log α added, the own positive and duplicates at -inf.

    ``own`` is the column of each row's positive, None where this tile holds none of them; the
    hard negatives, if any, are the second half of the columns, in the same order.
    """
    count = logits.shape[1]
    column = lax.broadcasted_iota(jnp.int32, (1, count), 1)
    if own is not None:
        if settings.log_alpha:
            own_negative = column == own[:, None] + count // 2
            logits = logits + jnp.where(own_negative, settings.log_alpha, 0.0).astype(logits.dtype)
        logits = jnp.where(column == own[:, None], -jnp.inf, logits)
    if row_ids is not None and column_ids is not None:
        same = row_ids[:, None] == column_ids[None, :]  # [R, P]
        same = jnp.pad(same, ((0, 0), (0, count - same.shape[1])))  # [R, C]
        logits = jnp.where(same, -jnp.inf, logits)
    return logits


def _row_loss(
    positive: Float[Array, "R"], best: Float[Array, "R"], others: Float[Array, "R"]
) -> tuple[Float[Array, "R"], Float[Array, "R"]]:
    """Loss and softmax denominator; ``others`` and the denominator are relative to exp(top).

    ``top = max(positive, best)``. Nothing cancels: a loss of 1e-12 comes out as 1e-12.
    """
    top = jnp.maximum(positive, best)
    loss = (top - positive) + jnp.log1p(others + jnp.expm1(positive - top))
    return loss, others + jnp.exp(positive - top)


def _dense(
    settings: _Settings,
    queries: Float[Array, "R D"],
    candidates: Float[Array, "C D"],
    row_ids: Int[Array, "R"] | None,
    column_ids: Int[Array, "P"] | None,
    scale: Float[Array, ""],
    offset: int | Int[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The equation as written; the other implementations are tested against it."""
    logits = _logits(settings, queries, candidates, scale)  # [R, C]
    own = offset + jnp.arange(queries.shape[0])[:, None]  # [R, 1]
    column = jnp.arange(candidates.shape[0])[None, :]  # [1, C]
    if settings.log_alpha:
        logits = logits + jnp.where(column == own + candidates.shape[0] // 2, settings.log_alpha, 0)
    if row_ids is not None and column_ids is not None:
        same = row_ids[:, None] == column_ids[None, :]  # [R, P]
        duplicate = jnp.zeros(logits.shape, bool).at[:, : same.shape[1]].set(same)
        logits = jnp.where(duplicate & (column != own), -jnp.inf, logits)
    positive = _pick(logits, own[:, 0])  # [R]
    loss = jax.nn.logsumexp(logits, axis=1) - positive
    hits = positive > jnp.where(column == own, -jnp.inf, logits).max(axis=1)
    return loss.sum(), hits.sum(dtype=loss.dtype)


# ------------------------------------------------------------------------------------ blockwise


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise(
    settings: _Settings,
    queries: Float[Array, "R D"],
    candidates: Float[Array, "C D"],
    row_ids: Int[Array, "R"] | None,
    column_ids: Int[Array, "P"] | None,
    scale: Float[Array, ""],
    offset: int | Int[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    def body(carry: None, rows: tuple) -> tuple[None, tuple]:
        query, ids, own = rows
        logits = _logits(settings, query, candidates, scale)
        positive = _pick(logits, own)
        logits = _others(settings, logits, ids, column_ids, own)
        best = logits.max(axis=1)
        others = jnp.exp(logits - jnp.maximum(positive, best)[:, None]).sum(axis=1)
        return carry, (_row_loss(positive, best, others)[0], positive > best)

    own = offset + jnp.arange(queries.shape[0])
    _, (loss, hits) = _scan_rows(body, None, (queries, row_ids, own), settings.block_size)
    return loss.sum(), hits.sum(dtype=loss.dtype)


def _blockwise_forward(
    settings: _Settings,
    queries: Float[Array, "R D"],
    candidates: Float[Array, "C D"],
    row_ids: Int[Array, "R"] | None,
    column_ids: Int[Array, "P"] | None,
    scale: Float[Array, ""],
    offset: int | Int[Array, ""],
) -> tuple[tuple[Array, Array], tuple]:
    """Loss and, in the same pass, its gradient: a row block sees its whole denominator at once.

    ``d loss_i / d logit_ij = p_ij - [j = own]``. The own column is left out of the products and
    enters as the vector ``1 - p_own = others / total``, in float32 and without cancellation.
    """

    def body(d_candidates: Array, rows: tuple) -> tuple[Array, tuple]:
        query, ids, own = rows
        logits = _logits(settings, query, candidates, scale)
        positive = _pick(logits, own)
        logits = _others(settings, logits, ids, column_ids, own)
        best = logits.max(axis=1)
        exps = jnp.exp(logits - jnp.maximum(positive, best)[:, None])  # [block, C]
        others = exps.sum(axis=1)
        loss, total = _row_loss(positive, best, others)
        exps = exps.astype(query.dtype)
        weight = scale / total
        d_query = weight[:, None] * _dot(exps, candidates, ((1,), (0,)), settings.precision)
        weighted = (weight[:, None] * query).astype(query.dtype)
        d_candidates = d_candidates + _dot(exps, weighted, ((0,), (0,)), settings.precision)
        return d_candidates, (loss, positive > best, d_query, weight * others)

    rows = queries.shape[0]
    start = jnp.zeros_like(candidates, dtype=scale.dtype)
    d_candidates, (loss, hits, d_queries, pull) = _scan_rows(
        body, start, (queries, row_ids, offset + jnp.arange(rows)), settings.block_size
    )
    positives = lax.dynamic_slice_in_dim(candidates, offset, rows)
    d_positives = lax.dynamic_slice_in_dim(d_candidates, offset, rows) - pull[:, None] * queries
    d_candidates = lax.dynamic_update_slice_in_dim(d_candidates, d_positives, offset, 0)
    d_queries = d_queries - pull[:, None] * positives
    # The logits of a row are scale * query . candidate, hence:
    d_scale = (d_queries * queries).sum() / scale
    return (loss.sum(), hits.sum(dtype=loss.dtype)), (d_queries, d_candidates, d_scale)


def _blockwise_backward(settings: _Settings, residuals: tuple, cotangents: tuple) -> tuple:
    d_queries, d_candidates, d_scale = residuals
    g = cotangents[0]
    return (
        (g * d_queries).astype(settings.dtype),
        (g * d_candidates).astype(settings.dtype),
        None,
        None,
        g * d_scale,
        None,
    )


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)


# ----------------------------------------------------------------------------------------- ring


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(
    settings: _Settings,
    queries: Float[Array, "R D"],
    candidates: Float[Array, "C D"],
    group_ids: Int[Array, "R"] | None,
    scale: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    return _ring_forward(settings, queries, candidates, group_ids, scale)[0]


def _ring_forward(
    settings: _Settings,
    queries: Float[Array, "R D"],
    candidates: Float[Array, "C D"],
    group_ids: Int[Array, "R"] | None,
    scale: Float[Array, ""],
) -> tuple[tuple[Array, Array], tuple]:
    """One trip of the candidates around the ring; each row keeps its running maximum and sum."""

    def visit(visitor: tuple, state: tuple | None) -> tuple:
        """Merges one device's candidates; at home (state None) they hold the own positives."""
        keys, key_ids = visitor

        def body(carry: None, rows: tuple) -> tuple[None, tuple]:
            query, ids, own, block_state = rows
            logits = _logits(settings, query, keys, scale)
            if own is not None:  # at home
                positive = _pick(logits, own)
                before, others = jnp.full_like(positive, -jnp.inf), jnp.zeros_like(positive)
            else:
                positive, before, others = block_state
            logits = _others(settings, logits, ids, key_ids, own)
            best = jnp.maximum(before, logits.max(axis=1))
            top = jnp.maximum(positive, best)  # finite, even where all are masked
            others = others * jnp.exp(jnp.maximum(positive, before) - top)
            others = others + jnp.exp(logits - top[:, None]).sum(axis=1)
            return carry, (positive, best, others)

        own = jnp.arange(queries.shape[0]) if state is None else None
        rows = (queries, group_ids, own, state)
        return _scan_rows(body, None, rows, settings.block_size)[1]

    def hop(carry: tuple, _: None) -> tuple[tuple, None]:
        visitor, state = carry
        # Sent on before it is used, so that the transfer can hide behind the products.
        return (_send(visitor, settings.axis_name), visit(visitor, state)), None

    visitor = (candidates, group_ids)
    state = visit(visitor, None)
    if (devices := lax.axis_size(settings.axis_name)) > 1:
        visitor = _send(visitor, settings.axis_name)
        (_, state), _ = lax.scan(hop, (visitor, state), length=devices - 1)
    positive, best, others = state
    loss, total = _row_loss(positive, best, others)
    log_total = jnp.maximum(positive, best) + jnp.log(total)
    hits = (positive > best).sum(dtype=loss.dtype)
    residuals = (queries, candidates, group_ids, scale, log_total, others / total)
    return (loss.sum(), hits), residuals


def _ring_backward(settings: _Settings, residuals: tuple, cotangents: tuple) -> tuple:
    """A second trip: the candidates travel with their gradients, which so arrive home complete."""
    queries, candidates, group_ids, scale, log_total, not_own = residuals
    weight = cotangents[0] * scale

    def visit(visitor: tuple, d_queries: Array, own: Array | None) -> tuple[tuple, Array]:
        keys, key_ids, d_keys = visitor

        def body(d_keys: Array, rows: tuple) -> tuple[Array, Array]:
            query, ids, own, log_total, d_query = rows
            logits = _logits(settings, query, keys, scale)
            logits = _others(settings, logits, ids, key_ids, own)
            probabilities = jnp.exp(logits - log_total[:, None]).astype(query.dtype)
            d_query = d_query + weight * _dot(probabilities, keys, ((1,), (0,)), settings.precision)
            d_keys = d_keys + weight * _dot(probabilities, query, ((0,), (0,)), settings.precision)
            return d_keys, d_query

        rows = (queries, group_ids, own, log_total, d_queries)
        d_keys, d_queries = _scan_rows(body, d_keys, rows, settings.block_size)
        return (keys, key_ids, d_keys), d_queries

    def hop(carry: tuple, _: None) -> tuple[tuple, None]:
        visitor, d_queries = carry
        visitor, d_queries = visit(visitor, d_queries, None)
        return (_send(visitor, settings.axis_name), d_queries), None

    count = queries.shape[0]
    pull = weight * not_own[:, None]  # [R, 1], the own positive's -(p - 1)
    d_candidates = jnp.zeros_like(candidates, dtype=scale.dtype).at[:count].add(-pull * queries)
    d_queries = -pull * candidates[:count]
    own = jnp.arange(count)
    visitor, d_queries = visit((candidates, group_ids, d_candidates), d_queries, own)
    if (devices := lax.axis_size(settings.axis_name)) > 1:
        visitor = _send(visitor, settings.axis_name)
        (visitor, d_queries), _ = lax.scan(hop, (visitor, d_queries), length=devices - 1)
    d_candidates = visitor[2]
    d_scale = (d_queries * queries).sum() / scale
    return d_queries.astype(settings.dtype), d_candidates.astype(settings.dtype), None, d_scale


_ring.defvjp(_ring_forward, _ring_backward)


def _send(tree: Any, axis_name: str | None) -> Any:
    """Hands a tree of arrays to the next device of the ring."""
    size = lax.axis_size(axis_name)
    return lax.ppermute(tree, axis_name, [(i, (i + 1) % size) for i in range(size)])


# -------------------------------------------------------------------------------------- helpers


def _dot(
    left: Array, right: Array, contract: tuple[tuple[int], tuple[int]], precision: Precision
) -> Array:
    """A matrix product in the inputs' dtype, accumulated in float32 at least."""
    return lax.dot_general(
        left,
        right,
        (contract, ((), ())),
        precision=precision,
        preferred_element_type=jnp.promote_types(left.dtype, jnp.float32),
    )


def _normalize(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Unit rows; a row shorter than 1e-8 keeps a finite gradient."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * lax.rsqrt(jnp.maximum(square, 1e-16))


def _gather(x: Shaped[Array, "R ..."], axis_name: str | None) -> Shaped[Array, "B ..."]:
    """The rows of all devices in order; its transpose sums the gradients back to their rows."""
    return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)


def _scan_rows(body: Callable, carry: Any, rows: Any, block_size: int) -> tuple[Any, Any]:
    """`lax.scan` over blocks of rows; what is left over at the end goes through ``body`` alone."""
    count = jax.tree.leaves(rows)[0].shape[0]
    block_size = min(block_size, count)
    blocks, rest = divmod(count, block_size)
    even = blocks * block_size
    if blocks == 1:
        carry, out = body(carry, jax.tree.map(lambda x: x[:even], rows))
    else:
        split = jax.tree.map(lambda x: x[:even].reshape(blocks, block_size, *x.shape[1:]), rows)
        carry, out = lax.scan(body, carry, split)
        out = jax.tree.map(lambda x: x.reshape(even, *x.shape[2:]), out)
    if rest:
        carry, tail = body(carry, jax.tree.map(lambda x: x[even:], rows))
        out = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), out, tail)
    return carry, out


def _default_block_size(rows: int, columns: int) -> int:
    """Rows whose logits fill the budget: a multiple of 128, and blocks of nearly equal size."""
    budget = _BLOCK_BYTES.get(jax.default_backend(), _BLOCK_BYTES_ACCELERATOR)
    most = max(128, budget // (4 * columns) // 128 * 128)
    blocks = -(-rows // most)
    return min(most, -(-rows // (128 * blocks)) * 128)


def _check(
    anchors: Array,
    positives: Array,
    hard_negatives: Array | None,
    group_ids: Array | None,
    similarity: str,
    implementation: str,
    axis_name: str | None,
    temperature: float | Array,
    block_size: int | None,
) -> None:
    if anchors.ndim != 2 or 0 in anchors.shape:
        raise ValueError(f"anchors must be a non-empty [B, D] array, not {anchors.shape}.")
    for name, x in (("positives", positives), ("hard_negatives", hard_negatives)):
        if x is not None and x.shape != anchors.shape:
            raise ValueError(
                f"{name} {x.shape} must have the shape of anchors {anchors.shape}, "
                "one row for each anchor."
            )
    for name, x in (
        ("anchors", anchors),
        ("positives", positives),
        ("hard_negatives", hard_negatives),
    ):
        if x is not None and not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating-point, not {x.dtype}.")
    if group_ids is not None and group_ids.shape != anchors.shape[:1]:
        raise ValueError(
            f"group_ids {group_ids.shape} must have one integer for each row of anchors "
            f"{anchors.shape}."
        )
    if group_ids is not None and not jnp.issubdtype(group_ids.dtype, jnp.integer):
        raise ValueError(f"group_ids must be integers, not {group_ids.dtype}.")
    for name, value, known in (
        ("similarity", similarity, get_args(Similarity)),
        ("implementation", implementation, get_args(Implementation)),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}.")
    if implementation == "ring" and axis_name is None:
        raise ValueError("implementation 'ring' needs axis_name, the mapped axis of its devices.")
    if not isinstance(temperature, jax.core.Tracer) and not float(temperature) > 0:
        raise ValueError(f"temperature must be positive, not {temperature}.")
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1, not {block_size}.")
