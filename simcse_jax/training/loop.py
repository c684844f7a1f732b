"""The training loop: any step function, its batches, evaluation, metrics and checkpoints."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Key

from simcse_jax.checks import check_count
from simcse_jax.io import open_data, write_text
from simcse_jax.progress import Progress
from simcse_jax.training.checkpoint import Restored, RunCheckpoints, UnusableCheckpoint
from simcse_jax.training.devices import CompiledStep

log = logging.getLogger(__name__)

STEPS_AHEAD = 2
"""So many steps may be given to the device and not be done: it has work, a signal is soon heard."""


@runtime_checkable
class Batches(Protocol):
    """The data, by step: the same number always begins the same sequence of batches."""

    def __call__(self, start_step: int, /) -> Iterator[Any]:
        """The batches of steps ``start_step``, ``start_step + 1``, …, as host arrays."""
        ...


class Evaluation(NamedTuple):
    """What `fit` should measure on the way.

    Attributes:
        every: so many steps; the last step is evaluated too.
        function: from the parameters to metrics. Every process calls it.
        best_metric: the name of the metric by which the best model is kept; higher is better.
        save_best: called by the first process with the parameters, the step and the metrics, when
            the best so far was found.
        has_best: whether what ``save_best`` wrote is still there, asked on resuming: where it is
            not, the run goes back to a checkpoint that holds the best model itself, or had none.
    """

    every: int
    function: Callable[[Any], Mapping[str, float]]
    best_metric: str | None = None
    save_best: Callable[[Any, int, Mapping[str, float]], None] | None = None
    has_best: Callable[[], bool] = lambda: True


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
        state: after the last update.
        step: the number of updates done.
        stopped_by: the signal that came, SIGTERM or SIGINT, or None: where one came the run is to
            end, be it after its last step.
        best: ``{"step", "value", "metrics"}`` of the best evaluation, or None.
    """

    state: Any
    step: int
    stopped_by: int | None
    best: dict[str, Any] | None


def fit(
    step: CompiledStep,
    state: Any,
    batches: Batches,
    key: Key[Array, ""],
    total_steps: int,
    *,
    checkpoints: RunCheckpoints | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 600.0,
    resume: bool = False,
    evaluation: Evaluation | None = None,
    metrics_file: str | os.PathLike[str] | None = None,
    log_every: int = 25,
    on_record: Callable[[Mapping[str, Any]], None] | None = None,
    on_start: Callable[[int], None] | None = None,
    progress: bool | None = None,
    description: str = "train",
) -> FitResult:
    """Train to ``total_steps``.

    Metrics stay on the device. Those of every ``log_every`` steps are fetched once another step
    has been given to the device, which so is never idle; and before every evaluation and
    checkpoint, so that no checkpoint holds what came after a NaN.

    Args:
        step: a compiled step, see `simcse_jax.training.compile_step`. Its metrics need a
            ``"loss"``; every metric must be finite in the loss and, if there, ``gradient_norm``.
        state: has ``.params``; replicated (`simcse_jax.training.replicate`) and consumed.
        batches: see `Batches`.
        key: the run's key, replicated; the same for all steps.
        total_steps: the number of updates of the whole run.
        checkpoints: where the run is saved, after ``checkpoint_seconds`` and at the end.
        checkpoint_every: also every so many steps.
        checkpoint_seconds: since the last checkpoint, or the start; looked at every ``log_every``
            steps. Of several processes the first one's clock counts.
        resume: continue from the newest checkpoint that can be read, if there is one; a warning
            names those that cannot, and they are deleted. State and key then only give shapes and
            devices.
        evaluation: what to measure on the way.
        metrics_file: JSON lines, one a step (``{"step", "loss", …}``) and one an evaluation
            (``{"step", "eval": {…}}``); written by the first process. On resuming, lines after the
            checkpoint are dropped. Steps are counted from 1: the number of updates done.
        log_every: in steps.
        on_record: also given every such record (TensorBoard and the like).
        on_start: given the number of updates that are done already, before any other.
        progress: a progress bar; default where standard error is a terminal, and elsewhere a line
            there at each evaluation and every minute.
        description: the bar's.

    Returns:
        See `FitResult`. On SIGTERM and Ctrl-C the steps that the device has got are finished and a
        checkpoint written. All that is written while steps go on is whole by then.

    Raises:
        KeyboardInterrupt: Ctrl-C came a second time.
        FloatingPointError: the loss or the gradient is not finite; the message names the step.
        FileExistsError: the folder holds a run and ``resume`` is False.
        ValueError: a checkpoint that does not fit, too few batches, a best metric that is missing,
            or an interval below 1.
        OSError: a checkpoint could not be written; said at most ``log_every`` steps later.
    """
    _check_intervals(log_every, checkpoint_every, evaluation)
    start, state, key, best = _start(checkpoints, resume, state, key, total_steps, evaluation)
    first_process = jax.process_index() == 0
    if progress is None and not first_process:
        progress = False
    if on_start is not None:
        on_start(start)
    records = _MetricsLog(metrics_file if first_process else None, start, on_record)
    done = start
    with (
        records,
        _Signals() as signals,
        Progress(description, total_steps, start, progress, unit="step") as bar,
        contextlib.closing(_source(batches, start, total_steps)) as source,
        _Metrics(records, shown := _Shown(bar, total_steps), checkpoints) as metrics,
    ):
        saved = time.monotonic()
        for batch in source:
            state, measured = step(state, batch, key)
            done += 1
            metrics.add(done, measured, _sentences(batch) * jax.process_count())
            bar.update()
            metrics.fetch()  # those asked for after an earlier step: the device has this one to do
            last = done == total_steps
            due = evaluation is not None and (last or done % evaluation.every == 0)
            regular = last or (checkpoint_every is not None and done % checkpoint_every == 0)
            logged = done % log_every == 0 or due or regular
            # Several processes must save and leave at the same step; asking all costs a little.
            stop, late = signals.here(), False
            if logged:
                stop, late = agreed(signals.came, time.monotonic() - saved > checkpoint_seconds)
            if logged or stop:
                metrics.ask()
                if checkpoints is not None:
                    checkpoints.check_writing()
            saves = regular or late or stop
            if due or saves:
                metrics.fetch()
            if due:
                assert evaluation is not None
                with metrics.paused():
                    best, values = _evaluate(evaluation, state.params, done, best, records)
                shown.show_scores(done, values)
            if saves and checkpoints is not None:
                # The data's iterator is a function of the step, so the step is its whole state.
                checkpoints.save(done, state, key, {"next_batch": done, "best": best})
                saved = time.monotonic()
            if stop:
                break
        if checkpoints is not None:
            checkpoints.wait()
        stopped_by, _ = agreed(signals.came, False)
    return FitResult(state, done, stopped_by, best)


def agreed(came: int | None, late: bool) -> tuple[int | None, bool]:
    """Return which signal came to any process, and whether the first one finds itself late."""
    if jax.process_count() == 1:
        return came, late
    said = multihost_utils.process_allgather(np.asarray([came or 0, late]))
    return int(np.max(said[:, 0])) or None, bool(said[0, 1])


def _check_intervals(
    log_every: int, checkpoint_every: int | None, evaluation: Evaluation | None
) -> None:
    intervals = {"log_every": log_every}
    if checkpoint_every is not None:
        intervals["checkpoint_every"] = checkpoint_every
    if evaluation is not None:
        intervals["evaluation.every"] = evaluation.every
    for name, value in intervals.items():
        check_count(name, value)


def _start(
    checkpoints: RunCheckpoints | None,
    resume: bool,
    state: Any,
    key: Any,
    total_steps: int,
    evaluation: Evaluation | None,
) -> tuple[int, Any, Any, dict[str, Any] | None]:
    """Return the step, state, key and best evaluation to go on from."""
    if checkpoints is None or checkpoints.latest is None:
        return 0, state, key, None
    checkpoints.check(resume)

    def restore(step: int) -> Restored:
        try:
            restored = checkpoints.restore(state, key, step)
            _restore_best(restored, evaluation, checkpoints.folder / str(step))
        except UnusableCheckpoint as error:
            if step != checkpoints.steps[0]:
                log.warning("%s; the run goes back to the checkpoint before", error.reason)
            raise
        return restored

    start, state, key, extra = checkpoints.newest(restore)
    if start > total_steps:
        raise ValueError(f"the run to resume is at step {start}, past the {total_steps} wanted")
    checkpoints.go_on_from(start)
    return start, state, key, extra.get("best")


def _restore_best(restored: Restored, evaluation: Evaluation | None, path: Path) -> None:
    """See to it that the best model so far is there, which the run may end with."""
    best = restored.extra.get("best")
    if best is None or evaluation is None or evaluation.has_best():
        return
    if best["step"] != restored.step:
        raise UnusableCheckpoint(
            f"the best model, of step {best['step']}, is no longer there, and the checkpoint "
            f"{path} does not hold it",
            f"put it back, or delete {path.parent} to train from the start",
        )
    if evaluation.save_best is not None and jax.process_index() == 0:
        evaluation.save_best(restored.state.params, restored.step, best["metrics"])


def _evaluate(
    evaluation: Evaluation,
    params: Any,
    done: int,
    best: dict[str, Any] | None,
    records: _MetricsLog,
) -> tuple[dict[str, Any] | None, dict[str, float]]:
    """Measure the model, log it, and return the best evaluation so far and this one's values."""
    values = {name: float(value) for name, value in evaluation.function(params).items()}
    records.write({"step": done, "eval": values})
    records.flush()
    name = evaluation.best_metric
    if name is None:
        return best, values
    if name not in values:
        raise ValueError(f"best_metric is {name!r}; the evaluation gave {sorted(values)}")
    # Not a number is no score, and no reason to let go of a model.
    if math.isnan(values[name]) or (best is not None and values[name] <= best["value"]):
        return best, values
    if evaluation.save_best is not None and jax.process_index() == 0:
        evaluation.save_best(params, done, values)
    return {"step": done, "value": values[name], "metrics": values}, values


def _source(batches: Batches, start: int, total_steps: int) -> Generator[Any, None, None]:
    """Yield the batches of the steps from ``start`` on; their iterator is closed with this one."""
    iterator = batches(start) if start < total_steps else iter(())
    try:
        for done in range(start, total_steps):
            batch = next(iterator, None)
            if batch is None:
                raise ValueError(f"the batches end after step {done} of {total_steps}")
            yield batch
    finally:
        if close := getattr(iterator, "close", None):
            close()


class _Shown:
    """What is shown of a run: the newest metrics, and the scores of each evaluation."""

    def __init__(self, progress: Progress, total: int):
        self._progress = progress
        self._total = total
        self._last: dict[str, str] = {}

    def show_metrics(self, step: int, values: dict[str, str]) -> None:
        """Show the newest metrics."""
        self._last = values
        self._progress.show_values(values)
        if self._progress.line_is_due:
            self._line(step, values)

    def show_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Show the scores of an evaluation, beside the newest metrics."""
        self._line(step, self._last | {name: f"{value:.2f}" for name, value in scores.items()})

    def _line(self, step: int, values: Mapping[str, str]) -> None:
        said = ", ".join(f"{name} {value}" for name, value in values.items())
        self._progress.write_line(f"step {step} of {self._total}, {said}")


class _Metrics:
    """The metrics of the steps since they were last fetched from the device.

    `ask` ends a span of steps, whose metrics the next `fetch` logs and shows; in between the device
    may be given more to do. Whatever error ends the run, those asked for are logged.
    """

    def __init__(self, records: _MetricsLog, shown: _Shown, checkpoints: RunCheckpoints | None):
        self._records = records
        self._shown = shown
        self._checkpoints = checkpoints
        self._pending: list[tuple[int, Any, int]] = []
        self._asked: list[tuple[int, Any, int]] = []
        self._under_way: collections.deque[Any] = collections.deque()
        self._clock = time.perf_counter()

    def __enter__(self) -> _Metrics:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(Exception):  # beside the error that is under way
                self.fetch()

    def add(self, step: int, metrics: Any, sentences: int) -> None:
        """Take a step's metrics, and wait while more than `STEPS_AHEAD` steps are not done."""
        for value in jax.tree.leaves(metrics):
            if hasattr(value, "copy_to_host_async"):  # a step of one's own may measure on the host
                value.copy_to_host_async()
        self._pending.append((step, metrics, sentences))
        self._under_way.append(metrics)
        if len(self._under_way) > STEPS_AHEAD:
            jax.block_until_ready(self._under_way.popleft())

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out of the speed what is done meanwhile."""
        began = time.perf_counter()
        yield
        self._clock += time.perf_counter() - began

    def ask(self) -> None:
        """Have the metrics of all steps until now fetched next."""
        self._asked += self._pending
        self._pending.clear()

    def fetch(self) -> None:
        """Fetch, check, log and show the metrics that were asked for, if there are any."""
        if not (asked := self._asked):
            return
        fetched = jax.device_get([metrics for _, metrics, _ in asked])
        self._asked = []
        now = time.perf_counter()
        speed = sum(sentences for _, _, sentences in asked) / (now - self._clock)
        self._clock = now
        try:
            for (step, _, _), metrics in zip(asked, fetched, strict=True):
                values = {name: float(value) for name, value in metrics.items()}
                self._check(step, values)
                self._records.write(
                    {"step": step, **values, "sentences_per_second": round(speed, 1)}
                )
        finally:
            self._records.flush()
        rate = f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"
        said = {"loss": f"{values['loss']:.4f}", "speed": f"{rate} sentences/s"}
        self._shown.show_metrics(step, said)

    def _check(self, step: int, values: Mapping[str, float]) -> None:
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(values.get(name, 0.0)):
                kept = _newest_said(self._checkpoints)
                raise FloatingPointError(f"{name} is {values[name]} at step {step}{kept}")


def _newest_said(checkpoints: RunCheckpoints | None) -> str:
    """Say which checkpoint an error leaves, as the end of its sentence."""
    try:
        saved = checkpoints.latest if checkpoints is not None else None
    except OSError as error:
        return f"; {error}"
    return "" if saved is None else f"; the checkpoint of step {saved} is good"


def _sentences(batch: Any) -> int:
    """Count what a batch holds: its sentences, or else the rows of its first array."""
    if (numbers := getattr(batch, "sentences", None)) is not None:
        return np.size(numbers)
    return math.prod(np.shape(jax.tree.leaves(batch)[0])[:-1])


class _MetricsLog:
    """JSON lines, appended to; lines past the step of a resumed run are dropped."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        start: int,
        on_record: Callable[[Mapping[str, Any]], None] | None,
    ):
        self._on_record = on_record
        self._lines: list[str] = []
        self._file = None
        if path is None:
            return
        path = Path(path)
        kept = []
        if start and path.exists():
            with open_data(path) as file:
                lines = file.read().decode(errors="replace").splitlines()
            kept = [line for line in lines if _before(line, start)]
        write_text(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> _MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # of what `flush` has already reported
                self._file.close()

    def write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._lines.append(json.dumps(record) + "\n")
        if self._on_record is not None:
            self._on_record(record)

    def flush(self) -> None:
        if self._file is None:
            return
        lines, self._lines = self._lines, []
        try:
            self._file.writelines(lines)
            self._file.flush()
        except OSError as error:
            message = f"cannot write {self._file.name}: {error.strerror or error}"
            raise type(error)(message) from error


def _before(line: str, start: int) -> bool:
    """Tell whether a line is whole and belongs to the first ``start`` updates."""
    try:
        return json.loads(line)["step"] <= start
    except (json.JSONDecodeError, KeyError, TypeError):
        return False  # the kill came in the middle of the line


class _Signals:
    """Notes SIGTERM and Ctrl-C while it is entered; the loop asks at the end of each step.

    Attributes:
        came: which came to this process, or None.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self._before: dict[int, Any] = {}
        # Python lets the main thread alone set handlers.
        self._can = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> _Signals:
        for number in (signal.SIGTERM, signal.SIGINT) if self._can else ():
            # A command in the background of a script is not to hear Ctrl-C.
            if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.came == number:
            raise KeyboardInterrupt
        self.came = number
        if number == signal.SIGINT:
            with contextlib.suppress(RuntimeError):  # in the middle of another line
                said = (
                    "ending after the steps that the device has got, with a checkpoint; a second "
                    "time ends at once, or once the checkpoint that is being written is whole"
                )
                print(f"\nCtrl-C: {said}", file=sys.stderr)

    def here(self) -> int | None:
        """Return which came; one process of several cannot leave alone and says None."""
        return self.came if jax.process_count() == 1 else None
