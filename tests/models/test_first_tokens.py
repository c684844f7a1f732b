"""The encoder of first tokens alone against the whole encoder, with the same dropout masks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from simcse_jax import hub
from simcse_jax.data.packing import pack_rows, packed_batch
from simcse_jax.models import Batch, BertEncoder, FirstTokenEncoder, one_a_row, pool


def load(golden, layout, num_layers=1, model="tiny-bert"):
    """A tiny model, its golden sentences in one of two layouts, and how many there are."""
    folder = golden / model
    config, params = hub.load_params(folder, hub.read_config(folder), num_layers=num_layers)
    torch = load_file(folder / "golden.safetensors")
    tokens, mask = torch["input_ids"], torch["attention_mask"].astype(bool)
    if layout == "one a row":
        return config, params["encoder"], one_a_row(tokens, mask), len(tokens)
    ids = [row[m] for row, m in zip(tokens, mask, strict=True)]
    length = 4 * (sum(map(len, ids)) // 4 + 2)
    rows = pack_rows([len(i) for i in ids], length)
    assert len(rows) == 1
    return config, params["encoder"], packed_batch(ids, rows, (2, length)), len(ids)


@pytest.mark.parametrize(
    ("layout", "model"),
    [
        ("one a row", "tiny-bert"),
        ("packed", "tiny-bert"),
        ("packed", "tiny-mpnet"),  # its scores have a bias
        ("one a row", "tiny-electra"),  # its embeddings a projection
    ],
)
def test_value_and_gradient_are_those_of_the_whole_last_layer(golden, layout, model):
    config, params, batch, sentences = load(golden, layout, model=model)
    assert min(config.hidden_dropout_prob, config.attention_probs_dropout_prob) > 0
    keys = jax.random.split(jax.random.key(5), sentences)
    weights = jax.random.normal(jax.random.key(6), (sentences, config.hidden_size))

    def whole(params):
        states = BertEncoder(config).apply({"params": params}, batch, keys)
        return pool(states, batch, "cls", sentences)

    def first(params):
        encoder = FirstTokenEncoder(config)
        return encoder.apply({"params": params}, batch, keys, num_sentences=sentences)

    def run(function):
        return jax.jit(jax.value_and_grad(lambda p: (function(p) * weights).sum()))(params)

    (wanted, wanted_gradient), (found, gradient) = run(whole), run(first)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    norm = float(optax.tree.norm(wanted_gradient))
    for a, b in zip(*map(jax.tree.leaves, (gradient, wanted_gradient)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * norm)


@pytest.mark.parametrize("layout", ["one a row", "packed"])
@pytest.mark.parametrize("dropout", [True, False], ids=["dropout", "no dropout"])
def test_every_first_state_is_that_of_the_whole_encoder(golden, layout, dropout):
    """Of three layers; a sentence more than there are changes nothing."""
    config, params, batch, sentences = load(golden, layout, num_layers=3)
    keys = jax.random.split(jax.random.key(5), sentences + 1) if dropout else None
    states = BertEncoder(config).apply({"params": params}, batch, keys)
    encoder = FirstTokenEncoder(config)
    found = encoder.apply({"params": params}, batch, keys, num_sentences=sentences + 1)
    assert found.shape == (sentences + 1, config.hidden_size)
    wanted = pool(states, batch, "cls", sentences)
    np.testing.assert_allclose(found[:sentences], wanted, atol=1e-5)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_ends_of_attention_dropout(golden, rate):
    config, params, batch, sentences = load(golden, "packed")
    config = dataclasses.replace(config, attention_probs_dropout_prob=rate)
    keys = jax.random.split(jax.random.key(5), sentences)
    states = BertEncoder(config).apply({"params": params}, batch, keys)
    found = FirstTokenEncoder(config).apply(
        {"params": params}, batch, keys, num_sentences=sentences
    )
    np.testing.assert_allclose(found, pool(states, batch, "cls", sentences), atol=1e-5)


def test_parameters_and_their_draws_are_those_of_the_whole_encoder(golden):
    config, _, batch, sentences = load(golden, "packed")
    whole = BertEncoder(config).init(jax.random.key(0), batch)
    first = FirstTokenEncoder(config).init(jax.random.key(0), batch, num_sentences=sentences)
    jax.tree.map(np.testing.assert_array_equal, first, whole)


def test_bfloat16_is_close(golden):
    config, params, batch, sentences = load(golden, "packed")

    def encode(dtype):
        encoder = FirstTokenEncoder(config, dtype)
        return encoder.apply({"params": params}, batch, num_sentences=sentences)

    half, full = encode(jnp.bfloat16), encode(jnp.float32)
    assert half.dtype == jnp.bfloat16
    difference = np.asarray(half, np.float32) - full
    assert np.linalg.norm(difference) / np.linalg.norm(full) < 2e-2


def test_a_batch_of_nothing_but_padding_is_finite(golden):
    config, params, batch, sentences = load(golden, "packed")
    empty = Batch(*(np.zeros_like(x) for x in jax.tree.leaves(batch)))
    found = FirstTokenEncoder(config).apply({"params": params}, empty, num_sentences=sentences)
    assert np.isfinite(found).all()
