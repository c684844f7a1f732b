"""Time and memory of encoding as the number of sentences grows.

    make bench        (or: python -m experiments.bench_growth)

Each size is encoded in a process of its own. The sentences are STS-B's (the embedded Wikipedia's
without SentEval's folder), made distinct by a number in front, since equal ones are computed once.
Time per sentence should not grow; memory should grow by the sentences and their vectors alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path

import numpy as np
import tyro

from experiments.bench import OURS, machine, publish, serve, take_turns


@dataclasses.dataclass(frozen=True)
class Settings:
    """Encode more and more sentences."""

    data: Path = Path("../shared/data/senteval")
    """SentEval's folder."""
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Numbers of sentences."""
    rounds: int = 1
    """How often each is timed; its median counts."""
    threads: int = os.cpu_count() or 1
    """Cores."""
    output: Path = Path("experiments/results/bench_growth.json")
    """The numbers; the table lies beside it."""
    worker: str | None = None
    """For the script itself: be the process of one size."""


def make_sentences(data: Path, count: int) -> list[str]:
    """So many distinct sentences, of the same lengths whatever their number."""
    if data.is_dir():
        from simcse_jax.data.senteval import read_stsb

        pairs = read_stsb(data, "test")
        known = [*pairs.sentences1, *pairs.sentences2]
    else:
        from simcse_jax.data.wikipedia import embedded_wikipedia, sentences

        known = sentences(embedded_wikipedia())[:3000]
    # The same share of long and short ones in every thousand.
    known = [known[i] for i in np.random.default_rng(0).permutation(len(known))]
    return [f"{i:06d} {s}" for i, s in zip(range(count), itertools.cycle(known), strict=False)]


def main(settings: Settings) -> None:
    """One size after the other."""
    rows = []
    for size in settings.sizes:
        arguments = ["--data", str(settings.data), "--sizes", str(size)]
        module = "experiments.bench_growth"
        report = take_turns(module, [OURS], arguments, settings.rounds, settings.threads)[OURS]
        seconds = float(np.median(report["times"]))
        rows.append(
            {
                "sentences": size,
                "seconds": seconds,
                "ms_per_sentence": 1000 * seconds / size,
                "peak_gib": report["peak_gib"],
                "vectors_gib": size * 384 * 4 / 2**30,
            }
        )
    value = {"machine": machine(settings.threads), "rounds": settings.rounds, "rows": rows}
    columns = ("sentences", "s", "ms a sentence", "peak GiB", "of that the vectors")
    cells = [
        [
            f"{row['sentences']:,}",
            f"{row['seconds']:.1f}",
            f"{row['ms_per_sentence']:.2f}",
            f"{row['peak_gib']:.2f}",
            f"{row['vectors_gib']:.2f}",
        ]
        for row in rows
    ]
    title = "Encoding more and more sentences, all-MiniLM-L6-v2, float32"
    publish(settings.output, value, title, columns, cells)


def prepare(settings: Settings):
    """Load and compile with a thousand sentences, then encode all."""
    from simcse_jax import SentenceEncoder

    encoder = SentenceEncoder.from_pretrained("minilm")
    sentences = make_sentences(settings.data, settings.sizes[0])
    encoder.encode(sentences[:1000], show_progress=False)
    return lambda: encoder.encode(sentences, show_progress=False), {}


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    if settings_.worker is None:
        main(settings_)
    else:
        serve(lambda: prepare(settings_))
