"""The masked language model's loss against scipy, and itself over devices."""

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from scipy.special import logsumexp

from simcse_jax.losses import masked_lm
from simcse_jax.losses.masked_lm import masked_lm_loss


def test_doctests():
    results = doctest.testmod(masked_lm, extraglobs={"jnp": jnp})
    assert results.attempted > 0
    assert results.failed == 0


def test_masked_lm():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 7)).astype(np.float32)
    labels = np.full((3, 4), -100)
    labels[0, 1], labels[2, 0], labels[2, 3] = 5, 0, 6
    rows = [(0, 1, 5), (2, 0, 0), (2, 3, 6)]
    expected = np.mean([logsumexp(logits[b, p]) - logits[b, p, v] for b, p, v in rows])
    found = masked_lm_loss(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(masked_lm_loss)(jnp.asarray(logits), jnp.asarray(labels))
    assert not gradient[1].any()
    np.testing.assert_allclose(gradient.sum(axis=-1), np.zeros((3, 4)), atol=1e-6)
    low = masked_lm_loss(jnp.asarray(logits, jnp.bfloat16), jnp.asarray(labels))
    assert low.dtype == jnp.float32


def test_masked_lm_without_masks():
    logits, labels = jnp.ones((2, 3, 5)), jnp.full((2, 3), -100)
    value, gradient = jax.value_and_grad(masked_lm_loss)(logits, labels)
    assert value == 0
    assert not gradient.any()


def test_masked_lm_across_devices():
    """Devices with more masked positions weigh more, as in the global batch."""
    logits = jax.random.normal(jax.random.key(0), (8, 3, 5))
    labels = jnp.where(jnp.arange(24).reshape(8, 3) % 5 < 2, 3, -100)
    mapped = jax.shard_map(
        functools.partial(masked_lm_loss, axis_name="data"),
        mesh=jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    expected = jax.value_and_grad(masked_lm_loss)(logits, labels)
    found = jax.jit(jax.value_and_grad(mapped))(logits, labels)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected
    )


@pytest.mark.usefixtures("unchecked")
def test_masked_lm_names_both_shapes():
    with pytest.raises(ValueError, match=r"labels \(2, 4\) .* logits \(2, 3, 5\)"):
        masked_lm_loss(jnp.ones((2, 3, 5)), jnp.ones((2, 4), int))


def test_a_label_that_is_no_token():
    with pytest.raises(ValueError, match="labels must be from 0 to 7, and one is -1"):
        masked_lm_loss(jnp.zeros((1, 2, 8)), jnp.array([[-100, -1]]))
