"""Memory that a process frees stays mapped."""

import ctypes
import subprocess
import sys

import pytest

from simcse_jax import memory

# Page faults while a thread takes, fills and frees 100 MB over and over, as a step does.
PROGRAM = """
import resource, sys, threading
from simcse_jax.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def work():
    for _ in range(20):
        bytearray(100_000_000)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def in_thread():
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

in_thread()
before = faults()
in_thread()
print(faults() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_not_mapped_again(monkeypatch):
    for name in ("LD_PRELOAD", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    faults = {}
    for how in ("keep", "plain"):
        out = subprocess.run(
            [sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True
        )
        faults[how] = int(out.stdout)
    assert 10 * faults["keep"] < faults["plain"], faults


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_the_users_own_choice_stands(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("changed all the same"))
    assert memory.keep_freed_memory() is False


def test_another_c_library_is_left_alone(monkeypatch):
    for name in ("LD_PRELOAD", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)

    def missing(_):
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert memory.keep_freed_memory() is False
