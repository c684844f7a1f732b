"""BERT-whitening (Su et al. 2021): the linear map after which the covariance is the identity.

``y = (x - mean) W`` with ``W = (U Λ^(-1/2))[:, :k]``, where ``U Λ U^T`` is the covariance of the
embeddings, largest eigenvalue first. The moments are gathered in one streaming pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Real

from simcse_jax.arrays import AnyArray, Lists
from simcse_jax.checks import check_between, check_count, quoted
from simcse_jax.transforms.base import (
    Affine,
    check_embeddings,
    explained_damage,
    load_state,
    save_state,
)

# Rows that are turned to float64 at a time: bounds the memory of a fit on one huge array, and is
# no slower than all at once: a block may still be in the cache when it is multiplied.
_BLOCK = 8192


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and centred second moment of embeddings, in float64 on the host.

    ``mean = 1/n Σ x`` and ``m2 = Σ (x - mean)^T (x - mean)``. Two of them merge exactly (Chan,
    Golub & LeVeque 1979), so batches, devices and hosts may gather theirs in any grouping:

        ``m2 = m2_a + m2_b + δ^T δ n_a n_b / n``,   ``δ = mean_b - mean_a``.

    Attributes:
        count: number of embeddings seen.
        mean: ``[D]``.
        m2: ``[D, D]``.
    """

    count: int
    mean: Float[np.ndarray, " D"]
    m2: Float[np.ndarray, "D D"]

    @classmethod
    def zero(cls, dim: int) -> Moments:
        """Return the moments of no embeddings of ``dim`` dimensions."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    @classmethod
    def of(cls, embeddings: Real[AnyArray, "n D"] | Iterable[Any]) -> Moments:
        """Return the moments of one matrix ``[n, D]``, array or lists, or of an iterable of them.

        Raises:
            ValueError: no batch, or a batch that is not ``[n, D]`` and finite.
        """
        # A list of rows is a matrix, a list of matrices are batches.
        lists = isinstance(embeddings, Sequence) and len(embeddings) and np.ndim(embeddings[0]) < 2
        batches: Iterable[Any] = (
            [embeddings] if lists or hasattr(embeddings, "ndim") else embeddings
        )
        total: Moments | None = None
        for batch in batches:
            if total is None:
                batch = check_embeddings(batch, finite=False)
                total = cls.zero(batch.shape[1])
            total = total.update(batch)
        if total is None:
            raise ValueError("no embeddings: the iterable of batches is empty")
        return total

    def update(self, batch: Real[AnyArray, "n D"] | Lists) -> Moments:
        """Return the moments with a batch ``[n, D]`` added.

        Raises:
            ValueError: the batch has another D, or a row that is not finite.
        """
        rows = check_embeddings(batch, dim=self.mean.shape[0], finite=False)
        total = self
        for start in range(0, rows.shape[0], _BLOCK):
            x = rows[start : start + _BLOCK].astype(np.float64)
            mean = x.mean(axis=0)
            if not np.isfinite(mean).all():
                check_embeddings(rows)  # raises, and names the rows
            x -= mean
            # numpy sees that both factors are one array and computes half of the product.
            total = total.merge(Moments(x.shape[0], mean, x.T @ x))
        return total

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets together; associative up to rounding.

        Raises:
            ValueError: the two have different D.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"moments of {self.mean.shape[0]} and {other.mean.shape[0]} dimensions do not merge"
            )
        if not self.count or not other.count:
            return other if other.count else self
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2
        m2 += np.outer(delta, delta * (self.count * other.count / count))
        return Moments(count, mean, m2)

    def covariance(self, ddof: int = 1) -> Float[np.ndarray, "D D"]:
        """Return ``m2 / (count - ddof)``.

        Raises:
            ValueError: ``count <= ddof``.
        """
        check_count("ddof", ddof, 0)
        if self.count <= ddof:
            raise ValueError(
                f"a covariance needs more than {ddof} embeddings (ddof={ddof}), got {self.count}"
            )
        return self.m2 / (self.count - ddof)

    def rounding_variance(self) -> float:
        """Return the variance that float32 rounding alone may give a direction.

        ``max_d E[x_d²] ε²`` with float32's ``ε = 2^-23``: a direction whose variance is not above
        it holds rounding errors and nothing of the sentences. (A layer norm ties its outputs by
        one linear equation, so a BERT's embeddings always have such a direction.)
        """
        power = np.square(self.mean) + np.diagonal(self.m2) / max(self.count, 1)
        return float(power.max(initial=0.0)) * float(np.finfo(np.float32).eps) ** 2

    def constant_dimensions(self) -> list[int]:
        """Return the dimensions that do not vary, beyond the rounding of their own values."""
        variance = np.diagonal(self.m2) / max(self.count, 1)
        noise = self.rounding_variance()
        return [int(i) for i in np.flatnonzero(variance <= noise)]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the moments into a folder, so that another run can continue the fit."""
        save_state(
            folder, {"kind": "moments", "count": self.count}, {"mean": self.mean, "m2": self.m2}
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Moments:
        """Read what ``save`` wrote."""
        settings, tensors = load_state(folder)
        if settings.get("kind") != "moments":
            raise ValueError(f"{Path(folder)} holds a {quoted(settings.get('kind'))}, not moments")
        with explained_damage(folder):
            return cls(settings["count"], tensors["mean"], tensors["m2"])


def spectrum(
    moments: Moments, ddof: int = 1
) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, "D D"]]:
    """Return eigenvalues ``[D]``, largest first, and eigenvectors in the columns of ``[D, D]``.

    Every eigenvector's sign is such that its largest component is positive, so that a fit does not
    depend on the LAPACK at hand.
    """
    values, vectors = np.linalg.eigh(moments.covariance(ddof))
    values, vectors = values[::-1], vectors[:, ::-1]
    peak = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.where(vectors[peak, np.arange(values.size)] < 0, -1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Whitening(Affine):
    """BERT-whitening: ``y = (x - mean) (U Λ^(-1/2))[:, :k]``, then L2 if ``normalize``.

    Attributes:
        mean: ``[D]`` float64.
        matrix: ``[D, k]`` float64.
        normalize: divide the rows by their L2 norm, as the authors do before the cosine.
        eigenvalues: ``[k]``, the variances along the directions kept, largest first.
        count: number of embeddings it was fitted on.
        ddof: the covariance is ``1 / (count - ddof)``.
    """

    kind: ClassVar[str] = "whitening"

    eigenvalues: Float[np.ndarray, " K"] | None = None
    count: int = 0
    ddof: int = 1

    @classmethod
    def fit(
        cls,
        embeddings: Real[AnyArray, "n D"] | Iterable[Any],
        k: int | None = None,
        *,
        ddof: int = 1,
        floor: float | None = None,
        normalize: bool = False,
    ) -> Whitening:
        """Fit on embeddings, in one pass and the memory of one batch.

        Args:
            embeddings: ``[n, D]``, or an iterable of such batches.
            k: number of directions to keep, those of the largest variance; all of them if None.
            ddof: 1 is the authors' code (``np.cov``, 1/(N-1)), 0 the paper (1/N). It scales every
                output by the same factor, so no cosine depends on it.
            floor: see ``from_moments``.
            normalize: divide the rows by their L2 norm after the map.

        Raises:
            ValueError: see ``from_moments``, and embeddings that are not finite matrices.
        """
        moments = Moments.of(embeddings)
        return cls.from_moments(moments, k, ddof=ddof, floor=floor, normalize=normalize)

    @classmethod
    def from_moments(
        cls,
        moments: Moments,
        k: int | None = None,
        *,
        ddof: int = 1,
        floor: float | None = None,
        normalize: bool = False,
    ) -> Whitening:
        """Fit on gathered moments; a fit is continued by updating them and calling this again.

        The rank is the number of directions whose variance is above float32's rounding
        (``Moments.rounding_variance``). Whitening would blow the others up to unit variance, so
        they are no directions: with ``k=None`` they are dropped, and k above the rank is an error.
        A constant dimension is the plainest case. Where there are no more embeddings than
        dimensions, whitening with ``k=None`` would put all of them at the same distance from each
        other, so it is an error too: choose a k.

        Args:
            moments: of the embeddings.
            k: number of directions; None for the rank.
            ddof: see ``fit``.
            floor: raise every eigenvalue to at least this fraction of the largest, and keep all
                directions: ``Λ_i := max(Λ_i, floor Λ_1)``. The alternative to the errors below.
            normalize: see ``fit``.

        Raises:
            ValueError: k not in 1..D, or beyond the rank (the constant dimensions are named); no
                more embeddings than dimensions and neither k nor floor; a floor not in (0, 1].
        """
        dim = moments.mean.shape[0]
        if k is not None:
            check_count("k", k)
            check_between("k", k, 1, dim)
        if floor is not None:
            check_between("floor", floor, 0, 1, "(]")
        values, vectors = spectrum(moments, ddof)
        noise = max(
            moments.rounding_variance(), dim * float(np.finfo(np.float64).eps) * float(values[0])
        )
        rank = int((values > noise).sum())
        if rank == 0:
            raise ValueError("the embeddings are all the same: there is nothing to whiten")
        if floor is not None:
            values, rank = np.maximum(values, floor * values[0]), dim
        elif k is None and moments.count <= dim:
            raise ValueError(
                f"{moments.count} embeddings of {dim} dimensions: whitening all of the {rank} "
                f"directions they span would make every two of them equally far apart; fit on "
                f"more, choose k, or set floor"
            )
        if k is not None and k > rank:
            constant = moments.constant_dimensions()
            names = ", ".join(map(str, constant[:10])) + (", …" if len(constant) > 10 else "")
            raise ValueError(
                f"k={k} is beyond the rank {rank} of {moments.count} embeddings of {dim} "
                f"dimensions ({'constant dimensions: ' + names if constant else 'none constant'});"
                f" choose k <= {rank}, or set floor"
            )
        k = rank if k is None else k
        matrix = vectors[:, :k] / np.sqrt(values[:k])
        return cls(
            moments.mean,
            matrix,
            normalize,
            eigenvalues=values[:k],
            count=moments.count,
            ddof=ddof,
        )

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """See ``Transform.state``."""
        settings, tensors = super().state()
        if self.eigenvalues is not None:
            tensors["eigenvalues"] = self.eigenvalues
        return {**settings, "count": self.count, "ddof": self.ddof}, tensors
