"""Cost of fitting a whitening, beside numpy's `cov` + `svd` (the authors' code).

    python -m experiments.bench.whitening

For every shape both take turns, and the fastest run of each counts. To expect: never slower than
numpy. The covariance costs the same product; the symmetric eigenproblem costs less than the svd of
the same matrix, and the streaming pass needs one block of rows in float64 where numpy copies all of
them.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from experiments import report
from experiments.bench.turns import BenchTable, machine, publish, seconds_in_turns
from experiments.script import run_script
from simcse_jax.transforms import Whitening


@dataclasses.dataclass(frozen=True)
class WhiteningBenchmark:
    """Time the fit of a whitening beside numpy."""

    rows: tuple[int, ...] = (3000, 30000, 100000)
    """Numbers of embeddings, each with every dimension."""
    dims: tuple[int, ...] = (384, 768)
    """Dimensions of the embeddings."""
    repeats: int = 5
    """Each fit is timed so often, and the fastest counts."""
    seed: int = 0
    """The seed of the random embeddings."""
    output: Path = Path("experiments/results/bench_whitening.json")
    """The JSON file that gets the numbers; the table is written beside it."""


def numpy_fit(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit as the authors do: `np.cov`, `np.linalg.svd`, `U diag(1 / sqrt(s))`."""
    mean = x.mean(axis=0, keepdims=True)
    u, s, _ = np.linalg.svd(np.cov(x.T))
    return u @ np.diag(1 / np.sqrt(s)), -mean


def measure(settings: WhiteningBenchmark, rows: int, dim: int) -> dict[str, Any]:
    """Return the fastest fit of each at one shape, in seconds."""
    x = np.random.default_rng(settings.seed).normal(size=(rows, dim)).astype(np.float32)
    x *= np.geomspace(1, 0.05, dim, dtype=np.float32)
    times = seconds_in_turns(
        {"ours_s": lambda: Whitening.fit(x), "numpy_s": lambda: numpy_fit(x)}, settings.repeats
    )
    return {"rows": rows, "dim": dim, **{name: min(own) for name, own in times.items()}}


def table(value: dict[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""
    rows = [
        [
            f"{row['rows']:,}",
            str(row["dim"]),
            f"{row['ours_s']:.3f}",
            f"{row['numpy_s']:.3f}",
            f"{row['numpy_s'] / row['ours_s']:.2f} ×",
        ]
        for row in value["results"]
    ]
    title = f"Fitting a whitening, fastest of {value['settings']['repeats']}"
    return BenchTable(title, ("rows", "dim", "Whitening.fit, s", "numpy, s", "numpy / ours"), rows)


def main(settings: WhiteningBenchmark) -> None:
    """Time both for every shape."""
    results = [measure(settings, rows, dim) for dim in settings.dims for rows in settings.rows]
    value = {
        "machine": machine(os.cpu_count() or 1),
        "settings": report.settings_record(settings),
        "results": results,
    }
    publish(settings.output, value, table(value))


if __name__ == "__main__":
    run_script(main, WhiteningBenchmark, __doc__)
