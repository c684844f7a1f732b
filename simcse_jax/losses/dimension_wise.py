r"""Contrast of dimensions instead of sentences (Xu et al. 2023, SimCSE++: "DCL")."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_positive
from simcse_jax.losses.shares import mean_over_shares

# Added to every variance, as torch's BatchNorm1d does, by which the authors standardise.
_EPSILON = 1e-5


def dimension_wise_loss(
    x: Float[AnyArray, "B D"],
    y: Float[AnyArray, "B D"],
    *,
    temperature: float = 5.0,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    r"""Return the dimension-wise contrastive loss (SimCSE++, "DCL").

    .. math::
      \ell = -\frac{1}{D} \sum_c \log \frac{e^{r_{cc} / \tau}}{\sum_d e^{r_{cd} / \tau}},
      \qquad r = \tfrac{1}{B} \tilde x^\top \tilde y

    where r are the correlations over the batch: a dimension is to agree with itself under another
    dropout mask more than with any other dimension, which works against a collapse of the spectrum.
    Dimensions are standardised as the authors' code does it, with 1e-5 added to the variance. (The
    paper's own equation could not be compared; this one is the code's.)

    Args:
      x: ``[B, D]``, the sentences under one dropout mask.
      y: ``[B, D]``, under another.
      temperature: ``τ``; it divides correlations, of which the authors' 5 makes small numbers.
      axis_name: the mapped axis over which the batch is spread, in equal shares: the correlations
        are those of the global batch.

    Returns:
      A float32 scalar (float64 for float64 inputs), about log D where dimensions are alike.

    Raises:
      ValueError: x and y are not of one shape, or the temperature is not positive.
    """
    check_positive("temperature", temperature)
    if x.shape != y.shape:
        raise ValueError(f"x {x.shape} and y {y.shape} must be of one shape [B, D].")
    x, y = (_standardised(z, axis_name) for z in (x, y))
    logits = jnp.matmul(x.T, y, precision=lax.Precision.HIGHEST) / len(x)  # [D D]
    logits = mean_over_shares(logits, axis_name) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits))


def _standardised(x: Float[AnyArray, "B D"], axis_name: str | None) -> Float[Array, "B D"]:
    """Subtract the mean of every dimension over the batch, and divide by the deviation."""
    wide = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - mean_over_shares(wide.mean(0), axis_name)
    return centred * lax.rsqrt(mean_over_shares(jnp.square(centred).mean(0), axis_name) + _EPSILON)
