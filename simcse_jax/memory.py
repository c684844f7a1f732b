"""The memory of the process, where a CPU is the device."""

from __future__ import annotations

import ctypes
import os

# glibc's names for mallopt; the numbers are part of its interface.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_OWN_CHOICE = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, so that a training step finds it mapped.

    XLA asks for its temporary memory at every step (0.7 GB in a step of 64 sentences, two views,
    through MiniLM) and gives it back at the end. By default glibc then returns it to the system,
    which maps and clears the pages again at the next step: 200,000 page faults, a sixth of the
    step's time. The price is that the process stays as large as it ever was, and larger by what
    lies between.

    To be called before JAX is used for the first time, since threads that run already have places
    of their own for what they allocate. It is for CPUs, on Linux with glibc; elsewhere, and where
    the environment sets an allocator or its options (``MALLOC_…``, ``GLIBC_TUNABLES``,
    ``LD_PRELOAD``), nothing is changed.

    Returns:
        Whether anything was changed.
    """
    if any(name.startswith(_OWN_CHOICE) for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        mallopt = libc.mallopt
    except (OSError, AttributeError):  # not Linux, or another C library
        return False
    # -1 is never; the highest threshold, 2 GB, is below what lies free between large steps.
    options = {_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1}
    return all([mallopt(option, value) == 1 for option, value in options.items()])
