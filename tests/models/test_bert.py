"""The encoder against torch's BertModel and RobertaModel (golden files), and its own promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from safetensors.numpy import load_file

from simcse_jax import hub
from simcse_jax.models import Batch, BertConfig, BertEncoder, one_a_row
from simcse_jax.models.dense import Dense, gelu, linear, product

MODELS = (
    "tiny-bert",
    "tiny-roberta",
    "tiny-xlm-roberta",
    "tiny-camembert",
    "tiny-distilbert",
    "tiny-mpnet",
    "tiny-electra",
)


@pytest.fixture(params=MODELS)
def tiny(request, golden):
    folder = golden / request.param
    config, params = hub.load_params(folder, hub.read_config(folder))
    torch = load_file(folder / "golden.safetensors")
    batch = one_a_row(jnp.asarray(torch["input_ids"]), jnp.asarray(torch["attention_mask"]))
    return config, params, batch, torch


def test_every_hidden_state_equals_torchs(tiny):
    config, params, batch, torch = tiny
    states = BertEncoder(config).apply({"params": params["encoder"]}, batch)
    assert isinstance(states, tuple)
    assert len(states) == config.num_hidden_layers + 1
    for i, state in enumerate(states):
        ours = np.where(batch.attention_mask[..., None], state, 0)
        np.testing.assert_allclose(ours, torch[f"hidden_{i}"], atol=1e-5, rtol=0)


def test_every_gradient_equals_torchs(tiny):
    config, params, batch, torch = tiny

    def loss(encoder):
        last = BertEncoder(config).apply({"params": encoder}, batch)[-1]
        weight = batch.attention_mask[..., None] * jnp.linspace(-1, 1, config.hidden_size)
        return (jnp.tanh(last) * weight).sum()

    value, gradient = jax.value_and_grad(loss)(params["encoder"])
    np.testing.assert_allclose(value, torch["loss"], rtol=1e-5)
    ours = hub.to_torch_names(config, {"encoder": gradient})
    theirs = {k.removeprefix("grad."): v for k, v in torch.items() if k.startswith("grad.")}
    assert ours.keys() == theirs.keys()
    for name in ours:
        difference = np.abs(ours[name] - theirs[name])
        if name == "embeddings.word_embeddings.weight":
            difference[config.pad_token_id] = 0  # torch leaves its padding_idx out
        if name == "embeddings.position_embeddings.weight" and config.position_offset:
            difference[config.position_offset - 1] = 0
        assert difference.max() < 1e-4, name


def test_padding_changes_nothing(tiny):
    config, params, batch, _ = tiny
    row = np.asarray(batch.input_ids)[1:2]
    encoder = BertEncoder(config)
    short = one_a_row(row[:, :4], np.ones((1, 4), bool))
    alone = encoder.apply({"params": params["encoder"]}, short)[-1]
    padded = encoder.apply({"params": params["encoder"]}, batch)[-1][1:2, :4]
    np.testing.assert_allclose(alone, padded, atol=1e-6)


def test_a_packed_row_equals_its_sentences(tiny):
    config, params, batch, _ = tiny
    ids = np.asarray(batch.input_ids)
    packed = Batch(
        np.concatenate([ids[1, :4], ids[0, :9], [0]])[None].astype(np.int32),
        np.array([[1] * 4 + [2] * 9 + [0]]),
        np.array([[*range(4), *range(9), 0]]),
    )
    encoder = BertEncoder(config)
    ours = encoder.apply({"params": params["encoder"]}, packed)[-1][0]
    plain = encoder.apply({"params": params["encoder"]}, batch)[-1]
    np.testing.assert_allclose(ours[:4], plain[1, :4], atol=1e-6)
    np.testing.assert_allclose(ours[4:13], plain[0, :9], atol=1e-6)


def test_dropout_masks_differ_by_row_and_repeat_with_the_key(tiny):
    config, params, batch, _ = tiny
    ids, mask = (jnp.repeat(x[:1], 2, 0) for x in (batch.input_ids, batch.attention_mask))
    twice = one_a_row(ids, mask)

    def encode(key):
        keys = jax.random.split(key, 2)
        return BertEncoder(config).apply({"params": params["encoder"]}, twice, keys)[-1]

    first = encode(jax.random.key(0))
    assert not np.allclose(first[0], first[1])
    np.testing.assert_array_equal(first, encode(jax.random.key(0)))
    assert not np.allclose(first, encode(jax.random.key(1)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dense_gradient_is_the_derived_one(dtype):
    random = np.random.default_rng(0)
    x, weights = (jnp.asarray(random.normal(size=(3, 50, n)), dtype) for n in (8, 5))
    kernel = jnp.asarray(random.normal(size=(8, 5)), jnp.float32)
    bias = jnp.asarray(random.normal(size=5), jnp.float32)

    def loss(function, *arguments):
        return (function(*arguments).astype(jnp.float32) * weights).sum()

    def plain(x, kernel, bias):
        return x.astype(jnp.float32) @ kernel.astype(dtype).astype(jnp.float32) + bias.astype(dtype)

    derived = jax.grad(lambda *a: loss(plain, *a), (0, 1, 2))(x, kernel, bias)
    found = jax.grad(lambda *a: loss(linear, *a), (0, 1, 2))(x, kernel, bias)
    rtol = {"float32": 1e-5, "bfloat16": 1e-2}[dtype]
    for a, b in zip(found, derived, strict=True):
        assert a.dtype == b.dtype
        wide = np.asarray(b, np.float32)
        np.testing.assert_allclose(np.asarray(a, np.float32), wide, rtol=rtol, atol=rtol)


def test_columns_of_a_dense_layer_are_its_columns():
    """The last layer takes queries of first tokens and keys and values of all from one kernel."""
    rng = np.random.default_rng(0)

    def whole_numbers(like):  # whose sums are exact, in whatever order they are added up
        return jnp.asarray(rng.integers(-9, 10, like.shape), jnp.float32)

    x = whole_numbers(np.empty((3, 8)))
    layer = Dense(12, 0.5)
    params = jax.tree.map(whole_numbers, layer.init(jax.random.key(0), x))
    whole = layer.apply(params, x)
    for columns in ((0, 4), (4, 12)):
        part = layer.apply(params, x, columns)
        np.testing.assert_array_equal(part, whole[:, slice(*columns)])


def test_gelu_is_the_exact_one():
    x = np.linspace(-6, 6, 1001).astype(np.float32)
    np.testing.assert_allclose(gelu(jnp.asarray(x)), x * scipy.stats.norm.cdf(x), atol=1e-6)


def test_dropout_falls_on_all_three_places(tiny):
    """Each probability alone changes the output: none of the three places is forgotten."""
    config, params, batch, _ = tiny
    plain = BertEncoder(config).apply({"params": params["encoder"]}, batch)[-1]
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        only = dataclasses.replace(config, **(off | {name: 0.3}))
        dropped = BertEncoder(only).apply(
            {"params": params["encoder"]},
            batch,
            jax.random.split(jax.random.key(0), len(batch.input_ids)),
        )
        assert not np.allclose(dropped[-1], plain)
        embedding_changed = not np.allclose(
            dropped[0],
            BertEncoder(config).apply({"params": params["encoder"]}, batch)[0],
        )
        assert embedding_changed == (name == "hidden_dropout_prob")


def test_bfloat16_is_close(tiny):
    config, params, batch, torch = tiny
    last = BertEncoder(config, jnp.bfloat16).apply({"params": params["encoder"]}, batch)[-1]
    assert last.dtype == jnp.bfloat16
    theirs = torch[f"hidden_{config.num_hidden_layers}"]
    ours = np.where(batch.attention_mask[..., None], last.astype(jnp.float32), 0)
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 2e-2


def test_a_row_of_nothing_but_padding_is_finite(tiny):
    config, params, batch, _ = tiny
    empty = one_a_row(batch.input_ids, jnp.zeros_like(batch.attention_mask))
    last = BertEncoder(config).apply({"params": params["encoder"]}, empty)[-1]
    assert np.isfinite(last).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "t5"}, "model_type"),
        ({"num_attention_heads": 5}, "not divisible"),
        ({"hidden_act": "cube"}, "hidden_act"),
    ],
)
def test_a_config_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        BertConfig(**change)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("RNQH,RNKH->RNQK", ((2, 3, 5, 4), (2, 3, 7, 4))),
        ("RNQK,RNKH->RNQH", ((2, 3, 5, 7), (2, 3, 7, 4))),
    ],
)
def test_the_gradient_of_a_product_is_the_derived_one(equation, shapes):
    a, b = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))

    def gradient(multiply):
        return jax.grad(lambda a, b: jnp.sum(jnp.sin(multiply(equation, a, b))), (0, 1))

    expected = gradient(jnp.einsum)(a, b)
    for found, exact in zip(gradient(product)(a, b), expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)
    halves = gradient(product)(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16))
    for found, exact in zip(halves, expected, strict=True):
        assert found.dtype == jnp.bfloat16
        off = np.linalg.norm(found.astype(jnp.float32) - exact) / np.linalg.norm(exact)
        assert 1e-4 < off < 0.02
