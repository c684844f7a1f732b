"""Files: written whole or not at all, JSON, lines of text, and the folder of what is cached."""

from __future__ import annotations

import codecs
import errno
import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from simcse_jax.checks import first_twice
from simcse_jax.process import is_alive

AnyPath = str | os.PathLike[str]
SETTINGS_FILE = "simcse_jax.json"
"""The file by which a model's folder is known, and which lists what a save put there."""


# ---------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------


@contextmanager
def written_file(path: AnyPath) -> Iterator[Path]:
    """Make a file beside ``path`` to write to, and rename it to ``path`` once the block is done.

    It is made at once, so that a place that cannot be written is known before the work, and with
    the permissions that the umask leaves. If anything fails, an older file stays as it was and
    nothing else is left; what a killed process has left of the same file is removed. A link stays
    and what it leads to is replaced. A device, a pipe or an open descriptor (`is_special`) is never
    replaced: what was written is copied to it.

    Raises:
        OSError: the place cannot be written.
    """
    target = Path(path)
    if os.path.isdir(target):
        raise IsADirectoryError(f"cannot write {target}: it is a folder; give the name of a file")
    if is_special(target):
        with _copied_to(target) as temporary:
            yield temporary
        return
    target = Path(os.path.realpath(target))
    temporary = _make_beside(target, functools.partial(Path.touch, exist_ok=False))
    try:
        with naming(target):
            yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(target: Path) -> Iterator[None]:
    """Name what was to be written where the disk is full, of which the system names no file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None:
            raise cannot_write(target, error) from error
        raise


def is_special(path: AnyPath) -> bool:
    """Tell whether a path is no regular file: a device, a pipe, an open descriptor, a socket."""
    # A descriptor may lead to a regular file, which others write to and would lose by a rename.
    if os.path.abspath(path).startswith(("/dev/std", "/dev/fd/", "/proc/")):
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:  # nothing is there, or who wants to write there will be told
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def spoken(path: AnyPath) -> str:
    """Return what errors call an input: the file, or standard input for ``-``."""
    return "standard input" if str(path) == "-" else str(path)


def check_not_input(output: AnyPath, inputs: Iterable[AnyPath]) -> None:
    """Raise a ValueError where an output is a file that is read: its content would be gone.

    Args:
        output: what is to be written; it need not exist.
        inputs: what is read, where it is a file; ``-`` is standard input.
    """
    for path in inputs:
        try:
            read = os.stat("/dev/stdin" if str(path) == "-" else path)
            written = os.stat(output)  # links followed, as whoever writes does
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(written.st_mode) and os.path.samestat(read, written):
            raise ValueError(
                f"the output {output} is the same file as the input {spoken(path)}, which would be "
                "lost; give another output"
            )


@contextmanager
def _copied_to(target: Path) -> Iterator[Path]:
    """Make a temporary file whose content is appended to ``target`` once the block is done."""
    try:
        mode = os.stat(target).st_mode
    except OSError as error:
        raise cannot_write(target, error) from error
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise OSError(f"cannot write {target}: it is a disk or a socket; give the name of a file")
    if not os.access(target, os.W_OK):
        raise PermissionError(f"cannot write {target}: permission denied; give another file")
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / target.name
        temporary.touch()
        with naming(temporary):
            yield temporary
        try:
            with temporary.open("rb") as source, target.open("ab") as sink:
                shutil.copyfileobj(source, sink)
        except OSError as error:
            raise cannot_write(target, error) from error


# Without this file no reader, ours or another's, takes a folder for a model.
_GATE = "config.json"


@contextmanager
def written_folder(
    folder: AnyPath, marker: str, known: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Make a folder to write into, and move its files into ``folder`` once the block is done.

    Whatever else lies in ``folder`` stays, but for what an earlier write put there. A process that
    is killed leaves the old files, the new ones, or a folder that no reader takes for a model: it
    has no ``config.json``, and its marker says ``"incomplete"``. `finish_write` gives it the new
    ones then.

    Args:
        folder: new, empty, or written so before; a symlink is followed.
        marker: the file that lists what was written (``"files"``), a JSON object in ``folder``
            that holds what the block writes there too.
        known: whether another folder may be written to as well.

    Raises:
        OSError: the place cannot be written, or the folder holds what is not ours.
    """
    target = Path(os.path.realpath(folder))
    finish_write(target, marker)  # of a process that was killed: its model is whole on the disk
    _check_place(target, marker, known)
    is_new = not target.exists()
    temporary = _make_beside(target / marker, Path.mkdir)
    try:
        with naming(target):
            yield temporary
        try:
            with _alone(target):
                _move_files(temporary, target, marker)
        except OSError as error:
            if error.errno is None:  # it says what is wrong already
                raise
            raise cannot_write(target, error) from error
    finally:
        finish_write(target, marker)  # where an interrupt came between two files
        if _unfinished(target, marker) != temporary:  # else it holds what the folder lacks
            shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it is empty only where nothing was written
                target.rmdir()


def _check_place(target: Path, marker: str, known: Callable[[Path], bool] | None) -> None:
    """Raise an OSError where a folder may not be written to."""
    if not target.exists():
        return
    if not target.is_dir():
        raise NotADirectoryError(f"cannot write {target}: it is a file; give the name of a folder")
    found = sorted(path.name for path in target.iterdir())
    others = [name for name in found if not name.startswith(f".{marker}.")]  # a killed write's
    ours = _listed_files(target / marker) is not None or (known is not None and known(target))
    if others and not ours:
        raise FileExistsError(
            f"cannot write {target}: it holds {others[0]} and no {marker} of an earlier write; "
            "give a new or an empty folder"
        )


def _listed_files(marker: Path) -> list[str] | None:
    """Return the files that a marker lists; None where there is no such list."""
    try:
        return _files_of(read_object(marker))
    except (OSError, ValueError):
        return None


def _files_of(record: dict[str, Any]) -> list[str] | None:
    files = record.get("files")
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        return None
    return files


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no other process move its files into a folder meanwhile: of two, the later one stays.

    Where the file system knows no such locks, nothing is held.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # let go of when the process dies
        yield
    finally:
        os.close(descriptor)


def _move_files(source: Path, target: Path, marker: str) -> None:
    record = read_json(source / marker) if (source / marker).exists() else {}
    paths = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    new = sorted({marker, *(path.as_posix() for path in paths)})
    old = [name for name in _listed_files(target / marker) or () if _lies_in(target, name)]
    for name in new:
        path = target / name
        above = path.parents[: name.count("/")]
        if path.is_dir() or not _lies_in(target, name) or any(map(os.path.isfile, above)):
            raise FileExistsError(f"cannot write {path}: a folder, file or link is in the way")
    for name in (*old, *new):  # before anything is moved
        place = next(p for p in (target / name).parents if p.exists())
        if not os.access(place, os.W_OK):
            raise PermissionError(f"cannot write into {place}: change its permissions")
    write_json(source / marker, record | {"files": new})
    write_json(target / marker, {"incomplete": source.name, "files": sorted({*old, *new})})
    _go_on_moving(source, target, marker)


def _go_on_moving(source: Path, target: Path, marker: str) -> None:
    """Move the files of a write, or what a killed process has left of them to be moved."""
    new, both = _listed_files(source / marker), set(_listed_files(target / marker) or ())
    assert new is not None  # who calls has written it, or has looked
    waiting = [name for name in new if (source / name).exists()]
    gates = {name for name in both if Path(name).name == _GATE}
    # A gate in a folder comes after those in the folders below it, which belong to its model.
    last = [*sorted(gates.intersection(waiting), key=lambda name: -name.count("/")), marker]
    _remove_files(target, gates.difference(new).union(last[:-1]))
    _move(source, target, (name for name in waiting if name not in last))
    _remove_files(target, both.difference(new))
    _move(source, target, last)


def _move(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / name, target / name)


def finish_write(folder: AnyPath, marker: str, *, of_anyone: bool = False) -> None:
    """Finish the `written_folder` whose process was killed while it moved its files.

    Args:
        folder: where; it need not exist.
        marker: as in `written_folder`.
        of_anyone: that of other machines and living processes too. The caller knows that nobody
            else writes there.
    """
    target = Path(os.path.realpath(folder))
    if _unfinished(target, marker) is None:
        return
    with suppress(OSError), _alone(target):  # it stays unfinished, and is refused
        # Looked at again: who had the lock before may have finished it, and its files are at home.
        source = _unfinished(target, marker)
        if source is not None and (of_anyone or _is_abandoned(source.name, os.getpid())):
            _go_on_moving(source, target, marker)


def _unfinished(target: Path, marker: str) -> Path | None:
    """Return the folder whose files are still to be moved, or None."""
    try:
        source = target / str(read_object(target / marker)["incomplete"])
    except (OSError, ValueError, KeyError):
        return None
    # Without its list nothing could be moved, and everything would be taken for older files.
    whole = _TEMPORARY.fullmatch(source.name) and _listed_files(source / marker) is not None
    return source if whole else None


def is_written(folder: AnyPath, marker: str, spare: Iterable[str] = ()) -> bool:
    """Tell whether a folder holds all that `written_folder` put there.

    Args:
        folder: where.
        marker: as in `written_folder`.
        spare: the files that may be gone.
    """
    try:
        record = read_object(Path(folder) / marker)
    except (OSError, ValueError):
        return False
    listed = _files_of(record)
    if listed is None and "files" in record:  # version 0.1 lists none
        return False
    files = set(listed or []).difference(spare)
    return not record.get("incomplete") and all((Path(folder) / name).is_file() for name in files)


def _lies_in(target: Path, name: str) -> bool:
    """Tell whether a file's folder is within another, symlinks followed."""
    place = Path(os.path.realpath((target / name).parent))
    return place.is_relative_to(target) and Path(name).name not in ("", "..")


def _remove_files(target: Path, names: Iterable[str]) -> None:
    """Remove files, and the folders below ``target`` that are empty then."""
    for name in names:
        path = target / name
        if path.is_file() or path.is_symlink():
            path.unlink(missing_ok=True)
        for parent in path.parents[: name.count("/")]:
            with suppress(OSError):
                parent.rmdir()


def _make_beside(target: Path, make: Callable[[Path], None]) -> Path:
    temporary = _name_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, target.name)
        make(temporary)
    except OSError as error:
        raise cannot_write(target, error) from error
    return temporary


def cannot_write(target: Path, error: OSError) -> OSError:
    """Return the error that says which file was to be written."""
    mend = "; give a shorter name" if error.errno == errno.ENAMETOOLONG else ""
    return type(error)(f"cannot write {target}: {error.strerror or error}{mend}")


# ---------------------------------------------------------------------------------------------
# What is written has a name of its own until it is whole: of its target, its host, its process
# ---------------------------------------------------------------------------------------------

_TEMPORARY = re.compile(r"\.(?P<target>.+)\.(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]+)-[0-9a-f]{8}")


def _name_beside(target: Path) -> Path:
    # Not by the module tempfile, whose files nobody else may read, whatever the umask.
    token = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return target.parent / f".{_shortened(target.name)}.{token}"


def _shortened(name: str) -> str:
    return name[:40]  # file systems take 255 bytes, of which a letter may need four


def _host() -> str:
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


def _is_abandoned(name: str, own_pid: int | None = None) -> bool:
    """Tell whether the process of this machine that a name speaks of is dead, or this one."""
    found = _TEMPORARY.fullmatch(name)
    if found is None or found["host"] != _host():
        return False
    pid = int(found["pid"])
    return pid == own_pid or not is_alive(pid)


def remove_leftovers(folder: AnyPath, name: str | None = None, *, of_anyone: bool = False) -> None:
    """Remove what killed processes had begun to write into a folder.

    Args:
        folder: where; it need not exist.
        name: of what they were writing; default: whatever they were.
        of_anyone: that of other machines too, whose processes may be alive. The caller knows that
            nobody there writes it.
    """
    folder = Path(folder)
    for path in folder.iterdir() if folder.is_dir() else ():
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or (name is not None and found["target"] != _shortened(name)):
            continue
        if _is_abandoned(path.name) or (of_anyone and found["host"] != _host()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):  # of another user's: no reason not to write
                    path.unlink()


def write_bytes(path: AnyPath, content: bytes) -> None:
    """Write a file, whole or not at all, and the folders above it.

    Raises:
        OSError: the place cannot be written.
    """
    with written_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: AnyPath, text: str) -> None:
    """Write text in UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: AnyPath, value: Any, indent: int | None = 2) -> None:
    """Write JSON in UTF-8 with a final newline, as `write_bytes` does.

    Args:
        path: where.
        value: what `json.dumps` takes.
        indent: how far to indent, for people who read it; None is a single line.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    # The name of a file may hold bytes that are no text, which stand there as JSON's own escapes.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def json_digest(value: Any) -> str:
    """Return a digest of what a JSON file holds, the same once it is read again."""
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_tensors(
    path: AnyPath, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Write arrays as safetensors, as `write_bytes` does."""
    with written_file(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # of the disk: nothing else can go wrong with arrays
            raise OSError(f"cannot write {path}: {error}") from error
        temporary.chmod(mode)  # safetensors lets nobody else read it


# ---------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------


def is_there(path: AnyPath) -> bool:
    """Tell whether a folder has an entry of this name, be it a link that leads nowhere."""
    return os.path.lexists(path)


def check_is_file(path: AnyPath) -> None:
    """Raise an OSError where something else than a file is, which a reader would wait for."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(f"{path} is a folder, a pipe or a device; it must be a file")


def read_json(path: AnyPath, fields_once: bool = False) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        fields_once: refuse an object that has a field twice, of which JSON's readers take the last.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not UTF-8 or not JSON; the message names file and line.
    """
    return parse_json(_read_text(path), path, fields_once=fields_once)


def read_object(path: AnyPath) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not JSON, or another value than an object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}; it must be a JSON object")
    return value


def read_json_lines(path: AnyPath) -> list[Any]:
    """Read a file of one JSON value a line.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is not UTF-8 or not JSON; the message names file and line.
    """
    return [parse_json(line, path, number) for number, line in enumerate(read_lines(path), 1)]


def parse_json(
    text: str, path: AnyPath, line: int | None = None, *, fields_once: bool = False
) -> Any:
    """Parse JSON that is a whole file, or a line of one; see `read_json`.

    Raises:
        ValueError: it is not JSON; the message names file and line.
    """
    place = f"{path}" if line is None else f"{path}, line {line}"
    try:
        return json.loads(text, object_pairs_hook=_fields_once if fields_once else None)
    except RecursionError:
        raise ValueError(f"{place}: its JSON is nested too deep to be read") from None
    except json.JSONDecodeError as error:
        at = error.lineno if line is None else line
        raise ValueError(
            f"{path}, line {at}: not JSON ({error.msg} at column {error.colno})"
        ) from error
    except ValueError as error:  # a field twice, or a whole number of thousands of digits
        raise ValueError(f"{place}: not JSON that can be read ({error})") from error


def _fields_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = first_twice([name for name, _ in pairs])
        raise ValueError(f"the field {twice!r} is there twice; leave one out")
    return fields


def read_lines(path: AnyPath, encoding: str = "utf-8") -> list[str]:
    r"""Read a text file of one sentence a line; ``-`` is standard input.

    An empty line is an empty sentence, so that line n of the file is row n of the result; only
    the end of the last line adds none. Lines end with ``\n``, ``\r\n`` or ``\r``, and a byte
    order mark is no text.

    Raises:
        FileNotFoundError: no such file.
        OSError: a folder, a pipe or device that is not this process's input, or no permission.
        ValueError: bytes that are not of the encoding; the message names file and line.
    """
    # Not str.splitlines, which also breaks at characters that sentences may hold (U+2028, U+0085).
    lines = _read_text(path, encoding).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def iter_lines(path: AnyPath, start: int = 0) -> Iterator[str]:
    r"""Read a text file a line at a time: `read_lines` for more than memory holds.

    Args:
        path: the file; ``-`` is standard input.
        start: leave out so many lines; they are not looked at.

    Raises:
        FileNotFoundError, OSError: as in `read_lines`.
        ValueError: as in `read_lines`, when the line is met.
    """
    name = spoken(path)
    with nullcontext(sys.stdin.buffer) if str(path) == "-" else open_data(path) as file:
        for number, line in enumerate(_raw_lines(file, name), 1):
            if number > start:
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise _not_text(error, name, "utf-8", number) from error
                if "\0" in text:
                    raise _nul_byte(name, number)
                yield text


def _raw_lines(file: Iterable[bytes], name: str) -> Iterator[bytes]:
    r"""Split a file into lines without their ends, a byte order mark left out.

    A file whose lines end with ``\r`` alone is taken whole.
    """
    for number, line in enumerate(file):
        if number == 0:
            _check_unpacked(line, name)
            line = line.removeprefix(codecs.BOM_UTF8)
            if not line:  # nothing but the mark
                return
        if b"\r" in line:
            yield from _with_newlines(line).removesuffix(b"\n").split(b"\n")
        else:
            yield line.removesuffix(b"\n")


def open_data(path: AnyPath) -> BufferedReader:
    """Open a file to read its bytes.

    A pipe or a device is refused, since opening it may wait for ever; ``/dev/stdin`` and
    ``/dev/fd/N`` are what somebody has given to this process.

    Raises:
        OSError: no such file, a folder, a pipe or device, or no permission; the message names it.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path} is a folder; give a file")
        if not stat.S_ISREG(mode) and not _GIVEN_TO_US.fullmatch(os.fspath(path)):
            raise OSError(f"{path} is a pipe or a device; give a file, or - for standard input")
        return open(path, "rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; check the path") from None
    except PermissionError:
        raise PermissionError(f"{path} may not be read; change its permissions") from None
    except NotADirectoryError:
        raise NotADirectoryError(f"{path} lies below a file; give the path of a file") from None
    except OSError as error:
        if error.errno is None:  # it says what is wrong already
            raise
        raise OSError(f"{path} cannot be read: {error.strerror}; check the path") from None


_GIVEN_TO_US = re.compile(r"/dev/stdin|(/dev|/proc/self)/fd/\d+")

# What a compressed file starts with, and what unpacks it.
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh[1-9]1AY&SY": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"PK\3\4": "unzip",
}


def _read_text(path: AnyPath, encoding: str = "utf-8") -> str:
    r"""Read a file as text whose lines end with ``\n``."""
    name = spoken(path)
    with nullcontext(sys.stdin.buffer) if str(path) == "-" else open_data(path) as file:
        raw = file.read()
    _check_unpacked(raw, name)
    text = _decode(_with_newlines(raw), name, encoding)
    if "\0" in text and encoding == "utf-8":
        raise _nul_byte(name, text[: text.index("\0")].count("\n") + 1)
    return text


def _check_unpacked(start: bytes, name: str) -> None:
    """Raise a ValueError where a file starts as a compressed one does."""
    for magic, unpack in _COMPRESSED.items():
        if re.match(magic, start):
            raise ValueError(f"{name} is compressed; unpack it with {unpack}")


def _nul_byte(name: str, line: int) -> ValueError:
    return ValueError(f"{name}, line {line}: holds a NUL byte; give a text file in UTF-8")


def _with_newlines(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _decode(raw: bytes, name: AnyPath, encoding: str) -> str:
    try:
        return raw.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        raise _not_text(error, name, encoding) from error


def _not_text(
    error: UnicodeDecodeError, name: AnyPath, encoding: str, first_line: int = 1
) -> ValueError:
    # error.object is what follows the byte order mark, from where error.start counts.
    line = first_line + error.object[: error.start].count(b"\n")
    return ValueError(
        f"{name}, line {line}: not {encoding.upper()} (byte 0x{error.object[error.start]:02x});"
        " convert it with iconv"
    )


# ---------------------------------------------------------------------------------------------
# The cache
# ---------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return the folder of what can be made again: ``simcse_jax`` in the user's cache folder.

    The latter is ``$XDG_CACHE_HOME``, by default ``~/.cache``.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification wants relative paths ignored.
    return (root if root.is_absolute() else Path.home() / ".cache") / "simcse_jax"
