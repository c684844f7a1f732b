"""Every pooling against a loop over the sentences' real tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from simcse_jax.models import Batch, BertConfig, one_a_row, pool
from simcse_jax.models.pooling import check_pooling, first_only, layers_and_reduction

RNG = np.random.default_rng(0)
LENGTHS = [3, 5, 1]
STATES = [RNG.normal(size=(3, 5, 4)).astype(np.float32) for _ in range(4)]
MASK = np.arange(5)[None] < np.array(LENGTHS)[:, None]
BATCH = one_a_row(np.zeros((3, 5), np.int32), MASK)

BY_HAND = {
    "cls": lambda h: h[3][0],
    "pooler": lambda h: h[3][0],
    "mean": lambda h: h[3].mean(0),
    "max": lambda h: h[3].max(0),
    "mean-sqrt-len": lambda h: h[3].sum(0) / len(h[3]) ** 0.5,
    "weighted-mean": lambda h: np.average(h[3], 0, weights=np.arange(1, len(h[3]) + 1)),
    "last-token": lambda h: h[3][-1],
    "max+cls+mean": lambda h: np.concatenate([h[3].max(0), h[3][0], h[3].mean(0)]),
    "last-2": lambda h: (h[2].mean(0) + h[3].mean(0)) / 2,
    "first-last": lambda h: (h[1].mean(0) + h[3].mean(0)) / 2,
    "embedding-last": lambda h: (h[0].mean(0) + h[3].mean(0)) / 2,
    "layer-0": lambda h: h[0].mean(0),
    "layer-2": lambda h: h[2].mean(0),
}


def expected(pooling):
    per_sentence = [[state[i, :n] for state in STATES] for i, n in enumerate(LENGTHS)]
    return np.stack([BY_HAND[pooling](h) for h in per_sentence])


@pytest.mark.parametrize("pooling", BY_HAND)
def test_a_sentence_a_row(pooling):
    ours = pool(STATES, BATCH, pooling, 3)
    np.testing.assert_allclose(ours, expected(pooling), atol=1e-6)


@pytest.mark.parametrize("pooling", BY_HAND)
def test_packed(pooling):
    """Two sentences in the first row, one and some padding in the second."""
    segments = np.array([[1, 1, 1, 2, 0, 0], [3, 3, 3, 3, 3, 0]])
    positions = np.array([[0, 1, 2, 0, 0, 0], [0, 1, 2, 3, 4, 0]])
    states = []
    for state in STATES:
        rows = np.full((2, 6, 4), 99.0, np.float32)  # padding must not leak in
        rows[0, :3], rows[0, 3:4], rows[1, :5] = state[0, :3], state[2, :1], state[1, :5]
        states.append(rows)
    batch = Batch(np.zeros((2, 6), np.int32), segments, positions)
    ours = pool(states, batch, pooling, num_sentences=5)
    np.testing.assert_allclose(ours[:3], expected(pooling)[[0, 2, 1]], atol=1e-6)
    np.testing.assert_array_equal(ours[3:], 0)


def test_an_empty_row_pools_to_zero():
    nothing = one_a_row(BATCH.input_ids, np.zeros_like(MASK))
    for pooling in ("cls", "mean", "max"):
        np.testing.assert_array_equal(pool(STATES, nothing, pooling, 3), 0)


def test_bfloat16_is_pooled_in_float32():
    states = [jnp.asarray(state, jnp.bfloat16) for state in STATES]
    for pooling in ("cls", "mean", "max", "first-last"):
        pooled = pool(states, BATCH, pooling, 3)
        assert pooled.dtype == jnp.float32
        np.testing.assert_allclose(pooled, expected(pooling), atol=2e-2)


def test_poolings_of_first_tokens():
    assert [name for name in BY_HAND if first_only(name)] == ["cls", "pooler"]


NO_DITTO = ["ditto", "ditto-1", "ditto-0-1", "ditto-1-0", "ditto-1-²", "ditto-1-1+cls"]


@pytest.mark.parametrize("name", ["avg", "layer-", "layer-x", "Mean", "", *NO_DITTO])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="is none of"):
        layers_and_reduction(name)


def test_a_layer_or_head_too_high_is_refused():
    config = BertConfig(num_hidden_layers=3, num_attention_heads=2)
    for pooling in ("layer-3", "ditto-3-2"):
        check_pooling(pooling, config)
    for pooling in ("layer-4", "ditto-4-1"):
        with pytest.raises(ValueError, match=f"'{pooling}' needs layer 4 of 3"):
            check_pooling(pooling, config)
    with pytest.raises(ValueError, match="'ditto-1-3' needs head 3 of 2 in a layer"):
        check_pooling("ditto-1-3", config)


def test_ditto_needs_its_weights():
    with pytest.raises(ValueError, match="'ditto-1-1' needs weights"):
        pool(STATES, BATCH, "ditto-1-1", 3)


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        ("layer-²", "pooling 'layer-²' is none of"),
        ("layer-١", "pooling 'layer-١' is none of"),
        ("ditto-" + "1" * 5000 + "-1", "is none of"),
        ("menas", "did you mean mean?"),
    ],
)
def test_names_that_are_none(pooling, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        layers_and_reduction(pooling)


def test_weights_are_for_ditto_alone():
    batch = one_a_row(np.ones((1, 2), np.int32), np.ones((1, 2)))
    with pytest.raises(ValueError, match="pooling 'mean' takes no weights"):
        pool((np.ones((1, 2, 3), np.float32),) * 2, batch, "mean", 1, np.ones((1, 2), np.float32))
