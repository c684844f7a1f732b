"""The regression objective against scipy, finite differences, and itself over devices."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jax.test_util import check_grads
from scipy.spatial.distance import cosine

from simcse_jax.losses import cosine_regression as module
from simcse_jax.losses.cosine_regression import cosine_regression, pair_cosine

B, D = 8, 5
RANDOM = np.random.default_rng(0)
U, V = RANDOM.normal(size=(2, B, D)).astype(np.float32)
GOLD = RANDOM.uniform(0, 1, B).astype(np.float32)
COSINES = np.array([1 - cosine(u, v) for u, v in zip(U, V, strict=True)])


def test_doctests():
    assert doctest.testmod(module, extraglobs={"jnp": jnp}).failed == 0


@pytest.mark.parametrize(("score", "found"), [("cosine", COSINES), ("shifted", (COSINES + 1) / 2)])
def test_the_equation(score, found):
    loss = cosine_regression(U, V, GOLD, score=score)
    np.testing.assert_allclose(loss, np.mean((found - GOLD) ** 2), rtol=1e-5)


def test_the_length_of_a_vector_does_not_matter():
    np.testing.assert_allclose(pair_cosine(1e3 * U, 1e-3 * V), COSINES, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        u, v, y = (jnp.asarray(x, jnp.float64) for x in (U, V, GOLD))
        check_grads(
            lambda u, v: cosine_regression(u, v, y), (u, v), order=1, modes=["rev"], rtol=1e-6
        )


def test_a_zero_vector_has_cosine_zero_and_finite_gradients():
    zero = np.zeros_like(U)
    loss, gradients = jax.value_and_grad(lambda u, v: cosine_regression(u, v, GOLD), (0, 1))(
        zero, V
    )
    np.testing.assert_allclose(loss, np.mean(GOLD**2), rtol=1e-6)
    assert all(np.isfinite(g).all() for g in gradients)


def test_devices_together_give_the_whole_batch():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.shard_map(
        lambda *x: cosine_regression(*x, axis_name="data"),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    np.testing.assert_allclose(spread(U, V, GOLD), cosine_regression(U, V, GOLD), rtol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_input_that_makes_no_sense():
    with pytest.raises(ValueError, match="score is 'dot'; it must be one of cosine, shifted"):
        cosine_regression(U, V, GOLD, score="dot")
    with pytest.raises(ValueError, match=r"u \(8, 5\) and v \(8, 4\)"):
        cosine_regression(U, V[:, 1:], GOLD)
    with pytest.raises(ValueError, match=r"similarities \(7,\) must be \[B\]"):
        cosine_regression(U, V, GOLD[1:])
    with pytest.raises(ValueError, match=r"similarities \(0,\) must be \[B\] with B > 0"):
        cosine_regression(U[:0], V[:0], GOLD[:0])
