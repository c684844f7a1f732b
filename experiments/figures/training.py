"""The numbers of the figures path and bound: short training runs that are measured on the way."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.figures.measure import Figures, Positives, score, unit_spectrum
from simcse_jax import SentenceEncoder
from simcse_jax.config import CONFIGS, replace
from simcse_jax.data.senteval import Pairs, read_stsb
from simcse_jax.evaluation.geometry import alignment_uniformity
from simcse_jax.evaluation.isotropy import gram_bounds
from simcse_jax.evaluation.sts import cosine
from simcse_jax.io import read_json_lines
from simcse_jax.trainer import train_seeds

CHANGES: dict[Positives, dict[str, Any]] = {
    "dropout": {},
    "delete-one": {"positives": "delete-one-word"},
    "fixed-mask": {"shared_dropout": True},
    "no-dropout": {"dropout": 0.0},
}
WINDOW = 10


def watch_training(settings: Figures, positives: Positives, dev: Pairs) -> list[dict[str, Any]]:
    """Train unsupervised SimCSE for a few steps, and measure the model on STS-B dev on the way.

    Returns:
        What is measured before the first step, every few steps, and after the last.
    """
    distinct = list(dict.fromkeys((*dev.sentences1, *dev.sentences2)))
    row = {s: i for i, s in enumerate(distinct)}
    records: list[dict[str, Any]] = []

    def measure(encoder: SentenceEncoder) -> dict[str, float]:
        vectors = encoder.encode(distinct, show_progress=False)

        def embed(sentences: Sequence[str]) -> np.ndarray:
            return vectors[[row[s] for s in sentences]]

        plane = alignment_uniformity(embed, [dev])
        gram = gram_bounds(vectors)
        stsb_dev = score(cosine(embed(dev.sentences1), embed(dev.sentences2)), dev)
        records.append(
            {
                "alignment": plane.alignment,
                "uniformity": plane.uniformity,
                "stsb_dev": stsb_dev,
                "gram_total": gram.total,
                "gram_largest": gram.largest,
                "gram_positive": gram.positive,
                "sentences": gram.sentences,
                "spectrum": unit_spectrum(vectors),
            }
        )
        return {"stsb_dev": stsb_dev}

    with tempfile.TemporaryDirectory() as folder:  # the figures need the numbers alone
        config = replace(
            CONFIGS["unsup_simcse"],
            **CHANGES[positives],
            model=settings.model,
            pooling=settings.pooling,
            num_layers=settings.run_layers,
            train_files=settings.train_files,
            batch_size=settings.batch_size,
            max_length=settings.max_length,
            learning_rate=settings.learning_rate,
            max_steps=settings.steps,
            eval_every=settings.every,
            seed=settings.seed,
            output_dir=Path(folder),
        )
        train_seeds(config, evaluate=measure)
    numbers = (*range(0, settings.steps, settings.every), settings.steps)
    return [{"step": n, **record} for n, record in zip(numbers, records, strict=True)]


def batch_path(folder: Path) -> dict[str, list[float]] | None:
    """Return alignment and uniformity of a run's batches, averaged over `WINDOW` steps.

    None where the folder has no record of a training's steps.
    """
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
    """Return the numbers of the figures "path" and "bound", of the same runs."""
    if settings.eval_data is None:
        raise ValueError("these figures are measured on STS-B: give --eval-data")
    dev = read_stsb(settings.eval_data, "dev")
    runs = {kind: watch_training(settings, kind, dev) for kind in settings.positives}
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
