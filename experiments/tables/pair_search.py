r"""Why a bi-encoder: the most similar pair among n sentences (Sentence-BERT, introduction).

    python -m experiments.tables.pair_search --output-dir experiments/results

A cross-encoder reads both sentences of a pair together, so it runs n(n-1)/2 times; a bi-encoder
runs n times, and the vectors are compared. Both have the same encoder here, and both are measured:
every time is the shortest of `repeats`, compilation not in it. Beyond the measured n the curves are
extrapolated (n(n-1)/2 times the largest measured n's time a pair; n times its time a sentence, and
its search time growing with n²), which the picture draws dashed and the table marks.

The cross-encoder has no trained head: its scores mean nothing, only its time does, and that does
not depend on the weights. It writes pair_search.json and .png.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from experiments import report
from experiments.script import run_script
from simcse_jax import SentenceEncoder
from simcse_jax.data.wikipedia import embedded_wikipedia, sentences
from simcse_jax.evaluation.search import similarity_search
from simcse_jax.io import write_json


@dataclasses.dataclass(frozen=True)
class PairSearch:
    """Time both ways to the most similar pair."""

    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    cross: tuple[int, ...] = (10, 20, 40, 80)
    """Numbers of sentences whose pairs are all cross-encoded."""
    bi: tuple[int, ...] = (10, 20, 40, 80, 500, 4000)
    """Numbers of sentences that are encoded one by one."""
    extrapolate: int = 10_000
    """Times are extrapolated to so many sentences; at the paper's 10,000 they were 65 hours
    against 5 seconds, with BERT-base on a V100."""
    words: tuple[int, int] = (8, 30)
    """The shortest and the longest sentence that is taken, in words."""
    repeats: int = 2
    """Each time is the shortest of so many runs."""
    seed: int = 0
    """The seed of the choice of sentences, and of the cross-encoder's head."""
    output_dir: Path = Path("runs/pair_search")
    """The folder that gets the JSON file and the picture."""


def choose_sentences(settings: PairSearch, number: int) -> list[str]:
    """Return distinct sentences of the embedded Wikipedia, in a random order."""
    low, high = settings.words
    distinct = dict.fromkeys(sentences(embedded_wikipedia(progress=True)))
    fitting = [s for s in distinct if low <= len(s.split()) <= high]
    if number > len(fitting):
        raise ValueError(f"{number} sentences are asked for, but only {len(fitting)} fit --words")
    order = np.random.default_rng(settings.seed).permutation(len(fitting))[:number]
    return [fitting[i] for i in order]


def joined(encoder: SentenceEncoder, first: str, second: str) -> str:
    """Return a pair as one text, which the tokenizer reads as `[CLS] first [SEP] second [SEP]`."""
    bert = encoder.tokenizer.backend.token_to_id("[SEP]") is not None
    return f"{first} {'[SEP]' if bert else '</s></s>'} {second}"


def by_cross_encoder(
    encoder: SentenceEncoder, text: Sequence[str], head: Float[np.ndarray, " D"]
) -> tuple[int, int]:
    """Return the pair scored highest by a linear head on what the encoder says of both together."""
    pairs = list(itertools.combinations(range(len(text)), 2))
    together = [joined(encoder, text[i], text[j]) for i, j in pairs]
    vectors = encoder.encode(together, normalize=False, max_length=encoder.max_length)
    return pairs[int(np.argmax(vectors @ head))]


def by_bi_encoder(
    encoder: SentenceEncoder, text: Sequence[str]
) -> tuple[tuple[int, int], float, float]:
    """Return the pair of highest cosine, and the seconds of encoding and of search."""
    start = time.perf_counter()
    vectors = encoder.encode(text, normalize=True, max_length=encoder.max_length)
    encoded = time.perf_counter()
    found = similarity_search(vectors, vectors, 1, similarity="dot", exclude_self=True)
    first = int(np.argmax(found.scores[:, 0]))
    second = int(found.indices[first, 0])
    pair = (min(first, second), max(first, second))
    return pair, encoded - start, time.perf_counter() - encoded


def pairs_of(n: int) -> int:
    """Return the number of pairs of n sentences, n(n-1)/2."""
    return n * (n - 1) // 2


def extrapolated(rows: Sequence[dict[str, Any]], n: int) -> dict[str, Any]:
    """Return both times at n from the largest n where each was measured."""
    cross = max((r for r in rows if r["cross_s"] is not None), key=lambda r: r["n"])
    bi = max((r for r in rows if r["encode_s"] is not None), key=lambda r: r["n"])
    return {
        "n": n,
        "cross_s": cross["cross_s"] * pairs_of(n) / pairs_of(cross["n"]),
        "encode_s": bi["encode_s"] * n / bi["n"],
        "search_s": bi["search_s"] * (n / bi["n"]) ** 2,
    }


def draw(rows: Sequence[dict[str, Any]], beyond: dict[str, Any], path: Path) -> None:
    """Draw time against n: measured with points, extrapolated dashed."""
    plt = report.pyplot()
    figure, axes = plt.subplots(figsize=(6.2, 4), layout="constrained")
    for name, colour, marker, seconds in (
        ("cross-encoder, n(n−1)/2 runs", "#d55e00", "s", lambda r: r["cross_s"]),
        ("bi-encoder, n runs and a search", "#0072b2", "o", bi_seconds),
    ):
        points = [(r["n"], s) for r in rows if (s := seconds(r)) is not None]
        axes.plot(*zip(*points, strict=True), marker + "-", color=colour, label=name)
        line = [r for r in curve(rows, beyond["n"]) if r["n"] >= points[-1][0]]
        axes.plot([r["n"] for r in line], [seconds(r) for r in line], "--", color=colour)
    axes.plot([], [], "--", color="grey", label="extrapolated, not measured")
    axes.set(xscale="log", yscale="log", xlabel="sentences n", ylabel="seconds")
    for value, name in ((60, "a minute"), (3600, "an hour"), (86400, "a day")):
        axes.axhline(value, color="lightgrey", lw=0.8, zorder=0)
        axes.text(beyond["n"], value * 1.1, name, fontsize=8, color="grey", ha="right")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    report.write_figure(path, figure)
    plt.close(figure)


def curve(rows: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return the extrapolation at many n."""
    least = min(r["n"] for r in rows)
    return [extrapolated(rows, round(n)) for n in np.geomspace(least, most, 200)]


def bi_seconds(row: dict[str, Any]) -> float | None:
    """Return the seconds of encoding and search together; None where they were not measured."""
    return None if row["encode_s"] is None else row["encode_s"] + row["search_s"]


def measure(settings: PairSearch) -> list[dict[str, Any]]:
    """Return the seconds of both ways for every number of sentences."""
    text = choose_sentences(settings, max(settings.cross + settings.bi))
    encoder = SentenceEncoder.from_pretrained(settings.model)
    head = np.random.default_rng(settings.seed).normal(size=encoder.dimension).astype(np.float32)
    rows: list[dict[str, Any]] = []
    for n in tqdm(sorted({*settings.cross, *settings.bi}), desc="measure", unit=" size"):
        row: dict[str, Any] = {"n": n, "cross_s": None, "encode_s": None, "search_s": None}
        if n in settings.cross:
            times = []
            for _ in range(settings.repeats + 1):  # the first compiles
                start = time.perf_counter()
                by_cross_encoder(encoder, text[:n], head)
                times.append(time.perf_counter() - start)
            row["cross_s"] = min(times[1:])
        if n in settings.bi:
            runs = [by_bi_encoder(encoder, text[:n])[1:] for _ in range(settings.repeats + 1)]
            row["encode_s"], row["search_s"] = min(runs[1:], key=sum)
        rows.append(row)
    return rows


def cells(row: dict[str, Any], note: str = "") -> list[str]:
    """Return a line of the table; what was not measured stays empty."""
    bi = bi_seconds(row)
    seconds = [f"{x:,.3g}" if x is not None else "" for x in (row["cross_s"], row["encode_s"])]
    search = f"{row['search_s']:.3g}" if bi is not None else ""
    both = row["cross_s"] is not None and bi is not None
    ratio = f"{row['cross_s'] / bi:,.0f} ×" if both else ""
    return [f"{row['n']:,}{note}", f"{pairs_of(row['n']):,}", *seconds, search, ratio]


def main(settings: PairSearch) -> dict[str, Any]:
    """Measure, extrapolate, and close with a table and a picture."""
    report.pyplot()  # where it is missing, said at once
    if min(settings.cross + settings.bi, default=0) < 2 or not settings.cross or not settings.bi:
        raise ValueError("--cross and --bi need numbers of at least two sentences: a pair")
    rows = measure(settings)
    beyond = extrapolated(rows, settings.extrapolate)
    report.print_table(
        "Seconds to the most similar of n sentences",
        ["n", "pairs", "cross-encoder", "bi-encoder: encode", "search", "cross / bi"],
        [*map(cells, rows), cells(beyond, " (extrapolated)")],
        text_columns=0,
    )
    results = report.results_record(settings) | {"measured": rows, "extrapolated": beyond}
    write_json(settings.output_dir / "pair_search.json", results)
    draw(rows, beyond, settings.output_dir / "pair_search.png")
    report.console.print(f"numbers and picture: {settings.output_dir}/pair_search.json, .png")
    return results


if __name__ == "__main__":
    run_script(main, PairSearch, __doc__)
