"""Triplet accuracy by hand and against the plainest loop."""

import numpy as np
import pytest
from scipy.spatial import distance as scipy_distance

from simcse_jax.evaluation import triplets
from simcse_jax.evaluation.triplets import triplet_accuracy

SCIPY = {
    "euclidean": scipy_distance.euclidean,
    "cosine": scipy_distance.cosine,
    "manhattan": scipy_distance.cityblock,
}


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "manhattan"])
def test_against_a_loop(distance, monkeypatch):
    monkeypatch.setattr(triplets, "_BLOCK", 16)  # several blocks, the last one short
    a, p, n = np.random.default_rng(0).normal(size=(3, 70, 5)).astype(np.float32)
    d = SCIPY[distance]
    right = sum(d(a[i], p[i]) < d(a[i], n[i]) for i in range(70))
    assert triplet_accuracy(a, p, n, distance) == pytest.approx(100 * right / 70, abs=1e-12)


def test_the_distances_differ():
    a = np.array([[1.0, 0.0]])
    p = np.array([[3.0, 0.0]])  # far, but in the same direction
    n = np.array([[0.9, 0.9]])
    assert triplet_accuracy(a, p, n) == 0.0
    assert triplet_accuracy(a, p, n, "cosine") == 100.0
    p, n = np.array([[1.7, 0.7]]), np.array([[1.0, 1.2]])
    assert triplet_accuracy(a, p, n, "euclidean") == 100.0
    assert triplet_accuracy(a, p, n, "manhattan") == 0.0


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "manhattan"])
def test_ties_are_wrong(distance):
    a, p = np.random.default_rng(0).normal(size=(2, 20, 5)).astype(np.float32)
    assert triplet_accuracy(a, p, p, distance) == 0.0
    assert triplet_accuracy(np.ones((3, 2)), np.ones((3, 2)), np.ones((3, 2)), distance) == 0.0
    assert triplet_accuracy(a, a, p, distance) == 100.0


@pytest.mark.usefixtures("unchecked")
def test_bad_input():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"got \(2, 3\), \(2, 3\) and \(1, 3\)"):
        triplet_accuracy(x, x, x[:1])
    with pytest.raises(ValueError, match="n > 0"):
        triplet_accuracy(x[:0], x[:0], x[:0])
    with pytest.raises(ValueError, match="distance is 'dot'; it must be one of euclidean"):
        triplet_accuracy(x, x, x, "dot")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positives must be finite; row 1 is not"):
        triplet_accuracy(x, np.array([[1, 1, 1], [1, np.inf, 1]]), x)
