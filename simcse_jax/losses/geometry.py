"""The geometry of embeddings on the unit sphere: unit rows, alignment and uniformity.

Wang & Isola, *Understanding Contrastive Representation Learning through Alignment and Uniformity on
the Hypersphere* (ICML 2020), section 4.1; equations 2 and 3 of SimCSE. Lower is better for both.
The two here are measured at every training step: float32, on the device, over a batch that may be
spread over several. `simcse_jax.evaluation.geometry` measures whole corpora on the host in float64
and in tiles; that is another order of summation, so the two stay apart, and the tests compare them.
"""

from __future__ import annotations

from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Real

from simcse_jax.arrays import AnyArray, Lists
from simcse_jax.checks import check_matrix
from simcse_jax.losses.shares import mean_over_shares

AnyArrayT = TypeVar("AnyArrayT", Array, np.ndarray)

# The least squared length that a row is divided by where the result is differentiated.
_MIN_SQUARE = 1e-16


def unit_rows(
    x: Float[AnyArrayT, "*B D"], *, differentiable: bool = False
) -> Float[AnyArrayT, "*B D"]:
    """Divide every row by its L2 norm.

    A row of zeros stays zero under both conventions. They differ in their gradients, and in rows
    whose squares under- or overflow:

    * by default `x / ‖x‖` of all finite rows, since those far from length one are first multiplied
      by a power of two; the gradient of a row of zeros is NaN;
    * with ``differentiable``, `x · rsqrt(max(‖x‖², 1e-16))`, as the losses have it: the gradient
      is finite everywhere.

    Args:
      x: ``[..., D]`` of floating point; a NumPy array stays one, and keeps its dtype.
      differentiable: for JAX arrays, the convention of the losses.

    Raises:
      TypeError: what is no array, or ``differentiable`` with a NumPy array.

    Example:
      >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
      [[0.6, 0.8], [0.0, 0.0]]
    """
    if not isinstance(x, np.ndarray | Array):
        raise TypeError(f"unit_rows takes an array, not a {type(x).__name__}")
    if differentiable:
        if isinstance(x, np.ndarray):
            raise TypeError("differentiable unit rows need a JAX array, not a NumPy array.")
        return x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), _MIN_SQUARE))
    return divide_by_norms(scale_extreme_rows(x))


def divide_by_norms(x: Float[AnyArrayT, "*B D"]) -> Float[AnyArrayT, "*B D"]:
    """Divide every row by its L2 norm, whose square must neither under- nor overflow."""
    numpy = np if isinstance(x, np.ndarray) else jnp
    norm = numpy.linalg.norm(x, axis=-1, keepdims=True)
    return x / numpy.where(norm == 0, 1, norm)


def scale_extreme_rows(
    x: Float[AnyArrayT, "*B D"], dtype: np.dtype | None = None
) -> Float[AnyArrayT, "*B D"]:
    """Multiply rows far from length one by a power of two; leave others alone.

    They are those whose squares, or a product of two squares, may under- or overflow. Their
    directions stay the same to the last bit, and so do the other rows. (On a device that rounds
    subnormal numbers to zero these are zeros.)

    Args:
      x: ``[..., D]`` of floating point.
      dtype: what the rows will be computed in; by default their own.
    """
    numpy = np if isinstance(x, np.ndarray) else jnp
    peak = numpy.max(numpy.abs(x), axis=-1, keepdims=True, initial=0)
    _, exponent = numpy.frexp(peak if numpy is np else lax.stop_gradient(peak))
    extreme = numpy.abs(exponent) > jnp.finfo(dtype or x.dtype).maxexp // 8
    if numpy is np and not extreme.any():
        return x
    # Clipped so that the factor is a normal number itself.
    most = jnp.finfo(x.dtype).maxexp
    exponent = numpy.where(extreme, numpy.clip(exponent, 2 - most, most - 3), 0)
    return x * numpy.ldexp(numpy.ones_like(peak), -exponent)


def float32_directions(x: Real[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
    """Return rows as float32, for cosines: those that it cannot hold keep their direction."""
    if x.dtype.kind == "f" and x.dtype.itemsize > 4:
        x = scale_extreme_rows(np.asarray(x, np.float64), np.dtype(np.float32))
    return scale_extreme_rows(np.asarray(x, np.float32))


def squared_distance(cosine: Float[Array, "*N"]) -> Float[Array, "*N"]:
    """Return `‖x − y‖² = 2 − 2 cos(x, y)` of unit vectors; rounding cannot make it negative."""
    return jnp.maximum(2.0 - 2.0 * cosine, 0.0)


def float_rows(name: str, x: Real[AnyArray, "B D"] | Lists) -> Float[Array, "B D"]:
    """Return vectors, one a row, as a JAX array of their own floating point, or float32.

    Raises:
      ValueError: they are no matrix of real numbers.
    """
    x = check_matrix(name, x)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return jnp.asarray(x) if floating else jnp.asarray(x, jnp.float32)


def alignment(
    x: Real[AnyArray, "B D"] | Lists,
    y: Real[AnyArray, "B D"] | Lists,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Return `E ‖x/‖x‖ − y/‖y‖‖²` over the positive pairs (Wang & Isola 2020; SimCSE, equation 2).

    Args:
      x: ``[B, D]``, an array or lists.
      y: ``[B, D]``; row i is the positive of row i of x.
      axis_name: the mapped axis over which the batch is spread, in equal shares.

    Raises:
      ValueError: x and y are no matrices of real numbers, or not of one shape.
    """
    x, y = float_rows("x", x), float_rows("y", y)
    if x.shape != y.shape:
        raise ValueError(f"x {x.shape} and y {y.shape} must be of one shape [B, D].")
    x, y = (unit_rows(z, differentiable=True) for z in (x, y))
    distance = jnp.square(x - y).sum(1).mean()
    return mean_over_shares(distance, axis_name)


def uniformity(x: Real[AnyArray, "B D"] | Lists, axis_name: str | None = None) -> Float[Array, ""]:
    """Return `log mean_{i<j} exp(−2 ‖x_i/‖x_i‖ − x_j/‖x_j‖‖²)` (SimCSE, equation 3).

    Wang & Isola's uniformity loss with their t of 2. Blocks of rows keep the memory linear in B.

    Args:
      x: ``[B, D]``, an array or lists. A batch of one has no pair and gives −inf.
      axis_name: the mapped axis over which the batch is spread, in equal shares.

    Raises:
      ValueError: x is no matrix of real numbers.
    """
    rows = unit_rows(float_rows("x", x), differentiable=True)  # [B D]
    points = rows if axis_name is None else lax.all_gather(rows, axis_name, tiled=True)  # [N D]
    offset = 0 if axis_name is None else lax.axis_index(axis_name) * len(rows)
    columns = jnp.arange(len(points))

    def row_sum(row: tuple[Array, Array]) -> Array:
        point, number = row
        cosines = jnp.matmul(points, point, precision=lax.Precision.HIGHEST)  # [N]
        return jnp.sum(jnp.exp(-2.0 * squared_distance(cosines)), where=columns != number)

    numbers = offset + jnp.arange(len(rows))
    total = lax.map(row_sum, (rows, numbers), batch_size=min(len(rows), 1024)).sum()
    if axis_name is not None:
        total = lax.psum(total, axis_name)
    return jnp.log(total) - np.log(max(1, len(points) * (len(points) - 1)))
