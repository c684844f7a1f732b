"""Files: written whole or not at all, JSON, lines of text, and the folder of what is cached."""

from __future__ import annotations

import functools
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

AnyPath = str | os.PathLike[str]


# ---------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------


@contextmanager
def written_file(path: AnyPath) -> Iterator[Path]:
    """Make a file beside ``path`` to write to, and rename it to ``path`` once the block is done.

    It is made at once, so that a place that cannot be written is known before the work, and with
    the permissions that the umask leaves. If anything fails, an older file stays as it was and
    nothing else is left.

    Raises:
        OSError: the place cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder; give the name of a file")
    temporary = _make_beside(target, functools.partial(Path.touch, exist_ok=False))
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_folder(folder: AnyPath) -> Iterator[Path]:
    """Make a folder beside ``folder`` to write into, and rename it once the block is done.

    An older folder of the same name is replaced as a whole, and stays if anything fails.

    Raises:
        OSError: the place cannot be written.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"cannot write {target}: it is a file; give the name of a folder")
    temporary = _make_beside(target, Path.mkdir)
    try:
        yield temporary
        if target.exists():
            old = _name_beside(target)
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _make_beside(target: Path, make: Callable[[Path], None]) -> Path:
    temporary = _name_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        make(temporary)
    except OSError as error:
        raise type(error)(f"cannot write {target}: {error.strerror or error}") from error
    return temporary


def _name_beside(target: Path) -> Path:
    # Not by the module tempfile, whose files nobody else may read, whatever the umask.
    return target.parent / f".{target.name}.{secrets.token_hex(4)}"


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
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


# ---------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------


def read_json(path: AnyPath) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not UTF-8 or not JSON; the message names file and line.
    """
    return _parse_json(_read_text(path), path)


def read_json_lines(path: AnyPath) -> list[Any]:
    """Read a file of one JSON value a line.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is not UTF-8 or not JSON; the message names file and line.
    """
    return [_parse_json(line, path, number) for number, line in enumerate(read_lines(path), 1)]


def _parse_json(text: str, path: AnyPath, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise ValueError(
            f"{path}, line {line}: not JSON ({error.msg} at column {error.colno})"
        ) from error


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
        raise FileNotFoundError(f"{path} does not exist") from None
    except PermissionError:
        raise PermissionError(f"{path} may not be read; change its permissions") from None
    except NotADirectoryError:
        raise NotADirectoryError(f"{path} lies below a file; give the path of a file") from None


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
    if str(path) == "-":
        name, raw = "standard input", sys.stdin.buffer.read()
    else:
        name = str(path)
        with open_data(path) as file:
            raw = file.read()
    for magic, unpack in _COMPRESSED.items():
        if re.match(magic, raw):
            raise ValueError(f"{name} is compressed; unpack it with {unpack}")
    return _decode(_with_newlines(raw), name, encoding)


def _with_newlines(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _decode(raw: bytes, name: AnyPath, encoding: str) -> str:
    try:
        return raw.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        # error.object is what follows the byte order mark, from where error.start counts.
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{name}, line {line}: not {encoding.upper()} (byte 0x{error.object[error.start]:02x});"
            " convert it with iconv"
        ) from error


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
