"""The ring: its options, its dtypes, and that it never gathers."""

import jax
import jax.numpy as jnp
import pytest
from info_nce_support import (
    OPTIONS,
    close,
    cold_in_float64,
    embeddings,
    reference_value_and_grad,
    sharded,
    value_and_grad,
)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("count", [2, 3], ids=["pairs", "triplets"])
def test_ring_options(name, count):
    with cold_in_float64(name) as dtype:
        arrays = embeddings(count, dtype=dtype)
        expected = reference_value_and_grad(*arrays, **OPTIONS[name])
        call = sharded(4, {"implementation": "ring", **OPTIONS[name]})
        actual = jax.jit(jax.value_and_grad(call, range(count), has_aux=True))(*arrays)
        close(actual, expected, rtol=1e-5, atol=2e-6)


def test_ring_bfloat16():
    low = tuple(x.astype(jnp.bfloat16) for x in embeddings(3, batch=64, dim=32))
    expected = value_and_grad(*low, implementation="dense")
    call = sharded(8, {"implementation": "ring"})
    actual = jax.jit(jax.value_and_grad(call, range(3), has_aux=True))(*low)
    assert all(g.dtype == jnp.bfloat16 for g in actual[1])
    close(actual[0], expected[0])
    close(actual[1], expected[1], rtol=0.05, atol=0.002)


def test_ring_never_gathers():
    arrays = embeddings(2)
    for implementation, gathers in (("ring", False), ("blockwise", True)):
        call = sharded(8, {"implementation": implementation})
        step = jax.grad(lambda *arrays, call=call: call(*arrays)[0])
        text = str(jax.make_jaxpr(step)(*arrays))
        assert ("all_gather" in text) == gathers
        assert ("ppermute" in text) != gathers
