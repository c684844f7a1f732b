"""How evenly embeddings use their space: measures of anisotropy, and norm against frequency.

* `singular_spectrum`: the singular values over the largest (SimCSE, section 5; Wang et al. 2020);
* `average_cosine`: of two random sentences (Ethayarajh 2019);
* `partition_isotropy`: I(W) of Mu & Viswanath (2018), after Arora et al. (2016);
* `isoscore`: Rudman et al. (2022);
* `gram_bounds`: SimCSE's section 5, what the loss pushes down and the eigenvalue that it bounds;
* `frequency_bins`: BERT-flow's Table 1 (Li et al. 2020), frequent words near the origin and close
  together, rare ones far out and sparse.

They do not agree with each other, and are not meant to: an average cosine of 0 only says that the
mean is near the origin, I(W) depends on the scale, and IsoScore sees neither mean nor scale.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int, Real
from scipy.special import logsumexp
from tqdm import tqdm

from simcse_jax.arrays import AnyArray, Lists
from simcse_jax.checks import check_count
from simcse_jax.evaluation.geometry import checked_unit_rows, finite_matrix


def singular_spectrum(x: Real[AnyArray, "n D"] | Lists) -> Float64[np.ndarray, "K"]:
    """Singular values of the matrix of embeddings, divided by the largest: `σ_i / σ_1`.

    SimCSE's section 5 (and appendix, "distribution of singular values"): the faster they fall, the
    fewer directions the embeddings use. The rows are taken as they are, neither centred nor
    normalised; in SimCSE's derivation they have length one (`checked_unit_rows`). Computed in
    float64, O(n D²).

    Args:
        x: Embeddings.

    Returns:
        K = min(n, D) values from 1 downwards; 1, 0, 0, … where all rows have one direction.

    Raises:
        ValueError: x is not a finite matrix with at least one row, or is zero.
    """
    values = np.linalg.svd(finite_matrix(x), compute_uv=False)
    if not values.any():
        raise ValueError("x is zero everywhere: it has no largest singular value to divide by")
    return values / values[0]


def average_cosine(x: Real[AnyArray, "n D"] | Lists) -> float:
    """Mean cosine of two different rows, in O(n D).

    Ethayarajh (EMNLP 2019) takes it of randomly drawn words as the measure of anisotropy. The mean
    over all pairs needs no pair: with unit vectors u_i,

        `mean_{i≠j} u_iᵀu_j = (‖Σ_i u_i‖² − n) / (n (n − 1))`.

    Args:
        x: Embeddings; they are L2-normalised here.

    Returns:
        From −1/(n − 1) (the mean direction is zero) to 1 (all rows have one direction).

    Raises:
        ValueError: x is not [n, D] with n > 1, or a row is zero or not finite.
    """
    points = checked_unit_rows(x, "x", 2)
    n = len(points)
    total = points.sum(0)
    return float((total @ total - n) / (n * (n - 1)))


def partition_isotropy(x: Real[AnyArray, "n D"] | Lists) -> float:
    """Isotropy by the partition function, `I(W) = min_c Z(c) / max_c Z(c)`.

    `Z(c) = Σ_i exp(cᵀ x_i)` for unit vectors c: Arora et al. (TACL 2016) derive that it is about
    constant for isotropic word vectors; Mu & Viswanath (*All-but-the-Top*, ICLR 2018, section 2.1)
    make the ratio a measure, with c running over the eigenvectors of WᵀW. An eigenvector's sign is
    arbitrary and Z(c) is not Z(−c); both signs are taken here, so that the value is a property of
    the embeddings. It depends on their scale: tiny embeddings of any shape have I(W) near 1.

    Computed in float64 and in logarithms, so that long embeddings do not overflow; O(n D²).

    Args:
        x: Embeddings, taken as they are.

    Returns:
        From 0 to 1, where Z is the same in all directions.

    Raises:
        ValueError: x is not a finite matrix with at least one row.
    """
    x = finite_matrix(x)
    _, vectors = np.linalg.eigh(x.T @ x)  # [D, D], a direction in each column
    projections = x @ vectors  # [n, D]
    log_z = np.concatenate([logsumexp(sign * projections, axis=0) for sign in (1, -1)])  # [2 D]
    return float(np.exp(log_z.min() - log_z.max()))


def isoscore(x: Real[AnyArray, "n D"] | Lists) -> float:
    """IsoScore (Rudman, Gillman, Rayne & Eickhoff, Findings of ACL 2022, algorithm 1).

    In the paper's steps, with D dimensions: the variances λ along the principal components,
    scaled to `λ̂ = √D λ / ‖λ‖`; the isotropy defect `δ = ‖λ̂ − 1‖ / √(2 (D − √D))`; the fraction of
    dimensions in use `φ = (D − δ² (D − √D))² / D²`; and `ι = (D φ − 1) / (D − 1)`. Since
    `‖λ̂ − 1‖² = 2 D − 2 √D tr Σ / ‖Σ‖_F`, it is, with the covariance Σ,

        `ι = (r − 1) / (D − 1)`,   `r = (tr Σ)² / ‖Σ‖_F²`,

    r being the participation ratio, and no principal component need be found. Neither the mean nor
    the scale matters.

    Args:
        x: Embeddings.

    Returns:
        From 0 (one direction has all variance) to 1 (all have the same); (k − 1) / (D − 1) where k
        directions share it equally.

    Raises:
        ValueError: x is not a finite matrix of at least two rows and two columns, or all rows are
            the same.
    """
    x = finite_matrix(x, at_least=2)
    dimensions = x.shape[1]
    if dimensions < 2:
        raise ValueError("x has one dimension: IsoScore compares the variances of two or more")
    centred = x - x.mean(0)
    if not np.any(np.ptp(x, axis=0) > 0):
        raise ValueError("all rows of x are the same: they have no variance in any direction")
    centred /= np.abs(centred).max()  # the scale cancels, and squares might under- or overflow
    scatter = centred.T @ centred  # [D, D]
    ratio = np.trace(scatter) ** 2 / np.square(scatter).sum()
    return float((ratio - 1) / (dimensions - 1))


@dataclass(frozen=True)
class GramBounds:
    """What SimCSE's section 5 speaks of, for m sentences.

    Attributes:
        total: sum(WWᵀ), the sum of all m² inner products.
        largest: the largest eigenvalue of WWᵀ, σ_1² of W.
        positive: the share of the entries of WWᵀ that are not negative.
        sentences: m.
    """

    total: float
    largest: float
    positive: float
    sentences: int


def gram_bounds(x: Real[AnyArray, "m D"] | Lists, block: int = 1024) -> GramBounds:
    """Measure the two sides of SimCSE's argument against anisotropy (section 5).

    By Jensen's inequality the loss's second term, on negatives, is at least
    `sum(WWᵀ) / (τ m²)`, W holding the unit embeddings in its rows; and where all entries of WWᵀ
    are positive, `λ_1(WWᵀ) ≤ sum(WWᵀ)` (Merikoski 1984), so that pushing the sum down flattens the
    spectrum. Always, whatever the signs, `sum(WWᵀ) / m ≤ λ_1` (the Rayleigh quotient of the
    vector of ones) and `λ_1 ≤ m` (the trace).

    `sum(WWᵀ) = ‖Σ_i h_i‖²` and λ_1 is found on the D × D side; only the share of positive entries
    is counted pair by pair, in blocks of rows.

    Args:
        x: Embeddings; they are L2-normalised here.
        block: Rows of WWᵀ held at a time.

    Returns:
        The sum, the eigenvalue, and whether the condition held.

    Raises:
        ValueError: x is not [m, D] with m > 0, or a row is zero or not finite; block below 1.
    """
    check_count("block", block)
    points = checked_unit_rows(x)
    m = len(points)
    total = points.sum(0)
    single = points.astype(np.float32)
    positive = sum(
        int(np.count_nonzero(single[start : start + block] @ single.T >= 0))
        for start in range(0, m, block)
    )
    largest = np.linalg.eigvalsh(points.T @ points)[-1]
    return GramBounds(float(total @ total), float(largest), positive / m**2, m)


@dataclass(frozen=True)
class FrequencyBin:
    """A row of BERT-flow's Table 1.

    Attributes:
        first: The rank of the most frequent word in the bin, from 0.
        stop: The first rank beyond the bin.
        norm: Mean l2 norm of its words' embeddings.
        distance: For each k, the mean l2 distance of its words to their k nearest neighbours.
        dot: For each k, the mean inner product of its words with the k words of the largest.
    """

    first: int
    stop: int
    norm: float
    distance: dict[int, float]
    dot: dict[int, float]


def frequency_bins(
    embeddings: Real[AnyArray, "V D"] | Lists,
    counts: Int[AnyArray, "V"] | Lists,
    edges: Sequence[int] = (0, 100, 500, 5_000, 10_000),
    neighbours: Sequence[int] = (3, 5, 7),
    block: int = 512,
    progress: bool = False,
) -> list[FrequencyBin]:
    """BERT-flow's Table 1 (Li et al., EMNLP 2020, section 3.2): geometry by word frequency.

    Words are ranked by their counts in a corpus, the most frequent first (ties in the order of the
    vocabulary), and cut into bins of ranks. For a word w with embedding e_w, over all other words
    of the vocabulary, in the bin or not, seen in the corpus or not:

    * the l2 norm `‖e_w‖`;
    * the distance to the k nearest neighbours, the mean of the k smallest `‖e_w − e_v‖`, v ≠ w;
    * the same by inner product, the mean of the k largest `e_wᵀe_v`, v ≠ w.

    Each is averaged over the words of a bin. Blocks of words keep the memory at O(block · V); the
    products are float32, O(V² D) at most.

    Args:
        embeddings: One row a word of the vocabulary.
        counts: How often each word stands in the corpus.
        edges: The bins' borders; the default is the paper's.
        neighbours: The numbers k; the default is the paper's.
        block: Words compared with the vocabulary at a time.
        progress: Show a progress bar.

    Returns:
        A row for each pair of neighbouring edges.

    Raises:
        ValueError: embeddings and counts that do not belong together or are not finite, edges that
            do not rise from 0 or more, fewer words in the corpus than the last edge, or a k not
            from 1 to V − 1.
    """
    with np.errstate(over="ignore"):
        x = finite_matrix(embeddings, "embeddings", 2).astype(np.float32)
        squares = np.einsum("vd,vd->v", x, x)  # [V]
    if not np.isfinite(squares).all():
        row = int(np.argmin(np.isfinite(squares)))
        raise ValueError(f"embeddings must have squares that float32 holds; row {row} has not")
    counts = np.asarray(counts)
    if counts.shape != (len(x),) or counts.dtype.kind not in "iu" or np.any(counts < 0):
        raise ValueError(
            f"counts should be {len(x)} whole numbers from 0, one for each embedding, got "
            f"{counts.dtype} of shape {counts.shape}"
        )
    edges = [int(edge) for edge in edges]
    if len(edges) < 2 or edges[0] < 0 or any(np.diff(edges) <= 0):
        raise ValueError(f"edges should be two ranks or more that rise from 0, got {edges}")
    seen = int(np.count_nonzero(counts))
    if edges[-1] > seen:
        raise ValueError(
            f"the last edge is rank {edges[-1]}, but the corpus has {seen} words of the vocabulary:"
            " count a larger corpus or lower the edges"
        )
    ks = sorted({int(k) for k in neighbours})
    if not ks or ks[0] < 1 or ks[-1] >= len(x):
        raise ValueError(f"neighbours should lie in 1..{len(x) - 1}, got {list(neighbours)}")
    check_count("block", block)

    ranked = np.argsort(-counts.astype(np.int64), kind="stable")[edges[0] : edges[-1]]
    deepest = ks[-1]
    distances = np.empty((len(ranked), deepest))
    dots = np.empty((len(ranked), deepest))
    starts = range(0, len(ranked), block)
    for start in tqdm(starts, desc="neighbours", unit="block", disable=not progress):
        words = ranked[start : start + block]
        products = x[words] @ x.T  # [b, V]
        itself = (np.arange(len(words)), words)
        # Half the squared distance, up to the word's own constant.
        near = squares[None] / 2 - products
        near[itself] = np.inf
        nearest = np.argpartition(near, deepest - 1, axis=1)[:, :deepest]  # [b, k]
        # The few that are kept once more as differences: the squares above cancel.
        gaps = x[words][:, None].astype(np.float64) - x[nearest]  # [b, k, D]
        distances[start : start + block] = np.sort(np.linalg.norm(gaps, axis=2), axis=1)
        products[itself] = -np.inf
        largest = np.partition(products, len(x) - deepest, axis=1)[:, -deepest:]
        dots[start : start + block] = np.sort(largest, axis=1)[:, ::-1]
    norms = np.linalg.norm(x[ranked].astype(np.float64), axis=1)

    rows = []
    for first, stop in itertools.pairwise(edges):
        part = slice(first - edges[0], stop - edges[0])
        rows.append(
            FrequencyBin(
                first,
                stop,
                float(norms[part].mean()),
                {k: float(distances[part, :k].mean()) for k in ks},
                {k: float(dots[part, :k].mean()) for k in ks},
            )
        )
    return rows
