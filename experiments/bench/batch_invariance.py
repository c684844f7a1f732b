"""How far a sentence's vector depends on its company: order, batch size, neighbours.

    python -m experiments.bench.batch_invariance

STS-B test's first sentences (the embedded Wikipedia's without SentEval's folder) are encoded in one
call, and again in other company. Sentences share packed rows, where attention is confined to each,
so that nothing but the order of the sums can differ: rounding, in float32 and bfloat16; in int8 a
rounding that falls on the other side moves a token's number by one of its 127 steps.

What to expect: the same call twice has the same bits; otherwise differences of the compute type's
rounding.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.bench.turns import BenchTable, machine, publish
from experiments.bench.workload import benchmark_sentences
from experiments.script import run_script
from simcse_jax import SentenceEncoder
from simcse_jax.encoder import DTYPES


@dataclasses.dataclass(frozen=True)
class BatchInvariance:
    """Encode the same sentences in other company."""

    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    data: Path = Path("../shared/data/senteval")
    """SentEval's folder; without it the embedded Wikipedia is encoded."""
    sentences: int = 300
    """So many sentences are compared."""
    output: Path = Path("experiments/results/batch_invariance.json")
    """The JSON file that gets the numbers; the table is written beside it."""


def companies(encoder: SentenceEncoder, sentences: list[str]) -> dict[str, np.ndarray]:
    """Return the sentences' vectors by the company they were encoded in."""
    order = np.random.default_rng(0).permutation(len(sentences))
    shuffled = np.empty((len(sentences), encoder.dimension), np.float32)
    shuffled[order] = encoder.encode([sentences[i] for i in order])
    long = [" ".join(sentences[i : i + 20]) for i in range(0, len(sentences), 4)]
    beside = encoder.encode([*long, *sentences], max_length=encoder.max_length)
    return {
        "the same call again": encoder.encode(sentences),
        "shuffled": shuffled,
        "batches of 8": encoder.encode(sentences, batch_size=8),
        "batches of 1,024": encoder.encode(sentences, batch_size=1024),
        "beside long texts": beside[len(long) :],
        "each alone": np.concatenate([encoder.encode([s]) for s in sentences]),
    }


def compared(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Return how far vectors are off, by the length of the difference over the vector's."""
    off = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return {
        "largest": float(off.max()),
        "median": float(np.median(off)),
        "same_bits": float((found == expected).all(axis=1).mean()),
    }


def table(value: dict[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""
    rows = [
        [
            *(row["dtype"], row["company"], f"{row['largest']:.1e}", f"{row['median']:.1e}"),
            f"{100 * row['same_bits']:.0f} %",
        ]
        for row in value["rows"]
    ]
    columns = ("compute type", "company", "largest difference", "median", "the same bits")
    title = f"{value['sentences']} sentences ({value['source']}) by {value['model']}"
    return BenchTable(f"{title}, relative to one call", columns, rows)


def main(settings: BatchInvariance) -> None:
    """Measure, print a table and write it."""
    sentences, source = benchmark_sentences(settings.data)
    sentences = list(dict.fromkeys(sentences))[: settings.sentences]
    rows = []
    for dtype in tqdm(DTYPES):
        encoder = SentenceEncoder.from_pretrained(settings.model, pooling="mean", dtype=dtype)
        expected = encoder.encode(sentences)
        for company, found in companies(encoder, sentences).items():
            rows.append({"dtype": dtype, "company": company, **compared(found, expected)})
    value = {
        "machine": machine(os.cpu_count() or 1),
        "model": settings.model,
        "source": source,
        "sentences": len(sentences),
        "rows": rows,
    }
    publish(settings.output, value, table(value))


if __name__ == "__main__":
    run_script(main, BatchInvariance, __doc__)
