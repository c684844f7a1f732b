"""Loops over blocks of rows, so that the logits of one block are held at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Bytes of float32 logits in one block: about what stays in the last-level cache of a CPU, and
# what fills the matrix units of an accelerator.
_BLOCK_BYTES = {"cpu": 32 << 20}
_BLOCK_BYTES_ACCELERATOR = 256 << 20


def scan_rows(body: Callable, carry: Any, rows: Any, block_size: int) -> tuple[Any, Any]:
    """Run `lax.scan` over blocks of rows; what is left over at the end goes through ``body`` alone.

    Args:
      body: ``(carry, block of rows) -> (carry, block of results)``, as for `lax.scan`.
      carry: what the blocks hand on.
      rows: a tree of arrays whose first axis is the rows.
      block_size: rows in a block; the last block may be smaller.

    Returns:
      The last carry, and the results with the rows in their order.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    block_size = min(block_size, count)
    blocks, rest = divmod(count, block_size)
    even = blocks * block_size
    if blocks == 1:
        carry, out = body(carry, jax.tree.map(lambda x: x[:even], rows))
    else:
        split = jax.tree.map(lambda x: x[:even].reshape(blocks, block_size, *x.shape[1:]), rows)
        carry, out = lax.scan(body, carry, split)
        out = jax.tree.map(lambda x: x.reshape(even, *x.shape[2:]), out)
    if rest:
        carry, tail = body(carry, jax.tree.map(lambda x: x[even:], rows))
        out = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), out, tail)
    return carry, out


def default_block_size(rows: int, columns: int) -> int:
    """Return so many rows that their logits fill the budget of the backend.

    It is a multiple of 128, and chosen so that the blocks are of nearly equal size.
    """
    budget = _BLOCK_BYTES.get(jax.default_backend(), _BLOCK_BYTES_ACCELERATOR)
    most = max(128, budget // (4 * columns) // 128 * 128)
    blocks = -(-rows // most)
    return min(most, -(-rows // (128 * blocks)) * 128)
