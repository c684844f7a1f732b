"""Isotropy: closed forms, the published steps, and brute force with numpy, scipy and sklearn."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from scipy.special import ive
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from simcse_jax.evaluation.geometry import alignment, uniformity
from simcse_jax.evaluation.isotropy import (
    average_cosine,
    frequency_bins,
    gram_bounds,
    isoscore,
    partition_isotropy,
    singular_spectrum,
)
from simcse_jax.evaluation.sts import cosine, dot, euclidean, manhattan
from simcse_jax.evaluation.triplets import triplet_accuracy
from simcse_jax.transforms import AllButTheTop, Standardization, Whitening

POINT = np.tile([[0.3, -0.7, 0.2]], (5, 1))
ANTIPODES = np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])


def sphere(n, dim, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cone(n=40, dim=6, seed=1):
    """Anisotropic: a common mean, unequal variances."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) * np.linspace(2, 0.1, dim) + 1


def test_uniform_on_the_sphere():
    """On S², E exp(−t‖x−y‖²) = (1 − e^{−4t}) / 4t exactly; S³ by a Bessel function."""
    x = sphere(4000, 3)
    assert uniformity(x) == pytest.approx(np.log((1 - np.exp(-8)) / 8), abs=0.02)
    assert average_cosine(x) == pytest.approx(0, abs=0.002)
    assert isoscore(x) == pytest.approx(1, abs=0.002)
    np.testing.assert_allclose(singular_spectrum(x), 1, atol=0.04)
    assert partition_isotropy(x) > 0.95
    bounds = gram_bounds(x)
    assert bounds.largest == pytest.approx(4000 / 3, rel=0.03)
    assert bounds.positive == pytest.approx(0.5, abs=0.01)
    # On the sphere of R^D the mean of exp(2t cos) is Γ(D/2) t^(1−D/2) I_{D/2−1}(2t); D = 4.
    expected = np.log(ive(1, 4.0) / 2.0)  # ive(1, z) = e^{−z} I_1(z), with 2t = z = 4
    assert uniformity(sphere(4000, 4)) == pytest.approx(expected, abs=0.02)


def test_single_point():
    np.testing.assert_allclose(singular_spectrum(POINT), [1, 0, 0], atol=1e-15)
    assert average_cosine(POINT) == pytest.approx(1, abs=1e-12)
    # Z(±x/‖x‖) = n e^{±‖x‖}: the ratio is e^{−2‖x‖}
    length = np.linalg.norm(POINT[0])
    assert partition_isotropy(POINT) == pytest.approx(np.exp(-2 * length), rel=1e-12)
    with pytest.raises(ValueError, match="all rows of x are the same"):
        isoscore(POINT)
    bounds = gram_bounds(POINT)
    assert bounds.total == pytest.approx(25, abs=1e-12)
    assert bounds.largest == pytest.approx(5, abs=1e-12)
    assert bounds.positive == 1


def test_antipodes():
    np.testing.assert_allclose(singular_spectrum(ANTIPODES), [1, 0], atol=1e-15)
    assert average_cosine(ANTIPODES) == pytest.approx(-1, abs=1e-12)
    assert partition_isotropy(ANTIPODES) == pytest.approx(1 / np.cosh(1), rel=1e-12)
    assert isoscore(ANTIPODES) == pytest.approx(0, abs=1e-12)  # rank one
    bounds = gram_bounds(ANTIPODES)
    assert (bounds.total, bounds.positive) == (0, 0.5)
    assert bounds.largest == pytest.approx(2, abs=1e-12)  # above the sum: the entries have signs


def test_isotropic_gaussian():
    x = np.random.default_rng(0).normal(size=(20_000, 5))
    assert isoscore(x) == pytest.approx(1, abs=1e-3)
    assert isoscore(10 * x + 100) == pytest.approx(isoscore(x), abs=1e-9)  # no mean, no scale
    np.testing.assert_allclose(singular_spectrum(x), 1, atol=0.03)
    assert partition_isotropy(x) > 0.95
    assert average_cosine(x) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_equal_variance_in_some_directions(rank):
    """2·rank points ±e_i turned at random: IsoScore (k−1)/(D−1), and a spectrum of ones."""
    corners = np.concatenate([np.eye(6)[:rank], -np.eye(6)[:rank]])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    x = 3 * corners @ turn
    assert isoscore(x) == pytest.approx((rank - 1) / 5, abs=1e-12)
    spectrum = singular_spectrum(x)
    assert len(spectrum) == min(len(x), 6)
    np.testing.assert_allclose(spectrum, np.arange(len(spectrum)) < rank, atol=1e-12)


def isoscore_by_steps(x):
    """Algorithm 1 as it is printed: PCA, diagonal of the covariance, normalise, defect, rescale."""
    n = x.shape[1]
    diagonal = np.diag(np.cov(PCA(n_components=n).fit_transform(x).T))
    hat = np.sqrt(n) * diagonal / np.linalg.norm(diagonal)
    defect = np.linalg.norm(hat - 1) / np.sqrt(2 * (n - np.sqrt(n)))
    fraction = (n - defect**2 * (n - np.sqrt(n))) ** 2 / n**2
    return (n * fraction - 1) / (n - 1)


def test_isoscore_is_the_published_algorithm():
    for seed in range(4):
        x = cone(seed=seed)
        assert isoscore(x) == pytest.approx(isoscore_by_steps(x), abs=1e-12)
        assert isoscore(1e-200 * x) == pytest.approx(isoscore_by_steps(x), abs=1e-9)


def test_brute_force():
    x = cone()
    cosines = 1 - pdist(x, "cosine")
    assert average_cosine(x) == pytest.approx(cosines.mean(), abs=1e-12)
    roots = np.sqrt(np.sort(np.linalg.eigvals(x.T @ x).real)[::-1])
    np.testing.assert_allclose(singular_spectrum(x), roots / roots[0], rtol=1e-10)
    directions = np.linalg.svd(x)[2]
    z = [np.exp(sign * x @ c).sum() for c in directions for sign in (1, -1)]
    assert partition_isotropy(x) == pytest.approx(min(z) / max(z), rel=1e-10)
    # beyond exp's range: the longest vectors decide
    huge = partition_isotropy(800 * ANTIPODES)
    assert huge == pytest.approx(2 * np.exp(-800.0), rel=1e-9)


@pytest.mark.parametrize("block", [1, 7, 100])
def test_gram_bounds_brute_force(block):
    x = cone(30)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    gram = unit @ unit.T
    bounds = gram_bounds(x, block=block)
    assert bounds.total == pytest.approx(gram.sum(), rel=1e-12)
    assert bounds.largest == pytest.approx(np.linalg.eigvalsh(gram)[-1], rel=1e-12)
    assert bounds.positive == np.mean(gram >= 0)
    assert bounds.sentences == 30
    assert bounds.total / 30 <= bounds.largest <= 30
    positive = gram_bounds(np.abs(x))
    assert positive.positive == 1
    assert positive.largest <= positive.total  # Merikoski 1984


def words():
    """25 words; word 24 is the most frequent, word 4 stands twice, 0 to 3 never."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(25, 4)).astype(np.float32)
    counts = np.array([0, 0, 0, 0, *range(2, 23)])
    return x, counts


@pytest.mark.parametrize("block", [1, 4, 100])
def test_frequency_bins_brute_force(block):
    x, counts = words()
    rows = frequency_bins(x, counts, edges=(0, 5, 21), neighbours=(2, 4), block=block)
    index = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(x.astype(np.float64))
    near = index.kneighbors(x.astype(np.float64))[0][:, 1:]  # without itself
    dots = x @ x.T
    np.fill_diagonal(dots, -np.inf)
    dots = np.sort(dots, axis=1)[:, ::-1]
    for row, members in zip(rows, (range(20, 25), range(4, 20)), strict=True):
        chosen = list(members)
        assert row.norm == pytest.approx(np.linalg.norm(x[chosen], axis=1).mean(), rel=1e-6)
        for k in (2, 4):
            assert row.distance[k] == pytest.approx(near[chosen, :k].mean(), rel=1e-6)
            assert row.dot[k] == pytest.approx(dots[chosen, :k].mean(), rel=1e-5)
    assert [(row.first, row.stop) for row in rows] == [(0, 5), (5, 21)]


def test_frequency_bins_by_hand():
    x = np.array([[0.0, 0], [3, 4], [0, 1], [6, 8]])
    rows = frequency_bins(x, np.array([5, 1, 9, 1]), edges=(0, 2, 3), neighbours=(1,))
    # ranks: word 2, word 0, then word 1 before word 3, which is as frequent
    assert rows[0].norm == pytest.approx(0.5)
    assert rows[0].distance[1] == pytest.approx(1)  # each is the other's neighbour
    assert rows[0].dot[1] == pytest.approx((8 + 0) / 2)  # word 2 with word 3; the origin with any
    assert rows[1].norm == pytest.approx(5)
    assert rows[1].distance[1] == pytest.approx(np.sqrt(18))
    assert rows[1].dot[1] == pytest.approx(50)


def test_frequency_bins_with_repeated_embeddings():
    x = np.repeat(np.eye(3) * 1000, 2, axis=0)  # a twin each, far from the origin
    (row,) = frequency_bins(x, np.arange(1, 7), edges=(0, 6), neighbours=(1, 2))
    assert row.distance == pytest.approx({1: 0, 2: cdist(x, x)[0, 2] / 2}, rel=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_frequency_bins_bad_input():
    x, counts = words()
    with pytest.raises(ValueError, match="rank 22, but the corpus has 21 words"):
        frequency_bins(x, counts, edges=(0, 22))
    with pytest.raises(ValueError, match=r"rise from 0, got \[0, 5, 5\]"):
        frequency_bins(x, counts, edges=(0, 5, 5))
    with pytest.raises(ValueError, match=r"1\.\.24, got \[25\]"):
        frequency_bins(x, counts, edges=(0, 5), neighbours=(25,))
    with pytest.raises(ValueError, match=r"got int64 of shape \(24,\)"):
        frequency_bins(x, counts[1:], edges=(0, 5))
    with pytest.raises(ValueError, match="got float64"):
        frequency_bins(x, counts / 2, edges=(0, 5))


def test_bad_input():
    with pytest.raises(ValueError, match="zero everywhere"):
        singular_spectrum(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="x must be finite; row 1 is not"):
        singular_spectrum(np.array([[1.0], [np.nan]]))
    with pytest.raises(ValueError, match=r"at least 1 row, got shape \(0, 2\)"):
        partition_isotropy(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="one dimension"):
        isoscore(np.arange(3.0)[:, None])
    with pytest.raises(ValueError, match="row 1 of x has the norm 0"):
        average_cosine(np.array([[1.0], [0]]))
    with pytest.raises(ValueError, match="block is 0; it must be at least 1"):
        gram_bounds(POINT, block=0)


@pytest.mark.parametrize(
    "measure",
    [
        *(singular_spectrum, average_cosine, partition_isotropy, isoscore, gram_bounds),
        *(uniformity, lambda x: alignment(x, x), lambda x: triplet_accuracy(x, x, x)),
        *(cosine, dot, euclidean, manhattan),
        *(Whitening.fit, Standardization.fit, AllButTheTop.fit),
    ],
)
def test_every_measure_and_fit_takes_any_numbers_and_refuses_those_that_are_not_finite(measure):
    def run(x):
        found = measure(x, x) if measure in (cosine, dot, euclidean, manhattan) else measure(x)
        return getattr(found, "matrix", found)

    whole = np.random.default_rng(0).integers(1, 9, (12, 3))
    wanted = run(np.float64(whole))
    for convert in (np.ndarray.tolist, np.float32, np.float16, jnp.asarray, np.asfortranarray):
        np.testing.assert_equal(run(convert(whole)), wanted)
    for wrong in (np.nan, np.inf, -np.inf):
        x = np.float32(whole)
        x[4, 1] = wrong
        with pytest.raises(ValueError, match="(x|anchors|embeddings) must be finite; row 4 is not"):
            run(x)
