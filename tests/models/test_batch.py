"""Sentences in rows, and where their first tokens are."""

import jax.numpy as jnp
import numpy as np

from simcse_jax.models import Batch, one_a_row
from simcse_jax.models.batch import first_token_indices, take_or_zero


def test_first_tokens_in_any_order_and_of_segments_that_are_not_there():
    segments = np.array([[3, 3, 1, 1, 0], [2, 2, 2, 5, 0]])
    positions = np.array([[0, 1, 0, 1, 0], [0, 1, 2, 0, 0]])
    batch = Batch(np.zeros_like(segments), segments, positions)
    index = first_token_indices(batch, 6)
    np.testing.assert_array_equal(index, [2, 5, 0, 10, 8, 10])  # 10 is out of range
    x = np.arange(1, 11, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(take_or_zero(x, index)[:, 0], [3, 6, 1, 0, 9, 0])
    np.testing.assert_array_equal(batch.attention_mask, segments != 0)


def test_keys_of_absent_rows_are_zero_too():
    seeds = jnp.ones((4, 2), jnp.uint32)
    taken = take_or_zero(seeds, jnp.array([4, 0]))
    assert taken.dtype == jnp.uint32
    np.testing.assert_array_equal(taken, [[0, 0], [1, 1]])


def test_a_sentence_a_row():
    ids = np.array([[2, 7, 3], [2, 3, 0], [0, 0, 0]])
    mask = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0]])
    for given in (mask, mask.astype(bool), jnp.array(mask)):
        batch = one_a_row(ids, given)
        np.testing.assert_array_equal(batch.input_ids, ids)
        np.testing.assert_array_equal(batch.segment_ids, [[1, 1, 1], [2, 2, 0], [0, 0, 0]])
        np.testing.assert_array_equal(batch.position_ids, [[0, 1, 2]] * 3)
        np.testing.assert_array_equal(batch.attention_mask, mask.astype(bool))
        assert batch.token_type_ids is None
        np.testing.assert_array_equal(first_token_indices(batch, 3), [0, 3, 9])
    types = np.ones_like(ids)
    assert one_a_row(ids, mask, types).token_type_ids is types
