"""Several processes, on one host or many: how they find each other, and how one ends alone.

JAX's runtime ends a process whose fellow was lost by aborting it, with a stack dump of its C++
parts. A command that runs in several processes is therefore run by a small parent, which says in
one sentence what became of it; what the runtime itself writes goes to a file.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import jax

from simcse_jax.checks import first_line
from simcse_jax.process import causes

# A host that vanishes without a word is missed after so many seconds; one that closes its
# connections is missed at once.
HEARTBEAT_SECONDS = 30
# Whom a process waits for is said after so many seconds.
PATIENCE_SECONDS = 3
# The runtime's own patience, beyond which it aborts the process; ours ends before.
RUNTIME_SECONDS = 24 * 3600
# The child's variable: the file that takes what the runtime writes, its descriptor, and that of a
# socket, which the parent holds the other end of.
_CHILD = "SIMCSE_JAX_CHILD"
_JOINED = b"j"
_runs_as_child = False
_parent: socket.socket | None = None


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = 120,
) -> None:
    """Join the other processes of a run, before anything is computed.

    TPU pods, Slurm and Open MPI say who the others are; elsewhere all three arguments are needed.

    Args:
        coordinator: ``HOST:PORT`` of the process with id 0, the same for all.
        num_processes: how many there are.
        process_id: the number of this one, from 0.
        timeout: wait so many seconds for the others; whom is said after a few.

    Raises:
        ValueError: nothing says who the others are, or a number that cannot be so.
        ConnectionError: they did not come in time.
        RuntimeError: JAX has computed something in this process already.
    """
    if jax.distributed.is_initialized():
        return
    check_processes(True, coordinator, num_processes, process_id)
    try:
        _initialize(coordinator, num_processes, process_id, timeout)
    except ValueError as error:
        if coordinator is not None:
            raise
        raise ValueError(
            "nothing here says who the other processes are (no TPU pod, Slurm or Open MPI was "
            "found): give the coordinator's HOST:PORT, num_processes and process_id"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise ConnectionError(
            f"the processes of the run did not meet at {coordinator or 'their coordinator'}: "
            f"{first_line(error)}"
        ) from error
    if _parent is not None:
        _parent.send(_JOINED)


def _initialize(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: float
) -> None:
    """Wait for the others in a thread, since within JAX no signal is heard and no word said.

    Raises:
        ConnectionError: they did not come in time.
    """
    failure: list[BaseException] = []
    # JAX's preemption service takes SIGTERM away from Python, and only tells who asks of it; orbax
    # asks, and takes its absence for "no preemption".
    jax.config.update("jax_enable_preemption_service", False)

    def connect() -> None:
        try:
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                initialization_timeout=RUNTIME_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                # Who is done may wait long for the others: `wait_for_others`.
                shutdown_timeout_seconds=RUNTIME_SECONDS,
            )
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    began = time.monotonic()
    thread.start()
    said = False
    while thread.is_alive():
        thread.join(0.1)
        waited = time.monotonic() - began
        if thread.is_alive() and waited > timeout:
            raise ConnectionError(
                f"the processes of the run did not meet within {timeout:g} s: "
                f"{_waits(coordinator, num_processes, process_id)}; start as many as num_processes "
                "says, all with the same coordinator and each with a process_id of its own, or "
                "wait longer by join_timeout"
            )
        if thread.is_alive() and waited > PATIENCE_SECONDS and not said:
            said = True
            waits = _waits(coordinator, num_processes, process_id)
            print(f"{waits}, for {timeout:g} s at most", file=sys.stderr, flush=True)
    if failure:
        raise failure[0]


def wait_for_others() -> None:
    """Wait until all processes of the run are done, and part from them.

    Not by a collective, which the transport between CPUs gives up after half an hour. In a thread,
    since within JAX no signal is heard.

    Raises:
        JaxRuntimeError: one of them was lost; as a rule the runtime aborts this one then.
    """
    failure: list[BaseException] = []

    def part() -> None:
        try:
            jax.distributed.shutdown()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=part, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if failure:
        raise failure[0]


def _waits(coordinator: str | None, num_processes: int | None, process_id: int | None) -> str:
    """Say whom this process waits for, and where."""
    if coordinator is None or num_processes is None:
        return "this process waits for the others of the run, which its cluster names"
    own = f"process {process_id} of {num_processes}"
    if process_id == 0:
        others = f"{num_processes - 1} other{'s' if num_processes > 2 else ''}"
        return f"{own} listens at {coordinator} and waits for {others}"
    if _answers(coordinator):
        return f"{own} has found {coordinator} and waits for the others to come there"
    return f"{own} waits for process 0 at {coordinator}, where nothing answers"


def _answers(coordinator: str) -> bool:
    host, _, port = coordinator.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1):
            return True
    except OSError:
        return False


def check_processes(
    distributed: bool, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Raise ValueError where the arguments of `join` cannot be so, or nothing is to be joined."""
    if coordinator is None and num_processes is None and process_id is None:
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            "coordinator, num_processes and process_id go together: give all three, or none where "
            "a TPU pod, Slurm or Open MPI says who the processes are"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"coordinator is {coordinator!r}; it must be HOST:PORT")
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"process_id is {process_id} of num_processes {num_processes}; it must be at least 0 "
            "and below their number"
        )
    if not distributed:
        raise ValueError("coordinator is given without distributed; give --distributed too")


def lost_sentence(reason: str) -> str:
    """Say that the run ended because of another process, and how to go on."""
    return (
        f"a process of the run was lost, so that this one ended too ({reason}); start all of them "
        "again with --resume"
    )


def loss_in(error: BaseException) -> str | None:
    """Return what an error says of a process that was lost; None where it says something else.

    JAX's transport has no class of its own for this, and who calls it wraps what it raises.
    """
    said = (first_line(cause) for cause in causes(error) if _TRANSPORT.search(str(cause)))
    return next(said, None)


_TRANSPORT = re.compile("Gloo |coordination service|CoordinationService")


# ---------------------------------------------------------------------------------------------
# A command in several processes
# ---------------------------------------------------------------------------------------------


def is_child() -> bool:
    """Tell whether this process runs a command for a parent that watches it."""
    return _runs_as_child or _CHILD in os.environ


def watch(args: Sequence[str]) -> int:
    """Run ``simcse-jax`` with these arguments in a child, and say so if the runtime aborts it.

    Returns:
        The exit code: the child's, or 1 where the runtime aborted it.
    """
    descriptor, name = tempfile.mkstemp(prefix="simcse-jax-", suffix=".log")
    log = Path(name)
    # The child reads of its end, and so learns when its parent is gone.
    ours, childs = socket.socketpair()
    with ours:
        with childs:
            child = subprocess.Popen(
                [sys.executable, "-m", "simcse_jax.cli", *args],
                env=os.environ | {_CHILD: f"{descriptor} {childs.fileno()} {name}"},
                pass_fds=(descriptor, childs.fileno()),
                process_group=0,  # what the terminal sends comes once, from here
            )
            os.close(descriptor)
        before = {
            number: signal.signal(number, lambda number, _: child.send_signal(number))
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        joined = _said(ours) == _JOINED
    words = log.read_text(errors="replace") if log.exists() else ""
    if code >= 0 or -code in (signal.SIGTERM, signal.SIGINT) or not words.strip():
        log.unlink(missing_ok=True)
    if code >= 0:
        return code
    if code == -signal.SIGABRT:
        sentence = lost_sentence(f"JAX wrote why into {log}") if joined else _not_met(words, log)
        print(f"error: {sentence}", file=sys.stderr)
        return 1
    if -code not in (signal.SIGTERM, signal.SIGINT):
        words = f"; its last words are in {log}" if words.strip() else ""
        print(f"error: {signal.Signals(-code).name} ended the process{words}", file=sys.stderr)
    return 128 - code


def _said(child: socket.socket) -> bytes:
    """Return what a child that has ended had said."""
    try:
        return child.recv(1)
    except OSError:
        return b""


def _not_met(words: str, log: Path) -> str:
    """Say why the runtime aborted a process before it had met the others."""
    why = (
        "another process has the same process_id; give each its own"
        if "ALREADY_EXISTS" in words
        else "start all of them again"
    )
    return f"the processes of the run did not meet: {why} (JAX wrote more into {log})"


def run_as_child(run: Callable[[], None]) -> None:
    """Run a command in the child of `watch`; an error ends the process at once.

    JAX's own way out waits for the other processes, which may be waiting for this one.
    """
    global _runs_as_child, _parent
    _runs_as_child = True
    # Popped, so that a command started below this one does not take itself for such a child.
    descriptor, parent, log = os.environ.pop(_CHILD).split(maxsplit=2)
    _redirect_runtime(int(descriptor))
    _parent = socket.socket(fileno=int(parent))
    threading.Thread(target=_end_with_parent, args=(_parent, Path(log)), daemon=True).start()
    try:
        run()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        _leave(stop.code if isinstance(stop.code, int) else 1)
    except jax.errors.JaxRuntimeError as error:
        own = "RESOURCE_EXHAUSTED" in str(error)
        sentence = first_line(error) if own else lost_sentence(first_line(error))
        print(f"error: {sentence}", file=sys.stderr)
        _leave(1)
    except BaseException:
        traceback.print_exc()
        _leave(1)


def _redirect_runtime(log: int) -> None:
    """Send what the C++ runtime writes to a file, and Python's messages where they went before."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = os.fdopen(os.dup(descriptor), "w", buffering=1, errors="backslashreplace")
        setattr(sys, name, stream)
        os.dup2(log, descriptor)
    os.close(log)


def _end_with_parent(parent: socket.socket, log: Path) -> None:
    # It returns when the parent has ended, or is an error where that has not read what it was told.
    with suppress(OSError):
        parent.recv(1)
    log.unlink(missing_ok=True)
    os._exit(1)


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
