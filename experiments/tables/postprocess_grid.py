r"""Whitening, flow and the calibrations over MiniLM's layers, target and NLI fits, in one table.

    python -m experiments.tables.postprocess_grid --eval-data SENTEVAL/data/downstream \
        --nli snli_dev.jsonl mnli_dev.jsonl

MiniLM's training compared means, not its cls; that of five or four layers lies in a collapsed cone.
Every sentence is encoded once a depth, all methods work on those vectors. Writes
postprocess.json (every seed) and postprocess.md (what is printed).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

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
)
from simcse_jax.io import write_json, write_text
from simcse_jax.transforms import (
    AllButTheTop,
    FittedKind,
    Flow,
    Standardization,
    Transform,
)

PROTOCOLS = ("all", "wmean")


@dataclasses.dataclass(frozen=True)
class PostProcessingGrid:
    """Fit every method at every depth, and score it."""

    eval_data: Path
    """The folder that holds SentEval's STS/ and SICK/."""
    nli: tuple[Path, ...] = ()
    """Files of sentences for the NLI fit; without them it is left out."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    pooling: str = "cls"
    """The encoder's pooling."""
    layers: tuple[int, ...] = (6, 5, 4)
    """The depths that are scored on STS-B: each keeps the model's first so many layers."""
    layers_all_tasks: tuple[int, ...] = (6, 4)
    """Those depths that are scored on every task, with the NLI fit too."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A flow is fitted with each of these seeds."""
    output_dir: Path = Path("runs/postprocess_grid")
    """The folder that gets postprocess.json and postprocess.md."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: a method and its options.

    Attributes:
        label: what the table calls it.
        method: the transform that is fitted, or None.
        k: dimensions that whitening keeps, or directions that are removed.
        flow: the flow's configuration.
        epochs: passes of the flow over the sentences.
        dropout: whether the flow sees embeddings drawn anew in every epoch.
        normalise_first: whether standardisation comes before.
        authors_lines: whether whitening is done as the authors' code writes it.
    """

    label: str
    method: FittedKind | None = None
    k: int | None = None
    flow: str = "code"
    epochs: int = 1
    dropout: bool = False
    normalise_first: bool = False
    authors_lines: bool = False


ROWS = (
    Row("raw"),
    Row("standardisation", "standardization"),
    Row("1 direction removed", "all_but_the_top", k=1),
    Row("whitening", "whitening"),
    Row("whitening, k=256", "whitening", k=256),
    Row("flow, code", "flow"),
    Row("flow, paper", "flow", flow="paper"),
    Row("flow, modern", "flow", flow="modern"),
)
# STS-B, target fit: what the calibrations and the flow's training make of it.
STSB_ROWS = (
    Row("standardisation, then 6 directions removed", "all_but_the_top", 6, normalise_first=True),
    Row("whitening, the authors' lines (float64)", "whitening", authors_lines=True),
    Row("flow, code, 0 epochs", "flow", epochs=0),
    Row("flow, code, 7 epochs", "flow", epochs=7),
    Row("flow, code, dropout on", "flow", dropout=True),
)


def by_authors_lines(encode: Encode, sentences: list[str]) -> Encode:
    """Fit whitening to sentences as the authors' code does, and return the whitened encoder.

    It takes NumPy's covariance and the singular value decomposition of that, both in float64, and
    keeps every direction, however small its variance. A layer norm leaves one with nothing in it
    but rounding, which is then scaled to unit variance.
    """
    x = encode(sentences)
    u, variances, _ = np.linalg.svd(np.cov(x.T))
    mean, kernel = x.mean(axis=0, keepdims=True), u / np.sqrt(variances)
    return lambda more: (encode(more) - mean) @ kernel


def fit_row(
    row: Row, encoder: SentenceEncoder, cached: Encode, sentences: list[str], seed: int
) -> Transform:
    """Fit a row's transform to sentences."""
    assert row.method is not None
    x = cached(sentences)
    if row.normalise_first:
        first = Standardization.fit(x)
        return first.then(AllButTheTop.fit(first(x), row.k or 1))
    options = {"k": row.k, "flow": row.flow, "epochs": row.epochs, "dropout": row.dropout}
    return fit_method(row.method, encoder, cached, sentences, seed=seed, **options)


def record(
    row: Row,
    layers: int,
    fitted_on: str,
    seed: int | None,
    results: StsResults,
    bits: float | None,
) -> dict[str, Any]:
    """Return one fit's scores, times 100."""
    scores: dict[str, dict[str, float]] = {}
    for protocol in PROTOCOLS:
        own = {n: getattr(t.spearman, protocol) for n, t in results.tasks.items()}
        scores[protocol] = {**own, "average": getattr(results.average, protocol)}
    return {
        "method": row.label,
        "layers": layers,
        "fit": fitted_on,
        "seed": seed,
        **scores,
        "bits_per_dimension": bits,
    }


def measure_row(
    row: Row,
    seed: int | None,
    encoder: SentenceEncoder,
    cached: Encode,
    tasks: Sequence[StsTask],
    text: list[str] | None,
) -> tuple[StsResults, float | None]:
    """Fit and score one row, and take a flow's bits per dimension on STS-B's sentences.

    Args:
        row: the method.
        seed: of a flow; else None.
        encoder: for embeddings with dropout.
        cached: the embeddings of all sentences.
        tasks: what is scored.
        text: what one transform is fitted to; None for each task's own sentences.
    """
    if row.method is None:
        return evaluate_sts(cached, tasks), None
    stsb = next(task for task in tasks if task.name == "STS-B")
    if row.authors_lines:
        return evaluate_sts(by_authors_lines(cached, stsb.sentences), [stsb]), None
    fit_to = functools.partial(fit_row, row, encoder, cached, seed=seed or 0)
    transforms = transforms_of(fit_to, tasks, text)
    results, flow = evaluate_transformed_sts(cached, tasks, transforms), transforms["STS-B"]
    bits = flow.bits_per_dimension(cached(stsb.sentences)) if isinstance(flow, Flow) else None
    return results, bits


def measure(
    settings: PostProcessingGrid, layers: int, tasks: list[StsTask], fits: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """Return every row at one depth; the fit "target" is on each task's own sentences."""
    encoder = load_frozen(settings.model, settings.pooling, layers)
    cached = encode_tasks(encoder, tasks, itertools.chain(*fits.values()))
    stsb = [task for task in tasks if task.name == "STS-B"]
    work = [(row, "target", tasks) for row in ROWS] + [(row, "target", stsb) for row in STSB_ROWS]
    work += [(row, name, tasks) for row in ROWS[1:] for name in fits]
    records = []
    for row, name, scored in tqdm(work, desc=f"{layers} layers", unit="row"):
        for seed in settings.seeds if row.method == "flow" else (None,):
            found = measure_row(row, seed, encoder, cached, scored, fits.get(name))
            records.append(record(row, layers, name, seed, *found))
    return records


def markdown(results: Mapping[str, Any]) -> str:
    """Return all tables in Markdown, drawn from the results alone."""
    how, records = results["settings"], results["records"]

    def pick(row: Row, layers: int, fitted_on: str) -> list[dict[str, Any]]:
        wanted = (row.label, layers, fitted_on)
        return [r for r in records if (r["method"], r["layers"], r["fit"]) == wanted]

    def by_depth(heading: str, rows: Sequence[Row], value: Callable[[Any], float]) -> str:
        lines = [
            [row.label]
            + [
                report.mean_and_deviation([value(r) for r in pick(row, n, "target")])
                for n in how["layers"]
            ]
            for row in rows
        ]
        return report.markdown([heading, *(f"{n} layers" for n in how["layers"])], lines)

    stsb_rows = (*ROWS, *STSB_ROWS)
    flows = [row for row in stsb_rows if row.method == "flow"]
    parts = [
        f"Spearman × 100. {how['model']}, {how['pooling']} pooling, float32; flows: mean ± "
        f"standard deviation of seeds {', '.join(map(str, how['seeds']))}. Made by "
        f"`python -m experiments.tables.postprocess_grid`.",
        "## STS-B test, fitted on its own sentences",
        by_depth("method", stsb_rows, lambda r: r["all"]["STS-B"]),
        "Bits per dimension of the flows on these sentences (lower is likelier; before the flow's "
        "own training: 0 epochs):",
        by_depth("flow", flows, lambda r: r["bits_per_dimension"]),
    ]
    fits = list(dict.fromkeys(r["fit"] for r in records))
    columns = (*TASKS, "average")
    for layers, fitted_on, protocol in itertools.product(how["layers_all_tasks"], fits, PROTOCOLS):
        of = "each task's own sentences" if fitted_on == "target" else fitted_on
        parts.append(f"## {layers} layers, fitted on {of}, protocol {protocol}")
        lines = []
        for row in ROWS:
            found = pick(row, layers, fitted_on if row.method else "target")
            cells = [[r[protocol][name] for r in found] for name in columns]
            lines.append([row.label, *map(report.mean_and_deviation, cells)])
        parts.append(report.markdown(["method", *columns], lines))
    return "\n\n".join(parts) + "\n"


def main(settings: PostProcessingGrid) -> None:
    """Measure, write both files, and print the tables."""
    check_seeds(settings.seeds)
    if odd := set(settings.layers_all_tasks) - set(settings.layers):
        raise ValueError(f"--layers-all-tasks has {min(odd)}, which --layers lacks")
    fits = {"NLI": read_sentences(settings.nli)} if settings.nli else {}
    records = []
    for layers in settings.layers:
        everything = layers in settings.layers_all_tasks
        tasks = list(read_sts(settings.eval_data, TASKS if everything else ["STS-B"]).values())
        records += measure(settings, layers, tasks, fits if everything else {})
    nli_sentences = {name: len(sentences) for name, sentences in fits.items()}
    results = report.results_record(settings) | {"nli_sentences": nli_sentences, "records": records}
    text = markdown(results)
    write_json(settings.output_dir / "postprocess.json", results)
    write_text(settings.output_dir / "postprocess.md", text)
    print(text)


if __name__ == "__main__":
    run_script(main, PostProcessingGrid, __doc__)
