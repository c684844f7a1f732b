"""Scanning over blocks of rows, and how many rows a block has."""

import jax.numpy as jnp
import numpy as np
import pytest

from simcse_jax.losses.info_nce.blocks import default_block_size, scan_rows


@pytest.mark.parametrize("block_size", [1, 3, 4, 8, 9, 100])
def test_every_row_is_seen_once_and_in_order(block_size):
    def body(total, rows):
        number, nothing = rows
        assert nothing is None
        return total + number.sum(), 10 * number

    total, out = scan_rows(body, jnp.array(0), (jnp.arange(9), None), block_size)
    assert total == 36
    np.testing.assert_array_equal(out, 10 * np.arange(9))


@pytest.mark.parametrize("rows", [1, 128, 129, 1000, 4096, 100_000])
@pytest.mark.parametrize("columns", [1, 4096, 10**6, 10**9])
def test_blocks_of_nearly_equal_size_within_the_budget(rows, columns):
    size = default_block_size(rows, columns)
    assert size % 128 == 0
    assert size == 128 or 4 * size * columns <= 32 << 20  # the budget of a CPU
    blocks = -(-rows // size)
    assert blocks * size - rows < 128 * blocks
