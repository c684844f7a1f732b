"""SimCSE's update as a pure function (Gao et al. 2021), and the parts it is made of.

Every view of a sentence has its own dropout key, the run's key folded with the stream's name, the
step and the view's place in the global batch, and its masks depend on nothing else. So the masks
of two views are independent, and the update depends neither on how many devices or chunks the
views are spread over, nor on whether they are padded, a row each, or packed into rows.

Letters: B examples of the batch, C columns (views), S = B·C sentences, R rows of L tokens (R = S
unless they are packed), D hidden, V words.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, Shaped

from simcse_jax.losses.geometry import alignment, uniformity
from simcse_jax.losses.info_nce import info_nce
from simcse_jax.losses.masked_lm import IGNORED, masked_lm_loss
from simcse_jax.models.batch import AnyArray, Batch
from simcse_jax.models.bert import BertConfig, BertEncoder, EncoderOutput, positions_of
from simcse_jax.models.dropout import token_seeds
from simcse_jax.models.heads import MaskedLMHead, Pooler
from simcse_jax.models.pooling import first_only, pool
from simcse_jax.training.state import Params, TrainSettings, TrainState

Metrics = dict[str, Float[Array, ""]]
Step = Callable[[TrainState, Any, Key[Array, ""]], tuple[TrainState, Metrics]]
AXIS = "data"


class MaskingTokens(NamedTuple):
    """What masking needs to know of the tokenizer.

    Attributes:
        mask_id: the id of ``[MASK]`` or ``<mask>``.
        special_ids: ids that are never predicted: ``[CLS]``, ``[SEP]``, ``[PAD]`` and the like.
    """

    mask_id: int
    special_ids: tuple[int, ...]


# ---------------------------------------------------------------------------------------------
# Randomness
# ---------------------------------------------------------------------------------------------


def stream(key: Key[Array, ""], name: str, step: Int[Array, ""] | int) -> Key[Array, ""]:
    """The key of a named stream at a step."""
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)


def row_keys(key: Key[Array, ""], rows: Int[Array, "R"]) -> Key[Array, "R"]:
    """A key for each row of the global batch, by its number."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


def row_keys_of(keys: Key[Array, "R"], number: int) -> Key[Array, "R"]:
    """Another key for each row."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


# ---------------------------------------------------------------------------------------------
# The parts of the forward pass
# ---------------------------------------------------------------------------------------------


def encode_rows(
    config: BertConfig,
    params: Params,
    batch: Batch,
    keys: Key[Array, "S"] | None,
    dtype: Any = jnp.float32,
    **options: Any,
) -> EncoderOutput:
    """Encode rows ``[R, L]`` in one forward pass, each sentence with dropout masks of its own.

    Args:
        config: the architecture.
        params: ``{"encoder": …}``.
        batch: ids and mask, or packed rows.
        keys: a key a sentence; None is without dropout.
        dtype: the compute type.
        **options: of `BertEncoder`.
    """
    encoder = BertEncoder(config, dtype)
    return encoder.apply({"params": params["encoder"]}, batch, keys, **options)  # type: ignore[return-value]


def embed_rows(
    config: BertConfig,
    params: Params,
    batch: Batch,
    keys: Key[Array, "S"] | None,
    *,
    pooling: str,
    dtype: Any = jnp.float32,
    num_segments: int | None = None,
) -> Float[Array, "S D"]:
    """Encode, pool, and project through the MLP head if ``params`` has a ``"head"``; float32.

    A sentence is a row, or one of the ``num_segments`` segments of packed rows.
    """
    options = {"first_only": first_only(pooling), "num_segments": num_segments}
    hidden = encode_rows(config, params, batch, keys, dtype, **options)
    pooled: Any = pool(hidden, batch, pooling, num_segments)
    if "head" in params:
        pooled = Pooler(config, dtype).apply({"params": params["head"]}, pooled)
    return pooled.astype(jnp.float32)


def mask_tokens(
    batch: Batch,
    keys: Key[Array, "S"],
    tokens: MaskingTokens,
    vocab_size: int,
    probability: float = 0.15,
) -> tuple[Int[Array, "R L"], Int[Array, "R L"]]:
    """Mask tokens as BERT does (Devlin et al. 2019, section 3.1).

    Each token but the special ones is chosen with ``probability``; a chosen one becomes the mask
    (80 %), any word of the vocabulary (10 %), or stays (10 %). What is drawn for a token depends
    on its sentence's key and its place in the sentence.

    Args:
        batch: rows of tokens, packed or not.
        keys: a key a sentence.
        tokens: the tokenizer's.
        vocab_size: words.
        probability: of a token to be chosen.

    Returns:
        The masked ids, and labels: the true id where chosen, -100 elsewhere.
    """
    input_ids = jnp.asarray(batch.input_ids)
    seeds = token_seeds(keys, batch)  # [R L 2]
    chosen, changed = (s.astype(jnp.float32) * 2.0**-32 for s in jnp.unstack(seeds, axis=-1))
    other = token_seeds(row_keys_of(keys, 1), batch)[..., 0]
    words = (other % jnp.uint32(vocab_size)).astype(input_ids.dtype)
    special = jnp.isin(input_ids, jnp.asarray(tokens.special_ids, input_ids.dtype))
    picked = (chosen < probability) & jnp.asarray(batch.attention_mask, bool) & ~special
    masked = jnp.where(changed < 0.8, tokens.mask_id, jnp.where(changed < 0.9, words, input_ids))
    return jnp.where(picked, masked, input_ids), jnp.where(picked, input_ids, IGNORED)


# ---------------------------------------------------------------------------------------------
# Measurements
# ---------------------------------------------------------------------------------------------


def group_ids(
    batch: Batch, num_segments: int | None = None, axis_name: str | None = None
) -> tuple[Int[Array, "S"], Int[Array, ""]]:
    """A number for each distinct sentence, and how many sentences repeat an earlier one.

    Sentences are compared by a 64-bit hash of their tokens, so that no ``[S, S]`` array is made.

    Args:
        batch: rows of tokens, packed or not; padding does not count.
        num_segments: the (static) number of sentences in packed rows.
        axis_name: the mapped axis over which the rows are spread.

    Returns:
        ``[S]``, equal where the sentences are; and the global batch's number of duplicates.
    """
    mask = jnp.asarray(batch.attention_mask, bool)
    ids = jnp.where(mask, jnp.asarray(batch.input_ids) + 1, 0).astype(jnp.uint32)

    def scramble(x: Array) -> Array:  # MurmurHash3's finalizer
        x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
        x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
        return x ^ (x >> 16)

    place = jnp.asarray(positions_of(batch)).astype(jnp.uint32)

    def total(x: Array) -> Array:
        if batch.segment_ids is None:
            return x.sum(1)
        assert num_segments is not None
        segments = jnp.asarray(batch.segment_ids).reshape(-1)
        return jax.ops.segment_sum(x.reshape(-1), segments, num_segments + 1)[1:]

    # Padding adds nothing, so that the hash does not depend on the length of the batch.
    hashes = [
        total(jnp.where(ids > 0, scramble(scramble(ids * odd) + scramble(place + odd)), 0))
        for odd in (jnp.uint32(0x9E3779B1), jnp.uint32(0x7FEB352D))
    ]  # [S] each
    rows = len(hashes[0])
    if axis_name is not None:
        hashes = [lax.all_gather(h, axis_name, tiled=True) for h in hashes]
    order = jnp.lexsort(tuple(hashes))
    low, high = (h[order] for h in hashes)
    new = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    number = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(new, dtype=jnp.int32)])
    groups = jnp.zeros_like(number).at[order].set(number)
    duplicates = len(groups) - 1 - number[-1]
    if axis_name is not None:
        groups = lax.dynamic_slice_in_dim(groups, lax.axis_index(axis_name) * rows, rows)
    return groups, duplicates


# ---------------------------------------------------------------------------------------------
# The step
# ---------------------------------------------------------------------------------------------


class SiameseBatch(NamedTuple):
    """Examples of one to three sentences, packed or a sentence a row.

    Attributes:
        sentences: which segment of the rows each sentence is, counted from 1 through the whole
            batch (which row, where the rows are not packed).
        rows: the tokens.
        labels: classes (softmax) or similarities (regression); None where there are none.
    """

    sentences: Int[AnyArray, "B C"]
    rows: Batch
    labels: Shaped[AnyArray, "B"] | None = None


class Views(NamedTuple):
    """The views of the examples, what they are made of, and what is drawn for them.

    Attributes:
        rows: the tokens.
        keys: a key for each sentence of the rows.
        sentences: as in `SiameseBatch`.
        masked: masked ids and labels, ``[R, L]``, for the masked-LM loss.
    """

    rows: Batch
    keys: Key[Array, "S"]
    sentences: Int[Array, "B C"]
    masked: tuple[Array, Array] | None


def simcse_step(
    config: BertConfig,
    settings: TrainSettings,
    optimizer: optax.GradientTransformation,
    *,
    masking: MaskingTokens | None = None,
    mesh: Mesh | None = None,
    axis_name: str | None = None,
) -> Step:
    r"""SimCSE's update (equations 1, 4 and 5; section 5.3's masked-LM loss), un-jitted.

    .. math:: \ell = \ell_{InfoNCE} + \lambda\, \ell_{MLM}

    All columns are rows of one forward pass. With ``settings.accumulate`` the encoder sees a chunk
    at a time (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited
    setup", GradCache): embeddings of all chunks without gradient, the loss and its gradient with
    respect to them over the whole batch, then each chunk again, with the same masks, to carry that
    gradient on to the parameters.

    Args:
        config: the architecture; its dropout rates are SimCSE's augmentation.
        settings: of the run.
        optimizer: see `simcse_jax.training.make_optimizer`.
        masking: the tokenizer's ids, needed with ``settings.mlm_weight``.
        mesh: of several devices, with one axis ``data``: the loss is then computed with each
            device's rows where they lie and the candidates gathered (or sent round, with
            ``implementation="ring"``). The step is written for the global batch all the same.
        axis_name: instead of ``mesh``, for the per-device step under
            ``jax.pmap(axis_name=…)``: batches are a device's rows, gradients and metrics are those
            of the global batch.

    Returns:
        ``step(state, batch, key) -> (state, metrics)``. The batch has ``input_ids`` and
        ``attention_mask`` of shape ``[B, C, L]``, or it is a packed `SiameseBatch` (not with
        ``accumulate`` or ``axis_name``); the update is the same. A single column is encoded
        twice. The key is the run's, the same at every step.
        Metrics are float32 scalars: ``loss``, ``contrastive_loss``, ``accuracy``,
        ``gradient_norm`` (before clipping), ``alignment``, ``uniformity`` (of the anchors),
        ``duplicates``, and ``mlm_loss`` with ``settings.mlm_weight``.

    Raises:
        ValueError: ``mlm_weight`` without ``masking``, both ``mesh`` and ``axis_name``; and, when
            the step is traced, a batch that is not ``[B, C, L]`` with one to three columns, or
            not divisible by ``accumulate``.
    """
    if settings.mlm_weight > 0 and masking is None:
        raise ValueError("mlm_weight is above 0, which needs masking, the tokenizer's mask token")
    if mesh is not None and axis_name is not None:
        raise ValueError("give mesh for the global step or axis_name for the per-device one")
    if settings.implementation == "ring" and mesh is None and axis_name is None:
        raise ValueError("implementation is 'ring', which needs the mesh of its devices")
    dtype = jnp.dtype(settings.dtype)
    embed = functools.partial(embed_rows, config, pooling=settings.pooling, dtype=dtype)

    def contrastive(z: Float[Array, "B C D"], groups: Int[Array, "B"]) -> tuple[Array, Metrics]:
        columns = [z[:, c] for c in range(z.shape[1])]  # [B D] each
        loss = functools.partial(
            info_nce,
            temperature=settings.temperature,
            hard_negative_weight=settings.hard_negative_weight,
            similarity=settings.similarity,
            symmetric=settings.symmetric,
            implementation=settings.implementation,
        )

        def own(columns: list[Array], groups: Array | None, axis: str | None) -> tuple:
            return tuple(loss(*columns, group_ids=groups, axis_name=axis))

        ids = groups if settings.mask_duplicates else None
        if mesh is not None and (mesh.size > 1 or settings.implementation == "ring"):
            spec = PartitionSpec(AXIS)
            spread = jax.shard_map(
                lambda columns, ids: own(columns, ids, AXIS),
                mesh=mesh,
                in_specs=(spec, spec),
                out_specs=PartitionSpec(),
            )
            value, accuracy = spread(columns, ids)
        else:
            value, accuracy = own(columns, ids, axis_name)
        fixed = [lax.stop_gradient(c) for c in columns]
        return value, {
            "contrastive_loss": value,
            "accuracy": accuracy,
            "alignment": alignment(fixed[0], fixed[1], axis_name),
            "uniformity": uniformity(fixed[0], axis_name),
        }

    def represent(params: Params, views: Views) -> Float[Array, "B C D"]:
        packed = views.rows.segment_ids is not None
        size = views.sentences.size if packed else None

        def by_example(params: Params) -> Float[Array, "B C D"]:
            z = embed(params, views.rows, views.keys, num_segments=size)  # [S D]
            return z[views.sentences - 1] if packed else z.reshape(*views.sentences.shape, -1)

        z = by_example(params)
        if settings.two_encoders:
            z = jnp.concatenate([z[:, :1], by_example(params["second"])[:, 1:]], axis=1)
        return z

    def mlm_share(params: Params, views: Views, count: Array) -> Float[Array, ""]:
        """This chunk's share of the mean over all masked positions."""
        if views.masked is None:
            return jnp.zeros(())
        masked, labels = views.masked
        batch = dataclasses.replace(views.rows, input_ids=masked)
        hidden = encode_rows(config, params, batch, row_keys_of(views.keys, 1), dtype).last
        words = params["encoder"]["embeddings"]["word"]["embedding"]
        logits: Any = MaskedLMHead(config, dtype).apply({"params": params["mlm"]}, hidden, words)
        own = jnp.maximum(jnp.sum(labels != IGNORED), 1)
        share = masked_lm_loss(logits, labels) * (own / jnp.maximum(count, 1))
        return share if axis_name is None else lax.psum(share, axis_name)

    def direct(params: Params, views: Views, groups: Array, count: Array) -> tuple[Params, Metrics]:
        def objective(params: Params) -> tuple[Array, Metrics]:
            loss, metrics = contrastive(represent(params, views), groups)
            mlm = mlm_share(params, views, count)
            return loss + settings.mlm_weight * mlm, {**metrics, "mlm_loss": mlm}

        return jax.grad(objective, has_aux=True)(params)

    def cached(params: Params, views: Views, groups: Array, count: Array) -> tuple[Params, Metrics]:
        chunks = _chunks(views, settings.accumulate)
        z = lax.map(functools.partial(represent, params), chunks)  # [A B/A C D]
        d_z, metrics = jax.grad(contrastive, has_aux=True)(_join(z), groups)

        def body(carry: tuple, chunk: tuple[Views, Array]) -> tuple[tuple, None]:
            views, d_z = chunk

            def surrogate(params: Params) -> tuple[Array, Array]:
                mlm = mlm_share(params, views, count)
                pulled = jnp.vdot(represent(params, views), d_z, precision=lax.Precision.HIGHEST)
                return pulled + settings.mlm_weight * mlm, mlm

            gradient, mlm = jax.grad(surrogate, has_aux=True)(params)
            return jax.tree.map(jnp.add, carry, (gradient, mlm)), None

        start = (jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))
        d_chunks = _split(d_z, settings.accumulate)
        (gradient, mlm), _ = lax.scan(body, start, (chunks, d_chunks))
        return gradient, {**metrics, "mlm_loss": mlm}

    def step(
        state: TrainState, batch: Batch | SiameseBatch, key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        if isinstance(batch, Batch):
            rows, sentences = _views(batch, settings.accumulate)
        elif settings.accumulate > 1 or axis_name is not None:
            raise ValueError("a packed batch cannot be cut: no accumulate, no axis_name")
        else:
            rows, sentences = _packed_views(batch)
        size, columns = sentences.shape
        groups, duplicates = _anchor_groups(rows, sentences, axis_name)
        first = 0 if axis_name is None else lax.axis_index(axis_name) * size

        def keys_of(name: str, shared: bool = False) -> Key[Array, "S"]:
            """For each sentence of the rows, by its example and view."""
            example = first + jnp.arange(size)[:, None]
            view = jnp.zeros(columns, int) if shared else jnp.arange(columns)
            numbers = example * columns + view  # [B C]
            by_segment = jnp.zeros(size * columns, numbers.dtype)
            by_segment = by_segment.at[sentences.reshape(-1) - 1].set(numbers.reshape(-1))
            return row_keys(stream(key, name, state.step), by_segment)

        masked, count = None, jnp.zeros((), int)
        if settings.mlm_weight > 0:
            assert masking is not None
            masked = mask_tokens(
                rows, keys_of("masking"), masking, config.vocab_size, settings.mlm_probability
            )
            count = jnp.sum(masked[1] != IGNORED)
            if axis_name is not None:
                count = lax.psum(count, axis_name)

        views = Views(rows, keys_of("dropout", settings.shared_dropout), sentences, masked)
        update = cached if settings.accumulate > 1 else direct
        gradient, metrics = update(state.params, views, groups, count)
        if axis_name is not None:
            gradient = lax.pmean(gradient, axis_name)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        mlm = metrics.pop("mlm_loss")
        if settings.mlm_weight > 0:
            metrics["mlm_loss"] = mlm
        metrics = {
            "loss": metrics["contrastive_loss"] + settings.mlm_weight * mlm,
            **metrics,
            "gradient_norm": optax.tree.norm(gradient),
            "duplicates": duplicates.astype(jnp.float32),
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def _views(batch: Batch, accumulate: int) -> tuple[Batch, Int[Array, "B C"]]:
    """The rows with one column doubled, and their numbers; or a ValueError."""
    shape = batch.input_ids.shape
    if len(shape) != 3 or not 1 <= shape[1] <= 3 or batch.attention_mask.shape != shape:
        raise ValueError(
            f"input_ids {shape} and attention_mask {batch.attention_mask.shape} must both be "
            "[B, C, L] with one, two or three columns C"
        )
    if shape[0] % accumulate:
        raise ValueError(f"a batch of {shape[0]} cannot be cut into {accumulate} equal chunks")
    batch = Batch(jnp.asarray(batch.input_ids), jnp.asarray(batch.attention_mask).astype(bool))
    if shape[1] == 1:
        batch = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=1), batch)
    size, columns, length = batch.input_ids.shape
    numbers = jnp.arange(1, size * columns + 1).reshape(size, columns)
    return jax.tree.map(lambda x: x.reshape(size * columns, length), batch), numbers


def _packed_views(batch: SiameseBatch) -> tuple[Batch, Int[Array, "B C"]]:
    """The same of a packed batch: its rows, with one column doubled, and its sentences."""
    rows, sentences = jax.tree.map(jnp.asarray, (batch.rows, batch.sentences))
    if rows.segment_ids is None or sentences.ndim != 2 or not 1 <= sentences.shape[1] <= 3:
        raise ValueError(
            f"sentences {sentences.shape} must be [B, C] with one, two or three columns C, and the "
            "rows packed"
        )
    if sentences.shape[1] > 1:
        return rows, sentences
    second = jnp.where(rows.segment_ids > 0, rows.segment_ids + sentences.size, 0)
    doubled = dataclasses.replace(rows, segment_ids=second)
    rows = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), rows, doubled)
    return rows, jnp.concatenate([sentences, sentences + sentences.size], 1)


def _anchor_groups(
    rows: Batch, sentences: Int[Array, "B C"], axis_name: str | None
) -> tuple[Int[Array, "B"], Int[Array, ""]]:
    """`group_ids` of the first column."""
    if rows.segment_ids is None:
        anchors = jax.tree.map(lambda x: x[:: sentences.shape[1]], rows)
        return group_ids(anchors, axis_name=axis_name)
    chosen = jnp.zeros(sentences.size + 1, jnp.int32)
    chosen = chosen.at[sentences[:, 0]].set(1 + jnp.arange(len(sentences)))
    anchors = dataclasses.replace(rows, segment_ids=chosen[rows.segment_ids])
    return group_ids(anchors, len(sentences))


def _chunks(views: Views, chunks: int) -> Views:
    """Padded views in chunks of whole examples, `_split` along a new first axis."""
    size, columns = views.sentences.shape

    def by_example(x: Array) -> Array:
        cut = _split(x.reshape(size, columns, *x.shape[1:]), chunks)
        return cut.reshape(chunks, -1, *x.shape[1:])

    rows, keys, masked = jax.tree.map(by_example, (views.rows, views.keys, views.masked))
    return Views(rows, keys, _split(views.sentences, chunks), masked)


def _split(x: Array, chunks: int) -> Array:
    """[B …] to [A B/A …], every A-th row in a chunk, so that each device has rows of each chunk."""
    return jnp.swapaxes(x.reshape(x.shape[0] // chunks, chunks, *x.shape[1:]), 0, 1)


def _join(x: Array) -> Array:
    """The inverse of `_split`."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
