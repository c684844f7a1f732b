"""What a temperature divides is multiplied exactly, whatever the accelerator does by default."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from simcse_jax.losses.info_nce import info_nce
from simcse_jax.training import make_mesh

PRODUCT = re.compile(r"stablehlo\.dot_general .*?: \(.*?\) -> tensor<[^>]*>")


def products(implementation, platform, **options):
    """The products in the program of loss and gradient, on four devices."""
    mesh = make_mesh(jax.devices()[:4])
    rows = PartitionSpec("data")

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(rows, rows, rows), out_specs=(rows,) * 3)
    def gradient(*embeddings):
        def loss(*embeddings):
            return info_nce(
                *embeddings,
                temperature=0.001,
                symmetric=True,
                implementation=implementation,
                axis_name="data",
                block_size=4,
                **options,
            ).loss

        return jax.grad(loss, argnums=(0, 1, 2))(*embeddings)

    shapes = [jax.ShapeDtypeStruct((32, 16), jnp.float32)] * 3
    lowered = jax.jit(gradient).trace(*shapes).lower(lowering_platforms=(platform,))
    return PRODUCT.findall(lowered.as_text())


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("implementation", ["dense", "blockwise", "ring"])
def test_every_product_has_the_highest_precision(implementation, platform):
    found = products(implementation, platform)
    assert len(found) >= 3  # logits, and the gradient of both sides
    for product in found:
        assert "precision = [HIGHEST, HIGHEST]" in product


def test_another_precision_is_passed_on():
    for product in products("dense", "cuda", precision=None):
        assert "HIGHEST" not in product
