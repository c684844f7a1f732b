"""An output that is not whole yet: held by one process, and kept for the one that goes on with it.

Beside ``vectors.npy`` it is the folder ``.vectors.npy.part``, with the file ``vectors`` and
``progress.json``, which says how far it is. The latter is there from the beginning and is removed
last, so that a folder without it is somebody else's.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import re
import signal
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import Any

from simcse_jax.checks import counted
from simcse_jax.io import (
    cannot_write,
    is_special,
    is_there,
    json_digest,
    naming,
    read_object,
    write_json,
    written_file,
)
from simcse_jax.process import Interrupted, Terminated

_VECTORS, _PROGRESS = "vectors", "progress.json"
_OWN = (_VECTORS, "whole", _PROGRESS)
# What progress.json holds: what the vectors are of; how many rows are done, in how many bytes; the
# CRC-32 of what the sink has appended of them; a digest of what was read for them; by what the
# output is known once it is whole; and a digest of all this.
_RECORD = {
    "settings": dict,
    "rows": int,
    "bytes": int,
    "checksum": int,
    "read": str,
    "output": dict,
    "digest": str,
}
# What is written half by `write_json`, by a process that was killed.
_HALF = re.compile(rf"\.{re.escape(_PROGRESS)}\.[0-9a-f]{{8}}-[0-9]+-[0-9a-f]{{8}}")
_BLOCK = 2**20


@dataclasses.dataclass(frozen=True)
class PartialOutput:
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

    def go_on(self, file: BufferedRandom) -> int:
        """Put a file of vectors to where an earlier process was, and return their checksum.

        Args:
            file: at the place where the first of them is.

        Raises:
            ValueError: they are not what that process has written.
        """
        assert self.record is not None
        size, crc = self.record["bytes"], 0
        while block := file.read(min(_BLOCK, max(size - file.tell(), 0))):
            crc = zlib.crc32(block, crc)
        if file.tell() != size or crc != self.record["checksum"]:
            raise ValueError(
                f"{self.vectors} is damaged: its first {size:,} bytes are not those that were "
                f"written; delete {self.folder} to begin anew"
            )
        file.seek(size)  # from reading to writing
        file.truncate()  # what was not told of in the progress
        return crc

    def keep(
        self,
        settings: Mapping[str, Any],
        rows: int,
        size: int,
        checksum: int,
        read: str,
        whole: Path | None,
    ) -> None:
        """Write down how far it is, for a later process.

        Args:
            settings: what the vectors are of.
            rows: how many are done.
            size: how many bytes of the file they take.
            checksum: their CRC-32.
            read: a digest of what was read for them.
            whole: the output, where all are done.
        """
        output = {} if whole is None else _known_by(whole)
        values = (dict(settings), rows, size, checksum, read, output)
        record = dict(zip(_RECORD, values, strict=False))
        write_json(self.folder / _PROGRESS, record | {"digest": json_digest(record)})


@contextmanager
def partial_output(output: str | os.PathLike[str], resume: bool = False) -> Iterator[PartialOutput]:
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
    if os.path.isdir(target):
        raise IsADirectoryError(f"cannot write {target}: it is a folder; give the name of a file")
    if is_special(target):
        if resume:
            raise ValueError(f"{target} is no regular file; leave --resume out, or give a file")
        with written_file(target) as temporary:
            yield PartialOutput(temporary, temporary.parent, resumable=False)
        return
    target = Path(os.path.realpath(target))
    try:  # whether it may have this name, before folders are made: theirs are shorter
        os.lstat(next(above for above in target.parents if above.exists()) / target.name)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise cannot_write(target, error) from error
    folder = target.parent / f".{_short(target.name)}.part"
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
        raise FileExistsError(
            f"{folder} is a link or a file, and a folder of this name is needed until {target} is "
            "whole; move it away, or choose another output"
        )
    with _held(folder, target):
        record = _read_record(folder, target)
        if record is not None and not resume:
            raise FileExistsError(
                f"{target} was begun and is at row {record['rows']:,}; go on with --resume, or "
                f"delete {folder} to begin anew"
            )
        part = PartialOutput(target, folder, record)
        try:
            with naming(target):
                if record is None:
                    _remove_files(folder)
                    part.keep({}, 0, 0, 0, "", None)  # from now on the folder is known as ours
                yield part
        except BaseException as error:
            if not (rows := _rows_done(folder)):
                _clear(folder)
            elif isinstance(error, KeyboardInterrupt | Terminated):
                raise _interrupted(error, rows, target) from None
            raise
        _clear(folder)


def _interrupted(error: BaseException, rows: int, target: Path) -> Interrupted:
    terminated = isinstance(error, Terminated)
    return Interrupted(
        f"stopped by {'SIGTERM' if terminated else 'Ctrl-C'} with {counted(rows, 'row')} of "
        f"{target} kept",
        signal.SIGTERM if terminated else signal.SIGINT,
    )


def _short(name: str) -> str:
    """Return a name that leaves room for more; those of two files stay two."""
    if len(os.fsencode(name)) < 200:
        return name
    return f"{name[:40]}-{hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()}"


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
    there = list(folder.iterdir())
    strange = {path.name for path in there if path.name not in _OWN or not _is_plain(path)}
    record = None
    with suppress(ValueError, OSError):  # of what is no JSON object, or no file
        record = read_object(folder / _PROGRESS)
    if there and (record is None or set(record) != set(_RECORD)):
        # With vectors alone, nothing tells that they are ours and may be removed.
        named = folder / _PROGRESS
        strange.add(_PROGRESS if is_there(named) else min(path.name for path in there))
    if strange:
        raise FileExistsError(
            f"{folder / min(strange)} is not of an encoding that was begun; move {folder} away, or "
            "choose another output"
        )
    if record is None:
        return None
    if not _is_as_written(record):
        raise ValueError(
            f"{folder / _PROGRESS} is damaged, or was changed; delete {folder} to begin anew"
        )
    if _is_in_place(record, target):
        return record
    # Killed after the output was put in its place, a process leaves its progress without vectors.
    return record if record["rows"] and (folder / _VECTORS).is_file() else None


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _is_as_written(record: Mapping[str, Any]) -> bool:
    """Tell whether every field of a record is of its type, and all are those of its digest."""
    typed = all(type(record[name]) is kind for name, kind in _RECORD.items())
    rest = {name: value for name, value in record.items() if name != "digest"}
    return (
        typed
        and min(record["rows"], record["bytes"], record["checksum"]) >= 0
        and record["digest"] == json_digest(rest)
    )


def _is_in_place(record: Mapping[str, Any], target: Path) -> bool:
    return target.is_file() and record["output"] == _known_by(target)


def _known_by(file: Path) -> dict[str, int]:
    found = file.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def _rows_done(folder: Path) -> int | None:
    """Return how many rows this process or an earlier one has left; None without progress."""
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
    # The progress goes last: a folder without it counts as somebody else's.
    for name in _OWN:
        with suppress(OSError):
            (folder / name).unlink()
    _remove_half_written(folder)


def _remove_half_written(folder: Path) -> None:
    """Remove progress that nobody writes any more, since the folder is held."""
    for path in folder.iterdir():
        if _HALF.fullmatch(path.name) and _is_plain(path):
            with suppress(OSError):
                path.unlink()
