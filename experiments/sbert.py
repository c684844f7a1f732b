"""What the Sentence-BERT runs share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from experiments import runs
from experiments.runs import Recipe
from simcse_jax.data.training_batches import TrainingBatches
from simcse_jax.data.training_text import TrainingText
from simcse_jax.losses.nli_softmax import Concatenation
from simcse_jax.training import SbertSettings, SiameseBatch, create_sbert_state, sbert_step

CLASSIFIER_FILE = "classifier.safetensors"


@dataclasses.dataclass(frozen=True)
class RunSettings(runs.RunSettings):
    """A Sentence-BERT run; the defaults are the paper's, but for the model."""

    batch_size: int = 16
    learning_rate: float = 2e-5
    """The highest: Adam's, after the warm-up."""
    warmup_ratio: float = 0.1
    """The share of the steps in which the learning rate grows; it falls linearly afterwards."""
    epochs: float = 1
    max_length: int = 128
    """In tokens."""


def sbert_settings(run: RunSettings, **own: Any) -> SbertSettings:
    """The settings of the update: those that the run has, and an objective's own."""
    same = {f.name for f in dataclasses.fields(SbertSettings)} & {
        f.name for f in dataclasses.fields(run)
    }
    return SbertSettings(**{name: getattr(run, name) for name in same}, **own)


def siamese_batches(batches: TrainingBatches, start: int, stop: int) -> Iterator[SiameseBatch]:
    """The packed batches of some steps."""
    for batch in batches.packed_batches(start, stop):
        yield SiameseBatch(batch.sentences, batch.rows, batch.labels)


def sbert_recipe(text: TrainingText, settings: SbertSettings, **scores: Any) -> Recipe:
    """Sentence-BERT: the encoder alone is kept, and a softmax' classifier in a file beside it.

    Args:
        text: what is trained on.
        settings: of the update.
        scores: the recipe's ``evaluate``, ``best_metric``, ``test`` and ``test_columns``.
    """

    def save(folder: Path, trained: Any) -> None:
        if "classifier" in trained:
            tensors = {name: np.asarray(x) for name, x in trained["classifier"].items()}
            save_file(tensors, folder / CLASSIFIER_FILE, {"concatenation": settings.concatenation})

    return Recipe(
        text=text,
        settings=settings,
        create_state=lambda model, optimizer, key: create_sbert_state(
            model.config, settings, model.params, optimizer, key
        ),
        make_step=lambda model, optimizer, mesh: sbert_step(model.config, settings, optimizer),
        batches=siamese_batches,
        model_params=lambda trained: {"encoder": trained["encoder"]},
        pooling=settings.pooling,
        test_before=True,
        save=save,
        **scores,
    )


def read_classifier(folder: Path) -> tuple[jax.Array, jax.Array | None, Concatenation]:
    """The kernel, the bias if there is one, and the concatenation of a run's model folder.

    Raises:
        FileNotFoundError: the folder has no classifier.
    """
    path = folder / CLASSIFIER_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a model folder of an NLI run")
    with safe_open(path, "flax") as file:
        bias = file.get_tensor("bias") if "bias" in file.keys() else None  # noqa: SIM118
        return file.get_tensor("kernel"), bias, file.metadata()["concatenation"]
