"""The loop: resuming, evaluation, metrics, signals, and what stops it."""

import json
import os
import re
import shutil
import signal
import threading
from concurrent import futures
from time import perf_counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from training_support import init, make_batches

from simcse_jax.objectives import SimCSE
from simcse_jax.training import (
    Evaluation,
    OptimizerConfig,
    RunCheckpoints,
    TrainState,
    compile_step,
    fit,
    loop,
    make_mesh,
    make_optimizer,
    make_step,
    replicate,
    start_state,
)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def run_simcse(tiny, mesh):
    """`fit` on the tiny model: one compilation for all tests here."""
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3), 6)
    objective = SimCSE()
    compiled = compile_step(make_step(objective.build(tiny.model()), optimizer), mesh)
    params = init(tiny, objective)

    def run(batches=None, total=6, **options):
        state = replicate(start_state(params, optimizer), mesh)
        key = replicate(jax.random.key(0), mesh)
        return fit(
            compiled, state, batches or make_batches(8), key, total, progress=False, **options
        )

    return run


OPTIMIZER = optax.sgd(0.1)


def line_step(state, batch, key):
    """Another step: a line through points, one parameter. Nothing here is SimCSE's."""

    def objective(params):
        return jnp.mean((params["w"] * batch["x"] - batch["y"]) ** 2)

    loss, gradient = lax.pmean(jax.value_and_grad(objective)(state.params), "data")
    updates, opt_state = OPTIMIZER.update(gradient, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state), {"loss": loss}


def line_runner(mesh, parallel="shard_map"):
    compiled = compile_step(line_step, mesh, parallel)

    def run(batches=None, total=10, **options):
        params = {"w": np.float32(0)}
        state = replicate(TrainState(np.int32(0), params, OPTIMIZER.init(params)), mesh)
        key = replicate(jax.random.key(0), mesh)
        options = {"progress": False} | options
        return fit(compiled, state, batches or line, key, total, **options)

    return run


@pytest.fixture(scope="module")
def run_line(mesh):
    return line_runner(mesh)


def line(start):
    for step in range(start, 1000):
        x = np.random.default_rng(step).normal(size=(4, 1)).astype(np.float32)
        yield {"x": x, "y": 2 * x}


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def records(path):
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    for record in lines:
        record.pop("sentences_per_second", None)
    return lines


def test_resuming_gives_the_same_bits(run_simcse, tmp_path):
    whole = run_simcse(metrics_file=tmp_path / "whole.jsonl")
    assert whole.step == 6
    assert whole.stopped_by is None

    file = tmp_path / "parts.jsonl"
    for total in (2, 5, 6):
        with RunCheckpoints(tmp_path / "run") as checkpoints:
            part = run_simcse(
                total=total, checkpoints=checkpoints, resume=True, metrics_file=file, log_every=2
            )
        with file.open("a") as log:
            log.write('{"step": 6, "loss": 1}\n{"step": 7, "lo')  # what a kill may leave
    assert bits(part.state) == bits(whole.state)
    file.write_text("\n".join(file.read_text().splitlines()[:-2]) + "\n")
    assert records(file) == records(tmp_path / "whole.jsonl")
    assert [r["step"] for r in records(file)] == [1, 2, 3, 4, 5, 6]

    with RunCheckpoints(tmp_path / "run") as checkpoints:
        again = run_simcse(checkpoints=checkpoints, resume=True)  # there is nothing left to do
        assert bits(again.state) == bits(whole.state)
        with pytest.raises(FileExistsError, match="holds a run at step 6; go on with it by"):
            run_simcse(checkpoints=checkpoints)
        with pytest.raises(ValueError, match="is at step 6, past the 3 wanted"):
            run_simcse(total=3, checkpoints=checkpoints, resume=True)


def test_simcse_learns_and_reports_its_metrics(run_simcse, tmp_path):
    seen = []
    run_simcse(on_record=seen.append, log_every=4)
    assert [r["step"] for r in seen] == [1, 2, 3, 4, 5, 6]
    expected = {"step", "loss", "contrastive_loss", "accuracy", "gradient_norm", "alignment"}
    assert expected | {"uniformity", "duplicates", "sentences_per_second"} == seen[0].keys()


def test_the_best_evaluation_is_kept_across_a_resume(run_line, tmp_path):
    scores = {2: 0.1, 4: 0.9, 6: 0.5, 8: 0.8, 10: 0.9}
    saved, steps = [], iter([2, 4, 6, 8, 10])

    def evaluation():
        return Evaluation(
            every=2,
            function=lambda params: {"score": scores[next(steps)]},
            best_metric="score",
            save_best=lambda params, step, metrics: saved.append((step, float(params["w"]))),
        )

    file = tmp_path / "metrics.jsonl"
    for total in (6, 10):
        with RunCheckpoints(tmp_path / "run") as checkpoints:
            result = run_line(
                total=total,
                checkpoints=checkpoints,
                resume=True,
                evaluation=evaluation(),
                metrics_file=file,
            )
    assert [step for step, _ in saved] == [2, 4]  # the first of two equal ones
    assert result.best == {"step": 4, "value": 0.9, "metrics": {"score": 0.9}}
    evaluated = [r for r in records(file) if "eval" in r]
    assert [(r["step"], r["eval"]["score"]) for r in evaluated] == list(scores.items())
    assert abs(float(result.state.params["w"]) - 2) < 0.5

    missing = Evaluation(5, lambda params: {"score": 1.0}, "spearman")
    with pytest.raises(ValueError, match="best_metric is 'spearman'; the evaluation gave"):
        run_line(evaluation=missing)


def test_pmap_goes_on_where_shard_map_was_and_back(tmp_path):
    """Its states are evaluated, saved and resumed as those of shard_map are."""
    mesh = make_mesh(jax.devices()[:4])
    runs = {parallel: line_runner(mesh, parallel) for parallel in ("shard_map", "pmap")}
    whole = runs["shard_map"]()
    seen = []

    def evaluate(params):
        seen.append(float(params["w"]))
        return {"score": seen[-1]}

    for total, parallel in ((3, "pmap"), (6, "shard_map"), (10, "pmap")):
        with RunCheckpoints(tmp_path) as checkpoints:
            part = runs[parallel](
                total=total,
                checkpoints=checkpoints,
                resume=True,
                evaluation=Evaluation(3, evaluate),
            )
        assert part.state.params["w"].sharding == whole.state.params["w"].sharding
    assert bits(part.state) == bits(whole.state)
    assert len(seen) == 4
    assert seen[-1] == float(whole.state.params["w"])


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(run_line, tmp_path):
    def poisoned(start):
        for step, batch in zip(range(start, 1000), line(start), strict=False):
            if step == 6:
                batch["x"][1] = np.nan
            yield batch

    file = tmp_path / "metrics.jsonl"
    with (
        RunCheckpoints(tmp_path / "run") as checkpoints,
        pytest.raises(FloatingPointError, match="loss is nan at step 7; the checkpoint of step 6"),
    ):
        run_line(poisoned, checkpoints=checkpoints, checkpoint_every=3, metrics_file=file)
    assert [r["step"] for r in records(file)] == [1, 2, 3, 4, 5, 6]
    with RunCheckpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.latest == 6
        resumed = run_line(checkpoints=checkpoints, resume=True)
    assert np.isfinite(resumed.state.params["w"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(run_line, tmp_path, number):
    def ended(start):
        for step, batch in zip(range(start, 1000), line(start), strict=False):
            if step == 4 and start == 0:
                os.kill(os.getpid(), number)
            yield batch

    before = signal.getsignal(number)
    whole = run_line()
    with RunCheckpoints(tmp_path) as checkpoints:
        part = run_line(ended, checkpoints=checkpoints)
        assert part.stopped_by == number
        assert part.step == checkpoints.latest == 5
    assert signal.getsignal(number) is before
    with RunCheckpoints(tmp_path) as checkpoints:
        rest = run_line(ended, checkpoints=checkpoints, resume=True)
    assert rest.stopped_by is None
    assert bits(rest.state) == bits(whole.state)


def spoil_metadata(checkpoint):
    (checkpoint / "_CHECKPOINT_METADATA").write_text("{")


def spoil_values(checkpoint):
    for file in checkpoint.rglob("*"):
        if file.is_file() and "d" in file.parts[-2:]:
            file.write_bytes(file.read_bytes()[:-20] + bytes(20))


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_metadata,
        spoil_values,
        lambda checkpoint: (checkpoint / "_CHECKPOINT_METADATA").unlink(),
        lambda checkpoint: shutil.rmtree(checkpoint / "run"),
    ],
    ids=["metadata", "values", "no metadata", "no values"],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(run_line, tmp_path, caplog, spoil):
    whole = run_line(total=10)
    with RunCheckpoints(tmp_path) as checkpoints:
        run_line(total=8, checkpoints=checkpoints, checkpoint_every=2)
    good = (tmp_path / "8" / "_CHECKPOINT_METADATA").stat().st_mtime_ns
    spoil(tmp_path / "8")
    with RunCheckpoints(tmp_path) as checkpoints:
        # The damaged one is written anew.
        run_line(total=8, checkpoints=checkpoints, checkpoint_every=2, resume=True)
        assert checkpoints.steps == [6, 8]
        assert (tmp_path / "8" / "_CHECKPOINT_METADATA").stat().st_mtime_ns != good
        again = run_line(total=10, checkpoints=checkpoints, resume=True)
    assert bits(again.state) == bits(whole.state)
    (said,) = [r.getMessage() for r in caplog.records if r.name.startswith("simcse_jax")]
    assert said.startswith(("the checkpoint", str(tmp_path / "8")))
    assert said.endswith("; the run goes back to the checkpoint before")


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({}, [10]),
        ({"checkpoint_every": 4}, [4, 8, 10]),
        ({"checkpoint_seconds": 35}, [6, 10]),  # looked at every three steps
        ({"checkpoint_seconds": 35, "checkpoint_every": 5}, [5, 9, 10]),
    ],
)
def test_checkpoints_come_by_steps_and_by_the_clock(
    run_line, tmp_path, monkeypatch, options, saved
):
    """The clock of a run in which every step takes ten seconds."""
    now, steps = 0, []

    def batches(start):
        nonlocal now
        for batch in line(start):
            now += 10
            yield batch

    monkeypatch.setattr(
        loop, "time", SimpleNamespace(monotonic=lambda: now, perf_counter=perf_counter)
    )
    with RunCheckpoints(tmp_path) as checkpoints:
        save = checkpoints.save
        checkpoints.save = lambda step, *rest: (steps.append(step), save(step, *rest))
        run_line(batches, total=10, checkpoints=checkpoints, log_every=3, **options)
    assert steps == saved


def test_processes_agree_on_signals_and_on_the_first_ones_clock(monkeypatch):
    def gathered(own):
        return np.stack([own, [15, 1]])

    assert loop.agreed(None, True) == (None, True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(loop.multihost_utils, "process_allgather", gathered)
    assert loop.agreed(None, False) == (15, False)
    monkeypatch.setattr(loop.multihost_utils, "process_allgather", lambda x: gathered(x)[::-1])
    assert loop.agreed(2, False) == (15, True)


def test_without_a_checkpoint_that_can_be_read_the_run_is_refused(run_line, tmp_path):
    with RunCheckpoints(tmp_path) as checkpoints:
        run_line(total=4, checkpoints=checkpoints, checkpoint_every=2)
    for step in ("2", "4"):
        spoil_metadata(tmp_path / step)
    with (
        RunCheckpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match="older ones are no better; delete .* to train from the"),
    ):
        run_line(checkpoints=checkpoints, resume=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "4"]


def test_a_best_model_that_is_gone_is_found_again(run_line, tmp_path, caplog):
    """In the checkpoint of its step, or on the way there from an older one; or the run stops."""
    scores = {2: 0.1, 4: 0.9, 6: 0.5, 8: 0.2}
    there = {}

    def run(total, start=0):
        steps = iter(range(start + 2, total + 1, 2))
        evaluation = Evaluation(
            2,
            lambda params: {"score": scores[next(steps)]},
            "score",
            lambda params, step, metrics: there.update({step: float(params["w"])}),
            lambda: bool(there),
        )
        with RunCheckpoints(tmp_path) as checkpoints:
            return run_line(
                total=total,
                checkpoints=checkpoints,
                checkpoint_every=2,
                resume=True,
                evaluation=evaluation,
            )

    run(6)
    best = dict(there)
    assert list(best) == [2, 4]
    there.clear()
    # Step 6 does not hold it, step 4 does: written again, and the run goes on from there.
    result = run(8, start=4)
    assert there == {4: best[4]}
    assert result.best["step"] == 4
    assert "the best model, of step 4, is no longer there" in caplog.text
    there.clear()
    with pytest.raises(ValueError, match="step 4, is no longer there, .*delete .* to train from"):
        run(8)
    assert not there


def test_ctrl_c_a_second_time_leaves_at_once(run_line, tmp_path, capsys):
    def evaluate(params):
        os.kill(os.getpid(), signal.SIGINT)
        assert "a second time ends at once" in capsys.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")

    before = signal.getsignal(signal.SIGINT)
    with RunCheckpoints(tmp_path) as checkpoints:
        with pytest.raises(KeyboardInterrupt):
            run_line(checkpoints=checkpoints, evaluation=Evaluation(5, evaluate))
        assert checkpoints.latest is None
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("moment", ["evaluation", "save"])
def test_ctrl_c_leaves_at_once_and_the_run_can_go_on(run_line, tmp_path, monkeypatch, moment):
    def stop(*_, **__):
        raise KeyboardInterrupt

    whole = run_line()
    with RunCheckpoints(tmp_path) as checkpoints:
        run_line(total=4, checkpoints=checkpoints)
    evaluation = Evaluation(3, stop) if moment == "evaluation" else None
    with RunCheckpoints(tmp_path) as checkpoints:
        if moment == "save":
            monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables_async", stop)
        with pytest.raises(KeyboardInterrupt):
            run_line(checkpoints=checkpoints, resume=True, evaluation=evaluation)
    with RunCheckpoints(tmp_path) as checkpoints:
        assert checkpoints.steps == [4]
        assert bits(run_line(checkpoints=checkpoints, resume=True).state) == bits(whole.state)


def test_sigterm_after_the_last_step_is_not_lost(run_line, tmp_path):
    def evaluate(params):
        for _ in range(2):  # who sends it twice means the same
            os.kill(os.getpid(), signal.SIGTERM)
        return {"score": 1.0}

    with RunCheckpoints(tmp_path) as checkpoints:
        ended = run_line(checkpoints=checkpoints, evaluation=Evaluation(10, evaluate))
        assert ended.stopped_by == signal.SIGTERM
        assert ended.step == checkpoints.latest == 10


def test_without_a_terminal_an_evaluation_is_a_line(run_line, capsys, monkeypatch):
    scores = Evaluation(5, lambda params: {"score": 0.25})
    run_line(evaluation=scores, progress=None, description="seed 1")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    line = r"seed 1: step 5 of 10, loss \d+\.\d+, speed \d+ sentences/s, score 0\.25$"
    assert re.match(line, said[0])
    monkeypatch.setattr("simcse_jax.progress.LINE_SECONDS", 0)
    run_line(progress=None, log_every=4)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in said] == [f"train: step {i} of 10" for i in (4, 8, 10)]
    run_line(progress=False)
    assert capsys.readouterr().err == ""


def test_a_failed_save_is_reported(run_line, tmp_path, monkeypatch):
    with RunCheckpoints(tmp_path) as checkpoints:

        def full(*args, **options):
            raise ValueError("No space left on device\nand a long story")

        monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables_async", full)
        with pytest.raises(OSError, match=r"step 10 could not .*No space left on device$"):
            run_line(checkpoints=checkpoints)


def test_steps_go_on_while_a_checkpoint_is_written(run_line, tmp_path, monkeypatch):
    """Its writer waits for a batch that is asked for two steps later."""
    asked, folder = threading.Event(), tmp_path / "run"

    def batches(start):
        for step, batch in enumerate(line(start), start):
            if step == 3:
                assert not (folder / "2").exists()
                asked.set()
            yield batch

    whole = run_line()
    with RunCheckpoints(folder, keep=10) as checkpoints:
        write = checkpoints._checkpointer.save_checkpointables_async

        def late(*args, **options):
            assert asked.wait(60)
            return write(*args, **options)

        monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables_async", late)
        run_line(batches, total=7, checkpoints=checkpoints, checkpoint_every=2, log_every=1)
        assert checkpoints.steps == [2, 4, 6, 7]
    for step in (6, 4, 2):  # the state of each step, whatever became of its memory
        shutil.rmtree(folder / "7", ignore_errors=True)
        with RunCheckpoints(folder, keep=10) as checkpoints:
            assert checkpoints.latest == step
            assert bits(run_line(checkpoints=checkpoints, resume=True).state) == bits(whole.state)
        shutil.rmtree(folder / "10")
        shutil.rmtree(folder / str(step))


def test_a_failed_save_ends_the_run_at_the_next_look(run_line, tmp_path, monkeypatch):
    failed = threading.Event()

    def batches(start):
        for step, batch in enumerate(line(start), start):
            if step == 5:
                assert failed.wait(60)
                futures.wait([checkpoints._writing])
            yield batch

    def full(*args, **options):
        failed.set()
        raise OSError("No space left on device")

    file = tmp_path / "metrics.jsonl"
    with RunCheckpoints(tmp_path / "run") as checkpoints:
        monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables_async", full)
        with pytest.raises(OSError, match=r"step 4 could not .*No space left on device$"):
            run_line(
                batches,
                checkpoints=checkpoints,
                checkpoint_every=4,
                log_every=3,
                metrics_file=file,
            )
    assert [r["step"] for r in records(file)] == [1, 2, 3, 4, 5, 6]


def test_nan_beside_a_checkpoint_that_failed(run_line, tmp_path, monkeypatch):
    def poisoned(start):
        for step, batch in enumerate(line(start), start):
            yield {"x": batch["x"] * np.nan, "y": batch["y"]} if step == 2 else batch

    def full(*args, **options):
        raise OSError("No space left on device")

    with RunCheckpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables_async", full)
        monkeypatch.setattr(checkpoints, "check_writing", lambda: None)
        with pytest.raises(
            FloatingPointError, match="loss is nan at step 3; the checkpoint of step 2 could not"
        ):
            run_line(poisoned, checkpoints=checkpoints, checkpoint_every=2, log_every=1, total=3)


class Measured:
    """A metric that notes when its copy is first begun, and when it is read."""

    def __init__(self, step, events):
        self._step, self._events = step, events

    def copy_to_host_async(self):
        if f"copy {self._step}" not in self._events:
            self._events.append(f"copy {self._step}")

    def block_until_ready(self):
        self._events.append(f"done {self._step}")
        return self

    def __array__(self, dtype=None, copy=None):
        self._events.append(f"read {self._step}")
        return np.asarray(self._step, dtype or np.float32)


def fit_noted(events, total, **options):
    """Run steps that do nothing; note what the loop does, and give it all batches it wants."""

    def step(state, batch, key):
        events.append(f"step {batch}")
        return state, {"loss": Measured(batch, events)}

    def batches(start):
        for number in range(start + 1, 100):
            events.append(f"batch {number}")
            yield np.int32(number)

    return fit(
        step,
        SimpleNamespace(params=None),
        batches,
        jax.random.key(0),
        total,
        progress=False,
        **options,
    )


def test_the_device_has_a_step_to_do_while_metrics_are_read():
    events, seen = [], []
    fit_noted(events, 3, log_every=1, on_record=lambda record: seen.append(record["step"]))
    assert events == [
        *("batch 1", "step 1", "copy 1"),
        *("batch 2", "step 2", "copy 2", "read 1"),
        *("batch 3", "step 3", "copy 3", "done 1", "read 2", "read 3"),
    ]
    assert seen == [1, 2, 3]


def test_the_loop_is_two_steps_ahead_of_the_device_at_most():
    """So that a signal is heard while they are done, and the bar tells of few that are not."""
    events = []
    fit_noted(events, 6, log_every=100)
    for step in range(4, 7):
        assert events.index(f"done {step - 3}") < events.index(f"step {step}")
    assert "done 5" not in events


def test_records_are_those_of_a_loop_that_waits(tmp_path):
    """Each evaluation's after its step's, whenever they are read."""

    def evaluation():
        return Evaluation(3, lambda params: {"score": 1.0})

    lines = [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
        {"step": 3, "loss": 3.0},
        {"step": 3, "eval": {"score": 1.0}},
        {"step": 4, "loss": 4.0},
        {"step": 5, "loss": 5.0},
        {"step": 5, "eval": {"score": 1.0}},
    ]
    for every in (1, 2, 3, 10):
        file, seen = tmp_path / f"{every}.jsonl", []
        options = {"evaluation": evaluation(), "metrics_file": file, "on_record": seen.append}
        fit_noted([], 5, log_every=every, **options)
        assert records(file) == lines
        assert [r["step"] for r in seen] == [1, 2, 3, 3, 4, 5, 5]


def test_an_error_loses_no_metrics_that_were_due(run_line, tmp_path):
    file = tmp_path / "metrics.jsonl"
    with pytest.raises(ValueError, match="the batches end after step 4 of 10"):
        run_line(
            lambda start: (b for _, b in zip(range(4), line(0), strict=False)),
            log_every=2,
            metrics_file=file,
        )
    assert [r["step"] for r in records(file)] == [1, 2, 3, 4]


def test_what_cannot_be_run(run_line):
    with pytest.raises(ValueError, match="the batches end after step 3 of 10"):
        run_line(lambda start: (b for _, b in zip(range(3), line(0), strict=False)))
    with pytest.raises(ValueError, match="log_every is 0"):
        run_line(log_every=0)
    with pytest.raises(ValueError, match=r"evaluation\.every is 0"):
        run_line(evaluation=Evaluation(0, lambda params: {}))
