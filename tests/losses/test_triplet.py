"""The triplet objective against scipy, finite differences, and itself over devices."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jax.test_util import check_grads
from scipy.spatial import distance as scipy_distance

from simcse_jax.evaluation.triplets import triplet_accuracy
from simcse_jax.losses import triplet as module
from simcse_jax.losses.triplet import DISTANCES, pair_distance, triplet_loss

B, D = 16, 5
RANDOM = np.random.default_rng(0)
A, P, N = RANDOM.normal(size=(3, B, D)).astype(np.float32)
SCIPY = {
    "euclidean": scipy_distance.euclidean,
    "cosine": scipy_distance.cosine,
    "manhattan": scipy_distance.cityblock,
}


def test_doctests():
    assert doctest.testmod(module, extraglobs={"jnp": jnp}).failed == 0


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("margin", [0.0, 1.0, 5.0])
def test_the_equation(distance, margin):
    near = np.array([SCIPY[distance](a, p) for a, p in zip(A, P, strict=True)])
    far = np.array([SCIPY[distance](a, n) for a, n in zip(A, N, strict=True)])
    np.testing.assert_allclose(pair_distance(A, P, distance), near, rtol=1e-5)
    loss, accuracy = triplet_loss(A, P, N, margin=margin, distance=distance)
    np.testing.assert_allclose(loss, np.maximum(near - far + margin, 0).mean(), rtol=1e-5)
    np.testing.assert_allclose(100 * accuracy, triplet_accuracy(A, P, N, distance))


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_are_those_of_finite_differences(distance):
    with jax.enable_x64(True):
        arrays = tuple(jnp.asarray(x, jnp.float64) for x in (A, P, N))
        check_grads(
            lambda *x: triplet_loss(*x, distance=distance).loss,
            arrays,
            order=1,
            modes=["rev"],
            rtol=1e-6,
        )


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_are_finite_where_rows_are_equal(distance):
    for arrays in ((A, A, N), (A, P, A), (A, A, A), (0 * A, 0 * A, 0 * A)):
        gradients = jax.grad(lambda *x: triplet_loss(*x, distance=distance).loss, (0, 1, 2))(
            *map(jnp.asarray, arrays)
        )
        assert all(np.isfinite(g).all() for g in gradients)
    # Equal rows still push the negative away.
    gradient = jax.grad(lambda n: triplet_loss(A, A, n, margin=5.0, distance=distance).loss)(N)
    assert float(jnp.abs(gradient).max()) > 1e-3


def test_a_tie_is_no_hit_and_costs_the_margin():
    loss, accuracy = triplet_loss(A, P, P, margin=0.25)
    np.testing.assert_allclose((loss, accuracy), (0.25, 0.0), rtol=1e-6)


def test_devices_together_give_the_whole_batch():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.shard_map(
        lambda *x: tuple(triplet_loss(*x, axis_name="data")),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    np.testing.assert_allclose(spread(A, P, N), triplet_loss(A, P, N), rtol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_input_that_makes_no_sense():
    with pytest.raises(ValueError, match="distance is 'dot'; it must be one of euclidean, cosine"):
        triplet_loss(A, P, N, distance="dot")
    with pytest.raises(ValueError, match="margin is -1; it must be at least 0"):
        triplet_loss(A, P, N, margin=-1)
    for distance in DISTANCES:
        with pytest.raises(ValueError, match=r"\(15, 5\)"):
            triplet_loss(A, P[1:], N, distance=distance)
    with pytest.raises(ValueError, match=r"anchors \(0, 5\) must be \[B, D\] with B > 0"):
        triplet_loss(A[:0], P[:0], N[:0])


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_matrix_is_named():
    with pytest.raises(ValueError, match="anchors must be real numbers"):
        triplet_loss("", P, N)
