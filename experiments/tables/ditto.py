r"""Ditto against plain averages: every head on STS-B dev, and the best one on all seven tasks.

    python -m experiments.tables.ditto --models minilm runs/raw_minilm/seed-0/last \
        --labels MiniLM "raw MiniLM, seed 0" --eval-data SENTEVAL/data/downstream \
        --output-dir runs/ditto

Of every model the score of `ditto-LAYER-HEAD` on STS-B dev for each layer and head. The best head
there, and the one of the paper for BERT-base (head 10 of layer 1), are then scored on the seven STS
tasks beside the averages without weights. Writes ditto.json and ditto.md.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from experiments import report
from simcse_jax import SentenceEncoder
from simcse_jax.cli import run_or_explain
from simcse_jax.data.senteval import TASKS, Pairs, StsTask, read_sts, read_stsb
from simcse_jax.evaluation.sts import evaluate_sts, results_to_json
from simcse_jax.io import write_json, write_text

AVERAGES = ("mean", "first-last", "embedding-last")
PAPER = "ditto-1-10"
"""The head that the paper takes for BERT-base; for other models it is any head."""


@dataclasses.dataclass(frozen=True)
class DittoTable:
    """The encoders, and where the table goes."""

    eval_data: Path
    """The folder that holds SentEval's STS/ and SICK/."""
    models: tuple[str, ...] = ("minilm",)
    """'minilm' (embedded), model folders, or Hugging Face hub ids."""
    labels: tuple[str, ...] = ()
    """What the table calls the models; default: as they are given."""
    output_dir: Path = Path("runs/ditto")
    """The folder that gets ditto.json and ditto.md."""

    def __post_init__(self) -> None:
        if self.labels and len(self.labels) != len(self.models):
            raise ValueError(
                f"labels are {len(self.labels)}; there must be one for each of the "
                f"{len(self.models)} models, or none"
            )


def heads(layers: int, count: int) -> list[str]:
    """Return the poolings of all heads."""
    return [f"ditto-{i}-{j}" for i in range(1, layers + 1) for j in range(1, count + 1)]


def score(model: str, pooling: str, tasks: list[StsTask]) -> dict[str, float]:
    """Return Spearman × 100 of each task and their average, protocol "all"."""
    encoder = SentenceEncoder.from_pretrained(
        model, pooling=pooling, max_length="longest", normalize=False
    )
    encode = functools.partial(encoder.encode, show_progress=False)
    results = results_to_json(evaluate_sts(encode, tasks))
    scores = {name: task["all"] for name, task in results["tasks"].items()}
    return scores | {"average": results["average"]["all"]}


def measure(model: str, tasks: list[StsTask], dev: Pairs) -> dict[str, Any]:
    """Return the heads' scores on STS-B dev, the best head, and the rows of the seven tasks."""
    config = SentenceEncoder.from_pretrained(model, pooling="mean").config
    task = StsTask("STS-B dev", (dev,))
    poolings = heads(config.num_hidden_layers, config.num_attention_heads)
    on_dev = {
        pooling: score(model, pooling, [task])["STS-B dev"]
        for pooling in tqdm((*AVERAGES, *poolings), desc=model, unit=" pooling")
    }
    best = max(poolings, key=lambda pooling: on_dev[pooling])
    chosen = [*AVERAGES, *([PAPER] if PAPER in poolings else []), best]
    rows = {pooling: score(model, pooling, tasks) for pooling in dict.fromkeys(chosen)}
    return {"dev": on_dev, "best": best, "rows": rows}


def markdown(results: Mapping[str, Any]) -> str:
    """Return the tables in Markdown, drawn from the results alone."""
    parts = [f"Spearman × 100, protocol all; {results['hardware']}:"]
    rows = []
    for label, found in results["models"].items():
        for pooling, scores in found["rows"].items():
            note = " (best on dev)" if pooling == found["best"] else ""
            dev = found["dev"][pooling]
            cells = [f"{x:.2f}" for x in (dev, *(scores[name] for name in (*TASKS, "average")))]
            rows.append([label, f"`{pooling}`{note}", *cells])
    parts.append(report.markdown(["model", "pooling", "STS-B dev", *TASKS, "average"], rows))
    for label, found in results["models"].items():
        parts.append(f"{label}: every head on STS-B dev, layers down, heads across.")
        scores = {name: x for name, x in found["dev"].items() if name.startswith("ditto-")}
        layers = max(int(name.split("-")[1]) for name in scores)
        count = len(scores) // layers
        table = [
            [str(i), *(f"{scores[f'ditto-{i}-{j}']:.1f}" for j in range(1, count + 1))]
            for i in range(1, layers + 1)
        ]
        parts.append(report.markdown(["layer", *map(str, range(1, count + 1))], table))
    return "\n\n".join(parts) + "\n"


def main(settings: DittoTable) -> None:
    """Measure every model, and write the tables."""
    tasks = list(read_sts(settings.eval_data).values())
    dev = read_stsb(settings.eval_data, "dev")
    labels = settings.labels or settings.models
    models = {
        label: measure(model, tasks, dev)
        for label, model in zip(labels, settings.models, strict=True)
    }
    record = report.results_record(settings, models=list(labels))
    record["settings"].pop("labels")
    results = record | {"models": models}
    text = markdown(results)
    write_json(settings.output_dir / "ditto.json", results)
    write_text(settings.output_dir / "ditto.md", text)
    print(text)


if __name__ == "__main__":
    run_or_explain(lambda: main(tyro.cli(DittoTable, description=__doc__)))
