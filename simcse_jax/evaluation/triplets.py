"""Triplet accuracy: is the anchor closer to the positive than to the negative?"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Real

from simcse_jax.arrays import AnyArray, Lists
from simcse_jax.checks import check_choice, check_finite_rows, check_matrix
from simcse_jax.evaluation.sts import paired_similarity

_BLOCK = 4096  # rows at a time: the float64 copies stay small beside the embeddings


def triplet_accuracy(
    anchors: Real[AnyArray, "n D"] | Lists,
    positives: Real[AnyArray, "n D"] | Lists,
    negatives: Real[AnyArray, "n D"] | Lists,
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
    named = {"anchors": anchors, "positives": positives, "negatives": negatives}
    a, p, n = (np.asarray(check_matrix(name, x)) for name, x in named.items())
    if not (a.shape == p.shape == n.shape) or len(a) == 0:
        raise ValueError(
            "anchors, positives and negatives should be of one shape [n, D] with n > 0, got "
            f"{a.shape}, {p.shape} and {n.shape}"
        )
    check_choice("distance", distance, ("euclidean", "cosine", "manhattan"))
    for name, x in zip(named, (a, p, n), strict=True):
        check_finite_rows(name, x)
    right = 0
    for start in range(0, len(a), _BLOCK):
        rows = slice(start, start + _BLOCK)
        nearer = paired_similarity(a[rows], p[rows], distance) > paired_similarity(
            a[rows], n[rows], distance
        )
        right += int(np.sum(nearer))
    return 100.0 * right / len(a)
