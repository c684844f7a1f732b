"""Unit rows under both conventions; alignment and uniformity against the host's, and on devices."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from simcse_jax.evaluation import geometry as host
from simcse_jax.losses import geometry
from simcse_jax.losses.geometry import alignment, squared_distance, uniformity, unit_rows

X, Y = np.random.default_rng(0).normal(size=(2, 40, 5)).astype(np.float32)


def test_doctests():
    assert doctest.testmod(geometry, extraglobs={"jnp": jnp}).failed == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_stays_numpy_and_keeps_its_dtype(dtype):
    x = X.astype(dtype)
    unit = unit_rows(x)
    assert isinstance(unit, np.ndarray)
    assert unit.dtype == dtype
    np.testing.assert_array_equal(unit, x / np.linalg.norm(x, axis=1, keepdims=True))


@pytest.mark.parametrize("differentiable", [False, True])
def test_jax_rows_have_length_one(differentiable):
    unit = unit_rows(jnp.asarray(X), differentiable=differentiable)
    assert isinstance(unit, jax.Array)
    np.testing.assert_allclose(unit, unit_rows(X), rtol=1e-6)


def test_the_zero_vector():
    """It stays zero everywhere; its gradient is finite under the convention of the losses alone."""
    zero = np.zeros((1, 3), np.float32)
    assert not unit_rows(zero).any()
    assert not unit_rows(jnp.asarray(zero)).any()
    assert not unit_rows(jnp.asarray(zero), differentiable=True).any()

    def total(x, differentiable):
        return unit_rows(x, differentiable=differentiable).sum()

    assert np.isfinite(jax.grad(total)(jnp.asarray(zero), True)).all()
    assert np.isnan(jax.grad(total)(jnp.asarray(zero), False)).all()


def test_short_vectors():
    """Exact by default; divided by 1e-8 at least under the convention of the losses."""
    short = np.array([[3e-12, 4e-12]], np.float32)
    np.testing.assert_allclose(unit_rows(short), [[0.6, 0.8]], rtol=1e-6)
    found = unit_rows(jnp.asarray(short), differentiable=True)
    np.testing.assert_allclose(found, short / 1e-8, rtol=1e-5)


def test_every_finite_row_has_a_direction():
    """The squares of these under- or overflow; ordinary rows beside them keep their bits."""
    lengths = (1e-45, 1e-38, 1e-30, 1e-12, 1e12, 1e30, 3e38)
    x = np.concatenate([X, np.float32([[3 * length / 4, length, 0, 0, 0] for length in lengths])])
    with np.errstate(all="raise", under="ignore"):
        unit = unit_rows(x)
    np.testing.assert_array_equal(unit[: len(X)], unit_rows(X))
    np.testing.assert_allclose(unit[len(X) + 1 :], [[0.6, 0.8, 0, 0, 0]] * 6, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)  # of 1e-45 too
    on_device = unit_rows(jnp.asarray(x))
    np.testing.assert_array_equal(on_device[: len(X)], unit_rows(jnp.asarray(X)))
    np.testing.assert_allclose(on_device[len(X) + 2 :], [[0.6, 0.8, 0, 0, 0]] * 5, rtol=1e-6)


def test_lists_and_whole_numbers_have_alignment_and_uniformity():
    x, y = np.arange(1, 13).reshape(4, 3), np.arange(4, 16).reshape(4, 3)
    assert alignment(x.tolist(), y) == alignment(np.float32(x), np.float32(y))
    assert uniformity(x.tolist()) == uniformity(np.float32(x))


def test_differentiable_rows_of_numpy_are_refused():
    with pytest.raises(TypeError, match="need a JAX array"):
        unit_rows(X, differentiable=True)


def test_squared_distance_is_not_negative():
    x, y = unit_rows(X.astype(np.float64)), unit_rows(Y.astype(np.float64))
    found = squared_distance(jnp.asarray(np.sum(x * y, axis=1), jnp.float32))
    np.testing.assert_allclose(found, np.square(x - y).sum(1), rtol=1e-5)
    assert squared_distance(jnp.float32(1.0000001)) == 0


def test_alignment_and_uniformity_are_those_of_the_host():
    np.testing.assert_allclose(alignment(X, Y), host.alignment(X, Y), rtol=1e-5)
    np.testing.assert_allclose(uniformity(X), host.uniformity(X), rtol=1e-5)
    many = np.random.default_rng(1).normal(size=(1100, 4)).astype(np.float32)  # above one block
    np.testing.assert_allclose(uniformity(many), host.uniformity(many), rtol=1e-5)
    assert uniformity(X[:1]) == -np.inf


def test_devices_together_give_the_whole_batch():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.shard_map(
        lambda x, y: (alignment(x, y, "data"), uniformity(x, "data")),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    np.testing.assert_allclose(spread(X, Y), (alignment(X, Y), uniformity(X)), rtol=1e-6)


@pytest.mark.parametrize("x", [b"x", "", None, [[1.0, 2.0]]])
def test_what_is_no_array_has_no_rows(unchecked, x):
    with pytest.raises(TypeError, match=r"^unit_rows takes an array, not a \w+$"):
        unit_rows(x)
