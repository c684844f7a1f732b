"""What a run's checkpoints hold, and what they refuse."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
from concurrent import futures
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from simcse_jax.process import Terminated
from simcse_jax.training import RunCheckpoints, UnusableCheckpoint, checkpoint, make_mesh, replicate
from simcse_jax.training.checkpoint import changed_settings


@pytest.fixture
def state():
    mesh = make_mesh(jax.devices()[:1])
    tree = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3), "n": np.int32(4), "none": None}
    return replicate(tree, mesh), replicate(jax.random.key(5), mesh)


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def save_whole(run, step, *state):
    run.save(step, *state)
    run.wait()


@pytest.mark.parametrize("broken", [False, True])
def test_a_program_that_ends_waits_for_its_checkpoint(tmp_path, broken):
    """Without `close`; the end is an error of the program's own."""
    script = f"""
import jax
from simcse_jax.training import RunCheckpoints
def fail(*_):
    raise OSError("a file of it is missing")
if {broken}:
    RunCheckpoints._check_written = fail
run = RunCheckpoints({str(tmp_path)!r})
run.save(7, {{"w": jax.numpy.ones(100_000)}}, jax.random.key(0))
raise ValueError("of its own")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "ValueError: of its own" in ended.stderr
    assert ("the checkpoint of step 7 could not be written" in ended.stderr) == broken
    if not broken:
        with RunCheckpoints(tmp_path) as run:
            assert run.steps == [7]


def damage(path, change):
    """Change the largest file of a checkpoint: its values."""
    file = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    file.write_bytes(change(file.read_bytes()))


def test_everything_comes_back_and_the_newest_are_kept(tmp_path, state):
    tree, key = state
    with RunCheckpoints(tmp_path, {"size": (1, 2)}, keep=2) as run:
        assert run.latest is None
        for step in (1, 2, 3):
            run.save(step, jax.tree.map(lambda x, s=step: x + s, tree), key, {"next": step})
        run.save(3, tree, key)  # it is there already
        assert run.steps == [2, 3]
    with RunCheckpoints(tmp_path, {"size": [1, 2]}) as run:
        step, found, found_key, extra = run.restore(tree, jax.random.key(0))
        assert (step, extra) == (3, {"next": 3})
        assert same(found, jax.tree.map(lambda x: x + 3, tree))
        assert (jax.random.key_data(found_key) == jax.random.key_data(key)).all()
        assert found["w"].sharding == tree["w"].sharding
        assert run.restore(tree, key, 2).extra == {"next": 2}
        with pytest.raises(FileNotFoundError, match="holds no checkpoint of step 1"):
            run.restore(tree, key, 1)


def test_a_half_written_checkpoint_is_not_there(tmp_path, state):
    with RunCheckpoints(tmp_path) as run:
        run.save(1, *state)
    half = tmp_path / "2.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "state").write_text("half")
    with RunCheckpoints(tmp_path) as run:
        assert run.steps == [1]
        assert run.restore(*state).step == 1
        run.save(2, *state)
        assert run.steps == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b[:9000] + bytes([b[9000] ^ 1]) + b[9001:],
        lambda b: b"",
    ],
    ids=["truncated", "one bit", "empty"],
)
def test_a_damaged_checkpoint_is_named(tmp_path, state, change):
    # Values that do not compress, so that they fill the largest file.
    tree = {**state[0], "w": jax.random.normal(jax.random.key(0), (64, 64))}
    with RunCheckpoints(tmp_path) as run:
        run.save(1, tree, state[1])
        run.save(2, tree, state[1])
    damage(tmp_path / "2", change)
    with RunCheckpoints(tmp_path) as run:
        with pytest.raises(ValueError, match=r"2 is damaged .*; delete it to resume from step 1$"):
            run.restore(tree, state[1])
        assert run.restore(tree, state[1], 1).step == 1
        assert run.steps == [1, 2]


@pytest.mark.parametrize("told", [Terminated(), KeyboardInterrupt()], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_while_it_is_read_is_no_damage(tmp_path, state, monkeypatch, told):
    async def load(*_, **__):
        async def in_background():
            raise told

        return in_background()

    with RunCheckpoints(tmp_path) as run:
        save_whole(run, 1, *state)
        monkeypatch.setattr(ocp.handlers.PyTreeHandler, "load", load)
        with pytest.raises(type(told)):
            run.restore(*state)
        monkeypatch.undo()
        assert run.restore(*state).step == 1


def test_damage_that_is_found_after_a_signal_is_damage(tmp_path, state):
    with RunCheckpoints(tmp_path) as run:
        save_whole(run, 1, *state)
        damage(tmp_path / "1", lambda content: b"")
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            with pytest.raises(UnusableCheckpoint):
                run.restore(*state)


def test_a_foreign_checkpoint_is_refused(tmp_path, state):
    with RunCheckpoints(tmp_path) as run:
        save_whole(run, 1, *state)
        file = tmp_path / "1" / "_CHECKPOINT_METADATA"
        raw = json.loads(file.read_text())
        for custom in ({"format": "another"}, None):
            file.write_text(json.dumps({**raw, "custom_metadata": custom}))
            with pytest.raises(ValueError, match="1 is not a checkpoint of such a run"):
                run.restore(*state)
        file.write_text("{")
        with pytest.raises(ValueError, match="damaged or of another model|not a checkpoint"):
            run.restore(*state)


def test_a_folder_that_is_no_checkpoint_is_refused_not_deleted(tmp_path, state):
    with RunCheckpoints(tmp_path) as run:
        run.save(5, *state)
    for name in ("3", "2023"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.jpg").touch()
        with pytest.raises(FileExistsError, match=rf"{name} is no checkpoint of a run"):
            RunCheckpoints(tmp_path)
        (tmp_path / name / "photo.jpg").unlink()
        (tmp_path / name).rmdir()


def test_another_model_is_refused(tmp_path, state):
    tree, key = state
    with RunCheckpoints(tmp_path) as run:
        run.save(1, tree, key)
        for other in ({**tree, "w": jnp.zeros((3, 3))}, {"w": tree["w"]}, {**tree, "x": tree["w"]}):
            with pytest.raises(ValueError, match="1 is damaged or of another model"):
                run.restore(other, key)
        with pytest.raises(ValueError, match="has a threefry2x32 key; this run has a rbg key"):
            run.restore(tree, jax.random.key(0, impl="rbg"))


def test_a_changed_setting_is_named(tmp_path, state):
    with RunCheckpoints(tmp_path, {"learning_rate": 3e-5, "pooling": "cls"}) as run:
        run.save(1, *state)
    with (
        RunCheckpoints(tmp_path, {"learning_rate": 1e-5, "pooling": "cls"}) as run,
        pytest.raises(ValueError, match="settings: learning_rate was 3e-05 and is 1e-05$"),
    ):
        run.restore(*state)
    with RunCheckpoints(tmp_path, {"learning_rate": 3e-5, "pooling": "cls"}) as run:
        assert run.restore(*state).step == 1


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path, state):
    tree, key = state
    big = {**tree, "w": jax.random.normal(jax.random.key(0), (64, 64))}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunCheckpoints(tmp_path) as run:
        save_whole(run, 1, big, key)
        # No file may be longer than this: the system's refusal in the middle of a write.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        try:
            with pytest.raises(OSError, match=r"step 2 could not be written .*step 1 is kept"):
                save_whole(run, 2, big, key)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
    with RunCheckpoints(tmp_path) as run:
        assert same(run.restore(big, key).state, big)


def test_a_checkpoint_of_which_a_file_is_missing_is_none(tmp_path, state, monkeypatch):
    """As it was found once on a disk that was all but full."""
    with RunCheckpoints(tmp_path) as run:
        save_whole(run, 1, *state)
        save = run._checkpointer.save_checkpointables_async

        def save_but_a_file(step, *args, **options):
            begun = save(step, *args, **options)
            begun.result()
            (tmp_path / str(step) / "run" / "_METADATA").unlink()
            return begun

        monkeypatch.setattr(run._checkpointer, "save_checkpointables_async", save_but_a_file)
        with pytest.raises(OSError, match=r"step 2 could not be written .*step 1 is kept.*missing"):
            save_whole(run, 2, *state)
        assert run.steps == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_a_pipe_in_the_place_of_metadata_is_not_waited_for(tmp_path, state):
    with RunCheckpoints(tmp_path) as run:
        run.save(1, *state)
    (tmp_path / "1" / "_CHECKPOINT_METADATA").unlink()
    os.mkfifo(tmp_path / "1" / "_CHECKPOINT_METADATA")
    with pytest.raises(FileExistsError, match=r"_CHECKPOINT_METADATA is a pipe or a device; dele"):
        RunCheckpoints(tmp_path)


def test_metadata_that_orbax_does_not_know_name_the_folder(tmp_path, state):
    with RunCheckpoints(tmp_path) as run:
        run.save(1, *state)
    file = tmp_path / "1" / "_CHECKPOINT_METADATA"
    file.write_text(file.read_text().replace("performance_metrics", "performanme_metrics"))
    with pytest.raises(ValueError, match=r"a checkpoint in .* is damaged \(.*performanme_metrics"):
        RunCheckpoints(tmp_path)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot keep checkpoints in .*file"):
        RunCheckpoints(tmp_path / "file")
    with pytest.raises(ValueError, match="keep is 0"):
        RunCheckpoints(tmp_path, keep=0)


def test_one_too_many_is_deleted_when_the_run_goes_on(tmp_path, state):
    """As a process leaves it that was killed between a save and the deletion of the oldest."""
    with RunCheckpoints(tmp_path, keep=3) as run:
        for step in (1, 2, 3):
            run.save(step, *state)
    with RunCheckpoints(tmp_path, keep=2) as run:
        with pytest.raises(FileExistsError):
            run.check(resume=False)
        assert run.steps == [1, 2, 3]
        run.check(resume=True)
        assert run.steps == [1, 2, 3]  # not before another was read: it may be the only good one
        run.go_on_from(run.restore(*state).step)
        assert run.steps == [2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_pipe_within_a_checkpoint_is_refused_and_not_waited_for(tmp_path, state):
    with RunCheckpoints(tmp_path) as run:
        save_whole(run, 1, *state)
        file = max((p for p in (tmp_path / "1" / "run").rglob("*") if p.is_file()), key=str)
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(UnusableCheckpoint, match=f"{file.name} is a pipe or a device"):
            run.restore(*state)


def held(run, monkeypatch, then=None):
    """Have the writer stop before it begins, until the event that is returned; then do this."""
    go_on, write = threading.Event(), run._checkpointer.save_checkpointables_async

    def wait_and_write(*args, **options):
        assert go_on.wait(60)
        return (then or write)(*args, **options)

    monkeypatch.setattr(run._checkpointer, "save_checkpointables_async", wait_and_write)
    return go_on


def test_what_is_saved_may_be_given_away_before_it_is_written(tmp_path, state, monkeypatch):
    tree, key = state
    kept = jax.tree.map(np.array, tree)
    with RunCheckpoints(tmp_path) as run:
        go_on = held(run, monkeypatch)
        run.save(1, tree, key)
        jax.tree.map(lambda x: x.delete(), tree)
        assert not (tmp_path / "1").exists()
        go_on.set()
        again = replicate(kept, make_mesh(jax.devices()[:1]))
        assert same(run.restore(again, key).state, kept)


def test_one_checkpoint_is_written_at_a_time(tmp_path, state, monkeypatch):
    with RunCheckpoints(tmp_path, keep=1) as run:
        go_on = held(run, monkeypatch)
        run.save(1, *state)
        whole: list[bool] = []  # whether the first was, when the second had been taken

        def save_another():
            run.save(2, *state)
            whole.append((tmp_path / "1" / "_CHECKPOINT_METADATA").exists() or run.steps != [])

        second = threading.Thread(target=save_another)
        second.start()
        second.join(0.05)
        assert not whole
        go_on.set()
        second.join()
        assert whole == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


@pytest.mark.parametrize("noticed", ["save", "check_writing", "wait", "steps", "the end"])
def test_an_error_of_the_writer_is_not_lost(tmp_path, state, monkeypatch, noticed):
    def full(*args, **options):
        raise OSError("No space left on device")

    def use(run):
        go_on = held(run, monkeypatch, full)
        run.save(1, *state)
        run.check_writing()  # nothing is known by now
        go_on.set()
        if noticed == "check_writing":
            futures.wait([run._writing])
        calls = {
            "save": lambda: run.save(2, *state),
            "steps": lambda: run.steps,
            "check_writing": run.check_writing,
            "wait": run.wait,
        }
        if noticed in calls:
            calls[noticed]()
            pytest.fail("it was lost")

    error = r"step 1 could not be written .*there is no older one.*No space left on device$"
    with pytest.raises(OSError, match=error), RunCheckpoints(tmp_path) as run:
        use(run)
    with RunCheckpoints(tmp_path) as run:
        assert run.steps == []


@pytest.mark.parametrize(
    ("own", "others", "says"),
    [
        (None, [True, False], None),
        (None, [False, False], None),
        (None, [True, True], "another process could not write the checkpoint to"),
        ("No space left", [False, False], "step 1 could not be written"),
        ("No space left", [True, True], "step 1 could not be written"),
    ],
    ids=["whole", "they write on", "they failed", "failed here", "failed everywhere"],
)
def test_where_one_of_several_processes_could_not_write_all_say_so(
    tmp_path, state, monkeypatch, own, others, says
):
    """At the same step; of another process ``others`` says whether it is done and has failed."""
    with pytest.MonkeyPatch.context() as several:

        def write(*args, **options):
            if own is not None:
                raise OSError(own)
            return SimpleNamespace(result=lambda: None)

        run = RunCheckpoints(tmp_path)
        several.setattr(run._checkpointer, "save_checkpointables_async", write)
        several.setattr(run, "_check_written", lambda step: None)
        run.save(1, *state)
        writing = run._writing
        futures.wait([writing])
        several.setattr(jax, "process_count", lambda: 2)
        gather = lambda mine: np.stack([mine, others])  # noqa: E731
        several.setattr(checkpoint.multihost_utils, "process_allgather", gather)
        if says is None:
            run.check_writing()
            assert run._writing is (None if others[0] else writing)
        else:
            with pytest.raises(OSError, match=says):
                run.check_writing()
    with contextlib.suppress(OSError):
        run.close()


def test_an_error_of_the_writer_is_told_beside_another(tmp_path, state, monkeypatch, caplog):
    def full(*args, **options):
        raise OSError("No space left on device")

    def use(run):
        held(run, monkeypatch, full).set()
        run.save(1, *state)
        raise KeyError

    with pytest.raises(KeyError), RunCheckpoints(tmp_path) as run:
        use(run)
    assert "the checkpoint of step 1 could not be written" in caplog.text


def test_without_memory_for_a_copy_it_is_written_at_once(tmp_path, state, monkeypatch, caplog):
    def full(_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    with RunCheckpoints(tmp_path) as run:
        monkeypatch.setattr(checkpoint.jnp, "copy", full)
        run.save(1, *state)
        assert run._writing is None
        assert "no memory is left for a copy of the training's state" in caplog.text
    with RunCheckpoints(tmp_path) as run:
        assert run.steps == [1]


def test_the_name_of_a_data_set_beside_files_tells_nothing():
    """Older versions wrote one."""
    old = {"seed": 1, "dataset": "embedded_wikipedia"}
    assert changed_settings(old, {"seed": 1}) == {}
    assert changed_settings(old, {"seed": 1, "dataset": "stsb"}).keys() == {"dataset"}
    assert changed_settings({"seed": 1}, old).keys() == {"dataset"}


def test_digests_are_said_in_words():
    digests = {"start": "a", "scored_on": "b"}
    assert changed_settings(digests, digests) == {}
    assert list(changed_settings(digests, {"start": "x", "scored_on": "y"}).values()) == [
        "what is scored, by eval_data or test_files, has changed",
        "the model to start from has changed",
    ]


@pytest.mark.parametrize("name", ["a[1]", "a\\b", "a\nb", "a:/b", "a:"])
def test_paths_that_orbax_would_read_otherwise(tmp_path, name):
    with pytest.raises(ValueError, match="checkpoints cannot be kept in .* in its path; give"):
        RunCheckpoints(tmp_path / name)
    assert not list(tmp_path.iterdir())
