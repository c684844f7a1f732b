"""What the benchmarks share: work that takes turns, the machine's ceilings, the table.

A benchmark is a script with workers. Each worker runs in a process of its own, loads, warms up and
answers; then, whenever it is told to, it does its work once and answers the seconds. The processes
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from experiments import report
from simcse_jax.io import write_json, write_text
from simcse_jax.machine import cpu_name

MARK = "ANSWER"
OURS = "simcse_jax"
# A run whose matmul rate differs by more than this between its rounds says so in its table.
NOISY = 0.2
# Whose versions the results name.
PACKAGES = (
    *("jax", "torch", "transformers", "sentence_transformers"),
    *("onnxruntime", "openvino", "nncf"),
)
TIMINGS = (
    *("library", "median s", "range s", "sentences/s", "time against ours"),
    *("load, compile and first pass, s", "peak GiB"),
)


class BenchTable(NamedTuple):
    """A benchmark's numbers as people read them.

    Attributes:
        title: above the table.
        columns: their headings.
        rows: of texts.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


# ---------------------------------------------------------------------------------------------
# In the worker
# ---------------------------------------------------------------------------------------------


def serve(prepare: Callable[[], tuple[Callable[[], Any], dict[str, Any]]]) -> None:
    """Be a worker: prepare, then work whenever a line comes in on standard input.

    Args:
        prepare: loads everything, works once (which compiles), and returns the work, which must
            not return before it is done, and what else is to be answered.
    """
    begin = time.perf_counter()
    work, facts = prepare()
    answer = facts | {"first": time.perf_counter() - begin}
    while True:
        answer["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(MARK + json.dumps(answer), flush=True)
        if sys.stdin.readline() != "go\n":
            return
        begin = time.perf_counter()
        work()
        answer = {"seconds": time.perf_counter() - begin}


# ---------------------------------------------------------------------------------------------
# In the script
# ---------------------------------------------------------------------------------------------


def installed(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the workers whose modules are there; the others are named on the terminal."""
    found = []
    for worker, modules in needs.items():
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        if missing:
            report.console.print(f"{worker} is left out: {', '.join(missing)} is not installed")
        else:
            found.append(worker)
    return found


def read_answer(process: subprocess.Popen) -> dict[str, Any] | None:
    """Return what the worker answers next; None if it stopped."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    return None


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Use the first so many cores alone, in this thread and the processes that it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start(
    command: Sequence[str], threads: int, stack: contextlib.ExitStack
) -> tuple[subprocess.Popen, dict[str, Any] | str]:
    """Start a worker, and return it with its first answer, or with the line it stopped with."""
    # A file, since a pipe that nobody reads would stop a talkative worker.
    errors = stack.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115
    process = stack.enter_context(
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
    )
    answer = read_answer(process)
    if answer is not None:
        return process, answer
    process.wait()
    errors.seek(0)
    return process, (errors.read().strip().splitlines() or ["no message"])[-1]


def work_once(process: subprocess.Popen, worker: str) -> dict[str, Any]:
    """Tell a worker to do its work once, and return what it answers."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    answer = read_answer(process)
    if answer is None:
        raise RuntimeError(f"{worker} stopped while it was timed")
    return answer


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
        By worker its answer with the list ``times``; the first has the list ``moments`` too, of the
        machine before each round, while every worker waits.

    Raises:
        RuntimeError: ours stopped.
    """
    processes: dict[str, subprocess.Popen] = {}
    answers: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:  # at its end the workers' input ends, and so do they
        stack.enter_context(on_cores(threads))
        for worker in tqdm(workers, desc="start", unit=" library"):
            command = [sys.executable, "-W", "ignore", "-m", module, "--worker", worker, *arguments]
            process, answer = start(command, threads, stack)
            if isinstance(answer, dict):
                processes[worker], answers[worker] = process, answer | {"times": []}
            elif worker == OURS:
                raise RuntimeError(f"{worker} stopped: {answer}")
            else:
                report.console.print(f"{worker} is left out, it stopped: {answer[:200]}")
        first = next(iter(answers))
        answers[first]["moments"] = []
        for _, worker in tqdm([(r, w) for r in range(rounds) for w in processes], desc="rounds"):
            if worker == first:
                answers[first]["moments"].append(moment())
            answer = work_once(processes[worker], worker)
            answers[worker]["times"].append(answer["seconds"])
            answers[worker]["peak_gib"] = answer["peak_gib"]
    return answers


def seconds_in_turns(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of works that take turns in this process, by name."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - begin)
    return times


def best_seconds(work: Callable[[], Any]) -> float:
    """Return the shortest of five times, for ceilings."""
    return min(seconds_in_turns({"": work}, 5)[""])


def moment() -> dict[str, float]:
    """Return how many cores others keep busy now, and the rate of a float32 matmul."""
    before = _ticks()
    time.sleep(0.3)
    busy, total = (after - then for after, then in zip(_ticks(), before, strict=True))
    others = (os.cpu_count() or 1) * busy / max(total, 1)
    return {"others_cores": others, "matmul_gflops": matmul_gflops()}


def _ticks() -> tuple[int, int]:
    """Return the processor's ticks that were busy, and all of them; 0 where nothing tells."""
    with contextlib.suppress(OSError):
        ticks = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # idle, and waiting for a disk
    return 0, 0


def noise(moments: Sequence[Mapping[str, float]]) -> str:
    """Return a line on what else the machine did, with a warning where its speed was not steady."""
    others = [moment["others_cores"] for moment in moments]
    rates = [moment["matmul_gflops"] for moment in moments]
    line = f"others kept {min(others):.1f} to {max(others):.1f} cores busy between the rounds"
    if max(rates) > (1 + NOISY) * min(rates):
        line += (
            f"; NOT A QUIET RUN: the matmul rate went from {min(rates):.0f} to {max(rates):.0f} "
            "GFLOP/s between the rounds"
        )
    return line


def matmul_gflops() -> float:
    """Return the best rate of a large float32 matmul in NumPy."""
    a = np.random.default_rng(0).standard_normal((2048, 2048), np.float32)
    return 2 * 2048**3 / best_seconds(lambda: a @ a) / 1e9


def ceilings() -> dict[str, float]:
    """Return what this processor does at best in NumPy: a large float32 matmul, a large copy."""
    source = np.ones(2**26, np.float32)
    target = np.empty_like(source)
    return {
        "matmul_gflops": matmul_gflops(),
        "copy_gb_per_s": 2 * source.nbytes / best_seconds(lambda: np.copyto(target, source)) / 1e9,
    }


def device_ceilings(size: int = 8192) -> dict[str, float]:
    """Return the same of JAX's first device: a square bfloat16 matmul, a copy of its rows."""
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


def device_busy(work: Callable[[], Any]) -> dict[str, float | None]:
    """Return how long work takes, and in which share of that the device computes something.

    Returns:
        ``seconds`` and ``busy``; the latter is None of a CPU, whose profile has no such timeline.
    """
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            began = time.perf_counter()
            work()
            seconds = time.perf_counter() - began
        (file,) = Path(folder).glob("**/*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(str(file)).planes
        return {"seconds": seconds, "busy": busy_share(planes, seconds)}


def busy_share(planes: Iterable[Any], seconds: float) -> float | None:
    """Return the share of the seconds that a profile's first device is busy; None without one.

    Args:
        planes: with ``name`` and ``lines``, those with ``name`` and ``events``, and these with
            ``start_ns`` and ``duration_ns``: a GPU's kernels are in its streams, a TPU's in the
            line of XLA's operations.
        seconds: how long the profiled work took.
    """
    devices = sorted((p for p in planes if p.name.startswith("/device:")), key=lambda p: p.name)
    spans = [
        (event.start_ns, event.start_ns + event.duration_ns)
        for plane in devices[:1]
        for line in plane.lines
        if line.name.startswith(("Stream", "XLA Ops"))
        for event in line.events
    ]
    if not spans:
        return None
    busy, end = 0.0, 0.0
    for start, stop in sorted(spans):  # streams overlap
        busy += max(stop - max(start, end), 0)
        end = max(end, stop)
    return busy / 1e9 / seconds


def machine(threads: int, answers: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Return the machine, its ceilings and the versions, for the results.

    An accelerator and its ceilings are in it where JAX has one; workers that hold its memory should
    have ended by then.

    Args:
        threads: that the workers may use.
        answers: of `take_turns`, whose moments of the machine are taken over.
    """
    import jax

    versions = {}
    for package in PACKAGES:
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
        **({} if answers is None else {"moments": next(iter(answers.values()))["moments"]}),
    }


def describe(value: Mapping[str, Any]) -> str:
    """Return the machine as a line."""
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
        + (f"; {noise(value['moments'])}" if "moments" in value else "")
    )


def summary(answers: Mapping[str, Mapping[str, Any]], work: float) -> dict[str, dict[str, Any]]:
    """Return medians, ratios to ours and rates from what `take_turns` returns.

    Args:
        answers: by worker.
        work: how much is done in one turn, such as sentences.
    """
    mine = float(np.median(answers[OURS]["times"]))
    rows = {}
    for worker, answer in answers.items():
        median = float(np.median(answer["times"]))
        rows[worker] = {
            "median_s": median,
            "min_s": min(answer["times"]),
            "max_s": max(answer["times"]),
            "per_s": work / median,
            "ratio_to_ours": median / mine,
            "first_s": answer["first"],
            "peak_gib": answer["peak_gib"],
        }
    return rows


def timings(rows: Mapping[str, Mapping[str, Any]], digits: int) -> list[list[str]]:
    """Return a table's rows for `TIMINGS` from what `summary` returns.

    Args:
        rows: by worker.
        digits: decimals of the seconds.
    """
    return [
        [
            worker,
            f"{row['median_s']:.{digits}f}",
            f"{row['min_s']:.{digits}f} to {row['max_s']:.{digits}f}",
            f"{row['per_s']:.0f}",
            f"{row['ratio_to_ours']:.2f} ×",
            f"{row['first_s']:.1f}",
            f"{row['peak_gib']:.2f}",
        ]
        for worker, row in rows.items()
    ]


def markdown(value: Mapping[str, Any], table: BenchTable) -> str:
    """Return a benchmark's table in Markdown, below its title and the machine."""
    text = report.markdown(table.columns, table.rows)
    return f"{table.title}; {describe(value['machine'])}:\n\n{text}\n"


def publish(output: Path, value: Mapping[str, Any], table: BenchTable) -> None:
    """Write the numbers as OUTPUT, their table beside it as Markdown, and print that.

    Args:
        output: ``….json``.
        value: the numbers, with ``machine``.
        table: what the numbers say to people.
    """
    beside = output.with_suffix(".md")
    write_json(output, value, indent=1)
    write_text(beside, markdown(value, table))
    report.print_table(*table)
    report.console.print(f"{describe(value['machine'])}\nnumbers: {output}, the table: {beside}")
