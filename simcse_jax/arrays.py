"""The type of an array that may lie on the host or on the device.

What takes one says so with the letters of its shape, `Float[AnyArray, "B D"]`, where `Array` alone
is a JAX array. The letters are the same everywhere: B examples, S sentences, R rows, L length,
N heads, H head size, D hidden, C columns or candidates, V vocabulary, T tokens. The tests check
types and shapes at every call.
"""

from typing import Any

import numpy as np
from jaxtyping import Array

AnyArray = Array | np.ndarray


def as_matrix(x: Any, name: str) -> AnyArray:
    """Return embeddings as an array ``[n, D]`` of real numbers, without a copy where they are one.

    Args:
        x: an array of any library, or a list of rows.
        name: what an error calls it.

    Raises:
        ValueError: it is not a matrix of real numbers.
    """
    if not isinstance(x, Array):
        try:
            x = np.asarray(x)
        except ValueError:  # NumPy says so in its own terms
            raise ValueError(f"{name} must be a matrix [n, D]; its rows differ in length") from None
    if x.ndim != 2:
        raise ValueError(f"{name} must be a matrix [n, D], got shape {tuple(x.shape)}")
    if x.dtype.kind not in "fiu" and x.dtype.name != "bfloat16":
        raise ValueError(f"{name} must be of real numbers, got {x.dtype}")
    return x
