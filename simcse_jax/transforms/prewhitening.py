"""The affine map that may stand before a flow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from simcse_jax.transforms.whitening import Moments, spectrum


class PreWhitening(NamedTuple):
    """The affine map before the flow, `(x - mean) W`, with the inverse of W and its log-det."""

    mean: Float[np.ndarray, " D"]
    matrix: Float[np.ndarray, "D D"]
    inverse: Float[np.ndarray, "D D"]
    logdet: float

    @classmethod
    def fit(cls, x: Float[np.ndarray, "n D"], floor: float) -> PreWhitening:
        """Whiten along the embeddings' own axes (ZCA), eigenvalues raised to ``floor`` Λ_1."""
        moments = Moments.of(x)
        values, vectors = spectrum(moments, ddof=0)
        scale = np.sqrt(np.maximum(values, floor * values[0]))
        return cls(
            moments.mean,
            (vectors / scale) @ vectors.T,
            (vectors * scale) @ vectors.T,
            -float(np.log(scale).sum()),
        )


def prewhiten(prewhitening: PreWhitening | None, x: np.ndarray) -> np.ndarray:
    """Apply the map before the flow, if there is one."""
    if prewhitening is None:
        return x
    return (x - prewhitening.mean.astype(np.float32)) @ prewhitening.matrix.astype(np.float32)
