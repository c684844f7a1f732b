"""The blockwise implementation: values, gradients and memory."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest
from info_nce_support import (
    OPTIONS,
    close,
    cold_in_float64,
    embeddings,
    reference_value_and_grad,
    value_and_grad,
)

from simcse_jax.losses.info_nce import info_nce, info_nce_loss


@pytest.mark.parametrize("count", [2, 3], ids=["pairs", "triplets"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("block_size", [5, 16])
def test_blockwise_gradients(name, count, block_size):
    with cold_in_float64(name) as dtype:
        arrays = embeddings(count, dtype=dtype)
        expected = reference_value_and_grad(*arrays, **OPTIONS[name])
        blocks = value_and_grad(
            *arrays, implementation="blockwise", block_size=block_size, **OPTIONS[name]
        )
        close(blocks, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("batch", [1, 3, 33])
@pytest.mark.parametrize("count", [2, 3], ids=["pairs", "triplets"])
def test_any_batch_size(batch, count):
    arrays = embeddings(count, batch=batch)
    expected = reference_value_and_grad(*arrays)
    close(value_and_grad(*arrays, implementation="blockwise", block_size=4), expected)


def test_default_blocks_are_ragged_too():
    arrays = embeddings(2, batch=700, dim=16)
    expected = reference_value_and_grad(*arrays)
    close(value_and_grad(*arrays, implementation="blockwise", block_size=256), expected)
    close(value_and_grad(*arrays, implementation="auto"), expected)


def test_small_losses_do_not_cancel():
    """log(1 + 7 e^{-40}) is 3e-17, far below the rounding of the logits."""
    result = info_nce(jnp.eye(8), jnp.eye(8), temperature=0.025, implementation="blockwise")
    close(result.loss, 7 * math.exp(-40), rtol=1e-5, atol=0)


def test_vmap_and_upstream_gradient():
    arrays = tuple(x.reshape(2, 8, 6) for x in embeddings(3))
    loss = functools.partial(info_nce_loss, implementation="blockwise", block_size=3)
    total = jax.jit(jax.grad(lambda *x: (2.5 * jax.vmap(loss)(*x)).sum()))(*arrays)
    dense = jax.jit(jax.grad(functools.partial(info_nce_loss, implementation="dense")))
    close(total, jnp.stack([2.5 * dense(*(x[i] for x in arrays)) for i in range(2)]))


def test_blockwise_memory_is_linear():
    """Twice the batch takes about twice the temporaries, four times in the dense form."""

    def temporaries(batch, implementation):
        shape = jax.ShapeDtypeStruct((batch, 8), jnp.float32)
        loss = functools.partial(info_nce_loss, implementation=implementation, block_size=128)
        compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(shape, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(4096, "blockwise") < 2.5 * temporaries(2048, "blockwise")
    assert temporaries(4096, "dense") > 3.5 * temporaries(2048, "dense")
    assert temporaries(4096, "blockwise") < temporaries(4096, "dense") / 8
