"""Dense layers in int8, for encoding: whole numbers of 8 bits are multiplied and summed in 32.

Weights are quantised once, with a scale for each column; activations on the fly, with a scale for
each token. Everything else of the encoder stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int8

from simcse_jax.arrays import AnyArray

INT8_MAX = 127
"""The largest whole number; -128 is left out, so that the numbers are symmetric."""


def quantize_rows(x: Float[Array, "*B D"]) -> tuple[Int8[Array, "*B D"], Float32[Array, "*B 1"]]:
    """Return `round(x / s)` and the scale `s = max|x| / 127` of each row; 1 for a row of zeros.

    A row that holds NaN or infinity gets that as its scale, so that its products are not finite.
    """
    wide = x.astype(jnp.float32)
    largest = jnp.abs(wide).max(-1, keepdims=True)
    scale = jnp.where(largest == 0, INT8_MAX, largest) / INT8_MAX
    return jnp.round(wide / scale).astype(jnp.int8), scale


def int8_linear(
    x: Float[Array, "*T D"],
    kernel: Int8[AnyArray, "D F"],
    scale: Float32[AnyArray, "F"],
    bias: Float32[AnyArray, "F"],
) -> Float[Array, "*T F"]:
    """Return `x W + b` in the type of ``x``, with its tokens quantised.

    Args:
        x: the tokens.
        kernel: the weights, whose columns are quantised.
        scale: one factor for each column of the kernel.
        bias: not quantised.
    """
    tokens, token_scale = quantize_rows(x)
    contracted = (((tokens.ndim - 1,), (0,)), ((), ()))
    sums = lax.dot_general(tokens, kernel, contracted, preferred_element_type=jnp.int32)
    return (sums.astype(jnp.float32) * (token_scale * scale) + bias).astype(x.dtype)


def quantize_kernels(params: Any) -> tuple[Any, Any]:
    """Quantise the kernels of an encoder's dense layers.

    Args:
        params: of the encoder; kernels ``[D, F]``.

    Returns:
        The parameters with int8 kernels, and the collection ``"scales"``: for each kernel, at the
        same place, one number a column.
    """
    numbers, scales = {}, {}
    for name, value in params.items():
        if isinstance(value, Mapping):  # a FrozenDict too
            numbers[name], inner = quantize_kernels(value)
            if inner:
                scales[name] = inner
        elif name == "kernel":
            columns, scale = quantize_rows(jnp.asarray(value).T)
            numbers[name], scales[name] = np.asarray(columns.T), np.asarray(scale[:, 0])
        else:
            numbers[name] = value
    return numbers, scales
