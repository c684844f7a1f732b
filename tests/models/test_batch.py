"""Where the first tokens of packed sentences are."""

import jax.numpy as jnp
import numpy as np

from simcse_jax.models.batch import Batch, first_token_indices, take_or_zero


def test_first_tokens_in_any_order_and_of_segments_that_are_not_there():
    segments = np.array([[3, 3, 1, 1, 0], [2, 2, 2, 5, 0]])
    positions = np.array([[0, 1, 0, 1, 0], [0, 1, 2, 0, 0]])
    ids = np.zeros_like(segments)
    batch = Batch(ids, segments > 0, segment_ids=segments, position_ids=positions)
    index = first_token_indices(batch, 6)
    np.testing.assert_array_equal(index, [2, 5, 0, 10, 8, 10])  # 10 is out of range
    x = np.arange(1, 11, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(take_or_zero(x, index)[:, 0], [3, 6, 1, 0, 9, 0])


def test_keys_of_absent_rows_are_zero_too():
    seeds = jnp.ones((4, 2), jnp.uint32)
    taken = take_or_zero(seeds, jnp.array([4, 0]))
    assert taken.dtype == jnp.uint32
    np.testing.assert_array_equal(taken, [[0, 0], [1, 1]])
