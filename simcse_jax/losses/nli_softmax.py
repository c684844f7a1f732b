"""Sentence-BERT's classification objective: a softmax over what two embeddings make together."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

Concatenation = Literal["uv", "diff", "mul", "diff-mul", "uv-mul", "uv-diff", "uv-diff-mul"]
"""The paper's Table 6, in its order.

===============  =======================
name             features
===============  =======================
``uv``           (u, v)
``diff``         (|u − v|)
``mul``          (u * v)
``diff-mul``     (|u − v|, u * v)
``uv-mul``       (u, v, u * v)
``uv-diff``      (u, v, |u − v|), the paper's choice
``uv-diff-mul``  (u, v, |u − v|, u * v)
===============  =======================
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
    """How many times D the features are wide.

    Raises:
      ValueError: the name is none of :data:`CONCATENATIONS`.

    Example:
      >>> feature_width("uv-diff")
      3
    """
    if concatenation not in CONCATENATIONS:
        raise ValueError(
            f"concatenation is {concatenation!r}; it must be one of {', '.join(CONCATENATIONS)}"
        )
    return sum(_WIDTHS[part] for part in concatenation.split("-"))


def pair_features(
    u: Float[Array, "B D"], v: Float[Array, "B D"], concatenation: Concatenation = "uv-diff"
) -> Float[Array, "B F"]:
    """`(u, v, |u − v|)`, or another concatenation of SBERT's Table 6.

    Where u and v are equal, the gradient of `|u − v|` is 0.

    Args:
      u: ``[B, D]``, the first sentence of each pair.
      v: ``[B, D]``, the second.
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
    if u.ndim != 2 or u.shape != v.shape:
        raise ValueError(f"u {u.shape} and v {v.shape} must be of one shape [B, D].")
    parts = {"uv": (u, v), "diff": (jnp.abs(u - v),), "mul": (u * v,)}
    chosen = [x for name in concatenation.split("-") for x in parts[name]]
    return jnp.concatenate(chosen, axis=1)  # [B F]


def nli_logits(
    u: Float[Array, "B D"],
    v: Float[Array, "B D"],
    kernel: Float[Array, "F K"],
    bias: Float[Array, "K"] | None = None,
    *,
    concatenation: Concatenation = "uv-diff",
) -> Float[Array, "B K"]:
    """`W_tᵀ (u, v, |u − v|) + b`, the scores of the K classes, float32.

    Args:
      u: ``[B, D]``, the first sentence of each pair.
      v: ``[B, D]``, the second.
      kernel: ``W_t``, ``[F, K]``, F as in `pair_features`.
      bias: ``[K]``, or None for none. The paper's formula and Su et al. (2021) have none, the
        authors' code has one.
      concatenation: a name of :data:`CONCATENATIONS`.

    Raises:
      ValueError: shapes that do not fit, or an unknown name.
    """
    features = pair_features(u, v, concatenation)
    if kernel.ndim != 2 or len(kernel) != features.shape[1]:
        raise ValueError(
            f"the kernel {kernel.shape} must be [F, K] with F = {features.shape[1]} for "
            f"{concatenation!r} of embeddings {u.shape}."
        )
    if bias is not None and bias.shape != kernel.shape[1:]:
        raise ValueError(f"the bias {bias.shape} must be [K] where the kernel is {kernel.shape}.")
    logits = jnp.matmul(features, kernel, preferred_element_type=_accum(features))
    return logits if bias is None else logits + bias


def nli_softmax(
    u: Float[Array, "B D"],
    v: Float[Array, "B D"],
    labels: Int[Array, "B"],
    kernel: Float[Array, "F K"],
    bias: Float[Array, "K"] | None = None,
    *,
    concatenation: Concatenation = "uv-diff",
    axis_name: str | None = None,
) -> NliSoftmax:
    r"""Softmax classification of sentence pairs (Reimers & Gurevych 2019, section 3).

    .. math:: \ell = -\frac{1}{B} \sum_i \log \mathrm{softmax}(W_t (u_i, v_i, |u_i - v_i|))_{y_i}

    Args:
      u: ``[B, D]``, the first sentence of each pair (the premise).
      v: ``[B, D]``, the second (the hypothesis).
      labels: ``[B]``, the classes y, from 0 to K - 1.
      kernel: ``W_t``, ``[F, K]``, F as in `pair_features`.
      bias: ``[K]``, or None for none.
      concatenation: a name of :data:`CONCATENATIONS`.
      axis_name: the mapped axis over which the batch is spread, in equal shares.

    Returns:
      ``NliSoftmax(loss, accuracy)``, float32 scalars (float64 for float64 inputs).

    Raises:
      ValueError: shapes that do not fit, an empty batch, or an unknown name.

    Example:
      >>> u, v = jnp.ones((4, 2)), jnp.zeros((4, 2))
      >>> loss, _ = nli_softmax(u, v, jnp.zeros(4, int), jnp.zeros((6, 3)))
      >>> print(f"{loss:.4f}")  # log 3
      1.0986
    """
    logits = nli_logits(u, v, kernel, bias, concatenation=concatenation)  # [B K]
    if labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"labels {labels.shape} must be [B] with B > 0, u is {u.shape}.")
    picked = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    loss = jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked)
    accuracy = lax.stop_gradient(jnp.mean(logits.argmax(1) == labels, dtype=loss.dtype))
    if axis_name is not None:
        loss, accuracy = lax.pmean((loss, accuracy), axis_name)
    return NliSoftmax(loss, accuracy)


def _accum(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)
