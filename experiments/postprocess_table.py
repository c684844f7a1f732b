r"""Whitening, flow and the calibrations over MiniLM's layers, target and NLI fits, in one table.

    python -m experiments.postprocess_table --eval-data SENTEVAL/data/downstream \
        --nli snli_dev.jsonl mnli_dev.jsonl

MiniLM's cls with all six layers was never trained for similarity; its first five layers are a
collapsed cone, its first four a raw BERT's. Every sentence is encoded once a depth, all methods
work on those vectors. Writes postprocess.json (every seed) and postprocess.md (what is printed).
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import Float
from tqdm import tqdm

from experiments.postprocess import (
    Cached,
    Method,
    fit_transform,
    plain_encoder,
    score,
    sentences_of,
)
from experiments.runs import hardware
from simcse_jax import SentenceEncoder
from simcse_jax.cli import run_or_explain
from simcse_jax.data.senteval import TASKS, StsTask, read_sts
from simcse_jax.data.training_text import read_sentences
from simcse_jax.evaluation.sts import StsResults
from simcse_jax.io import write_json, write_text
from simcse_jax.transforms import Affine, Flow, Moments, Transform
from simcse_jax.transforms.whitening import spectrum

PROTOCOLS = ("all", "wmean")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The grid."""

    eval_data: Path
    """The folder that holds SentEval's STS/ and SICK/."""
    nli: tuple[Path, ...] = ()
    """Files of the NLI fit; without them it is left out."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    pooling: str = "cls"
    """Of the encoder's output."""
    layers: tuple[int, ...] = (6, 5, 4)
    """Depths scored on STS-B."""
    layers_all_tasks: tuple[int, ...] = (6, 4)
    """Those of them that are scored on every task, with the NLI fit too."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the flows."""
    output_dir: Path = Path("experiments/results")
    """Gets postprocess.json and postprocess.md."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: a method and its options."""

    label: str
    method: Method | None = None
    k: int | None = None
    flow: str = "code"
    epochs: int = 1
    dropout: bool = False
    normalise_first: bool = False
    all_directions: bool = False


ROWS = (
    Row("raw"),
    Row("standardisation", "standardization"),
    Row("1 direction removed", "remove-directions", k=1),
    Row("whitening", "whitening"),
    Row("whitening, k=256", "whitening", k=256),
    Row("flow, code", "flow"),
    Row("flow, paper", "flow", flow="paper"),
    Row("flow, modern", "flow", flow="modern"),
)
# STS-B, target fit: what the calibrations and the flow's training make of it.
STSB_ROWS = (
    Row("standardisation, then 6 directions removed", "remove-directions", 6, normalise_first=True),
    Row("whitening, every direction kept (float32)", "whitening", all_directions=True),
    Row("flow, code, 0 epochs", "flow", epochs=0),
    Row("flow, code, 7 epochs", "flow", epochs=7),
    Row("flow, code, dropout on", "flow", dropout=True),
)


def every_direction(x: Float[np.ndarray, "n D"]) -> Affine:
    """Whitening as the authors' lines do it: no direction is dropped, however small its variance.

    A layer norm leaves one direction with nothing in it but rounding; in float32 this blows the
    rounding up to unit variance. A constant dimension has no variance at all: float32 has no
    number for its scale.
    """
    moments = Moments.of(x)
    values, vectors = spectrum(moments)
    tiny = np.finfo(np.float64).tiny
    return Affine(moments.mean, vectors / np.sqrt(np.maximum(values, tiny)))


def fit_row(
    row: Row,
    encoder: SentenceEncoder,
    cached: Cached,
    sentences: list[str],
    seed: int,
) -> Transform | None:
    """Fit a row's transform on sentences."""
    if row.method is None:
        return None
    x = cached(sentences)
    if row.all_directions:
        return every_direction(x)
    if row.normalise_first:
        first = fit_transform("standardization", x)
        assert isinstance(first, Affine)
        after = fit_transform(row.method, first(x), k=row.k)
        assert isinstance(after, Affine)
        return first.then(after)

    def draw(epoch: int) -> np.ndarray:
        return encoder.encode(
            sentences, normalize=False, dropout_seed=1000 * seed + epoch, show_progress=False
        )

    return fit_transform(
        row.method,
        draw if row.dropout else x,
        k=row.k,
        flow=row.flow,
        epochs=row.epochs,
        seed=seed,
    )


def record(
    row: Row,
    layers: int,
    fit: str,
    seed: int | None,
    results: StsResults | None,
    bits: float | None,
) -> dict[str, Any]:
    """One fit's scores, times 100; empty where the embeddings were not finite."""
    return {
        "method": row.label,
        "layers": layers,
        "fit": fit,
        "seed": seed,
        **{
            protocol: {}
            if results is None
            else {n: getattr(t.spearman, protocol) for n, t in results.tasks.items()}
            | {"average": getattr(results.average, protocol)}
            for protocol in PROTOCOLS
        },
        "bits_per_dimension": bits,
    }


def measure(
    settings: Settings, layers: int, tasks: list[StsTask], fits: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """Every row at one depth; the fit "target" is on each task's own sentences."""
    encoder = plain_encoder(settings.model, settings.pooling, layers)
    cached = Cached(encoder, [*sentences_of(tasks), *itertools.chain(*fits.values())])
    stsb = [t for t in tasks if t.name == "STS-B"]
    work = [(row, "target", tasks) for row in ROWS] + [(row, "target", stsb) for row in STSB_ROWS]
    work += [(row, fit, tasks) for row in ROWS[1:] for fit in fits]
    records = []
    for row, fit, scored in tqdm(work, desc=f"{layers} layers", unit="row"):
        for seed in settings.seeds if row.method == "flow" else (None,):
            own = {
                name: fit_row(row, encoder, cached, sentences, seed or 0)
                for name, sentences in (
                    {t.name: sentences_of([t]) for t in scored}
                    if fit == "target"
                    else {fit: fits[fit]}
                ).items()
            }
            transform_of = (lambda t: own[t.name]) if fit == "target" else (lambda _: own[fit])  # noqa: B023
            results = None
            if all(
                np.isfinite(f.matrix.astype(np.float32)).all()
                for f in own.values()
                if isinstance(f, Affine)
            ):
                results = score(cached, scored, transform_of)
            flow = transform_of(stsb[0])
            known = cached(sentences_of(stsb))
            bits = flow.bits_per_dimension(known) if isinstance(flow, Flow) else None
            records.append(record(row, layers, fit, seed, results, bits))
    return records


def cell(values: list[float | None]) -> str:
    """Mean, and the standard deviation (N-1) where there are several."""
    if None in values:
        return "not finite"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tables(records: list[dict[str, Any]], settings: Settings) -> str:
    """All tables as Markdown, drawn from the records alone."""

    def pick(label: str, layers: int, fit: str) -> list[dict[str, Any]]:
        return [r for r in records if (r["method"], r["layers"], r["fit"]) == (label, layers, fit)]

    parts = [
        f"Spearman × 100. {settings.model}, {settings.pooling} pooling, float32; flows: mean ± "
        f"standard deviation of seeds {', '.join(map(str, settings.seeds))}. Made by "
        f"`python -m experiments.postprocess_table`.",
        "## STS-B test, fitted on its own sentences",
        markdown(
            ["method", *(f"{n} layers" for n in settings.layers)],
            [
                [
                    row.label,
                    *(
                        cell([r["all"].get("STS-B") for r in pick(row.label, n, "target")])
                        for n in settings.layers
                    ),
                ]
                for row in (*ROWS, *STSB_ROWS)
            ],
        ),
        "Bits per dimension of the flows on these sentences (lower is likelier; before the flow's "
        "own training: 0 epochs):",
        markdown(
            ["flow", *(f"{n} layers" for n in settings.layers)],
            [
                [
                    row.label,
                    *(
                        cell([r["bits_per_dimension"] for r in pick(row.label, n, "target")])
                        for n in settings.layers
                    ),
                ]
                for row in (*ROWS, *STSB_ROWS)
                if row.method == "flow"
            ],
        ),
    ]
    fits = list(dict.fromkeys(r["fit"] for r in records))
    for layers, fit, protocol in itertools.product(settings.layers_all_tasks, fits, PROTOCOLS):
        of = "each task's own sentences" if fit == "target" else fit
        parts.append(f"## {layers} layers, fitted on {of}, protocol {protocol}")
        lines = []
        for row in ROWS:
            found = pick(row.label, layers, fit if row.method else "target")
            lines.append(
                [
                    row.label,
                    *(cell([r[protocol].get(n) for r in found]) for n in (*TASKS, "average")),
                ]
            )
        parts.append(markdown(["method", *TASKS, "average"], lines))
    return "\n\n".join(parts) + "\n"


def main(settings: Settings) -> None:
    """Measure, write both files, and print the tables."""
    if odd := set(settings.layers_all_tasks) - set(settings.layers):
        raise ValueError(f"--layers-all-tasks has {min(odd)}, which --layers lacks")
    fits = {"NLI": read_sentences(settings.nli)} if settings.nli else {}
    records = []
    for layers in settings.layers:
        everything = layers in settings.layers_all_tasks
        tasks = list(read_sts(settings.eval_data, TASKS if everything else ["STS-B"]).values())
        records += measure(settings, layers, tasks, fits if everything else {})
    text = tables(records, settings)
    write_json(
        settings.output_dir / "postprocess.json",
        {
            "settings": dataclasses.asdict(settings)
            | {"eval_data": None, "output_dir": None, "nli": [p.name for p in settings.nli]},
            "nli_sentences": {name: len(sentences) for name, sentences in fits.items()},
            "hardware": hardware(),
            "records": records,
        },
    )
    write_text(settings.output_dir / "postprocess.md", text)
    print(text)


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings_))
