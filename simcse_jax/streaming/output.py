"""An output that is not whole yet: held by one process, and kept for the one that goes on with it.

Beside ``vectors.npy`` it is the folder ``.vectors.npy.part``, with the file ``vectors`` and, once a
piece of them is done, ``progress.json``.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from simcse_jax.io import (
    cannot_write,
    is_special,
    naming,
    read_object,
    write_json,
    written_file,
)
from simcse_jax.process import Interrupted, Terminated

_VECTORS, _PROGRESS = "vectors", "progress.json"
_OWN = (_PROGRESS, "whole", _VECTORS)
# What progress.json holds: what the vectors are of; how many rows are done, in how many bytes; a
# digest of what was read for them; and by what the output is known once it is whole.
_RECORD = {"settings": dict, "rows": int, "bytes": int, "read": str, "output": dict}


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """A folder that this process holds, for what is written until an output is whole.

    Attributes:
        target: the output.
        folder: where the files are that it is made of.
        record: the progress of an earlier process that is to be gone on with, or None.
        resumable: whether progress is kept at all.
    """

    target: Path
    folder: Path
    record: Mapping[str, Any] | None = None
    resumable: bool = True

    @property
    def vectors(self) -> Path:
        """Return the file that the vectors are appended to."""
        return self.folder / _VECTORS

    @property
    def rows(self) -> int:
        """Return how many rows an earlier process has left."""
        return 0 if self.record is None else self.record["rows"]

    @property
    def is_done(self) -> bool:
        """Tell whether the output is in its place already, whole."""
        return self.record is not None and _is_in_place(self.record, self.target)

    def keep(
        self, settings: Mapping[str, Any], rows: int, size: int, read: str, whole: Path | None
    ) -> None:
        """Write down how far it is, for a later process.

        Args:
            settings: what the vectors are of.
            rows: how many are done.
            size: how many bytes of the file they take.
            read: a digest of what was read for them.
            whole: the output, where all are done.
        """
        output = {} if whole is None else _known_by(whole)
        record = dict(zip(_RECORD, (dict(settings), rows, size, read, output), strict=True))
        write_json(self.folder / _PROGRESS, record)


@contextmanager
def unfinished(output: str | os.PathLike[str], resume: bool = False) -> Iterator[Unfinished]:
    """Hold an output until it is whole.

    If the block fails, the progress that was kept by then stays, for a later process to go on with;
    without any, nothing is left. A device, a pipe or a descriptor gets what was written once the
    block is done.

    Args:
        output: the file to be written.
        resume: whether what an earlier process has left is gone on with.

    Raises:
        FileExistsError: an earlier process has left rows, and ``resume`` is False; or another
            process is writing them now.
        Interrupted: a signal ended the block, and there are rows to go on with.
        OSError: the place cannot be written.
        ValueError: ``resume``, for what is no file.
    """
    target = Path(output)
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder; give the name of a file")
    if is_special(target):
        if resume:
            raise ValueError(f"{target} is no regular file; leave --resume out, or give a file")
        with written_file(target) as temporary:
            yield Unfinished(temporary, temporary.parent, resumable=False)
        return
    target = Path(os.path.realpath(target))
    folder = target.parent / f".{_short(target.name)}.part"
    with _held(folder, target):
        record = _read_record(folder, target)
        if record is not None and not resume:
            raise FileExistsError(
                f"{target} was begun and is at row {record['rows']:,}; go on with --resume, or "
                f"delete {folder} to begin anew"
            )
        if record is None:
            _remove_files(folder)
        try:
            with naming(target):
                yield Unfinished(target, folder, record)
        except BaseException as error:
            if (rows := _rows_done(folder)) is None:
                _clear(folder)
            elif isinstance(error, KeyboardInterrupt | Terminated):
                raise _interrupted(error, rows, target) from None
            raise
        _clear(folder)


def _interrupted(error: BaseException, rows: int, target: Path) -> Interrupted:
    terminated = isinstance(error, Terminated)
    return Interrupted(
        f"stopped by {'SIGTERM' if terminated else 'Ctrl-C'} when {rows:,} rows of {target} were "
        "done; the same command goes on from there with --resume",
        signal.SIGTERM if terminated else signal.SIGINT,
    )


def _short(name: str) -> str:
    """Return a name that leaves room for more; those of two files stay two."""
    if len(name.encode()) < 200:
        return name
    return f"{name[:40]}-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"


@contextmanager
def _held(folder: Path, target: Path) -> Iterator[None]:
    """Hold a folder, made if need be, as long as this process lives.

    Where the file system knows no such locks, nothing is held.
    """
    try:
        descriptor = _lock(folder)
    except BlockingIOError:
        raise FileExistsError(
            f"another process is writing {target}; wait for its end, or choose another output"
        ) from None
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # who held it has just ended
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:  # some file systems cannot
            return descriptor
        with suppress(FileNotFoundError):
            # Who held it may have removed the very folder that we have opened.
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        os.close(descriptor)


def _read_record(folder: Path, target: Path) -> dict[str, Any] | None:
    """Return how far an earlier process was; None where nothing of it can be gone on with.

    Raises:
        FileExistsError: the folder holds what was not put there for an output.
    """
    _remove_half_written(folder)
    strange = {path.name for path in folder.iterdir()}.difference(_OWN)
    record = None
    try:
        record = read_object(folder / _PROGRESS)
        if any(type(record.get(name)) is not kind for name, kind in _RECORD.items()):
            strange.add(_PROGRESS)
    except FileNotFoundError:
        pass
    except ValueError:
        strange.add(_PROGRESS)
    if strange:
        raise FileExistsError(
            f"{folder / min(strange)} is not of an encoding that was begun; move {folder} away, or "
            "choose another output"
        )
    if record is None or _is_in_place(record, target):
        return record
    # Killed after the output was put in its place, a process leaves its progress without vectors.
    vectors = folder / _VECTORS
    return record if vectors.is_file() and vectors.stat().st_size >= record["bytes"] else None


def _is_in_place(record: Mapping[str, Any], target: Path) -> bool:
    return target.is_file() and record["output"] == _known_by(target)


def _known_by(file: Path) -> dict[str, int]:
    found = file.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def _rows_done(folder: Path) -> int | None:
    """Return how many rows this process or an earlier one has left; None without any."""
    try:
        return int(read_object(folder / _PROGRESS)["rows"])
    except (OSError, ValueError, KeyError):
        return None


def _clear(folder: Path) -> None:
    """Remove what was written, and the folder if it is empty then."""
    _remove_files(folder)
    with suppress(OSError):
        folder.rmdir()


def _remove_files(folder: Path) -> None:
    # The progress goes first: vectors without it count for nothing.
    for name in _OWN:
        with suppress(OSError):
            (folder / name).unlink()
    _remove_half_written(folder)


def _remove_half_written(folder: Path) -> None:
    """Remove progress that nobody writes any more, since the folder is held."""
    for path in folder.glob(f".{_PROGRESS}.*"):
        with suppress(OSError):
            path.unlink()
