"""Masks: their share, their independence, and what they depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from simcse_jax.models import Batch, one_a_row
from simcse_jax.models.dropout import attention_dropout, dropout, token_seeds

ROWS, LENGTH, WIDTH = 24, 16, 63


def batch(rows=ROWS, length=LENGTH):
    return one_a_row(np.zeros((rows, length), np.int32), np.ones((rows, length), bool))


def seeds(number=0, rows=ROWS):
    return token_seeds(jax.random.split(jax.random.key(number), rows), batch(rows))


def mask(seeds, rate=0.5, dropout_id=0, width=WIDTH):
    """1 where an activation is dropped."""
    return np.asarray(dropout(jnp.ones((*seeds.shape[:-1], width)), seeds, rate, dropout_id)) == 0


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_share_is_the_rate_and_the_rest_is_scaled(rate):
    x = jnp.full((ROWS, LENGTH, 1000), 3.0)
    out = np.asarray(dropout(x, seeds(), rate, 4))
    dropped = (out == 0).sum()
    assert scipy.stats.binomtest(int(dropped), out.size, rate).pvalue > 1e-3
    np.testing.assert_allclose(out[out != 0], 3 / (1 - rate), rtol=1e-6)


def test_the_ends():
    x = jnp.ones((ROWS, LENGTH, WIDTH))
    assert dropout(x, None, 0.5, 0) is x
    assert dropout(x, seeds(), 0.0, 0) is x
    assert not dropout(x, seeds(), 1.0, 0).any()


def test_masks_are_independent_along_every_axis():
    """Of two masks that differ in one thing, a half agrees: no correlation beyond chance."""
    here = mask(seeds(), width=400)
    others = {
        "sentence": here[np.roll(np.arange(ROWS), 1)],
        "position": here[:, np.roll(np.arange(LENGTH), 1)],
        "feature": np.roll(here, 1, axis=2),
        "half of the word": np.roll(here, 200, axis=2),
        "place": mask(seeds(), dropout_id=1, width=400),
        "layer": mask(seeds(), dropout_id=3, width=400),
        "key": mask(seeds(1), width=400),
    }
    for name, other in others.items():
        result = scipy.stats.chi2_contingency(
            [[np.sum((here == a) & (other == b)) for b in (0, 1)] for a in (0, 1)]
        )
        assert result.pvalue > 1e-3, name


def test_counts_by_token_and_feature_are_binomial():
    """No token and no feature is dropped more often, or more evenly, than chance has it."""
    here = mask(seeds(rows=200), rate=0.1, width=384)
    for axes in ((2,), (0, 1)):
        counts = here.sum(axes).ravel()
        n = here.size // counts.size
        statistic = ((counts - 0.1 * n) ** 2 / (0.1 * 0.9 * n)).sum()
        share = scipy.stats.chi2(counts.size).cdf(statistic)
        assert 1e-3 < share < 1 - 1e-3


def test_attention_masks_differ_by_head_query_and_key():
    positions = jnp.tile(jnp.arange(LENGTH), (ROWS, 1))
    probs = jnp.ones((ROWS, 5, LENGTH, LENGTH))
    out = np.asarray(attention_dropout(probs, seeds(), positions, 0.5, 1)) == 0
    assert scipy.stats.binomtest(int(out.sum()), out.size, 0.5).pvalue > 1e-3
    for axis in range(4):
        agree = (out == np.roll(out, 1, axis=axis)).sum()
        assert scipy.stats.binomtest(int(agree), out.size, 0.5).pvalue > 1e-3


def test_the_layout_does_not_matter():
    keys = jax.random.split(jax.random.key(0), 3)
    padded = np.asarray(token_seeds(keys, batch(3, 4)))
    packed = Batch(
        np.zeros((1, 10), np.int32),
        np.array([[2, 2, 2, 3, 3, 3, 3, 1, 1, 0]]),
        np.array([[0, 1, 2, 0, 1, 2, 3, 0, 1, 0]]),
    )
    found = np.asarray(token_seeds(keys, packed))[0]
    np.testing.assert_array_equal(found[:3], padded[1, :3])
    np.testing.assert_array_equal(found[3:7], padded[2])
    np.testing.assert_array_equal(found[7:9], padded[0, :2])
