"""How far computing in bfloat16 is from float32: gradients, vectors, STS scores.

    python -m experiments.bench.bfloat16

Parameters are float32 in both. Gradients are those of unsupervised SimCSE's step (64 sentences, the
same dropout masks), compared by the length of the difference over the length of float32's, whole
and for each part of the model. Vectors and scores are of STS-B test's sentences.

What to expect: vectors and the whole gradient within 1 %, that of the first layers a little farther
off, scores within 0.05.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from experiments.bench.turns import BenchTable, machine, publish
from experiments.bench.workload import TEMPERATURE, head_weights, training_batches
from experiments.script import run_script
from simcse_jax import SentenceEncoder, hub
from simcse_jax.compilation_cache import enable_compilation_cache
from simcse_jax.data.senteval import Pairs, read_stsb
from simcse_jax.evaluation.sts import paired_similarity, spearman
from simcse_jax.objectives import Model, SimCSE
from simcse_jax.training import compile_step, make_mesh, make_step, replicate, start_state

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Bfloat16Comparison:
    """Compare bfloat16 with float32."""

    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    data: Path = Path("../shared/data/senteval")
    """The folder that holds SentEval's STS/."""
    train_file: Path = Path("../shared/data/wikipedia/wiki1m_head.txt")
    """A file of sentences; where there is none, the embedded Wikipedia is taken."""
    batches: int = 3
    """The gradients of so many batches are compared."""
    batch_size: int = 64
    """So many sentences are in each of them."""
    poolings: tuple[str, ...] = ("mean", "cls")
    """Vectors and scores are compared under each of these poolings."""
    output: Path = Path("experiments/results/bfloat16.json")
    """The JSON file that gets the numbers; the table is written beside it."""


def gradients(settings: Bfloat16Comparison) -> dict[str, list[dict[str, Any]]]:
    """Return by compute type the gradient of each batch."""
    folder = hub.find_model(settings.model)
    config, params = hub.load_params(folder, hub.read_config(folder))
    batches = training_batches(settings.train_file, settings.batch_size, folder=folder)
    mesh = make_mesh(jax.devices()[:1])
    objective = SimCSE(temperature=TEMPERATURE)
    plain = optax.sgd(1.0)  # subtracts the gradient
    found: dict[str, list[dict[str, Any]]] = {}
    for dtype in tqdm(DTYPES, desc="gradients"):
        model = Model(config, params, batches.tokenizer, "cls", dtype)
        started = objective.init(model, jax.random.key(0))
        started["head"]["dense"]["kernel"] = jnp.asarray(head_weights(config.hidden_size))
        step = compile_step(make_step(objective.build(model), plain), mesh)
        key = replicate(jax.random.key(1), mesh)
        found[dtype] = []
        for number in range(settings.batches):
            state = replicate(start_state(started, plain), mesh)
            new, _ = step(state, batches.batch(number), key)
            gradient = jax.tree.map(jnp.subtract, started, new.params)
            found[dtype].append({**gradient["encoder"], "head": gradient["head"]})
    return found


def relative(a: Any, b: Any) -> float:
    """Return `‖a − b‖ / ‖b‖` of two trees."""
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, a, b)) / optax.tree.norm(b))


def sts(model: str, pairs: Pairs, pooling: str) -> dict[str, float]:
    """Return the differences of the vectors, and both scores × 100."""
    vectors, scores = {}, {}
    for dtype in tqdm(DTYPES, desc=pooling):
        encoder = SentenceEncoder.from_pretrained(model, pooling=pooling, dtype=dtype)
        sides = [encoder.encode(s, normalize=True) for s in (pairs.sentences1, pairs.sentences2)]
        vectors[dtype] = np.concatenate(sides)
        scores[dtype] = 100 * spearman(paired_similarity(*sides), pairs.scores)
    off = np.linalg.norm(vectors["bfloat16"] - vectors["float32"], axis=1)  # of unit vectors
    return {
        "vectors_median": float(np.median(off)),
        "vectors_largest": float(off.max()),
        **{f"stsb_{dtype}": float(score) for dtype, score in scores.items()},
    }


def table(value: dict[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""

    def share(off: float) -> str:
        return f"{100 * off:.2f} %"

    how, gradient = value["settings"], value["gradient"]
    rows = [["gradient, whole", share(gradient["whole"])]]
    rows += [[f"gradient, {name}", share(off)] for name, off in gradient["parts"].items()]
    for pooling, row in value["sts"].items():
        scores = f"{row['stsb_float32']:.2f}, {row['stsb_bfloat16']:.2f}"
        rows += [
            [f"{pooling}: vectors, median", share(row["vectors_median"])],
            [f"{pooling}: vectors, largest", share(row["vectors_largest"])],
            [f"{pooling}: STS-B test, float32 and bfloat16", scores],
        ]
    title = (
        f"bfloat16 against float32: {how['model']}, {how['batches']} batches of {how['batch_size']}"
    )
    return BenchTable(title, ("what", "difference"), rows)


def main(settings: Bfloat16Comparison) -> None:
    """Measure, print a table and write it."""
    enable_compilation_cache()
    test = read_stsb(settings.data, "test")  # first: a wrong folder should not cost minutes
    found = gradients(settings)
    pairs = list(zip(found["bfloat16"], found["float32"], strict=True))
    parts = {
        name: float(np.mean([relative(low[name], high[name]) for low, high in pairs]))
        for name in pairs[0][0]
    }
    whole = float(np.mean([relative(*pair) for pair in pairs]))
    value = {
        "machine": machine(os.cpu_count() or 1),
        "settings": {name: getattr(settings, name) for name in ("model", "batches", "batch_size")},
        "gradient": {"whole": whole, "parts": parts},
        "sts": {pooling: sts(settings.model, test, pooling) for pooling in settings.poolings},
    }
    publish(settings.output, value, table(value))


if __name__ == "__main__":
    run_script(main, Bfloat16Comparison, __doc__)
