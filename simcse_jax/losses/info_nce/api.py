"""InfoNCE as it is called: the arguments checked, and an implementation chosen."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Real, Shaped

from simcse_jax.arrays import AnyArray, Lists
from simcse_jax.checks import check_choice, check_count, check_positive
from simcse_jax.losses.geometry import float_rows, unit_rows
from simcse_jax.losses.info_nce.blocks import default_block_size
from simcse_jax.losses.info_nce.blockwise import blockwise_sums
from simcse_jax.losses.info_nce.dense import dense_sums
from simcse_jax.losses.info_nce.logits import Precision, StaticOptions
from simcse_jax.losses.info_nce.reference import (
    InfoNCE,
    Similarity,
    check_shapes,
    hard_negative_columns,
)
from simcse_jax.losses.info_nce.ring import ring_sums

Implementation = Literal["auto", "dense", "blockwise", "ring"]

# `auto` holds the logits below this many entries (4 bytes each) and goes blockwise above.
_DENSE_LOGITS = 1 << 20


def info_nce(
    anchors: Real[AnyArray, "B D"] | Lists,
    positives: Real[AnyArray, "B D"] | Lists,
    hard_negatives: Real[AnyArray, "B D"] | Real[AnyArray, "B K D"] | Lists | None = None,
    *,
    temperature: float | Float[AnyArray, ""] = 0.05,
    hard_negative_weight: float = 0.0,
    similarity: Similarity = "cosine",
    symmetric: bool = False,
    group_ids: Int[AnyArray, "B"] | None = None,
    implementation: Implementation = "auto",
    block_size: int | None = None,
    axis_name: str | None = None,
    precision: Precision = lax.Precision.HIGHEST,
) -> InfoNCE:
    r"""Return the in-batch InfoNCE loss and accuracy (SimCSE, equations 1, 4 and 5).

    .. math::
      \ell_i = -\log \frac{e^{s(h_i, h_i^+)/\tau}}
        {\sum_j e^{s(h_i, h_j^+)/\tau} + \sum_{j,k} \alpha^{[i=j]} e^{s(h_i, h_{jk}^-)/\tau}}

    averaged over the batch; without hard negatives the second sum is absent. The paper has one for
    each anchor, and in one row of its ablations two (a contradiction and a neutral one). As in the
    authors' code, ``hard_negative_weight`` is :math:`\log\alpha` and acts on each anchor's own hard
    negatives only.

    Across devices, call it inside ``jax.shard_map`` or ``jax.pmap`` with ``axis_name``; each
    device passes its rows, as many as every other. Loss and accuracy are then those of the global
    batch, the same on every device, and differentiating is exact:

    - ``jax.grad`` outside of ``shard_map`` gives the gradient of the global loss, nothing to add;
    - ``jax.grad`` inside of ``shard_map`` (``check_vma=True``, its default) with respect to
      replicated parameters gives that same gradient: JAX has summed over the axis already;
    - inside of ``jax.pmap``, or with ``check_vma=False``, each device gets the number of devices
      times its own share, so take ``jax.lax.pmean`` of the gradients, as is usual there.

    Args:
      anchors: ``h``, ``[B, D]``, float32 or bfloat16 (float64 under x64); other numbers and lists
        become float32.
      positives: ``h+``, ``[B, D]``; row i belongs to anchor i.
      hard_negatives: ``h-``, ``[B, D]``; or ``[B, K, D]`` of K for each anchor; or None.
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
      precision: of the matrix products, as in `jax.lax.dot`; None is the accelerator's default,
        which rounds float32 (TF32 on a GPU, bfloat16 on a TPU) and so moves the logits at a low
        temperature. Products take the inputs' dtype and always accumulate in float32 (float64 for
        float64).

    Returns:
      ``InfoNCE(loss, accuracy)``, float32 scalars (float64 for float64 inputs).

    Raises:
      ValueError: what is no matrix of real numbers, shapes that differ, an empty batch, an unknown
        name, a temperature or a block
        size that is not positive, or ``"ring"`` without ``axis_name``.

    Example:
      >>> h = jnp.eye(4)
      >>> loss, accuracy = info_nce(h, h, temperature=1.0)
      >>> print(f"{loss:.4f} {accuracy:.0f}")  # log(1 + 3 / e)
      0.7437 1
    """
    _check_options(similarity, implementation, axis_name, temperature, block_size)
    given = [float_rows("anchors", anchors), float_rows("positives", positives)]
    given += [] if hard_negatives is None else hard_negative_columns(hard_negatives)
    ids = None if group_ids is None else jnp.asarray(group_ids)
    check_shapes(given, ids)
    dtype = jnp.result_type(*given)
    accum = jnp.promote_types(dtype, jnp.float32)
    embeddings = [jnp.asarray(x, accum) for x in given]
    if similarity == "cosine":
        embeddings = [unit_rows(x, differentiable=True) for x in embeddings]
    queries, keys, *negatives = (x.astype(dtype) for x in embeddings)
    # The zero makes 1/τ vary over the mapped axis where the anchors do.
    scale = jnp.zeros_like(queries, shape=(), dtype=accum) + 1.0 / jnp.asarray(temperature, accum)

    rows = queries.shape[0]
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    columns = rows * devices * (1 + len(negatives))
    if implementation == "auto":
        implementation = "dense" if rows * columns <= _DENSE_LOGITS else "blockwise"
    if implementation == "ring":
        columns //= devices
    options = StaticOptions(
        block_size=default_block_size(rows, columns) if block_size is None else block_size,
        log_alpha=float(hard_negative_weight) if negatives else 0.0,
        hard_negatives=len(negatives),
        dtype=dtype,
        precision=precision,
        axis_name=axis_name,
    )
    loss, correct = _direction(implementation, options, queries, keys, negatives, ids, scale)
    if symmetric:
        plain = options._replace(log_alpha=0.0, hard_negatives=0)
        reverse = _direction(implementation, plain, keys, queries, [], ids, scale)
        loss, correct = (loss + reverse[0]) / 2, (correct + reverse[1]) / 2
    if axis_name is not None:
        loss, correct = lax.psum((loss, correct), axis_name)
    return InfoNCE(loss / (rows * devices), lax.stop_gradient(correct) / (rows * devices))


def info_nce_loss(
    anchors: Real[AnyArray, "B D"] | Lists,
    positives: Real[AnyArray, "B D"] | Lists,
    hard_negatives: Real[AnyArray, "B D"] | Real[AnyArray, "B K D"] | Lists | None = None,
    **options: Any,
) -> Float[Array, ""]:
    """Return the loss of `info_nce` alone, for ``jax.grad``; it takes the same options.

    Example:
      >>> print(f"{info_nce_loss(jnp.ones((8, 3)), jnp.ones((8, 3))):.4f}")  # log 8
      2.0794
    """
    return info_nce(anchors, positives, hard_negatives, **options).loss


def _direction(
    implementation: Implementation,
    options: StaticOptions,
    queries: Float[Array, "R D"],
    keys: Float[Array, "R D"],
    negatives: list[Float[Array, "R D"]],
    group_ids: Int[Array, "R"] | None,
    scale: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the sums of loss and correct ranks over this device's rows, against all candidates."""
    if implementation == "ring":
        return ring_sums(options, queries, jnp.concatenate([keys, *negatives]), group_ids, scale)
    axis_name = options.axis_name
    candidates = jnp.concatenate([_gather(x, axis_name) for x in (keys, *negatives)])
    column_ids = None if group_ids is None else _gather(group_ids, axis_name)
    offset = 0 if axis_name is None else lax.axis_index(axis_name) * queries.shape[0]
    sums = dense_sums if implementation == "dense" else blockwise_sums
    return sums(options, queries, candidates, group_ids, column_ids, scale, offset)


def _gather(x: Shaped[Array, "R *D"], axis_name: str | None) -> Shaped[Array, "B *D"]:
    """Return the rows of all devices in order; the transpose sums the gradients of each row."""
    return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)


def _check_options(
    similarity: str,
    implementation: str,
    axis_name: str | None,
    temperature: float | AnyArray,
    block_size: int | None,
) -> None:
    check_choice("similarity", similarity, get_args(Similarity))
    check_choice("implementation", implementation, get_args(Implementation))
    if implementation == "ring" and axis_name is None:
        raise ValueError("implementation 'ring' needs axis_name, the mapped axis of its devices.")
    if not isinstance(temperature, jax.core.Tracer):
        array = isinstance(temperature, np.ndarray | jax.Array)
        check_positive("temperature", np.asarray(temperature).tolist() if array else temperature)
    if block_size is not None:
        check_count("block_size", block_size)
