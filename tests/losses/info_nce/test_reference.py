"""The equation as written in jax against the equation written one row at a time in numpy."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from info_nce_support import OPTIONS, close, embeddings, numpy_info_nce, reference_value_and_grad

from simcse_jax.losses.info_nce import info_nce_reference, reference


def test_doctests():
    results = doctest.testmod(reference, extraglobs={"jnp": jnp})
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("count", [2, 3], ids=["pairs", "triplets"])
@pytest.mark.parametrize("name", OPTIONS)
def test_equation(name, count):
    arrays = embeddings(count)
    result = info_nce_reference(*arrays, **OPTIONS[name])
    loss, accuracy = numpy_info_nce(*arrays, **OPTIONS[name])
    close(result.loss, loss, rtol=2e-5)
    assert result.accuracy == accuracy
    assert result.loss.dtype == jnp.float32
    assert result.loss.shape == ()


@pytest.mark.parametrize("name", ["plain", "dot", "all"])
def test_gradients_are_those_of_finite_differences_in_numpy(name):
    with jax.enable_x64(True):
        arrays = [np.asarray(x) for x in embeddings(3, batch=16, dim=3, dtype=jnp.float64)]
        options = OPTIONS[name]
        _, gradients = reference_value_and_grad(*map(jnp.asarray, arrays), **options)
        rng = np.random.default_rng(1)
        step = [1e-6 * rng.normal(size=x.shape) for x in arrays]
        ends = [
            numpy_info_nce(*(x + sign * s for x, s in zip(arrays, step, strict=True)), **options)[0]
            for sign in (1, -1)
        ]
        slope = sum(np.vdot(g, s) for g, s in zip(gradients, step, strict=True))
        np.testing.assert_allclose((ends[0] - ends[1]) / 2, slope, rtol=1e-6)


def test_a_tie_is_not_correct():
    """A collapsed encoder has no positive that stands out."""
    same = jnp.ones((12, 5))
    assert info_nce_reference(same, same).accuracy == 0
    assert info_nce_reference(same[:1], same[:1]).accuracy == 1
