"""InfoNCE with further negatives out of a queue (Wu et al. 2022, ESimCSE: "momentum contrast")."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_positive
from simcse_jax.losses.geometry import unit_rows
from simcse_jax.losses.info_nce import InfoNCE
from simcse_jax.losses.ranking import rank_positives


def queue_info_nce(
    anchors: Float[AnyArray, "B D"],
    positives: Float[AnyArray, "B D"],
    queue: Float[AnyArray, "Q D"],
    filled: Int[AnyArray, ""] | int,
    *,
    temperature: float = 0.05,
    axis_name: str | None = None,
) -> InfoNCE:
    r"""Return InfoNCE whose negatives are those of the batch and of a queue (ESimCSE, section 3.2).

    .. math::
      \ell_i = -\log \frac{e^{\cos(h_i, h_i^+) / \tau}}
        {\sum_j e^{\cos(h_i, h_j^+) / \tau} + \sum_m e^{\cos(h_i, q_m) / \tau}}

    averaged over the batch. No gradient reaches the queue.

    Args:
      anchors: ``h``, ``[B, D]``.
      positives: ``h⁺``, ``[B, D]``.
      queue: ``q``, ``[Q, D]``, the same on every device.
      filled: how many rows of the queue count, its last ones; none of them before the first batch.
      temperature: ``τ``.
      axis_name: the mapped axis over which the batch is spread, in equal shares. Loss and accuracy
        are those of the global batch, with gradients as in `info_nce`.

    Returns:
      The loss, and the share of anchors whose positive scores above every negative; float32
      scalars (float64 for float64 inputs). The logits of a device's rows are held.

    Raises:
      ValueError: shapes that do not fit, or a temperature that is not positive.
    """
    check_positive("temperature", temperature)
    if anchors.shape != positives.shape or queue.shape[1:] != anchors.shape[1:]:
        raise ValueError(
            f"anchors {anchors.shape} and positives {positives.shape} must be of one shape [B, D], "
            f"and the queue {queue.shape} of [Q, D]."
        )
    accum = jnp.promote_types(anchors.dtype, jnp.float32)
    h, beside, queued = (
        unit_rows(jnp.asarray(x, accum), differentiable=True) for x in (anchors, positives, queue)
    )
    batch = beside if axis_name is None else lax.all_gather(beside, axis_name, tiled=True)  # [C D]
    first = 0 if axis_name is None else lax.axis_index(axis_name) * len(h)
    candidates = jnp.concatenate([batch, lax.stop_gradient(queued)])  # [C+Q D]
    places = jnp.arange(len(candidates))
    empty = (places >= len(batch)) & (places < len(candidates) - filled)
    is_positive = places == (first + jnp.arange(len(h)))[:, None]
    logits = jnp.matmul(h, candidates.T, precision=lax.Precision.HIGHEST) / temperature
    positive = jnp.sum(h * beside, axis=1) / temperature  # [B]
    return rank_positives(positive, jnp.where(is_positive | empty, -jnp.inf, logits), axis_name)
