"""Encoding long texts with the plain attention and with cuDNN's, in bfloat16.

    python -m experiments.bench.attention

Rows of 128 and of 512 random words, a text to each, are encoded on JAX's first device, without
tokenising. The two attentions take turns. Where cuDNN's cannot be had, as on a CPU, the table says
why.

What to expect: not known. Whether cuDNN's should be taken unasked is what this is to tell.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.turns import BenchTable, machine, publish, seconds_in_turns
from experiments.script import run_script
from simcse_jax.compilation_cache import enable_compilation_cache
from simcse_jax.cudnn import check_cudnn
from simcse_jax.models import Batch, BertConfig, BertEncoder, SentenceModel, one_a_row
from simcse_jax.models.fused_attention import ATTENTIONS, Attention

SHAPES = {
    "bert-base": BertConfig(),
    "minilm": BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536),
}
DTYPE = jnp.dtype("bfloat16")
ABSENT = "not on this device"


@dataclasses.dataclass(frozen=True)
class AttentionBenchmark:
    """Time encoding with one attention beside the other."""

    shape: Literal["bert-base", "minilm"] | None = None
    """The encoder's shape, with random weights; default: bert-base, on a CPU minilm."""
    lengths: tuple[int, ...] = (128, 512)
    """The tokens of a row."""
    batches: int = 8
    """So many batches are encoded in a turn."""
    tokens: int | None = None
    """So many tokens are in a batch; default: 32,768, as the encoder gives them to a GPU, on a CPU
    2,048."""
    rounds: int = 5
    """The attentions take turns so often."""
    output: Path = Path("experiments/results/bench_attention.json")
    """The JSON file that gets the numbers; the table is written beside it."""


def make_rows(config: BertConfig, rows: int, length: int) -> Batch:
    """Return rows of random words, a text to each."""
    ids = np.random.default_rng(0).integers(1, config.vocab_size, (rows, length), np.int32)
    return one_a_row(ids, np.ones_like(ids))


def missing(attention: Attention, config: BertConfig) -> str | None:
    """Return why an attention cannot be had on JAX's first device; None where it can."""
    try:
        if attention == "cudnn":
            check_cudnn(config, DTYPE, jax.devices()[:1])
    except ValueError as error:
        return str(error)
    return None


def encoding(
    attention: Attention, config: BertConfig, params: Any, batch: Batch, repeats: int
) -> Callable[[], None]:
    """Return the work: a batch encoded so many times."""
    model = SentenceModel(config, "mean", dtype=DTYPE, attention=attention)
    rows = batch.input_ids.shape[0]
    encode = jax.jit(lambda params, batch: model.apply(params, batch, num_sentences=rows))
    on_device = jax.device_put(batch)

    def work() -> None:
        jax.block_until_ready([encode(params, on_device) for _ in range(repeats)])

    return work


def timed(settings: AttentionBenchmark) -> list[dict[str, Any]]:
    """Return a row for each length and attention: its times, or why it is missing."""
    config, found = SHAPES[settings.shape], []
    why = {name: missing(name, config) for name in ATTENTIONS}
    drawn = jax.jit(BertEncoder(config).init)(jax.random.key(0), make_rows(config, 1, 128))
    params = {"params": {"encoder": drawn["params"]}}
    for length in settings.lengths:
        batch = make_rows(config, max(1, settings.tokens // length), length)
        works = {
            name: encoding(name, config, params, batch, settings.batches)
            for name in ATTENTIONS
            if why[name] is None
        }
        times = seconds_in_turns(works, 1 + settings.rounds)
        for name in ATTENTIONS:
            row = {"length": length, "attention": name}
            if (reason := why[name]) is not None:
                found.append(row | {"missing": reason})
                continue
            first, *later = times[name]
            median = float(np.median(later))
            done = settings.batches * batch.input_ids.size
            numbers = {"first_s": first, "median_s": median, "tokens_per_s": done / median}
            found.append(row | numbers | {"min_s": min(later), "max_s": max(later)})
    return found


def table(value: dict[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""
    columns = (
        *("tokens of a row", "attention", "median s", "range s", "tokens/s"),
        *("as fast as the plain one", "with compiling, s"),
    )
    plain = {row["length"]: row for row in value["rows"] if row["attention"] == "dense"}
    rows = [
        [str(row["length"]), row["attention"], ABSENT, "", "", "", ""]
        if "missing" in row
        else [
            *(str(row["length"]), row["attention"], f"{row['median_s']:.4f}"),
            *(f"{row['min_s']:.4f} to {row['max_s']:.4f}", f"{row['tokens_per_s']:,.0f}"),
            f"{plain[row['length']]['median_s'] / row['median_s']:.2f} ×",
            f"{row['first_s']:.1f}",
        ]
        for row in value["rows"]
    ]
    title = f"{value['batches']} batches of {value['tokens']:,} tokens, {value['shape']}'s shape"
    title += f", bfloat16, {value['rounds']} rounds"
    for reason in dict.fromkeys(row["missing"] for row in value["rows"] if "missing" in row):
        title += f" ({reason})"
    return BenchTable(title, columns, rows)


def main(settings: AttentionBenchmark) -> None:
    """Measure, print the table and write the JSON."""
    enable_compilation_cache()
    on_cpu = jax.default_backend() == "cpu"
    settings = dataclasses.replace(
        settings,
        shape=settings.shape or ("minilm" if on_cpu else "bert-base"),
        tokens=settings.tokens or (2_048 if on_cpu else 32_768),
    )
    value = {
        "shape": settings.shape,
        "batches": settings.batches,
        "tokens": settings.tokens,
        "rounds": settings.rounds,
        "rows": timed(settings),
        "machine": machine(os.cpu_count() or 1),
    }
    publish(settings.output, value, table(value))


if __name__ == "__main__":
    run_script(main, AttentionBenchmark, __doc__)
