"""InfoNCE as the paper writes it: for reading, and for testing the faster implementations."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Real

from simcse_jax.arrays import AnyArray, Lists
from simcse_jax.losses.geometry import float_rows, unit_rows

Similarity = Literal["cosine", "dot"]


class InfoNCE(NamedTuple):
    """What `info_nce` returns: two scalars over the global batch.

    Attributes:
      loss: mean negative log-likelihood of each anchor's positive.
      accuracy: share of anchors whose positive scores strictly above every other candidate, so
        a collapsed encoder has accuracy 0. It is a by-product of the log-sum-exp and has no
        gradient.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


def info_nce_reference(
    anchors: Float[AnyArray, "B D"],
    positives: Float[AnyArray, "B D"],
    hard_negatives: Float[AnyArray, "B D"] | Float[AnyArray, "B K D"] | None = None,
    *,
    temperature: float | Float[AnyArray, ""] = 0.05,
    hard_negative_weight: float = 0.0,
    similarity: Similarity = "cosine",
    symmetric: bool = False,
    group_ids: Int[AnyArray, "B"] | None = None,
) -> InfoNCE:
    r"""Return in-batch InfoNCE as written in SimCSE's equations 1, 4 and 5.

    .. math::
      \ell_i = -\log \frac{e^{s(h_i, h_i^+)/\tau}}
        {\sum_j e^{s(h_i, h_j^+)/\tau} + \sum_{j,k} \alpha^{[i=j]} e^{s(h_i, h_{jk}^-)/\tau}}

    It computes in float32 (float64 for float64 inputs) on one device and holds all logits. The
    arguments are those of `info_nce`, which checks them and has faster implementations.

    Example:
      >>> h = jnp.eye(4)
      >>> print(f"{info_nce_reference(h, h, temperature=1.0).loss:.4f}")  # log(1 + 3 / e)
      0.7437
    """
    anchors, positives = float_rows("anchors", anchors), float_rows("positives", positives)
    check_shapes([anchors, positives], None if group_ids is None else jnp.asarray(group_ids))
    columns = [] if hard_negatives is None else hard_negative_columns(hard_negatives)
    same = jnp.eye(len(anchors), dtype=bool)  # [B B], i = j
    logits = _similarities(anchors, positives, similarity) / temperature  # [B B]
    if group_ids is not None:
        logits = jnp.where(_equal(group_ids) & ~same, -jnp.inf, logits)
    for negatives in columns:
        hard = _similarities(anchors, negatives, similarity) / temperature
        logits = jnp.concatenate([logits, hard + hard_negative_weight * same], axis=1)  # [B B+KB]
    positive = jnp.diagonal(logits)  # [B]
    loss = jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive)
    at_least = jnp.sum(logits >= positive[:, None], axis=1)  # the positive itself among them
    accuracy = jnp.mean(at_least == 1, dtype=loss.dtype)
    if symmetric:
        reverse = info_nce_reference(
            positives,
            anchors,
            temperature=temperature,
            similarity=similarity,
            group_ids=group_ids,
        )
        loss, accuracy = (loss + reverse.loss) / 2, (accuracy + reverse.accuracy) / 2
    return InfoNCE(loss, accuracy)


def hard_negative_columns(
    x: Real[AnyArray, "B D"] | Real[AnyArray, "B K D"] | Lists,
) -> list[Float[Array, "B D"]]:
    """Return hard negatives ``[B, D]`` or ``[B, K, D]`` as K matrices, of floating numbers.

    Raises:
      ValueError: they have another number of axes, are none, or are no real numbers.
    """
    if np.ndim(x) != 3:
        return [float_rows("hard_negatives", x)]
    stacked = jnp.asarray(x)
    if 0 in stacked.shape:
        raise ValueError(
            f"hard_negatives must be a non-empty [B, K, D] array, not {stacked.shape}."
        )
    flat = float_rows("hard_negatives", stacked.reshape(-1, stacked.shape[2]))
    return list(jnp.unstack(flat.reshape(stacked.shape), axis=1))


def _similarities(
    x: Float[AnyArray, "B D"], y: Float[AnyArray, "C D"], similarity: Similarity
) -> Float[Array, "B C"]:
    x, y = (jnp.asarray(z, jnp.promote_types(z.dtype, jnp.float32)) for z in (x, y))
    if similarity == "cosine":
        x, y = (unit_rows(z, differentiable=True) for z in (x, y))
    return jnp.einsum("BD,CD->BC", x, y, precision=lax.Precision.HIGHEST)


def _equal(ids: Int[AnyArray, "B"]) -> Bool[Array, "B B"]:
    ids = jnp.asarray(ids)
    return ids[:, None] == ids[None, :]


def check_shapes(given: Sequence[AnyArray], group_ids: AnyArray | None) -> None:
    """Raise ValueError where anchors, positives, hard negatives and groups do not fit."""
    anchors = given[0]
    if 0 in anchors.shape:
        raise ValueError(f"anchors must be a non-empty [B, D] array, not {anchors.shape}.")
    named = [("positives", given[1]), *(("hard_negatives", x) for x in given[2:])]
    for name, x in named:
        if x.shape != anchors.shape:
            raise ValueError(
                f"{name} {x.shape} must have the shape of anchors {anchors.shape}, "
                "one row for each anchor."
            )
    if group_ids is not None and group_ids.shape != anchors.shape[:1]:
        raise ValueError(
            f"group_ids {group_ids.shape} must have one integer for each row of anchors "
            f"{anchors.shape}."
        )
    if group_ids is not None and not jnp.issubdtype(group_ids.dtype, jnp.integer):
        raise ValueError(f"group_ids must be integers, not {group_ids.dtype}.")
