"""Several processes through the command line: what they compute, and what is said when one dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from simcse_jax import hosts
from simcse_jax.cli import main
from simcse_jax.config import CONFIGS, replace
from simcse_jax.io import read_json, read_json_lines

STEPS = 140  # a checkpoint is written at step 125


def arguments(golden: Path, folder: Path, output: Path, steps: int = STEPS) -> list[str]:
    text = folder / "text.txt"
    text.write_text("".join(f"the dog number {i} sees a cat\n" for i in range(64)))
    return [
        *("train", "unsup_simcse", "--model", str(golden / "tiny-bert"), "--num-layers", "1"),
        *("--train-files", str(text), "--max-steps", str(steps), "--eval-every", "1000"),
        *("--batch-size", "8", "--max-length", "16", "--output-dir", str(output)),
        *("--schedule", "constant"),
    ]


def start_both(args: list[str]) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    rank = ["--distributed", "--coordinator", address, "--num-processes", "2", "--process-id"]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "simcse_jax.cli", *args, *rank, str(i)],
            env=os.environ | {"XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    try:
        ends = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [(p.returncode, *end) for p, end in zip(processes, ends, strict=True)]


def losses(folder: Path) -> list[float]:
    lines = read_json_lines(folder / "metrics.jsonl")
    return [line["loss"] for line in lines if "loss" in line]


def test_two_commands_train_as_one_and_a_lost_one_is_told_of(golden, tmp_path):
    """The same losses as one process; one killed: the other says so; resumed: the same bits."""
    args = arguments(golden, tmp_path, tmp_path / "one", steps=5)
    main(args)
    whole = tmp_path / "whole"
    ends = finish(start_both(arguments(golden, tmp_path, whole)))
    assert [code for code, _, _ in ends] == [0, 0], ends
    np.testing.assert_allclose(losses(whole)[:5], losses(tmp_path / "one"), rtol=1e-6)
    assert "loads" in ends[0][1]
    assert ends[1][1] == ""  # the first process alone speaks
    assert read_json(whole / "run.json")["run"]["process_id"] is None

    broken = arguments(golden, tmp_path, tmp_path / "broken")
    processes = start_both(broken)
    metrics = tmp_path / "broken" / "metrics.jsonl"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 125):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGKILL)
    code, _, errors = finish(processes)[0]
    if code != 0:  # killed in time
        assert code == 1
        assert errors.count("\n") == 1, errors
        assert errors.startswith("error: a process of the run was lost")
    ends = finish(start_both([*broken, "--resume"]))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert losses(tmp_path / "broken") == losses(whole)
    for which in ("best", "last"):
        mine, theirs = (x / which / "model.safetensors" for x in (tmp_path / "broken", whole))
        assert mine.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coordinator": "host:1"}, "go together"),
        ({"coordinator": "host", "num_processes": 2, "process_id": 0}, "must be HOST:PORT"),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": 2}, "process_id is 2 of"),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": 0}, "--distributed"),
    ],
)
def test_ranks_that_cannot_be_so(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIGS["unsup_simcse"], **changes)


def test_who_the_others_are_must_be_said_somewhere(monkeypatch):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match="give coordinator"):
        hosts.join()
