"""Alignment and uniformity: closed forms, and brute force with scipy."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from simcse_jax.data.senteval import Pairs
from simcse_jax.evaluation.geometry import alignment, alignment_uniformity, uniformity


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def brute_force_uniformity(x, t=2.0):
    return np.log(np.mean(np.exp(-t * pdist(unit(x.astype(np.float64)), "sqeuclidean"))))


def test_alignment_closed_forms():
    x = np.eye(4)
    assert alignment(x, 3 * x) == 0.0  # only directions count
    assert alignment(x, -5 * x) == pytest.approx(4.0, abs=1e-12)
    assert alignment(x, -5 * x, alpha=1) == pytest.approx(2.0, abs=1e-12)
    assert alignment(x, np.roll(x, 1, axis=0)) == pytest.approx(2.0, abs=1e-12)
    assert alignment(x[:1], x[1:2], alpha=1) == pytest.approx(np.sqrt(2), abs=1e-12)


def test_alignment_brute_force():
    x, y = np.random.default_rng(0).normal(size=(2, 30, 6)).astype(np.float32)
    squares = ((unit(x.astype(np.float64)) - unit(y.astype(np.float64))) ** 2).sum(1)
    assert alignment(x, y) == pytest.approx(squares.mean(), abs=1e-12)
    assert alignment(x, y, alpha=3) == pytest.approx((squares**1.5).mean(), abs=1e-12)


def test_uniformity_closed_forms():
    point = np.tile([[0.3, -0.7, 0.2]], (5, 1))
    assert uniformity(point) == pytest.approx(0.0, abs=1e-6)
    antipodes = np.array([[2.0, 0.0], [-7.0, 0.0]])
    assert uniformity(antipodes) == pytest.approx(-8.0, abs=1e-6)
    assert uniformity(antipodes, t=100) == pytest.approx(-400.0, abs=1e-4)  # exp underflows
    assert uniformity(np.eye(6)) == pytest.approx(-4.0, abs=1e-6)
    assert uniformity(np.eye(6), t=1) == pytest.approx(-2.0, abs=1e-6)


@pytest.mark.parametrize("block", [1, 7, 16, 33, 100])
def test_uniformity_brute_force(block):
    x = np.random.default_rng(0).normal(size=(33, 6)).astype(np.float32) + 0.5
    assert uniformity(x, block=block) == pytest.approx(brute_force_uniformity(x), abs=2e-6)
    assert uniformity(x, t=0.5, block=block) == pytest.approx(
        brute_force_uniformity(x, 0.5), abs=2e-6
    )


def test_uniformity_of_many_points():
    """Narrow cones, as of raw BERT, and evenly spread points keep their digits in float32."""
    rng = np.random.default_rng(0)
    for offset in (0.0, 3.0):
        x = rng.normal(size=(1500, 16)) + offset
        assert uniformity(x) == pytest.approx(brute_force_uniformity(x), abs=2e-6)


def test_alignment_uniformity():
    rng = np.random.default_rng(0)
    vectors = {name: rng.normal(size=4).astype(np.float32) for name in "abcde"}
    dev = Pairs("dev", ("a", "b"), ("b", "c"), np.array([4.0, 4.2]))  # 4.0 is not above 4
    test = Pairs("test", ("d", "a"), ("e", "d"), np.array([5.0, 1.0]))
    calls = []

    def encode(sentences):
        calls.append(list(sentences))
        return np.stack([vectors[s] for s in sentences])

    result = alignment_uniformity(encode, [dev, test])
    assert len(calls) == 1
    assert sorted(calls[0]) == list("abcde")
    assert (result.positive_pairs, result.sentences) == (2, 5)
    x, y = (np.stack([vectors[s] for s in names]) for names in ("bd", "ce"))
    assert result.alignment == alignment(x, y)
    everything = np.stack(list(vectors.values()))
    assert result.uniformity == pytest.approx(brute_force_uniformity(everything), abs=2e-6)
    result = alignment_uniformity(encode, [dev, test], sentences="all")
    everything = np.stack([vectors[name] for name in "abdabced"])
    assert result.sentences == 8
    assert result.uniformity == pytest.approx(brute_force_uniformity(everything), abs=2e-6)
    with pytest.raises(ValueError, match=r"none of 4 pairs has a score above 5"):
        alignment_uniformity(encode, [dev, test], threshold=5)


@pytest.mark.usefixtures("unchecked")
def test_bad_input():
    x = np.eye(3)
    with pytest.raises(ValueError, match=r"one shape, got \(3, 3\) and \(2, 3\)"):
        alignment(x, x[:2])
    with pytest.raises(ValueError, match=r"at least 1 row, got shape \(0, 3\)"):
        alignment(x[:0], x[:0])
    with pytest.raises(ValueError, match=r"at least 2 rows, got shape \(1, 3\)"):
        uniformity(x[:1])
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        uniformity(x[0])
    with pytest.raises(ValueError, match=r"row 1 of x has the norm 0"):
        uniformity(np.array([[1.0, 2.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="y must be finite; row 2 is not"):
        alignment(x, np.where(np.eye(3) * [0, 0, 1] > 0, np.nan, x))
    with pytest.raises(ValueError, match="block is 0; it must be at least 1"):
        uniformity(x, block=0)


@pytest.mark.parametrize("alpha", [0, -1, float("inf"), float("nan"), 1001])
def test_a_power_that_gives_no_number_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha is"):
        alignment(np.eye(3), np.eye(3), alpha=alpha)
