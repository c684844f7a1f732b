"""The dense implementation against the equation as written."""

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

from simcse_jax.losses.info_nce.dense import dense_sums
from simcse_jax.losses.info_nce.logits import StaticOptions


@pytest.mark.parametrize("count", [2, 3], ids=["pairs", "triplets"])
@pytest.mark.parametrize("name", OPTIONS)
def test_values_and_gradients(name, count):
    with cold_in_float64(name) as dtype:
        arrays = embeddings(count, dtype=dtype)
        expected = reference_value_and_grad(*arrays, **OPTIONS[name])
        dense = value_and_grad(*arrays, implementation="dense", **OPTIONS[name])
        close(dense, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("log_alpha", [0.0, 0.7])
def test_the_rows_of_each_device_add_up(log_alpha):
    """Candidates and their ids are those of all devices, the offset is where a device's begin."""
    queries, positives, hard = embeddings(3, batch=8)
    candidates, ids = jnp.concatenate([positives, hard]), jnp.array([0, 1, 2, 0, 4, 5, 2, 7])
    options = StaticOptions(1, log_alpha, 1, jnp.dtype("float32"), None)

    def sums(start, stop):
        rows, row_ids = queries[start:stop], ids[start:stop]
        scale = jnp.float32(2.0)
        return jnp.stack(dense_sums(options, rows, candidates, row_ids, ids, scale, start))

    close(sums(0, 3) + sums(3, 8), sums(0, 8))
