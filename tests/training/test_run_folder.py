"""The folder of a run: who holds it, and what is refused before anything is written."""

import json
import os
import platform
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from simcse_jax.io import write_json, write_text
from simcse_jax.process import is_alive, start_time
from simcse_jax.training.run_folder import LOCK, check_folder, claimed, on_first_process


@pytest.fixture
def other():
    """A process that goes on, as another run would."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    yield process
    process.communicate()


def hold(folder, pid, host=None, started=None):
    folder.mkdir(exist_ok=True)
    record = {"host": host or platform.node(), "pid": pid, "started": started}
    write_json(folder / LOCK, record)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_is_held_and_let_go(tmp_path):
    folder = tmp_path / "runs" / "run"
    with claimed(folder):
        assert names(folder) == [LOCK]
        with (
            pytest.raises(FileExistsError, match=rf"held by process {os.getpid()} of .*goes on"),
            claimed(folder),
        ):
            pytest.fail("held twice")
        assert names(folder) == [LOCK]
    assert not list(tmp_path.iterdir())  # nothing was written, so nothing stays
    folder.mkdir(parents=True)
    with claimed(folder):
        write_text(folder / "metrics.jsonl", "")
    assert names(folder) == ["metrics.jsonl"]


def test_another_run_in_the_folder_is_named(tmp_path, other):
    hold(tmp_path, other.pid, started=start_time(other.pid))
    said = rf"is held by process {other.pid} of {platform.node()}, a run that goes on"
    with pytest.raises(FileExistsError, match=said), claimed(tmp_path):
        pytest.fail("held twice")
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == other.pid


def test_another_machine_is_named_with_the_mend(tmp_path):
    hold(tmp_path, 1, host="elsewhere")
    said = r"process 1 of another machine, elsewhere; if no run goes on there, delete .*run\.lock"
    with pytest.raises(FileExistsError, match=said), claimed(tmp_path):
        pytest.fail("held twice")


def test_the_lock_of_a_dead_process_counts_for_nothing(tmp_path, other):
    assert is_alive(other.pid)
    assert is_alive(other.pid, start_time(other.pid))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert not is_alive(dead.pid)
    hold(tmp_path, dead.pid)
    with claimed(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    # Another process has its number by now.
    if start_time(other.pid) is not None:
        hold(tmp_path, other.pid, started=start_time(other.pid) - 1)
        with claimed(tmp_path):
            pass
    write_text(tmp_path / LOCK, '{"host": "els')  # killed while it wrote
    with claimed(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_no_longer_ours_stays(tmp_path, other):
    with claimed(tmp_path):
        hold(tmp_path, other.pid)
    assert names(tmp_path) == [LOCK]


def test_what_killed_runs_had_begun_to_write_is_removed(tmp_path):
    left = ".best.0123abcd-1-0123abcd"
    (tmp_path / left).mkdir()
    write_text(tmp_path / left / "model.safetensors", "half")
    write_text(tmp_path / "best" / ".config.json.0123abcd-1-0123abcd", "half")
    kept = [".results.json", ".gitignore.0123abcd", "best", "thesis.txt.0123abcd-1-0123abcd"]
    for name in kept:
        if name != "best":
            write_text(tmp_path / name, "mine")
    with claimed(tmp_path):
        assert names(tmp_path) == sorted([*kept, LOCK])
        assert not names(tmp_path / "best")


def test_places_that_can_hold_no_run(tmp_path):
    write_text(tmp_path / "file", "")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        said = r"is a file; give the name|cannot make a run in"
        with pytest.raises(OSError, match=said), claimed(place):
            pytest.fail("held a file")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with claimed(tmp_path / "link"):
        assert names(tmp_path / "real") == [LOCK]
        with pytest.raises(FileExistsError, match="is held by"), claimed(tmp_path / "real"):
            pytest.fail("held twice")


def test_where_the_first_process_is_refused_no_other_goes_on(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    sent = []
    monkeypatch.setattr(
        multihost_utils, "broadcast_one_to_all", lambda x: sent.append(x) or sent[0]
    )

    def refuse():
        raise FileExistsError("it is held by another run")

    with pytest.raises(FileExistsError, match="held by another"):
        on_first_process(refuse)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(OSError, match="^the first process: it is held by another run$"):
        on_first_process(lambda: pytest.fail("called by the second"))
    sent[0] = np.zeros_like(sent[0])
    assert on_first_process(lambda: pytest.fail("called by the second")) is None


RUN = {"objective": {"type": "simcse"}, "run": {"seed": 1}}
FIXED = {"type": "simcse", "seed": 1}


def fill(folder, files):
    for name, content in files.items():
        (write_text if isinstance(content, str) else write_json)(folder / name, content)


MODEL = {"run.json": RUN, "best/simcse_jax.json": {}}
FINISHED = {"run.json": RUN, "results.json": {"settings": {**FIXED, "text": "digest"}}}
STEP = {"run.json": RUN, "checkpoints/7/_CHECKPOINT_METADATA": {}}
SEEDS = {"summary.json": {"settings": {**FIXED, "seed": None}}}


@pytest.mark.parametrize(
    ("files", "resume", "message"),
    [
        ({}, False, None),
        ({"thesis.txt": "mine"}, False, None),
        ({"thesis.txt": "mine"}, True, None),
        ({"run.json": RUN, "metrics.jsonl": "", "tensorboard/x": ""}, False, None),
        (FINISHED, False, "holds a finished run, results.json; read its results by --resume"),
        (
            FINISHED | {"last/simcse_jax.json": {}},
            False,
            "holds a finished run, results.json; go on from its end by --model .*, or read its",
        ),
        (FINISHED, True, None),
        (STEP, False, "holds a run at step 7; go on with it by --resume"),
        (STEP, True, None),
        (MODEL, False, "holds the model of a run, best; go on with it"),
        (MODEL, True, None),
        (SEEDS, False, "holds the runs of several seeds, summary.json"),
        # What is not a run's.
        ({"best/thesis.txt": "mine"}, False, "best was not written by a run"),
        ({"best/thesis.txt": "mine"}, True, "best was not written by a run"),
        ({"run.json": RUN, "last/thesis.txt": "mine"}, True, "last was not written by a run"),
        ({"run.json": RUN, "best": "mine"}, True, "best was not written by a run"),
        ({"run.json": "[]"}, False, r"run\.json was not written by a run"),
        ({"results.json": {"settings": {}}}, True, r"results\.json was not written by a run"),
        ({"metrics.jsonl": "mine"}, False, r"metrics\.jsonl was not written by a run"),
        # What is not whole, or another run's.
        ({**FINISHED, "results.json": ""}, True, r"results\.json, line 1: not JSON .*; delete it"),
        ({**FINISHED, "results.json": '{"sett'}, True, "not JSON .*; delete it, and --resume"),
        (
            {**FINISHED, "results.json": FINISHED["results.json"] | {"digest": "of others"}},
            True,
            "changed after it was written; delete it, and --resume",
        ),
        ({**FINISHED, "results.json": {}}, True, "does not hold the results of a run; delete it"),
        (
            {**FINISHED, "results.json": {"settings": {"type": "simcse", "seed": 2}}},
            True,
            r"results\.json is of other settings \(seed was 2 and is 1\)",
        ),
        (
            {**MODEL, "run.json": {"objective": {"type": "sbert"}, "run": {"seed": 1}}},
            True,
            r"run\.json is of other settings \(type was 'sbert' and is 'simcse'\)",
        ),
        (SEEDS, True, r"summary\.json is of other settings \(seed was None and is 1\)"),
    ],
)
def test_what_stands_there_is_compared(tmp_path, files, resume, message):
    fill(tmp_path, files)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    if message is None:
        check_folder(tmp_path, FIXED, resume)
    else:
        with pytest.raises((FileExistsError, ValueError), match=message):
            check_folder(tmp_path, FIXED, resume)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", [LOCK, "metrics.jsonl", "results.json", "run.json"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_pipe_in_the_folder_is_refused_and_nobody_waits_for_it(tmp_path, name, resume):
    os.mkfifo(tmp_path / name)
    with (
        pytest.raises(FileExistsError, match=f"{name} is a pipe or a device; delete it"),
        claimed(tmp_path),
    ):
        check_folder(tmp_path, {}, resume)
