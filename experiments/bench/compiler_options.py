"""Which of XLA's options encode fastest on a CPU, by compute type, with the jax that is installed.

    python -m experiments.bench.compiler_options        (once with each jax that is supported)

The library gives none, since these tables have none that is faster. STS-B test's sentences (the
embedded Wikipedia's without SentEval's folder) by all-MiniLM-L6-v2, mean pooling, from strings to
vectors; each choice in a process of its own, and the processes take turns.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.bench.turns import BenchTable, machine, publish, serve, take_turns
from experiments.bench.workload import benchmark_sentences
from experiments.script import run_script
from simcse_jax.encoder import DTYPES

FUSION = "xla_cpu_experimental_ynn_fusion_type"
CHOICES: dict[str, dict[str, str]] = {
    "XLA's own": {},
    "YNNPACK for reductions alone": {FUSION: "LIBRARY_FUSION_TYPE_REDUCE"},
    "without YNNPACK's fusions": {FUSION: "LIBRARY_FUSION_TYPE_INVALID"},
}


@dataclasses.dataclass(frozen=True)
class OptionsBenchmark:
    """Time encoding with XLA's options."""

    data: Path = Path("../shared/data/senteval")
    """SentEval's folder; without it the embedded Wikipedia is encoded."""
    rounds: int = 5
    """The choices take turns so often."""
    threads: int = os.cpu_count() or 1
    """Each process may use so many cores."""
    output: Path = Path(f"experiments/results/compiler_options_jax_{jax.__version__}.json")
    """The JSON file that gets the numbers; the table is written beside it."""
    worker: str | None = None
    """Used by the script itself: be the process of this compute type and choice."""


def name_of(dtype: str, choice: str) -> str:
    """Return a process's name."""
    return f"{dtype}, {choice}"


def prepare(settings: OptionsBenchmark):
    """Load, compile, and return the encoding of all sentences."""
    from simcse_jax import SentenceEncoder, encoder

    dtype, _, choice = str(settings.worker).partition(", ")
    static = ("model", "num_sentences")
    encoder._embed_jit = jax.jit(
        encoder.embed, static_argnames=static, compiler_options=CHOICES[choice]
    )
    sentences, _ = benchmark_sentences(settings.data)
    model = SentenceEncoder.from_pretrained("minilm", dtype=dtype)

    def work() -> np.ndarray:
        return model.encode(sentences, show_progress=False)

    return work, {"head": work()[:50].tolist()}


def rows_of(answers: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the medians, each beside the fastest of its compute type."""
    rows = []
    medians = {name: float(np.median(answer["times"])) for name, answer in answers.items()}
    for name, answer in answers.items():
        dtype, _, choice = name.partition(", ")
        fastest = min(s for other, s in medians.items() if other.startswith(f"{dtype}, "))
        rows.append(
            {
                "dtype": dtype,
                "choice": choice,
                "options": CHOICES[choice],
                "median_s": medians[name],
                "min_s": min(answer["times"]),
                "max_s": max(answer["times"]),
                "ratio_to_fastest": medians[name] / fastest,
                "first_s": answer["first"],
            }
        )
    return rows


def table(value: dict[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""
    columns = (
        *("compute type", "options", "median s", "range s", "time against the fastest"),
        "load, compile and first pass, s",
    )
    rows = [
        [
            *(row["dtype"], row["choice"], f"{row['median_s']:.2f}"),
            f"{row['min_s']:.2f} to {row['max_s']:.2f}",
            f"{row['ratio_to_fastest']:.2f} ×",
            f"{row['first_s']:.1f}",
        ]
        for row in value["rows"]
    ]
    title = f"XLA's options: {value['sentences']:,} sentences ({value['text']}), all-MiniLM-L6-v2"
    return BenchTable(f"{title}, {value['rounds']} rounds", columns, rows)


def main(settings: OptionsBenchmark) -> None:
    """Measure, print a table and write it."""
    sentences, text = benchmark_sentences(settings.data)
    workers = [name_of(dtype, choice) for dtype in DTYPES for choice in CHOICES]
    answers = take_turns(
        "experiments.bench.compiler_options",
        workers,
        ["--data", str(settings.data)],
        settings.rounds,
        settings.threads,
    )
    value = {
        "machine": machine(settings.threads, answers),
        "sentences": len(sentences),
        "text": text,
        "rounds": settings.rounds,
        "rows": rows_of(answers),
    }
    publish(settings.output, value, table(value))


def run(settings: OptionsBenchmark) -> None:
    """Measure, or be one of the processes that are measured."""
    if settings.worker is not None:
        serve(lambda: prepare(settings))
    else:
        main(settings)


if __name__ == "__main__":
    run_script(run, OptionsBenchmark, __doc__)
