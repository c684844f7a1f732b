r"""SimCSE's ablations: one change at a time, on STS-B dev, beside the paper's numbers.

    python -m experiments.ablations --eval-data SENTEVAL/data/downstream \
        --presets augmentation dropout --seeds 0 1 2 --output-dir runs/ablations

    preset                   of the paper                   needs
    augmentation             positives, table 1             for one row nltk with WordNet
    objective                positives, table 2             text in reading order
    dropout                  table 3
    pooler, pooler-nli       unsupervised and supervised    the second --nli
    temperature              table D.1                      --nli
    hard-negative            the weight of the negative     --nli
    mlm                      λ of the auxiliary loss        --nli
    batch-size               no numbers are printed

The text is the embedded Wikipedia or --train-file. A run's score is the best of its evaluations on
STS-B dev, every --every steps, as in the paper. Finished runs lie in OUTPUT_DIR/PRESET and are
reused with --resume. It writes ablations.json (every run) and ablations.md (what is printed). The
paper's numbers are of BERT-base on a million sentences, or on all NLI triplets where --nli is
needed (that temperature and mlm are of those is read off their best value): only the order of the
rows can be compared with a small run's.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from experiments import report
from simcse_jax import SentenceEncoder, hub
from simcse_jax.cli import run_or_explain
from simcse_jax.data.augmentation import (
    augmented_pairs,
    crop,
    delete_one_word,
    delete_words,
    mask_words,
    next_sentence_pairs,
    replace_synonym,
    wordnet_synonyms,
)
from simcse_jax.data.senteval import Pairs, read_stsb
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.data.training_batches import TrainingBatches
from simcse_jax.data.training_text import TrainingText, read_sentences, read_training_file
from simcse_jax.data.wikipedia import embedded_wikipedia
from simcse_jax.evaluation.sts import paired_similarity, spearman
from simcse_jax.io import read_json, write_json, write_text
from simcse_jax.machine import hardware
from simcse_jax.training import (
    Evaluation,
    MaskingTokens,
    SiameseBatch,
    TrainSettings,
    compile_step,
    create_state,
    fit,
    make_mesh,
    make_optimizer,
    model_params,
    replicate,
    simcse_step,
)

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
]
Documents = Sequence[Sequence[str]]
Evaluate = Callable[[SentenceEncoder], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of an ablation: what differs from SimCSE, and the paper's score.

    Attributes:
        label: of the row.
        paper: Spearman × 100 on STS-B dev; None where none is printed.
        change: fields of `TrainSettings`.
        dropout: of the encoder, instead of its own.
        positives: the training text from documents in reading order and a seed.
        batch_size: instead of the run's.
        columns: of the NLI triplets (3: with the hard negative); None for the text.
        not_run: why it cannot be run here.
    """

    label: str
    paper: float | None = None
    change: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dropout: float | None = None
    positives: Callable[[Documents, int], TrainingText] | None = None
    batch_size: int | None = None
    columns: int | None = None
    not_run: str | None = None


def sentences_of(documents: Documents) -> TrainingText:
    """All sentences: each is its own positive."""
    return TrainingText((tuple(s for document in documents for s in document),))


def augmented(augmentation: Any) -> Callable[[Documents, int], TrainingText]:
    """Positives by an augmentation, which is made when it is needed."""

    def positives(documents: Documents, seed: int) -> TrainingText:
        return augmented_pairs(sentences_of(documents), augmentation, seed)

    return positives


def with_synonyms(documents: Documents, seed: int) -> TrainingText:
    """Positives with one word replaced by a synonym of WordNet."""
    replace = functools.partial(replace_synonym, synonyms=wordnet_synonyms())
    return augmented_pairs(sentences_of(documents), replace, seed)


def following(window: int) -> Callable[[Documents, int], TrainingText]:
    """Positives among the next sentences."""
    return lambda documents, seed: next_sentence_pairs(documents, window, seed)


TWO = {"two_encoders": True}
KEPT = {"head": "train_and_test"}
VARIANTS: dict[str, tuple[Variant, ...]] = {
    "augmentation": (
        Variant("none (dropout)", 82.5),
        *(
            Variant(
                f"crop {k} %", paper, positives=augmented(functools.partial(crop, share=k / 100))
            )
            for k, paper in ((10, 77.8), (20, 71.4), (30, 63.6))
        ),
        *(
            Variant(
                f"word deletion {k} %",
                paper,
                positives=augmented(functools.partial(delete_words, share=k / 100)),
            )
            for k, paper in ((10, 75.9), (20, 72.2), (30, 68.2))
        ),
        Variant("delete one word", 75.9, positives=augmented(delete_one_word)),
        Variant(
            "delete one word, no dropout", 74.2, dropout=0, positives=augmented(delete_one_word)
        ),
        Variant("synonym", 77.4, positives=with_synonyms),
        Variant("masked words 15 %", 62.2, positives=augmented(mask_words)),
    ),
    "objective": (
        Variant("next sentence", 67.1, positives=following(1)),
        Variant("next 3 sentences", 67.4, positives=following(3)),
        Variant("delete one word", 75.9, positives=augmented(delete_one_word)),
        Variant("SimCSE", 82.5),
        Variant("next sentence, two encoders", 68.9, TWO, positives=following(1)),
        Variant("next 3 sentences, two encoders", 68.8, TWO, positives=following(3)),
        Variant("delete one word, two encoders", 73.1, TWO, positives=augmented(delete_one_word)),
        Variant("SimCSE, two encoders", 80.7, TWO),
    ),
    "dropout": (
        *(
            Variant(f"p = {p:g}", paper, dropout=p)
            for p, paper in (
                (0.0, 71.1),
                (0.01, 72.6),
                (0.05, 81.1),
                (0.1, 82.5),
                (0.15, 81.4),
                (0.2, 80.5),
                (0.5, 71.0),
            )
        ),
        Variant("fixed 0.1", 43.6, {"shared_dropout": True}, dropout=0.1),
    ),
    "pooler": (
        Variant("cls with MLP", 81.7, KEPT),
        Variant("cls with MLP, in training only", 82.5, {"head": "train_only"}),
        Variant("cls without MLP", 80.9, {"head": "none"}),
        Variant("first-last", 81.2, {"head": "none", "pooling": "first-last"}),
    ),
    "pooler-nli": (
        Variant("cls with MLP", 86.2, KEPT, columns=3),
        Variant("cls with MLP, in training only", 85.8, {"head": "train_only"}, columns=3),
        Variant("cls without MLP", 86.2, {"head": "none"}, columns=3),
        Variant("first-last", 86.1, {"head": "none", "pooling": "first-last"}, columns=3),
    ),
    "temperature": (
        Variant(
            "inner product", 85.9, {**KEPT, "similarity": "dot", "temperature": 1.0}, columns=3
        ),
        *(
            Variant(f"τ = {t:g}", paper, {**KEPT, "temperature": t}, columns=3)
            for t, paper in ((0.001, 84.9), (0.01, 85.4), (0.05, 86.2), (0.1, 82.0), (1.0, 64.0))
        ),
    ),
    "hard-negative": (
        Variant("none", 84.9, KEPT, columns=2),
        *(
            Variant(f"α = {a:g}", paper, {**KEPT, "hard_negative_weight": math.log(a)}, columns=3)
            for a, paper in ((0.5, 86.1), (1.0, 86.2), (2.0, 86.2))
        ),
        Variant("contradiction and neutral", 85.3, not_run="triplets have one hard negative"),
    ),
    "mlm": tuple(
        Variant(f"λ = {weight:g}", paper, {**KEPT, "mlm_weight": weight}, columns=3)
        for weight, paper in ((0.0, 86.2), (0.01, 85.7), (0.1, 85.7), (1.0, 85.1))
    ),
    "batch-size": tuple(Variant(f"{size}", batch_size=size) for size in (32, 64, 128, 256)),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train every row of the presets, and make the table."""

    eval_data: Path
    """The folder that holds SentEval's STS/: STS-B dev decides."""
    presets: tuple[Preset, ...] = ("augmentation",)
    """Which tables."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    num_layers: int | None = None
    """Keep the first so many layers."""
    train_file: tuple[Path, ...] = ()
    """Sentences in reading order, a document a file; default: the embedded Wikipedia."""
    nli: tuple[Path, ...] = ()
    """NLI files or triplets, for the supervised tables."""
    steps: int = 125
    """Of every run."""
    every: int = 25
    """So many steps between two evaluations."""
    batch_size: int = 64
    learning_rate: float = 3e-5
    """Falling linearly to 0."""
    max_length: int = 32
    """In tokens."""
    seeds: tuple[int, ...] = (0,)
    """A run for each."""
    resume: bool = False
    """Reuse finished runs."""
    output_dir: Path = Path("runs/ablations")
    """Gets ablations.json, ablations.md, and PRESET/ROW-seed-K.json."""


def train_variant(
    variant: Variant,
    text: TrainingText,
    evaluate: Evaluate,
    *,
    model: str,
    num_layers: int | None,
    steps: int,
    every: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    max_length: int = 32,
) -> list[dict[str, Any]]:
    """Train from a model for a few steps; what `evaluate` says of it before, on the way and after.

    Returns:
        A record for step 0, every ``every`` steps and the last: ``{"step", …}``.
    """
    folder = hub.find_model(model)
    config, params = hub.load_params(folder, hub.read_config(folder), num_layers)
    if variant.dropout is not None:
        config = dataclasses.replace(
            config,
            hidden_dropout_prob=variant.dropout,
            attention_probs_dropout_prob=variant.dropout,
        )
    tokenizer = Tokenizer.from_folder(folder, hub.read_settings(folder).do_lower_case)
    options: dict[str, Any] = {"learning_rate": learning_rate, "max_steps": steps}
    train = TrainSettings(**(options | dict(variant.change)))
    mesh = make_mesh()
    batches = TrainingBatches(
        text,
        tokenizer,
        variant.batch_size or batch_size,
        max_length=max_length,
        seed=seed,
        device_count=mesh.size,
    )
    masking = None
    if train.mlm_weight:
        if tokenizer.mask_id is None:
            raise ValueError(f"{folder} has no mask token, which mlm_weight needs")
        masking = MaskingTokens(tokenizer.mask_id, tuple(tokenizer.special_ids()))
    optimizer = make_optimizer(train, steps)
    root = jax.random.key(seed)
    state = create_state(config, train, params, optimizer, jax.random.fold_in(root, 0))
    step = compile_step(simcse_step(config, train, optimizer, masking=masking, mesh=mesh), mesh)
    records: list[dict[str, Any]] = []

    def measure(trained: Any) -> dict[str, float]:
        encoder = SentenceEncoder(
            config,
            jax.tree.map(np.asarray, model_params(trained, train)),
            tokenizer,
            hub.EncoderSettings(train.test_pooling),
        )
        records.append(dict(evaluate(encoder)))
        return {}

    measure(state.params)
    fit(
        step,
        replicate(state, mesh),
        lambda start: (
            SiameseBatch(b.sentences, b.rows) for b in batches.packed_batches(start, steps)
        ),
        replicate(root, mesh),
        steps,
        evaluation=Evaluation(every, measure),
        log_every=every,
        description=variant.label,
    )
    numbers = [*range(0, steps, every), steps]
    return [{"step": n, **r} for n, r in zip(numbers, records, strict=True)]


def dev_score(encoder: SentenceEncoder, dev: Pairs) -> dict[str, float]:
    """Spearman × 100 on STS-B dev."""
    vectors = encoder.encode([*dev.sentences1, *dev.sentences2], show_progress=False)
    first, second = np.split(vectors, 2)
    return {"stsb_dev": 100 * spearman(paired_similarity(first, second), dev.scores)}


def read_documents(files: Sequence[Path]) -> list[list[str]]:
    """Each file a document, or each section of the embedded Wikipedia."""
    if files:
        return [read_sentences(file) for file in files]
    articles = embedded_wikipedia(progress=True)
    return [list(section.sentences) for article in articles for section in article.sections]


def training_text(
    variant: Variant, documents: Documents, triplets: TrainingText | None, seed: int
) -> TrainingText | str:
    """What a row trains on, or why it cannot be run here."""
    if variant.not_run:
        return variant.not_run
    if variant.columns is not None:
        if triplets is None:
            return "needs --nli"
        if len(triplets.columns) < variant.columns:
            return f"needs {variant.columns} columns"
        return TrainingText(triplets.columns[: variant.columns])
    if variant.positives is None:
        return sentences_of(documents)
    try:
        return variant.positives(documents, seed)
    except FileNotFoundError as error:  # WordNet is optional
        return str(error)


def run_row(
    settings: Settings, preset: str, variant: Variant, text: TrainingText, seed: int, dev: Pairs
) -> dict[str, Any]:
    """One run, or the finished one."""
    fixed = {
        name: getattr(settings, name)
        for name in ("model", "num_layers", "steps", "every", "learning_rate", "max_length")
    } | {
        "batch_size": variant.batch_size or settings.batch_size,
        "change": dict(variant.change),
        "dropout": variant.dropout,
        "seed": seed,
        "text": text.fingerprint,
    }
    name = "".join(c if c.isalnum() or c in ".=" else "-" for c in variant.label)
    file = settings.output_dir / preset / f"{name}-seed-{seed}.json"
    if settings.resume and file.exists():
        results = read_json(file)
        if results["settings"] != fixed:
            raise ValueError(f"{file} is of other settings; choose another folder")
        return results
    records = train_variant(
        variant,
        text,
        functools.partial(dev_score, dev=dev),
        model=settings.model,
        num_layers=settings.num_layers,
        steps=settings.steps,
        every=settings.every,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=seed,
        max_length=settings.max_length,
    )
    best = max(records[1:], key=lambda record: record["stsb_dev"])
    results = {
        "settings": fixed,
        "before": records[0]["stsb_dev"],
        "best": best["stsb_dev"],
        "best_step": best["step"],
        "records": records,
    }
    write_json(file, results)
    return results


def cell(row: Mapping[str, Any]) -> str:
    """Our score as the table prints it."""
    if row["not_run"]:
        return "not run"
    return report.mean_and_deviation([run["best"] for run in row["runs"]])


def table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A preset's rows: label, the paper's score and ours."""
    papers = ["" if row["paper"] is None else f"{row['paper']:.1f}" for row in rows]
    return [[row["label"], paper, cell(row)] for row, paper in zip(rows, papers, strict=True)]


def markdown(results: Mapping[str, Any]) -> str:
    """All tables, drawn from the results alone."""
    how = results["settings"]
    parts = [
        f"Best Spearman × 100 on STS-B dev. Ours: {how['model']}"
        + (f", first {how['num_layers']} layers" if how["num_layers"] else "")
        + f", {how['steps']} steps of {how['batch_size']}, learning rate {how['learning_rate']:g}, "
        f"seeds {', '.join(map(str, how['seeds']))}; {results['hardware']}. Paper: BERT-base.",
    ]
    for preset, rows in results["tables"].items():
        parts += [f"## {preset}", report.markdown(["row", "paper", "ours"], table(rows))]
        reasons = [(row["label"], row["not_run"]) for row in rows if row["not_run"]]
        if reasons:
            parts.append("\n".join(f"Not run: {label} ({why})." for label, why in reasons))
    return "\n\n".join(parts) + "\n"


def main(settings: Settings) -> None:
    """Run, write, print."""
    if settings.steps < 1 or settings.every < 1:
        raise ValueError("--steps and --every must be at least 1")
    if not settings.presets or not settings.seeds:
        raise ValueError("--presets and --seeds need one each or more")
    dev = read_stsb(settings.eval_data, "dev")
    triplets = read_training_file(settings.nli) if settings.nli else None
    documents = read_documents(settings.train_file)
    tables: dict[str, list[dict[str, Any]]] = {}
    for preset in settings.presets:
        rows = tables.setdefault(preset, [])
        for variant in VARIANTS[preset]:
            row: dict[str, Any] = {"label": variant.label, "paper": variant.paper}
            runs, why = [], None
            for seed in settings.seeds:
                text = training_text(variant, documents, triplets, seed)
                if isinstance(text, str):
                    why = text
                    report.console.print(f"{preset}, {variant.label}: not run ({why})")
                    break
                runs.append(run_row(settings, preset, variant, text, seed, dev))
            rows.append(row | {"not_run": why, "runs": runs})
    how = report.settings_record(settings)
    results = {"settings": how, "hardware": hardware(), "tables": tables}
    write_json(settings.output_dir / "ablations.json", results)
    write_text(settings.output_dir / "ablations.md", markdown(results))
    for preset, rows in tables.items():
        title = f"{preset}: best Spearman × 100 on STS-B dev"
        report.print_table(title, ["row", "paper, BERT-base", "ours"], table(rows))
    report.console.print(f"{settings.output_dir}: ablations.json, ablations.md and every run")


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings_))
