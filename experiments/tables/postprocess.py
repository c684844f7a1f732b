r"""Whitening, flow and the calibrations on top of a frozen encoder, scored on STS.

    python -m experiments.tables.postprocess --model minilm --pooling cls --method whitening \
        --fit target --eval-data SENTEVAL/data/downstream --output-dir runs/whitening

--fit target fits a transform for every task on that task's own sentences, without their scores, as
the papers' "target" rows do (theirs on train and dev sentences too); --fit FILE ... fits one
transform on the sentences of those files (text, pairs, triplets, NLI), which makes a model: the
folder OUTPUT_DIR/model. A flow is fitted for each of --seeds.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import report
from experiments.script import run_script
from experiments.tables.frozen import encode_tasks, fit_method, load_frozen, transforms_of
from simcse_jax import SentenceEncoder
from simcse_jax.checks import check_seeds
from simcse_jax.data.senteval import TASKS, StsTask, read_sts
from simcse_jax.data.training_text import read_sentences
from simcse_jax.evaluation.sts import (
    Encode,
    StsResults,
    evaluate_sts,
    evaluate_transformed_sts,
    results_to_json,
)
from simcse_jax.io import write_json, written_folder
from simcse_jax.transforms import CONFIGS, FittedKind

SHOWN_PROTOCOLS = ("all", "wmean")


@dataclasses.dataclass(frozen=True)
class PostProcessing:
    """Fit a transform without labels, and score it."""

    eval_data: Path
    """The folder that holds SentEval's STS/ and SICK/."""
    method: FittedKind = "whitening"
    """The transform that is fitted."""
    fit: tuple[str, ...] = ("target",)
    """What it is fitted to: 'target', or files of sentences, pairs, triplets or NLI."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    pooling: str | None = None
    """The encoder's pooling; default: what the model folder says."""
    num_layers: int | None = None
    """Keep the model's first so many layers."""
    k: int | None = None
    """For whitening the number of dimensions to keep (default: all); for all_but_the_top the
    number of directions to remove (default: 1)."""
    flow: str = "code"
    """The flow's configuration: code, paper or modern."""
    epochs: int = 1
    """The flow is trained for so many passes over the sentences."""
    dropout: bool = False
    """Embed the sentences anew in every epoch of the flow, with the encoder's dropout on, as
    BERT-flow's code does."""
    seeds: tuple[int, ...] = (0,)
    """A flow is fitted with each of these seeds."""
    tasks: tuple[str, ...] = TASKS
    """The STS tasks to score."""
    output_dir: Path = Path("runs/postprocess")
    """The folder that gets results.json and the transforms: model/ (--fit FILE), or
    transforms/TASK (target)."""


def check(settings: PostProcessing) -> None:
    """Raise ValueError where settings do not go together, before anything is encoded."""
    if unknown := set(settings.tasks) - set(TASKS):
        raise ValueError(f"no STS task is called {unknown.pop()!r}; they are {' '.join(TASKS)}")
    if settings.flow not in CONFIGS:
        raise ValueError(f"no flow is called {settings.flow!r}; they are {' '.join(CONFIGS)}")
    if settings.dropout and settings.method != "flow":
        raise ValueError("--dropout draws embeddings anew in every epoch, which only a flow has")
    if settings.k is not None and settings.method not in ("whitening", "all_but_the_top"):
        raise ValueError(f"--k is of whitening and all_but_the_top, not of {settings.method}")
    for field in ("flow", "epochs", "seeds"):
        default = getattr(PostProcessing, field)
        if settings.method != "flow" and getattr(settings, field) != default:
            raise ValueError(f"--{field} is of a flow, not of {settings.method}; leave it out")
    if not settings.seeds:
        raise ValueError("--seeds needs at least one seed")
    check_seeds(settings.seeds)


def cells(runs: Sequence[StsResults], protocol: str) -> list[str]:
    """Return a table's row: the scores of every task and their average."""
    scores = [[getattr(r.tasks[name].spearman, protocol) for r in runs] for name in runs[0].tasks]
    scores.append([getattr(run.average, protocol) for run in runs])
    return [report.mean_and_deviation(values) for values in scores]


def print_scores(
    settings: PostProcessing, raw: StsResults, runs: Sequence[StsResults], fitted_on: str
) -> None:
    """Print the scores before and after the transform."""
    which = settings.flow if settings.method == "flow" else settings.k
    name = settings.method if which is None else f"{settings.method} {which}"
    report.print_table(
        f"Spearman × 100; {name} fitted on {fitted_on}, {len(runs)} run(s)",
        ["embeddings", "protocol", *raw.tasks, "average"],
        [
            [label, protocol, *cells(results, protocol)]
            for label, results in (("raw", [raw]), (name, runs))
            for protocol in SHOWN_PROTOCOLS
        ],
        text_columns=2,
    )
    report.console.print(f"results and transforms: {settings.output_dir}")


def fit_and_score(
    settings: PostProcessing,
    encoder: SentenceEncoder,
    cached: Encode,
    tasks: Sequence[StsTask],
    text: list[str] | None,
    out: Path,
) -> list[StsResults]:
    """Return the scores of every seed; the first seed's transforms are saved.

    Args:
        settings: what to fit.
        encoder: for embeddings with dropout, and for the model's folder.
        cached: the embeddings of the tasks' sentences and of the text.
        tasks: what is scored.
        text: what one transform is fitted to; None for each task's own sentences.
        out: the folder that gets the transforms.
    """
    seeds = settings.seeds if settings.method == "flow" else settings.seeds[:1]
    runs = []
    options = {name: getattr(settings, name) for name in ("k", "flow", "epochs", "dropout")}
    for seed in seeds:
        fit_to = functools.partial(
            fit_method, settings.method, encoder, cached, seed=seed, progress=True, **options
        )
        fitted = transforms_of(fit_to, tasks, text)
        runs.append(evaluate_transformed_sts(cached, tasks, fitted))
        if seed != seeds[0]:
            continue
        if text is None:
            for name, transform in fitted.items():
                transform.save(out / "transforms" / name)
        else:
            one = next(iter(fitted.values()))
            encoder.with_transform(one).save_pretrained(out / "model")
    return runs


def main(settings: PostProcessing) -> dict[str, Any]:
    """Fit, score, save, and close with a table."""
    check(settings)
    tasks = list(read_sts(settings.eval_data, settings.tasks).values())
    text = None if settings.fit == ("target",) else read_sentences(settings.fit)
    with written_folder(settings.output_dir, "results.json") as out:
        encoder = load_frozen(settings.model, settings.pooling, settings.num_layers)
        cached = encode_tasks(encoder, tasks, text or ())
        started = time.perf_counter()
        runs = fit_and_score(settings, encoder, cached, tasks, text, out)
        seconds = time.perf_counter() - started
        raw = evaluate_sts(cached, tasks)
        results = report.results_record(settings, pooling=encoder.settings.pooling) | {
            "fit_and_score_seconds": seconds,
            "raw": results_to_json(raw),
            "runs": {
                str(seed): results_to_json(run)
                for seed, run in zip(settings.seeds, runs, strict=False)
            },
        }
        write_json(out / "results.json", results)
    fitted_on = "each task's own sentences" if text is None else f"{len(text):,} sentences"
    print_scores(settings, raw, runs, fitted_on)
    return results


if __name__ == "__main__":
    run_script(main, PostProcessing, __doc__)
