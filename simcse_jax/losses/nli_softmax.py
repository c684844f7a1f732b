"""Sentence-BERT's classification objective: a softmax over features of two embeddings."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_array, check_choice, check_classes
from simcse_jax.losses.geometry import float_rows
from simcse_jax.losses.shares import mean_over_shares

Concatenation = Literal["uv", "diff", "mul", "diff-mul", "uv-mul", "uv-diff", "uv-diff-mul"]
"""The paper's Table 6, in its order.

===============  ============================================
name             features
===============  ============================================
``uv``           ``(u, v)``
``diff``         ``(|u − v|)``
``mul``          ``(u * v)``
``diff-mul``     ``(|u − v|, u * v)``
``uv-mul``       ``(u, v, u * v)``
``uv-diff``      ``(u, v, |u − v|)``, the paper's choice
``uv-diff-mul``  ``(u, v, |u − v|, u * v)``
===============  ============================================
"""

CONCATENATIONS: tuple[Concatenation, ...] = get_args(Concatenation)
_WIDTHS = {"uv": 2, "diff": 1, "mul": 1}


class NliSoftmax(NamedTuple):
    """What `nli_softmax` returns: two scalars over the global batch.

    Attributes:
      loss: mean cross entropy.
      accuracy: share of pairs whose label has the highest logit; it has no gradient.
    """

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


def feature_width(concatenation: Concatenation) -> int:
    """Return how many times D the features are wide.

    Raises:
      ValueError: the name is none of :data:`CONCATENATIONS`.

    Example:
      >>> feature_width("uv-diff")
      3
    """
    check_choice("concatenation", concatenation, CONCATENATIONS)
    return sum(_WIDTHS[part] for part in concatenation.split("-"))


def pair_features(
    u: Float[AnyArray, "B D"], v: Float[AnyArray, "B D"], concatenation: Concatenation = "uv-diff"
) -> Float[Array, "B F"]:
    """Return `(u, v, |u − v|)`, or another concatenation of SBERT's Table 6.

    Where u and v are equal, the gradient of `|u − v|` is 0.

    Args:
      u: ``[B, D]``, the first sentence of each pair.
      v: ``[B, D]``, the second sentence of each pair.
      concatenation: a name of :data:`CONCATENATIONS`.

    Returns:
      ``[B, F]``, F being D times `feature_width`.

    Raises:
      ValueError: the shapes differ, or an unknown name.

    Example:
      >>> pair_features(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 1.0]])).tolist()
      [[1.0, 2.0, 3.0, 1.0, 2.0, 1.0]]
    """
    feature_width(concatenation)
    u, v = float_rows("u", u), float_rows("v", v)
    if u.shape != v.shape:
        raise ValueError(f"u {u.shape} and v {v.shape} must be of one shape [B, D].")
    parts = {"uv": (u, v), "diff": (jnp.abs(u - v),), "mul": (u * v,)}
    chosen = [x for name in concatenation.split("-") for x in parts[name]]
    return jnp.concatenate(chosen, axis=1)  # [B F]


def nli_softmax(
    logits: Float[AnyArray, "B K"],
    labels: Int[AnyArray, "B"],
    *,
    axis_name: str | None = None,
) -> NliSoftmax:
    r"""Return loss and accuracy of classified pairs (Reimers & Gurevych 2019, section 3).

    .. math:: \ell = -\frac{1}{B} \sum_i \log \mathrm{softmax}(W_t (u_i, v_i, |u_i - v_i|))_{y_i}

    The logits are `W_tᵀ (u, v, |u − v|) + b`, a linear classifier's on `pair_features`. The paper's
    formula and Su et al. (2021) have no bias b, the authors' code has one.

    Args:
      logits: ``[B, K]``, any float dtype; the softmax is computed in float32 at least.
      labels: ``[B]``, the classes y, from 0 to K - 1.
      axis_name: the mapped axis over which the batch is spread, in equal shares.

    Returns:
      ``NliSoftmax(loss, accuracy)``, float32 scalars (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not fit, an empty batch, or a label that is no class.

    Example:
      >>> loss, _ = nli_softmax(jnp.zeros((4, 3)), jnp.zeros(4, int))
      >>> print(f"{loss:.4f}")  # log 3
      1.0986
    """
    logits = check_array("logits", logits, 2)
    labels = check_array("labels", labels, 1, whole=True)
    if labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            f"labels {labels.shape} must be [B] with B > 0 where logits {logits.shape} are [B, K]."
        )
    check_classes("labels", labels, logits.shape[1])
    logits = jnp.asarray(logits, jnp.promote_types(logits.dtype, jnp.float32))
    labels = jnp.asarray(labels)
    label_logits = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    loss = jnp.mean(jax.nn.logsumexp(logits, axis=1) - label_logits)
    accuracy = lax.stop_gradient(jnp.mean(logits.argmax(1) == labels, dtype=loss.dtype))
    return NliSoftmax(*mean_over_shares((loss, accuracy), axis_name))
