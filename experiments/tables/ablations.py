r"""SimCSE's and Sentence-BERT's ablations: lists of changes to a configuration, beside the papers'.

    python -m experiments.tables.ablations --eval-data SENTEVAL/data/downstream \
        --presets augmentation dropout --seeds 0 1 2 --output-dir runs/ablations

    preset                   of the paper                            needs
    augmentation             SimCSE, table 1: positives              for one row nltk with WordNet
    objective                SimCSE, table 2: positives, encoders    text in reading order
    dropout                  SimCSE, table 3
    pooler, pooler-nli       SimCSE, section 6                       the second --nli
    temperature              SimCSE, table D.1                       --nli
    hard-negative            SimCSE: the weight of the negative      --nli
    mlm                      SimCSE: λ of the auxiliary loss         --nli
    batch-size               SimCSE; no numbers are printed
    sbert-pooling            Sentence-BERT, table 6                  --nli
    sbert-concatenation      Sentence-BERT, table 6                  --nli
    sbert-pooling-stsb       Sentence-BERT, table 6

Every run is one of `simcse_jax.train`: 125 steps of SimCSE from sentences (the embedded Wikipedia
or --train-files) or from NLI triplets, or Sentence-BERT by its paper's settings. Its score is the
best of its evaluations on STS-B dev. A run's numbers lie in OUTPUT_DIR/PRESET/ROW/seed-K and are
reused with --resume; its models are not kept. It writes ablations.json (every run) and ablations.md
(what is printed).

The papers' numbers are of BERT-base: SimCSE's on a million sentences, or on all NLI triplets where
--nli is needed (that temperature and mlm are of those is read off their best value). Only the order
of the rows can be compared with a small run's.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import report
from experiments.script import run_script
from experiments.tables.filled import filled_positives
from simcse_jax.checks import counted
from simcse_jax.config import CONFIGS, Config, field_names, replace
from simcse_jax.data.augmentation import wordnet_synonyms
from simcse_jax.data.datasets import DataConfig, load_training_data
from simcse_jax.data.senteval import read_stsb
from simcse_jax.data.training_text import TrainingText, read_labelled_nli, read_training_file
from simcse_jax.evaluation.sts import spearman
from simcse_jax.io import read_json_lines, write_json, write_text
from simcse_jax.objectives.simcse import Head, SimCSE
from simcse_jax.trainer import train_seeds

Preset = Literal[
    "augmentation",
    "objective",
    "dropout",
    "pooler",
    "pooler-nli",
    "temperature",
    "hard-negative",
    "mlm",
    "batch-size",
    "sbert-pooling",
    "sbert-concatenation",
    "sbert-pooling-stsb",
]
# The contradiction of an NLI premise is drawn with this seed, the same for all seeds of the runs.
NLI_SEED = 0
# The sentences with the positives that the model has filled in, in the folder of the table.
FILLED = "filled.jsonl"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of an ablation.

    Attributes:
        label: what the table calls it.
        paper: Spearman × 100 on STS-B dev; None where none is printed.
        changes: fields of the configuration, by name.
        filled: whether the positives are sentences whose masked words the model has filled in.
    """

    label: str
    paper: float | None = None
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    filled: bool = False


@dataclasses.dataclass(frozen=True)
class Ablation:
    """A configuration, and the rows that change it."""

    base: Config
    rows: tuple[Row, ...]


SENTENCES = replace(CONFIGS["unsup_simcse"], max_steps=125, eval_every=25)
TRIPLETS = replace(SENTENCES, columns=3, head="train_and_test", mlm_decoder="copied")
LABELLED_NLI = replace(CONFIGS["sbert_nli"], test_before=False)
STSB = replace(CONFIGS["sbert_stsb"], test_before=False)
DELETE_ONE = {"positives": "delete-one-word"}
NEXT, NEXT_3 = ({"positives": "next-sentence", "window": window} for window in (1, 3))
TWO = {"two_encoders": True}


def rows_by(label: str, field: str, papers: Mapping[Any, float | None]) -> tuple[Row, ...]:
    """Return a row for each value of a field.

    Args:
        label: of a row, with a place for the value.
        field: the field that is changed.
        papers: the paper's score by value.
    """
    return tuple(Row(label.format(value), paper, {field: value}) for value, paper in papers.items())


def shares(label: str, positives: str, papers: Mapping[int, float]) -> list[Row]:
    """Return a row for each share, in per cent, of the words that an augmentation changes."""
    return [
        Row(f"{label} {k} %", paper, {"positives": positives, "share": k / 100})
        for k, paper in papers.items()
    ]


def poolers(kept: float, in_training: float, without: float, first_last: float) -> tuple[Row, ...]:
    """Return a row for each of the paper's poolers, with its score."""
    return (
        Row("cls with MLP", kept, {"head": "train_and_test"}),
        Row("cls with MLP, in training only", in_training, {"head": "train_only"}),
        Row("cls without MLP", without, {"head": "none"}),
        Row("first-last", first_last, {"head": "none", "pooling": "first-last"}),
    )


ABLATIONS: dict[str, Ablation] = {
    "augmentation": Ablation(
        SENTENCES,
        (
            Row("none (dropout)", 82.5),
            *shares("crop", "crop", {10: 77.8, 20: 71.4, 30: 63.6}),
            *shares("word deletion", "delete-words", {10: 75.9, 20: 72.2, 30: 68.2}),
            Row("word repetition 32 %", None, {"positives": "repeat-words", "share": 0.32}),
            Row("delete one word", 75.9, DELETE_ONE),
            Row("delete one word, no dropout", 74.2, {**DELETE_ONE, "dropout": 0.0}),
            Row("synonym", 77.4, {"positives": "synonym"}),
            Row("masked words 15 %, filled in", 62.2, filled=True),
            Row("masked words 15 %, left", None, {"positives": "mask-words", "share": 0.15}),
        ),
    ),
    "objective": Ablation(
        SENTENCES,
        (
            Row("next sentence", 67.1, NEXT),
            Row("next 3 sentences", 67.4, NEXT_3),
            Row("delete one word", 75.9, DELETE_ONE),
            Row("SimCSE", 82.5),
            Row("next sentence, two encoders", 68.9, NEXT | TWO),
            Row("next 3 sentences, two encoders", 68.8, NEXT_3 | TWO),
            Row("delete one word, two encoders", 73.1, DELETE_ONE | TWO),
            Row("SimCSE, two encoders", 80.7, TWO),
        ),
    ),
    "dropout": Ablation(
        SENTENCES,
        (
            *rows_by(
                "p = {:g}",
                "dropout",
                {0.0: 71.1, 0.01: 72.6, 0.05: 81.1, 0.1: 82.5, 0.15: 81.4, 0.2: 80.5, 0.5: 71.0},
            ),
            Row("fixed 0.1", 43.6, {"shared_dropout": True, "dropout": 0.1}),
        ),
    ),
    "pooler": Ablation(SENTENCES, poolers(81.7, 82.5, 80.9, 81.2)),
    "pooler-nli": Ablation(TRIPLETS, poolers(86.2, 85.8, 86.2, 86.1)),
    "temperature": Ablation(
        TRIPLETS,
        (
            Row("inner product", 85.9, {"similarity": "dot", "temperature": 1.0}),
            *rows_by(
                "τ = {:g}",
                "temperature",
                {0.001: 84.9, 0.01: 85.4, 0.05: 86.2, 0.1: 82.0, 1.0: 64.0},
            ),
        ),
    ),
    "hard-negative": Ablation(
        TRIPLETS,
        (
            Row("none", 84.9, {"columns": 2}),
            *(
                Row(f"α = {alpha:g}", paper, {"hard_negative_weight": math.log(alpha)})
                for alpha, paper in {0.5: 86.1, 1.0: 86.2, 2.0: 86.2}.items()
            ),
            Row("contradiction and neutral", 85.3, {"columns": 4}),
        ),
    ),
    "mlm": Ablation(
        TRIPLETS, rows_by("λ = {:g}", "mlm_weight", {0.0: 86.2, 0.01: 85.7, 0.1: 85.7, 1.0: 85.1})
    ),
    "batch-size": Ablation(
        SENTENCES, rows_by("{}", "batch_size", dict.fromkeys((32, 64, 128, 256)))
    ),
    "sbert-pooling": Ablation(
        LABELLED_NLI, rows_by("{}", "pooling", {"mean": 80.78, "max": 79.07, "cls": 79.8})
    ),
    "sbert-concatenation": Ablation(
        LABELLED_NLI,
        rows_by(
            "{}",
            "concatenation",
            {
                **{"uv": 66.04, "diff": 69.78, "mul": 70.54, "diff-mul": 78.37},
                **{"uv-mul": 77.44, "uv-diff": 80.78, "uv-diff-mul": 80.44},
            },
        ),
    ),
    "sbert-pooling-stsb": Ablation(
        STSB, rows_by("{}", "pooling", {"mean": 87.44, "max": 69.92, "cls": 86.62})
    ),
}


@dataclasses.dataclass(frozen=True)
class AblationTable:
    """Train every row of the presets, and make the table."""

    eval_data: Path
    """The folder that holds SentEval's STS/: STS-B dev decides."""
    presets: tuple[Preset, ...] = ("augmentation",)
    """The ablations that are run."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    num_layers: int | None = None
    """Keep the model's first so many layers; default: all."""
    pooling: str | None = None
    """The pooling of every row that is not about pooling; default: the papers', cls for SimCSE and
    mean for Sentence-BERT."""
    head: Head | None = None
    """The MLP of SimCSE's rows that are not about it; default: the paper's. With NLI that is
    train_and_test, which needs the pooling cls."""
    train_files: tuple[Path, ...] = ()
    """Files of sentences in reading order, a document each; default: the embedded Wikipedia."""
    nli: tuple[Path, ...] = ()
    """Files of NLI, or of its triplets; without them the presets that need them are not run."""
    steps: int | None = None
    """Every run takes so many steps; default: 125 for SimCSE, the paper's epochs for
    Sentence-BERT."""
    every: int | None = None
    """STS-B dev is scored every so many steps; default: 25 for SimCSE, 125 for Sentence-BERT."""
    batch_size: int | None = None
    """The number of examples of a batch; default: 64 for SimCSE, the paper's without labels (it has
    512 with NLI), and the paper's 16 for Sentence-BERT."""
    learning_rate: float | None = None
    """The largest learning rate; default: 3e-5 for SimCSE, the paper's without labels (it has 5e-5
    with NLI), and the paper's 2e-5 for Sentence-BERT."""
    max_length: int | None = None
    """Sentences are cut to so many tokens; default: 32 for SimCSE, 128 for Sentence-BERT."""
    seeds: tuple[int, ...] = (0,)
    """Every row is trained once for each of these seeds."""
    resume: bool = False
    """Reuse finished runs, and continue an interrupted one."""
    output_dir: Path = Path("runs/ablations")
    """The folder that gets ablations.json, ablations.md, and a folder for each row."""


FIELDS = {
    "num_layers": "num_layers",
    "pooling": "pooling",
    "head": "head",
    "steps": "max_steps",
    "every": "eval_every",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "max_length": "max_length",
}
"""What the user may ask of all runs, and the fields of the configuration that it goes to."""


# ---------------------------------------------------------------------------------------------
# The runs
# ---------------------------------------------------------------------------------------------


def needs_nli(data: DataConfig) -> bool:
    """Return whether a run trains on NLI."""
    return data.labelled_nli or data.columns is not None


def configuration(settings: AblationTable, preset: str, row: Row) -> Config:
    """Return a row's configuration: the preset's, what the user asked for, the row's changes."""
    asked = {field: getattr(settings, name) for name, field in FIELDS.items()}
    asked = {field: value for field, value in asked.items() if value is not None}
    base = ABLATIONS[preset].base
    if not isinstance(base.objective, SimCSE):
        asked.pop("head", None)
    config = replace(base, **{**asked, **row.changes})
    if isinstance(config.objective, SimCSE):
        config.objective.check_pooling(config.model.pooling)
    if config.data.dataset == "stsb":
        files: tuple[Path, ...] = ()
    else:
        files = settings.nli if needs_nli(config.data) else settings.train_files
        files = (settings.output_dir / FILLED,) if row.filled else files
    folder = "".join(c if c.isalnum() or c in ".=" else "-" for c in row.label)
    return replace(
        config,
        model=settings.model,
        train_files=files,
        eval_data=settings.eval_data,
        seed=NLI_SEED,
        seeds=settings.seeds,
        resume=settings.resume,
        output_dir=settings.output_dir / preset / folder,
    )


def check_effect(settings: AblationTable, rows: Sequence[tuple[Row, Config]]) -> None:
    """Refuse options that would change none of the rows.

    Raises:
        ValueError: the message names the option.
    """
    useless = [
        name
        for name, field in FIELDS.items()
        if getattr(settings, name) is not None
        and all(field in row.changes or field not in field_names(config) for row, config in rows)
    ]
    if settings.train_files and not any(of_sentences(config) for _, config in rows):
        useless.append("train_files")
    if settings.nli and not any(needs_nli(config.data) for _, config in rows):
        useless.append("nli")
    if useless:
        raise ValueError(
            f"--{useless[0].replace('_', '-')} has no effect on these presets; leave it out"
        )


def of_sentences(config: Config) -> bool:
    """Return whether a run trains on sentences, and not on NLI or the pairs of STS-B."""
    return not needs_nli(config.data) and config.data.dataset != "stsb"


def read_sentences(settings: AblationTable) -> tuple[str, ...]:
    """Read the sentences that the rows without labels train on.

    Raises:
        ValueError: the files hold pairs or triplets.
    """
    data = replace(SENTENCES, train_files=settings.train_files).data
    text = load_training_data(data, NLI_SEED).text
    if len(text.columns) != 1:
        raise ValueError(
            f"{text.description}; rows without labels need one column of sentences: give a file of "
            "those as --train-files, and NLI or triplets as --nli"
        )
    return text.columns[0]


def check_filled(settings: AblationTable, sentences: Sequence[str]) -> None:
    """Raise ValueError where filled-in positives of other sentences lie in these ones' place."""
    file = settings.output_dir / FILLED
    if file.is_file():
        rows = read_json_lines(file)
        if [row.get("sentence") if isinstance(row, dict) else row for row in rows] != [*sentences]:
            raise ValueError(f"{file} is not of this training text; move it away")


def nli_has(files: tuple[Path, ...]) -> tuple[int, bool]:
    """Return how many columns --nli has for SimCSE, and whether it has labelled pairs.

    Raises:
        ValueError: the files have neither, or cannot be read.
    """
    if not files:
        return 0, False
    errors: list[ValueError] = []

    def columns(read: Callable[[tuple[Path, ...]], TrainingText]) -> int:
        try:
            return len(read(files).columns)
        except ValueError as error:  # no premise has all that are wanted, or the file is damaged
            errors.append(error)
            return 0

    with_neutral = functools.partial(read_training_file, neutral=True)
    found = columns(with_neutral) or columns(read_training_file), columns(read_labelled_nli) > 0
    if not any(found):
        raise errors[0]
    return found


def missing(data: DataConfig, nli_columns: int, nli_labels: bool) -> str | None:
    """Return what a row would need that is not there; None where nothing is missing.

    Args:
        data: of the row.
        nli_columns: how many columns --nli has for SimCSE, 0 where it has none.
        nli_labels: whether --nli has labelled pairs.
    """
    if needs_nli(data) and not nli_columns and not nli_labels:
        return "needs --nli"
    if data.labelled_nli and not nli_labels:
        return "needs premises, hypotheses and labels in --nli"
    if (data.columns or 0) > nli_columns:
        return f"needs {data.columns} columns"
    if data.positives == "synonym":
        try:
            wordnet_synonyms()
        except FileNotFoundError as error:  # WordNet is optional
            return str(error)
    return None


def write_filled(settings: AblationTable, sentences: Sequence[str]) -> str | None:
    """Write sentences with positives that the model has filled in; a resumed table has them.

    Returns:
        Why there can be none; None where there are.
    """
    file = settings.output_dir / FILLED
    if settings.resume and file.is_file():
        return None
    try:
        positives = filled_positives(settings.model, sentences)
    except ValueError as error:
        return str(error)
    rows = ({"sentence": s, "positive": p} for s, p in zip(sentences, positives, strict=True))
    write_text(file, "".join(f"{json.dumps(row)}\n" for row in rows))
    return None


def delete_models(run: Path) -> None:
    """Delete what a finished run of ours has beside its numbers: of a BERT-base two gigabytes."""
    for name in ("checkpoints", "best", "last"):
        shutil.rmtree(run / name, ignore_errors=True)


def scores_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of a finished run on STS-B dev and at the end."""
    metrics = read_json_lines(Path(found["folder"]) / "metrics.jsonl")
    later = [line for line in metrics if "eval" in line]
    return {
        "settings": found["settings"],
        "hardware": found["hardware"],
        "before": found["dev_before"],
        "best": found["dev_best"],
        "best_step": found["best_step"],
        "records": [
            {"step": 0, found["dev_metric"]: found["dev_before"]},
            *({"step": line["step"], **line["eval"]} for line in later),
        ],
        "test": found["best"],
    }


# ---------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------


def in_common(tables: Mapping[str, Any], field: str) -> Any:
    """Return the value of a field that all runs share, or None."""
    runs = [run for rows in tables.values() for row in rows for run in row["runs"]]
    settings = [{"head": None} | run["settings"] for run in runs]  # Sentence-BERT has none
    values = {own[field] for own in settings}
    return values.pop() if len(values) == 1 else None


def cell(row: Mapping[str, Any]) -> str:
    """Return our score as the table prints it."""
    if row["not_run"]:
        return "not run"
    return report.mean_and_deviation([run["best"] for run in row["runs"]])


def table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a preset's rows: label, the paper's score and ours."""
    papers = ["" if row["paper"] is None else str(row["paper"]) for row in rows]
    return [[row["label"], paper, cell(row)] for row, paper in zip(rows, papers, strict=True)]


def likeness(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Say how far the order of our rows is the paper's; None where fewer than three have both.

    Of the rows' means, and, so that one sees what chance does to it, of the rows of each seed that
    all of them have.
    """
    both = [row for row in rows if row["paper"] is not None and row["runs"]]
    if len(both) < 3:
        return None
    papers = np.array([row["paper"] for row in both])

    def rho(ours: Sequence[float]) -> str:
        return f"{spearman(papers, np.array(ours)):.2f}" if np.ptp(ours) else "none, all are equal"

    by_seed = [{run["settings"]["seed"]: run["best"] for run in row["runs"]} for row in both]
    means = [float(np.mean(list(scores.values()))) for scores in by_seed]
    text = f"ρ between the paper's {len(both)} rows and ours: {rho(means)}"
    shared = sorted(set.intersection(*map(set, by_seed)))
    if len(shared) > 1:
        seeds = ", ".join(rho([own[seed] for own in by_seed]) for seed in shared)
        text += f"; of seeds {', '.join(map(str, shared))} alone: {seeds}"
    return f"Spearman's {text}."


def seeds_of(row: Mapping[str, Any]) -> list[int]:
    """Return the seeds of a row's runs."""
    return [run["settings"]["seed"] for run in row["runs"]]


def markdown(results: Mapping[str, Any]) -> str:
    """Return all tables in Markdown, drawn from the results alone."""
    how = results["settings"]
    ours = [how["model"]]
    if how["num_layers"]:
        ours.append(f"first {counted(how['num_layers'], 'layer')}")
    ours += [f"{name} {how[name]}" for name in ("pooling", "head") if how.get(name)]
    if how["steps"] or how["batch_size"]:
        steps = counted(how["steps"], "step") if how["steps"] else "batches"
        ours.append(f"{steps} of {how['batch_size']}" if how["batch_size"] else steps)
    if how["learning_rate"]:
        ours.append(f"learning rate {how['learning_rate']:g}")
    ours.append(f"seeds {', '.join(map(str, how['seeds']))}")
    parts = [
        f"Best Spearman × 100 on STS-B dev. Ours: {', '.join(ours)}; {results['hardware']}. "
        "Paper: BERT-base.",
    ]
    for preset, rows in results["tables"].items():
        parts += [f"## {preset}", report.markdown(["row", "paper", "ours"], table(rows))]
        if (order := likeness(rows)) is not None:
            parts.append(order)
        if others := [row for row in rows if row["runs"] and seeds_of(row) != list(how["seeds"])]:
            named = (f"{row['label']} ({', '.join(map(str, seeds_of(row)))})" for row in others)
            parts.append(f"Not of all seeds: {', '.join(named)}.")
        reasons = [(row["label"], row["not_run"]) for row in rows if row["not_run"]]
        if reasons:
            parts.append("\n".join(f"Not run: {label} ({why})." for label, why in reasons))
    return "\n\n".join(parts) + "\n"


def main(settings: AblationTable) -> None:
    """Train every row, write both files, and print the tables."""
    if not settings.presets or not settings.seeds:
        raise ValueError("--presets and --seeds need one each or more")
    if len(set(settings.presets)) < len(settings.presets):
        raise ValueError("a preset is named twice; name each once")
    read_stsb(settings.eval_data, "dev")  # of a file of pairs the scores would be of those
    # All of them first: what cannot be should not come out after hours of training.
    configs = {
        preset: [(row, configuration(settings, preset, row)) for row in ABLATIONS[preset].rows]
        for preset in settings.presets
    }
    all_rows = [found for rows in configs.values() for found in rows]
    check_effect(settings, all_rows)
    with_sentences = any(of_sentences(config) for _, config in all_rows)
    sentences = read_sentences(settings) if with_sentences else ()
    if any(row.filled for row, _ in all_rows):
        check_filled(settings, sentences)
    of_nli = nli_has(settings.nli)
    tables: dict[str, list[dict[str, Any]]] = {preset: [] for preset in configs}
    for preset, rows in configs.items():
        for row, config in rows:
            why = missing(config.data, *of_nli)
            if row.filled and not why:
                why = write_filled(settings, sentences)
            if why:
                report.console.print(f"{preset}, {row.label}: not run ({why})")
            finished = [] if why else train_seeds(config)
            for found in finished:
                delete_models(Path(found["folder"]))
            runs = [scores_of(found) for found in finished]
            known = {"label": row.label, "paper": row.paper, "not_run": why, "runs": runs}
            tables[preset].append(known)
    if not any(row["runs"] for rows in tables.values() for row in rows):
        raise ValueError("no row of these presets can be run; what each needs stands above")
    how = {name: in_common(tables, field) for name, field in FIELDS.items()}
    results = report.results_record(settings, **how) | {"tables": tables}
    write_json(settings.output_dir / "ablations.json", results)
    write_text(settings.output_dir / "ablations.md", markdown(results))
    for preset, of_preset in tables.items():
        title = f"{preset}: best Spearman × 100 on STS-B dev"
        report.print_table(title, ["row", "paper, BERT-base", "ours"], table(of_preset))
    report.console.print(f"{settings.output_dir}: ablations.json, ablations.md and every run")


if __name__ == "__main__":
    run_script(main, AblationTable, __doc__)
