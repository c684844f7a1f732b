"""Shuffled group whitening against NumPy in float64, closed forms, and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from simcse_jax.losses.group_whitening import group_whitening, inverse_root

RNG = np.random.default_rng(0)
ROWS, WIDTH = 40, 12
MIX = np.eye(WIDTH) + 0.2 * RNG.normal(size=(WIDTH, WIDTH))
X = RNG.normal(size=(ROWS, WIDTH)) @ MIX + RNG.normal(size=WIDTH)
ORDER = RNG.permutation(WIDTH)


def by_hand(x, groups, order):
    """The equation, a group at a time, in float64."""
    whitened = np.empty_like(x)
    for channels in np.split(order, groups):
        part = x[:, channels] - x[:, channels].mean(0)
        values, vectors = np.linalg.eigh(part.T @ part / len(x))
        whitened[:, channels] = part @ vectors @ np.diag(values**-0.5) @ vectors.T
    return whitened


@pytest.mark.parametrize("groups", [1, 3, 12])
def test_the_equation(groups):
    found = group_whitening(jnp.asarray(X, jnp.float32), groups, jnp.asarray(ORDER))
    np.testing.assert_allclose(found, by_hand(X, groups, ORDER), atol=2e-5)
    plain = group_whitening(jnp.asarray(X, jnp.float32), groups)
    np.testing.assert_allclose(plain, by_hand(X, groups, np.arange(WIDTH)), atol=2e-5)


def test_groups_are_white_and_nothing_else_is():
    found = np.asarray(group_whitening(jnp.asarray(X, jnp.float32), 4, jnp.asarray(ORDER)))
    covariance = np.cov(found[:, ORDER].T, bias=True)
    inside = np.kron(np.eye(4), np.ones((3, 3))) > 0
    np.testing.assert_allclose(covariance[inside], np.eye(WIDTH)[inside], atol=1e-5)
    assert np.abs(covariance[~inside]).max() > 0.1
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-6)
    # A group of one channel is standardised.
    alone = group_whitening(jnp.asarray(X, jnp.float32), WIDTH)
    np.testing.assert_allclose(alone, (X - X.mean(0)) / X.std(0), atol=1e-5)


def test_whitening_twice_changes_nothing():
    once = group_whitening(jnp.asarray(X, jnp.float32), 3)
    np.testing.assert_allclose(group_whitening(once, 3), once, atol=1e-5)


@pytest.mark.parametrize("equal", [False, True], ids=["any", "equal eigenvalues"])
def test_the_derivative_of_the_inverse_root(equal):
    a = RNG.normal(size=(2, 3, 3))
    covariance = a @ np.swapaxes(a, 1, 2) + np.eye(3)
    with jax.enable_x64(True):
        given = jnp.asarray(np.broadcast_to(2 * np.eye(3), (2, 3, 3)) if equal else covariance)
        # Of symmetric matrices, which is all that it is defined on.
        check_grads(lambda x: inverse_root(x + jnp.swapaxes(x, 1, 2)), (given,), 1, rtol=1e-5)
        product = inverse_root(given) @ given @ inverse_root(given)
        np.testing.assert_allclose(product, np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-12)


def test_gradients_with_and_without_the_matrices():
    weights = RNG.normal(size=X.shape)
    with jax.enable_x64(True):
        x, order = jnp.asarray(X), jnp.asarray(ORDER)

        def total(x, gradient):
            white = group_whitening(x, 3, order, whitening_gradient=gradient)
            return jnp.sum(weights * jnp.sin(white))

        check_grads(lambda x: total(x, True), (x,), 1, rtol=1e-5)
        np.testing.assert_allclose(total(x, True), total(x, False), rtol=1e-12)
        # The authors' gradient by hand: the matrices are constants.
        white = by_hand(X, 3, ORDER)
        d_white, wanted = weights * np.cos(white), np.empty_like(X)
        for channels in np.split(ORDER, 3):
            part = X[:, channels] - X[:, channels].mean(0)
            root = np.linalg.lstsq(part, white[:, channels], rcond=None)[0]
            d_part = d_white[:, channels] @ root.T
            wanted[:, channels] = d_part - d_part.mean(0)
        np.testing.assert_allclose(jax.grad(total)(x, False), wanted, atol=1e-10)


@pytest.mark.parametrize("gradient", [False, True], ids=["of constants", "whole"])
@pytest.mark.parametrize("constant", [1.0, 0.1, -0.7, 0.0])
def test_a_constant_channel_is_zero_and_has_no_gradient(constant, gradient):
    """Constants of which a mean is not exact; the other channels are whitened as without it."""
    x = X.copy()
    x[:, 1] = constant
    weights = RNG.normal(size=X.shape)

    def total(x):
        white = group_whitening(x, 3, whitening_gradient=gradient)
        return jnp.sum(weights * jnp.sin(white)), white

    for given in (x, np.full_like(x, constant)):
        slope, white = jax.grad(total, has_aux=True)(jnp.asarray(given, jnp.float32))
        rest = [0, 2, 3] if given is x else []
        zero = [c for c in range(4) if c not in rest]
        np.testing.assert_allclose(white[:, zero], 0, atol=2e-6)
        assert not slope[:, zero].any()
        np.testing.assert_allclose(
            white[:, rest], by_hand(x[:, rest], 1, np.arange(len(rest))), atol=2e-5
        )
        assert np.abs(slope).max() < 10


def test_a_channel_that_repeats_another():
    """Whitened by the pseudo-inverse of the covariance: half of the channel's own each."""
    x = X.copy()
    x[:, 3] = x[:, 2]
    part = x[:, :4] - x[:, :4].mean(0)
    values, vectors = np.linalg.eigh(part.T @ part / len(x))
    kept = values > 1e-9
    assert kept.sum() == 3
    wanted = part @ vectors[:, kept] @ np.diag(values[kept] ** -0.5) @ vectors[:, kept].T
    found = group_whitening(jnp.asarray(x, jnp.float32), 3)
    np.testing.assert_allclose(found[:, :4], wanted, atol=2e-5)


def test_the_derivative_where_a_direction_does_not_vary():
    """Of ``A Aᵀ``, whose third eigenvalue stays zero however A changes."""
    with jax.enable_x64(True):
        a = jnp.asarray(RNG.normal(size=(2, 3, 2)))
        check_grads(lambda a: inverse_root(a @ jnp.swapaxes(a, 1, 2)), (a,), 1, rtol=1e-5)


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="groups is 5; it must divide the 12 channels"):
        group_whitening(jnp.asarray(X, jnp.float32), 5)
    with pytest.raises(ValueError, match="groups"):
        group_whitening(jnp.asarray(X, jnp.float32), 0)


def test_what_is_constant_does_not_depend_on_the_devices():
    """A deviation of sixteen roundings of the mean is rounding in a batch of forty rows."""
    x = np.array(X, np.float32)
    x[:, 5] = 1
    x[::2, 5] += 32 * np.finfo(np.float32).eps
    alone = group_whitening(jnp.asarray(x), 3)
    on_devices = jax.vmap(
        lambda rows: group_whitening(rows, 3, axis_name="devices"), axis_name="devices"
    )
    shared = on_devices(jnp.asarray(x).reshape(8, 5, WIDTH))
    np.testing.assert_allclose(np.asarray(alone)[:, 5], 0, atol=2e-6)
    np.testing.assert_allclose(shared.reshape(x.shape), alone, atol=2e-5)
