"""The numbers of the figures path and bound: short training runs that are measured on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ablations import (
    Documents,
    Variant,
    augmented,
    read_documents,
    train_variant,
    training_text,
)
from experiments.figures.measure import Figures, Positives, score
from simcse_jax import SentenceEncoder
from simcse_jax.data.augmentation import delete_one_word
from simcse_jax.data.senteval import Pairs, read_stsb
from simcse_jax.data.training_text import TrainingText
from simcse_jax.evaluation.geometry import alignment_uniformity, checked_unit_rows
from simcse_jax.evaluation.isotropy import gram_bounds, singular_spectrum
from simcse_jax.evaluation.sts import cosine
from simcse_jax.io import read_json_lines

POSITIVES: dict[str, Variant] = {
    "dropout": Variant("dropout"),
    "delete-one": Variant("delete-one", positives=augmented(delete_one_word)),
    "fixed-mask": Variant("fixed-mask", change={"shared_dropout": True}),
    "no-dropout": Variant("no-dropout", dropout=0.0),
}
WINDOW = 10


def watch_training(
    settings: Figures, positives: Positives, documents: Documents, dev: Pairs
) -> list[dict[str, Any]]:
    """Train unsupervised SimCSE for a few steps, and measure the model on STS-B dev on the way."""
    distinct = list(dict.fromkeys((*dev.sentences1, *dev.sentences2)))
    row = {s: i for i, s in enumerate(distinct)}

    def measure(encoder: SentenceEncoder) -> dict[str, Any]:
        vectors = encoder.encode(distinct, show_progress=False)

        def embed(sentences: Sequence[str]) -> np.ndarray:
            return vectors[[row[s] for s in sentences]]

        plane = alignment_uniformity(embed, [dev])
        gram = gram_bounds(vectors)
        spectrum = singular_spectrum(checked_unit_rows(vectors))
        return {
            "alignment": plane.alignment,
            "uniformity": plane.uniformity,
            "stsb_dev": score(cosine(embed(dev.sentences1), embed(dev.sentences2)), dev),
            "gram_total": gram.total,
            "gram_largest": gram.largest,
            "gram_positive": gram.positive,
            "sentences": gram.sentences,
            "spectrum": [float(f"{value:.4g}") for value in spectrum],
        }

    variant = POSITIVES[positives]
    text = training_text(variant, documents, None, settings.seed)
    assert isinstance(text, TrainingText)
    return train_variant(
        variant,
        text,
        measure,
        model=settings.model,
        num_layers=settings.run_layers,
        steps=settings.steps,
        every=settings.every,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
    )


def batch_path(folder: Path) -> dict[str, list[float]] | None:
    """Alignment and uniformity of a run's batches, averaged over `WINDOW` steps; None without."""
    places = (folder, *sorted(folder.glob("seed-*")))
    file = next((p / "metrics.jsonl" for p in places if (p / "metrics.jsonl").is_file()), None)
    if file is None:
        return None
    steps = [line for line in read_json_lines(file) if "alignment" in line and "uniformity" in line]
    groups = [steps[i : i + WINDOW] for i in range(0, len(steps), WINDOW)]
    return {
        name: [float(np.mean([line[name] for line in group])) for group in groups]
        for name in ("step", "alignment", "uniformity")
    }


def measure_runs(settings: Figures) -> dict[str, dict[str, Any]]:
    """The figures "path" and "bound", of the same runs."""
    if settings.eval_data is None:
        raise ValueError("these figures are measured on STS-B: give --eval-data")
    dev = read_stsb(settings.eval_data, "dev")
    documents = read_documents(settings.train_file)
    runs = {p: watch_training(settings, p, documents, dev) for p in settings.positives}
    batches = {name: batch_path(folder) for name, folder in settings.trained.items()}
    plane = ("step", "alignment", "uniformity", "stsb_dev")
    return {
        "path": {
            "runs": {
                name: [{field: record[field] for field in plane} for record in records]
                for name, records in runs.items()
            },
            "batches": {name: path for name, path in batches.items() if path},
            "every": settings.every,
            "window": WINDOW,
        },
        "bound": {"positives": settings.positives[0], "records": runs[settings.positives[0]]},
    }
