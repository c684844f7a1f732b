"""What a run leaves of its scores: in ``results.json``, ``summary.json``, cards, closing table."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console
from rich.table import Table

from simcse_jax import hub, io
from simcse_jax.checks import listed
from simcse_jax.config import Config
from simcse_jax.encoder import SentenceEncoder
from simcse_jax.evaluation.scores import Column, Scores
from simcse_jax.machine import hardware
from simcse_jax.run_card import outcome
from simcse_jax.training import FitResult
from simcse_jax.training.run_folder import MODELS, RESULTS, SUMMARY, store_results

console = Console(width=110)


def say(text: str) -> None:
    """Print for people, from the first process."""
    if jax.process_index() == 0:
        # As it stands: brackets in a folder's name are no markup, and a path is never broken.
        console.print(text, markup=False, highlight=False, soft_wrap=True)


class StartScores(NamedTuple):
    """The scores of the model that training starts from.

    Attributes:
        dev: those that are measured on the way too.
        test: those of the end; None where they were not asked for.
        metric: which of ``dev`` chooses the best model; None where nothing is measured.
    """

    dev: Mapping[str, float]
    test: Mapping[str, Any] | None
    metric: str | None


def write_results(
    config: Config,
    scores: Scores,
    fixed: dict[str, Any],
    result: FitResult,
    seconds: float,
    start: StartScores,
    card: Callable[[hub.Outcome], str],
) -> dict[str, Any]:
    """Score the best and the last model, and write their cards and ``results.json``.

    The latter comes last: a run that is killed before has not ended, and does all of it again.
    """
    chosen = result.best or {"step": result.step, "value": None}
    folder = config.run.output_dir
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("models written")

    def test(name: str) -> dict[str, Any]:
        encoder = SentenceEncoder.from_pretrained(folder / name, dtype=config.model.dtype)
        return scores.test(encoder, folder / name)

    best = test("best")
    results = {
        "settings": fixed,
        "hardware": hardware(),
        "python": platform.python_version(),
        "steps": result.step,
        "train_seconds": seconds,  # of this process, with its evaluations
        "dev_metric": start.metric,
        "dev_before": start.dev.get(start.metric or ""),
        "dev_best": chosen["value"],
        "best_step": chosen["step"],
        **({} if start.test is None else {"before": start.test}),
        "best": best,
        "last": best if chosen["step"] == result.step else test("last"),
    }
    if jax.process_index() == 0:
        for name in MODELS:
            hub.write_card(folder / name, card(outcome(config, results, name, scores)))
        store_results(folder / RESULTS, results)
    return results


def close(config: Config, scores: Scores, results: Sequence[Mapping[str, Any]]) -> None:
    """Print the closing table, and write ``summary.json`` of several seeds."""
    metric = results[0]["dev_metric"]  # None where nothing chose a model
    rows = [columns_of(scores, found) for found in results]
    values = np.array([[column.value for column in row] for row in rows], float)
    if len(results) > 1:
        write_summary(config, results, rows[0], values)
    if not rows[0]:
        return
    shown = [i for i, column in enumerate(rows[0]) if column.heading]
    title = f"{scores.measure} × 100"
    if metric is not None and not scores.dev_name:  # chosen by a function of the user's
        title = f"dev is {metric}" + (f"; test is {title}" if len(shown) > 2 else "")
    table = Table(title=f"{config.run.output_dir}: {title}")
    table.add_column("seed", justify="right")
    for i in shown:
        table.add_column(rows[0][i].heading, justify="right")
        if metric is not None and i == 1:
            table.add_column("at step", justify="right")

    def add_row(name: str, cells: Sequence[str], step: str) -> None:
        texts = [cells[i] for i in shown]
        if metric is not None:
            texts.insert(2, step)
        table.add_row(name, *texts)

    seeds = config.run.seeds or (config.run.seed,)
    for seed, row, found in zip(seeds, values, results, strict=True):
        add_row(str(seed), [f"{value:.2f}" for value in row], str(found["best_step"]))
    if len(seeds) > 1:
        mean, spread = values.mean(0), values.std(0, ddof=1)
        cells = [f"{m:.2f} ± {s:.2f}" for m, s in zip(mean, spread, strict=True)]
        add_row("mean ± sd", cells, "")
    console.print(table)
    if metric is None:
        return
    if worse := [str(s) for s, row in zip(seeds, values, strict=True) if row[1] < row[0]]:
        say(
            f"by dev, no model of seed {listed(worse)} is better than {config.model.model} was "
            "before training"
        )
    if scores.note:
        say(scores.note)


def columns_of(scores: Scores, found: Mapping[str, Any]) -> list[Column]:
    """Return what the closing table says of a seed; nothing where nothing was measured."""
    tests = scores.columns(found["best"], found["last"])
    if (metric := found["dev_metric"]) is None:
        return tests
    if scores.one_corpus:
        headings = {"test_best": "", "test_last": "dev last"}  # the best is beside it as dev best
        tests = [c._replace(heading=headings.get(c.name, c.heading)) for c in tests]
    return [
        Column("dev_before", f"{scores.dev_name or metric} before", found["dev_before"]),
        Column("dev_best", "dev best", found["dev_best"]),
        *tests,
    ]


def write_summary(
    config: Config,
    results: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    values: np.ndarray,
) -> None:
    """Write ``summary.json``: each seed's numbers, their mean and their standard deviation."""
    first = results[0]
    alike = all(found.get("before") == first.get("before") for found in results)
    summary = {
        "seeds": list(config.run.seeds),
        "columns": [column.name for column in columns],
        "per_seed": values.tolist(),
        "mean": values.mean(0).tolist(),
        "sd": values.std(0, ddof=1).tolist(),
        # Where the seeds begin with different models, each seed's results have its own.
        **({"before": first["before"]} if alike and "before" in first else {}),
        "train_seconds": [found["train_seconds"] for found in results],
        "hardware": first["hardware"],
        "settings": {**first["settings"], "seed": None},
    }
    io.write_json(config.run.output_dir / SUMMARY, summary)
