"""The masked language model's cross entropy, SimCSE's auxiliary loss."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_array, check_classes

IGNORED = -100
"""The label of a position that is not to be predicted."""


def masked_lm_loss(
    logits: Float[AnyArray, "B L V"],
    labels: Int[AnyArray, "B L"],
    *,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    r"""Return the mean cross entropy over the masked positions.

    .. math:: \ell = -\frac{1}{|M|} \sum_{(b,l) \in M} \log p_{b,l}(\text{label}_{b,l})

    M are the masked positions. SimCSE's section 4 adds it to its own loss, times λ.

    Args:
      logits: ``[B, L, V]``, any float dtype; the softmax is computed in float32.
      labels: ``[B, L]``, token ids; -100 where nothing is to be predicted.
      axis_name: the mapped axis over which the batch is spread; the mean is then over the masked
        positions of all devices.

    Returns:
      A float32 scalar, 0 if no position is masked.

    Raises:
      ValueError: ``labels`` does not have the leading shape of ``logits``, or one is no token.

    Example:
      >>> print(f"{masked_lm_loss(jnp.zeros((1, 2, 8)), jnp.array([[3, -100]])):.4f}")  # log 8
      2.0794
    """
    logits = check_array("logits", logits, 3)
    labels = check_array("labels", labels, 2, whole=True)
    if labels.shape != logits.shape[:2]:
        raise ValueError(
            f"labels {labels.shape} must be [B, L] where logits {logits.shape} are [B, L, V]."
        )
    check_classes("labels", labels, logits.shape[2], IGNORED)
    masked = labels != IGNORED
    logits = jnp.asarray(logits, jnp.promote_types(logits.dtype, jnp.float32))
    index = jnp.where(masked, labels, 0)[..., None]  # [B L 1]
    label_logits = jnp.take_along_axis(logits, index, axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - label_logits  # [B L]
    total, count = jnp.sum(losses, where=masked), jnp.sum(masked)
    if axis_name is not None:
        total, count = lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1)
