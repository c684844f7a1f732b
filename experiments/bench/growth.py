"""Time and memory of encoding as the number of sentences grows.

    make bench        (or: python -m experiments.bench.growth)

Each size is encoded in a process of its own. The sentences are STS-B's (the embedded Wikipedia's
without SentEval's folder), made distinct by a number in front, since equal ones are computed once.
Time per sentence should not grow; memory should grow by the sentences and their vectors alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.turns import OURS, BenchTable, machine, publish, serve, take_turns
from experiments.bench.workload import benchmark_sentences
from experiments.script import run_script


@dataclasses.dataclass(frozen=True)
class GrowthBenchmark:
    """Encode more and more sentences."""

    data: Path = Path("../shared/data/senteval")
    """SentEval's folder; without it the embedded Wikipedia is encoded."""
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    """So many sentences are encoded, a row for each number."""
    rounds: int = 1
    """Each number is timed so often, and the median counts."""
    threads: int = os.cpu_count() or 1
    """Each process may use so many cores."""
    output: Path = Path("experiments/results/bench_growth.json")
    """The JSON file that gets the numbers; the table is written beside it."""
    worker: str | None = None
    """Used by the script itself: be the process of the one size given."""


def make_sentences(data: Path, count: int) -> list[str]:
    """Return so many distinct sentences, of the same lengths whatever their number."""
    known, _ = benchmark_sentences(data)
    # The same share of long and short ones in every thousand.
    known = [known[i] for i in np.random.default_rng(0).permutation(len(known))]
    return [f"{i:06d} {s}" for i, s in zip(range(count), itertools.cycle(known), strict=False)]


def prepare(settings: GrowthBenchmark):
    """Load, compile with a thousand sentences, and return the encoding of all."""
    from simcse_jax import SentenceEncoder

    encoder = SentenceEncoder.from_pretrained("minilm")
    sentences = make_sentences(settings.data, settings.sizes[0])
    encoder.encode(sentences[:1000], show_progress=False)
    return lambda: encoder.encode(sentences, show_progress=False), {}


def table(value: dict[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""
    rows = [
        [
            f"{row['sentences']:,}",
            f"{row['seconds']:.1f}",
            f"{row['ms_per_sentence']:.2f}",
            f"{row['peak_gib']:.2f}",
            f"{row['vectors_gib']:.2f}",
        ]
        for row in value["rows"]
    ]
    title = "Encoding more and more sentences, all-MiniLM-L6-v2, float32"
    columns = ("sentences", "s", "ms a sentence", "peak GiB", "of that the vectors")
    return BenchTable(title, columns, rows)


def main(settings: GrowthBenchmark) -> None:
    """Encode one size after the other."""
    rows = []
    for size in settings.sizes:
        arguments = ["--data", str(settings.data), "--sizes", str(size)]
        module = "experiments.bench.growth"
        answer = take_turns(module, [OURS], arguments, settings.rounds, settings.threads)[OURS]
        seconds = float(np.median(answer["times"]))
        rows.append(
            {
                "sentences": size,
                "seconds": seconds,
                "ms_per_sentence": 1000 * seconds / size,
                "peak_gib": answer["peak_gib"],
                "vectors_gib": size * 384 * 4 / 2**30,
            }
        )
    value = {"machine": machine(settings.threads), "rounds": settings.rounds, "rows": rows}
    publish(settings.output, value, table(value))


def run(settings: GrowthBenchmark) -> None:
    """Measure, or be one of the processes that are measured."""
    if settings.worker:
        serve(lambda: prepare(settings))
    else:
        main(settings)


if __name__ == "__main__":
    run_script(run, GrowthBenchmark, __doc__)
