"""The dense layer with its gradient written out, the activations, and the layer norm."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from simcse_jax.arrays import AnyArray
from simcse_jax.models.int8 import int8_linear


def gelu(x: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
    """Return `x Φ(x)` exactly, by erf as torch does it: erfc costs two exponentials more."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * wide * (1 + lax.erf(wide * 0.5**0.5))).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


class Dense(nn.Module):
    """`x W + b`, for tokens in any arrangement.

    The gradient is written out: `dW = xᵀ dy` in this order, and `db = 1ᵀ dy` as a product too. On
    a CPU, XLA makes of the derived gradient two transposed copies and a slow sum over the tokens;
    elsewhere `db` is a plain sum. Both are summed in float32 whatever the compute type.
    """

    features: int
    initializer_range: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*T D"], columns: tuple[int, int] | None = None
    ) -> Float[Array, "*T F"]:
        """Apply all features, or the columns from the first up to the second."""
        init = nn.initializers.normal(self.initializer_range)
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if columns is not None:
            kernel, bias = kernel[:, slice(*columns)], bias[slice(*columns)]
        if kernel.dtype == jnp.int8:
            scale: Array = self.get_variable("scales", "kernel")
            scale = scale if columns is None else scale[slice(*columns)]
            return int8_linear(x.astype(self.dtype), kernel, scale, bias)
        return linear(x.astype(self.dtype), kernel, bias)


@jax.custom_vjp
def linear(
    x: Float[Array, "*T D"], kernel: Float[AnyArray, "D F"], bias: Float[AnyArray, "F"]
) -> Float[Array, "*T F"]:
    """Return `x W + b` in the type of ``x``; the gradients of W and b are float32."""
    return jnp.matmul(x, kernel.astype(x.dtype)) + bias.astype(x.dtype)


def _linear_forward(
    x: Float[Array, "*T D"], kernel: Float[AnyArray, "D F"], bias: Float[AnyArray, "F"]
) -> tuple[Float[Array, "*T F"], tuple[Float[Array, "*T D"], Float[AnyArray, "D F"]]]:
    return linear(x, kernel, bias), (x, kernel)


def _linear_backward(
    saved: tuple[Float[Array, "*T D"], Float[AnyArray, "D F"]], d_y: Float[Array, "*T F"]
) -> tuple[Float[Array, "*T D"], Float[Array, "D F"], Float[Array, "F"]]:
    x, kernel = saved
    rows = d_y.reshape(-1, d_y.shape[-1])  # [T F]
    d_x = jnp.matmul(d_y, kernel.astype(d_y.dtype).T)
    d_kernel = jnp.matmul(x.reshape(-1, x.shape[-1]).T, rows, preferred_element_type=kernel.dtype)
    d_bias = lax.platform_dependent(
        rows,
        cpu=lambda rows: _sum_by_product(rows, kernel.dtype),
        default=lambda rows: rows.sum(0, dtype=kernel.dtype),
    )
    return d_x, d_kernel, d_bias


def _sum_by_product(rows: Float[Array, "T F"], dtype: jnp.dtype) -> Float[Array, "F"]:
    ones = jnp.ones((1, len(rows)), rows.dtype)
    return jnp.matmul(ones, rows, preferred_element_type=dtype)[0]


linear.defvjp(_linear_forward, _linear_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(equation: str, a: Float[Array, "*A"], b: Float[Array, "*B"]) -> Float[Array, "*C"]:
    """Return an einsum of two arrays of one type, in float32.

    The gradients are products in that type too, with sums in float32. JAX's own would multiply
    float32 by float32 where the arrays are bfloat16, several times as slow.

    Args:
        equation: such as ``"RNQH,RNKH->RNQK"``; every letter stands in at least two of the
            three.
        a: the first array.
        b: the second array.
    """
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _product_forward(equation: str, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(equation, a, b), (a, b)


def _product_backward(equation: str, saved: tuple[Array, Array], d_c: Array) -> tuple[Array, Array]:
    a, b = saved
    left, right, out = re.split(",|->", equation)
    d_c = d_c.astype(a.dtype)
    d_a = product(f"{out},{right}->{left}", d_c, b)
    d_b = product(f"{out},{left}->{right}", d_c, a)
    return d_a.astype(a.dtype), d_b.astype(b.dtype)


product.defvjp(_product_forward, _product_backward)


def layer_norm(epsilon: float, name: str) -> nn.LayerNorm:
    """Make the layer norm of every place: float32, with the exact variance."""
    # float32 whatever the compute type: the mean square of 768 bfloat16 values is too coarse.
    # use_fast_variance subtracts two large numbers, which costs digits against torch.
    return nn.LayerNorm(epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)
