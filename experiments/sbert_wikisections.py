r"""Sentence-BERT on Wikipedia's sections (Reimers & Gurevych 2019, section 4.4).

    python -m experiments.sbert_wikisections --dump enwiki-latest-pages-articles.xml.bz2 \
        --model bert-base-uncased --output-dir runs/sbert_wikisections

A triplet is two sentences of one section and one of another section of the same article; training
should bring the first two nearer to each other than to the third. The defaults are the paper's (one
epoch, batch 16, Adam with learning rate 2e-5 after a warm-up of 10 %, mean pooling, Euclidean
distance, margin 1), but for the model, which is the embedded MiniLM, and the text, which is the
embedded Wikipedia.

A fifth of the articles is held out for the test, the same as `make demo` scores, and a tenth of the
others for choosing the best model. Accuracy is the share of triplets in which the positive is
nearer: of at most 50 triplets an article, in Euclidean distance and by cosine, and of all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments import runs
from experiments.runs import Column
from experiments.sbert import RunSettings, sbert_recipe, sbert_settings
from simcse_jax import SentenceEncoder
from simcse_jax.cli import run_or_explain
from simcse_jax.data.training_text import TrainingText
from simcse_jax.data.wikipedia import (
    SectionTriplet,
    embedded_wikipedia,
    read_articles,
    section_triplets,
    split_articles,
)
from simcse_jax.evaluation.triplets import triplet_accuracy
from simcse_jax.losses.triplet import Distance

# The test's articles and triplets are those of experiments.demo.
TEST_FRACTION, DEV_FRACTION, SPLIT_SEED, DEV_SEED = 0.2, 0.1, 0, 1
TRIPLETS_PER_ARTICLE = 50


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings):
    """Sentence-BERT on Wikipedia's sections."""

    dump: Path | None = None
    """A MediaWiki XML dump, plain, bz2 or gzip. Default: the embedded Wikipedia."""
    per_article: int | None = None
    """At most so many training triplets of an article. Default: each sentence is an anchor once."""
    margin: float = 1.0
    """ε."""
    distance: Distance = "euclidean"
    """Of the loss, and of the choice of the best model."""
    eval_data: Path | None = None
    """SentEval's folder: STS too before and after. Default: sections alone."""
    output_dir: Path = Path("runs/sbert_wikisections")
    """The run's folder."""


def read_triplets(
    settings: Settings,
) -> tuple[TrainingText, dict[str, list[SectionTriplet]]]:
    """The training triplets, and those of the parts "dev", "test" and "all" (of the test)."""
    if settings.dump is None:
        articles, source = embedded_wikipedia(progress=True), "embedded Wikipedia"
    else:
        articles, source = list(read_articles(settings.dump, progress=True)), settings.dump.name
    rest, test = split_articles(articles, TEST_FRACTION, SPLIT_SEED)
    train, dev = split_articles(rest, DEV_FRACTION, DEV_SEED)
    chosen = section_triplets(train, seed=settings.seed, per_article=settings.per_article)
    parts = {
        "dev": section_triplets(dev, seed=SPLIT_SEED, per_article=TRIPLETS_PER_ARTICLE),
        "test": section_triplets(test, seed=SPLIT_SEED, per_article=TRIPLETS_PER_ARTICLE),
        "all": section_triplets(test, seed=SPLIT_SEED),
    }
    for name, triplets in {"training": chosen, **parts}.items():
        if not triplets:
            raise ValueError(f"{source} ({len(articles)} articles) has no triplet for {name}")
    columns = zip(*((t.anchor, t.positive, t.negative) for t in chosen), strict=True)
    description = (
        f"{source}: {len(chosen):,} section triplets of {len(train)} articles; tested on "
        f"{len(parts['all']):,} of {len(test)} others, the best chosen on {len(parts['dev']):,} "
        f"of {len(dev)}"
    )
    return TrainingText(tuple(tuple(column) for column in columns), description), parts


def accuracy(
    encoder: SentenceEncoder, triplets: Sequence[SectionTriplet], distances: Sequence[Distance]
) -> list[float]:
    """Triplet accuracy × 100, by each distance."""
    columns = [[getattr(t, name) for t in triplets] for name in ("anchor", "positive", "negative")]
    flat = [sentence for column in columns for sentence in column]
    vectors = encoder.encode(flat, normalize=False, show_progress=False)
    a, p, n = np.split(vectors, 3)
    return [triplet_accuracy(a, p, n, distance) for distance in distances]


def main(settings: Settings) -> dict[str, float]:
    """Train every seed, close with a table, and return the columns' means."""
    text, parts = read_triplets(settings)

    def evaluate(encoder: SentenceEncoder) -> dict[str, float]:
        return {"sections_dev": accuracy(encoder, parts["dev"], [settings.distance])[0]}

    def test(encoder: SentenceEncoder, _: Path | None) -> dict[str, Any]:
        euclidean, cosine = accuracy(encoder, parts["test"], ["euclidean", "cosine"])
        (of_all,) = accuracy(encoder, parts["all"], ["euclidean"])
        sections = {"sections": euclidean, "sections_cosine": cosine, "sections_all": of_all}
        return sections | (
            {} if settings.eval_data is None else runs.test_scores(encoder, settings)
        )

    def columns(best: dict[str, Any], last: dict[str, Any]) -> Sequence[Column]:
        both = (("best", best), ("last", last))
        shown = [Column(f"sections_{w}", f"test, {w}", scores["sections"]) for w, scores in both]
        others = [
            Column(f"{name}_{which}", "", scores[name])
            for name in ("sections_cosine", "sections_all")
            for which, scores in both
        ]
        sts = [] if settings.eval_data is None else runs.sts_columns(best, last)
        renamed = [c._replace(heading=c.heading.replace("test", "STS-B")) for c in sts]
        return [*shown, *others, *renamed]

    recipe = sbert_recipe(
        text,
        sbert_settings(settings, objective="triplet"),
        evaluate=evaluate,
        best_metric="sections_dev",
        test=test,
        test_columns=columns,
    )
    return runs.train_seeds(settings, recipe, "dev", "section-triplet accuracy")


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings_))
