"""Tables of text as people keep them: `.csv`, `.tsv` and `.jsonl`, with a name for each column.

- `.csv`: commas, quotes as spreadsheets and pandas write them; the first row names the columns.
- `.tsv`: tabs; a quote is text; the first row names the columns.
- `.jsonl`: one JSON object a line, all with the keys of the first.

Lines with nothing on them are no rows. Every other oddity is an error that says where.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simcse_jax.checks import listed, quoted
from simcse_jax.io import read_lines

SUFFIXES = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True, eq=False)
class Table:
    """Rows with named columns, and where they stand in their file.

    Attributes:
        path: the file.
        names: the columns' names.
        rows: the cells of each row in the order of `names`: strings of csv and tsv, any JSON value
            of jsonl.
        lines: the line each row starts at, from 1.
    """

    path: Path
    names: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    lines: tuple[int, ...]

    def text(self, row: int, column: int) -> str:
        """Return a cell as a sentence; an empty one is a space, as in SimCSE's code.

        Raises:
            ValueError: the cell is no text.
        """
        cell = self.rows[row][column]
        if cell is None or cell == "":
            return " "
        if not isinstance(cell, str):
            raise ValueError(
                f"{self.path}, line {self.lines[row]}: {quoted(self.names[column])} is "
                f"{quoted(cell)}, not a "
                "text; put it in quotes or leave the column out"
            )
        if not cell.isascii() and any("\ud800" <= c <= "\udfff" for c in cell):
            # JSON may hold half a character, "\ud83d"; the tokenizer would only fail much later.
            raise ValueError(
                f"{self.path}, line {self.lines[row]}: {quoted(self.names[column])} holds "
                "half of a surrogate pair; delete the broken \\u escape"
            )
        if "\0" in cell:
            # As in text files: no sentence has one, and tokenizers disagree on what it is.
            raise ValueError(
                f"{self.path}, line {self.lines[row]}: {quoted(self.names[column])} holds the "
                "escape \\u0000; delete it"
            )
        return cell


def read_table(path: str | Path) -> Table:
    """Read a `.csv`, `.tsv` or `.jsonl` file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix, bytes that are not UTF-8, no rows, a header that is none, a row
            with more or fewer cells than the header, a line that is no JSON object; the message
            names file, line and mend.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path} ends in {suffix or 'no suffix'!r}, which is no table this library reads; "
            f"convert or rename it to one of {', '.join(SUFFIXES)}"
        )
    lines = read_lines(path)
    numbered = _json_rows(path, lines) if suffix == ".jsonl" else _cell_rows(path, lines, suffix)
    first = next(numbered, None)
    if first is None:
        raise ValueError(f"{path} is empty; it needs {_EMPTY_MEND[suffix]}")
    names = tuple(first[1])
    found = list(numbered)
    if not found:
        header = quoted(", ".join(names))
        raise ValueError(
            f"{path} holds the header {header} and no rows; add a row for each example"
        )
    return Table(path, names, tuple(row for _, row in found), tuple(line for line, _ in found))


_EMPTY_MEND = {
    ".csv": "a header such as sent0,sent1,hard_neg and a row for each example",
    ".tsv": "a header of tab-separated names and a row for each example",
    ".jsonl": "a JSON object on each line",
}


def _cell_rows(path: Path, lines: list[str], suffix: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The header, then the rows, each with the line it starts at."""
    if suffix == ".csv":
        # strict: otherwise a quote that is never closed swallows the rest of the file in silence.
        reader = csv.reader((line + "\n" for line in lines), strict=True)
    else:
        reader = csv.reader((line + "\n" for line in lines), delimiter="\t", quoting=csv.QUOTE_NONE)
    names: tuple[str, ...] | None = None
    while True:
        line = reader.line_num + 1
        try:
            row = tuple(next(reader))
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {line}: not a row of a {suffix} file ({error}); mend its quotes: a "
                'cell with a comma, a quote or a line break stands in "…", a quote within as ""'
            ) from error
        if not row:
            continue
        if names is None:
            _check_header(path, line, row)
            names = row
        elif len(row) != len(names):
            what = "too few" if len(row) < len(names) else "too many"
            raise ValueError(
                f"{path}, line {line}: {what} columns, {len(row)} for the header's {len(names)} "
                f"({listed(names)}); complete the row, quote its cells or delete it"
            )
        yield line, row


def _check_header(path: Path, line: int, row: tuple[str, ...]) -> None:
    # A file without a header would lose its first example: sentences have spaces, names have none.
    wrong = next((name for name in row if not name or any(c.isspace() for c in name)), None)
    if wrong is not None:
        raise ValueError(
            f"{path}, line {line}: the first row should name the columns, one word each, but holds "
            f"{quoted(wrong)}; put a header such as sent0,sent1,hard_neg above it"
        )


def _json_rows(path: Path, lines: list[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The first object's keys, then the values of every object."""
    names: tuple[str, ...] | None = None
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except RecursionError:
            raise ValueError(f"{path}, line {line}: nested too deep to be read") from None
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {line}: not JSON ({error.msg} at column {error.colno}); each line "
                'needs one object such as {"sent0": "…", "sent1": "…"}'
            ) from error
        if not isinstance(row, dict) or not row:
            raise ValueError(
                f"{path}, line {line}: a JSON object with named texts is wanted, found "
                f'{text.strip()[:40]!r}; write it as {{"sentence": "…"}}'
            )
        if names is None:
            names = tuple(row)
            yield line, names
        missing = [name for name in names if name not in row]
        extra = [name for name in row if name not in names]
        if missing or extra:
            what = f"{quoted(missing[0])} is missing" if missing else f"{quoted(extra[0])} is new"
            raise ValueError(
                f"{path}, line {line}: {what}, for the first object has the fields "
                f"{listed(names)}; give every line the same, null where empty"
            )
        yield line, tuple(row[name] for name in names)
