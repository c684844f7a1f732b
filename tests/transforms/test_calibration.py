"""Standardisation and the removal of directions."""

import numpy as np
import pytest

from simcse_jax.transforms import Affine, AllButTheTop, Standardization, load_transform


def data(n: int = 300, dim: int = 10) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + 3 * rng.normal(size=dim)
    return x.astype(np.float32)


def test_standardization():
    x = data()
    x[:, 2] = 5.5
    y = Standardization.fit(x)(x)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(0), [1, 1, 0, 1, 1, 1, 1, 1, 1, 1], atol=1e-5)


def test_removed_directions_are_the_first_of_the_svd():
    x = data()
    y = AllButTheTop.fit(x, 3)(x)
    centred = x - x.mean(0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(y, (u[:, 3:] * s[3:]) @ vt[3:], atol=1e-4)
    np.testing.assert_allclose(AllButTheTop.fit(x, 0)(x), centred, atol=1e-5)


def test_one_after_the_other_is_one_affine_map(tmp_path):
    x = data()
    x[:, 2] = 5.5
    first = Standardization.fit(x)
    second = AllButTheTop.fit(first(x), 2, normalize=True)
    both = first.then(second)
    np.testing.assert_allclose(both(x), second(first(x)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(both(x), axis=1), 1, rtol=1e-5)
    both.save(tmp_path)
    loaded = load_transform(tmp_path)
    assert type(loaded) is Affine
    np.testing.assert_array_equal(loaded(x), both(x))
    with pytest.raises(ValueError, match="not affine"):
        both.then(first)
    with pytest.raises(ValueError, match="10 dimensions, the second takes 4"):
        first.then(Standardization.fit(x[:, :4]))
    biased = Affine(np.full(10, 3.0), np.eye(10), bias=np.arange(10.0))
    np.testing.assert_allclose(first.then(biased)(x), biased(first(x)), atol=1e-5)
    kernel, bias = biased.then(first).dense()
    np.testing.assert_allclose(x @ kernel + bias, first(biased(x)), atol=1e-4)


@pytest.mark.parametrize("kind", [Standardization, AllButTheTop])
def test_save_and_load(kind, tmp_path):
    x = data()
    transform = kind.fit(x)
    transform.save(tmp_path)
    np.testing.assert_array_equal(load_transform(tmp_path)(x), transform(x))


@pytest.mark.parametrize(("k", "wanted"), [(-1, "at least 0"), (10, "at least 0 and at most 9")])
def test_bad_k(k, wanted):
    with pytest.raises(ValueError, match=f"k is {k}; it must be {wanted}"):
        AllButTheTop.fit(data(), k)


@pytest.mark.parametrize("kind", [Standardization, AllButTheTop])
def test_too_few(kind):
    with pytest.raises(ValueError, match="two embeddings"):
        kind.fit(data()[:1])


def test_a_folder_of_version_0_1_still_loads(tmp_path):
    fitted = AllButTheTop.fit(data(), 2)
    fitted.save(tmp_path)
    file = tmp_path / "transform.json"
    file.write_text(file.read_text().replace("all_but_the_top", "remove_directions"))
    loaded = load_transform(tmp_path)
    assert isinstance(loaded, AllButTheTop)
    np.testing.assert_array_equal(loaded(data()), fitted(data()))
