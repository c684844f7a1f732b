"""Sources: the same pieces however a file is made, and what is said to one that is damaged."""

import csv
import io
import json
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_data import SENTENCES

from simcse_jax.streaming import open_source

ROWS = [{"id": i, "text": text, "tags": ["a"] * (i % 3)} for i, text in enumerate(SENTENCES)]


def as_text(folder):
    (folder / "c.txt").write_text("\n".join(SENTENCES))
    return folder / "c.txt"


def as_json(folder):
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder / "c.jsonl"


CELLS = [{"id": str(i), "text": text, "a tag": 'a "b",\n'} for i, text in enumerate(SENTENCES)]


def as_csv(folder):
    with (folder / "c.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(CELLS[0]))
        writer.writeheader()
        writer.writerows(CELLS)
    return folder / "c.csv"


def as_parquet(folder):
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "c.parquet", row_group_size=7)
    return folder / "c.parquet"


@pytest.mark.parametrize("make", [as_text, as_csv, as_json, as_parquet])
def test_the_rows_from_one_to_another_come_in_pieces(make, tmp_path):
    """Whatever the row groups of a parquet file have."""
    source = open_source(str(make(tmp_path)), piece_rows=16)
    assert source.rows == 60
    for start, stop in ((0, None), (0, 60), (7, 39), (33, None), (16, 32), (5, 5), (60, None)):
        pieces = list(source.read(start, stop, False))
        texts = [text for piece in pieces for text in piece.sentences]
        assert texts == SENTENCES[start:stop]
        sizes = [len(piece.sentences) for piece in pieces]
        assert all(size == 16 for size in sizes[:-1])
        assert sizes[-1] <= 16
        assert (sizes[-1] == 0) == (texts == [])
        assert all(piece.table is None for piece in pieces)


@pytest.mark.parametrize("make", [as_text, as_csv, as_json, as_parquet])
def test_all_columns_come_with_it_where_they_are_wanted(make, tmp_path):
    source = open_source(str(make(tmp_path)), piece_rows=16)
    tables = [piece.table for piece in source.read(3, 50, True)]
    expected = {as_text: [{"text": text} for text in SENTENCES], as_csv: CELLS}.get(make, ROWS)
    assert pa.concat_tables(tables).to_pylist() == expected[3:50]
    (empty,) = source.read(5, 5, True)
    assert (empty.sentences, empty.table.num_rows) == ([], 0)
    assert "text" in empty.table.column_names


def test_standard_input_is_text_or_with_a_column_json(monkeypatch):
    for raw, column in ((b"a dog\na cat", None), (b'{"t": "a dog"}\n{"t": "a cat"}\n', "t")):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))
        source = open_source("-", column)
        assert source.rows is None
        (piece,) = source.read(0, None, False)
        assert piece.sentences == ["a dog", "a cat"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a d', r"c\.jsonl, line 19: not JSON \(.* at column 10\)"),
        ("", r"c\.jsonl, line 19: not JSON"),
        ('["a dog"]', r"c\.jsonl, line 19: holds a list; it must be an object with a field 'text'"),
        (
            '{"body": "x", "n": 1}',
            r"line 19: has no field 'text'; it has body, n: name one by --co",
        ),
        ('{"text": null}', r"line 19: the field 'text' holds a NoneType; it must be a string"),
        (
            r'{"text": "a\u0000b"}',
            r"line 19: the field 'text' holds a NUL character; delete the esc",
        ),
        ('{"text": "a", "text": "b"}', r"line 19: .*the field 'text' is there twice; leave one"),
        (r'{"text": "\ud83d"}', r"line 19: the field 'text' holds half of a surrogate pair"),
    ],
)
def test_a_line_that_is_no_row_is_named(line, message, tmp_path):
    lines = [json.dumps(row) for row in ROWS]
    (tmp_path / "c.jsonl").write_text("\n".join([*lines[:18], line, *lines[18:]]))
    source = open_source(str(tmp_path / "c.jsonl"), piece_rows=8)
    pieces = source.read(0, None, False)
    assert [len(next(pieces).sentences) for _ in range(2)] == [8, 8]
    with pytest.raises(ValueError, match=message):
        next(pieces)
    # It is of no concern to whom it does not belong to.
    assert (
        len(list(open_source(str(tmp_path / "c.jsonl"), piece_rows=8).read(19, None, False))) == 6
    )


def test_json_lines_that_are_no_table_are_named(tmp_path):
    for odd, message in (
        ({"text": "a", "new": 1}, "lines 9 to 10: have a field 'new' that the first lines lack"),
        (
            {"text": "a", "of": [{"x": {"y": 1, "z": 2}}]},
            r"lines 9 to 10: have a field 'of\.x\.z' that the first lines lack",
        ),
        (
            {"text": "a", "id": "x"},
            "lines 9 to 10: are no table .*write the vectors to a .npy file",
        ),
        ({"text": "a", "id": 2.5}, "9 to 10: have double in the field 'id', where .* have int64"),
        ({"text": "a", "of": []}, None),
        ({"text": "a", "of": [{"x": None}]}, None),
    ):
        first = [{**row, "of": [{"x": {"y": 1}}]} for row in ROWS[:9]]
        lines = [*(first if "of" in odd else ROWS[:9]), odd]
        (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
        source = open_source(str(tmp_path / "c.jsonl"), piece_rows=8)
        assert len(list(source.read(0, None, False))) == 2
        if message is None:
            assert [piece.table.num_rows for piece in source.read(0, None, True)] == [8, 2]
            continue
        with pytest.raises(ValueError, match=message):
            list(source.read(0, None, True))
    (tmp_path / "c.jsonl").write_text(
        '{"text": "a", "n": 1}\n{"text": "b"}\n{"text": "c", "n": 2.5}'
    )
    (piece,) = open_source(str(tmp_path / "c.jsonl")).read(0, None, True)
    assert piece.table.column("n").to_pylist() == [1.0, None, 2.5]


def test_what_is_no_source(tmp_path):
    parquet = as_parquet(tmp_path)
    for path, column, message in (
        (as_text(tmp_path), "text", r"--column is given, and .*c\.txt is read as plain text"),
        (parquet, "txt", r"c\.parquet has no column 'txt'; it has id, text, tags: name one by"),
        (parquet, "id", r"c\.parquet: the column 'id' holds int64; it must hold strings"),
        (tmp_path / "absent.jsonl", None, r"absent\.jsonl does not exist"),
        (tmp_path / "absent.parquet", None, r"absent\.parquet does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            open_source(str(path), column)
    (tmp_path / "x.parquet").write_text("no parquet at all")
    with pytest.raises(ValueError, match=r"x\.parquet: not a whole parquet file"):
        open_source(str(tmp_path / "x.parquet"))
    raw = bytearray(parquet.read_bytes())
    raw[8:400] = bytes(392)
    parquet.write_bytes(raw)
    with pytest.raises(ValueError, match=r"c\.parquet: not a whole parquet file"):
        list(open_source(str(parquet)).read(0, None, False))


@pytest.mark.parametrize(("cell", "wrong"), [(None, "is null"), ("a\0", "holds a NUL character")])
def test_a_row_without_text_is_named(tmp_path, cell, wrong):
    pq.write_table(pa.table({"text": [*SENTENCES[:20], cell]}), tmp_path / "c.parquet")
    pieces = open_source(str(tmp_path / "c.parquet"), piece_rows=16).read(3, None, False)
    next(pieces)
    with pytest.raises(ValueError, match=rf"c\.parquet, row 21: .* {wrong}"):
        next(pieces)


def test_columns_of_one_name_are_no_damage(tmp_path):
    path = tmp_path / "c.parquet"
    text = pa.array(["a dog"])
    pq.write_table(pa.Table.from_arrays([text, text, text], names=["text", "d", "d"]), path)
    source = open_source(str(path))
    assert next(source.read(0, None, False)).sentences == ["a dog"]
    with pytest.raises(ValueError, match=r"several columns of one name, d; rename all but one, or"):
        next(source.read(0, None, True))
    with pytest.raises(ValueError, match=r"c\.parquet has several columns 'd'; rename all but one"):
        open_source(str(path), "d")


def test_kinds_of_strings(tmp_path):
    column = pa.array(["a dog", "a cat", "a dog"])
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()):
        pq.write_table(pa.table({"text": column.cast(kind)}), tmp_path / "c.parquet")
        (piece,) = open_source(str(tmp_path / "c.parquet")).read(0, None, False)
        assert piece.sentences == ["a dog", "a cat", "a dog"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.csv", "id,title\n1,a dog\n", r"c\.csv has no column 'text'; name one of those it has"),
        (
            "c.TSV",
            "text\tn\na dog\t1\na cat\n",
            r"c\.TSV, line 3: too few columns, 1 for the",
        ),
        ("c.csv", 'text\n"a dog\na cat\n', r"c\.csv, line 2: not a row of a \.csv file"),
        ("c.csv", "text,text\na,b\n", r"c\.csv has several columns 'text'; rename all but one"),
        ("c.csv", "", r"c\.csv is empty; its first row must name the columns"),
    ],
)
def test_a_damaged_table_of_cells_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        open_source(str(tmp_path / name))


def test_a_long_cell_and_the_names_of_the_columns(tmp_path):
    (tmp_path / "c.csv").write_text("text,n\na dog," + "x" * 200_000 + "\n")
    source = open_source(str(tmp_path / "c.csv"))
    assert [piece.sentences for piece in source.read(0, None, False)] == [["a dog"]]
    (whole,) = source.read(0, None, True)
    (tmp_path / "c.csv").write_text("text,m\na dog," + "x" * 200_000 + "\n")
    (renamed,) = open_source(str(tmp_path / "c.csv")).read(0, None, True)
    assert (whole.read, whole.columns) != (renamed.read, renamed.columns)


def test_columns_of_one_name_and_cells_without_text(tmp_path):
    (tmp_path / "c.csv").write_text("text,n,n\n,1,2\nb,3,4\n")
    source = open_source(str(tmp_path / "c.csv"))
    assert [piece.sentences for piece in source.read(0, None, False)] == [["", "b"]]
    with pytest.raises(ValueError, match=r"c\.csv has several columns 'n'; rename all but one"):
        next(source.read(0, None, True))
    (tmp_path / "c.csv").write_text("text\n")
    assert open_source(str(tmp_path / "c.csv")).rows == 0
