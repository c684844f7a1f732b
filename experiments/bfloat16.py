"""How far computing in bfloat16 is from float32: gradients, vectors, STS scores.

    python -m experiments.bfloat16

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
import tyro
from tqdm import tqdm

from experiments.bench import machine, publish
from experiments.bench_train import TEMPERATURE, head_weights, training_batches
from experiments.bench_train import Settings as BenchSettings
from simcse_jax import SentenceEncoder, hub
from simcse_jax.cli import run_or_explain
from simcse_jax.compilation_cache import enable_compilation_cache
from simcse_jax.data.senteval import Pairs, read_stsb
from simcse_jax.evaluation.sts import paired_similarity, spearman
from simcse_jax.training import SiameseBatch, TrainSettings, create_state, simcse_step

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Compare bfloat16 with float32."""

    model: str = "minilm"
    """A folder or hub id."""
    data: Path = Path("../shared/data/senteval")
    """SentEval's folder."""
    train_file: Path = Path("../shared/data/wikipedia/wiki1m_head.txt")
    """Sentences; the embedded Wikipedia where there is no such file."""
    batches: int = 3
    """For the gradient."""
    batch_size: int = 64
    """Sentences in each."""
    poolings: tuple[str, ...] = ("mean", "cls")
    """For vectors and scores."""
    output: Path = Path("experiments/results/bfloat16.json")
    """The numbers; the table lies beside it."""


def gradients(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """By compute type, the gradient of each batch."""
    folder = hub.find_model(settings.model)
    config, params = hub.load_params(folder, hub.read_config(folder))
    what = BenchSettings(train_file=settings.train_file, batch_size=settings.batch_size)
    batches = training_batches(what, folder)
    plain = optax.sgd(1.0)  # subtracts the gradient
    found: dict[str, list[dict[str, Any]]] = {}
    for dtype in tqdm(DTYPES, desc="gradients"):
        train = TrainSettings(temperature=TEMPERATURE, dtype=dtype)
        state = create_state(config, train, params, plain, jax.random.key(0))
        state.params["head"]["dense"]["kernel"] = jnp.asarray(head_weights(config.hidden_size))
        step = jax.jit(simcse_step(config, train, plain))
        found[dtype] = []
        for batch in batches.packed_batches(0, settings.batches):
            new, _ = step(state, SiameseBatch(batch.sentences, batch.rows), jax.random.key(1))
            gradient = jax.tree.map(jnp.subtract, state.params, new.params)
            found[dtype].append({**gradient["encoder"], "head": gradient["head"]})
    return found


def relative(a: Any, b: Any) -> float:
    """`‖a − b‖ / ‖b‖` of two trees."""
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, a, b)) / optax.tree.norm(b))


def sts(model: str, pairs: Pairs, pooling: str) -> dict[str, float]:
    """Differences of the vectors, and both scores × 100."""
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


def main(settings: Settings) -> None:
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
    scores = {pooling: sts(settings.model, test, pooling) for pooling in settings.poolings}
    value = {
        "machine": machine(os.cpu_count() or 1),
        "settings": {name: getattr(settings, name) for name in ("model", "batches", "batch_size")},
        "gradient": {"whole": whole, "parts": parts},
        "sts": scores,
    }
    cells = [["gradient, whole", f"{100 * whole:.2f} %"]]
    cells += [[f"gradient, {name}", f"{100 * off:.2f} %"] for name, off in parts.items()]
    for pooling, row in scores.items():
        cells += [
            [f"{pooling}: vectors, median", f"{100 * row['vectors_median']:.2f} %"],
            [f"{pooling}: vectors, largest", f"{100 * row['vectors_largest']:.2f} %"],
            [
                f"{pooling}: STS-B test, float32 and bfloat16",
                f"{row['stsb_float32']:.2f}, {row['stsb_bfloat16']:.2f}",
            ],
        ]
    title = (
        f"bfloat16 against float32: {settings.model}, {settings.batches} batches of "
        f"{settings.batch_size}"
    )
    publish(settings.output, value, title, ("what", "difference"), cells)


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings_))
