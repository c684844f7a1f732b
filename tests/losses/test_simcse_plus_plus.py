"""The two losses of SimCSE++ against loops in float64, closed forms, and several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jax.test_util import check_grads

from simcse_jax.losses.dimension_wise import dimension_wise_loss
from simcse_jax.losses.group_whitening import group_whitening
from simcse_jax.losses.info_nce import info_nce
from simcse_jax.losses.off_dropout import off_dropout_info_nce

RNG = np.random.default_rng(0)
Z, OTHER, PLAIN = RNG.normal(size=(3, 16, 8))


def float32(*arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def off_dropout_by_hand(z, other, plain, temperature, weight):
    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    losses, right = [], 0
    for i in range(len(z)):
        positive = weight * cosine(z[i], other[i]) / temperature
        rest = [cosine(plain[i], plain[j]) / temperature for j in range(len(z)) if j != i]
        losses.append(np.log(np.exp(positive) + np.exp(rest).sum()) - positive)
        right += positive > max(rest)
    return np.mean(losses), right / len(z)


@pytest.mark.parametrize("weight", [1.0, 0.9])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_off_dropout(temperature, weight):
    found = off_dropout_info_nce(
        *float32(Z, OTHER, PLAIN), temperature=temperature, positive_weight=weight
    )
    wanted = off_dropout_by_hand(Z, OTHER, PLAIN, temperature, weight)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_without_dropout_it_is_info_nce():
    """Where the three are one, the negatives are those of SimCSE, and so is the loss."""
    (h,) = float32(PLAIN)
    found = off_dropout_info_nce(h, h, h, temperature=0.5)
    wanted = info_nce(h, h, temperature=0.5)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def dimension_wise_by_hand(x, y, temperature):
    x, y = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (x, y))
    losses = []
    for c in range(x.shape[1]):
        correlations = np.array([(x[:, c] * y[:, d]).mean() for d in range(x.shape[1])])
        logits = correlations / temperature
        losses.append(np.log(np.exp(logits).sum()) - logits[c])
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [5.0, 0.2])
def test_dimension_wise(temperature):
    found = dimension_wise_loss(*float32(Z, OTHER), temperature=temperature)
    wanted = dimension_wise_by_hand(Z, OTHER, temperature)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_dimension_wise_in_closed_form():
    """White dimensions give log(e^(1/τ) + D - 1) - 1/τ, equal ones log D."""
    white = group_whitening(*float32(RNG.normal(size=(50, 4))), 1)
    wanted = np.log(np.exp(1 / 0.5) + 3) - 1 / 0.5
    np.testing.assert_allclose(
        dimension_wise_loss(white, white, temperature=0.5), wanted, rtol=1e-4
    )
    equal = jnp.broadcast_to(white[:, :1], white.shape)
    np.testing.assert_allclose(dimension_wise_loss(equal, equal), np.log(4), rtol=1e-6)
    constant = jnp.ones((5, 4))
    assert np.isfinite(jax.grad(lambda x: dimension_wise_loss(x, x))(constant)).all()


def test_gradients():
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (Z, OTHER, PLAIN)]
        check_grads(lambda *x: off_dropout_info_nce(*x, temperature=0.5).loss, arrays, 1, rtol=1e-5)
        check_grads(dimension_wise_loss, arrays[:2], 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["off dropout", "dimension-wise", "whitening"])
def test_eight_devices_give_what_one_gives(name):
    """In value and gradient, under `shard_map`, each device with two of the sentences."""
    weights = jnp.asarray(RNG.normal(size=Z.shape), jnp.float32)

    def loss(z, other, plain, weights, axis_name=None):
        if name == "off dropout":
            return off_dropout_info_nce(z, other, plain, axis_name=axis_name).loss
        if name == "dimension-wise":
            return dimension_wise_loss(z, other, temperature=0.5, axis_name=axis_name)
        total = (weights * group_whitening(z, 2, axis_name=axis_name)).sum()
        return total if axis_name is None else jax.lax.psum(total, axis_name)

    arrays = [*float32(Z, OTHER, PLAIN), weights]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("data")
    spread = jax.shard_map(
        functools.partial(loss, axis_name="data"),
        mesh=mesh,
        in_specs=(rows,) * 4,
        out_specs=PartitionSpec(),
    )
    found = jax.jit(jax.value_and_grad(spread, (0, 1, 2)))(*arrays)
    wanted = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*arrays)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_bad_arguments_are_refused():
    z, other = float32(Z, OTHER)
    for name in ("temperature", "positive_weight"):
        with pytest.raises(ValueError, match=name):
            off_dropout_info_nce(z, z, z, **{name: 0.0})
    with pytest.raises(ValueError, match="temperature"):
        dimension_wise_loss(z, z, temperature=-1.0)
    assert dimension_wise_loss(z, other) > 0


@pytest.mark.usefixtures("unchecked")
def test_shapes_that_differ_are_refused():
    (z,) = float32(Z)
    with pytest.raises(ValueError, match="must be of one shape"):
        off_dropout_info_nce(z, z, z[1:])
    with pytest.raises(ValueError, match="must be of one shape"):
        dimension_wise_loss(z, z[1:])
