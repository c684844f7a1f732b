"""Columns by name, the same from every file and every library that holds them."""

import csv
import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simcse_jax.data.pairs import read_pairs
from simcse_jax.data.tables import SUFFIXES, read_table, table_of
from simcse_jax.data.training_text import (
    ColumnChoice,
    read_sentences,
    read_training_file,
    text_of_sentences,
)

# Other columns beside those trained on, in another order, and a name of two words.
COLUMNS = {
    "number": ["7", "8", "9"],
    "hypo thesis": ["b é", "", 'q "u", v'],
    "label": ["0", "2", "1"],
    "premise": ["a", "c", "p"],
    "score": ["5.0", "1", "2.5"],
}
TEXTS = ("premise", "hypo thesis")
FOUND = (("a", "c", "p"), ("b é", " ", 'q "u", v'))


def write(folder, suffix, columns=None):
    """Write a table as people do; what has types has them."""
    columns = COLUMNS if columns is None else columns
    path = folder / f"table{suffix}"
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if suffix == ".parquet":
        pq.write_table(pa.table(typed(columns)), path)
    elif suffix == ".jsonl":
        rows[1]["more"] = [1]  # which the first has not
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w") as file:
            form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
            writer = csv.DictWriter(file, list(columns), **(form if suffix == ".tsv" else {}))
            writer.writeheader()
            writer.writerows(rows)
    return path


def typed(columns):
    makers = {"number": int, "label": int, "score": float}
    return {name: list(map(makers.get(name, str), x)) for name, x in columns.items()}


class Frame:
    """What frames of pandas and polars have in common."""

    def __init__(self, columns):
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return iter(self._columns[name])

    def __len__(self):
        return len(next(iter(self._columns.values())))


class Dataset(Frame, Sequence):
    """What Hugging Face's `Dataset` looks like: rows by number, columns by name."""

    def __init__(self, columns):
        super().__init__(columns)
        self.column_names = self.columns
        del self.columns


class Streamed:
    """And its `IterableDataset`, which may not know its columns."""

    column_names = None

    def __init__(self, columns):
        self._columns = columns

    def __iter__(self):
        for row in zip(*self._columns.values(), strict=True):
            yield dict(zip(self._columns, row, strict=True))


HOLDERS = {
    "dataset": Dataset,
    "streamed": Streamed,
    "generator": lambda columns: iter(Streamed(columns)),
    "frame": Frame,
    "pyarrow": pa.table,
    "mapping": dict,
}


def from_everywhere(folder, choice):
    for suffix in SUFFIXES:
        yield suffix, read_training_file(write(folder, suffix), choice=choice)
    for name, holder in HOLDERS.items():
        yield name, text_of_sentences(holder(typed(COLUMNS)), choice)


@pytest.mark.parametrize(
    ("named", "labels"),
    [
        ({}, None),
        ({"label": "label"}, (0, 2, 1)),
        ({"score": "score", "highest_score": 5.0}, (1.0, 0.2, 0.5)),
    ],
)
def test_the_same_columns_by_name_from_everywhere(tmp_path, named, labels):
    prints = set()
    for where, text in from_everywhere(tmp_path, ColumnChoice(TEXTS, **named)):
        assert text.columns == FOUND, where
        assert text.labels == labels
        assert [type(x) for x in text.labels or ()] == [type(x) for x in labels or ()]
        assert f"3 pairs from 2 columns ({', '.join(TEXTS)})" in text.description
        prints.add(text.fingerprint)
    assert len(prints) == 1


def test_the_order_of_the_names_is_that_of_the_text(tmp_path):
    path = write(tmp_path, ".parquet")
    text = read_training_file(path, choice=ColumnChoice(TEXTS[::-1]))
    assert text.columns == FOUND[::-1]
    assert read_sentences(path, choice=ColumnChoice(TEXTS[:1])) == ["a", "c", "p"]


def test_without_names_what_is_typed_is_read_as_a_file_is(tmp_path):
    nli = {
        "premise": ["p", "p", "x"],
        "hypothesis": ["yes", "no", "?"],
        "label": [0, 2, -1],
    }
    expected = (("p",), ("yes",), ("no",))
    assert text_of_sentences(Frame(nli)).columns == expected
    pq.write_table(pa.table(nli), tmp_path / "nli.parquet")
    text = read_training_file(tmp_path / "nli.parquet")
    assert text.columns == expected
    assert "1 more without a label left out" in text.description
    kept = text_of_sentences(Frame(nli), labelled=True)
    assert (kept.columns, kept.labels) == ((("p", "p"), ("yes", "no")), (0, 2))
    # What pandas adds where rows were filtered is no column of anybody's.
    pq.write_table(pa.table({"text": ["a"], "__index_level_0__": [4]}), tmp_path / "p.parquet")
    assert read_training_file(tmp_path / "p.parquet").columns == (("a",),)


def test_classes_are_numbers_or_words_and_some_rows_have_none():
    columns = {"a": list("uvwx"), "b": list("UVWX"), "is": ["-", "entailment", 7.0, "12"]}
    text = text_of_sentences(columns, ColumnChoice(("a", "b"), "is"))
    assert (text.columns, text.labels) == ((("v", "w", "x"), ("V", "W", "X")), (0, 7, 12))
    assert "from 2 columns (a, b), each with its class 'is'" in text.description
    assert "1 more without a label left out" in text.description
    # Without names of the texts: all columns but the classes'.
    assert text_of_sentences(columns, ColumnChoice(label="is")).columns == text.columns


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path, suffix):
    path = write(tmp_path, suffix)
    with pytest.raises(
        ValueError, match=r"has no column 'text'; name one of .*: number, hypo thes"
    ):
        read_table(path, ("text",))


@pytest.mark.parametrize(
    ("columns", "choice", "message"),
    [
        (
            {"a": ["x"], "b": [1]},
            ColumnChoice(("a", "b")),
            r"row 1: 'b' is 1, not a text; make the col",
        ),
        (
            {"a": ["x", None]},
            ColumnChoice(("a",)),
            r"row 2: 'a' is None, not a text; leave the row out",
        ),
        (
            {"a": ["x"], "b": [[0.5]]},
            ColumnChoice(("a", "b")),
            r"row 1: 'b' is \[0.5\], not a text",
        ),
        (
            {"a": ["x"], "b": ["y"], "l": [0.5]},
            ColumnChoice(label="l"),
            r"row 1: the label 0.5 is no cl",
        ),
        (
            {"a": ["x"], "b": ["y"], "l": [-2]},
            ColumnChoice(label="l"),
            r"row 1: the label -2 is no cl",
        ),
        (
            {"a": ["x"], "b": ["y"], "l": [None]},
            ColumnChoice(label="l"),
            r"row 1: the label None is no",
        ),
        (
            {"a": ["x"], "b": ["y"], "s": [None]},
            ColumnChoice(score="s"),
            r"row 1: the score None is not",
        ),
        (
            {"a": ["x"], "b": ["y"], "s": [4.0]},
            ColumnChoice(score="s"),
            r"row 1: the score 4.0 is bey",
        ),
        (
            {"a": list("xy"), "s": [True, False]},
            ColumnChoice(score="s"),
            r"row 1: the score True is not",
        ),
        ({c: [c] for c in "abcd"}, ColumnChoice(), r": 4 columns \(a, b, c, d\), which is neither"),
        ({"a": ["x"], "score": [0.5]}, ColumnChoice(), r": the column 'score' holds no sentences"),
    ],
)
def test_cells_that_are_not_what_they_should_be(tmp_path, columns, choice, message):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    for source, read in (
        (tmp_path / "x.parquet", lambda path: read_training_file(path, choice=choice)),
        (Frame(columns), lambda frame: text_of_sentences(frame, choice)),
    ):
        with pytest.raises(ValueError, match=message) as error:
            read(source)
        place = "sentences" if isinstance(source, Frame) else str(source)
        assert str(error.value).startswith(place)
        assert "\n" not in str(error.value)


def test_a_parquet_file_that_is_not_whole_is_named(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"text": [f"sentence {i}" for i in range(300)]})
    pq.write_table(
        table,
        path,
        row_group_size=100,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    whole = path.read_bytes()
    assert len(read_table(path).rows) == 300
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"x\.parquet: not a whole parquet file \(.*; write it"):
        read_table(path)
    path.write_bytes(whole.replace(b"sentence 250", b"sentence 251"))
    with pytest.raises(ValueError, match=r"x\.parquet, after row 200: not a whole parquet file"):
        read_table(path)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(ValueError, match=r"has the columns text and no rows"):
        read_table(path)
    pq.write_table(pa.Table.from_arrays([["a"], ["b"]], ["x", "x"]), path)
    with pytest.raises(ValueError, match="has several columns 'x'; rename"):
        read_table(path)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_table():
    splits = {"train": Dataset({"text": ["a"]}), "test": Dataset({"text": ["b"]})}
    with pytest.raises(ValueError, match="sentences is a set of splits; give one of them: 'train'"):
        text_of_sentences(splits)
    with pytest.raises(ValueError, match="the columns a, b have 1, 2 rows; they must be equally"):
        text_of_sentences({"a": ["x"], "b": ["y", "z"]})
    with pytest.raises(ValueError, match="has a column 0; name its columns by strings"):
        text_of_sentences(Frame({0: ["x"]}))
    with pytest.raises(ValueError, match="sentences has the columns a and no rows; give some"):
        text_of_sentences(Frame({"a": []}))
    rows = [{"a": "x"}, {"a": "y", "b": "z"}, {"b": "z"}]
    with pytest.raises(ValueError, match="sentences, row 2: 'b' is new, for the first row has the"):
        text_of_sentences(rows)
    with pytest.raises(ValueError, match="sentences, row 3: 'a' is missing, for it was asked for"):
        text_of_sentences(rows, ColumnChoice(("a",)))
    with pytest.raises(ValueError, match="row 2: 'x' has no names, as others have"):
        text_of_sentences([{"a": "x"}, "x"])
    with pytest.raises(ValueError, match="columns are named, but sentences has none by name"):
        text_of_sentences(["a"], ColumnChoice(("text",)))
    assert table_of(["a", "b"], "sentences") is None


def test_text_without_names_has_no_columns_by_name(tmp_path):
    (tmp_path / "x.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"x\.txt has no columns by name, as \.csv, \.tsv"):
        read_training_file(tmp_path / "x.txt", choice=ColumnChoice(("text",)))


def test_pairs_to_evaluate_on_from_everywhere(tmp_path):
    names = (*TEXTS, "score")
    sources = [write(tmp_path, suffix) for suffix in SUFFIXES]
    for source in [*sources, Frame(typed(COLUMNS))]:
        pairs = read_pairs(source, names)
        assert pairs.name == ("pairs" if isinstance(source, Frame) else "table")
        assert (pairs.sentences1, pairs.sentences2) == FOUND
        assert pairs.scores.tolist() == [5.0, 1.0, 2.5]
    with pytest.raises(ValueError, match="has no column 'sentence1'; name one of those"):
        read_pairs(sources[0])
    with pytest.raises(ValueError, match="first sentence, second sentence and score, not a, b;"):
        read_pairs(sources[0], ("a", "b"))
    with pytest.raises(ValueError, match=r"csv, line 2: the score 'a' is not a finite number"):
        read_pairs(sources[0], ("score", "number", "premise"))
    with pytest.raises(ValueError, match="the pairs have no columns by name; give a file"):
        read_pairs([("a", "b", 1.0)])


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({1.0, 2.0}, "column 'score' is a set; give a list, a cell a row"),
        ({1: 1.0, 2: 2.0}, "column 'score' is a dict; give a list, a cell a row"),
        (b"12", "column 'score' is a bytes; give a list, a cell a row"),
        ("12", "column 'score' is a str; give a list, a cell a row"),
        (1, "column 'score' is 1; give a list, a cell a row"),
        (np.array([True, False]), "row 1: the score .*True.* is not a finite number"),
        ([b"1", b"2"], "row 1: the score b'1' is not a finite number"),
    ],
)
def test_scores_without_order_or_meaning_are_refused(scores, message):
    """Though `list` and `float` take them."""
    table = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": scores}
    with pytest.raises(ValueError, match=message):
        read_pairs(table)


def test_several_hard_negatives(tmp_path):
    """In columns that are named, and in tuples; columns without names stay refused."""
    path = tmp_path / "rows.csv"
    path.write_text("a,b,c,d,e\n1 x,2 x,3 x,4 x,5 x\n")
    named = ColumnChoice(("b", "a", "e", "d"))
    found = read_training_file(path, choice=named).columns
    assert found == (("2 x",), ("1 x",), ("5 x",), ("4 x",))
    with pytest.raises(ValueError, match=r"5 columns .* name those to train on as columns"):
        read_training_file(path)
    assert len(text_of_sentences([("a", "b", "c", "d", "e")] * 2).columns) == 5


def test_masked_and_unordered_rows_are_refused():
    with pytest.raises(ValueError, match="sentences .* masked"):
        text_of_sentences(np.ma.array(["a", "b"], mask=[1, 0]))
    with pytest.raises(ValueError, match="a row of sentences is a set, which has no order"):
        text_of_sentences([{"a", "b"}] * 4)
