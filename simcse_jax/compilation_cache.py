"""Compiled programs: kept between processes, and timed."""

from __future__ import annotations

import dataclasses
import functools
import os

import jax

from simcse_jax.io import cache_folder


def enable_compilation_cache() -> None:
    """Turn JAX's persistent compilation cache on, unless the user has chosen a folder already.

    ``JAX_COMPILATION_CACHE_DIR`` moves it and ``JAX_ENABLE_COMPILATION_CACHE=0`` switches it off.
    Where the folder cannot be written, nothing is kept and nothing fails.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    folder = cache_folder() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@dataclasses.dataclass
class Compilations:
    """What compiling, or reading what was compiled, took.

    Attributes:
        seconds: of all programs together.
    """

    seconds: float = 0.0

    def __str__(self) -> str:
        return f"compiling took {self.seconds:.1f} s"


@functools.cache
def compilations() -> Compilations:
    """Return the running total of this process, from the first call on."""
    total = Compilations()

    def count(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            total.seconds += duration_secs

    jax.monitoring.register_event_duration_secs_listener(count)
    return total
