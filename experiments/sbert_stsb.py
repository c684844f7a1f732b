r"""Sentence-BERT on the STS benchmark (Reimers & Gurevych 2019, section 4.2).

    python -m experiments.sbert_stsb --eval-data SENTEVAL/data/downstream --all-tasks \
        --model bert-base-uncased --output-dir runs/sbert_stsb

The cosine of a training pair's embeddings is fitted to its gold score over 5, with squared error.
The defaults are the paper's (four epochs, batch 16, Adam with learning rate 2e-5 after a warm-up of
10 %, mean pooling), but for the model, which is the embedded MiniLM. --model runs/sbert_nli/best
goes on from an NLI run, as the paper's better rows do.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from experiments import runs
from experiments.sbert import RunSettings, sbert_recipe, sbert_settings
from simcse_jax.cli import run_or_explain
from simcse_jax.data.senteval import read_stsb
from simcse_jax.data.training_text import TrainingText
from simcse_jax.losses.cosine_regression import Score

HIGHEST_SCORE = 5.0


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings):
    """Sentence-BERT on the STS benchmark."""

    eval_data: Path | None = None
    """SentEval's folder: STS-B train to learn from, dev on the way, test at the end. Needed."""
    epochs: float = 4
    score: Score = "cosine"
    """What is fitted to score / 5: the cosine, or (cosine + 1) / 2."""
    output_dir: Path = Path("runs/sbert_stsb")
    """The run's folder."""


def stsb_text(folder: Path) -> TrainingText:
    """STS-B's training pairs with their scores over 5."""
    pairs = read_stsb(folder, "train")
    return TrainingText(
        (pairs.sentences1, pairs.sentences2),
        f"STS-B train: {len(pairs):,} pairs with a score",
        tuple((pairs.scores / HIGHEST_SCORE).tolist()),
    )


def main(settings: Settings) -> dict[str, float]:
    """Train every seed, close with a table, and return the columns' means."""
    if settings.eval_data is None:
        raise ValueError("--eval-data is missing: STS-B train, dev and test are read from there")
    recipe = sbert_recipe(
        stsb_text(settings.eval_data),
        sbert_settings(settings, objective="regression"),
        evaluate=lambda encoder: runs.dev_score(encoder, settings.eval_data),
        best_metric=runs.dev_metric(settings.eval_data),
        test=lambda encoder, _: runs.test_scores(encoder, settings),
        test_columns=runs.sts_columns,
    )
    return runs.train_seeds(settings, recipe, "STS-B dev")


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings_))
