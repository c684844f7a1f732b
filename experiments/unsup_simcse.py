r"""Unsupervised SimCSE (Gao et al. 2021, section 3): the positive is another dropout mask.

    python -m experiments.unsup_simcse --train-file wiki1m_for_simcse.txt --output-dir runs/unsup \
        --model bert-base-uncased --eval-data SENTEVAL/data/downstream --all-tasks

The defaults are the paper's for BERT-base uncased (batch 64, learning rate 3e-5, one epoch, length
32, temperature 0.05, STS-B dev every 125 steps), but for the model, which is the embedded MiniLM,
and the text, which is the embedded Wikipedia. --preset bert-large, roberta-base and roberta-large
give the paper's settings for those.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from experiments.simcse import RunSettings, main
from simcse_jax.cli import run_or_explain
from simcse_jax.data.training_text import TrainingText
from simcse_jax.data.wikipedia import embedded_wikipedia, sentences

PRESETS = {
    "bert-base": {"batch_size": 64, "learning_rate": 3e-5, "epochs": 1},
    "bert-large": {"batch_size": 64, "learning_rate": 1e-5, "epochs": 1},
    "roberta-base": {"batch_size": 512, "learning_rate": 1e-5, "epochs": 1},
    "roberta-large": {"batch_size": 512, "learning_rate": 3e-5, "epochs": 1},
}


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings):
    """Unsupervised SimCSE."""

    output_dir: Path = Path("runs/unsup_simcse")


def embedded_text() -> TrainingText:
    """Every sentence of the embedded Wikipedia."""
    return TrainingText((tuple(sentences(embedded_wikipedia(progress=True))),))


if __name__ == "__main__":
    settings = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings, PRESETS, embedded_text))
