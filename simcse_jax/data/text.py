"""Plain text: a sentence a line."""

from __future__ import annotations

import sys
from pathlib import Path


def read_lines(path: str | Path) -> list[str]:
    """Read a UTF-8 file of one sentence a line; ``-`` is standard input.

    An empty line is an empty sentence, so that line n of the file is row n of the result; only
    the end of the last line adds none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: bytes that are not UTF-8; the message names the line.
    """
    if str(path) == "-":
        raw, name = sys.stdin.buffer.read(), "standard input"
    else:
        name = str(path)
        try:
            raw = Path(path).read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(f"{name} does not exist") from None
        except IsADirectoryError:
            raise IsADirectoryError(f"{name} is a folder; give a text file") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{name}, line {line}: not UTF-8 (byte 0x{raw[error.start]:02x}); convert it with iconv"
        ) from error
    # Not str.splitlines, which also breaks at characters that sentences may hold (U+2028, U+0085).
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
