r"""The seven transfer tasks of SentEval on frozen embeddings, as SBERT and SimCSE report them.

    python -m experiments.transfer --data SENTEVAL/data/downstream --model runs/unsup/best \
        --output results.json

The protocol is in `simcse_jax/evaluation/transfer.py`: logistic regression, ten folds, the
regularisation chosen inside each. Ten folds nested in ten are 600 fits a task: --jobs -1 uses every
core, --folds 5 is SentEval's quick setting.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from experiments.postprocess import Cached
from experiments.runs import hardware
from simcse_jax import SentenceEncoder
from simcse_jax.cli import run_or_explain
from simcse_jax.data.transfer import TRANSFER_TASKS, read_transfer
from simcse_jax.evaluation.transfer import SEED, TransferScore, average, evaluate_transfer
from simcse_jax.io import write_json

console = Console()


@dataclasses.dataclass(frozen=True)
class Settings:
    """Score an encoder on transfer tasks."""

    data: Path
    """SentEval's data/downstream."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    pooling: str | None = None
    """Default: what the model folder says."""
    tasks: tuple[str, ...] = TRANSFER_TASKS
    """Those to score."""
    folds: int = 10
    """Of the cross-validation."""
    jobs: int = -1
    """Processes that fit classifiers; -1 is one a core."""
    seed: int = SEED
    """Of the folds."""
    output: Path | None = None
    """A JSON file for the results."""


def main(settings: Settings) -> dict[str, TransferScore]:
    """Encode each sentence once, score, and close with a table."""
    tasks = read_transfer(settings.data, settings.tasks)
    encoder = SentenceEncoder.from_pretrained(settings.model, pooling=settings.pooling)
    sentences = [
        sentence
        for task in tasks.values()
        for split in task.splits.values()
        for column in split.columns
        for sentence in column
    ]
    scores = evaluate_transfer(
        Cached(encoder, sentences),
        tasks.values(),
        folds=settings.folds,
        seed=settings.seed,
        jobs=settings.jobs,
    )
    table = Table(title=f"Accuracy × 100, logistic regression, {settings.folds} folds")
    for name in (*scores, "average"):
        table.add_column(name, justify="right")
    table.add_row(*(f"{s.accuracy:.2f}" for s in scores.values()), f"{average(scores):.2f}")
    console.print(table)
    if settings.output is not None:
        write_json(
            settings.output,
            {
                "settings": dataclasses.asdict(settings) | {"data": None, "output": None},
                "hardware": hardware(),
                "tasks": {name: dataclasses.asdict(score) for name, score in scores.items()},
                "average": average(scores),
            },
        )
        console.print(f"results: {settings.output}")
    return scores


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings_))
