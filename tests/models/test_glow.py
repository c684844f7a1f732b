"""Every layer of the flow: inverse, log-determinant, initialisation; and the whole as a density."""

from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simcse_jax.models.glow import (
    ActNorm,
    Coupling,
    CouplingLayer,
    Glow,
    InvertibleLinear,
    Permute,
    check_dim,
)

D = 8
LAYERS: dict[str, nn.Module] = {
    "actnorm": ActNorm(),
    "reverse": Permute("reverse"),
    "random": Permute("random"),
    "lu": InvertibleLinear(),
    "additive": CouplingLayer("additive", 6),
    "affine": CouplingLayer("affine", 6),
    "glow_code": Glow(2, 1, 6, "additive", "reverse"),
    "glow_paper": Glow(2, 1, 6, "affine", "random"),
    "glow_lu": Glow(2, 1, 6, "affine", "lu"),
}


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """These programs run once or twice: compiling them is all that takes time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def data(rows: int = 16, dim: int = D, dtype=jnp.float32) -> jax.Array:
    """Correlated rows, off the origin, on several scales."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, dim)) @ rng.normal(size=(dim, dim)) + np.linspace(-2, 2, dim)
    return jnp.asarray(x, dtype)


def fitted(layer: nn.Module, x: jax.Array, by: float = 0.05) -> dict:
    """The layer's variables, moved away from the (often trivial) initialisation."""
    variables = jax.jit(lambda key, x: layer.init(key, x, method="forward"))(jax.random.key(0), x)
    # Drawn with numpy: jax would compile one program for every shape.
    rng = np.random.default_rng(1)

    def move(p):
        return p + jnp.asarray(by * rng.normal(size=p.shape), p.dtype)

    return {**variables, "params": jax.tree.map(move, variables.get("params", {}))}


@pytest.mark.parametrize("name", LAYERS)
def test_inverse_and_logdet(name):
    layer = LAYERS[name]
    with jax.enable_x64(True):
        x = data(dtype=jnp.float64)
        variables = fitted(layer, x)

        def run(v, x):
            z, logdet = layer.apply(v, x, method="forward")
            y, back = layer.apply(v, z, method="inverse")
            jacobian = jax.vmap(jax.jacfwd(lambda row: layer.apply(v, row[None])[0][0]))(x)
            return z, logdet, y, back, jnp.linalg.slogdet(jacobian)[1]

        z, logdet, y, back, exact = jax.jit(run)(variables, x)
        assert z.dtype == y.dtype == jnp.float64
        assert logdet.shape == (16,)
        np.testing.assert_allclose(y, x, atol=1e-10, rtol=0)
        np.testing.assert_allclose(back, -logdet, atol=1e-10, rtol=0)
        np.testing.assert_allclose(logdet, exact, atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", ["glow_code", "glow_lu"])
def test_inverse_in_float32(name):
    layer = LAYERS[name]
    x = data()
    variables = fitted(layer, x)
    z, _ = jax.jit(lambda v, x: layer.apply(v, x, method="forward"))(variables, x)
    y, _ = jax.jit(lambda v, z: layer.apply(v, z, method="inverse"))(variables, z)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, x, atol=1e-4, rtol=0)


def test_actnorm_starts_at_the_batch():
    x = data()
    (z, logdet), variables = ActNorm().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-4)
    np.testing.assert_allclose(3 * variables["params"]["log_scale"], -np.log(x.std(0)), atol=1e-4)
    np.testing.assert_allclose(logdet, -np.log(x.std(0)).sum(), rtol=1e-5)


def test_actnorm_leaves_a_constant_dimension_its_scale():
    x = data().at[:, 3].set(0.3)
    (z, _), variables = ActNorm().init_with_output(jax.random.key(0), x)
    assert variables["params"]["log_scale"][3] == 0
    np.testing.assert_allclose(z[:, 3], 0, atol=1e-6)


def test_coupling_starts_at_the_identity():
    x = data()
    (z, logdet), _ = CouplingLayer("additive", 6).init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(z, x)
    assert not logdet.any()
    (z, _), _ = CouplingLayer("affine", 6).init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(z[:, D // 2 :], x[:, D // 2 :] * jax.nn.sigmoid(2.0), rtol=1e-6)


def test_reverse_and_random_permutations():
    x = data()
    (z, _), variables = Permute("reverse").init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(z, x[:, ::-1])
    assert not variables
    (z, _), variables = Permute("random").init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(z, x[:, variables["constants"]["order"]])
    assert "params" not in variables


def test_lu_starts_at_a_rotation():
    x = data()
    (z, logdet), _ = InvertibleLinear().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(jnp.linalg.norm(z, axis=1), jnp.linalg.norm(x, axis=1), rtol=1e-5)
    np.testing.assert_allclose(logdet, 0, atol=1e-5)


def test_latent_is_the_split_halves_then_the_rest():
    x = data()
    glow = Glow(levels=3, depth=1, width=4)
    z, _ = jax.jit(glow.init_with_output)(jax.random.key(0), x)[0]
    # Additive couplings start as the identity, so only actnorm and the reversals are left: each
    # level turns its vector around and finishes its second half.
    unit = (x - x.mean(0)) / x.std(0)
    first = unit[:, ::-1]
    second = first[:, :4][:, ::-1]
    third = second[:, :2][:, ::-1]
    expected = jnp.concatenate([first[:, 4:], second[:, 2:], third], axis=1)
    np.testing.assert_allclose(z, expected, atol=1e-4)


@pytest.mark.parametrize("coupling", get_args(Coupling))
def test_density_integrates_to_one(coupling):
    # A grid over 2-D, wide enough that the density outside of it is negligible (so the weights
    # move only a little: a steep coupling network shears the density far away).
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 2)) @ np.array([[1.0, 0.6], [0.0, 0.5]])
    glow = Glow(levels=1, depth=2, width=8, coupling=coupling, permutation="reverse")
    with jax.enable_x64(True):
        variables = fitted(glow, jnp.asarray(x), by=0.01)
        side = np.linspace(-12, 12, 601)
        grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
        log_prob = jax.jit(lambda g: glow.apply(variables, g, method="log_prob"))(grid)
        mass = float(jnp.exp(log_prob).sum()) * (side[1] - side[0]) ** 2
    assert mass == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("dim", "levels"), [(7, 1), (10, 2), (4, 3), (8, 0)])
def test_dimensions_that_do_not_split(dim, levels):
    with pytest.raises(ValueError, match="level"):
        check_dim(dim, levels)


def test_odd_coupling():
    with pytest.raises(ValueError, match="even number of dimensions, got 7"):
        CouplingLayer().init(jax.random.key(0), data(dim=7))
