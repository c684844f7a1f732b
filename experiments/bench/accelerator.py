r"""Everything that is measured on a GPU, by one command: the other benchmarks at its size.

    make bench-accelerator        (or: python -m experiments.bench.accelerator --output-dir FOLDER)

Encoding in float32, bfloat16 and int8; long rows with the plain attention and with cuDNN's; steps
of SimCSE at BERT-base's shape in bfloat16, batches of 64 and 512, and of 8,192 in chunks
(GradCache); the InfoNCE loss and its gradients from 4,096 to 65,536 vectors of 768 dimensions;
fitting the flow to 20,000 vectors; and the share of the time in which the device is busy, from
JAX's profiler. Beside each the fastest PyTorch variant that is installed. Each part is a process of
its own, so that the device's memory is free before the next; one that fails is told of, and the
others go on. It is made to take less than twenty minutes.

A TPU lets one process have its chip, so that libraries cannot take turns there: it cannot be used.
On a CPU everything is done in small, which tells that it works and nothing else.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import report
from experiments.bench.turns import OURS, BenchTable, describe, machine, markdown
from experiments.script import run_script
from simcse_jax.checks import quoted
from simcse_jax.io import read_json, write_json, write_text

# What a hand-written sigmoid loss of the same size is reported with on an H100.
LOSS_GOAL = "at most 49 ms and 1.4 GB on an H100 for N = 65,536"
COLUMNS = ("what", "simcse_jax", "fastest PyTorch", "time against ours", "more", "goal")


@dataclasses.dataclass(frozen=True)
class AcceleratorBenchmark:
    """Measure encoding, training, the loss and the flow on an accelerator."""

    train_file: Path = Path("../shared/data/wikipedia/wiki1m_head.txt")
    """A file of sentences; where there is none, the embedded Wikipedia is taken."""
    only: tuple[str, ...] = ()
    """The parts that are measured, such as encode, loss or flow; default: all."""
    small: bool = False
    """Do everything in small; so it is on a CPU in any case."""
    threads: int = os.cpu_count() or 1
    """Each library may use so many threads of the processor."""
    output_dir: Path = Path("experiments/results/accelerator")
    """The folder that gets accelerator.json, accelerator.md and what each part has written."""


def parts(settings: AcceleratorBenchmark, small: bool) -> dict[str, list[str]]:
    """Return the command of each part by its name, without its output."""
    text = ["--threads", str(settings.threads)]
    encode = ["experiments.bench.low_precision", "--data", str(settings.train_file), *text]
    encode += ["--rounds", "1", "--sentences", "50"] if small else ["--rounds", "3"]
    step = ["experiments.bench.train", "--train-file", str(settings.train_file), *text]
    step += ["--dtype", "bfloat16", "--rounds", "2" if small else "3"]
    step += ["--steps", "1", "--no-compiled"] if small else ["--steps", "8", "--shape", "bert-base"]
    loss = ["64", "--dims", "32"] if small else ["4096", "8192", "16384", "32768", "65536"]
    loss += [] if small else ["--dims", "768"]
    flow = ["experiments.bench.flow", *(["--vectors", "64", "--width", "16"] if small else [])]
    attention = ["experiments.bench.attention"]
    if small:
        attention += [*("--shape", "minilm", "--batches", "1", "--tokens", "512", "--rounds", "1")]
    sizes = (8, 16, 64) if small else (64, 512, 8192)
    return {
        "encode": encode,
        "attention": attention,
        f"step of {sizes[0]}": [*step, "--batch-size", str(sizes[0])],
        f"step of {sizes[1]}": [*step, "--batch-size", str(sizes[1])],
        f"step of {sizes[2]}, in chunks": [
            *(*step, "--batch-size", str(sizes[2]), "--grad-cache-chunks", "4" if small else "16"),
            *([] if small else ["--steps", "1"]),
        ],
        "loss": ["experiments.bench.info_nce", "--dtype", "bfloat16", "--sizes", *loss],
        "flow": flow,
        "busy in a step": [*step, "--batch-size", str(sizes[0]), "--profile"],
        "busy in encoding": [*encode, "--profile"],
    }


def run_part(name: str, command: list[str], output: Path) -> dict[str, Any]:
    """Run a part, and return what it has written, or with ``error`` why it has not."""
    report.console.rule(name)
    began = time.perf_counter()
    found = subprocess.run([sys.executable, "-m", *command, "--output", str(output)], check=False)
    seconds = time.perf_counter() - began
    if found.returncode:
        return {"error": f"ended with exit code {found.returncode}", "seconds": seconds}
    return {**read_json(output), "seconds": seconds}


# ---------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------


def fastest_torch(
    rows: Mapping[str, Mapping[str, Any]], mine: Mapping[str, Any], dtype: str = ""
) -> list[str]:
    """Return the name and time of PyTorch's fastest variant, and that time as a multiple of ours.

    Args:
        rows: by worker, with ``median_s``.
        mine: our own row.
        dtype: of the variants that are compared, as the workers are called.
    """
    times = {}
    for name, row in rows.items():
        library, _, computed_in = name.partition(" ")
        if library.startswith(("torch", "sentence-transformers")) and computed_in == dtype:
            times[name] = row["median_s"]
    if not times:
        return ["not installed", ""]
    name = min(times, key=lambda name: times[name])
    return [f"{name}, {times[name]:.4f} s", f"{times[name] / mine['median_s']:.2f} ×"]


def encode_rows(value: Mapping[str, Any], busy: Mapping[str, float | None]) -> list[list[str]]:
    """Return the table's rows of encoding; int8 is beside the others' bfloat16."""
    rows, found = value["rows"], []
    for dtype, theirs in (("float32", ""), ("bfloat16", "bfloat16"), ("int8", "bfloat16")):
        if (mine := rows.get(OURS if dtype == "float32" else f"{OURS} {dtype}")) is None:
            continue
        more, goal = f"{mine['per_s']:,.0f} sentences/s", ""
        if dtype == "bfloat16":
            more += f"; device busy {share(busy.get('busy in encoding'))}"
            goal = "2 ×, busy 90 %"
        what = f"encode {value['sentences']:,} sentences, {dtype}"
        beside = fastest_torch(rows, mine, theirs)
        found.append([what, f"{mine['median_s']:.4f} s", *beside, more, goal])
    return found


def attention_rows(value: Mapping[str, Any]) -> list[list[str]]:
    """Return the table's rows of one attention beside the other, for each length of a row."""
    plain = {row["length"]: row for row in value["rows"] if row["attention"] == "dense"}
    found = []
    for row in value["rows"]:
        what = f"encode rows of {row['length']}, {value['shape']}, bfloat16, {row['attention']}"
        what += " attention"
        if "missing" in row:
            found.append([what, "not on this device", "none", "", "", ""])
            continue
        more = f"{row['tokens_per_s']:,.0f} tokens/s"
        if row["attention"] != "dense":
            more += f"; {plain[row['length']]['median_s'] / row['median_s']:.2f} × as fast as dense"
        found.append([what, f"{row['median_s']:.4f} s", "none", "", more, ""])
    return found


def step_row(
    name: str, value: Mapping[str, Any], busy: Mapping[str, float | None], is_profiled: bool
) -> list[str]:
    """Return the table's row of a step, with the share of the device's product rate it reaches."""
    mine = value["rows"][OURS]
    rate = value["machine"].get("device_matmul_gflops", value["machine"]["matmul_gflops"]) * 1e9
    reached = mine["operations"] / mine["median_s"] / rate
    more = f"{100 * reached:.0f} % of a matmul's rate"
    if is_profiled:
        more += f"; device busy {share(busy.get('busy in a step'))}"
    how = value["settings"]
    what = f"SimCSE, {how['shape']}, {name}, bfloat16"
    goal = "1.3 ×, 40 %"
    return [what, f"{mine['median_s']:.4f} s", *fastest_torch(value["rows"], mine), more, goal]


def loss_rows(value: Mapping[str, Any]) -> list[list[str]]:
    """Return the table's rows of the loss: for each size the fastest version of ours."""
    sizes = dict.fromkeys((row["n"], row["d"]) for row in value["rows"])
    found = []
    for n, d in sizes:
        timed = [
            row for row in value["rows"] if (row["n"], row["d"]) == (n, d) and "seconds" in row
        ]
        mine = min((row for row in timed if row["version"] != "torch"), key=lambda r: r["seconds"])
        torch = next((row["seconds"] for row in timed if row["version"] == "torch"), None)
        cells = ["not measured", ""]
        if torch is not None:
            cells = [f"torch, {torch:.4f} s", f"{torch / mine['seconds']:.2f} ×"]
        more = f"{mine['version']}, {mine['temporaries_bytes'] / 1e9:.2f} GB beside the inputs"
        goal = LOSS_GOAL if n == 65_536 else ""
        what = f"InfoNCE and gradients, N = {n:,}, D = {d}"
        found.append([what, f"{mine['seconds']:.4f} s", *cells, more, goal])
    return found


def share(value: float | None) -> str:
    """Return a share in per cent."""
    return "not measured" if value is None else f"{100 * value:.0f} %"


def table(value: Mapping[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""
    busy = {name: part["busy"] for name, part in value["parts"].items() if "busy" in part}
    names = parts(AcceleratorBenchmark(), value["small"])
    profiled = next(name for name in names if name.startswith("step"))
    rows: list[list[str]] = []
    for name, part in value["parts"].items():
        if "error" in part:
            rows.append([name, "failed", "", "", part["error"], ""])
        elif name == "encode":
            rows += encode_rows(part, busy)
        elif name == "attention":
            rows += attention_rows(part)
        elif name.startswith("step"):
            rows.append(step_row(name, part, busy, name == profiled))
        elif name == "loss":
            rows += loss_rows(part)
        elif name == "flow":
            how = part["settings"]
            what = f"an epoch of the flow, {how['vectors']:,} vectors of {how['width']}"
            each = 1000 * part["median_s"] / part["steps"]
            rows.append(
                [what, f"{part['median_s']:.2f} s", "none", "", f"{each:.2f} ms a step", ""]
            )
    size = "In small, which tells nothing of speed" if value["small"] else "On an accelerator"
    return BenchTable(f"{size}; {value['seconds'] / 60:.1f} minutes", COLUMNS, rows)


def main(settings: AcceleratorBenchmark) -> None:
    """Run every part, and write and print the table."""
    import jax

    # Libraries that take turns share the device's memory, which JAX would reserve for itself.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    small = settings.small or jax.default_backend() == "cpu"
    chosen = parts(settings, small)
    if unknown := set(settings.only) - chosen.keys():
        raise ValueError(f"there is no part {quoted(unknown.pop())}; they are {', '.join(chosen)}")
    began = time.perf_counter()
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in settings.only or chosen:
        file = settings.output_dir / f"{name.replace(', ', ' ').replace(' ', '_')}.json"
        found[name] = run_part(name, chosen[name], file)
    value = {
        "machine": machine(settings.threads),
        "small": small,
        "seconds": time.perf_counter() - began,
        "parts": found,
    }
    numbers = settings.output_dir / "accelerator.json"
    made = table(value)
    write_json(numbers, value, indent=1)
    write_text(numbers.with_suffix(".md"), markdown(value, made))
    report.print_table(*made)
    report.console.print(f"{describe(value['machine'])}\nnumbers: {numbers}, the table beside it")
    if any("error" in part for part in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    run_script(main, AcceleratorBenchmark, __doc__)
