"""The two simple calibrations that BERT-flow compares itself with (Li et al. 2020, table 4)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Real

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_between, check_count
from simcse_jax.transforms.base import Affine
from simcse_jax.transforms.whitening import Moments, spectrum


@dataclass(frozen=True, eq=False)
class Standardization(Affine):
    """Standard normalisation (SN): ``y_d = (x_d - mean_d) / std_d``; constant dimensions give 0."""

    kind: ClassVar[str] = "standardization"

    @classmethod
    def fit(
        cls,
        embeddings: Real[AnyArray, "n D"] | Iterable[Any],
        *,
        ddof: int = 0,
        normalize: bool = False,
    ) -> Standardization:
        """Fit on embeddings ``[n, D]``, or on an iterable of such batches.

        Raises:
            ValueError: fewer than two embeddings, or embeddings that are not finite matrices.
        """
        return cls.from_moments(Moments.of(embeddings), ddof=ddof, normalize=normalize)

    @classmethod
    def from_moments(
        cls, moments: Moments, *, ddof: int = 0, normalize: bool = False
    ) -> Standardization:
        """Fit on gathered moments; see ``fit``."""
        _check_count(moments)
        variance = np.diagonal(moments.covariance(ddof)).copy()
        # A constant dimension holds rounding errors; divided by their size they would be noise.
        constant = moments.constant_dimensions()
        variance[constant] = 1.0
        scale = 1 / np.sqrt(variance)
        scale[constant] = 0.0
        return cls(moments.mean, np.diag(scale), normalize)


@dataclass(frozen=True, eq=False)
class AllButTheTop(Affine):
    """Nulling the top k principal directions (NATSV): ``y = (x - mean) (I - U_k U_k^T)``.

    Mu & Viswanath 2018, "All-but-the-Top"; the directions are those of the centred embeddings.
    """

    kind: ClassVar[str] = "all_but_the_top"

    @classmethod
    def fit(
        cls,
        embeddings: Real[AnyArray, "n D"] | Iterable[Any],
        k: int = 1,
        *,
        normalize: bool = False,
    ) -> AllButTheTop:
        """Fit on embeddings ``[n, D]``, or on an iterable of such batches.

        Raises:
            ValueError: k not in 0..D-1, fewer than two embeddings, or embeddings that are not
                finite matrices.
        """
        return cls.from_moments(Moments.of(embeddings), k, normalize=normalize)

    @classmethod
    def from_moments(cls, moments: Moments, k: int = 1, *, normalize: bool = False) -> AllButTheTop:
        """Fit on gathered moments; see ``fit``."""
        _check_count(moments)
        dim = moments.mean.shape[0]
        check_count("k", k, 0)
        check_between("k", k, 0, dim - 1)  # something has to remain
        _, vectors = spectrum(moments)
        top = vectors[:, :k]  # [D, k]
        return cls(moments.mean, np.eye(dim) - top @ top.T, normalize)


def _check_count(moments: Moments) -> None:
    if moments.count < 2:
        raise ValueError(f"a calibration needs at least two embeddings, got {moments.count}")
