"""`kill -9` at random moments, and during a save; then the same final bits."""

import random
import time

import numpy as np
import pytest
from training_support import start_worker


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
    model = golden / "tiny-bert"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    finish(start_worker(model, whole, devices=1))

    checkpoints = killed / "checkpoints"
    seconds = random.Random(0)

    def half_written():
        return any(".orbax-checkpoint-tmp" in p.name for p in checkpoints.glob("*"))

    kills = 0
    for moment in ("save", "any", "save"):
        process = start_worker(model, killed, devices=1)
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
    finish(start_worker(model, killed, devices=1))

    with np.load(whole / "final.npz") as a, np.load(killed / "final.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])
    assert sorted(p.name for p in checkpoints.iterdir()) == ["5", "6"]
    assert (killed / "metrics.jsonl").read_text().count("\n") == 6
