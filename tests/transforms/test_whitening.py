"""Whitening and its moments: against numpy, in every grouping, at every edge."""

import numpy as np
import pytest

from simcse_jax.transforms import Moments, Whitening, load_transform


def data(n: int = 400, dim: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + 3 * rng.normal(size=dim)
    return x.astype(np.float32)


@pytest.mark.parametrize("ddof", [0, 1])
def test_moments_are_numpys(ddof):
    x = data()
    moments = Moments.of(x)
    assert moments.count == 400
    np.testing.assert_allclose(moments.mean, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(
        moments.covariance(ddof), np.cov(x.T.astype(np.float64), ddof=ddof), rtol=1e-10, atol=1e-12
    )


def test_moments_merge_in_any_grouping():
    x = data()
    whole = Moments.of(x)
    parts = [Moments.of(p) for p in np.split(x, [1, 7, 200])]
    left = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    right = parts[0].merge(parts[1].merge(parts[2].merge(parts[3])))
    stream = Moments.of(x[i : i + 33] for i in range(0, 400, 33))
    for other in (
        left,
        right,
        stream,
        Moments.zero(12).merge(whole),
        whole.merge(Moments.zero(12)),
    ):
        assert other.count == 400
        np.testing.assert_allclose(other.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(other.m2, whole.m2, rtol=1e-9, atol=1e-9)


def test_moments_are_stable_far_from_the_origin():
    # A naive E[x²] - E[x]² in float32 would have no digit left.
    x = np.round(data() * 16) / 16
    far = Moments.of((x + 4096).astype(np.float32)[i : i + 10] for i in range(0, 400, 10))
    np.testing.assert_allclose(far.covariance(), Moments.of(x).covariance(), rtol=1e-9, atol=1e-9)


def test_whitened_covariance_is_the_identity():
    x = data()
    y = Whitening.fit(x)(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(y.T), np.eye(12), atol=1e-4)
    y = Whitening.fit(x, ddof=0)(x)
    np.testing.assert_allclose(np.cov(y.T, ddof=0), np.eye(12), atol=1e-4)


def test_agrees_with_the_authors_code():
    x = data()
    u, s, _ = np.linalg.svd(np.cov(x.T))
    theirs = (x - x.mean(0)) @ (u @ np.diag(1 / np.sqrt(s)))[:, :5]
    ours = Whitening.fit(x, 5)(x)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-3)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    ours = Whitening.fit(x, 5, normalize=True)(x)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-4)


def test_a_fit_goes_on(tmp_path):
    x = data()
    Moments.of(x[:150]).save(tmp_path)
    late = Whitening.from_moments(Moments.load(tmp_path).update(x[150:]))
    np.testing.assert_allclose(late(x), Whitening.fit(x)(x), atol=1e-5)
    with pytest.raises(ValueError, match="'moments'"):
        load_transform(tmp_path)


def test_dense_layer_gives_the_same():
    x = data()
    whitening = Whitening.fit(x, 7)
    weight, bias = whitening.dense()
    assert weight.shape == (12, 7)
    np.testing.assert_allclose(x @ weight + bias, whitening(x), atol=1e-4)


def test_constant_dimensions():
    x = data()
    x[:, 4] = 0.7
    x[:, 9] = -1e-30
    moments = Moments.of(x[i : i + 7] for i in range(0, 400, 7))
    assert moments.constant_dimensions() == [4, 9]
    whitening = Whitening.from_moments(moments)
    assert whitening.matrix.shape == (12, 10)
    np.testing.assert_allclose(np.cov(whitening(x).T), np.eye(10), atol=1e-4)
    with pytest.raises(ValueError, match=r"k=11 is beyond the rank 10 .*constant dimensions: 4, 9"):
        Whitening.from_moments(moments, 11)
    floored = Whitening.from_moments(moments, floor=1e-3)
    assert floored.matrix.shape == (12, 12)
    assert floored.eigenvalues is not None
    assert floored.eigenvalues.min() == pytest.approx(1e-3 * floored.eigenvalues.max())
    assert np.abs(floored(x)[:, 10:]).max() < 1e-4


def test_a_direction_of_rounding_errors_is_dropped():
    # The outputs of a layer norm sum to a constant: float32's rounding is all that varies there.
    x = data()
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    assert Whitening.fit(x).matrix.shape == (12, 11)


def test_fewer_embeddings_than_dimensions():
    x = data(n=8)
    with pytest.raises(ValueError, match="8 embeddings of 12 dimensions"):
        Whitening.fit(x)
    np.testing.assert_allclose(np.cov(Whitening.fit(x, 5)(x).T), np.eye(5), atol=1e-3)
    with pytest.raises(ValueError, match="k=8 is beyond the rank 7 .*none constant"):
        Whitening.fit(x, 8)
    assert np.isfinite(Whitening.fit(x, floor=1e-4)(x)).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: Whitening.fit(x, 0), "k is 0; it must be at least 1"),
        (lambda x: Whitening.fit(x, 13), "k is 13; it must be at least 1 and at most 12"),
        (lambda x: Whitening.fit(x, 2.0), r"k is 2\.0; it must be a whole number"),
        (lambda x: Whitening.fit(x, True), "k is True; it must be a whole number"),
        (lambda x: Whitening.fit(x, floor=0.0), "floor is 0.0; it must be above 0 and at most 1"),
        (lambda x: Whitening.fit(x, floor=float("nan")), "floor is nan"),
        (lambda x: Whitening.fit([["a", "b"]]), "embeddings must be real numbers, not <U1"),
        (lambda x: Whitening.fit(x[:1]), "more than 1"),
        (lambda x: Whitening.fit(np.ones((20, 12), np.float32)), "all the same"),
        (lambda x: Whitening.fit([]), "empty"),
        (lambda x: Whitening.fit(x[0]), "matrix"),
        (lambda x: Whitening.fit([x, x[:, :5]]), "5 dimensions"),
        (lambda x: Whitening.fit(np.where(x > 9, np.nan, x)), "embeddings must be finite; row"),
        (lambda x: Whitening.fit(x)(x[:, :3]), "3 dimensions"),
        (lambda x: Moments.zero(3).merge(Moments.zero(4)), "3 and 4"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make(data())


def test_save_and_load(tmp_path):
    x = data()
    whitening = Whitening.fit(x, 6, ddof=0, normalize=True)
    whitening.save(tmp_path / "deep" / "folder")
    for other in (
        load_transform(tmp_path / "deep" / "folder"),
        Whitening.load(tmp_path / "deep" / "folder"),
    ):
        assert isinstance(other, Whitening)
        np.testing.assert_array_equal(other(x), whitening(x))
        assert (other.count, other.ddof, other.normalize) == (400, 0, True)
        np.testing.assert_array_equal(other.eigenvalues, whitening.eigenvalues)
    assert sorted(p.name for p in (tmp_path / "deep" / "folder").iterdir()) == [
        "transform.json",
        "transform.safetensors",
    ]


def test_frozen():
    with pytest.raises(AttributeError):
        Whitening.fit(data()).count = 3  # type: ignore[misc]
