"""Cases in forked workers, so that a hang or a crash is seen and costs one worker.

The parent imports everything once and never initialises a backend of JAX, which would not survive
a fork. A worker does at its first case, and is replaced after `LIFETIME` cases, since compiled
programs stay in memory.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.campaign.cases import ELSE, Outcome

LIFETIME = 400
MEMORY = 6 << 30
"""Bytes of data that a worker may have; what asks for more gets a MemoryError."""

fork = multiprocessing.get_context("fork")
Solve = Callable[[Any, Path], Outcome]


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a process of its own and return its result.

    Raises:
        RuntimeError: it raised; the message is its traceback.
    """
    ours, theirs = fork.Pipe()

    def call() -> None:
        try:
            theirs.send((True, function(*args)))
        except BaseException:
            theirs.send((False, traceback.format_exc()))

    process = fork.Process(target=call)
    process.start()
    theirs.close()
    try:
        good, value = ours.recv()
    except EOFError:
        good, value = False, "the process died"
    process.join()
    if not good:
        raise RuntimeError(value)
    return value


def solve_all(
    solve: Solve, numbers: Iterable[Any], jobs: int, limit: float, memory: int = MEMORY
) -> Iterator[tuple[Any, Outcome]]:
    """Solve numbered cases in ``jobs`` workers and yield the outcomes as they come.

    Args:
        solve: from a number and an empty folder to the outcome.
        numbers: of the cases.
        jobs: how many workers.
        limit: seconds that a case may take.
        memory: bytes of data that a worker may have.
    """
    waiting = iter(numbers)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is known is told
    with tempfile.TemporaryDirectory(prefix="campaign-") as place:
        workers = [_Worker(solve, Path(place) / str(i), memory, limit) for i in range(jobs)]
        try:
            busy = [worker for worker in workers if worker.give(next(waiting, None))]
            while busy:
                ready = wait([worker.pipe for worker in busy], timeout=0.2)
                for worker in list(busy):
                    outcome = worker.answer(worker.pipe in ready)
                    if outcome is not None:
                        yield worker.number, outcome
                        if not worker.give(next(waiting, None)):
                            busy.remove(worker)
        except KeyboardInterrupt:
            print("stopped; these cases are done:", file=sys.stderr)
        finally:
            for worker in workers:
                worker.stop()


class _Worker:
    """A process that solves one case after another, and its successors."""

    def __init__(self, solve: Solve, folder: Path, memory: int, limit: float):
        self._solve, self._folder, self._memory, self._limit = solve, folder, memory, limit
        self._process: Any = None
        self._began = 0.0
        self._done = 0
        self.number: Any = None
        self.pipe: Connection

    def give(self, number: Any) -> bool:
        """Hand it a case; False where there is none."""
        if number is None:
            return False
        if self._process is None or self._done >= LIFETIME:
            self.stop()
            self._start()
        self.number, self._began = number, time.monotonic()
        self.pipe.send(number)
        return True

    def answer(self, ready: bool) -> Outcome | None:
        """Return what came of its case, or None while it is at work."""
        if ready:
            try:
                self._done += 1
                return self.pipe.recv()
            except (EOFError, ConnectionError):
                self._process.join()
                code = self._process.exitcode
                self.stop()
                name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                return Outcome(ELSE, self._about(), f"crash: the process died of {name}")
        if time.monotonic() - self._began < self._limit:
            return None
        self.stop()
        stack = (self._folder / "stack").read_text() if (self._folder / "stack").exists() else ""
        ours = [line.strip() for line in stack.splitlines() if "/simcse_jax/" in line]
        return Outcome(
            ELSE,
            self._about(),
            f"hang: longer than {self._limit:.0f} s",
            ours[0].replace('"', "") if ours else "",
        )

    def _about(self) -> str:
        file = self._folder / "about"
        return file.read_text() if file.exists() else ""

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self.pipe.close()
            self._process = None

    def _start(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self.pipe, theirs = fork.Pipe()
        self._done = 0
        # Not a daemon's process: a case may fork.
        self._process = fork.Process(target=self._work, args=(theirs, self.pipe))
        self._process.start()
        theirs.close()

    def _work(self, pipe: Connection, parents: Connection) -> None:
        parents.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
        resource.setrlimit(resource.RLIMIT_DATA, (self._memory, self._memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        silence(self._folder / "output")
        stack = (self._folder / "stack").open("w")
        while True:
            try:
                number = pipe.recv()
            except EOFError:
                os._exit(0)
            # By a name of its own: threads of a case that failed may still write into its folder.
            folder = self._folder / f"case-{number}"
            folder.mkdir()
            os.chdir(folder)
            faulthandler.dump_traceback_later(max(1, self._limit - 1), file=stack)
            try:
                outcome = self._solve(number, folder)
            except BaseException:  # the campaign's own mistake, not the library's
                outcome = Outcome(ELSE, "", f"campaign: {traceback.format_exc()[-1500:]}")
            faulthandler.cancel_dump_traceback_later()
            os.chdir(self._folder)
            remove(folder)
            try:
                pipe.send(outcome)
            except BrokenPipeError:
                os._exit(0)


def note(folder: Path, about: str) -> None:
    """Leave a line for the parent, in case that this process does not come back."""
    (folder.parent / "about").write_text(about)


def silence(file: Path) -> None:
    """Send what this process prints to a file, which is cut now and then."""
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def remove(folder: Path) -> None:
    """Remove a folder, whatever a case made of it."""
    for _ in range(3):
        with contextlib.suppress(OSError):
            if not folder.is_symlink() and folder.is_dir():
                shutil.rmtree(folder)
            else:
                folder.unlink()
        if not os.path.lexists(folder):
            return
