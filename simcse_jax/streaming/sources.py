"""Where a corpus is read: lines of text, csv, JSON lines or parquet, a piece at a time."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from simcse_jax.checks import first_line, is_unicode, listed, quoted
from simcse_jax.data.parquet import arrow, as_parquet, parquet_file, whole_parquet
from simcse_jax.data.tables import cell_rows, check_columns
from simcse_jax.encoder import CHUNK
from simcse_jax.io import is_special, iter_lines, open_data, parse_json, spoken

T = TypeVar("T")


class Piece(NamedTuple):
    """Some rows of a source.

    Attributes:
        sentences: their texts.
        read: what was read of them, by which they are known again.
        table: all of their columns, where they were asked for: a table of pyarrow.
        columns: a digest of these, where `read` does not tell them.
    """

    sentences: list[str]
    read: list[str]
    table: Any = None
    columns: bytes = b""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where text is read.

    Attributes:
        name: the file, or "-" for standard input.
        kind: how it is read, and what tells it from others beside its text.
        rows: how many there are; None where only reading them would tell.
        piece_rows: how many of them a piece has, but for the last.
        read: a function of the first row, the row after the last or None, and whether all columns
            are wanted, which returns an iterator over pieces; without any rows over an empty one.
    """

    name: str
    kind: str
    rows: int | None
    piece_rows: int
    read: Callable[[int, int | None, bool], Iterator[Piece]]


def open_source(path: str, column: str | None = None, piece_rows: int = CHUNK) -> Source:
    """Find out how a file is read: as parquet, csv, JSON lines, or as lines of text.

    Args:
        path: ``.parquet``, ``.csv``, ``.tsv`` and ``.jsonl`` are what they are called, anything
            else is text with a sentence a line; ``-`` is standard input, of JSON lines where a
            column is given.
        column: the column or field that holds the text; default "text".
        piece_rows: how many rows a piece has.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        MissingExtra: a parquet file, and pyarrow is not installed.
        ValueError: it is not what it is called, a line that is not UTF-8, no such column, or a
            column for a file of plain text.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".parquet":
        return _parquet_source(path, column or "text", piece_rows)
    if suffix in (".csv", ".tsv"):
        return _csv_source(path, suffix, column or "text", piece_rows)
    is_json = suffix == ".jsonl" or (path == "-" and column is not None)
    if column is not None and not is_json:
        raise ValueError(
            f"--column is given, and {path} is read as plain text, a sentence a line; give a "
            ".parquet, .csv, .tsv or .jsonl file, or leave the option out"
        )
    # Read once before anything is computed, so that a line which is no text is known at once.
    once = path == "-" or is_special(path)
    rows = None if once else sum(1 for _ in iter_lines(path))
    if is_json:
        column = column or "text"
        read = functools.partial(_json_pieces, path, piece_rows, column)
        return Source(path, f"field {column!r} of JSON lines", rows, piece_rows, read)
    read = functools.partial(_text_pieces, path, piece_rows)
    return Source(path, "lines of text", rows, piece_rows, read)


# ---------------------------------------------------------------------------------------------
# Lines
# ---------------------------------------------------------------------------------------------


def _numbered_lines(
    path: str, size: int, start: int, stop: int | None
) -> Iterator[list[tuple[int, str]]]:
    """Read pieces of lines with their numbers, which are counted from 1."""
    lines = enumerate(iter_lines(path, start), start + 1)
    return _in_pieces(itertools.islice(lines, None if stop is None else stop - start), size)


def _in_pieces(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    """Cut rows into pieces of so many; without any there is an empty one."""
    piece = list(itertools.islice(rows, size))
    yield piece
    while len(piece) == size and (piece := list(itertools.islice(rows, size))):
        yield piece


def _text_pieces(
    path: str, size: int, start: int, stop: int | None, whole: bool
) -> Iterator[Piece]:
    for lines in _numbered_lines(path, size, start, stop):
        sentences = [line for _, line in lines]
        yield Piece(sentences, sentences, _text_table("text", sentences) if whole else None)


def _text_table(column: str, sentences: list[str]) -> Any:
    pa = arrow()
    return pa.table({column: pa.array(sentences, pa.string())})


def _json_pieces(
    path: str, size: int, column: str, start: int, stop: int | None, whole: bool
) -> Iterator[Piece]:
    fields: Any = None  # those of the first piece, which are the columns of the others too
    for lines in _numbered_lines(path, size, start, stop):
        rows = [_json_row(line, path, number, column) for number, line in lines]
        table = None
        if whole and not rows:
            table = _text_table(column, [])
        elif whole:
            table, fields = _json_table(rows, fields, path, lines[0][0])
        yield Piece([row[column] for row in rows], [line for _, line in lines], table)


def _json_row(line: str, path: str, number: int, column: str) -> dict[str, Any]:
    row = parse_json(line, spoken(path), number, fields_once=True)
    if not isinstance(row, dict):
        wrong = f"holds a {type(row).__name__}; it must be an object with a field {column!r}"
    elif column not in row:
        wrong = f"has no field {column!r}; it has {listed(row) or 'none'}: name one by --column"
    elif not isinstance(row[column], str):
        wrong = f"the field {column!r} holds a {type(row[column]).__name__}; it must be a string"
    elif "\\u" in line and not is_unicode(row[column]):
        wrong = f"the field {column!r} holds half of a surrogate pair, which is no text"
    elif "\0" in row[column]:
        wrong = f"the field {column!r} holds a NUL character; delete the escape \\u0000"
    else:
        return row
    raise ValueError(f"{spoken(path)}, line {number}: {wrong}")


def _json_table(rows: list[dict[str, Any]], fields: Any, path: str, line: int) -> tuple[Any, Any]:
    """Make a table of JSON objects; a field that one of them lacks is null there."""
    pa = arrow()
    at = f"{spoken(path)}, lines {line} to {line + len(rows) - 1}"
    mend = "write the vectors to a .npy file, or give the corpus as parquet"
    try:
        found = pa.array(rows)
        if fields is not None:
            # By the types of the first piece, pyarrow cuts off what they have no place for.
            if wrong := _difference(found.type, fields):
                raise ValueError(f"{at}: have {wrong}; {mend}")
            found = pa.array(rows, fields)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise ValueError(f"{at}: are no table ({first_line(error)}); {mend}") from error
    return pa.Table.from_struct_array(found), found.type


def _difference(found: Any, known: Any, name: str = "") -> str | None:
    """Return what values of one type have and a column of another would lose; None for nothing."""
    types = arrow().types
    if types.is_list(found) and types.is_list(known):
        return _difference(found.value_type, known.value_type, name)
    if types.is_struct(found) and types.is_struct(known):
        names = {field.name for field in known}
        for field in found:
            inner = f"{name}.{field.name}" if name else field.name
            if field.name not in names:
                return f"a field {quoted(inner)} that the first lines lack"
            if wrong := _difference(field.type, known.field(field.name).type, inner):
                return wrong
        return None
    widened = types.is_int64(found) and types.is_float64(known)
    if widened or types.is_null(found) or found == known:
        return None
    return f"{found} in the field {quoted(name)}, where the first lines have {known}"


# ---------------------------------------------------------------------------------------------
# Cells
# ---------------------------------------------------------------------------------------------


def _csv_source(path: str, suffix: str, column: str, size: int) -> Source:
    if is_special(path):
        raise ValueError(
            f"{path} is a pipe, and {suffix} is read from files alone; write it to one, or give "
            "JSON lines on standard input"
        )
    # Read once before anything is computed, so that a row which is none is known at once.
    rows = sum(1 for _ in _cells(path, suffix, (column,))) - 1
    read = functools.partial(_csv_pieces, path, suffix, size, column)
    return Source(path, f"column {column!r} of {suffix[1:]}", rows, size, read)


def _cells(path: str, suffix: str, columns: tuple[str] | None) -> Iterator[tuple[str, ...]]:
    """Read the names of the columns, then the rows."""
    rows = cell_rows(Path(path), iter_lines(path), suffix, columns)
    empty = True
    for _, row in rows:
        empty = False
        yield row
    if empty:
        raise ValueError(f"{path} is empty; its first row must name the columns")


def _csv_pieces(
    path: str, suffix: str, size: int, column: str, start: int, stop: int | None, whole: bool
) -> Iterator[Piece]:
    rows = _cells(path, suffix, None if whole else (column,))
    names = next(rows)
    check_columns(path, names, names if whole else (column,))
    place = names.index(column)
    for piece in _in_pieces(itertools.islice(rows, start, stop), size):
        sentences = [row[place] for row in piece]
        read = [json.dumps(row) for row in piece] if whole else sentences
        table = _cell_table(names, piece) if whole else None
        yield Piece(sentences, read, table, json.dumps(names).encode() if whole else b"")


def _cell_table(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> Any:
    pa = arrow()
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    cells = [pa.array(cells, pa.string()) for cells in columns]
    return pa.table(dict(zip(names, cells, strict=True)))


# ---------------------------------------------------------------------------------------------
# Parquet
# ---------------------------------------------------------------------------------------------


def _parquet_source(path: str, column: str, size: int) -> Source:
    pa = arrow()
    with open_data(path) as raw, whole_parquet(path):
        file = parquet_file(raw)
        schema, rows = file.schema_arrow, file.metadata.num_rows
        raw.seek(-8, os.SEEK_END)
        footer = int.from_bytes(raw.read(4), "little")
        raw.seek(-8 - footer, os.SEEK_END)
        # It has the place and size of all the data, so that it differs where they do.
        digest = hashlib.blake2b(raw.read(footer), digest_size=8).hexdigest()
    if column not in schema.names:
        raise ValueError(
            f"{path} has no column {column!r}; it has {listed(schema.names)}: name one by --column"
        )
    if schema.names.count(column) > 1:
        raise ValueError(f"{path} has several columns {column!r}; rename all but one")
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if kind not in (pa.string(), pa.large_string(), pa.string_view()):
        raise ValueError(f"{path}: the column {column!r} holds {kind}; it must hold strings")
    several = sorted({name for name in schema.names if schema.names.count(name) > 1})
    read = functools.partial(_parquet_pieces, path, size, column, several)
    return Source(path, f"column {column!r} of parquet {digest}", rows, size, read)


def _parquet_pieces(
    path: str,
    size: int,
    column: str,
    several: list[str],
    start: int,
    stop: int | None,
    whole: bool,
) -> Iterator[Piece]:
    if whole and several:
        raise ValueError(
            f"{path} has several columns of one name, {listed(several)}; rename all but one, or "
            "write the vectors to a .npy file"
        )
    row = start + 1  # as everywhere, the first row is row 1
    for table in _tables(path, size, None if whole else [column], start, stop):
        with whole_parquet(path):
            sentences = table.column(column).to_pylist()
        if None in sentences:
            raise ValueError(
                f"{path}, row {row + sentences.index(None)}: the column {column!r} is null; leave "
                "the row out, or give it an empty string"
            )
        wrong = next((i for i, text in enumerate(sentences) if "\0" in text), None)
        if wrong is not None:
            raise ValueError(
                f"{path}, row {row + wrong}: the column {column!r} holds a NUL character; delete it"
            )
        row += len(sentences)
        all_columns = (table, _columns_digest(table)) if whole else ()
        yield Piece(sentences, sentences, *all_columns)


def _columns_digest(table: Any) -> bytes:
    """Return a digest of a table's values, which is the same whenever they are read again."""
    pa = arrow()
    # Not of Arrow's own bytes: what lies where a value is null may be anything.
    written = pa.BufferOutputStream()
    with as_parquet():
        pa.parquet.write_table(
            table, written, compression="NONE", use_dictionary=False, write_statistics=False
        )
    return hashlib.blake2b(written.getvalue(), digest_size=16).digest()


def _tables(
    path: str, size: int, columns: list[str] | None, start: int, stop: int | None
) -> Iterator[Any]:
    """Read tables of so many rows, whatever the file's row groups have."""
    pa = arrow()
    with open_data(path) as stream, whole_parquet(path):
        file = parquet_file(stream)
        held = file.schema_arrow.empty_table().select(columns or file.schema_arrow.names)
        yielded = False
        for batch in _batches(file, size, columns, start, stop):
            held = pa.concat_tables([held, pa.Table.from_batches([batch])])
            while held.num_rows >= size:
                yield held.slice(0, size).combine_chunks()
                held, yielded = held.slice(size), True
        if held.num_rows or not yielded:
            yield held.combine_chunks()


def _batches(
    file: Any, size: int, columns: list[str] | None, start: int, stop: int | None
) -> Iterator[Any]:
    """Read the record batches of the rows from one number up to another."""
    stop = file.metadata.num_rows if stop is None else stop
    first = 0  # the number of the first row of what is at hand
    for group in range(file.num_row_groups):
        after = first + file.metadata.row_group(group).num_rows
        if start < after and first < stop:
            for batch in file.iter_batches(size, row_groups=[group], columns=columns):
                low, high = max(start - first, 0), min(stop - first, batch.num_rows)
                if low < high:
                    yield batch.slice(low, high - low)
                first += batch.num_rows
        first = after
