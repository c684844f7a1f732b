"""The array type of a loss' arguments: callers pass arrays of the host as well as of the device."""

import numpy as np
from jaxtyping import Array

AnyArray = Array | np.ndarray
