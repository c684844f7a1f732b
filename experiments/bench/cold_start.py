"""From the start of a process to the first embedding, beside sentence-transformers.

    make bench        (or, in an environment with torch: python -m experiments.bench.cold_start)

A new process imports the library, loads all-MiniLM-L6-v2 and encodes one sentence. The first
round, in which ours compiles and writes its cache, is reported apart; what counts is how long it
takes from then on, which is what a user waits for who starts a script for the second time.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.bench.turns import OURS, BenchTable, installed, machine, on_cores, publish
from experiments.script import run_script
from simcse_jax.data.embedded import minilm_folder

NEEDS = {OURS: ("jax",), "sentence-transformers": ("torch", "sentence_transformers")}
SENTENCE = "A man is playing a flute."
PROGRAMS = {
    OURS: """
from simcse_jax import SentenceEncoder
imported = time.perf_counter()
encoder = SentenceEncoder.from_pretrained(folder)
loaded = time.perf_counter()
encoder.encode([sentence])
""",
    "sentence-transformers": """
from sentence_transformers import SentenceTransformer
imported = time.perf_counter()
encoder = SentenceTransformer(folder, device="cpu")
loaded = time.perf_counter()
encoder.encode([sentence])
""",
}


@dataclasses.dataclass(frozen=True)
class ColdStartBenchmark:
    """Time the first embedding of a new process."""

    rounds: int = 5
    """The libraries take turns so often after the first round."""
    threads: int = os.cpu_count() or 1
    """Each library may use so many cores."""
    output: Path = Path("experiments/results/bench_cold_start.json")
    """The JSON file that gets the numbers; the table is written beside it."""


def run(library: str, cache: str, threads: int) -> dict[str, float]:
    """Run one process, and return its seconds from start to end and the parts it tells of."""
    program = f"""
import time
begin = time.perf_counter()
folder, sentence = {str(minilm_folder())!r}, {SENTENCE!r}
{PROGRAMS[library]}
end = time.perf_counter()
print(imported - begin, loaded - imported, end - loaded)
"""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "HF_HUB_OFFLINE": "1",
    }
    begin = time.perf_counter()
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout
    total = time.perf_counter() - begin
    parts = map(float, out.split()[-3:])
    return dict(zip(("import", "load", "encode"), parts, strict=True)) | {"total": total}


def table(value: dict[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""
    mine = value["rows"][OURS]["median_s"]["total"]
    columns = (
        *("library", "first run, s", "later runs, s", "time against ours"),
        *("of that import", "load", "encode"),
    )
    rows = [
        [
            library,
            f"{row['first_run_s']:.2f}",
            f"{row['median_s']['total']:.2f}",
            f"{row['median_s']['total'] / mine:.2f} ×",
            *(f"{row['median_s'][name]:.2f}" for name in ("import", "load", "encode")),
        ]
        for library, row in value["rows"].items()
    ]
    title = f"From a process' start to its first embedding, median of {value['rounds']}"
    return BenchTable(title, columns, rows)


def main(settings: ColdStartBenchmark) -> None:
    """Let the libraries take turns."""
    libraries = installed(NEEDS)
    runs: dict[str, list[dict[str, float]]] = {library: [] for library in libraries}
    with tempfile.TemporaryDirectory() as cache, on_cores(settings.threads):
        turns = [(r, library) for r in range(settings.rounds + 1) for library in libraries]
        for _, library in tqdm(turns, desc="start", unit=" process"):
            runs[library].append(run(library, cache, settings.threads))
    rows = {}
    for library, (first, *later) in runs.items():
        parts = {name: float(np.median([r[name] for r in later])) for name in first}
        rows[library] = {
            "first_run_s": first["total"],
            "median_s": parts,
            "runs": [first, *later],
        }
    value = {"machine": machine(settings.threads), "rounds": settings.rounds, "rows": rows}
    publish(settings.output, value, table(value))


if __name__ == "__main__":
    run_script(main, ColdStartBenchmark, __doc__)
