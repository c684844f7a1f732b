"""What the SimCSE runs share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import optax
from jax.sharding import Mesh

from experiments import runs
from experiments.runs import Model, Recipe, train_seed
from simcse_jax.data.training_batches import TrainingBatches
from simcse_jax.data.training_text import TrainingText, read_training_file
from simcse_jax.models import Batch
from simcse_jax.training import (
    MaskingTokens,
    SiameseBatch,
    TrainSettings,
    create_state,
    model_params,
    simcse_step,
)
from simcse_jax.training.step import Step

__all__ = ["RunSettings", "main", "run_seed"]


@dataclasses.dataclass(frozen=True)
class RunSettings(runs.RunSettings):
    """A run: what is trained on what, and how."""

    pooling: str = "cls"
    """Of the encoder's output; with cls an MLP head is trained on top, as the authors do."""
    train_file: tuple[Path, ...] = ()
    """.txt, .csv, .tsv or .jsonl; the number of columns decides. Default: the embedded text."""
    output_dir: Path = Path("runs/simcse")
    """The run's folder."""
    preset: Literal["bert-base", "bert-large", "roberta-base", "roberta-large"] = "bert-base"
    """The paper's batch size, learning rate and epochs for an encoder (SimCSE, table A.1)."""
    batch_size: int | None = None
    """Default: the preset's."""
    learning_rate: float | None = None
    """Default: the preset's."""
    epochs: float | None = None
    """Default: the preset's."""
    temperature: float = 0.05
    hard_negative_weight: float = 0.0
    """log α, on the own hard negative."""
    mlm_weight: float = 0.0
    """λ of the auxiliary masked-LM loss."""
    mask_duplicates: bool = False
    """Leave the positives of equal sentences out of the denominator."""
    accumulate: int = 1
    """Cut the batch into so many chunks for the encoder; the gradient stays that of the batch."""


def train_settings(run: RunSettings, supervised: bool) -> TrainSettings:
    """The authors' heads: an MLP over cls only, kept at test time where there is supervision."""
    head = ("train_and_test" if supervised else "train_only") if run.pooling == "cls" else "none"
    same = {f.name for f in dataclasses.fields(TrainSettings)} & {
        f.name for f in dataclasses.fields(RunSettings)
    }
    return TrainSettings(head=head, **{name: getattr(run, name) for name in same})


def recipe(run: RunSettings, text: TrainingText) -> Recipe:
    """SimCSE: in-batch negatives, the best model by STS-B dev."""
    settings = train_settings(run, supervised=len(text.columns) > 1)

    def make_step(model: Model, optimizer: optax.GradientTransformation, mesh: Mesh) -> Step:
        masking = None
        if settings.mlm_weight:
            if model.tokenizer.mask_id is None:
                raise ValueError(f"{model.folder} has no mask token, which mlm_weight needs")
            special = tuple(model.tokenizer.special_ids())
            masking = MaskingTokens(model.tokenizer.mask_id, special)
        return simcse_step(model.config, settings, optimizer, masking=masking, mesh=mesh)

    def train_batches(
        batches: TrainingBatches, start: int, stop: int
    ) -> Iterator[Batch | SiameseBatch]:
        if settings.accumulate > 1:  # chunks are cut from padded rows
            for batch in batches.batches(start, stop):
                yield Batch(batch.input_ids, batch.attention_mask)
        else:
            for packed in batches.packed_batches(start, stop):
                yield SiameseBatch(packed.sentences, packed.rows)

    return Recipe(
        text=text,
        settings=settings,
        create_state=lambda model, optimizer, key: create_state(
            model.config, settings, model.params, optimizer, key
        ),
        make_step=make_step,
        batches=train_batches,
        model_params=lambda trained: model_params(trained, settings),
        pooling=settings.test_pooling,
        evaluate=lambda encoder: runs.dev_score(encoder, run.eval_data),
        best_metric=runs.dev_metric(run.eval_data),
        test=lambda encoder, _: runs.test_scores(encoder, run),
        test_columns=lambda best, last: [
            column for column in runs.sts_columns(best, last) if column.name.startswith("test_")
        ],
    )


def run_seed(run: RunSettings, text: TrainingText) -> dict[str, Any]:
    """Train one seed, or reuse its finished run; see `experiments.runs.train_seed`."""
    return train_seed(run, recipe(run, text))


def main(
    run: RunSettings,
    presets: Mapping[str, Mapping[str, Any]],
    default_text: Callable[[], TrainingText],
) -> None:
    """Train every seed and close with a table.

    Args:
        run: what the user asked for.
        presets: batch size, learning rate and epochs by name of encoder.
        default_text: called where there is no training file.
    """
    unset = {k: v for k, v in presets[run.preset].items() if getattr(run, k) is None}
    run = dataclasses.replace(run, **unset)
    text = read_training_file(run.train_file, seed=run.seed) if run.train_file else default_text()
    dev = "Lee dev" if run.eval_data is None else "STS-B dev"
    runs.train_seeds(run, recipe(run, text), dev)
