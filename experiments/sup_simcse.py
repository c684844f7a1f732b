r"""Supervised SimCSE (Gao et al. 2021, section 4, equation 5).

    python -m experiments.sup_simcse --train-file nli_for_simcse.csv --output-dir runs/sup \
        --model bert-base-uncased --eval-data SENTEVAL/data/downstream --all-tasks

The first column is the anchor, the second (entailment) its positive, the third (contradiction) its
hard negative.

The defaults are the paper's for BERT-base uncased (batch 512, learning rate 5e-5, three epochs,
length 32, temperature 0.05), but for the model, which is the embedded MiniLM, and the text: without
NLI at hand, section triplets of the embedded Wikipedia. Raw NLI files (premise, hypothesis, label)
become triplets as in the paper. Batch 512 fits small machines with --accumulate 8, which changes
memory, not the gradient. --preset bert-large, roberta-base and roberta-large give the paper's
settings for those.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from experiments.simcse import RunSettings, main
from simcse_jax.cli import run_or_explain
from simcse_jax.data.training_text import TrainingText
from simcse_jax.data.wikipedia import embedded_wikipedia, section_triplets, split_articles

PRESETS = {
    "bert-base": {"batch_size": 512, "learning_rate": 5e-5, "epochs": 3},
    "bert-large": {"batch_size": 512, "learning_rate": 1e-5, "epochs": 3},
    "roberta-base": {"batch_size": 512, "learning_rate": 5e-5, "epochs": 3},
    "roberta-large": {"batch_size": 512, "learning_rate": 1e-5, "epochs": 3},
}


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings):
    """Supervised SimCSE."""

    output_dir: Path = Path("runs/sup_simcse")


def embedded_text() -> TrainingText:
    """Section triplets of the articles that the demo does not test on."""
    train, _ = split_articles(embedded_wikipedia(progress=True), test_fraction=0.2, seed=0)
    triplets = section_triplets(train, seed=0)
    columns = zip(*((t.anchor, t.positive, t.negative) for t in triplets), strict=True)
    return TrainingText(tuple(tuple(column) for column in columns))


if __name__ == "__main__":
    settings = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings, PRESETS, embedded_text))
