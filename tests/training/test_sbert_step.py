"""Sentence-BERT's update against plain references, packed and padded, on several devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simcse_jax.data.packing import pack_rows, packed_batch
from simcse_jax.losses.cosine_regression import cosine_regression
from simcse_jax.losses.nli_softmax import nli_softmax, pair_features
from simcse_jax.losses.triplet import triplet_loss
from simcse_jax.models import Batch, BertEncoder
from simcse_jax.training import (
    SbertSettings,
    SiameseBatch,
    compile_step,
    create_sbert_state,
    make_mesh,
    make_optimizer,
    replicate,
    sbert_step,
)
from simcse_jax.training.step import row_keys, stream

KEY = jax.random.key(3)
SGD = optax.sgd(1.0)
SIZE, LENGTH = 8, 16
OBJECTIVES = {
    "softmax": SbertSettings(),
    "softmax, no bias": SbertSettings(use_bias=False, concatenation="diff-mul", pooling="cls"),
    "regression": SbertSettings(objective="regression"),
    "triplet": SbertSettings(objective="triplet", margin=5.0, pooling="max"),
}


def make_sentences(columns):
    """Token ids of every sentence, example by example, and labels of both kinds."""
    random = np.random.default_rng(0)
    lengths = random.integers(3, LENGTH // 2, SIZE * columns)
    ids = [random.integers(5, 64, n, dtype=np.int32) for n in lengths]
    return ids, random.integers(0, 3, SIZE).astype(np.int32), random.uniform(0, 1, SIZE)


def packed(settings, devices=1):
    columns = 3 if settings.objective == "triplet" else 2
    ids, classes, similarities = make_sentences(columns)
    rows = pack_rows([len(i) for i in ids], LENGTH)
    count = -(-len(rows) // devices) * devices
    assert count <= len(ids) / 2
    batch, order = packed_batch(ids, rows, (count, LENGTH))
    sentences = np.empty(len(ids), np.int32)
    sentences[order] = np.arange(1, len(ids) + 1)
    labels = {"softmax": classes, "regression": similarities.astype(np.float32)}
    labels = labels.get(settings.objective)
    return SiameseBatch(sentences.reshape(SIZE, columns), batch, labels)


def padded(settings):
    """The same examples, a sentence a row."""
    whole = packed(settings)
    columns = whole.sentences.shape[1]
    ids, _, _ = make_sentences(columns)
    mask = np.arange(LENGTH // 2) < np.array([len(i) for i in ids])[:, None]
    tokens = np.zeros(mask.shape, np.int32)
    tokens[mask] = np.concatenate(ids)
    numbers = np.arange(1, len(ids) + 1, dtype=np.int32).reshape(SIZE, columns)
    return SiameseBatch(numbers, Batch(tokens, mask), whole.labels)


def start(tiny, settings):
    return create_sbert_state(tiny.config, settings, tiny.params, SGD, jax.random.key(7))


def without_dropout(tiny):
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tiny._replace(config=dataclasses.replace(tiny.config, **off))


def update(tiny, settings, batch, devices=1):
    """What plain gradient descent with rate 1 subtracts, and the metrics."""
    mesh = make_mesh(jax.devices()[:devices])
    state = start(tiny, settings)
    run = compile_step(sbert_step(tiny.config, settings, SGD), mesh)
    new, metrics = run(replicate(state, mesh), batch, replicate(KEY, mesh))
    assert int(new.step) == 1
    gradient = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), state.params, new.params)
    return gradient, jax.device_get(metrics)


def assert_same(found, expected, rtol=1e-5):
    (gradient, metrics), (wanted, wanted_metrics) = found, expected
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * wanted_metrics["gradient_norm"], rtol=0)
    for name, value in wanted_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=rtol, err_msg=name)


def reference(tiny, settings, batch):
    """The equations on padded rows, each with its own masks."""
    encoder = BertEncoder(tiny.config)
    keys = row_keys(stream(KEY, "dropout", 0), jnp.arange(batch.sentences.size))

    def embed(params, ids, mask, key):
        output = encoder.apply(
            {"params": params["encoder"]},
            Batch(ids[None], mask[None]),
            key[None],
        ).last[0]
        if settings.pooling == "cls":
            return output[0]
        if settings.pooling == "max":
            highest = jnp.where(mask[:, None], output, -1e9).argmax(0, keepdims=True)
            return jnp.take_along_axis(output, highest, 0)[0]
        return (output * mask[:, None]).sum(0) / mask.sum()

    def loss(params):
        z = jax.vmap(embed, (None, 0, 0, 0))(
            params, batch.rows.input_ids, batch.rows.attention_mask, keys
        )
        columns = [z[c :: batch.sentences.shape[1]] for c in range(batch.sentences.shape[1])]
        if settings.objective == "triplet":
            return triplet_loss(*columns, margin=settings.margin).loss
        if settings.objective == "regression":
            return cosine_regression(*columns, batch.labels)
        classifier = params["classifier"]
        logits = pair_features(*columns, settings.concatenation) @ classifier["kernel"]
        return nli_softmax(logits + classifier.get("bias", 0.0), batch.labels).loss

    state = start(tiny, settings)
    value, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
    return gradient, {"loss": value, "gradient_norm": optax.tree.norm(gradient)}


@pytest.mark.parametrize("settings", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_gradient_is_that_of_the_equations_with_dropout(tiny, settings):
    batch = padded(settings)
    assert_same(update(tiny, settings, batch), reference(tiny, settings, batch), 1e-4)


@pytest.mark.parametrize("settings", OBJECTIVES.values(), ids=OBJECTIVES)
def test_packed_rows_give_the_gradient_of_padded_ones(tiny, settings):
    plain = without_dropout(tiny)
    expected = update(plain, settings, padded(settings))
    assert ("accuracy" in expected[1]) == (settings.objective != "regression")
    assert expected[1]["gradient_norm"] > 1e-3
    assert_same(update(plain, settings, packed(settings)), expected, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softmax", "triplet"])
def test_the_update_does_not_depend_on_the_devices(tiny, name):
    settings = OBJECTIVES[name]
    assert tiny.config.hidden_dropout_prob > 0
    expected = update(tiny, settings, packed(settings))
    assert_same(update(tiny, settings, packed(settings, devices=4), devices=4), expected)


def test_the_masks_differ_by_step(tiny):
    settings = SbertSettings(objective="regression")
    step = jax.jit(sbert_step(tiny.config, settings, optax.sgd(0.0)))
    state = start(tiny, settings).replace(opt_state=optax.sgd(0.0).init(None))
    batch = packed(settings)
    state, first = step(state, batch, KEY)
    _, second = step(state, batch, KEY)  # the same parameters, as the learning rate is 0
    assert first["loss"] != second["loss"]


def test_the_classifier_is_fresh_and_the_rest_is_dropped(tiny):
    with_pooler = tiny._replace(params={**tiny.params, "pooler": {"dense": {}}})
    params = start(with_pooler, SbertSettings()).params
    assert set(params) == {"encoder", "classifier"}
    kernel, bias = params["classifier"]["kernel"], params["classifier"]["bias"]
    limit = (3 * tiny.config.hidden_size) ** -0.5
    assert kernel.shape == (3 * tiny.config.hidden_size, 3)
    assert bias.shape == (3,)
    assert 0.9 * limit < np.abs(kernel).max() <= limit
    assert abs(float(kernel.std()) - limit / 3**0.5) < 0.1 * limit
    assert set(start(tiny, OBJECTIVES["softmax, no bias"]).params["classifier"]) == {"kernel"}
    assert set(start(tiny, OBJECTIVES["triplet"]).params) == {"encoder"}


def test_the_learning_rate_rises_for_a_tenth_of_the_steps():
    optimizer = make_optimizer(SbertSettings(learning_rate=0.1), 30)
    params = {"b": jnp.ones(2)}
    state = optimizer.init(params)
    rates = []
    for _ in range(30):
        updates, state = optimizer.update({"b": jnp.array([1e-3, -1e-3])}, state, params)
        rates.append(-float(updates["b"][0]))
    expected = [0.1 * k / 3 for k in range(3)] + [0.1 * (30 - k) / 27 for k in range(3, 30)]
    np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-9)
    assert SbertSettings().warmup(359) == 36
    assert SbertSettings().warmup(1) == 0
    assert SbertSettings(warmup_steps=7).warmup(359) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "rank"}, "objective is 'rank'; it must be one of softmax, regression"),
        ({"concatenation": "uvw"}, "concatenation is 'uvw'; it must be one of uv, diff"),
        ({"score": "dot"}, "score is 'dot'; it must be one of cosine, shifted"),
        ({"distance": "dot"}, "distance is 'dot'; it must be one of euclidean"),
        ({"pooling": "pooler"}, "pooling is 'pooler'"),
        ({"margin": -1.0}, "margin is -1.0; it must be at least 0"),
        ({"num_labels": 1}, "num_labels is 1; it must be at least 2"),
        ({"warmup_ratio": 1.0}, "warmup_ratio is 1.0; it must be at least 0 and below 1"),
        ({"learning_rate": 0}, "learning_rate is 0; it must be positive"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        SbertSettings(**changes)


def test_batches_that_do_not_fit(tiny):
    pairs = packed(SbertSettings())

    def run(settings, batch):
        step = sbert_step(tiny.config, settings, SGD)
        jax.eval_shape(step, start(tiny, settings), batch, KEY)

    with pytest.raises(ValueError, match=r"sentences \(8, 2\) must be \[B, 3\]"):
        run(OBJECTIVES["triplet"], pairs)
    with pytest.raises(ValueError, match="no labels for sentences"):
        run(SbertSettings(), pairs._replace(labels=None))
    with pytest.raises(ValueError, match=r"labels \(7,\) for sentences \(8, 2\)"):
        run(SbertSettings(), pairs._replace(labels=pairs.labels[1:]))
    deep = SbertSettings(pooling="layer-9")
    with pytest.raises(ValueError, match="needs layer 9 of 1"):
        start(tiny, deep)
