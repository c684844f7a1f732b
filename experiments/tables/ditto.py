r"""Ditto against plain averages: every head on STS-B dev, and the best one on all seven tasks.

    python -m experiments.tables.ditto --models minilm runs/raw_minilm/seed-{0,1,2}/last \
        --labels MiniLM "raw MiniLM, seed "{0,1,2} --eval-data SENTEVAL/data/downstream \
        --output-dir runs/ditto

Of every model the score of `ditto-LAYER-HEAD` on STS-B dev for each layer and head, and the share
of the weight that the first token has: a head that gives it nearly all is `cls` by another name.
The best head there, the best of those that leave the other tokens at least half, and the one of the
authors' script for BERT-base (head 10 of layer 1) are then scored on the seven STS tasks beside the
averages without weights. Models whose labels differ in their ", seed N" alone share their rows:
means ± standard deviations. Writes ditto.json and ditto.md.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import report
from experiments.script import run_script
from simcse_jax import SentenceEncoder
from simcse_jax.data.encode_batches import encode_batches
from simcse_jax.data.packing import TOKENS_PER_SEGMENT
from simcse_jax.data.senteval import TASKS, Pairs, StsTask, read_sts, read_stsb
from simcse_jax.evaluation.sts import cosine, evaluate_sts, papers_average, spearman
from simcse_jax.io import write_json, write_text
from simcse_jax.models import Batch, BertConfig, BertEncoder, pool
from simcse_jax.models.ditto import diagonal_attention
from simcse_jax.models.pooling import ditto_head

AVERAGES = ("mean", "first-last", "embedding-last")
COLUMNS = ("STS-B dev", *TASKS)
AUTHORS = "ditto-1-10"
"""The head that the authors' script takes for BERT-base; for other models it is any head."""


@dataclasses.dataclass(frozen=True)
class DittoTable:
    """The encoders, and where the table goes."""

    eval_data: Path
    """The folder that holds SentEval's STS/ and SICK/."""
    models: tuple[str, ...] = ("minilm",)
    """'minilm' (embedded), model folders, or Hugging Face hub ids."""
    labels: tuple[str, ...] = ()
    """What the table calls the models (default: as they are given). Those that are "NAME, seed N"
    share the rows of NAME."""
    output_dir: Path = Path("runs/ditto")
    """The folder that gets ditto.json and ditto.md."""

    def __post_init__(self) -> None:
        if self.labels and len(self.labels) != len(self.models):
            raise ValueError(
                f"labels are {len(self.labels)}; there must be one for each of the "
                f"{len(self.models)} models, or none"
            )
        labels = self.labels or self.models
        if len(set(labels)) < len(labels):
            raise ValueError("two models have the same label; seeds of one are 'NAME, seed N'")


def heads(config: BertConfig) -> list[str]:
    """Return the poolings of all heads."""
    layers, count = range(config.num_hidden_layers), range(config.num_attention_heads)
    return [f"ditto-{i + 1}-{j + 1}" for i in layers for j in count]


@functools.partial(jax.jit, static_argnums=(0, 3))
def pooled_by_all(config: BertConfig, params: Any, batch: Batch, num_sentences: int) -> list[Any]:
    """Return the vectors of a batch for every pooling of `heads`, from one pass of the encoder.

    One more dimension, the last, has the share of the first token's weight.
    """
    states: Any = BertEncoder(config).apply({"params": params}, batch)
    is_first = jnp.asarray(batch.position_ids == 0, jnp.float32)[..., None]
    marked = [jnp.concatenate([state, is_first], -1) for state in states]
    vectors = []
    for pooling in heads(config):
        place = ditto_head(pooling)
        assert place is not None
        before = states[place[0] - 1]
        weights = diagonal_attention(config, {"params": params}, before, batch, *place)
        vectors.append(pool(marked, batch, pooling, num_sentences, weights))
    return vectors


def score_heads(model: str, pairs: Pairs) -> dict[str, dict[str, float]]:
    """Return Spearman × 100 of every head, as `score` gives it of one, and the first's share."""
    encoder = SentenceEncoder.from_pretrained(model, pooling="mean")
    config, sentences = encoder.config, list(dict.fromkeys(pairs.sentences1 + pairs.sentences2))
    ids, _ = encoder.tokenizer(sentences, config.max_length)
    poolings = heads(config)
    vectors = np.empty((len(poolings), len(ids), config.hidden_size + 1), np.float32)
    batches = encode_batches(ids, config.max_length, 128, 1)
    for batch, order in tqdm(batches, desc=model, unit=" batch"):
        count = batch.input_ids.size // TOKENS_PER_SEGMENT
        found = pooled_by_all(config, encoder.params["encoder"], batch, count)
        for own, of_pooling in zip(vectors, found, strict=True):
            own[order] = np.asarray(of_pooling)[: len(order)]
    row = {sentence: i for i, sentence in enumerate(sentences)}
    sides = [[row[s] for s in side] for side in (pairs.sentences1, pairs.sentences2)]
    return {
        pooling: {
            "dev": 100 * spearman(cosine(*(own[side, :-1] for side in sides)), pairs.scores),
            "first": float(own[:, -1].mean()),
        }
        for pooling, own in zip(poolings, vectors, strict=True)
    }


def score(model: str, pooling: str, tasks: list[StsTask]) -> dict[str, float]:
    """Return Spearman × 100 of each task, protocol "all"."""
    encoder = SentenceEncoder.from_pretrained(
        model, pooling=pooling, max_length="longest", normalize=False
    )
    encode = functools.partial(encoder.encode, show_progress=False)
    results = evaluate_sts(encode, tasks)
    return {name: task.spearman.all for name, task in results.tasks.items()}


def measure(model: str, tasks: list[StsTask], dev: Pairs) -> dict[str, Any]:
    """Return the heads' scores on STS-B dev, the best head, and the rows of the seven tasks."""
    on_dev = score_heads(model, dev)
    spread = [pooling for pooling, found in on_dev.items() if found["first"] <= 0.5]
    best = {
        what: max(names, key=lambda pooling: on_dev[pooling]["dev"])
        for what, names in (("best on dev", on_dev), ("best that spreads", spread))
        if names
    }
    chosen = [*AVERAGES, *([AUTHORS] if AUTHORS in on_dev else []), *best.values()]
    everything = [*tasks, StsTask("STS-B dev", (dev,))]
    rows = {pooling: score(model, pooling, everything) for pooling in dict.fromkeys(chosen)}
    return {"heads": on_dev, "best": best, "rows": rows}


def by_name(models: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return what was found of each model; several seeds of one, "NAME, seed N", under NAME.

    Raises:
        ValueError: seeds of one name have other heads, so that they are no seeds of one model.
    """
    groups: dict[str, list[str]] = {}
    for label in models:
        seed = re.fullmatch(r"(.*), seed \d+", label)
        groups.setdefault(seed[1] if seed and seed[1] not in models else label, []).append(label)
    for name, labels in groups.items():
        if any(models[x]["heads"].keys() != models[labels[0]]["heads"].keys() for x in labels):
            raise ValueError(f"the seeds of {name} differ in their heads: they are other models")
    return {
        name if len(labels) > 1 else labels[0]: [models[label] for label in labels]
        for name, labels in groups.items()
    }


def choices(seeds: list[Any]) -> dict[tuple[str, ...], list[str]]:
    """Return the poolings to show, one for each seed, and what they are the best of.

    The best is chosen for each seed, among its own heads; it is shown where every seed has one.
    """
    fixed = (p for p in (*AVERAGES, AUTHORS) if all(p in found["rows"] for found in seeds))
    shown: dict[tuple[str, ...], list[str]] = {(p,) * len(seeds): [] for p in fixed}
    for what in seeds[0]["best"]:
        if all(what in found["best"] for found in seeds):
            shown.setdefault(tuple(found["best"][what] for found in seeds), []).append(what)
    return shown


def row_of(seeds: list[Any], poolings: tuple[str, ...], notes: list[str]) -> list[str]:
    """Return a row of the table after the model: pooling, first token's share, scores, average."""
    distinct = poolings[:1] if len(set(poolings)) == 1 else poolings  # else one for each seed
    names = ", ".join(f"`{pooling}`" for pooling in distinct)
    heads = [found["heads"].get(p) for found, p in zip(seeds, poolings, strict=True)]
    first = "" if None in heads else report.mean_and_deviation([head["first"] for head in heads])
    rows = [found["rows"][p] for found, p in zip(seeds, poolings, strict=True)]
    columns = [[row[name] for row in rows] for name in COLUMNS]
    columns.append([papers_average(row[name] for name in TASKS) for row in rows])
    of_what = f" ({', '.join(notes)})" if notes else ""
    return [names + of_what, first, *map(report.mean_and_deviation, columns)]


def grid(seeds: list[Any]) -> str:
    """Return the table of every head on STS-B dev and its first token's share; means of seeds."""
    layers, count = zip(*(map(int, name.split("-")[1:]) for name in seeds[0]["heads"]), strict=True)

    def cell(layer: int, head: int) -> str:
        of_seeds = [found["heads"][f"ditto-{layer}-{head}"] for found in seeds]
        dev, first = (np.mean([found[key] for found in of_seeds]) for key in ("dev", "first"))
        return f"{dev:.1f} ({first:.2f})"

    across = range(1, max(count) + 1)
    rows = [[str(i), *(cell(i, j) for j in across)] for i in range(1, max(layers) + 1)]
    return report.markdown(["layer", *map(str, across)], rows)


def markdown(results: Mapping[str, Any]) -> str:
    """Return the tables in Markdown, drawn from the results alone."""
    parts = [f"Spearman × 100, protocol all; {results['hardware']}:"]
    groups = by_name(results["models"])
    rows = [
        [name, *row_of(seeds, poolings, notes)]
        for name, seeds in groups.items()
        for poolings, notes in choices(seeds).items()
    ]
    names = ["model", "pooling", "first token's share", *COLUMNS, "average"]
    parts.append(report.markdown(names, rows))
    for name, seeds in groups.items():
        of_seeds = f", means of {len(seeds)} seeds" if len(seeds) > 1 else ""
        parts.append(
            f"{name}: every head on STS-B dev, and its first token's share{of_seeds}; layers "
            "down, heads across."
        )
        parts.append(grid(seeds))
    return "\n\n".join(parts) + "\n"


def main(settings: DittoTable) -> None:
    """Measure every model, and write the tables."""
    if not settings.models:
        raise ValueError("models is empty; name one or more")
    # Before any is measured, and a folder is made only where they can be.
    for model in settings.models:
        SentenceEncoder.from_pretrained(model, pooling=AVERAGES[0], normalize=False)
    tasks = list(read_sts(settings.eval_data).values())
    dev = read_stsb(settings.eval_data, "dev")
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    labels = settings.labels or settings.models
    models = {
        label: measure(model, tasks, dev)
        for label, model in zip(labels, settings.models, strict=True)
    }
    record = report.results_record(settings, models=list(labels))
    record["settings"].pop("labels")
    results = record | {"models": models}
    write_json(settings.output_dir / "ditto.json", results)
    text = markdown(results)
    write_text(settings.output_dir / "ditto.md", text)
    print(text)


if __name__ == "__main__":
    run_script(main, DittoTable, __doc__)
