"""The geometry of embeddings on the unit sphere: alignment and uniformity.

Wang & Isola, *Understanding Contrastive Representation Learning through Alignment and Uniformity on
the Hypersphere* (ICML 2020), section 4.1; equations 2 and 3 of SimCSE. Lower is better for both.

SimCSE's figures take the whole of STS-B (train, dev and test): alignment over the pairs with a gold
score above 4, uniformity over all sentences.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64, Int, Real
from scipy.special import logsumexp

from simcse_jax.arrays import AnyArray, Lists
from simcse_jax.checks import check_between, check_count, check_finite_rows, check_matrix, quoted
from simcse_jax.data.senteval import Pairs
from simcse_jax.evaluation.sts import Encode, encode_distinct
from simcse_jax.losses.geometry import squared_distance, unit_rows


def alignment(
    x: Real[AnyArray, "n D"] | Lists, y: Real[AnyArray, "n D"] | Lists, alpha: float = 2.0
) -> float:
    """Mean distance of positive pairs on the sphere, `E ‖x/‖x‖ − y/‖y‖‖^alpha`.

    Wang & Isola's alignment loss (section 4.1.1) and, with alpha 2, SimCSE's equation 2. Computed
    in float64.

    Args:
        x: Embeddings of the first sentences; they are L2-normalised here.
        y: Embeddings of the second sentences, row by row. Which pairs are positive is the caller's
            choice: SimCSE takes STS-B's pairs with a score above 4.
        alpha: The power of the distance, above 0 and at most 1000.

    Returns:
        The alignment, from 0 (each pair is one point) to 2^alpha.

    Raises:
        ValueError: x and y are not of one shape [n, D] with n > 0, or a row is zero or not finite.
    """
    check_between("alpha", alpha, 0, 1000, "(]")  # a distance is 2 at most
    x, y = check_matrix("x", x), check_matrix("y", y)
    if x.shape != y.shape:
        raise ValueError(
            f"x and y should be pairs of embeddings of one shape, got {x.shape} and {y.shape}"
        )
    differences = checked_unit_rows(x, "x", 1) - checked_unit_rows(y, "y", 1)  # [n, D]
    return float(np.mean(np.linalg.norm(differences, axis=1) ** alpha))


def uniformity(x: Real[AnyArray, "n D"] | Lists, t: float = 2.0, block: int = 1024) -> float:
    """Measure how evenly points cover a sphere, `log mean_{i<j} exp(−t ‖x_i/‖x_i‖ − x_j/‖x_j‖‖²)`.

    Wang & Isola's uniformity loss (section 4.1.2), with their t of 2 by default, and SimCSE's
    equation 3. The mean is over the n (n − 1) / 2 pairs of different rows, as in their code; rows
    that are equal are not merged.

    The pairs are visited in tiles of block × block, so that the memory is O(n D + block²) and the
    time O(n² D) on JAX's default device, in float32; the sums over tiles are float64. The error of
    the result is about 1e-6 t.

    Args:
        x: Embeddings; they are L2-normalised here.
        t: The sharpness of the Gaussian potential, above 0 and at most 1e6.
        block: The side of a tile.

    Returns:
        The uniformity, from about −2t (spread evenly over a sphere of many dimensions) to 0 (all
        rows have one direction).

    Raises:
        ValueError: x is not [n, D] with n > 1, or a row is zero or not finite.
    """
    check_count("block", block)
    check_between("t", t, 0, 1e6, "(]")
    points = checked_unit_rows(x, "x", 2).astype(np.float32)
    n = len(points)
    block = min(block, n)
    tiles = [
        jnp.asarray(_pad(points[start : start + block], block)) for start in range(0, n, block)
    ]
    sums = [
        _tile_log_sum(tiles[i], tiles[j], i * block, j * block, n, t)
        for i in range(len(tiles))
        for j in range(i, len(tiles))
    ]
    total = logsumexp(np.asarray(jax.device_get(sums), np.float64))
    return float(total - np.log(n * (n - 1) / 2))


@dataclass(frozen=True)
class Geometry:
    """Alignment and uniformity, and over how many positive pairs and sentences they were taken."""

    alignment: float
    uniformity: float
    positive_pairs: int
    sentences: int


def alignment_uniformity(
    encode: Encode,
    pairs: Iterable[Pairs],
    threshold: float = 4.0,
    sentences: Literal["distinct", "all"] = "distinct",
) -> Geometry:
    """Alignment and uniformity as in SimCSE's figures 2 and 3.

    Args:
        encode: From n sentences to embeddings [n, D] in the same order. Called once, with each
            distinct sentence once.
        pairs: The scored pairs. SimCSE takes all of STS-B:
            `[read_stsb(folder, split) for split in ("train", "dev", "test")]`.
        threshold: Alignment is taken over the pairs with a score above it.
        sentences: Uniformity is taken over the distinct sentences, or over all of them, each as
            often as it occurs. SimCSE's authors say that it is over all of STS-B, and Wang &
            Isola's code takes a batch of any rows; neither tells what of sentences that occur
            twice.

    Returns:
        The alignment of the pairs above the threshold, the uniformity of the sentences.

    Raises:
        ValueError: There is no such choice of sentences, no pair has a score above the threshold,
            or as in `alignment`, `uniformity`.
    """
    if sentences not in ("distinct", "all"):
        raise ValueError(f"sentences is {quoted(sentences)}; it must be 'distinct' or 'all'")
    pairs = list(pairs)
    sentences1 = [sentence for part in pairs for sentence in part.sentences1]
    sentences2 = [sentence for part in pairs for sentence in part.sentences2]
    positive = [bool(score > threshold) for part in pairs for score in part.scores]
    if not any(positive):
        raise ValueError(
            f"none of {len(positive)} pairs has a score above {threshold}: alignment needs one"
        )
    rows, embeddings = encode_distinct(encode, (*sentences1, *sentences2))
    x = embeddings[[rows[s] for s, keep in zip(sentences1, positive, strict=True) if keep]]
    y = embeddings[[rows[s] for s, keep in zip(sentences2, positive, strict=True) if keep]]
    if sentences == "all":
        embeddings = embeddings[[rows[sentence] for sentence in (*sentences1, *sentences2)]]
    return Geometry(alignment(x, y), uniformity(embeddings), len(x), len(embeddings))


@jax.jit
def _tile_log_sum(
    rows: Float32[Array, "b D"],
    columns: Float32[Array, "b D"],
    row_start: Int[Array, ""],
    column_start: Int[Array, ""],
    n: Int[Array, ""],
    t: Real[Array, ""],
) -> Float32[Array, "b"]:
    """`log sum_j exp(−t ‖x_i − x_j‖²)` for each row i of a tile, over its columns j with i < j < n.

    A row without such a column gives −inf. (With i < j, j < n also keeps padded rows out.)
    """
    cosines = jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)  # [b, b]
    squares = squared_distance(cosines)
    i = row_start + jnp.arange(rows.shape[0])[:, None]
    j = column_start + jnp.arange(columns.shape[0])[None, :]
    return jax.nn.logsumexp(jnp.where((i < j) & (j < n), -t * squares, -jnp.inf), axis=1)


def checked_unit_rows(
    x: Real[AnyArray, "n D"] | Lists, name: str = "x", at_least: int = 1
) -> Float64[np.ndarray, "n D"]:
    """Return the embeddings on the unit sphere, in float64, after checking that they have a place.

    Args:
        x: Embeddings.
        name: What the error should call them.
        at_least: How many rows there must be.

    Raises:
        ValueError: x is not [n, D] with enough rows, or a row is zero or not finite.
    """
    x = finite_matrix(x, name, at_least)
    zero = ~x.any(axis=1)
    if zero.any():
        raise ValueError(
            f"row {int(np.argmax(zero))} of {name} has the norm 0: only a vector other than zero "
            "has a place on the sphere"
        )
    return unit_rows(x)


def finite_matrix(
    x: Real[AnyArray, "n D"] | Lists, name: str = "x", at_least: int = 1
) -> Float64[np.ndarray, "n D"]:
    """Return embeddings in float64, after checking that they are finite.

    Args:
        x: Embeddings.
        name: What the error should call them.
        at_least: How many rows there must be.

    Raises:
        ValueError: x is not [n, D] with enough rows, or a row is not finite.
    """
    x = np.asarray(check_matrix(name, x, rows=at_least), np.float64)
    check_finite_rows(name, x)
    return x


def _pad(x: Float32[np.ndarray, "m D"], rows: int) -> Float32[np.ndarray, "b D"]:
    return np.pad(x, ((0, rows - len(x)), (0, 0)))
