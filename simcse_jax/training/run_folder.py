"""The folder of a run: claimed before anything is written to it, and what stands there compared.

The one rule: `claimed` holds the folder, `check_folder` refuses what the run would overwrite and is
not its own, and only then is the run begun, continued or reused.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from simcse_jax import io
from simcse_jax.process import is_alive, start_time
from simcse_jax.training.checkpoint import (
    ChangedSettings,
    changed_settings,
    check_path,
    latest_step,
)
from simcse_jax.training.writers import WANDB

LOCK = "run.lock"
RUN, RESULTS, SUMMARY, CHECKPOINTS = "run.json", "results.json", "summary.json", "checkpoints"
METRICS = "metrics.jsonl"
MODELS = ("best", "last")
OWN = (RUN, RESULTS, SUMMARY, CHECKPOINTS, *MODELS, METRICS, "tensorboard", WANDB)

T = TypeVar("T")


# ---------------------------------------------------------------------------------------------
# The claim
# ---------------------------------------------------------------------------------------------


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, so that no other run writes to it meanwhile.

    A file in it names the process that holds it; that of a process which is dead counts for
    nothing. Of several processes of one run the first holds the folder for all. What killed runs
    had begun to write there is removed.

    Raises:
        FileExistsError: another process holds it.
        OSError: it cannot be made or written.
        ValueError: checkpoints could not be kept under that name.
    """
    folder = Path(os.path.realpath(folder))
    check_path(folder)
    made = on_first_process(lambda: _take(folder))
    try:
        on_first_process(lambda: _tidy(folder))
        yield
    finally:
        if jax.process_index() == 0:
            _let_go(folder, made or [])


def _tidy(folder: Path) -> None:
    """Finish or remove what killed runs had begun to write."""
    for name in MODELS:
        io.finish_write(folder / name, io.SETTINGS_FILE, of_anyone=True)
        io.remove_leftovers(folder / name, of_anyone=True)
    io.remove_leftovers(folder)
    for name in OWN:  # another machine's too: the folder is ours now
        io.remove_leftovers(folder, name, of_anyone=True)


def on_first_process(function: Callable[[], T]) -> T | None:
    """Call a function in the first process of a run alone; where it fails, no process goes on."""
    if jax.process_count() == 1:
        return function()
    found, failure = None, None
    if jax.process_index() == 0:
        try:
            found = function()
        except Exception as error:
            failure = error
    text = np.zeros(1000, np.uint8)
    sentence = "" if failure is None else str(failure) or type(failure).__name__
    said = np.frombuffer(sentence.encode(errors="replace")[: text.size], np.uint8)
    text[: said.size] = said
    text = np.asarray(multihost_utils.broadcast_one_to_all(text))
    if failure is not None:
        raise failure
    if text.any():
        raise OSError(f"the first process: {bytes(text).rstrip(bytes(1)).decode(errors='ignore')}")
    return found


def _take(folder: Path) -> list[Path]:
    """Take the folder; return the folders that had to be made for it, the innermost first."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give the name of a folder for the run")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _opened(lock) as file:
            _refuse_holder(lock, file.read())
            file.truncate(0)
            file.write(json.dumps(_own_record()).encode())
    except OSError as error:
        if error.errno is None:  # it says what is wrong already
            raise
        reason = error.strerror or error
        raise type(error)(f"cannot make a run in {folder}: {reason}; give another folder") from None
    return made


@contextmanager
def _opened(lock: Path) -> Iterator[BinaryIO]:
    """Open the lock while nobody else has it open; it is made if need be."""
    while True:
        _refuse_special(lock)
        with lock.open("a+b") as file:
            with suppress(OSError):  # some file systems cannot
                fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                # Who let go while we waited has removed the very file that we have opened.
                if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    file.seek(0)
                    yield file
                    return


def _refuse_special(path: Path) -> None:
    """Refuse a pipe or a device in a run's folder, which may keep who opens it for ever."""
    if io.is_special(path):
        raise FileExistsError(f"{path} is a pipe or a device; delete it, or choose another folder")


def _own_record() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": platform.node(), "pid": pid, "started": start_time(pid)}


def _refuse_holder(lock: Path, record: bytes) -> None:
    try:
        holder = json.loads(record)
        host, pid, started = holder["host"], int(holder["pid"]), holder["started"]
    except (ValueError, KeyError, TypeError):
        return  # its writer was killed before the record was whole
    if host != platform.node():
        raise FileExistsError(
            f"{lock.parent} is held by process {pid} of another machine, {host}; if no run goes on "
            f"there, delete {lock}"
        )
    if is_alive(pid, started):
        raise FileExistsError(
            f"{lock.parent} is held by process {pid} of {host}, a run that goes on; wait for its "
            "end, or choose another folder"
        )


def _let_go(folder: Path, made: list[Path]) -> None:
    lock = folder / LOCK
    with suppress(OSError):
        if not lock.exists():
            return
        with _opened(lock) as file:
            # It may have been deleted by hand, and the folder be another run's by now.
            if file.read() == json.dumps(_own_record()).encode():
                lock.unlink()
        # What was made for a run that was refused; a folder that holds something stays.
        for path in made:
            path.rmdir()


# ---------------------------------------------------------------------------------------------
# What stands in it
# ---------------------------------------------------------------------------------------------


def check_folder(folder: Path, fixed: Mapping[str, Any], resume: bool) -> None:
    """Refuse a folder in which a run would overwrite what it does not continue.

    Other files may lie there; they are left alone.

    Args:
        folder: the run's, or the one of several seeds' folders and their summary.
        fixed: of the configuration, what must not change when the run is resumed.
        resume: whether the run may go on from what stands there.

    Raises:
        FileExistsError: it holds a run, and ``resume`` is False; or what is no run's; or a pipe.
        ValueError: it holds a run of other settings, or a file that is not whole.
    """
    for name in OWN:
        _refuse_special(folder / name)
    there = [name for name in OWN if _holds(folder / name)]
    records = [name for name in (RUN, SUMMARY) if name in there and _is_object(folder / name)]
    foreign = [name for name in MODELS if name in there and not _holds_model(folder / name)]
    if foreign or (there and not records):
        name = (foreign or there)[0]
        raise FileExistsError(
            f"{folder / name} was not written by a run (there is no {RUN} of one, or no "
            f"{io.SETTINGS_FILE} in it), and is not overwritten; choose another folder"
        )
    if not resume:
        _refuse_run(folder, there)
    elif RESULTS in there:
        check_same_settings(folder / RESULTS, read_results(folder / RESULTS)["settings"], fixed)
    elif SUMMARY in there:
        check_same_settings(folder / SUMMARY, read_results(folder / SUMMARY)["settings"], fixed)
    elif RUN in there and any(name in there for name in (*MODELS, CHECKPOINTS)):
        sections = io.read_object(folder / RUN)
        if not all(isinstance(fields, dict) for fields in sections.values()):
            raise ValueError(f"{folder / RUN} is no configuration of a run; choose another folder")
        recorded = {name: x for fields in sections.values() for name, x in fields.items()}
        check_same_settings(folder / RUN, recorded, fixed)


def _holds(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _is_object(file: Path) -> bool:
    try:
        io.read_object(file)
    except (OSError, ValueError):
        return False
    return True


def _holds_model(folder: Path) -> bool:
    return (folder / io.SETTINGS_FILE).is_file()


def _refuse_run(folder: Path, there: list[str]) -> None:
    """Refuse a folder that holds more of a run than its beginning."""
    mend = "go on with it by --resume (in Python resume=True), or choose another folder"
    if RESULTS in there:
        last = f"go on from its end by --model {folder}/last in another folder, or "
        raise FileExistsError(
            f"{folder} holds a finished run, {RESULTS}; {last if 'last' in there else ''}read its "
            "results by --resume (in Python resume=True)"
        )
    if (step := latest_step(folder / CHECKPOINTS)) is not None:
        raise FileExistsError(f"{folder} holds a run at step {step}; {mend}")
    for name, what in (
        (SUMMARY, "the runs of several seeds"),
        *((name, "the model of a run") for name in MODELS),
    ):
        if name in there:
            raise FileExistsError(f"{folder} holds {what}, {name}; {mend}")


def store_results(file: Path, results: Mapping[str, Any]) -> None:
    """Write what a finished run has found, with a digest of it."""
    io.write_json(file, {**results, "digest": io.json_digest(results)})


def read_results(file: Path) -> dict[str, Any]:
    """Read what a finished run has left.

    Raises:
        ValueError: the file is empty, half, of another make, or was changed.
    """
    try:
        results = io.read_json(file)
    except ValueError as error:
        raise ValueError(f"{error}; delete it, and --resume ends the run again") from None
    if not isinstance(results, dict) or not isinstance(results.get("settings"), dict):
        raise ValueError(
            f"{file} does not hold the results of a run; delete it, and --resume ends the run again"
        )
    digest = results.pop("digest", None)
    if digest not in (None, io.json_digest(results)):  # older versions wrote none
        raise ValueError(
            f"{file} was changed after it was written; delete it, and --resume ends the run again"
        )
    return results


def check_same_settings(file: Path, recorded: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Refuse to go on from a file of another run.

    Raises:
        ChangedSettings: a setting differs; the message names it.
    """
    wanted = json.loads(json.dumps(dict(fixed)))  # so that tuples and lists compare equal
    if changes := changed_settings({name: recorded.get(name) for name in wanted}, wanted):
        raise ChangedSettings(
            f"{file} is of other settings ({'; '.join(changes.values())}); choose another folder",
            tuple(changes),
        )
