r"""Every method on the seven STS tasks, for one encoder, in all protocols, beside the papers'.

    python -m experiments.tables.sts --model bert-base-uncased --nli nli.jsonl \
        --sbert runs/sbert --unsup runs/unsup --sup runs/sup \
        --eval-data SENTEVAL/data/downstream --output-dir runs/table

With BERT-base that is SimCSE's Table 5 and, under wmean, its Table B.3. What is trained is taken
from finished runs (folders of `simcse-jax train`); a row without its run, or without --nli, is
marked as not run. Rows that were measured before with the same settings on the same sentences are
read from the output folder instead of repeated. Writes table.md, .tex and .json.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import report
from experiments.script import run_script
from experiments.tables.frozen import encode_tasks, transforms_of
from simcse_jax import SentenceEncoder, hub
from simcse_jax.checks import check_seeds, counted
from simcse_jax.data.senteval import TASKS, StsTask, read_sts
from simcse_jax.data.training_text import TrainingText, read_sentences
from simcse_jax.evaluation.scores import pairs_digest
from simcse_jax.evaluation.sts import (
    PROTOCOLS,
    Encode,
    evaluate_sts,
    evaluate_transformed_sts,
    results_to_json,
)
from simcse_jax.io import read_json, write_json, write_text
from simcse_jax.machine import hardware
from simcse_jax.training.run_folder import read_results
from simcse_jax.transforms import FittedKind, Transform, fit

PAPERS = Path(__file__).parents[1] / "papers"
PAPER_TABLES = {"all": "simcse_table5_all.csv", "wmean": "simcse_tableB3_wmean.csv"}
LATER = {
    "whitened_cse": "WhitenedCSE",
    "simcse_plus_plus": "SimCSE++",
    "esimcse": "ESimCSE",
}
"""Methods that came after the survey's, by their runs: they have a row where they were trained."""
RUNS = ("sbert", "unsup", "sup", *LATER)
OBJECTIVES = {"unsup": "simcse", "sup": "simcse"}
"""The objective of a run, where it is not called as the run."""


@dataclasses.dataclass(frozen=True)
class StsTable:
    """The encoder, its finished runs, and where the table goes."""

    eval_data: Path
    """The folder that holds SentEval's STS/ and SICK/."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    num_layers: int | None = None
    """Keep the model's first so many layers; the runs should have the same."""
    pooling: str = "first-last"
    """The pooling under whitening and flow; the papers take first-last."""
    nli: tuple[Path, ...] = ()
    """Files of sentences that the rows "(NLI)" are fitted to; without them those are not run."""
    sbert: Path | None = None
    """The folder of a finished run of `simcse-jax train sbert_nli`."""
    unsup: Path | None = None
    """The folder of a finished run of `simcse-jax train unsup_simcse`."""
    sup: Path | None = None
    """The folder of a finished run of `simcse-jax train sup_simcse`."""
    whitened_cse: Path | None = None
    """The folder of a finished run of `simcse-jax train whitened_cse`."""
    simcse_plus_plus: Path | None = None
    """The folder of a finished run of `simcse-jax train simcse_plus_plus`."""
    esimcse: Path | None = None
    """The folder of a finished run of `simcse-jax train esimcse`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A flow is fitted with each of these seeds."""
    output_dir: Path = Path("runs/sts_table")
    """The folder that gets the table, and a file for each row."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row: what is embedded, and what is done to it.

    Attributes:
        label: what the table calls it.
        source: a pooling of the encoder, or the run that trained one, of `RUNS`.
        method: what is fitted on top, or None.
        fit: the text that it is fitted to: "NLI", or "target" for each task's own sentences.
        paper: the names of its BERT-base rows in the papers' tables.
    """

    label: str
    source: str
    method: FittedKind | None = None
    fit: str = ""
    paper: tuple[str, ...] = ()


def rows(pooling: str) -> list[Row]:
    """All rows, in the order of SimCSE's Table 5."""
    post: list[tuple[FittedKind, str]] = [
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
        *(Row(label, source) for source, label in LATER.items()),
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
    """Return the best models of a finished run by seed.

    Raises:
        FileNotFoundError: the folder holds no finished run.
    """
    results = sorted(run.glob("seed-*/results.json")) or list(run.glob("results.json"))
    if not results:
        raise FileNotFoundError(f"{run} has no results.json: it is no finished run of training")
    unfinished = [p for p in run.glob("seed-*") if not (p / "results.json").is_file()]
    if unfinished:
        raise FileNotFoundError(f"{unfinished[0]} has no results.json; end its run by --resume")
    settings = {p: read_results(p)["settings"] for p in results}
    if strange := [p for p in results if "seed" not in settings[p]]:
        raise ValueError(f"{strange[0]} is no training's; give the folder of a run")
    return {str(settings[p]["seed"]): p.parent / "best" for p in results}


def check_objective(name: str, models: Mapping[str, Path], num_layers: int | None) -> None:
    """Raise ValueError where models are not of the method or depth that their run is given as."""
    wanted = OBJECTIVES.get(name, name)
    for model in models.values():
        settings = read_results(model.parent / "results.json")["settings"]
        found = settings.get("type", wanted)
        if found != wanted:
            raise ValueError(f"{model.parent} is a run of {found}; --{name} needs one of {wanted}")
        if (layers := settings.get("num_layers", num_layers)) != num_layers:
            raise ValueError(
                f"{model.parent} is of num_layers {layers}; the table is of {num_layers}: give "
                "--num-layers as the runs have it"
            )
        columns = settings.get("text_columns")
        if columns is not None and name in ("unsup", "sup") and (columns == 1) != (name == "unsup"):
            raise ValueError(
                f"{model.parent} was trained on {counted(columns, 'column')}; --unsup needs a run "
                "on sentences, --sup one on pairs or triplets"
            )
        # Its row is of NLI; a regression is of STS-B, which the table scores.
        if found == "sbert" and (kind := settings.get("kind", "softmax")) != "softmax":
            raise ValueError(
                f"{model.parent} is a run of Sentence-BERT's {kind}; --{name} needs one of its "
                "softmax, which is trained on NLI"
            )


def digests_of(settings: StsTable, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return digests of the models by source and seed: a path says nothing of them."""
    base = {"": hub.encoder_digest(hub.encoder_folder(hub.find_model(settings.model)))}

    def of_run(name: str) -> dict[str, str]:
        models = run_models(getattr(settings, name))
        return {seed: hub.encoder_digest(folder) for seed, folder in models.items()}

    return {name: of_run(name) if name in RUNS else base for name in names}


def sources(settings: StsTable) -> dict[str, dict[str, Callable[[], SentenceEncoder]]]:
    """Return the encoders' loaders by source and seed; a run that is not there is left out."""

    def load(model: Any, **options: Any) -> Callable[[], SentenceEncoder]:
        return lambda: SentenceEncoder.from_pretrained(model, max_length="longest", **options)

    found = {
        pooling: {"": load(settings.model, pooling=pooling, num_layers=settings.num_layers)}
        for pooling in ("cls", "mean", "first-last", settings.pooling)
    }
    for name in RUNS:
        if (run := getattr(settings, name)) is not None:
            found[name] = {seed: load(path) for seed, path in run_models(run).items()}
    return found


def measure(
    row: Row, tasks: Sequence[StsTask], nli: list[str], seeds: Sequence[int], cached: Encode
) -> dict[str, Any]:
    """Return a row's scores with one encoder, by the flow's seed ("" where there is none)."""
    if row.method is None:
        return {"": results_to_json(evaluate_sts(cached, tasks))}

    def score(**options: int) -> dict[str, Any]:
        def fit_to(sentences: list[str]) -> Transform:
            assert row.method is not None
            return fit(row.method, cached(sentences), **options)

        transforms = transforms_of(fit_to, tasks, nli if row.fit == "NLI" else None)
        return results_to_json(evaluate_transformed_sts(cached, tasks, transforms))

    return {f"flow {s}": score(seed=s) for s in seeds} if row.method == "flow" else {"": score()}


def measure_source(
    settings: StsTable,
    mine: Sequence[Row],
    encoders: Mapping[str, Callable[[], SentenceEncoder]],
    tasks: Sequence[StsTask],
    nli: list[str],
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Yield a source's rows with their scores by seed of encoder and flow, once all are there."""
    runs: dict[str, dict[str, Any]] = {row.label: {} for row in mine}
    text = nli if any(row.fit == "NLI" for row in mine) else []
    *_, last = encoders
    for seed, load in encoders.items():
        cached = encode_tasks(load(), tasks, text)
        for row in tqdm(mine, desc=f"{mine[0].source} {seed}".strip(), unit=" row"):
            scores = measure(row, tasks, nli, settings.seeds, cached)
            runs[row.label] |= {f"{seed} {flow}".strip(): own for flow, own in scores.items()}
            if seed == last:
                yield row, runs[row.label]


def measure_all(
    settings: StsTable, tasks: Sequence[StsTask], nli: list[str]
) -> dict[str, dict[str, Any]]:
    """Return every row that can be measured; each is kept in a file as soon as it is there."""
    encoders = sources(settings)
    measured: dict[str, dict[str, Any]] = {}
    missing: dict[Row, dict[str, Any]] = {}
    models = digests_of(settings, encoders)
    text = {
        "tasks": {task.name: list(map(pairs_digest, task.subsets)) for task in tasks},
        "nli": TrainingText((tuple(nli),)).fingerprint if nli else None,
    }
    for row in rows(settings.pooling):
        if row.source not in encoders or (row.fit == "NLI" and not nli):
            continue
        file, key = row_file(settings, row), row_key(settings, row, text, models[row.source])
        if (known := known_row(file)) is not None and known["key"] == key:
            measured[row.label] = known
        else:
            missing[row] = key
    # By source, so that every encoder is loaded, and encodes, once.
    for source in dict.fromkeys(row.source for row in missing):
        mine = [row for row in missing if row.source == source]
        for row, runs in measure_source(settings, mine, encoders[source], tasks, nli):
            measured[row.label] = {"key": missing[row], "hardware": hardware(), "runs": runs}
            write_json(row_file(settings, row), measured[row.label])
    return measured


def row_file(settings: StsTable, row: Row) -> Path:
    """Return where a row is kept."""
    return settings.output_dir / "rows" / f"{row.label.replace(' ', '_')}.json"


def known_row(file: Path) -> dict[str, Any] | None:
    """Read a row that was measured; None where there is none.

    Raises:
        ValueError: the file is something else.
    """
    if not file.exists():
        return None
    found = read_json(file)
    known = isinstance(found, dict) and {"key", "hardware", "runs"} <= found.keys()
    runs = list(found["runs"].values()) if known and isinstance(found["runs"], dict) else []
    if not runs or not all(isinstance(run, dict) and run.get("tasks") for run in runs):
        raise ValueError(f"{file} is no row that this script wrote; move it away")
    return found


def row_key(
    settings: StsTable, row: Row, text: Mapping[str, Any], models: Mapping[str, str]
) -> dict[str, Any]:
    """Return what a row's numbers depend on.

    Args:
        settings: of the table.
        row: one of its rows.
        text: digests of the tasks' pairs and of the NLI sentences.
        models: digests of the row's models by seed.
    """
    key: dict[str, Any] = {"model": settings.model, "num_layers": settings.num_layers}
    if row.source in RUNS:
        key = {
            str(seed): read_results(model.parent / "results.json")["settings"]
            for seed, model in run_models(getattr(settings, row.source)).items()
        }
    key["models"] = dict(models)
    if row.method is not None:
        key = {"of": key, "fit": row.fit}
        key["nli"] = text["nli"] if row.fit == "NLI" else None
        key["seeds"] = list(settings.seeds) if row.method == "flow" else []
    return key | {"tasks": text["tasks"]}


# ---------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------


def paper_rows(protocol: str) -> dict[str, list[str]]:
    """Return the papers' rows by name: seven scores and the average, as printed."""
    if protocol not in PAPER_TABLES:
        return {}
    with (PAPERS / PAPER_TABLES[protocol]).open(encoding="utf-8", newline="") as file:
        return {line[0]: line[1:] for line in list(csv.reader(file))[1:]}


def lines(results: Mapping[str, Any], protocol: str) -> list[tuple[str, list[str], str]]:
    """Return the table of one protocol: label, cells, and how it was come by."""
    printed = paper_rows(protocol)
    table = []
    for row in rows(results["pooling"]):
        known = results["rows"].get(row.label)
        if known is None and row.source in LATER:
            continue
        if known is None:
            table.append((row.label, ["–"] * (len(TASKS) + 1), "not run"))
        else:
            runs = list(known["runs"].values())
            scores = [[run["tasks"][task][protocol] for run in runs] for task in TASKS]
            scores.append([run["average"][protocol] for run in runs])
            seeds = ", ".join(name for name in known["runs"] if name)
            how = f"measured{f', seeds {seeds}' if seeds else ''}; {known['hardware']}"
            table.append((row.label, [report.mean_and_deviation(s) for s in scores], how))
        table += [
            (f"  paper: {name}", printed[name], "printed") for name in row.paper if name in printed
        ]
    return table


def title(results: Mapping[str, Any], protocol: str) -> str:
    """Return the heading of one protocol's table."""
    layers = results["num_layers"]
    depth = "" if layers is None else f", first {counted(layers, 'layer')}"
    return f"{results['model']}{depth}: Spearman × 100, protocol {protocol}"


def markdown(results: Mapping[str, Any]) -> str:
    """Return the tables of all protocols in Markdown, drawn from the results alone."""
    columns = ["method", *TASKS, "average", "how"]
    parts = []
    for protocol in PROTOCOLS:
        body = [[label.strip(), *cells, how] for label, cells, how in lines(results, protocol)]
        parts.append(f"## {title(results, protocol)}\n\n{report.markdown(columns, body)}\n")
    return "\n".join(parts)


def latex(results: Mapping[str, Any]) -> str:
    """Return the tables of all protocols in LaTeX, drawn from the results alone."""
    columns = ["", *TASKS, "avg"]
    return "\n".join(
        report.latex(
            title(results, protocol),
            columns,
            [[label, *cells] for label, cells, _ in lines(results, protocol)],
        )
        for protocol in PROTOCOLS
    )


def main(settings: StsTable) -> None:
    """Measure what is missing, and write the table."""
    check_seeds(settings.seeds)
    for name in RUNS:  # before hours of encoding
        if (run := getattr(settings, name)) is not None:
            check_objective(name, run_models(run), settings.num_layers)
    nli = read_sentences(settings.nli) if settings.nli else []
    tasks = list(read_sts(settings.eval_data).values())
    measured = measure_all(settings, tasks, nli)
    results = {
        "model": settings.model,
        "num_layers": settings.num_layers,
        "pooling": settings.pooling,
        "rows": measured,
        "not_run": [
            row.label
            for row in rows(settings.pooling)
            if row.label not in measured and row.source not in LATER
        ],
    }
    text = markdown(results)
    write_text(settings.output_dir / "table.md", text)
    write_text(settings.output_dir / "table.tex", latex(results))
    write_json(settings.output_dir / "table.json", results)
    print(text)


if __name__ == "__main__":
    run_script(main, StsTable, __doc__)
