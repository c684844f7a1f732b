"""int8 layers: exact whole numbers in between, near float32 at the end, the same in every path."""

import pickle

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from simcse_jax import SentenceEncoder, hub
from simcse_jax.models.int8 import int8_linear, quantize_kernels, quantize_rows

SENTENCES = ["a dog runs", "the cat sleeps on the red mat", "a man plays", "dog", ""]


def test_a_row_is_off_by_half_a_step_and_its_largest_number_exact():
    x = random.normal(random.key(0), (7, 33)) * 10.0 ** jnp.arange(-3, 4)[:, None]
    x = x.at[2].set(0)
    numbers, scale = quantize_rows(x)
    assert numbers.dtype == jnp.int8
    back = np.asarray(numbers, np.float64) * np.asarray(scale, np.float64)
    assert (np.abs(back - x) <= np.asarray(scale) * (0.5 + 1e-5)).all()
    largest = np.abs(np.asarray(numbers, int)).max(1)
    np.testing.assert_array_equal(largest, [127, 127, 0, 127, 127, 127, 127])
    np.testing.assert_array_equal(quantize_rows(-x)[0], -np.asarray(numbers))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_product_is_that_of_the_whole_numbers(dtype):
    keys = random.split(random.key(1), 3)
    x = random.normal(keys[0], (2, 5, 48)).astype(dtype)
    weights, bias = random.normal(keys[1], (48, 20)), random.normal(keys[2], (20,))
    columns, scale = quantize_rows(weights.T)
    found = jax.jit(int8_linear)(x, columns.T, scale[:, 0], bias)
    assert found.dtype == dtype
    rows, own = map(np.asarray, quantize_rows(x))
    exact = rows.astype(np.int64) @ np.asarray(columns, np.int64).T
    expected = exact * own.astype(float) * np.asarray(scale[:, 0], float) + np.asarray(bias)
    rounding = {"float32": 1e-6, "bfloat16": 2.0**-8}[dtype]
    np.testing.assert_allclose(found.astype(float), expected, rtol=rounding, atol=rounding)
    plain = np.asarray(x, np.float64) @ np.asarray(weights, np.float64) + np.asarray(bias)
    assert np.abs(expected - plain).max() < 0.02 * np.abs(plain).max()


def test_sums_of_the_widest_layer_fit_into_32_bits():
    """BERT-large's 4,096: all numbers at their largest."""
    x, weights = jnp.ones((1, 4096)), np.full((4096, 2), 127, np.int8)
    found = int8_linear(x, weights, np.ones(2, np.float32), np.zeros(2, np.float32))
    np.testing.assert_allclose(found, 4096 * 127, rtol=1e-6)


def test_kernels_alone_are_quantised_by_column(golden):
    config = hub.read_config(golden / "tiny-bert")
    params = hub.load_params(golden / "tiny-bert", config)[1]["encoder"]
    numbers, scales = quantize_kernels(params)
    assert jax.tree.structure(numbers) == jax.tree.structure(params)
    kernels = [
        (number, value)
        for number, value in zip(jax.tree.leaves(numbers), jax.tree.leaves(params), strict=True)
        if number.dtype == np.int8 or number is not value
    ]
    assert len(kernels) == len(jax.tree.leaves(scales)) == 4 * config.num_hidden_layers
    for number, value in kernels:
        assert number.shape == value.shape
        assert np.abs(number.astype(int)).max(0).min() == 127  # in each column


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-mpnet", "tiny-electra"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_are_near_those_of_float32(golden, model, pooling):
    whole, small = (
        SentenceEncoder.from_pretrained(golden / model, pooling=pooling, dtype=dtype)
        for dtype in ("float32", "int8")
    )
    expected, found = whole.encode(SENTENCES), small.encode(SENTENCES)
    assert found.dtype == np.float32
    off = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert 1e-5 < off.max() < 0.05


def test_first_tokens_alone_are_those_of_all_tokens(golden):
    """cls pooling has an encoder of its own, cls+mean takes the one of all tokens."""
    first, both = (
        SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling=pooling, dtype="int8")
        for pooling in ("cls", "cls+mean")
    )
    expected = both.encode(SENTENCES)[:, : first.dimension]
    np.testing.assert_allclose(first.encode(SENTENCES), expected, atol=1e-5)


def test_what_is_saved_and_pickled_is_float32(golden, tmp_path):
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean", dtype="int8")
    assert "dtype='int8'" in repr(encoder)
    again = SentenceEncoder.from_pretrained(encoder.save_pretrained(tmp_path / "saved"))
    jax.tree.map(np.testing.assert_array_equal, again.params, encoder.params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(encoder.params)} == {"float32"}
    copy = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(copy.encode(SENTENCES), encoder.encode(SENTENCES))


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(golden, broken):
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean", dtype="int8")
    for path in (("attention", "qkv", "kernel"), ("output", "kernel"), ("output_norm", "scale")):
        params = jax.tree.map(np.array, encoder.params)
        place = params["encoder"]["layer_0"]
        for name in path[:-1]:
            place = place[name]
        place[path[-1]][0] = broken
        with pytest.raises(FloatingPointError, match="holds NaN or infinite numbers"):
            encoder.with_params(params).encode(SENTENCES)


def test_huge_weights_that_float32_can_multiply_are_multiplied():
    """The sums of whole numbers times one scale alone would be beyond float32."""
    x, weights = jnp.full((1, 64), 1e33), jnp.full((64, 2), 1e-3)
    columns, scale = quantize_rows(weights.T)
    found = int8_linear(x, columns.T, scale[:, 0], jnp.zeros(2))
    np.testing.assert_allclose(found, 64 * 1e30, rtol=0.01)


def test_frozen_parameters_are_quantised_too(golden):
    params = hub.load_params(golden / "tiny-bert", hub.read_config(golden / "tiny-bert"))[1]
    numbers, scales = quantize_kernels(flax.core.freeze(params["encoder"]))
    expected = quantize_kernels(params["encoder"])
    jax.tree.map(np.testing.assert_array_equal, (numbers, scales), expected)
