"""`kill -9` at random moments, and during a save; then the same final bits."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import training_worker as worker


def start(model, folder, cache):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        # Each start would compile again otherwise.
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, worker.__file__, str(model), str(folder)],
        env=environment,
        cwd=Path(__file__).parent,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]


def wait_for(process, condition):
    """Wait until something is seen; False if the process has ended before."""
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(0.0005)
    return True


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits(tmp_path, golden):
    model, cache = golden / "tiny-bert", tmp_path / "cache"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    finish(start(model, whole, cache))

    checkpoints = killed / "checkpoints"
    seconds = random.Random(0)

    def half_written():
        return any(".orbax-checkpoint-tmp" in p.name for p in checkpoints.glob("*"))

    kills = 0
    for moment in ("save", "any", "save"):
        process = start(model, killed, cache)
        try:
            if moment == "save":
                kills += wait_for(process, half_written)
            else:
                before = set(checkpoints.glob("*"))
                kills += wait_for(process, lambda b=before: set(checkpoints.glob("*")) != b)
                time.sleep(seconds.uniform(0, 0.1))
        finally:
            process.kill()
            process.communicate()
    assert kills >= 2
    finish(start(model, killed, cache))

    with np.load(whole / "final.npz") as a, np.load(killed / "final.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])
    assert sorted(p.name for p in checkpoints.iterdir()) == ["5", "6"]
    assert (killed / "metrics.jsonl").read_text().count("\n") == 6
