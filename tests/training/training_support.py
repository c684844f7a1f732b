"""A tiny encoder with dropout, batches made of the step's number alone, and updates with them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from simcse_jax import hub
from simcse_jax.data.batches import Examples, TrainingBatch, group_equal, pack
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.models import BertConfig, one_a_row
from simcse_jax.objectives import (
    ESimCSE,
    MaskedLM,
    Model,
    Sbert,
    SimCSE,
    SimCSEPlusPlus,
    WhitenedCSE,
)
from simcse_jax.training import (
    TrainState,
    compile_step,
    make_mesh,
    make_step,
    replicate,
    start_state,
)

SEED = 3
SGD = optax.sgd(1.0)
ROW_LENGTH = 24

Sentences = list[list[np.ndarray]]
"""The token ids of every sentence of every example."""


class Tiny(NamedTuple):
    config: BertConfig
    params: dict
    tokenizer: Tokenizer

    def model(self, pooling: str = "cls", dtype: Any = jnp.float32) -> Model:
        return Model(self.config, self.params, self.tokenizer, pooling, dtype)


def load_tiny(folder) -> Tiny:
    # One layer: what is tested here does not depend on the depth, and compiles faster.
    loaded = hub.load_params(folder, hub.read_config(folder), num_layers=1)
    return Tiny(*loaded, Tokenizer.from_folder(folder))


class Case(NamedTuple):
    """An objective, and what it is to be trained on."""

    objective: Any
    columns: int
    pooling: str = "cls"
    labels: np.ndarray | None = None
    views: int = 2


_random = np.random.default_rng(0)
# One of every kind; the examples are sixteen, the last a duplicate of the third.
CASES = {
    "unsupervised": Case(SimCSE(), 1),
    "duplicates": Case(SimCSE(mask_duplicates=True, symmetric=True, head="none"), 2, "max"),
    "supervised": Case(SimCSE(head="train_and_test", hard_negative_weight=0.5), 3),
    "ring": Case(SimCSE(mask_duplicates=True, implementation="ring"), 3, "mean"),
    "with masked LM": Case(SimCSE(mlm_weight=0.5), 1),
    "whitened": Case(WhitenedCSE(groups=8), 3),
    "whitened with its gradient": Case(WhitenedCSE(groups=8, whitening_gradient=True), 3, "mean"),
    "plus plus": Case(SimCSEPlusPlus(positive_weight=0.9), 1, views=1),
    "queue": Case(ESimCSE(queue_size=24), 2),
    "softmax": Case(Sbert("softmax"), 2, "mean", _random.integers(0, 3, 16).astype(np.int32)),
    "regression": Case(
        Sbert("regression"), 2, "mean", _random.uniform(0, 1, 16).astype(np.float32)
    ),
    "triplet": Case(Sbert("triplet", margin=5.0), 3, "max"),
    "masked LM": Case(MaskedLM(), 1),
}


def make_examples(step: int = 0, size: int = 16, columns: int = 1, views: int = 2) -> Sentences:
    """Sentences of four to eight tokens; of one column each comes twice, as its two views."""
    random = np.random.default_rng(step)
    examples = []
    for _ in range(size):
        lengths = random.integers(4, 9, columns)
        sentences = [random.integers(5, 64, n, dtype=np.int32) for n in lengths]
        for ids in sentences:
            ids[0] = 2
        examples.append(sentences if columns > 1 else sentences * views)
    return examples


def packed(
    examples: Sentences, shards: int = 1, labels: Any = None, row_length: int = ROW_LENGTH
) -> TrainingBatch:
    """The examples as training has them: dealt to the shards, several to a row."""
    return pack(Examples(np.arange(len(examples)), examples), shards, (row_length,), labels)


def a_sentence_a_row(examples: Sentences, labels: Any = None) -> TrainingBatch:
    """The same examples in their order, each sentence in a row of its own."""
    ids, mask = padded(examples)
    numbers = np.arange(len(ids), dtype=np.int32).reshape(len(examples), -1)
    groups = group_equal([example[0].tobytes() for example in examples])
    return TrainingBatch(one_a_row(ids, mask), numbers, groups, labels)


def padded(examples: Sentences) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, ``[S, L]``, of all sentences in order."""
    flat = [sentence for example in examples for sentence in example]
    mask = np.arange(max(map(len, flat))) < np.array([len(ids) for ids in flat])[:, None]
    rows = np.zeros(mask.shape, np.int32)
    rows[mask] = np.concatenate(flat)
    return rows, mask


def make_batch(step: int = 0, size: int = 16, columns: int = 1, shards: int = 1) -> TrainingBatch:
    return packed(make_examples(step, size, columns), shards)


def make_batches(size: int = 16, columns: int = 1, shards: int = 1):
    def batches(start: int):
        step = start
        while True:
            yield make_batch(step, size, columns, shards)
            step += 1

    return batches


def case_batch(case: Case, shards: int) -> TrainingBatch:
    examples = make_examples(size=16, columns=case.columns, views=case.views)
    examples[-1] = [ids.copy() for ids in examples[2]]
    return packed(examples, shards, case.labels)


def init(tiny: Tiny, objective: Any, pooling: str = "cls") -> dict:
    return objective.init(tiny.model(pooling), jax.random.key(7))


def start(tiny: Tiny, objective: Any, pooling: str = "cls") -> TrainState:
    """The state before plain descent with rate 1."""
    params = init(tiny, objective, pooling)
    return start_state(params, SGD, objective.init_frozen(params))


def update(
    tiny: Tiny,
    objective: Any,
    batch: TrainingBatch,
    pooling: str = "cls",
    *,
    chunks: int = 1,
    devices: Any = None,
    parallel: Any = "shard_map",
    dtype: Any = jnp.float32,
    seed: int = SEED,
) -> tuple[dict, dict]:
    """What plain descent with rate 1 subtracts, and the metrics; on one device or these."""
    mesh = make_mesh(devices or jax.devices()[:1])
    model = tiny.model(pooling, dtype)
    step = make_step(objective.build(model), SGD, chunks)
    state = start(tiny, objective, pooling)
    run = compile_step(step, mesh, parallel)
    new, metrics = run(replicate(state, mesh), batch, replicate(jax.random.key(seed), mesh))
    assert int(new.step) == 1
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves((new, metrics)))
    gradient = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), state.params, new.params)
    return gradient, jax.device_get(metrics)


def worst(a, b):
    """The largest difference of two trees."""
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


def assert_same(found, expected, rtol=1e-5):
    """The same gradient to a millionth of its norm, and the same metrics."""
    (gradient, metrics), (wanted, wanted_metrics) = found, expected
    norm = float(wanted_metrics["gradient_norm"])
    assert jax.tree.structure(gradient) == jax.tree.structure(wanted)
    assert worst(gradient, wanted) <= 1e-6 * norm
    assert metrics.keys() == wanted_metrics.keys()
    for name, value in wanted_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=rtol, err_msg=name)


def start_worker(*arguments: Any, devices: int) -> subprocess.Popen:
    """Start `training_worker` with this checkout's library and so many devices."""
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": str(here.parents[1]),
        "XLA_FLAGS": (
            f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        ),
    }
    return subprocess.Popen(
        [sys.executable, "training_worker.py", *map(str, arguments)],
        env=environment,
        cwd=here,
        stderr=subprocess.PIPE,
        text=True,
    )
