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
from simcse_jax.losses.masked_lm import masked_lm_loss, masked_lm_sum


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


def score(params, states):
    """A head whose matrix is two things at once, as tied word embeddings are."""
    matrix, bias = params["words"], params["bias"]
    return jnp.tanh(states @ matrix[: states.shape[1]]) @ matrix.T + bias


@pytest.mark.parametrize("masked", [0, 1, 4, 5, 11])
@pytest.mark.parametrize("chunk", [4, 256])
def test_only_masked_tokens_are_scored_and_nothing_is_lost(monkeypatch, masked, chunk):
    """Chunks that are full, begun, and empty: the same as from every token's scores."""
    monkeypatch.setattr(masked_lm, "CHUNK", chunk)
    rng = np.random.default_rng(masked)
    labels = np.full(11, -100)
    labels[rng.permutation(11)[:masked]] = rng.integers(0, 7, masked)
    with jax.enable_x64(True):
        states = jnp.asarray(rng.normal(size=(11, 3)))
        params = {"words": jnp.asarray(rng.normal(size=(7, 3))), "bias": jnp.ones(7)}
        labels = jnp.asarray(labels)

        def plain(params, states):
            logits = score(params, states)
            return masked_lm_loss(logits[None], labels[None]) * masked

        def ours(params, states):
            return masked_lm_sum(score, params, states, labels)

        for weight in (1.0, 0.1):
            expected, found = (
                jax.jit(jax.value_and_grad(lambda *x, f=f, w=weight: w * f(*x), argnums=(0, 1)))(
                    params, states
                )
                for f in (plain, ours)
            )
            jax.tree.map(
                functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14),
                found,
                expected,
            )
        np.testing.assert_allclose(ours(params, states), plain(params, states), rtol=1e-12)


def test_masked_sum_keeps_the_states_type():
    params = {"words": jnp.ones((7, 3), jnp.bfloat16), "bias": jnp.ones(7)}
    states, labels = jnp.ones((5, 3), jnp.bfloat16), jnp.array([-100, 2, -100, 0, 1])
    value, gradient = jax.value_and_grad(masked_lm_sum, argnums=(1, 2))(
        score, params, states, labels
    )
    assert value.dtype == jnp.float32
    found, wanted = (jax.tree.map(lambda x: x.dtype, tree) for tree in (gradient, (params, states)))
    assert found == wanted
