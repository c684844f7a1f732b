r"""The seven transfer tasks of SentEval on frozen embeddings, as SBERT and SimCSE report them.

    python -m experiments.tables.transfer --data SENTEVAL/data/downstream --model runs/unsup/best \
        --output results.json

The protocol is in `simcse_jax/evaluation/transfer.py`: logistic regression, ten folds, the
regularisation chosen inside each. Ten folds nested in ten are 600 fits a task: --jobs -1 uses every
core, --folds 5 is SentEval's quick setting.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from experiments import report
from experiments.script import run_script
from simcse_jax import SentenceEncoder
from simcse_jax.data.transfer import TRANSFER_TASKS, read_transfer
from simcse_jax.evaluation.sts import encode_once
from simcse_jax.evaluation.transfer import SEED, TransferScore, average, evaluate_transfer
from simcse_jax.io import write_json


@dataclasses.dataclass(frozen=True)
class TransferTable:
    """Score an encoder on transfer tasks."""

    data: Path
    """SentEval's data/downstream."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    pooling: str | None = None
    """The encoder's pooling; default: what the model folder says."""
    tasks: tuple[str, ...] = TRANSFER_TASKS
    """The transfer tasks to score."""
    folds: int = 10
    """Accuracy is cross-validated over so many folds."""
    jobs: int = -1
    """So many processes fit classifiers; -1 is one a core."""
    seed: int = SEED
    """The seed of the folds and of the classifiers."""
    output: Path | None = None
    """A JSON file for the results."""


def main(settings: TransferTable) -> dict[str, TransferScore]:
    """Encode each sentence once, score, and close with a table."""
    tasks = read_transfer(settings.data, settings.tasks)
    encoder = SentenceEncoder.from_pretrained(settings.model, pooling=settings.pooling)
    sentences = [sentence for task in tasks.values() for sentence in task.sentences]
    scores = evaluate_transfer(
        encode_once(functools.partial(encoder.encode, normalize=False), sentences),
        tasks.values(),
        folds=settings.folds,
        seed=settings.seed,
        jobs=settings.jobs,
    )
    report.print_table(
        f"Accuracy × 100, logistic regression, {settings.folds} folds",
        [*scores, "average"],
        [[*(f"{s.accuracy:.2f}" for s in scores.values()), f"{average(scores):.2f}"]],
        text_columns=0,
    )
    if settings.output is not None:
        tasks_record = {name: dataclasses.asdict(score) for name, score in scores.items()}
        results = {"tasks": tasks_record, "average": average(scores)}
        write_json(settings.output, report.results_record(settings) | results)
        report.console.print(f"results: {settings.output}")
    return scores


if __name__ == "__main__":
    run_script(main, TransferTable, __doc__)
