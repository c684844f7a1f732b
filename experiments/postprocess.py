r"""Whitening, flow and the calibrations on top of a frozen encoder, scored on STS.

    python -m experiments.postprocess --model minilm --pooling cls --method whitening \
        --fit target --eval-data SENTEVAL/data/downstream --output-dir runs/whitening

--fit target fits a transform for every task on that task's own sentences, without their scores, as
the two papers' "target" rows do; --fit FILE ... fits one transform on the sentences of those files
(text, pairs, triplets, NLI), which makes a model: the folder OUTPUT_DIR/model. A flow is fitted for
each of --seeds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from experiments.runs import hardware
from simcse_jax import SentenceEncoder, hub
from simcse_jax.cli import run_or_explain
from simcse_jax.data.senteval import TASKS, StsTask, read_sts
from simcse_jax.data.training_text import read_sentences
from simcse_jax.evaluation.sts import StsResults, evaluate_sts, results_to_json
from simcse_jax.io import write_json, written_folder
from simcse_jax.transforms import (
    CONFIGS,
    Flow,
    RemoveDirections,
    Standardization,
    Transform,
    Whitening,
)

Method = Literal["whitening", "flow", "standardization", "remove-directions"]
console = Console(width=110)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fit a transform without labels, and score it."""

    eval_data: Path
    """The folder that holds SentEval's STS/ and SICK/."""
    method: Method = "whitening"
    """What to fit."""
    fit: tuple[str, ...] = ("target",)
    """'target', or files of sentences, pairs, triplets or NLI."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    pooling: str | None = None
    """Default: as the model says."""
    num_layers: int | None = None
    """Keep the first so many layers."""
    k: int | None = None
    """Whitening: dimensions to keep (default all). remove-directions: how many to remove
    (default 1)."""
    flow: str = "code"
    """The flow's configuration: code, paper or modern."""
    epochs: int = 1
    """Of the flow."""
    dropout: bool = False
    """Embed anew in every epoch with the encoder's dropout on, as BERT-flow's code does."""
    seeds: tuple[int, ...] = (0,)
    """Of the flow."""
    tasks: tuple[str, ...] = TASKS
    """The STS tasks to score."""
    output_dir: Path = Path("runs/postprocess")
    """Gets results.json and the transforms: model/ (--fit FILE), or transforms/TASK (target)."""


def plain_encoder(model: str, pooling: str | None, num_layers: int | None) -> SentenceEncoder:
    """The encoder without a transform of its own, and without truncation."""
    return SentenceEncoder.from_pretrained(
        model,
        pooling=pooling,
        num_layers=num_layers,
        max_length=hub.read_config(hub.find_model(model)).max_length,
    ).with_transform(None)


def fit_transform(
    method: Method,
    embeddings: Float[np.ndarray, "n D"] | Callable[[int], Float[np.ndarray, "n D"]],
    *,
    k: int | None = None,
    flow: str = "code",
    epochs: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> Transform:
    """Fit a transform by its name; only a flow takes a function of the epoch."""
    if method == "flow":
        return Flow.fit(embeddings, flow, epochs, seed, progress=progress)
    assert not callable(embeddings)
    if method == "whitening":
        return Whitening.fit(embeddings, k)
    if method == "standardization":
        return Standardization.fit(embeddings)
    return RemoveDirections.fit(embeddings, 1 if k is None else k)


def sentences_of(tasks: Sequence[StsTask]) -> list[str]:
    """Both sentences of every pair, in order, repeated ones as often as they stand there."""
    return [
        sentence
        for task in tasks
        for subset in task.subsets
        for column in (subset.sentences1, subset.sentences2)
        for sentence in column
    ]


class Cached:
    """Embeddings of the frozen encoder, each sentence computed once for all fits and scores."""

    def __init__(self, encoder: SentenceEncoder, sentences: Sequence[str]):
        """Encode every distinct sentence."""
        self.row = {s: i for i, s in enumerate(dict.fromkeys(sentences))}
        self.vectors = encoder.encode(list(self.row), normalize=False)

    def __call__(self, sentences: Sequence[str]) -> Float[np.ndarray, "n D"]:
        """The embeddings of sentences that are known."""
        return self.vectors[[self.row[s] for s in sentences]]


def score(
    embed: Callable[[Sequence[str]], Float[np.ndarray, "n D"]],
    tasks: Sequence[StsTask],
    transform_of: Callable[[StsTask], Transform | None],
) -> StsResults:
    """Score the tasks, each with its transform."""
    results = {}
    for task in tasks:
        transform = transform_of(task)

        def encode(sentences: Sequence[str], transform: Transform | None = transform):
            vectors = embed(sentences)
            return vectors if transform is None else transform(vectors)

        results |= evaluate_sts(encode, [task]).tasks
    return StsResults(results)


def mean_and_sd(runs: Sequence[StsResults], protocol: str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation (N-1) over runs, of every task and the average, times 100."""
    columns = {
        **{
            name: [getattr(r.tasks[name].spearman, protocol) for r in runs]
            for name in runs[0].tasks
        },
        "average": [getattr(r.average, protocol) for r in runs],
    }
    return {
        name: (float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else 0.0)
        for name, v in columns.items()
    }


def cells(runs: Sequence[StsResults], protocol: str) -> list[str]:
    """A table's row: scores, with ± where there are several runs."""
    form = "{:.2f} ± {:.2f}" if len(runs) > 1 else "{:.2f}"
    return [form.format(*pair) for pair in mean_and_sd(runs, protocol).values()]


def main(settings: Settings) -> dict[str, Any]:
    """Fit, score, save, and close with a table."""
    if unknown := set(settings.tasks) - set(TASKS):
        raise ValueError(f"no STS task is called {unknown.pop()!r}; they are {' '.join(TASKS)}")
    if settings.flow not in CONFIGS:
        raise ValueError(f"no flow is called {settings.flow!r}; they are {' '.join(CONFIGS)}")
    if settings.dropout and settings.method != "flow":
        raise ValueError("--dropout draws embeddings anew in every epoch, which only a flow has")
    if not settings.seeds:
        raise ValueError("--seeds needs at least one seed")
    tasks = list(read_sts(settings.eval_data, settings.tasks).values())
    target = settings.fit == ("target",)
    text = [] if target else read_sentences(settings.fit)
    seeds = settings.seeds if settings.method == "flow" else settings.seeds[:1]

    with written_folder(settings.output_dir) as out:
        encoder = plain_encoder(settings.model, settings.pooling, settings.num_layers)
        cached = Cached(encoder, [*sentences_of(tasks), *text])

        def fit(sentences: list[str], seed: int) -> Transform:
            def draw(epoch: int) -> np.ndarray:
                return encoder.encode(sentences, normalize=False, dropout_seed=1000 * seed + epoch)

            return fit_transform(
                settings.method,
                draw if settings.dropout else cached(sentences),
                k=settings.k,
                flow=settings.flow,
                epochs=settings.epochs,
                seed=seed,
                progress=True,
            )

        started = time.perf_counter()
        runs = []
        for seed in seeds:
            fitted = {
                task.name: fit(sentences_of([task]) if target else text, seed)
                for task in (tasks if target else tasks[:1])
            }
            one = fitted[tasks[0].name]
            runs.append(score(cached, tasks, lambda t: fitted[t.name] if target else one))  # noqa: B023
            if seed != seeds[0]:
                continue
            if target:
                for name, transform in fitted.items():
                    transform.save(out / "transforms" / name)
            else:
                encoder.with_transform(one).save_pretrained(out / "model")
        seconds = time.perf_counter() - started

        raw = score(cached, tasks, lambda _: None)
        results = {
            "settings": dataclasses.asdict(settings)
            | {"pooling": encoder.settings.pooling, "eval_data": None, "output_dir": None},
            "hardware": hardware(),
            "fit_and_score_seconds": seconds,
            "raw": results_to_json(raw),
            "runs": {str(s): results_to_json(r) for s, r in zip(seeds, runs, strict=True)},
        }
        write_json(out / "results.json", results)

    name = " ".join(
        str(x)
        for x in (settings.method, settings.flow if settings.method == "flow" else settings.k)
        if x is not None
    )
    of = "each task's own sentences" if target else f"{len(text):,} sentences"
    table = Table(title=f"Spearman × 100; {name} fitted on {of}, {len(seeds)} run(s)")
    for column in ("embeddings", "protocol", *(t.name for t in tasks), "average"):
        table.add_column(
            column, justify="left" if column in ("embeddings", "protocol") else "right"
        )
    for label, rows in (("raw", [raw]), (name, runs)):
        for protocol in ("all", "wmean"):
            table.add_row(label, protocol, *cells(rows, protocol))
    console.print(table)
    console.print(f"results and transforms: {settings.output_dir}")
    return results


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings_))
