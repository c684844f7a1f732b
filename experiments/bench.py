"""What the benchmarks share: processes that take turns, the machine's ceilings, the table.

A benchmark is a script with workers. Each worker runs in a process of its own, loads, warms up and
reports; then, whenever it is told to, it does its work once and reports the seconds. The processes
take turns, so that a slow moment of the machine falls on all of them.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from simcse_jax.io import write_json, write_text

console = Console(width=110)
MARK = "REPORT"
OURS = "simcse_jax"


# ---------------------------------------------------------------------------------------------
# In the worker
# ---------------------------------------------------------------------------------------------


def serve(prepare: Callable[[], tuple[Callable[[], Any], dict[str, Any]]]) -> None:
    """Be a worker: prepare, then work whenever a line comes in on standard input.

    Args:
        prepare: loads everything, works once (which compiles), and returns the work, which must
            not return before it is done, and what else is to be reported.
    """
    begin = time.perf_counter()
    work, facts = prepare()
    report = facts | {"first": time.perf_counter() - begin}
    while True:
        report["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(MARK + json.dumps(report), flush=True)
        if sys.stdin.readline() != "go\n":
            return
        begin = time.perf_counter()
        work()
        report = {"seconds": time.perf_counter() - begin}


# ---------------------------------------------------------------------------------------------
# In the script
# ---------------------------------------------------------------------------------------------


def installed(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The workers whose modules are there; the others are named on the terminal."""
    found = []
    for worker, modules in needs.items():
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        if missing:
            console.print(f"{worker} is left out: {', '.join(missing)} is not installed")
        else:
            found.append(worker)
    return found


def read_report(process: subprocess.Popen) -> dict[str, Any] | None:
    """The worker's next report; None if it stopped."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    return None


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """The first so many cores, for this thread and the processes that it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def take_turns(
    module: str, workers: Sequence[str], arguments: Sequence[str], rounds: int, threads: int
) -> dict[str, dict[str, Any]]:
    """Start the workers one after the other, then let them work in turns.

    Args:
        module: run as ``python -m MODULE --worker WORKER ARGUMENTS``.
        workers: ours first; one that stops is left out, and named on the terminal.
        arguments: of the script.
        rounds: how often each works.
        threads: cores that the workers may use.

    Returns:
        By worker its report with the list ``times``.

    Raises:
        RuntimeError: ours stopped.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    processes: dict[str, subprocess.Popen] = {}
    reports: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:  # at its end the workers' input ends, and so do they
        stack.enter_context(on_cores(threads))
        for worker in tqdm(workers, desc="start", unit=" library"):
            command = [sys.executable, "-W", "ignore", "-m", module, "--worker", worker, *arguments]
            # A file, since a pipe that nobody reads would stop a talkative worker.
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=environment,
                )
            )
            report = read_report(process)
            if report is None:
                process.wait()
                errors.seek(0)
                lines = errors.read().strip().splitlines() or ["no message"]
                if worker == OURS:
                    raise RuntimeError(f"{worker} stopped: {lines[-1]}")
                console.print(f"{worker} is left out, it stopped: {lines[-1][:200]}")
                continue
            processes[worker], reports[worker] = process, report | {"times": []}
        for _, worker in tqdm([(r, w) for r in range(rounds) for w in processes], desc="rounds"):
            process = processes[worker]
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            report = read_report(process)
            if report is None:
                raise RuntimeError(f"{worker} stopped while it was timed")
            reports[worker]["times"].append(report["seconds"])
            reports[worker]["peak_gib"] = report["peak_gib"]
    return reports


def cpu_name() -> str:
    """The processor, as Linux calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def best_seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """The shortest of a few, for ceilings."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def ceilings() -> dict[str, float]:
    """What this processor does at best: a large float32 matmul and a large copy, by NumPy."""
    a = np.random.default_rng(0).standard_normal((2048, 2048), np.float32)
    source = np.ones(2**26, np.float32)
    target = np.empty_like(source)
    return {
        "matmul_gflops": 2 * 2048**3 / best_seconds(lambda: a @ a) / 1e9,
        "copy_gb_per_s": 2 * source.nbytes / best_seconds(lambda: np.copyto(target, source)) / 1e9,
    }


def device_ceilings(size: int = 8192) -> dict[str, float]:
    """The same of JAX's first device: a square bfloat16 matmul and a copy of as many rows."""
    import jax
    import jax.numpy as jnp

    x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product, copy = jax.jit(lambda x: x @ x), jax.jit(lambda x: -x)  # a copy that stays one
    for work in (product, copy):
        jax.block_until_ready(work(x))

    def repeated(work: Callable[[Any], Any]) -> float:
        # Many at a time, since the host's way to the device is not what is asked for.
        return best_seconds(lambda: jax.block_until_ready([work(x) for _ in range(16)])) / 16

    return {
        "device_matmul_gflops": 2 * size**3 / repeated(product) / 1e9,
        "device_copy_gb_per_s": 2 * x.nbytes / repeated(copy) / 1e9,
    }


def machine(threads: int) -> dict[str, Any]:
    """The machine, its ceilings and the versions, for the results.

    An accelerator and its ceilings are in it where JAX has one; workers that hold its memory should
    have ended by then.
    """
    import jax

    versions = {}
    for package in ("jax", "torch", "transformers", "sentence_transformers", "onnxruntime"):
        if importlib.util.find_spec(package) is not None:
            versions[package] = importlib.metadata.version(package.replace("_", "-"))
    accelerator = {}
    if jax.default_backend() != "cpu":
        accelerator = {"accelerator": jax.devices()[0].device_kind, **device_ceilings()}
    return {
        "processor": cpu_name(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": versions,
        **ceilings(),
        **accelerator,
    }


def describe(value: Mapping[str, Any]) -> str:
    """The machine as a line."""
    accelerator = ""
    if "accelerator" in value:
        accelerator = (
            f"{value['accelerator']}, {value['device_matmul_gflops'] / 1000:.0f} TFLOP/s in a "
            f"bfloat16 matmul, {value['device_copy_gb_per_s']:.0f} GB/s in a copy; "
        )
    return accelerator + (
        f"{value['processor']}, {value['threads']} threads, {value['matmul_gflops']:.0f} GFLOP/s "
        f"in a float32 matmul, {value['copy_gb_per_s']:.0f} GB/s in a copy, jax "
        f"{value['versions'].get('jax')}, Python {value['python']}"
    )


def summary(reports: Mapping[str, Mapping[str, Any]], work: float) -> dict[str, dict[str, Any]]:
    """Medians, ratios to ours and rates from what `take_turns` returns.

    Args:
        reports: by worker.
        work: how much is done in one turn, such as sentences.
    """
    mine = float(np.median(reports[OURS]["times"]))
    rows = {}
    for worker, report in reports.items():
        median = float(np.median(report["times"]))
        rows[worker] = {
            "median_s": median,
            "min_s": min(report["times"]),
            "max_s": max(report["times"]),
            "per_s": work / median,
            "ratio_to_ours": median / mine,
            "first_s": report["first"],
            "peak_gib": report["peak_gib"],
        }
    return rows


def publish(
    output: Path, value: Mapping[str, Any], title: str, columns: Sequence[str], rows: Sequence
) -> None:
    """Write the numbers as OUTPUT, a table beside it as Markdown, and print that.

    Args:
        output: ``….json``.
        value: the numbers, with ``machine``.
        title: of the table.
        columns: their names.
        rows: of texts.
    """
    write_json(output, value, indent=1)
    table = Table(title=title)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    lines = [["", *columns, ""], ["", *["---"] * len(columns), ""], *(["", *r, ""] for r in rows)]
    where = describe(value["machine"])
    text = "\n".join(" | ".join(line).strip() for line in lines)
    beside = output.with_suffix(".md")
    write_text(beside, f"{title}; {where}:\n\n{text}\n")
    console.print(table)
    console.print(f"{where}\nnumbers: {output}, the table: {beside}")
