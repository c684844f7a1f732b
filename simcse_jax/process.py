"""Processes: which are alive, and how one that is told to end does so in order."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SIGTERM_EXIT_CODE = 128 + signal.SIGTERM
"""What a shell reports of a process that SIGTERM has ended."""


# Seconds, in which the callback that has dropped a signal's exception is over, as a rule.
_SENT_AGAIN_AFTER = 0.1


class Interrupted(RuntimeError):
    """A signal ended the work early; what was done is saved, and the message says where.

    Attributes:
        number: of the signal, SIGTERM or SIGINT (Ctrl-C).
    """

    def __init__(self, message: str, number: int = signal.SIGTERM):
        super().__init__(message)
        self.number = number

    @property
    def exit_code(self) -> int:
        """Return what a shell reports of a process that this signal has ended."""
        return 128 + self.number


class Terminated(SystemExit):
    """SIGTERM ends the process, whose files are put in order on the way out."""

    def __init__(self) -> None:
        super().__init__(SIGTERM_EXIT_CODE)


def start_time(pid: int) -> int | None:
    """Return when a process was started, in ticks since the machine was; None where unknown.

    With it a process is told from a later one that was given the same number.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The second field, the program's name, may hold spaces and brackets itself.
    return int(stat.rpartition(b")")[2].split()[19])


def is_alive(pid: int, started: int | None = None) -> bool:
    """Tell whether a process of this machine runs, if need be the very one that began then."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return started is None or start_time(pid) in (None, started)


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """Let SIGTERM leave the block as an exception, so that nothing half-made stays behind.

    It raises `Terminated`. Further ones are ignored while that goes on. Where the exception, or
    Ctrl-C's, gets lost, the signal is sent again: Python drops it in a callback of C (JAX has one
    at every garbage collection), and some libraries catch everything while they are imported.
    """
    # Python lets the main thread alone set handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        send_again(signal.SIGTERM)  # until the block has been left
        if not _is_unwinding(sys.exc_info()[1]):
            raise Terminated

    def send_again(number: signal.Signals) -> None:
        if number in waiting:
            waiting[number].cancel()
        timer = threading.Timer(_SENT_AGAIN_AFTER, os.kill, (os.getpid(), number))
        timer.daemon = True
        waiting[number] = timer
        timer.start()

    def on_dropped(dropped: Any) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            send_again(signal.SIGINT)
        elif dropped.exc_type is not Terminated:  # of which the next is on its way
            hook(dropped)

    waiting: dict[signal.Signals, threading.Timer] = {}
    hook, sys.unraisablehook = sys.unraisablehook, on_dropped
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        late = [number for number, timer in waiting.items() if timer.is_alive()]
        for timer in waiting.values():
            timer.cancel()
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook
    if late:  # the block has ended before the signal came again
        raise Terminated if signal.SIGTERM in late else KeyboardInterrupt


def _is_unwinding(handled: BaseException | None) -> bool:
    """Tell whether an exception that is being handled is `Terminated`, or came while that was."""
    return handled is not None and any(isinstance(e, Terminated) for e in causes(handled))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and all that it and they were raised from or came after, each once."""
    seen: set[int] = set()  # an error that is raised again may be its own context
    found = [error]
    while found:
        below = found.pop()
        if id(below) not in seen:
            yield below
            seen.add(id(below))
            found += [e for e in (below.__context__, below.__cause__) if e is not None]
