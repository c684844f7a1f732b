"""Time and memory of every version of the InfoNCE loss, beside PyTorch's dense cross-entropy.

    make bench        (or: python -m experiments.bench_info_nce)
    python -m experiments.bench_info_nce --sizes 4096 8192 16384 --dims 384 --repeats 3

Answers: at which batch size does the blockwise loss win, what does it save, and how near is it to
the machine's matrix rate? One table row for each size, dimension and version: median time of loss
and gradients of both inputs, the versions taking turns; temporaries as XLA plans them; and the rate
reached as a share of a large matrix product measured just before the size. ("auto", a further
version, is what the library takes unless told otherwise: dense up to 2^20 logits.)

The equation and its gradient need 6 N² D operations (three products); a version that recomputes
its logits needs 8 N² D, which is what the literature counts, so both shares are given. The largest
default sizes take minutes on a CPU.
"""

import dataclasses
import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from experiments.bench import installed, machine, publish
from simcse_jax.losses.info_nce import info_nce_loss


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    sizes: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
    """Batch sizes N."""
    dims: tuple[int, ...] = (384, 768)
    """Embedding sizes D."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the embeddings; products always accumulate in float32."""
    versions: tuple[str, ...] = ("dense", "blockwise", "torch")
    """Versions to run, in this order."""
    block_size: int | None = None
    """Rows per block of the blockwise version; the library's default if None."""
    repeats: int = 5
    """Timed calls of each case, after one call to warm up; the median counts."""
    memory_share: float = 0.6
    """Skip a case whose temporaries would exceed this share of the memory."""
    output: Path = Path("experiments/results/bench_info_nce.json")
    """Where the results go, as JSON."""


def median_seconds(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median wall-clock of each call, once warm, taking turns."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def free_bytes() -> int:
    """Memory of the device where the arrays live, less what is in use on an accelerator."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def matmul_rate(dtype: str, repeats: int) -> float:
    """Operations per second of one large square product."""
    n = 4096 if jax.default_backend() == "cpu" else 16384
    x = jax.random.normal(jax.random.key(0), (n, n), dtype)
    product = jax.jit(lambda a, b: a @ b)
    call = {"product": lambda: product(x, x).block_until_ready()}
    return 2 * n**3 / median_seconds(call, repeats)["product"]


def embeddings(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Random rows and noisy copies of them."""
    rng = np.random.default_rng(0)
    anchors = rng.standard_normal((n, d), np.float32)
    return anchors, anchors + rng.standard_normal((n, d), np.float32)


Case = tuple[dict[str, Any], Callable[[], float] | None]


def prepare_jax(settings: Settings, version: str, n: int, d: int) -> Case:
    """One case of ours: compiled first, so that its memory is known before it runs.

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


def prepare_torch(settings: Settings, n: int, d: int) -> Case:
    """The authors' way: a similarity matrix and torch's cross-entropy."""
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


def describe(row: dict[str, Any]) -> list[str]:
    """One line of the table."""
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


def main(settings: Settings) -> None:
    """Runs every case in turn, prints the table and writes the JSON."""
    versions = installed({v: ("torch",) if v == "torch" else ("jax",) for v in settings.versions})
    rows: list[dict[str, Any]] = []
    columns = ("N", "D", "version", "s", "temp. GB", "share of 6N²D", "share of 8N²D")
    for d, n in tqdm(list(itertools.product(settings.dims, settings.sizes)), unit=" sizes"):
        rate = matmul_rate(settings.dtype, settings.repeats)
        calls: dict[str, Callable[[], float]] = {}
        own: dict[str, dict[str, Any]] = {}
        for version in versions:
            facts, call = (
                prepare_torch(settings, n, d)
                if version == "torch"
                else prepare_jax(settings, version, n, d)
            )
            own[version] = {"n": n, "d": d, "version": version, "matmul_rate": rate, **facts}
            if call is not None:
                calls[version] = call
        for version, seconds in median_seconds(calls, settings.repeats).items():
            shares = {f"share_of_matmul_{k}n2d": k * n * n * d / seconds / rate for k in (6, 8)}
            own[version] |= {"seconds": seconds, "loss": calls[version](), **shares}
        rows += own.values()
    value = {
        "machine": machine(os.cpu_count() or 1),
        "settings": dataclasses.asdict(settings) | {"output": settings.output.name},
        "rows": rows,
    }
    title = f"Loss and gradients of InfoNCE, {settings.dtype}, {settings.repeats} rounds"
    publish(settings.output, value, title, columns, [describe(row) for row in rows])


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
