"""Time and memory of every version of the InfoNCE loss, beside PyTorch's dense cross-entropy.

    make bench        (or: python -m experiments.bench.info_nce)
    python -m experiments.bench.info_nce --sizes 4096 8192 16384 --dims 384 --repeats 3

Answers: at which batch size does the blockwise loss win, what does it save, and how near is it to
the machine's matrix rate? One table row for each size, dimension and version: median time of loss
and gradients of both inputs, the versions taking turns; temporaries as XLA plans them; and the rate
reached as a share of a large matrix product measured just before the size. ("auto", a further
version, is what the library takes unless told otherwise: dense up to 2^20 logits.)

The equation and its gradient need 6 N² D operations (three products); a version that recomputes
its logits needs 8 N² D, which is what the literature counts, so both shares are given. The largest
default sizes take minutes on a CPU.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments import report
from experiments.bench.turns import BenchTable, installed, machine, publish, seconds_in_turns
from experiments.script import run_script
from simcse_jax.losses.info_nce import info_nce_loss


@dataclasses.dataclass(frozen=True)
class InfoNceBenchmark:
    """Time the versions of the loss."""

    sizes: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
    """Batch sizes N, each with every dimension."""
    dims: tuple[int, ...] = (384, 768)
    """Dimensions D of the embeddings."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The embeddings' type; products always accumulate in float32."""
    versions: tuple[str, ...] = ("dense", "blockwise", "torch")
    """The versions that are timed, in this order."""
    block_size: int | None = None
    """Rows of a block of the blockwise version; default: the library's."""
    repeats: int = 5
    """Each case is timed so often, after a call that warms it up; the median counts."""
    memory_share: float = 0.6
    """A case whose temporaries would exceed this share of the free memory is skipped."""
    output: Path = Path("experiments/results/bench_info_nce.json")
    """The JSON file that gets the numbers; the table is written beside it."""


def median_seconds(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return each call's median seconds once it is warm; the calls take turns."""
    for call in calls.values():
        call()
    times = seconds_in_turns(calls, repeats)
    return {name: statistics.median(values) for name, values in times.items()}


def free_bytes() -> int:
    """Return the memory of the arrays' device, less what is in use on an accelerator."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def matmul_rate(dtype: str, repeats: int) -> float:
    """Return the operations per second of one large square product."""
    n = 4096 if jax.default_backend() == "cpu" else 16384
    x = jax.random.normal(jax.random.key(0), (n, n), dtype)
    product = jax.jit(lambda a, b: a @ b)
    call = {"product": lambda: product(x, x).block_until_ready()}
    return 2 * n**3 / median_seconds(call, repeats)["product"]


def embeddings(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random rows and noisy copies of them."""
    rng = np.random.default_rng(0)
    anchors = rng.standard_normal((n, d), np.float32)
    return anchors, anchors + rng.standard_normal((n, d), np.float32)


Case = tuple[dict[str, Any], Callable[[], float] | None]


def prepare_jax(settings: InfoNceBenchmark, version: str, n: int, d: int) -> Case:
    """Prepare one case of ours: compiled first, so that its memory is known before it runs.

    Returns:
        What is known of it, and the call to be timed, which returns the loss; None instead of a
        call that would not fit.
    """
    shape = jax.ShapeDtypeStruct((n, d), settings.dtype)

    def loss(anchors: jax.Array, positives: jax.Array) -> jax.Array:
        return info_nce_loss(
            anchors,
            positives,
            implementation=version,
            block_size=settings.block_size,
        )

    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(shape, shape).compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    row = {"temporaries_bytes": temporaries}
    if temporaries > settings.memory_share * free_bytes():
        return row | {"skipped": f"needs {temporaries / 1e9:.1f} GB of temporaries"}, None
    arrays = [jnp.asarray(x, settings.dtype) for x in embeddings(n, d)]
    return row, lambda: float(jax.block_until_ready(compiled(*arrays))[0])


def prepare_torch(settings: InfoNceBenchmark, n: int, d: int) -> Case:
    """Prepare a case of the authors' way: a similarity matrix and torch's cross-entropy."""
    import torch

    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    # Logits, their log-softmax, and their gradient live at once.
    needed = 3 * n * n * (4 if settings.dtype == "float32" else 2)
    free = free_bytes() if device == "cpu" else torch.cuda.mem_get_info()[0]
    if needed > settings.memory_share * free:
        return {"skipped": f"needs about {needed / 1e9:.1f} GB"}, None
    dtype = getattr(torch, settings.dtype)
    inputs = [
        torch.tensor(x, dtype=dtype, device=device, requires_grad=True) for x in embeddings(n, d)
    ]
    labels = torch.arange(n, device=device)

    def call() -> float:
        for x in inputs:
            x.grad = None
        anchors, positives = (torch.nn.functional.normalize(x, dim=-1) for x in inputs)
        loss = torch.nn.functional.cross_entropy(anchors @ positives.T / 0.05, labels)
        loss.backward()
        return loss.item()  # waits for the device

    return {}, call


def cells(row: dict[str, Any]) -> list[str]:
    """Return one line of the table."""
    temporaries = row.get("temporaries_bytes")
    memory = "" if temporaries is None else f"{temporaries / 1e9:.3f}"
    names = [f"{row['n']:,}", str(row["d"]), row["version"]]
    if "skipped" in row:
        return [*names, "skipped", memory, row["skipped"], ""]
    return [
        *names,
        f"{row['seconds']:.3f}",
        memory,
        f"{row['share_of_matmul_6n2d']:.2f}",
        f"{row['share_of_matmul_8n2d']:.2f}",
    ]


def measure(settings: InfoNceBenchmark, versions: list[str], n: int, d: int) -> list[dict]:
    """Return a row for each version at one size, the versions taking turns."""
    rate = matmul_rate(settings.dtype, settings.repeats)
    calls: dict[str, Callable[[], float]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for version in versions:
        facts, call = (
            prepare_torch(settings, n, d)
            if version == "torch"
            else prepare_jax(settings, version, n, d)
        )
        rows[version] = {"n": n, "d": d, "version": version, "matmul_rate": rate, **facts}
        if call is not None:
            calls[version] = call
    for version, seconds in median_seconds(calls, settings.repeats).items():
        shares = {f"share_of_matmul_{k}n2d": k * n * n * d / seconds / rate for k in (6, 8)}
        rows[version] |= {"seconds": seconds, "loss": calls[version](), **shares}
    return list(rows.values())


def table(value: dict[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""
    how = value["settings"]
    title = f"Loss and gradients of InfoNCE, {how['dtype']}, {how['repeats']} rounds"
    columns = ("N", "D", "version", "s", "temp. GB", "share of 6N²D", "share of 8N²D")
    return BenchTable(title, columns, [cells(row) for row in value["rows"]])


def main(settings: InfoNceBenchmark) -> None:
    """Run every case in turn, print the table and write the JSON."""
    versions = installed({v: ("torch",) if v == "torch" else ("jax",) for v in settings.versions})
    sizes = list(itertools.product(settings.dims, settings.sizes))
    rows: list[dict[str, Any]] = []
    for d, n in tqdm(sizes, unit=" sizes"):
        rows += measure(settings, versions, n, d)
    value = {
        "machine": machine(os.cpu_count() or 1),
        "settings": report.settings_record(settings),
        "rows": rows,
    }
    publish(settings.output, value, table(value))


if __name__ == "__main__":
    run_script(main, InfoNceBenchmark, __doc__)
