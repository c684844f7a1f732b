"""Triplet accuracy: is the anchor closer to the positive than to the negative?"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

from simcse_jax.evaluation.sts import paired_similarity

_BLOCK = 4096  # rows at a time: the float64 copies stay small beside the embeddings


def triplet_accuracy(
    anchors: Float[np.ndarray, "n D"],
    positives: Float[np.ndarray, "n D"],
    negatives: Float[np.ndarray, "n D"],
    distance: Literal["euclidean", "cosine", "manhattan"] = "euclidean",
) -> float:
    """Percentage of triplets with `d(anchor, positive) < d(anchor, negative)`.

    This is the measure of SBERT's section 4.4 (Wikipedia sections), with its Euclidean distance by
    default. A tie counts as wrong, so that embeddings which are all the same score 0.

    Args:
        anchors: Embeddings of the anchors.
        positives: Embeddings that should be close to the anchors, row by row.
        negatives: Embeddings that should be far from the anchors, row by row.
        distance: The distance d; "cosine" is 1 - cosine, and the cosine with a zero vector is 0.

    Returns:
        The accuracy, from 0 to 100.

    Raises:
        ValueError: The three arrays are not of one shape [n, D] with n > 0 or not finite, or the
            distance is unknown.
    """
    a, p, n = (np.asarray(x) for x in (anchors, positives, negatives))
    if a.ndim != 2 or not (a.shape == p.shape == n.shape) or len(a) == 0:
        raise ValueError(
            "anchors, positives and negatives should be of one shape [n, D] with n > 0, got "
            f"{a.shape}, {p.shape} and {n.shape}"
        )
    if distance not in ("euclidean", "cosine", "manhattan"):
        raise ValueError(
            f"there is no distance {distance!r}: choose from euclidean, cosine, manhattan"
        )
    for name, x in (("anchors", a), ("positives", p), ("negatives", n)):
        if not np.isfinite(x).all():
            raise ValueError(f"{name} should be finite, row {_first_bad_row(x)} is not")
    right = 0
    for start in range(0, len(a), _BLOCK):
        rows = slice(start, start + _BLOCK)
        nearer = paired_similarity(a[rows], p[rows], distance) > paired_similarity(
            a[rows], n[rows], distance
        )
        right += int(np.sum(nearer))
    return 100.0 * right / len(a)


def _first_bad_row(x: Float[np.ndarray, "n D"]) -> int:
    return int(np.argmin(np.isfinite(x).all(axis=1)))
