"""The time of a step of the flow's fit, on random vectors.

    python -m experiments.bench.flow --output flow.json

By the authors' settings: batches of 64 vectors, AdamW. The first epoch compiles and is timed apart.
No other library fits one, so that nothing stands beside it.
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
from simcse_jax.transforms import Flow


@dataclasses.dataclass(frozen=True)
class FlowBenchmark:
    """Time the flow's fit."""

    vectors: int = 20_000
    """The number of vectors, which an epoch passes once."""
    width: int = 768
    """Their dimensions."""
    rounds: int = 3
    """The number of epochs that are timed once it is compiled; the median counts."""
    output: Path = Path("experiments/results/bench_flow.json")
    """The JSON file that gets the numbers; the table is written beside it."""


def table(value: dict[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""
    how = value["settings"]
    title = f"Fitting the flow to {how['vectors']:,} vectors of {how['width']} dimensions"
    columns = ("steps of an epoch", "an epoch, s", "a step, ms", "the first epoch, compiling, s")
    each = 1000 * value["median_s"] / value["steps"]
    numbers = (str(value["steps"]), f"{value['median_s']:.2f}", f"{each:.2f}")
    return BenchTable(title, columns, [[*numbers, f"{value['first_s']:.2f}"]])


def main(settings: FlowBenchmark) -> None:
    """Fit flows, print the table and write the JSON."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(settings.vectors, settings.width)).astype(np.float32)
    flows: list[Flow] = []

    def fit() -> None:
        flows.append(Flow.fit(vectors, epochs=1, seed=0, progress=False))

    first, *later = seconds_in_turns({"": fit}, 1 + settings.rounds)[""]
    value = {
        "machine": machine(os.cpu_count() or 1),
        "settings": report.settings_record(settings),
        "steps": flows[0].steps,
        "first_s": first,
        "median_s": float(np.median(later)),
    }
    publish(settings.output, value, table(value))


if __name__ == "__main__":
    run_script(main, FlowBenchmark, __doc__)
