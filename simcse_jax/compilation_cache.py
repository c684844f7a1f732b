"""Keep compiled programs between processes, so that the second run does not compile again."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def cache_folder() -> Path:
    """The folder for what this library keeps: ``$XDG_CACHE_HOME/simcse_jax`` or ``~/.cache/…``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "simcse_jax"


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
