"""Clipping, decay, Adam with and without correction, and the learning rate over a run."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simcse_jax.training import OptimizerConfig, make_optimizer
from simcse_jax.training.optimizer import make_schedule, scale_by_uncorrected_adam


def learning_rates(config, steps):
    schedule = make_schedule(config, steps)
    return [float(schedule(k)) for k in range(steps)]


def test_the_learning_rate_falls_linearly_and_the_gradient_is_clipped():
    config = OptimizerConfig(learning_rate=0.1, clip_norm=1.0, weight_decay=0.5)
    optimizer = make_optimizer(config, 4)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    state = optimizer.init(params)
    for k in range(4):
        gradient = {"w": jnp.zeros((2, 2)), "b": jnp.array([300.0, 400.0])}
        updates, state = optimizer.update(gradient, state, params)
        rate = 0.1 * (4 - k) / 4
        np.testing.assert_allclose(updates["b"], [-rate, -rate], rtol=1e-5)  # Adam's sign, no decay
        np.testing.assert_allclose(updates["w"], -0.5 * rate, rtol=1e-5)  # decay alone
    mu = optax.tree.get(state, "mu")["b"]
    np.testing.assert_allclose(mu, np.array([0.6, 0.8]) * (1 - 0.9**4), rtol=1e-5)  # length 1


def test_vectors_decay_on_request():
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, decay_vectors=True)
    optimizer = make_optimizer(config, 4)
    params = {"b": jnp.ones(2)}
    updates, _ = optimizer.update({"b": jnp.zeros(2)}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["b"], -0.05, rtol=1e-6)


def test_the_learning_rate_rises_for_a_tenth_of_the_steps():
    config = OptimizerConfig(learning_rate=0.1, warmup_ratio=0.1)
    optimizer = make_optimizer(config, 30)
    params = {"b": jnp.ones(2)}
    state = optimizer.init(params)
    rates = []
    for _ in range(30):
        updates, state = optimizer.update({"b": jnp.array([1e-3, -1e-3])}, state, params)
        rates.append(-float(updates["b"][0]))
    expected = [0.1 * k / 3 for k in range(3)] + [0.1 * (30 - k) / 27 for k in range(3, 30)]
    np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-9)
    # Of 359 steps a tenth are 36, rounded up; one step has no warm-up; a number goes first.
    assert np.argmax(learning_rates(config, 359)) == 36
    assert learning_rates(config, 1) == [pytest.approx(0.1)]
    counted = OptimizerConfig(learning_rate=0.1, warmup_ratio=0.1, warmup_steps=7)
    assert np.argmax(learning_rates(counted, 359)) == 7


def test_other_schedules():
    constant = OptimizerConfig(learning_rate=0.1, schedule="constant", warmup_steps=2)
    np.testing.assert_allclose(learning_rates(constant, 5), [0, 0.05, 0.1, 0.1, 0.1], rtol=1e-6)
    cosine = OptimizerConfig(learning_rate=0.1, schedule="cosine")
    expected = 0.05 * (1 + np.cos(np.pi * np.arange(6) / 6))
    np.testing.assert_allclose(learning_rates(cosine, 6), expected, rtol=1e-5)


def test_uncorrected_adam_is_the_formula():
    gradients = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    adam = scale_by_uncorrected_adam(0.9, 0.99, 1e-3)
    state = adam.init({"w": jnp.zeros(3)})
    m, v = np.zeros(3), np.zeros(3)
    for g in gradients:
        found, state = adam.update({"w": jnp.asarray(g)}, state)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        np.testing.assert_allclose(found["w"], m / (np.sqrt(v) + 1e-3), rtol=1e-5)
    assert int(state.count) == 5


def test_the_first_step_without_correction_is_longer():
    def first(config):
        optimizer = make_optimizer(config, 1)
        params = {"b": jnp.zeros(2)}
        updates, _ = optimizer.update({"b": jnp.full(2, 0.1)}, optimizer.init(params), params)
        return float(optax.tree.norm(updates))

    corrected = first(OptimizerConfig(eps=0.0))
    longer = first(OptimizerConfig(eps=0.0, bias_correction=False))
    np.testing.assert_allclose(longer / corrected, 0.1 / 0.001**0.5, rtol=1e-4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0}, "learning_rate is 0; it must be above 0 and at most 1000"),
        ({"learning_rate": 1e300}, "learning_rate is 1e\\+300; it must be a number that float32"),
        ({"learning_rate": 1e30}, "learning_rate is 1e\\+30; it must be above 0 and at most 1000"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0; it must be positive"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must be at least 0"),
        (
            {"weight_decay": 1e30},
            "weight_decay is 1e\\+30; it must be at least 0 and at most 1000",
        ),
        ({"warmup_ratio": 1.0}, "warmup_ratio is 1.0; it must be at least 0 and below 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be above 0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf; it must be above 0"),
        ({"learning_rate": True}, "learning_rate is True; it must be a number"),
        ({"eps": "1e-8"}, "eps is '1e-8'; it must be a number"),
        ({"warmup_steps": 1.5}, "warmup_steps is 1.5; it must be a whole number"),
        ({"beta2": float("nan")}, "beta2 is nan; it must be at least 0 and at most 0.9999999"),
        ({"beta1": 1 - 1e-9}, "beta1 is 0.99.*; it must be at least 0 and at most 0.9999999"),
        ({"eps": 1e-60}, "eps is 1e-60; it must be a number that float32 holds"),
        ({"schedule": "step"}, "schedule is 'step'; it must be one of linear, constant, cosine"),
    ],
)
def test_configurations_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**changes)


@pytest.mark.usefixtures("unchecked")
def test_a_warm_up_longer_than_the_run():
    for steps in (float("-inf"), 2.5, True, 0):
        with pytest.raises(ValueError, match="total_steps is .*; it must be"):
            make_optimizer(OptimizerConfig(), steps)
    with pytest.raises(ValueError, match="warmup_steps is 10; the run has 10 steps only"):
        make_optimizer(OptimizerConfig(warmup_steps=10), 10)


def test_whole_numbers_of_more_than_32_bits_are_floats():
    params = {"w": jnp.ones((2, 2))}
    config = OptimizerConfig(clip_norm=2**31, weight_decay=1000)
    optimizer = make_optimizer(config, 10)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert jnp.isfinite(updates["w"]).all()
