"""Several processes through the command line: what they compute, and what is said when one dies."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from simcse_jax import cli, hosts
from simcse_jax.cli import main, run_or_explain
from simcse_jax.config import CONFIGS, replace
from simcse_jax.io import read_json, read_json_lines

STEPS = 300  # many more than a process takes until it is killed; a checkpoint is at step 30


def arguments(golden: Path, folder: Path, output: Path, steps: int = STEPS) -> list[str]:
    text = folder / "text.txt"
    text.write_text("".join(f"the dog number {i} sees a cat\n" for i in range(64)))
    return [
        *("train", "unsup_simcse", "--model", str(golden / "tiny-bert"), "--num-layers", "1"),
        *("--train-files", str(text), "--max-steps", str(steps), "--eval-every", "1000"),
        *("--batch-size", "8", "--max-length", "16", "--output-dir", str(output)),
        *("--schedule", "constant", "--checkpoint-steps", "30"),
    ]


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


# The child of `hosts.watch` alone, which misses the others after seconds.
IMPATIENT_CHILD = """
import os, socket, sys, tempfile
from simcse_jax import cli, hosts
hosts.HEARTBEAT_SECONDS = 4
parent, own = socket.socketpair()
log, name = tempfile.mkstemp()
os.environ["SIMCSE_JAX_CHILD"] = f"{log} {own.detach()} {name}"
cli.main(sys.argv[1:])
"""
COMMAND = "from simcse_jax.cli import main; main()"


def start(
    args: list[str], address: str, number: int, code: str = COMMAND, **environment: str
) -> subprocess.Popen:
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    rank = ["--distributed", "--coordinator", address, "--num-processes", "2", "--process-id"]
    return subprocess.Popen(
        [sys.executable, "-c", code, *args, *rank, str(number)],
        env=os.environ | {"XLA_FLAGS": flags} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_both(args: list[str]) -> list[subprocess.Popen]:
    address = free_address()
    return [start(args, address, i) for i in range(2)]


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


@pytest.fixture(scope="module")
def whole(golden, tmp_path_factory):
    """The run's folder of two commands that nobody disturbed, and how they ended."""
    folder = tmp_path_factory.mktemp("whole")
    ends = finish(start_both(arguments(golden, folder, folder / "run")))
    assert [code for code, _, _ in ends] == [0, 0], ends
    return folder / "run", ends


def assert_same_run(folder: Path, expected: Path) -> None:
    assert losses(folder) == losses(expected)
    for which in ("best", "last"):
        mine, theirs = (x / which / "model.safetensors" for x in (folder, expected))
        assert mine.read_bytes() == theirs.read_bytes()


def assert_it_says_one_was_lost(end: tuple[int, str, str]) -> None:
    errors = errors_of(end)
    assert end[0] == 1
    assert errors.count("\n") == 1, errors
    assert errors.startswith("error: a process of the run was lost")


def errors_of(end: tuple[int, str, str]) -> str:
    """Its errors, without the lines that say whom it waits for: a slow machine prints them."""
    return re.sub(r"^process \d of \d .*waits for .*\n", "", end[2], flags=re.MULTILINE)


def wait_until(so: Callable[[], bool], processes: list[subprocess.Popen]) -> None:
    until = time.monotonic() + 200
    while not so():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < until
        time.sleep(0.02)


def logged(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


@pytest.mark.slow
def test_two_commands_train_as_one_and_a_lost_one_is_told_of(golden, tmp_path, whole):
    """The same losses as one process; one killed: the other says so; resumed: the same bits."""
    args = arguments(golden, tmp_path, tmp_path / "one", steps=5)
    main(args)
    folder, ends = whole
    np.testing.assert_allclose(losses(folder)[:5], losses(tmp_path / "one"), rtol=1e-6)
    assert "loads" in ends[0][1]
    assert ends[1][1] == ""  # the first process alone speaks
    assert read_json(folder / "run.json")["run"]["process_id"] is None

    broken = arguments(golden, tmp_path, tmp_path / "broken")
    processes = start_both(broken)
    wait_until(lambda: logged(tmp_path / "broken") > 30, processes)
    processes[1].send_signal(signal.SIGKILL)
    assert_it_says_one_was_lost(finish(processes)[0])
    ends = finish(start_both([*broken, "--resume"]))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert_same_run(tmp_path / "broken", folder)


# Run by every Python that finds it, before anything else. The file HELD is made when the process
# has come to the place, and it goes on when GO is there.
HOLDING = """
import os

if "SIMCSE_JAX_CHILD" in os.environ:  # not in the parent that watches it
    import time
    from pathlib import Path
    from orbax.checkpoint import v1 as ocp

    def hold():
        Path(os.environ["HELD"]).touch()
        while not Path(os.environ["GO"]).exists():
            time.sleep(0.02)

    if os.environ["WHERE"] == "writing":  # the second checkpoint, whole but for its name
        commits = []
        def committing():
            commits.append(None)
            if len(commits) == 2:
                hold()
        options = ocp.options.AsyncOptions(post_finalization_callback=committing)
        make = ocp.training.Checkpointer
        ocp.training.Checkpointer = lambda *args, **named: make(
            *args, context=ocp.Context(async_options=options), **named
        )
    else:
        load = ocp.handlers.PyTreeHandler.load
        async def loading(*args, **named):
            hold()
            return await load(*args, **named)
        ocp.handlers.PyTreeHandler.load = loading
"""


def start_both_held(args: list[str], folder: Path, where: str) -> list[subprocess.Popen]:
    """Start two commands of which the first is held at a place, until ``folder / "go"`` is made."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOLDING)
    (folder / "tmp").mkdir()
    places = {"HELD": str(folder / "held"), "GO": str(folder / "go"), "WHERE": where}
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    first = places | {"PYTHONPATH": path, "TMPDIR": str(folder / "tmp")}
    address = free_address()
    return [start(args, address, 0, **first), start(args, address, 1, TMPDIR=str(folder / "tmp"))]


@pytest.mark.slow
def test_two_processes_train_on_while_a_checkpoint_is_written(golden, tmp_path, whole):
    """A signal waits for it, a kill leaves the older one; resumed: the same bits."""
    run = tmp_path / "run"
    args = arguments(golden, tmp_path, run)

    processes = start_both_held(args, tmp_path / "stopped", "writing")
    wait_until(lambda: logged(run) >= 90, processes)  # where the next is due
    assert (tmp_path / "stopped" / "held").exists()
    assert not (run / "checkpoints" / "60").exists()
    processes[1].send_signal(signal.SIGTERM)
    (tmp_path / "stopped" / "go").touch()
    ends = finish(processes)
    assert [code for code, _, _ in ends] == [143, 143], ends
    stopped = max(int(path.name) for path in (run / "checkpoints").iterdir())
    assert 90 <= stopped < STEPS

    processes = start_both_held([*args, "--resume"], tmp_path / "killed", "writing")
    wait_until((tmp_path / "killed" / "held").exists, processes)
    processes[0].send_signal(signal.SIGKILL)
    assert_it_says_one_was_lost(finish(processes)[1])
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert [name for name in left if not name.isdecimal()] != []  # what was being written
    assert max(int(name) for name in left if name.isdecimal()) >= stopped

    ends = finish(start_both([*args, "--resume"]))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert_same_run(run, whole[0])


@pytest.mark.slow
def test_a_signal_while_two_processes_read_a_checkpoint_is_no_damage(golden, tmp_path, whole):
    """Nor is it lost; where one alone was told, the other says that it was lost."""
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    for name in ("results.json", "last", "checkpoints/300"):  # as if at step 270
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    args = [*arguments(golden, tmp_path, run), "--resume"]
    for told in ([0], [0, 1]):
        place = tmp_path / f"told {len(told)}"
        processes = start_both_held(args, place, "reading")
        wait_until((place / "held").exists, processes)
        for number in told:
            processes[number].send_signal(signal.SIGTERM)
        ends = finish(processes)
        for number, end in enumerate(ends):
            if number in told:
                assert end[0] == 143
                said = "error: stopped by SIGTERM; start it again by: "
                assert errors_of(end).startswith(said), end
            else:
                assert_it_says_one_was_lost(end)
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["270"]


@pytest.mark.slow
def test_two_commands_encode_their_shares_and_a_lost_one_costs_no_other_its_work(golden, tmp_path):
    """Together they have the rows of one process; what is done is not done again with --resume."""
    lines = [json.dumps({"id": i, "body": f"the dog number {i} sees a cat"}) for i in range(61)]
    corpus, one = tmp_path / "corpus.jsonl", tmp_path / "one.npy"
    args = ["encode", str(corpus), "--column", "body", "--model", str(golden / "tiny-bert")]
    args += ["--pooling", "mean", "--output"]
    shards = [tmp_path / "out" / f"v-0000{i}-of-00002.npy" for i in range(2)]

    corpus.write_text("\n".join([*lines[:50], "{", *lines[51:]]))
    address = free_address()
    words = [*args, str(tmp_path / "out" / "v.npy")]
    (code, *_), (failed, _, errors) = finish(
        [start(words, address, i, IMPATIENT_CHILD, TMPDIR=str(tmp_path)) for i in range(2)]
    )
    assert code not in (0, 2)  # the first is done, and lost the second while it waits for it
    assert failed == 2
    assert errors == f"error: {corpus}, line 51: not JSON (Expecting property name enclosed in " + (
        "double quotes at column 2)\n"
    )
    done = shards[0].stat()
    assert not shards[1].exists()

    corpus.write_text("\n".join(lines))
    main([*args, str(one)])
    ends = finish(start_both([*args, str(tmp_path / "out" / "v.npy"), "--resume"]))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert [out for _, out, _ in ends] == [
        f"{shard}: float32 [{rows}, 32]\n" for shard, rows in zip(shards, (30, 31), strict=True)
    ]
    assert shards[0].stat().st_mtime_ns == done.st_mtime_ns
    assert sorted((tmp_path / "out").iterdir()) == shards
    together = np.concatenate([np.load(shard) for shard in shards])
    np.testing.assert_allclose(together, np.load(one), atol=1e-6)


@pytest.mark.parametrize(
    ("other", "said"),
    [([1, 7, 0, 90], "5 rows .* 2,147,483,655"), ([0, 5, 0, 91], "90 bytes .* 91")],
)
def test_shares_are_of_the_same_rows_and_bytes(monkeypatch, other, said):
    gathered = np.array([[0, 5, 0, 90], other], np.int32)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda _: gathered)
    with pytest.raises(ValueError, match=f"c.txt has {said} for another; give all"):
        cli._agreed_place("c.txt", 5, 90)


@pytest.mark.slow
def test_whom_a_process_waits_for_is_said_and_a_signal_ends_it(golden, tmp_path):
    """Nor does a log stay behind that says nothing."""
    (tmp_path / "logs").mkdir()
    args = [*arguments(golden, tmp_path, tmp_path / "run", steps=1), "--join-timeout", "4"]
    addresses = [free_address() for _ in range(3)]
    processes = [
        start(args, address, number, TMPDIR=str(tmp_path / "logs"))
        for address, number in zip(addresses, (0, 1, 0), strict=True)
    ]
    said = processes[2].stderr.readline()
    processes[2].send_signal(signal.SIGINT)
    assert said == (
        f"process 0 of 2 listens at {addresses[2]} and waits for 1 other, for 4 s at most\n"
    )
    first, second, stopped = finish(processes)
    assert stopped[0] == 130
    assert stopped[2].startswith("error: stopped by Ctrl-C")
    for (code, _, errors), waits in (
        (first, f"process 0 of 2 listens at {addresses[0]} and waits for 1 other"),
        (second, f"process 1 of 2 waits for process 0 at {addresses[1]}, where nothing answers"),
    ):
        assert code == 2
        line, error = errors.splitlines()
        assert line == f"{waits}, for 4 s at most"
        assert error.startswith(f"error: the processes of the run did not meet within 4 s: {waits}")
    assert not list((tmp_path / "logs").iterdir())
    assert not (tmp_path / "run").exists()


def test_words_of_the_transport_tell_of_a_lost_process(capsys):
    def fail(number):
        try:
            raise ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
        except ValueError as error:
            if number == 0:
                raise
            raise OSError("the checkpoint could not be written") from error

    for number in range(2):
        with pytest.raises(SystemExit) as stop:
            run_or_explain(lambda number=number: fail(number))
        assert stop.value.code == 1
        error = capsys.readouterr().err
        assert error.startswith("error: a process of the run was lost, so that this one ended too")
        assert "Connection closed by peer" in error
    assert hosts.loss_in(ValueError("eval_data is missing")) is None
    # A full disk under orbax: what is raised again is the context of its own context.
    first, second = OSError("no space left"), RuntimeError("while closing")
    first.__context__, second.__context__ = second, first
    assert hosts.loss_in(first) is None


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
    with pytest.raises(ValueError, match="give the coordinator's HOST:PORT"):
        hosts.join()
