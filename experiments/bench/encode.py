"""Encoding speed beside sentence-transformers and ONNX Runtime, from strings to vectors.

    make bench        (or, in an environment with torch: python -m experiments.bench.encode)

all-MiniLM-L6-v2, mean pooling, float32, on the sentences of the STS-B test set (the embedded
Wikipedia's where there is no SentEval folder). Every library gets the same weights, sentences and
number of threads; each runs in a process of its own, and the processes take turns, so that a slow
moment of the machine falls on all of them. Sentence-transformers runs with its defaults, and once
more compiled. Times are medians after a first call that compiles and is reported apart; peak memory
is the process's.

A peer that is not installed is left out with a line that says so.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.bench import encoders
from experiments.bench.turns import (
    OURS,
    TIMINGS,
    BenchTable,
    installed,
    machine,
    publish,
    serve,
    summary,
    take_turns,
    timings,
)
from experiments.bench.workload import benchmark_sentences
from experiments.script import run_script

Library = Literal[
    "simcse_jax", "sentence-transformers", "sentence-transformers.compile", "onnxruntime"
]
NEEDS = {
    "simcse_jax": ("jax",),
    "sentence-transformers": ("sentence_transformers", "torch"),
    "sentence-transformers.compile": ("sentence_transformers", "torch"),
    "onnxruntime": ("onnxruntime", "torch", "onnx"),
}


@dataclasses.dataclass(frozen=True)
class EncodeBenchmark:
    """Time encoding beside other libraries."""

    data: Path = Path("../shared/data/senteval")
    """SentEval's folder; without it the embedded Wikipedia is encoded."""
    rounds: int = 5
    """The libraries take turns so often."""
    threads: int = os.cpu_count() or 1
    """Each library may use so many threads."""
    output: Path = Path("experiments/results/bench_encode.json")
    """The JSON file that gets the numbers; the table is written beside it."""
    worker: Library | None = None
    """Used by the script itself: be the process of this library."""


def worker(settings: EncodeBenchmark) -> None:
    """Load a library, then encode whenever a line comes in on standard input."""
    sentences, _ = benchmark_sentences(settings.data)

    def prepare():
        encode = {
            "simcse_jax": encoders.ours,
            "sentence-transformers": encoders.sentence_transformers,
            "sentence-transformers.compile": compiled_sentence_transformers,
            "onnxruntime": encoders.onnx_runtime,
        }[settings.worker]("float32", settings.threads)
        vectors = np.asarray(encode(sentences))
        return lambda: encode(sentences), {"head": vectors[:50].tolist()}

    serve(prepare)


def compiled_sentence_transformers(dtype: str, threads: int) -> Any:
    """Return sentence-transformers with its encoder through torch.compile, for any shape."""
    encode: Any = encoders.sentence_transformers(dtype, threads)
    bound = getattr(encode, "func", encode)  # on a GPU with a batch size
    bound.__self__[0].auto_model.compile(dynamic=True)
    return encode


def table(value: dict[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""
    title = (
        f"{value['sentences']} sentences ({value['source']}), all-MiniLM-L6-v2, float32, "
        f"{value['rounds']} rounds"
    )
    return BenchTable(title, TIMINGS, timings(value["rows"], digits=2))


def main(settings: EncodeBenchmark) -> None:
    """Let the libraries take turns."""
    sentences, source = benchmark_sentences(settings.data)
    arguments = ["--data", str(settings.data), "--threads", str(settings.threads)]
    answers = take_turns(
        "experiments.bench.encode", installed(NEEDS), arguments, settings.rounds, settings.threads
    )
    head = np.asarray(answers[OURS]["head"])
    rows = summary(answers, len(sentences))
    for library, row in rows.items():
        difference = np.abs(np.asarray(answers[library]["head"]) - head).max()
        row["largest_difference_from_ours"] = float(difference)
    value = {
        "machine": machine(settings.threads, answers),
        "source": source,
        "sentences": len(sentences),
        "rounds": settings.rounds,
        "rows": rows,
    }
    publish(settings.output, value, table(value))


def run(settings: EncodeBenchmark) -> None:
    """Measure, or be one of the processes that are measured."""
    if settings.worker:
        worker(settings)
    else:
        main(settings)


if __name__ == "__main__":
    run_script(run, EncodeBenchmark, __doc__)
