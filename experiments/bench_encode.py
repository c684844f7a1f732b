"""Encoding speed beside sentence-transformers and ONNX Runtime, from strings to vectors.

    make bench        (or, in an environment with torch: python -m experiments.bench_encode)

all-MiniLM-L6-v2, mean pooling, float32, on the sentences of the STS-B test set (the embedded
Wikipedia's where there is no SentEval folder). Every library gets the same weights, sentences and
number of threads; each runs in a process of its own, and the processes take turns, so that a slow
moment of the machine falls on all of them. Sentence-transformers runs with its defaults. Times
are medians after a first call that compiles and is reported apart; peak memory is the process's.

A peer that is not installed is left out with a line that says so.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

Library = Literal["simcse_jax", "sentence-transformers", "onnxruntime"]
NEEDS = {
    "simcse_jax": ("jax",),
    "sentence-transformers": ("sentence_transformers", "torch"),
    "onnxruntime": ("onnxruntime", "torch", "onnx"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time encoding beside other libraries."""

    data: Path = Path("../shared/data/senteval")
    """SentEval's folder."""
    rounds: int = 5
    """How often the libraries take turns."""
    threads: int = os.cpu_count() or 1
    """For each library."""
    output: Path = Path("experiments/results/bench_encode.json")
    """The numbers."""
    worker: Library | None = None
    """For the script itself: be the process of one library."""


def read_sentences(data: Path) -> tuple[list[str], str]:
    """The sentences and what they are."""
    if data.is_dir():
        from simcse_jax.data.senteval import read_stsb

        pairs = read_stsb(data, "test")
        return [*pairs.sentences1, *pairs.sentences2], "STS-B test"
    from simcse_jax.data.wikipedia import embedded_wikipedia, sentences

    return sentences(embedded_wikipedia())[:3000], "embedded Wikipedia, the first 3,000"


def worker(settings: Settings) -> None:
    """Load one library, then encode whenever a line comes in on standard input."""
    import resource

    sentences, _ = read_sentences(settings.data)
    begin = time.perf_counter()
    encode = {
        "simcse_jax": ours,
        "sentence-transformers": sentence_transformers,
        "onnxruntime": onnx_runtime,
    }[settings.worker](settings.threads)
    vectors = np.asarray(encode(sentences))
    report = {"first": time.perf_counter() - begin, "head": vectors[:50].tolist()}
    while True:
        report["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print("REPORT" + json.dumps(report), flush=True)
        if sys.stdin.readline() != "go\n":
            return
        begin = time.perf_counter()
        encode(sentences)
        report = {"seconds": time.perf_counter() - begin}


def ours(threads: int):
    """This library; XLA takes the process's cores, which `main` has set."""
    from simcse_jax import SentenceEncoder

    return SentenceEncoder.from_pretrained("minilm").encode


def sentence_transformers(threads: int):
    """Sentence-transformers, eager, with its defaults."""
    import torch
    from sentence_transformers import SentenceTransformer

    from simcse_jax.data.embedded import minilm_folder

    torch.set_num_threads(threads)
    return SentenceTransformer(str(minilm_folder()), device="cpu").encode


def onnx_runtime(threads: int):
    """ONNX Runtime on the exported model, sorted by length, batches of 32 as ST makes them."""
    import tempfile

    import onnxruntime
    import torch
    from transformers import BertModel

    from simcse_jax.data.embedded import minilm_folder
    from simcse_jax.data.tokenizer import Tokenizer

    class Mean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = BertModel.from_pretrained(minilm_folder(), attn_implementation="eager")

        def forward(self, ids, mask):
            hidden = self.bert(ids, mask).last_hidden_state
            weights = mask[..., None].float()
            pooled = (hidden * weights).sum(1) / weights.sum(1)
            return torch.nn.functional.normalize(pooled)

    file = tempfile.NamedTemporaryFile(suffix=".onnx")  # noqa: SIM115 - lives with the session
    example = (torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long))
    torch.onnx.export(
        Mean().eval(),
        example,
        file.name,
        input_names=["ids", "mask"],
        dynamic_axes={"ids": {0: "b", 1: "l"}, "mask": {0: "b", 1: "l"}},
        dynamo=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_folder(minilm_folder())

    def encode(sentences):
        ids, _ = tokenizer(sentences, 256)
        order = np.argsort([-len(i) for i in ids], kind="stable")
        result = np.empty((len(ids), 384), np.float32)
        for start in range(0, len(ids), 32):
            chosen = order[start : start + 32]
            length = len(ids[chosen[0]])
            batch = np.zeros((len(chosen), length), np.int64)
            mask = np.zeros_like(batch)
            for row, i in enumerate(chosen):
                batch[row, : len(ids[i])] = ids[i]
                mask[row, : len(ids[i])] = 1
            result[chosen] = session.run(None, {"ids": batch, "mask": mask})[0]
        return result

    return encode


def read_report(process: subprocess.Popen) -> dict:
    """The worker's next report."""
    for line in process.stdout:
        if line.startswith("REPORT"):
            return json.loads(line.removeprefix("REPORT"))
    raise RuntimeError(f"a worker stopped with exit code {process.wait()}")


def cpu_name() -> str:
    """The processor, as Linux calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def matmul_rate() -> float:
    """This machine's rate at a large float32 matmul by NumPy, in GFLOP/s: the best of five."""
    a = np.ones((2048, 2048), np.float32)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - begin)
    return 2 * 2048**3 / min(times) / 1e9


def main(settings: Settings) -> None:
    """Let the libraries take turns."""
    console = Console(width=110)
    sentences, source = read_sentences(settings.data)
    cores = sorted(os.sched_getaffinity(0))[: settings.threads]
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    processes: dict[str, subprocess.Popen] = {}
    reports: dict[str, dict] = {}
    for library, needs in NEEDS.items():
        if not all(map(importlib.util.find_spec, needs)):
            console.print(f"{library} is not installed, so it is left out")
            continue
        command = [sys.executable, "-W", "ignore", "-m", "experiments.bench_encode"]
        command += ["--worker", library, "--data", str(settings.data)]
        command += ["--threads", str(settings.threads)]
        processes[library] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        reports[library] = read_report(processes[library]) | {"times": []}

    head = np.asarray(reports["simcse_jax"]["head"])
    rounds = [(r, library) for r in range(settings.rounds) for library in processes]
    for _, library in tqdm(rounds, desc="rounds", unit=" encode"):
        process = processes[library]
        process.stdin.write("go\n")
        process.stdin.flush()
        report = read_report(process)
        reports[library]["times"].append(report["seconds"])
        reports[library]["peak_gib"] = report["peak_gib"]
    for process in processes.values():
        process.communicate("stop\n")

    mine = np.median(reports["simcse_jax"]["times"])
    table = Table(title=f"{len(sentences)} sentences ({source}), float32, {len(cores)} threads")
    for name in ("library", "median s", "range s", "sentences/s", "ours is", "first s", "peak GiB"):
        table.add_column(name, justify="left" if name == "library" else "right")
    rows = {}
    for library, report in reports.items():
        times = report["times"]
        median = float(np.median(times))
        difference = float(np.abs(np.asarray(report["head"]) - head).max())
        rows[library] = {
            "median_s": median,
            "min_s": min(times),
            "max_s": max(times),
            "sentences_per_s": len(sentences) / median,
            "ratio_to_ours": median / mine,
            "first_call_s": report["first"],
            "peak_gib": report["peak_gib"],
            "largest_difference_from_ours": difference,
        }
        table.add_row(
            library,
            f"{median:.2f}",
            f"{min(times):.2f} to {max(times):.2f}",
            f"{len(sentences) / median:.0f}",
            f"{median / mine:.2f} x",
            f"{report['first']:.1f}",
            f"{report['peak_gib']:.2f}",
        )
    console.print(table)
    hardware = f"{cpu_name()}, {len(cores)} cores, {matmul_rate():.0f} GFLOP/s in a float32 matmul"
    console.print(f"{hardware}; 'first' holds loading, compiling and one pass")
    value = {
        "hardware": hardware,
        "python": platform.python_version(),
        "source": source,
        "sentences": len(sentences),
        "rounds": settings.rounds,
        "rows": rows,
    }
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    settings.output.write_text(json.dumps(value, indent=2) + "\n")
    console.print(f"numbers: {settings.output}")


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    if settings_.worker:
        worker(settings_)
    else:
        main(settings_)
