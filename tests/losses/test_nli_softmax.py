"""The softmax objective against numpy and scipy, finite differences, and itself over devices."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from scipy.special import log_softmax

from simcse_jax.losses import nli_softmax as module
from simcse_jax.losses.nli_softmax import (
    CONCATENATIONS,
    feature_width,
    nli_softmax,
    pair_features,
)

B, D, K = 8, 5, 3
RANDOM = np.random.default_rng(0)
U, V = RANDOM.normal(size=(2, B, D)).astype(np.float32)
LABELS = RANDOM.integers(0, K, B)
FEATURES = {  # the paper's Table 6, written a second time
    "uv": np.hstack([U, V]),
    "diff": np.abs(U - V),
    "mul": U * V,
    "diff-mul": np.hstack([np.abs(U - V), U * V]),
    "uv-mul": np.hstack([U, V, U * V]),
    "uv-diff": np.hstack([U, V, np.abs(U - V)]),
    "uv-diff-mul": np.hstack([U, V, np.abs(U - V), U * V]),
}


def weights(concatenation):
    random = np.random.default_rng(1)
    kernel = random.normal(size=(feature_width(concatenation) * D, K)).astype(np.float32)
    return kernel, random.normal(size=K).astype(np.float32)


def classify(u, v, labels, kernel, bias=None, *, concatenation="uv-diff", **options):
    """`softmax(W_tᵀ (u, v, |u − v|) + b)`, the whole objective."""
    logits = pair_features(u, v, concatenation) @ kernel
    return nli_softmax(logits if bias is None else logits + bias, labels, **options)


def test_doctests():
    assert doctest.testmod(module, extraglobs={"jnp": jnp}).failed == 0


def test_every_concatenation_is_known():
    assert set(CONCATENATIONS) == set(FEATURES)


@pytest.mark.parametrize("concatenation", CONCATENATIONS)
def test_features_loss_and_accuracy(concatenation):
    features = FEATURES[concatenation]
    np.testing.assert_array_equal(pair_features(U, V, concatenation), features)
    kernel, bias = weights(concatenation)
    for b in (bias, None):
        logits = features.astype(np.float64) @ kernel + (0 if b is None else b)
        loss, accuracy = classify(U, V, LABELS, kernel, b, concatenation=concatenation)
        expected = -log_softmax(logits, axis=1)[np.arange(B), LABELS].mean()
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        np.testing.assert_allclose(accuracy, (logits.argmax(1) == LABELS).mean())


@pytest.mark.parametrize("concatenation", ["uv-diff", "diff-mul"])
def test_gradients_are_those_of_finite_differences(concatenation):
    kernel, bias = weights(concatenation)
    arrays = [np.asarray(x, np.float64) for x in (U, V, kernel, bias)]

    with jax.enable_x64(True):

        def loss(u, v, kernel, bias):
            return classify(u, v, LABELS, kernel, bias, concatenation=concatenation).loss

        gradients = jax.grad(loss, range(4))(*map(jnp.asarray, arrays))
        for place, gradient in enumerate(gradients):
            direction = np.random.default_rng(2).normal(size=gradient.shape)

            def moved(step, place=place, direction=direction):
                changed = [a + step * direction if i == place else a for i, a in enumerate(arrays)]
                return float(loss(*map(jnp.asarray, changed)))

            slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
            np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=1e-6, atol=1e-9)


def test_equal_sentences_have_finite_gradients():
    kernel, bias = weights("uv-diff")
    gradient = jax.grad(lambda v: classify(U, v, LABELS, kernel, bias).loss)(jnp.asarray(U))
    assert np.isfinite(gradient).all()


def test_bfloat16_is_summed_in_float32():
    kernel, bias = weights("uv-diff")
    u, v = (jnp.asarray(x, jnp.bfloat16) for x in (U, V))
    coarse = classify(u, v, LABELS, jnp.asarray(kernel), jnp.asarray(bias)).loss
    assert coarse.dtype == jnp.float32
    np.testing.assert_allclose(coarse, classify(U, V, LABELS, kernel, bias).loss, rtol=0.02)
    logits = jnp.asarray(pair_features(U, V) @ kernel, jnp.bfloat16)
    loss, accuracy = nli_softmax(logits, LABELS)
    assert loss.dtype == accuracy.dtype == jnp.float32
    np.testing.assert_allclose(loss, nli_softmax(logits.astype(jnp.float32), LABELS).loss)


def test_devices_together_give_the_whole_batch():
    kernel, bias = weights("uv-diff")
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.shard_map(
        lambda u, v, labels: tuple(classify(u, v, labels, kernel, bias, axis_name="data")),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    np.testing.assert_allclose(
        spread(U, V, LABELS), classify(U, V, LABELS, kernel, bias), rtol=1e-6
    )


@pytest.mark.usefixtures("unchecked")
def test_input_that_makes_no_sense():
    with pytest.raises(ValueError, match="concatenation is 'uvw'; it must be one of uv, diff"):
        feature_width("uvw")
    with pytest.raises(ValueError, match=r"u \(8, 5\) and v \(7, 5\)"):
        pair_features(U, V[1:])
    logits = np.zeros((B, K), np.float32)
    with pytest.raises(ValueError, match=r"labels \(7,\) must be \[B\] .* logits \(8, 3\)"):
        nli_softmax(logits, LABELS[1:])
    with pytest.raises(ValueError, match=r"logits must have 2 axes, got shape \(8,\)"):
        nli_softmax(logits[:, 0], LABELS)
    with pytest.raises(ValueError, match=r"labels \(0,\) must be \[B\] with B > 0"):
        nli_softmax(logits[:0], LABELS[:0])


def test_a_label_that_is_no_class():
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=f"labels must be from 0 to 2, and one is {wrong}"):
            nli_softmax(jnp.zeros((2, 3)), jnp.array([0, wrong]))
    with pytest.raises(ValueError, match="labels need classes, and the logits have none"):
        nli_softmax(jnp.zeros((2, 0)), jnp.array([0, 0]))
