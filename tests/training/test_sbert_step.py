"""Sentence-BERT's update against plain references, packed and a sentence a row."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_support import (
    SEED,
    a_sentence_a_row,
    assert_same,
    init,
    make_examples,
    packed,
    padded,
    update,
)

from simcse_jax.losses.cosine_regression import cosine_regression
from simcse_jax.losses.nli_softmax import nli_softmax, pair_features
from simcse_jax.losses.triplet import triplet_loss
from simcse_jax.models import BertEncoder, one_a_row
from simcse_jax.objectives import Sbert, sentence_keys, stream
from simcse_jax.objectives.sbert import read_classifier
from simcse_jax.training import compile_step, make_mesh, make_step, replicate, start_state

KEY = jax.random.key(SEED)
SIZE = 8
CASES = {
    "softmax": (Sbert(), "mean"),
    "softmax, no bias": (Sbert(use_bias=False, concatenation="diff-mul"), "cls"),
    "regression": (Sbert("regression"), "mean"),
    "triplet": (Sbert("triplet", margin=5.0), "max"),
}
each_case = pytest.mark.parametrize(("objective", "pooling"), CASES.values(), ids=CASES)


def examples_of(objective):
    return make_examples(size=SIZE, columns=3 if objective.kind == "triplet" else 2)


def labels_of(objective):
    random = np.random.default_rng(1)
    classes = random.integers(0, 3, SIZE).astype(np.int32)
    similarities = random.uniform(0, 1, SIZE).astype(np.float32)
    return {"softmax": classes, "regression": similarities}.get(objective.kind)


def reference(tiny, objective, pooling):
    """The equations, each sentence alone in a row with its own masks."""
    examples, labels = examples_of(objective), labels_of(objective)
    columns = len(examples[0])
    ids, mask = padded(examples)
    keys = sentence_keys(stream(KEY, "dropout", 0), jnp.arange(len(ids))[None])
    encoder = BertEncoder(tiny.config)

    def embed(params, ids, mask, key):
        row = one_a_row(ids[None], mask[None])
        output = encoder.apply({"params": params["encoder"]}, row, key[None])[-1][0]
        if pooling == "cls":
            return output[0]
        if pooling == "max":
            highest = jnp.where(mask[:, None], output, -1e9).argmax(0, keepdims=True)
            return jnp.take_along_axis(output, highest, 0)[0]
        return (output * mask[:, None]).sum(0) / mask.sum()

    def loss(params):
        z = jax.vmap(embed, (None, 0, 0, 0))(params, ids, mask, keys)
        vectors = [z[c::columns] for c in range(columns)]
        if objective.kind == "triplet":
            return triplet_loss(*vectors, margin=objective.margin).loss
        if objective.kind == "regression":
            return cosine_regression(*vectors, labels)
        classifier = params["classifier"]
        features = pair_features(*vectors, objective.concatenation)
        return nli_softmax(
            features @ classifier["kernel"] + classifier.get("bias", 0.0), labels
        ).loss

    value, gradient = jax.jit(jax.value_and_grad(loss))(init(tiny, objective, pooling))
    return gradient, {"loss": value, "gradient_norm": optax.tree.norm(gradient)}


@each_case
def test_the_gradient_is_that_of_the_equations_with_dropout(tiny, objective, pooling):
    batch = packed(examples_of(objective), labels=labels_of(objective))
    gradient, metrics = update(tiny, objective, batch, pooling)
    assert ("accuracy" in metrics) == (objective.kind != "regression")
    assert metrics["gradient_norm"] > 1e-3
    metrics.pop("accuracy", None)
    assert_same((gradient, metrics), reference(tiny, objective, pooling), 1e-4)


@each_case
def test_packed_rows_give_the_gradient_of_a_sentence_a_row(tiny, objective, pooling):
    examples, labels = examples_of(objective), labels_of(objective)
    expected = update(tiny, objective, a_sentence_a_row(examples, labels), pooling)
    batch = packed(examples, labels=labels)
    assert len(batch.rows.input_ids) < batch.sentences.size / 2
    assert_same(update(tiny, objective, batch, pooling), expected, 1e-4)


def test_the_masks_differ_by_step(tiny):
    objective, still = Sbert("regression"), optax.sgd(0.0)
    model, mesh = tiny.model("mean"), make_mesh(jax.devices()[:1])
    step = compile_step(make_step(objective.build(model), still), mesh)
    state = replicate(start_state(init(tiny, objective, "mean"), still), mesh)
    batch, key = packed(examples_of(objective), labels=labels_of(objective)), replicate(KEY, mesh)
    state, first = step(state, batch, key)
    _, second = step(state, batch, key)  # the same parameters, as the learning rate is 0
    assert first["loss"] != second["loss"]


def test_the_classifier_is_fresh_and_the_rest_is_dropped(tiny):
    with_pooler = tiny._replace(params={**tiny.params, "pooler": {"dense": {}}})
    params = init(with_pooler, Sbert(), "mean")
    assert set(params) == {"encoder", "classifier"}
    kernel, bias = params["classifier"]["kernel"], params["classifier"]["bias"]
    limit = (3 * tiny.config.hidden_size) ** -0.5
    assert kernel.shape == (3 * tiny.config.hidden_size, 3)
    assert bias.shape == (3,)
    assert 0.9 * limit < np.abs(kernel).max() <= limit
    assert abs(float(kernel.std()) - limit / 3**0.5) < 0.1 * limit
    assert set(init(tiny, *CASES["softmax, no bias"])["classifier"]) == {"kernel"}
    assert set(init(tiny, *CASES["triplet"])) == {"encoder"}
    assert set(Sbert().export(params)) == {"encoder"}


@pytest.mark.parametrize("name", ["softmax", "softmax, no bias"])
def test_the_classifier_is_written_beside_the_model_and_read(tiny, tmp_path, name):
    objective, pooling = CASES[name]
    params = init(tiny, objective, pooling)
    objective.save(tmp_path, params)
    found, classifier = read_classifier(tmp_path)
    assert found == objective
    u, v = np.random.default_rng(0).normal(size=(2, 4, 32)).astype(np.float32)
    expected = objective.classify(params["classifier"], u, v)
    np.testing.assert_array_equal(found.classify(classifier, u, v), expected)


def test_without_a_classifier_nothing_is_written(tiny, tmp_path):
    objective, pooling = CASES["triplet"]
    objective.save(tmp_path, init(tiny, objective, pooling))
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="does not exist; give a model folder of an NLI"):
        read_classifier(tmp_path)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "rank"}, "kind is 'rank'; it must be one of softmax, regression"),
        ({"concatenation": "uvw"}, "concatenation is 'uvw'; it must be one of uv, diff"),
        ({"score": "dot"}, "score is 'dot'; it must be one of cosine, shifted"),
        ({"distance": "dot"}, "distance is 'dot'; it must be one of euclidean"),
        ({"margin": -1.0}, "margin is -1.0; it must be at least 0"),
        ({"num_labels": 1}, "num_labels is 1; it must be at least 2"),
    ],
)
def test_configurations_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        Sbert(**changes)


def test_models_and_batches_that_do_not_fit(tiny):
    triplet, _ = CASES["triplet"]
    with pytest.raises(ValueError, match="pooling is 'pooler'"):
        init(tiny, Sbert(), "pooler")
    with pytest.raises(ValueError, match="needs layer 9 of 1"):
        init(tiny, Sbert(), "layer-9")
    pairs = packed(examples_of(Sbert()), labels=labels_of(Sbert()))
    with pytest.raises(ValueError, match="'triplet' takes 3 sentences an example, the text has 2"):
        update(tiny, triplet, pairs, "mean")
    with pytest.raises(ValueError, match="'softmax' needs a label for each pair"):
        update(tiny, Sbert(), pairs.replace(labels=None), "mean")
