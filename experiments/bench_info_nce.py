"""Time and memory of every version of the InfoNCE loss, beside PyTorch's dense cross-entropy.

    python -m experiments.bench_info_nce
    python -m experiments.bench_info_nce --sizes 4096 8192 16384 --dims 384 --repeats 3

Answers: at which batch size does the blockwise loss win, what does it save, and how near is it to
the machine's matrix rate? One table row for each size, dimension and version: median time of loss
and gradients of both inputs, temporaries as XLA plans them, and the rate reached as a share of a
large matrix product measured just before. The equation and its gradient need 6 N² D operations
(three products); a version that recomputes its logits needs 8 N² D, which is what the literature
counts, so both shares are given. The largest default sizes take minutes on a CPU.
"""

import dataclasses
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

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


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median wall-clock of ``call``, once warm."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def free_bytes() -> int:
    """Memory of the device where the arrays live, less what is in use on an accelerator."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def matmul_rate(dtype: str, repeats: int) -> float:
    """Operations per second of one large square product."""
    n = 4096 if jax.default_backend() == "cpu" else 16384
    x = jnp.ones((n, n), dtype)
    product = jax.jit(lambda a, b: a @ b)
    return 2 * n**3 / median_seconds(lambda: product(x, x).block_until_ready(), repeats)


def embeddings(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Random rows and noisy copies of them."""
    rng = np.random.default_rng(0)
    anchors = rng.standard_normal((n, d), np.float32)
    return anchors, anchors + rng.standard_normal((n, d), np.float32)


def bench_jax(settings: Settings, version: str, n: int, d: int) -> dict[str, Any]:
    """One case of ours: compiled first, so that its memory is known before it runs."""
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
        return row | {"skipped": f"needs {temporaries / 1e9:.1f} GB of temporaries"}
    arrays = [jnp.asarray(x, settings.dtype) for x in embeddings(n, d)]
    seconds = median_seconds(lambda: jax.block_until_ready(compiled(*arrays)), settings.repeats)
    return row | {"seconds": seconds, "loss": float(compiled(*arrays)[0])}


def bench_torch(settings: Settings, n: int, d: int) -> dict[str, Any]:
    """The authors' way: a similarity matrix and torch's cross-entropy."""
    import torch

    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    # Logits, their log-softmax, and their gradient live at once.
    needed = 3 * n * n * (4 if settings.dtype == "float32" else 2)
    free = free_bytes() if device == "cpu" else torch.cuda.mem_get_info()[0]
    if needed > settings.memory_share * free:
        return {"skipped": f"needs about {needed / 1e9:.1f} GB"}
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

    return {"seconds": median_seconds(call, settings.repeats), "loss": call()}


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
    console = Console()
    try:
        import torch
    except ImportError:
        torch = None
        console.print("torch is not installed: its dense cross-entropy is left out.")
    versions = [v for v in settings.versions if v != "torch" or torch is not None]
    rate = matmul_rate(settings.dtype, settings.repeats)
    device = jax.devices()[0]
    console.print(
        f"{device.device_kind} ({os.cpu_count()} CPU cores), jax {jax.__version__}, "
        f"{settings.dtype}: matrix products at {rate / 1e9:,.0f} GFLOP/s"
    )

    rows = []
    table = Table("N", "D", "version", "s", "temp. GB", "share of 6N²D", "share of 8N²D")
    for d in settings.dims:
        for n in settings.sizes:
            for version in versions:
                row = {"n": n, "d": d, "version": version}
                if version == "torch":
                    row |= bench_torch(settings, n, d)
                else:
                    row |= bench_jax(settings, version, n, d)
                if "seconds" in row:
                    for k in (6, 8):
                        share = k * n * n * d / row["seconds"] / rate
                        row[f"share_of_matmul_{k}n2d"] = share
                rows.append(row)
                table.add_row(*describe(row))
                console.print("  ".join(x for x in describe(row) if x), style="dim")
            table.add_section()
    console.print(table)

    result = {
        "settings": dataclasses.asdict(settings),
        "date": datetime.date.today().isoformat(),
        "device": device.device_kind,
        "platform": jax.default_backend(),
        "machine": platform.machine(),
        "cpu_cores": os.cpu_count(),
        "jax": jax.__version__,
        "torch": None if torch is None else torch.__version__,
        "matmul_flops_per_second": rate,
        "rows": rows,
    }
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    beside = settings.output.with_suffix(".json.part")
    beside.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    beside.rename(settings.output)
    console.print(f"Written: {settings.output}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
