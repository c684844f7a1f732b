"""A step of masked language modelling: every token scored, or the masked ones alone.

    python -m experiments.bench.masked_lm --train-file wiki1m_head.txt

Answers: what does it save to score a vocabulary of 30,522 words for the 15 % of the tokens whose
loss is asked for? Both steps are compiled in one process and take turns; their first losses are
compared. "Temporaries" is what XLA plans beside parameters, optimiser state and batch.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from experiments import report
from experiments.bench.turns import BenchTable, machine, publish, seconds_in_turns
from experiments.bench.workload import training_batches
from experiments.script import run_script
from simcse_jax import hub
from simcse_jax.losses.masked_lm import IGNORED, masked_lm_loss, masked_lm_sum
from simcse_jax.memory import keep_freed_memory
from simcse_jax.objectives import MaskedLM, Model, masked_lm
from simcse_jax.training import (
    OptimizerConfig,
    make_mesh,
    make_optimizer,
    make_step,
    replicate,
    start_state,
)
from simcse_jax.training.devices import map_step, shard_batch

MASKED, ALL = "masked tokens", "all tokens"


@dataclasses.dataclass(frozen=True)
class MaskedLMBenchmark:
    """Time a step of masked language modelling both ways."""

    train_file: Path = Path("../shared/data/wikipedia/wiki1m_head.txt")
    """A file of sentences; where there is none, the embedded Wikipedia is taken."""
    batch_size: int = 128
    """So many sentences are in a batch."""
    max_length: int = 32
    """Sentences are cut to so many tokens."""
    dtype: str = "float32"
    """The type that is computed in."""
    rounds: int = 10
    """The steps take turns so often."""
    output: Path = Path("experiments/results/bench_masked_lm.json")
    """The JSON file that gets the numbers; the table is written beside it."""


def of_all_tokens(score: Any, params: Any, states: jax.Array, labels: jax.Array) -> jax.Array:
    """Return what `masked_lm_sum` returns, from the scores of every token."""
    count = jnp.sum(labels != IGNORED)
    return masked_lm_loss(score(params, states)[None], labels[None]) * count


def prepare(model: Model, batch: Any, sum_of: Callable[..., Any]) -> tuple[Any, dict[str, Any]]:
    """Compile a step; return what takes it once, and what is known of it.

    Args:
        model: that is trained.
        batch: the same at every step.
        sum_of: takes the place of `masked_lm_sum`.
    """
    mesh, optimizer = make_mesh(jax.devices()[:1]), make_optimizer(OptimizerConfig(), 10**6)
    params = MaskedLM().init(model, jax.random.key(0))
    state = replicate(start_state(params, optimizer), mesh)
    key, batch = replicate(jax.random.key(0), mesh), shard_batch(batch, mesh)
    mapped = map_step(make_step(MaskedLM().build(model), optimizer), mesh)
    with mock.patch.object(masked_lm, "masked_lm_sum", sum_of):
        compiled = jax.jit(mapped, donate_argnums=0).lower(state, batch, key).compile()

    def work() -> float:
        nonlocal state
        state, metrics = compiled(state, batch, key)
        return float(metrics["loss"])  # waits for the device

    temporaries = compiled.memory_analysis().temp_size_in_bytes
    return work, {"temporaries_bytes": temporaries, "first_loss": work()}


def table(value: dict[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""
    how, ours = value["settings"], value["rows"][MASKED]["seconds"]
    title = (
        f"A step of masked language modelling: minilm, batch {how['batch_size']}, length "
        f"{how['max_length']}, {how['dtype']}, {how['rounds']} rounds"
    )
    rows = [
        [
            name,
            f"{row['seconds']:.3f}",
            f"{min(row['times']):.3f} to {max(row['times']):.3f}",
            f"{row['seconds'] / ours:.2f} ×",
            f"{row['temporaries_bytes'] / 1e9:.2f}",
            f"{row['first_loss']:.6f}",
        ]
        for name, row in value["rows"].items()
    ]
    columns = ("scored", "median s", "range s", "time against ours", "temp. GB", "first loss")
    return BenchTable(title, columns, rows)


def main(settings: MaskedLMBenchmark) -> None:
    """Run both in turns, print the table and write the JSON."""
    keep_freed_memory()  # as simcse_jax.train does, before JAX is used
    batches = training_batches(
        settings.train_file, settings.batch_size, max_length=settings.max_length, views=1
    )
    folder = hub.find_model("minilm")
    model = Model(
        *hub.load_params(folder, hub.read_config(folder)), batches.tokenizer, "cls", settings.dtype
    )
    works, rows = {}, {}
    for name, sum_of in ((MASKED, masked_lm_sum), (ALL, of_all_tokens)):
        works[name], rows[name] = prepare(model, batches.batch(0), sum_of)
    for name, times in seconds_in_turns(works, settings.rounds).items():
        rows[name] |= {"seconds": statistics.median(times), "times": times}
    value = {
        "machine": machine(os.cpu_count() or 1),
        "settings": report.settings_record(settings),
        "rows": rows,
    }
    publish(settings.output, value, table(value))


if __name__ == "__main__":
    run_script(main, MaskedLMBenchmark, __doc__)
