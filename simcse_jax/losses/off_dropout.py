r"""InfoNCE whose negatives have no dropout (Xu et al. 2023, SimCSE++: "off-dropout sampling")."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_positive
from simcse_jax.losses.geometry import unit_rows
from simcse_jax.losses.info_nce import InfoNCE
from simcse_jax.losses.ranking import rank_positives


def off_dropout_info_nce(
    anchors: Float[AnyArray, "B D"],
    positives: Float[AnyArray, "B D"],
    plain: Float[AnyArray, "B D"],
    *,
    temperature: float = 0.05,
    positive_weight: float = 1.0,
    axis_name: str | None = None,
) -> InfoNCE:
    r"""Return InfoNCE with negatives that dropout does not blur (SimCSE++, off-dropout sampling).

    .. math::
      \ell_i = -\log \frac{e^{m \cos(z_i, z_i') / \tau}}
        {e^{m \cos(z_i, z_i') / \tau} + \sum_{j \ne i} e^{\cos(h_i, h_j) / \tau}}

    averaged over the batch, where z and z' are the sentences under two dropout masks and h without
    one. The gradient reaches all three. (It is the authors' code; the paper's own equation could
    not be compared.)

    Args:
      anchors: ``z``, ``[B, D]``.
      positives: ``z'``, ``[B, D]``.
      plain: ``h``, ``[B, D]``, embedded without dropout.
      temperature: ``τ``.
      positive_weight: ``m``.
      axis_name: the mapped axis over which the batch is spread, in equal shares. Loss and accuracy
        are those of the global batch, with gradients as in `info_nce`.

    Returns:
      The loss, and the share of anchors whose positive scores above every negative; float32
      scalars (float64 for float64 inputs). The logits of a device's rows are held.

    Raises:
      ValueError: shapes that differ, or a number that is not positive.
    """
    check_positive("temperature", temperature)
    check_positive("positive_weight", positive_weight, finite=True)
    if not anchors.shape == positives.shape == plain.shape:
        raise ValueError(
            f"anchors {anchors.shape}, positives {positives.shape} and plain {plain.shape} must be "
            "of one shape [B, D]."
        )
    accum = jnp.promote_types(anchors.dtype, jnp.float32)
    z, other, h = (
        unit_rows(jnp.asarray(x, accum), differentiable=True) for x in (anchors, positives, plain)
    )
    columns = h if axis_name is None else lax.all_gather(h, axis_name, tiled=True)  # [C D]
    first = 0 if axis_name is None else lax.axis_index(axis_name) * len(h)
    own = jnp.arange(len(columns)) == (first + jnp.arange(len(h)))[:, None]
    positive = positive_weight / temperature * jnp.sum(z * other, axis=1)  # [B]
    logits = jnp.matmul(h, columns.T, precision=lax.Precision.HIGHEST) / temperature
    negatives = jnp.where(own, -jnp.inf, logits)  # [B C]
    return rank_positives(positive, negatives, axis_name)
