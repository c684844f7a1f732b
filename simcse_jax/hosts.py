"""Several processes, on one host or many: how they find each other, and how one ends alone.

JAX's runtime ends a process whose fellow was lost by aborting it, with a stack dump of its C++
parts. A command that runs in several processes is therefore run by a small parent, which says in
one sentence what became of it; what the runtime itself writes goes to a file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from simcse_jax.checks import first_line

# A host that vanishes without a word is missed after so many seconds; one that closes its
# connections is missed at once.
HEARTBEAT_SECONDS = 30
# The child's variable: descriptors of the file that takes what the runtime writes, and of a pipe.
_CHILD = "SIMCSE_JAX_CHILD"
_runs_as_child = False


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes of a run, before anything is computed.

    TPU pods, Slurm and Open MPI say who the others are; elsewhere all three arguments are needed.

    Args:
        coordinator: ``HOST:PORT`` of the process with id 0, the same for all.
        num_processes: how many there are.
        process_id: the number of this one, from 0.

    Raises:
        ValueError: nothing says who the others are, or a number that cannot be so.
        ConnectionError: they did not come within five minutes.
        RuntimeError: JAX has computed something in this process already.
    """
    if jax.distributed.is_initialized():
        return
    check_processes(coordinator, num_processes, process_id)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        if coordinator is not None:
            raise
        raise ValueError(
            "nothing here says who the other processes are (no TPU pod, Slurm or Open MPI was "
            "found): give coordinator (HOST:PORT), num_processes and process_id"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise ConnectionError(
            f"the processes of the run did not meet at {coordinator or 'their coordinator'}: "
            f"{first_line(error)}"
        ) from error


def check_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Raise ValueError where the arguments of `join` cannot be so."""
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


def lost_sentence(reason: str) -> str:
    """Say that the run ended because of another process, and how to go on."""
    return (
        f"a process of the run was lost, so that this one ended too ({reason}); start all of them "
        "again with --resume"
    )


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
    # The child reads of this pipe, and so learns when its parent is gone.
    ours, parents = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "simcse_jax.cli", *args],
        env=os.environ | {_CHILD: f"{descriptor} {ours}"},
        pass_fds=(descriptor, ours),
    )
    os.close(descriptor)
    os.close(ours)
    handlers: dict[int, Any] = {
        signal.SIGTERM: lambda number, _: child.send_signal(number),
        signal.SIGINT: signal.SIG_IGN,  # the terminal sends it to the child as well
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        code = child.wait()
    finally:
        os.close(parents)
        for number, handler in before.items():
            signal.signal(number, handler)
    if code == -signal.SIGABRT:
        print(f"error: {lost_sentence(f'JAX wrote why into {log}')}", file=sys.stderr)
        return 1
    if code < 0 and -code not in (signal.SIGTERM, signal.SIGINT):
        name = signal.Signals(-code).name
        print(f"error: {name} ended the process; its last words are in {log}", file=sys.stderr)
        return 128 - code
    log.unlink(missing_ok=True)
    return 128 - code if code < 0 else code


def run_as_child(run: Callable[[], None]) -> None:
    """Run a command in the child of `watch`; an error ends the process at once.

    JAX's own way out waits for the other processes, which may be waiting for this one.
    """
    global _runs_as_child
    _runs_as_child = True
    # Popped, so that a command started below this one does not take itself for such a child.
    log, parents = map(int, os.environ.pop(_CHILD).split())
    _redirect_runtime(log)
    threading.Thread(target=_end_with_parent, args=(parents,), daemon=True).start()
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


def _end_with_parent(pipe: int) -> None:
    os.read(pipe, 1)  # returns when the parent has ended
    os._exit(1)


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
