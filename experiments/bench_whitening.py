"""Cost of fitting a whitening, beside numpy's `cov` + `svd` (the authors' code).

    python -m experiments.bench_whitening --output-dir experiments/results

Writes `bench_whitening.json`: the fastest of `repeats` runs for every shape, in seconds. To expect:
never slower than numpy. The covariance costs the same product; the symmetric eigenproblem costs
less than the svd of the same matrix, and the streaming pass needs one block of rows in float64
where numpy copies all of them.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from simcse_jax.io import write_json
from simcse_jax.transforms import Whitening


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured, and where the result goes."""

    output_dir: Path = Path("experiments/results")
    rows: tuple[int, ...] = (3000, 30000, 100000)
    dims: tuple[int, ...] = (384, 768)
    repeats: int = 5
    seed: int = 0


def numpy_fit(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit as the authors do: `np.cov`, `np.linalg.svd`, `U diag(1 / sqrt(s))`."""
    mean = x.mean(axis=0, keepdims=True)
    u, s, _ = np.linalg.svd(np.cov(x.T))
    return u @ np.diag(1 / np.sqrt(s)), -mean


def fastest(runs: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return each one's shortest of `repeats` times, in seconds; they take turns."""
    times = [[] for _ in runs]
    for _ in range(repeats):
        for run, own in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            own.append(time.perf_counter() - start)
    return [min(own) for own in times]


def main(settings: Settings) -> None:
    """Time both for every shape, print a table and write the JSON."""
    rng = np.random.default_rng(settings.seed)
    results = []
    for dim in settings.dims:
        for rows in settings.rows:
            x = rng.normal(size=(rows, dim)).astype(np.float32)
            x *= np.geomspace(1, 0.05, dim, dtype=np.float32)
            ours, theirs = fastest(
                [lambda x=x: Whitening.fit(x), lambda x=x: numpy_fit(x)], settings.repeats
            )
            results.append({"rows": rows, "dim": dim, "ours_s": ours, "numpy_s": theirs})

    table = Table("rows", "dim", "Whitening.fit (s)", "numpy (s)", "numpy / ours")
    for r in results:
        ratio = r["numpy_s"] / r["ours_s"]
        table.add_row(
            f"{r['rows']:,}", str(r["dim"]), f"{r['ours_s']:.3f}", f"{r['numpy_s']:.3f}",
            f"{ratio:.2f}",
        )  # fmt: skip
    Console().print(table)

    record = {
        "settings": {**dataclasses.asdict(settings), "output_dir": str(settings.output_dir)},
        "machine": {"cpus": os.cpu_count(), "arch": platform.machine(), "numpy": np.__version__},
        "results": results,
    }
    write_json(settings.output_dir / "bench_whitening.json", record)


if __name__ == "__main__":
    main(tyro.cli(Settings))
