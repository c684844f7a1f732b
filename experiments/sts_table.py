r"""Every method on the seven STS tasks, for one encoder, in all protocols, beside the papers'.

    python -m experiments.sts_table --eval-data SENTEVAL/data/downstream --model bert-base-uncased \
        --nli nli.jsonl --sbert runs/sbert --unsup runs/unsup --sup runs/sup --output-dir runs/table

With BERT-base that is SimCSE's Table 5 and, under wmean, its Table B.3. What is trained is taken
from finished runs (folders of experiments.sbert_nli, unsup_simcse and sup_simcse); a row without
its run, or without --nli, is marked as not run. Rows that were measured before with the same
settings are read from the output folder instead of repeated. Writes table.md, .tex and .json.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from experiments.postprocess import Cached, Method, fit_transform, sentences_of
from experiments.postprocess import score as score_transform
from experiments.runs import hardware
from simcse_jax import SentenceEncoder, hub
from simcse_jax.cli import run_or_explain
from simcse_jax.data.senteval import TASKS, StsTask, read_sts
from simcse_jax.data.training_text import read_sentences
from simcse_jax.evaluation.sts import PROTOCOLS, evaluate_sts, results_to_json
from simcse_jax.io import read_json, write_json, write_text
from simcse_jax.transforms import Transform

PAPERS = Path(__file__).parent / "papers"
PAPER_TABLES = {"all": "simcse_table5_all.csv", "wmean": "simcse_tableB3_wmean.csv"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The encoder, its finished runs, and where the table goes."""

    eval_data: Path
    """The folder that holds SentEval's STS/ and SICK/."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    num_layers: int | None = None
    """Keep the first so many layers; the runs should have the same."""
    pooling: str = "first-last"
    """Under whitening and flow; the papers take first-last."""
    nli: tuple[Path, ...] = ()
    """Sentences for the NLI fits."""
    sbert: Path | None = None
    """A finished run of experiments.sbert_nli."""
    unsup: Path | None = None
    """A finished run of experiments.unsup_simcse."""
    sup: Path | None = None
    """A finished run of experiments.sup_simcse."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the flows."""
    output_dir: Path = Path("runs/sts_table")
    """Gets the table, and a file for each row."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row: what is embedded, and what is done to it.

    Attributes:
        label: in the table.
        source: a pooling of the encoder, or the run that trained one: sbert, unsup or sup.
        method: fitted on top, or None.
        fit: NLI or target.
        paper: the names of its BERT-base rows in the papers' tables.
    """

    label: str
    source: str
    method: Method | None = None
    fit: str = ""
    paper: tuple[str, ...] = ()


def rows(pooling: str) -> list[Row]:
    """All rows, in the order of SimCSE's Table 5."""
    post: list[tuple[Method, str]] = [
        (method, fit) for method in ("flow", "whitening") for fit in ("NLI", "target")
    ]
    return [
        Row("cls", "cls", paper=("BERT-base CLS (SBERT paper)",)),
        Row("mean", "mean", paper=("BERT-base avg (SBERT paper)",)),
        Row(
            "first-last",
            "first-last",
            paper=("BERT-base first-last (corrected)", "BERT-base first-last"),
        ),
        *(
            Row(f"{pooling} + {m} ({fit})", pooling, m, fit, (f"BERT-base-{m} ({fit})",))
            for m, fit in post
        ),
        Row("SimCSE, unsupervised", "unsup", paper=("SimCSE-BERT-base unsup",)),
        Row("Sentence-BERT (NLI)", "sbert", paper=("SBERT-base", "SBERT-base first-last")),
        *(
            Row(
                f"Sentence-BERT + {m} ({fit})",
                "sbert",
                m,
                fit,
                (*([f"SBERT-base-{m}"] * (fit == "NLI")), f"SBERT-base-{m} ({fit})"),
            )
            for m, fit in post
        ),
        Row("SimCSE, supervised", "sup", paper=("SimCSE-BERT-base sup",)),
    ]


def run_models(run: Path) -> dict[str, Path]:
    """The best models of a finished run by seed.

    Raises:
        FileNotFoundError: the folder holds no finished run.
    """
    results = sorted(run.glob("seed-*/results.json")) or list(run.glob("results.json"))
    if not results:
        raise FileNotFoundError(f"{run} has no results.json: it is no finished run of experiments")
    return {str(read_json(p)["settings"]["seed"]): p.parent / "best" for p in results}


def sources(settings: Settings) -> dict[str, dict[str, Callable[[], SentenceEncoder]]]:
    """By source and seed, how to come by the encoder; a run that is not there is left out."""

    def load(model: Any, **options: Any) -> Callable[[], SentenceEncoder]:
        def encoder() -> SentenceEncoder:
            longest = hub.read_config(hub.find_model(model)).max_length
            return SentenceEncoder.from_pretrained(model, max_length=longest, **options)

        return encoder

    found = {
        pooling: {"": load(settings.model, pooling=pooling, num_layers=settings.num_layers)}
        for pooling in ("cls", "mean", "first-last", settings.pooling)
    }
    for name in ("sbert", "unsup", "sup"):
        if (run := getattr(settings, name)) is not None:
            found[name] = {seed: load(path) for seed, path in run_models(run).items()}
    return found


def measure(
    row: Row,
    encoder: SentenceEncoder,
    tasks: Sequence[StsTask],
    nli: list[str],
    seeds: Sequence[int],
    cached: Cached,
) -> dict[str, Any]:
    """A row's scores with one encoder, by the flow's seed ("" where there is none)."""
    if row.method is None:
        return {"": results_to_json(evaluate_sts(cached, tasks))}
    scores = {}
    for seed in seeds if row.method == "flow" else (0,):

        def fit(sentences: list[str], seed: int = seed) -> Transform:
            assert row.method is not None
            return fit_transform(row.method, cached(sentences), seed=seed)

        if row.fit == "NLI":
            one = fit(nli)
            results = score_transform(cached, tasks, lambda _, one=one: one)  # type: ignore[misc]
        else:
            results = score_transform(cached, tasks, lambda t: fit(sentences_of([t])))
        scores[f"flow {seed}" if row.method == "flow" else ""] = results_to_json(results)
    return scores


def measure_all(
    settings: Settings, tasks: Sequence[StsTask], nli: list[str]
) -> dict[str, dict[str, Any]]:
    """Every row that can be measured; each is kept in a file as soon as it is there."""
    out = settings.output_dir / "rows"
    out.mkdir(parents=True, exist_ok=True)
    encoders = sources(settings)
    todo = [
        row
        for row in rows(settings.pooling)
        if row.source in encoders and (row.fit != "NLI" or nli)
    ]
    measured: dict[str, dict[str, Any]] = {}
    missing = []
    for row in todo:
        key = row_key(settings, row)
        path = out / f"{row.label.replace(' ', '_')}.json"
        if path.exists() and (known := read_json(path))["key"] == key:
            measured[row.label] = known
        else:
            missing.append((row, key, path))
    # By source, so that every encoder is loaded, and encodes, once.
    for source in dict.fromkeys(row.source for row, _, _ in missing):
        mine = [entry for entry in missing if entry[0].source == source]
        runs: dict[str, dict[str, Any]] = {row.label: {} for row, _, _ in mine}
        text = nli if any(row.fit == "NLI" for row, _, _ in mine) else []
        for seed, load in encoders[source].items():
            encoder = load()
            cached = Cached(encoder, [*sentences_of(tasks), *text])
            name = f"{source} {seed}".strip()
            for row, _, _ in tqdm(mine, desc=name, unit=" row"):
                for flow, scores in measure(
                    row, encoder, tasks, nli, settings.seeds, cached
                ).items():
                    runs[row.label][f"{seed} {flow}".strip()] = scores
        for row, key, path in mine:
            measured[row.label] = {"key": key, "hardware": hardware(), "runs": runs[row.label]}
            write_json(path, measured[row.label])
    return measured


def row_key(settings: Settings, row: Row) -> dict[str, Any]:
    """What a row's numbers depend on."""
    key: dict[str, Any] = {"model": settings.model, "num_layers": settings.num_layers}
    if row.source in ("sbert", "unsup", "sup"):
        run = getattr(settings, row.source)
        key = {
            str(seed): read_json(model.parent / "results.json")["settings"]
            for seed, model in run_models(run).items()
        }
    if row.method is not None:
        key = {"of": key, "fit": row.fit}
        key["nli"] = [p.name for p in settings.nli] if row.fit == "NLI" else []
        key["seeds"] = list(settings.seeds) if row.method == "flow" else []
    return key


# ---------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------


def paper_rows(protocol: str) -> dict[str, list[str]]:
    """The papers' rows by name: seven scores and the average, as printed."""
    if protocol not in PAPER_TABLES:
        return {}
    with (PAPERS / PAPER_TABLES[protocol]).open(encoding="utf-8", newline="") as file:
        return {line[0]: line[1:] for line in list(csv.reader(file))[1:]}


def cell(values: Sequence[float]) -> str:
    """Mean, and the standard deviation (N-1) where there are several."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def lines(
    settings: Settings, measured: dict[str, dict[str, Any]], protocol: str
) -> list[tuple[str, list[str], str]]:
    """The table of one protocol: label, cells, and how it was come by."""
    printed = paper_rows(protocol)
    table = []
    for row in rows(settings.pooling):
        known = measured.get(row.label)
        if known is None:
            table.append((row.label, ["–"] * (len(TASKS) + 1), "not run"))
        else:
            runs = list(known["runs"].values())
            cells = [cell([r["tasks"][t][protocol] for r in runs]) for t in TASKS]
            cells.append(cell([r["average"][protocol] for r in runs]))
            seeds = ", ".join(name for name in known["runs"] if name)
            how = f"measured{f', seeds {seeds}' if seeds else ''}; {known['hardware']}"
            table.append((row.label, cells, how))
        table += [
            (f"  paper: {name}", printed[name], "printed") for name in row.paper if name in printed
        ]
    return table


def markdown(title: str, table: Sequence[tuple[str, list[str], str]]) -> str:
    """One protocol in Markdown."""
    head = ["method", *TASKS, "average", "how"]
    body = [[label.strip(), *cells, how] for label, cells, how in table]
    text = [head, ["---"] * len(head), *body]
    return f"## {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in text) + "\n"


def latex(title: str, table: Sequence[tuple[str, list[str], str]]) -> str:
    """One protocol in LaTeX (booktabs)."""

    def escape(text: str) -> str:
        replaced = text.replace("±", r"$\pm$").replace("–", "--").replace("_", r"\_")
        return replaced.replace("&", r"\&").replace("%", r"\%")

    body = [
        " & ".join(
            [rf"\quad {escape(label.strip())}" if how == "printed" else escape(label)]
            + [escape(c) for c in cells]
        )
        + r" \\"
        for label, cells, how in table
    ]
    head = " & ".join(["", *TASKS, "avg"]) + r" \\"
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape(title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(TASKS) + 1)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def main(settings: Settings) -> None:
    """Measure what is missing, and write the table."""
    for name in ("sbert", "unsup", "sup"):  # before hours of encoding
        if (run := getattr(settings, name)) is not None:
            run_models(run)
    nli = read_sentences(settings.nli) if settings.nli else []
    tasks = list(read_sts(settings.eval_data).values())
    measured = measure_all(settings, tasks, nli)
    depth = "" if settings.num_layers is None else f", first {settings.num_layers} layers"
    tables = {protocol: lines(settings, measured, protocol) for protocol in PROTOCOLS}
    titles = {p: f"{settings.model}{depth}: Spearman × 100, protocol {p}" for p in PROTOCOLS}
    out = settings.output_dir
    text = "\n".join(markdown(titles[p], tables[p]) for p in PROTOCOLS)
    write_text(out / "table.md", text)
    code = "\n".join(latex(titles[p].replace("×", r"$\times$"), tables[p]) for p in PROTOCOLS)
    write_text(out / "table.tex", code)
    write_json(
        out / "table.json",
        {
            "model": settings.model,
            "num_layers": settings.num_layers,
            "rows": measured,
            "not_run": [r.label for r in rows(settings.pooling) if r.label not in measured],
        },
    )
    print(text)


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings_))
