"""The machine that a number was measured on, as results name it."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name() -> str:
    """Return the processor's name, as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def hardware() -> str:
    """Return JAX's devices and version, as a table of results should name them."""
    import jax  # here: the processor's name is asked for in processes that have no use for JAX

    devices = jax.devices()
    if devices[0].platform == "cpu":
        return f"{cpu_name()}, {len(devices)} CPU device, jax {jax.__version__}"
    return f"{len(devices)} x {devices[0].device_kind}, jax {jax.__version__}"
