"""Twenty steps of every way to train, as they were before the house was rebuilt.

``tests/golden/training.json`` holds the losses and gradient norms of commit f1efc0f, whose steps
knew neither shards nor the axis of devices. What they depend on has not changed: the order of the
text, the initial draws, the dropout masks, the equations. How a batch is packed may move the last
bits; Adam blows these up where a gradient is next to nothing, plain descent does not.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simcse_jax import hub
from simcse_jax.data.batches import TrainingBatches
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.data.training_text import TrainingText
from simcse_jax.objectives import Model, Sbert, SimCSE
from simcse_jax.training import (
    OptimizerConfig,
    compile_step,
    make_mesh,
    make_optimizer,
    make_step,
    replicate,
    start_state,
)

# name: columns of the text, labels, pooling, chunks, objective
RUNS = {
    "unsup_simcse": (1, None, "cls", 1, SimCSE()),
    "unsup_simcse_mask_duplicates": (1, None, "cls", 1, SimCSE(mask_duplicates=True)),
    "sup_simcse": (
        *(3, None, "cls", 1),
        SimCSE(head="train_and_test", hard_negative_weight=0.5),
    ),
    "sup_simcse_mean": (3, None, "mean", 1, SimCSE(head="none")),
    "cached_simcse": (3, None, "cls", 4, SimCSE(head="train_and_test")),
    "simcse_mlm": (3, None, "cls", 1, SimCSE(head="train_and_test", mlm_weight=0.1)),
    "two_encoders": (2, None, "cls", 1, SimCSE(two_encoders=True)),
    "sbert_softmax": (2, "labels", "mean", 1, Sbert("softmax")),
    "sbert_regression": (2, "scores", "mean", 1, Sbert("regression")),
    "sbert_triplet": (3, None, "mean", 1, Sbert("triplet")),
}


@pytest.fixture(autouse=True)
def one_shape(monkeypatch):
    """Empty rows, so that all batches have one shape and a run compiles once."""
    monkeypatch.setattr("simcse_jax.data.batches.packed_count", lambda rows: 48)


@pytest.fixture(scope="module")
def recorded(golden):
    return json.loads((golden / "training.json").read_text())


def train(golden, recorded, name, optimizer, devices=1, parallel="shard_map", chunks=None):
    """The metrics of every step, and the norms of the parameters after the last."""
    columns, labels, pooling, own_chunks, objective = RUNS[name]
    chunks = chunks or own_chunks
    folder = golden / "tiny-bert"
    config, params = hub.load_params(folder, hub.read_config(folder), recorded["num_layers"])
    model = Model(config, params, Tokenizer.from_folder(folder), pooling, jnp.float32)
    rows = recorded["rows"]
    text = TrainingText(tuple(tuple(row[c] for row in rows) for c in range(columns)))
    batches = TrainingBatches(
        text,
        model.tokenizer,
        recorded["batch_size"],
        max_length=recorded["max_length"],
        seed=recorded["seed"],
        views=objective.views,
        shards=devices * chunks,
        labels=None if labels is None else recorded[labels],
        prefetch=0,
    )
    key = jax.random.key(recorded["seed"])
    state = start_state(objective.init(model, jax.random.fold_in(key, 0)), optimizer)
    mesh = make_mesh(jax.devices()[:devices])
    step = compile_step(make_step(objective.build(model), optimizer, chunks), mesh, parallel)
    state, key = replicate(state, mesh), replicate(key, mesh)
    metrics = []
    for batch in batches.batches(0, recorded["steps"]):
        state, measured = step(state, batch, key)
        metrics.append(jax.device_get(measured))
    norms = {part: float(optax.tree.norm(state.params[part])) for part in state.params}
    return metrics, norms


def assert_as_recorded(metrics, norms, expected, rtol):
    """Losses to ``rtol``; what is summed over many float32 numbers to some more."""
    for name in expected.keys() - {"parameter_norms"}:
        found = [m[name] for m in metrics]
        own, atol = (rtol, 0) if name.endswith("loss") else (5 * rtol, rtol)
        np.testing.assert_allclose(found, expected[name], rtol=own, atol=atol, err_msg=name)
    assert norms.keys() == expected["parameter_norms"].keys()
    for part, norm in norms.items():
        np.testing.assert_allclose(norm, expected["parameter_norms"][part], rtol=rtol)


@pytest.mark.parametrize("name", RUNS)
def test_gradient_descent_is_as_recorded(golden, recorded, name):
    optimizer = optax.sgd(recorded["sgd_learning_rate"])
    found = train(golden, recorded, name, optimizer)
    assert_as_recorded(*found, recorded["runs"][f"{name} sgd"], rtol=1e-6)


@pytest.mark.parametrize(("name", "warmup"), [("unsup_simcse", 0.0), ("sbert_regression", 0.1)])
def test_adam_is_as_recorded(golden, recorded, name, warmup):
    config = OptimizerConfig(learning_rate=recorded["adam_learning_rate"], warmup_ratio=warmup)
    found = train(golden, recorded, name, make_optimizer(config, recorded["steps"]))
    assert_as_recorded(*found, recorded["runs"][f"{name} adam"], rtol=1e-5)
