"""Loss and gradients of a batch that is spread over devices, by each implementation."""

import jax
import jax.numpy as jnp
import pytest
from info_nce_support import (
    OPTIONS,
    close,
    embeddings,
    mesh,
    reference_value_and_grad,
    sharded,
)
from jax.sharding import PartitionSpec

from simcse_jax.losses.info_nce import info_nce_loss


@pytest.mark.parametrize("implementation", ["dense", "blockwise", "ring"])
@pytest.mark.parametrize(
    ("devices", "check_vma"), [(1, True), (2, True), (4, True), (8, True), (8, False)]
)
def test_gradient_outside_of_shard_map(implementation, devices, check_vma):
    arrays, name = embeddings(3), "all"
    expected = reference_value_and_grad(*arrays, **OPTIONS[name])
    call = sharded(
        devices,
        {"implementation": implementation, "block_size": 3, **OPTIONS[name]},
        check_vma,
    )
    actual = jax.jit(jax.value_and_grad(call, range(3), has_aux=True))(*arrays)
    close(actual, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("implementation", ["dense", "blockwise", "ring"])
def test_several_hard_negatives_on_several_devices(implementation):
    anchors, positives, *hard = embeddings(5)
    arrays = (anchors, positives, jnp.stack(hard, axis=1))
    expected = reference_value_and_grad(*arrays, **OPTIONS["all"])
    call = sharded(4, {"implementation": implementation, "block_size": 3, **OPTIONS["all"]})
    actual = jax.jit(jax.value_and_grad(call, range(3), has_aux=True))(*arrays)
    close(actual, expected, rtol=1e-5, atol=2e-6)


def encoder_loss(parameters, implementation, sentences, axis_name):
    """A stand-in for an encoder: one matrix, and a learnt temperature, shared by all devices."""
    matrix, temperature = parameters
    anchors, positives, negatives = (jnp.tanh(x @ matrix) for x in sentences)
    return info_nce_loss(
        anchors, positives, negatives, temperature=jnp.exp(temperature), symmetric=True,
        hard_negative_weight=0.5, implementation=implementation, axis_name=axis_name,
    )  # fmt: skip


def encoder_setting():
    matrix = jax.random.normal(jax.random.key(0), (6, 5))
    parameters = (matrix, jnp.log(0.3))
    sentences = embeddings(3)
    expected = jax.value_and_grad(encoder_loss)(parameters, "dense", sentences, None)
    return parameters, sentences, expected


@pytest.mark.parametrize("implementation", ["dense", "blockwise", "ring"])
@pytest.mark.parametrize(("devices", "check_vma"), [(2, True), (8, True), (8, False)])
def test_gradient_inside_of_shard_map(implementation, devices, check_vma):
    """Checked: summed already. Unchecked: the mean over devices is the gradient."""
    parameters, sentences, expected = encoder_setting()

    def step(parameters, sentences):
        value, gradients = jax.value_and_grad(encoder_loss)(
            parameters, implementation, sentences, "data"
        )
        return value, gradients if check_vma else jax.lax.pmean(gradients, "data")

    mapped = jax.shard_map(
        step,
        mesh=mesh(devices),
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
        check_vma=check_vma,
    )
    close(jax.jit(mapped)(parameters, sentences), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("implementation", ["dense", "blockwise", "ring"])
def test_gradient_inside_of_pmap(implementation):
    parameters, sentences, expected = encoder_setting()

    def step(parameters, sentences):
        value, gradients = jax.value_and_grad(encoder_loss)(
            parameters, implementation, sentences, "data"
        )
        return value, jax.lax.pmean(gradients, "data")

    split = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), sentences)
    actual = jax.pmap(step, axis_name="data", in_axes=(None, 0))(parameters, split)
    for device in range(8):
        close(jax.tree.map(lambda x, i=device: x[i], actual), expected, rtol=1e-5, atol=2e-6)
