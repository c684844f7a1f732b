r"""Shuffled group whitening (Zhuo et al. 2023): a batch is whitened in groups of its channels.

The D channels are shuffled, cut into G groups of D/G, each group whitened on its own (ZCA), and put
back in order:

.. math::
  \mathrm{SGW}(x) = \pi^{-1}\left(\left[(\pi(x)_g - \mu_g)\, \Sigma_g^{-1/2}\right]_{g=1}^G\right)

with mean and covariance (1/B) of the batch. Another shuffle is another view of the same sentences.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_count
from simcse_jax.losses.shares import mean_over_shares


def group_whitening(
    x: Float[AnyArray, "B D"],
    groups: int,
    order: Int[AnyArray, "D"] | None = None,
    *,
    whitening_gradient: bool = True,
    axis_name: str | None = None,
) -> Float[Array, "B D"]:
    """Whiten a batch in groups of its channels (WhitenedCSE, "shuffled group whitening").

    What does not vary beyond rounding, a channel or a direction of a group, becomes zero and has no
    gradient. The authors' code divides by it: MiniLM has three channels that are constant, and
    their gradients would be a thousand times those of all others.

    Args:
      x: ``[B, D]``; there should be more rows than a group has channels.
      groups: their number G, which divides D; 1 whitens all channels together.
      order: a permutation of the channels; None for their own order.
      whitening_gradient: also differentiate the matrices ``Σ_g^(-1/2)``. The authors' code copies
        the covariances out of the graph, so that they are constants there.
      axis_name: the mapped axis over which the batch is spread, in equal shares: mean and
        covariance are those of the global batch.

    Returns:
      ``[B, D]`` in float32 at least, the channels in the order of ``x``.

    Raises:
      ValueError: the groups do not divide the channels.
    """
    rows, width = x.shape
    check_count("groups", groups)
    if width % groups:
        raise ValueError(f"groups is {groups}; it must divide the {width} channels")
    order = jnp.arange(width) if order is None else jnp.asarray(order)
    wide = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
    grouped = wide[:, order].reshape(rows, groups, -1)  # [B G F]
    centred = grouped - mean_over_shares(grouped.mean(0), axis_name)
    centred = jnp.where(_varies(grouped, centred, axis_name), centred, 0.0)
    exact = lax.Precision.HIGHEST
    products = jnp.einsum("BGF,BGE->GFE", centred, centred, precision=exact)
    covariance = mean_over_shares(products / rows, axis_name)
    if not whitening_gradient:
        covariance = lax.stop_gradient(covariance)
    whitened = jnp.einsum("BGF,GFE->BGE", centred, inverse_root(covariance), precision=exact)
    return whitened.reshape(rows, width)[:, jnp.argsort(order)]


def _varies(
    x: Float[Array, "B G F"], centred: Float[Array, "B G F"], axis_name: str | None
) -> Bool[Array, "G F"]:
    """Tell which channels vary by more than the rounding of a mean over the batch's equal rows."""
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    rounding = x.shape[0] * devices * jnp.finfo(x.dtype).eps
    variance, power = (mean_over_shares((a**2).mean(0), axis_name) for a in (centred, x))
    return variance > rounding**2 * power


@jax.custom_jvp
def inverse_root(covariance: Float[AnyArray, "G F F"]) -> Float[Array, "G F F"]:
    """Return the symmetric ``Σ^(-1/2)`` of positive semidefinite matrices.

    Of the eigenvalues up to ε F times the largest, which are zero but for rounding, it is that of
    the pseudo-inverse: zero. The derivative is written out, ``U (K ∘ (Uᵀ dΣ U)) Uᵀ`` with the
    divided differences of ``f(λ) = λ^(-1/2)``, ``K_ij = -1 / (a_i a_j (a_i + a_j))`` for
    ``a = √λ``: that of the eigenvectors, from which JAX would make it, is infinite where two
    eigenvalues are equal.
    """
    _, inverse, vectors = _spectrum(jnp.asarray(covariance))
    return _turned(vectors, vectors * inverse[:, None])


@inverse_root.defjvp
def _inverse_root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    roots, inverse, vectors = _spectrum(primals[0])
    left, right = inverse[:, :, None], inverse[:, None, :]
    inner = jnp.einsum(
        "GFA,GFE,GEC->GAC", vectors, tangents[0], vectors, precision=lax.Precision.HIGHEST
    )
    # Where f is zero for one of the two, whose λ is zero, K is f / λ = f³ of the other.
    both = -left * right / (roots[:, :, None] + roots[:, None, :])
    inner *= jnp.where((left > 0) == (right > 0), both, (left + right) ** 3)
    outer = jnp.einsum("GFA,GAC->GFC", vectors, inner, precision=lax.Precision.HIGHEST)
    return _turned(vectors, vectors * inverse[:, None]), _turned(vectors, outer)


def _spectrum(
    covariance: Float[Array, "G F F"],
) -> tuple[Float[Array, "G F"], Float[Array, "G F"], Float[Array, "G F F"]]:
    """Return the eigenvalues' roots, their inverses, and the eigenvectors.

    Of an eigenvalue that is zero but for rounding the root is positive, so that one can divide by
    it, and the inverse zero.
    """
    values, vectors = jnp.linalg.eigh(covariance)
    info = jnp.finfo(covariance.dtype)
    floor = info.eps * values.shape[-1] * values[:, -1:] + info.tiny**0.5
    roots = jnp.sqrt(jnp.maximum(values, floor))
    return roots, jnp.where(values > floor, 1 / roots, 0.0), vectors


def _turned(vectors: Float[Array, "G F F"], scaled: Float[Array, "G F F"]) -> Array:
    return jnp.einsum("GFA,GEA->GFE", scaled, vectors, precision=lax.Precision.HIGHEST)
