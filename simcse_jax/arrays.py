"""The type of an array that may lie on the host or on the device.

What takes one says so with the letters of its shape, `Float[AnyArray, "B D"]`, where `Array` alone
is a JAX array. The letters are the same everywhere: B examples, S sentences, R rows, L length,
N heads, H head size, D hidden, C columns or candidates, V vocabulary, T tokens. The tests check
types and shapes at every call.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

AnyArray = Array | np.ndarray

Lists = Sequence[Any]
"""A matrix as lists of numbers, which what people call with their own data takes as well."""

Params = dict[str, Any]
"""Parameters by their names, in dictionaries within each other, as Flax has them."""
