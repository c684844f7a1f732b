"""Tables of text as people keep them: rows of cells, with a name for each column.

- `.csv`: commas, quotes as spreadsheets and pandas write them; the first row names the columns.
- `.tsv`: tabs; a quote is text; the first row names the columns.
- `.jsonl`: one JSON object a line, all with the keys of the first.
- `.parquet`: read by pyarrow, batch by batch.
- What another library holds in memory: a `Dataset` of Hugging Face's, a frame of pandas or polars,
  a table of pyarrow, a mapping of columns, or rows that are mappings. It is known by how it looks,
  so that none of these libraries is imported.

Lines with nothing on them are no rows. Every other oddity is an error that says where. Columns that
are asked for by name are the only ones read: then others may hold anything (but a key twice), the
objects of a `.jsonl` file may have other keys beside them, and a name may have spaces.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from simcse_jax.checks import is_unicode, listed, quoted
from simcse_jax.data.parquet import parquet_file, whole_parquet
from simcse_jax.io import open_data, parse_json, read_lines

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
# What pandas writes beside the columns where the rows were filtered.
_INDEX = "__index_level_"


@dataclass(frozen=True, eq=False)
class Table:
    """Rows with named columns, and where they stand.

    Attributes:
        source: what errors call it: the file, or the argument that it was given as.
        names: the columns' names.
        rows: the cells of each row in the order of `names`: strings of csv and tsv, any value of
            what has types.
        numbers: of each row: the line it starts at in a file of lines, else its own, from 1.
        unit: what the numbers count.
    """

    source: str
    names: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    numbers: Sequence[int]
    unit: Literal["line", "row"] = "line"

    def place(self, row: int) -> str:
        """Return what errors call a row."""
        return f"{self.source}, {self.unit} {self.numbers[row]}"

    @property
    def header(self) -> str:
        """Return what errors call the place of the columns' names."""
        return f"{self.source}, line 1" if self.unit == "line" else self.source

    def column(self, name: str) -> int:
        """Return the place of a column.

        Raises:
            ValueError: there is none of that name, or there are several.
        """
        check_columns(self.source, self.names, (name,))
        return self.names.index(name)

    def text(self, row: int, column: int) -> str:
        """Return a cell as a sentence; an empty one is a space, as in SimCSE's code.

        Raises:
            ValueError: the cell is no text, or it is missing where an empty text could stand.
        """
        cell = self.rows[row][column]
        if cell is None and self.unit == "line":
            return " "
        if not isinstance(cell, str):
            mend = (
                "put it in quotes or leave the column out"
                if self.unit == "line"
                else "leave the row out, or fill in a text, '' for an empty one"
                if repr(cell) in ("None", "nan", "<NA>")  # the last two are what pandas has
                else "make the column one of texts, or name another"
            )
            raise ValueError(
                f"{self.place(row)}: {quoted(self.names[column])} is {quoted(cell)}, not a text; "
                f"{mend}"
            )
        if not is_unicode(cell):
            # JSON may hold half a character, "\ud83d"; the tokenizer would only fail much later.
            raise ValueError(
                f"{self.place(row)}: {quoted(self.names[column])} holds half of a surrogate pair; "
                "delete the broken \\u escape"
            )
        if "\0" in cell:
            # As in text files: no sentence has one, and tokenizers disagree on what it is.
            raise ValueError(
                f"{self.place(row)}: {quoted(self.names[column])} holds the escape \\u0000; delete "
                "it"
            )
        return str(cell) or " "  # NumPy's strings become Python's


def read_table(path: str | Path, columns: Sequence[str] = ()) -> Table:
    """Read a `.csv`, `.tsv`, `.jsonl` or `.parquet` file.

    Args:
        path: the file.
        columns: the names of those to read, in the order that the table is to have; default: all.

    Raises:
        FileNotFoundError: no such file.
        MissingExtra: a parquet file without pyarrow.
        ValueError: another suffix, bytes that are not UTF-8, no rows, a header that is none, a row
            with more or fewer cells than the header, a line that is no JSON object, a parquet file
            that is not whole, a column that is not there; the message names file, place and mend.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path} ends in {suffix or 'no suffix'!r}, which is no table this library reads; "
            f"convert or rename it to one of {', '.join(SUFFIXES)}"
        )
    if suffix == ".parquet":
        return _read_parquet(path, columns)
    lines = read_lines(path)
    if suffix == ".jsonl":
        numbered = _json_rows(path, lines, columns)
    else:
        numbered = cell_rows(path, lines, suffix, columns)
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
    return Table(str(path), names, tuple(row for _, row in found), tuple(line for line, _ in found))


def check_columns(source: str, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise ValueError for a wanted column that is not there, or there several times."""
    for name in wanted:
        if name not in names:
            raise ValueError(
                f"{source} has no column {quoted(name)}; name one of those it has: {listed(names)}"
            )
        if names.count(name) > 1:
            raise ValueError(f"{source} has several columns {quoted(name)}; rename all but one")


_EMPTY_MEND = {
    ".csv": "a header such as sent0,sent1,hard_neg and a row for each example",
    ".tsv": "a header of tab-separated names and a row for each example",
    ".jsonl": "a JSON object on each line",
}


def cell_rows(
    path: Path, lines: Iterable[str], suffix: str, columns: Sequence[str] | None
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Return the header, then the rows of a table of cells, each with the line it starts at.

    Args:
        path: what errors call it.
        lines: of the file, read as they are asked for.
        suffix: ``".csv"`` or ``".tsv"``.
        columns: the names of those to read; without any all, whose names must then be one word
            each, so that no sentence is taken for a name; None: all, whatever they are called.

    Raises:
        ValueError: when the row is met: quotes that do not close, a header that is none, a row with
            more or fewer cells than the header, a column that is not there.
    """
    csv.field_size_limit(2**31 - 1)  # Python's own are 131,072 characters, of any cell
    if suffix == ".csv":
        # strict: otherwise a quote that is never closed swallows the rest of the file in silence.
        reader = csv.reader((line + "\n" for line in lines), strict=True)
    else:
        reader = csv.reader((line + "\n" for line in lines), delimiter="\t", quoting=csv.QUOTE_NONE)
    names: tuple[str, ...] | None = None
    chosen: list[int] | None = None
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
            names = row
            if columns:
                check_columns(str(path), names, columns)
                chosen = [names.index(name) for name in columns]
            elif columns is not None:
                _check_header(path, line, row)
        elif len(row) != len(names):
            what = "too few" if len(row) < len(names) else "too many"
            raise ValueError(
                f"{path}, line {line}: {what} columns, {len(row)} for the header's {len(names)} "
                f"({listed(names)}); complete the row, quote its cells or delete it"
            )
        yield line, row if chosen is None else tuple(row[i] for i in chosen)


def _check_header(path: Path, line: int, row: tuple[str, ...]) -> None:
    # A file without a header would lose its first example: sentences have spaces, names have none.
    wrong = next((name for name in row if not name or any(c.isspace() for c in name)), None)
    if wrong is not None:
        raise ValueError(
            f"{path}, line {line}: the first row should name the columns, one word each, but holds "
            f"{quoted(wrong)}; put a header such as sent0,sent1,hard_neg above it"
        )
    if len(row) == 1 and ";" in row[0]:
        raise ValueError(
            f"{path}, line {line}: the one column {quoted(row[0])} looks like several; separate "
            "cells by commas in .csv, by tabs in .tsv"
        )


def _json_rows(
    path: Path, lines: list[str], columns: Sequence[str]
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The first object's keys, or those asked for, then their values of every object."""
    names: tuple[str, ...] | None = None
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            row = parse_json(text, path, line, fields_once=True)
        except ValueError as error:
            wanted = '{"sent0": "…", "sent1": "…"}'
            raise ValueError(f"{error}; each line needs one object such as {wanted}") from error
        if not isinstance(row, dict) or not row:
            raise ValueError(
                f"{path}, line {line}: a JSON object with named texts is wanted, found "
                f'{text.strip()[:40]!r}; write it as {{"sentence": "…"}}'
            )
        if names is None:
            check_columns(str(path), tuple(row), columns)
            names = tuple(columns) or tuple(row)
            yield line, names
        yield line, _fields(f"{path}, line {line}", row, names, "object", bool(columns))


def _fields(
    place: str, row: Mapping[Any, Any], names: Sequence[str], what: str, named: bool
) -> tuple[Any, ...]:
    """The values of a row that names them; it has no others, unless some were asked for by name."""
    missing = [name for name in names if name not in row]
    extra = [] if named else [name for name in row if name not in names]
    if missing or extra:
        problem = f"{quoted(missing[0])} is missing" if missing else f"{quoted(extra[0])} is new"
        why = "it was asked for" if named else f"the first {what} has the fields {listed(names)}"
        raise ValueError(
            f"{place}: {problem}, for {why}; give every {what} the same, null where empty"
        )
    return tuple(row[name] for name in names)


# ---------------------------------------------------------------------------------------------
# Parquet
# ---------------------------------------------------------------------------------------------


def _read_parquet(path: Path, columns: Sequence[str]) -> Table:
    with open_data(path) as stream:
        rows: list[tuple[Any, ...]] = []
        with whole_parquet(path, rows):
            file = parquet_file(stream)
            all_names = tuple(file.schema_arrow.names)
        check_columns(str(path), all_names, columns)
        names = tuple(columns) or tuple(n for n in all_names if not n.startswith(_INDEX))
        check_columns(str(path), all_names, names)
        with whole_parquet(path, rows):
            for group in range(file.num_row_groups):  # each by itself, to say how far it went
                for batch in file.iter_batches(row_groups=[group], columns=list(names)):
                    cells = [batch.column(name).to_pylist() for name in names]
                    rows += zip(*cells, strict=True)
    if not rows:
        raise ValueError(f"{path} has the columns {listed(names)} and no rows; write some")
    return Table(str(path), names, tuple(rows), range(1, len(rows) + 1), "row")


# ---------------------------------------------------------------------------------------------
# What other libraries hold
# ---------------------------------------------------------------------------------------------


def table_of(data: Any, source: str, columns: Sequence[str] = ()) -> Table | None:
    """Make a table of what has named columns, whatever library it is of.

    Args:
        data: an object with ``column_names`` or ``columns`` and a length, whose columns are
            ``data[name]``; a mapping of columns by name; or an iterable of rows that are mappings.
        source: what errors call it.
        columns: the names of those to read, in the order that the table is to have; default: all.

    Returns:
        The table; None for what has no names, such as strings and tuples, of which nothing is read
        but what is an iterator, whose rows are then lost.

    Raises:
        ValueError: a set of splits, a column that is not there, columns of different lengths, rows
            with other names than the first, or no rows.
    """
    names = _names_of(data, source)
    if names is None:
        return None
    check_columns(source, names, columns)
    names = tuple(columns) or names
    check_columns(source, names, names)
    cells = [_cells(data[name], f"{source}, column {name!r}") for name in names]
    counts = [len(column) for column in cells]
    if len(set(counts)) > 1:
        raise ValueError(
            f"{source}: the columns {listed(names)} have {', '.join(map(str, counts))} rows; they "
            "must be equally long"
        )
    if not counts or not counts[0]:
        raise ValueError(f"{source} has the columns {listed(names)} and no rows; give some")
    rows = tuple(zip(*cells, strict=True))
    return Table(source, names, rows, range(1, len(rows) + 1), "row")


def _names_of(data: Any, source: str) -> tuple[str, ...] | None:
    """The names of columns that are got by ``data[name]``; None where there are none."""
    if isinstance(data, Mapping):
        if any(hasattr(part, "column_names") for part in data.values()):
            raise ValueError(
                f"{source} is a set of splits; give one of them: {listed(map(repr, data))}"
            )
        names: Any = list(data)
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        names = getattr(data, "column_names", None)  # Hugging Face's datasets, pyarrow
        if names is None:
            names = getattr(data, "columns", None)  # pandas, polars
        if names is None:
            return None
        names = list(names)
    else:
        return None
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"{source} has a column {quoted(wrong[0])}; name its columns by strings")
    return tuple(names)


def _cells(column: Any, place: str) -> list[Any]:
    if hasattr(column, "to_pylist"):  # pyarrow's
        return list(column.to_pylist())
    # What has no order, or comes apart into something else than cells.
    unordered = isinstance(column, set | frozenset | Mapping)
    if unordered or isinstance(column, str | bytes | bytearray | memoryview):
        raise ValueError(f"{place} is a {type(column).__name__}; give a list, a cell a row")
    try:
        return list(column)
    except TypeError:  # a number, or an array without axes
        raise ValueError(f"{place} is {quoted(column)}; give a list, a cell a row") from None


def table_of_rows(
    rows: Iterable[Mapping[str, Any]], source: str, columns: Sequence[str] = ()
) -> Table:
    """Make a table of rows that are mappings, such as a streamed `IterableDataset` gives.

    Args:
        rows: one at least.
        source: what errors call it.
        columns: the names of those to read, in the order that the table is to have; default: all
            of the first row.

    Raises:
        ValueError: a row that is no mapping, or lacks a column.
    """
    names: tuple[str, ...] | None = None
    found = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise ValueError(f"{source}, row {number}: {quoted(row)} has no names, as others have")
        if names is None:
            check_columns(source, tuple(row), columns)
            names = tuple(columns) or tuple(row)
        found.append(_fields(f"{source}, row {number}", row, names, "row", bool(columns)))
    assert names is not None
    return Table(source, names, tuple(found), range(1, len(found) + 1), "row")
