r"""Retrieval with reduced whitening (Su et al. 2021, section 4.4): quality, memory and time by k.

    python -m experiments.tables.retrieval --pooling cls --output-dir experiments/results

The paper's claim is that whitening with k dimensions searches faster in less memory at no loss of
quality. Here the corpus is every distinct sentence of the embedded Wikipedia; a query is one of
them, and what it should find are the other sentences of its section. Measured are MRR@10 as in the
paper, and the share of queries with a sentence of their section among the ten nearest, both by
cosine, exact search, the query itself excluded.

Whitening is fitted to the corpus (no labels). Memory is that of the float32 vectors. Search time is
the median over `repeats` passes, the dimensions taking turns: one query at a time, and all queries
at once. Encoding is not in it. It writes retrieval_POOLING.json and .png.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from experiments import report
from experiments.script import run_script
from experiments.tables.frozen import load_frozen
from simcse_jax.checks import check_count, check_seed
from simcse_jax.data.wikipedia import Article, embedded_wikipedia
from simcse_jax.evaluation.search import similarity_search
from simcse_jax.io import write_json
from simcse_jax.losses.geometry import unit_rows
from simcse_jax.transforms import Whitening

TOP_K = 10
Vectors = Float[np.ndarray, "n D"]


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Retrieval by raw and whitened vectors of several sizes."""

    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    pooling: str = "cls"
    """The encoder's pooling."""
    num_layers: int | None = None
    """Keep the model's first so many layers."""
    dimensions: tuple[int, ...] = (256, 128, 64, 32)
    """Whitening keeps so many dimensions, a row for each number; all are always a row too."""
    queries: int = 2000
    """So many sentences are searched with, drawn from those with a neighbour in their section."""
    single_queries: int = 100
    """So many of them are also searched with one at a time, for the time of one."""
    repeats: int = 5
    """So many passes over the queries are timed for each size."""
    seed: int = 0
    """The seed of the choice of queries."""
    output_dir: Path = Path("runs/retrieval")
    """The folder that gets the JSON file and the picture."""


def sections_of(articles: Sequence[Article]) -> tuple[list[str], Int[np.ndarray, " n"]]:
    """Return every distinct sentence, and the number of the section where it stands first."""
    section_of: dict[str, int] = {}
    every = (section for article in articles for section in article.sections)
    for number, section in enumerate(every):
        for sentence in section.sentences:
            section_of.setdefault(sentence, number)
    return list(section_of), np.array(list(section_of.values()))


def choose_queries(sections: Int[np.ndarray, " n"], number: int, seed: int) -> Int[np.ndarray, "m"]:
    """Draw rows whose section holds another row."""
    candidates = np.flatnonzero(np.bincount(sections)[sections] > 1)
    if number > len(candidates):
        raise ValueError(f"--queries is {number}, but only {len(candidates)} sentences can be one")
    return np.sort(np.random.default_rng(seed).choice(candidates, number, replace=False))


def quality(
    found: Int[np.ndarray, "m k"],
    queries: Int[np.ndarray, " m"],
    sections: Int[np.ndarray, " n"],
) -> dict[str, float]:
    """MRR@10 and success@10, times 100.

    Args:
        found: for every query the rows found, best first: one more than is looked at, since the
            query is among them as a rule; it is taken out.
        queries: the queries' own rows.
        sections: the section of every row; a row is relevant in the query's section.
    """
    # A stable sort moves the query itself to the end and keeps the others' order.
    order = np.argsort(found == queries[:, None], axis=1, kind="stable")[:, :TOP_K]
    rows = np.take_along_axis(found, order, axis=1)
    relevant = (sections[rows] == sections[queries][:, None]) & (rows != queries[:, None])
    first = np.argmax(relevant, axis=1)
    hit = relevant.any(axis=1)
    return {
        "mrr_at_10": 100 * float(np.mean(np.where(hit, 1 / (1 + first), 0))),
        "success_at_10": 100 * float(np.mean(hit)),
    }


def search(
    queries: Float[np.ndarray, "m D"], corpus: Float[np.ndarray, "n D"]
) -> Int[np.ndarray, "m k"]:
    """Return the rows that each query finds; vectors have unit norm already."""
    return similarity_search(
        queries, corpus, TOP_K + 1, similarity="dot", show_progress=False
    ).indices


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw quality and time against the number of dimensions."""
    plt = report.pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    white = sorted((r for r in rows if r["method"] != "raw"), key=lambda r: r["dimensions"])
    raw = next(r for r in rows if r["method"] == "raw")
    size = [r["dimensions"] for r in white]
    left.plot(size, [r["mrr_at_10"] for r in white], "o-", color="#0072b2", label="whitening")
    left.axhline(raw["mrr_at_10"], color="#d55e00", ls="--", label=f"raw, {raw['dimensions']}")
    left.set_ylabel("MRR@10 × 100")
    left.set_ylim(0, 1.1 * max(r["mrr_at_10"] for r in rows))
    right.plot(size, [r["batch_ms"] for r in white], "o-", color="#0072b2", label="all at once")
    right.plot(size, [r["single_ms"] for r in white], "s:", color="#009e73", label="one at a time")
    right.set_ylabel("search time of a query, ms")
    right.set_yscale("log")  # a query alone waits for the corpus, many share its way
    for axes in (left, right):
        axes.set_xlabel("dimensions kept")
        axes.set_xticks(size, [str(s) for s in size], rotation=45)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    report.write_figure(path, figure)
    plt.close(figure)


def vectors_by_size(settings: Retrieval, raw: Vectors) -> list[tuple[str, Vectors]]:
    """Return the raw unit vectors, and the whitened ones from the most dimensions to the fewest."""
    whole = unit_rows(Whitening.fit(raw)(raw))
    for k in settings.dimensions:
        if not 1 <= k <= whole.shape[1]:
            raise ValueError(f"--dimensions {k}: of these vectors 1 to {whole.shape[1]} vary")
    fewer = [k for k in sorted(settings.dimensions, reverse=True) if k < whole.shape[1]]
    white = [whole, *(unit_rows(Whitening.fit(raw, k)(raw)) for k in fewer)]
    return [("raw", unit_rows(raw)), *(("whitening", x) for x in white)]


def search_times(
    settings: Retrieval, vectors: Sequence[Vectors], queries: Int[np.ndarray, " m"]
) -> list[dict[str, float]]:
    """Return for each set of vectors the median milliseconds of a query, alone and among all."""
    batch: list[list[float]] = [[] for _ in vectors]
    single: list[list[float]] = [[] for _ in vectors]
    singles = queries[: settings.single_queries]
    for _ in tqdm(range(settings.repeats), desc="timing", unit=" pass"):
        for x, of_batch, of_single in zip(vectors, batch, single, strict=True):
            start = time.perf_counter()
            search(x[queries], x)
            of_batch.append(1000 * (time.perf_counter() - start) / len(queries))
            start = time.perf_counter()
            for row in singles:
                search(x[row : row + 1], x)
            of_single.append(1000 * (time.perf_counter() - start) / len(singles))
    return [
        {"batch_ms": float(np.median(of_batch)), "single_ms": float(np.median(of_single))}
        for of_batch, of_single in zip(batch, single, strict=True)
    ]


def main(settings: Retrieval) -> list[dict[str, Any]]:
    """Encode, fit, search, and close with a table."""
    report.pyplot()  # where it is missing, said at once
    for name in ("queries", "single_queries", "repeats"):
        check_count(name, getattr(settings, name))
    check_seed("seed", settings.seed)
    sentences, sections = sections_of(embedded_wikipedia(progress=True))
    queries = choose_queries(sections, settings.queries, settings.seed)
    encoder = load_frozen(settings.model, settings.pooling, settings.num_layers)
    vectors = vectors_by_size(settings, encoder.encode(sentences, normalize=False))
    rows: list[dict[str, Any]] = []
    for method, x in vectors:  # the first search compiles; its time is not kept
        scores = quality(search(x[queries], x), queries, sections)
        search(x[queries[:1]], x)
        row = {"method": method, "dimensions": x.shape[1], **scores}
        rows.append(row | {"memory_mb": x.nbytes / 1e6})
    times = search_times(settings, [x for _, x in vectors], queries)
    rows = [row | own for row, own in zip(rows, times, strict=True)]

    report.print_table(
        f"{len(sentences):,} sentences, {len(queries):,} queries, exact search",
        ["vectors", "dimensions", "MRR@10", "success@10", "MB", "ms a query", "ms, single"],
        [
            [
                *(row["method"], str(row["dimensions"])),
                *(f"{row[name]:.2f}" for name in ("mrr_at_10", "success_at_10", "memory_mb")),
                *(f"{row['batch_ms']:.3f}", f"{row['single_ms']:.2f}"),
            ]
            for row in rows
        ],
    )
    output = settings.output_dir / f"retrieval_{settings.pooling}.json"
    results = report.results_record(settings) | {"sentences": len(sentences), "rows": rows}
    write_json(output, results)
    draw(rows, output.with_suffix(".png"))
    report.console.print(f"numbers and picture: {output}, .png")
    return rows


if __name__ == "__main__":
    run_script(main, Retrieval, __doc__)
