"""What SimCSE trains on: sentences, pairs, or triplets with a hard negative, or with several.

The number of columns decides, as in the authors' code:

- one: sentences; the positive of each is itself under another dropout mask (unsupervised);
- two: pairs of a sentence and its positive;
- three: triplets of a sentence, its positive and its hard negative;
- more: the same with several hard negatives.

A `.txt` file is one column, a sentence a line. `.csv`, `.tsv`, `.jsonl` and `.parquet` have named
columns, and so has what other libraries hold (`simcse_jax.data.tables`). Which of them are trained
on is said by name; else the order counts and not the names, but for natural-language-inference data
(`premise, hypothesis, label`), which becomes triplets as in the paper.

Sentence-BERT's rows have labels too: the class of a pair (`read_labelled_nli`, or a column of
classes) or its similarity (a column of scores).

An empty cell is a sentence of one space, as in the authors' code. A blank line is no row; the
authors keep those of `.txt` files as empty sentences, but these are nothing but false negatives of
each other. How many were left out is in the description.
"""

from __future__ import annotations

import hashlib
import math
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from simcse_jax.checks import check_unmasked, counted, listed, quoted
from simcse_jax.data.libraries import is_saved
from simcse_jax.data.nli import (
    Label,
    NliExample,
    NliFile,
    is_nli_split,
    nli_examples,
    nli_fields,
    nli_triplets,
    read_nli,
)
from simcse_jax.data.tables import SUFFIXES, Table, read_table, table_of, table_of_rows
from simcse_jax.io import read_lines

Kind = Literal["sentences", "pairs", "triplets", "examples"]

NLI_LABELS: tuple[Label, ...] = get_args(Label)
"""The classes of NLI in the order of their numbers, 0, 1 and 2, as on the Hugging Face hub."""

_KINDS: dict[int, Kind] = {1: "sentences", 2: "pairs", 3: "triplets"}
# More columns are hard negatives.
_MORE: Kind = "examples"
# Sentences are whatever the objective makes of them.
_MEANING = {
    "pairs": ", the second is the positive (supervised)",
    "triplets": ", the second is the positive, the third the hard negative (supervised)",
    "examples": ", the second is the positive, the others are hard negatives (supervised)",
}
# Columns that betray a labelled file, whose third column would be taken for a sentence.
_NO_TEXT = frozenset({"label", "labels", "gold_label", "score", "similarity", "relatedness_score"})


@dataclass(frozen=True, eq=False)
class TrainingText:
    """Rows of one, two, three or more sentences.

    Attributes:
        columns: the sentences, column by column, all equally many.
        description: one sentence for the user about what was read and how it will be used.
        labels: what each row is to be called, class numbers or similarities; None for no labels.

    Raises:
        ValueError: no rows, no columns, or columns or labels of different lengths.
    """

    columns: tuple[tuple[str, ...], ...]
    description: str = ""
    labels: tuple[int, ...] | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        counts = [len(column) for column in self.columns]
        if not counts:
            raise ValueError(
                "training text has one column (sentences), two (pairs), three (triplets) or more, "
                "not 0"
            )
        if min(counts) == 0 or len(set(counts)) > 1:
            raise ValueError(
                "the columns of training text must be equally long and not empty, got "
                f"{', '.join(map(str, counts))} rows"
            )
        if self.labels is not None and len(self.labels) != counts[0]:
            raise ValueError(
                f"training text of {counted(counts[0], 'row')} has "
                f"{counted(len(self.labels), 'label')}; each row needs one"
            )
        if not self.description:
            object.__setattr__(self, "description", _describe("training text", len(self), counts))

    @property
    def kind(self) -> Kind:
        """Return what the number of columns makes of it."""
        return _KINDS.get(len(self.columns), _MORE)

    def __len__(self) -> int:
        return len(self.columns[0])

    def rows(self, indices: Sequence[int]) -> list[tuple[str, ...]]:
        """Return the rows at these places."""
        return [tuple(column[i] for column in self.columns) for i in indices]

    @cached_property
    def fingerprint(self) -> str:
        """Digest the rows: a resumed run compares it to notice another training file."""
        digest = hashlib.blake2b(f"{len(self.columns)} {len(self)}".encode(), digest_size=16)
        for column in self.columns:
            for sentence in column:
                # Each with its length, so that no two different columns are the same bytes.
                data = sentence.encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(8, "little") + data)
        if self.labels is not None:
            digest.update(repr(self.labels).encode())
        return digest.hexdigest()


class ColumnChoice(NamedTuple):
    """Which columns of a table are trained on, by their names or by their number.

    Attributes:
        texts: in the order sentence, positive, hard negatives; default: all but the
            other two.
        label: the column of each row's class, or None.
        score: the column of each row's similarity, or None.
        highest_score: of the scale of the scores, which are divided by it.
        first: so many of the table's first columns, where none is named.
    """

    texts: tuple[str, ...] = ()
    label: str | None = None
    score: str | None = None
    highest_score: float = 1.0
    first: int | None = None

    @property
    def by_name(self) -> bool:
        """Return whether any column is named; none is of what is NLI, or of plain text."""
        return bool(self.texts) or self.label is not None or self.score is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Return all columns to read; none where no texts are named, and all are to be read."""
        others = [name for name in (self.label, self.score) if name is not None]
        return (*self.texts, *others) if self.texts else ()


WHOLE = ColumnChoice()
"""The whole of a table, or what is NLI in it."""


def read_training_file(
    path: str | Path | Sequence[str | Path],
    *,
    seed: int = 0,
    choice: ColumnChoice = WHOLE,
    neutral: bool = False,
) -> TrainingText:
    """Read what to train on; the number of columns decides what it is (see the module).

    Args:
        path: a `.txt`, `.csv`, `.tsv`, `.jsonl` or `.parquet` file; or a folder or file of NLI in
            the layout `s1.<split>, s2.<split>, labels.<split>`; or several of the same kind, read
            as one. The premises of several NLI files are put together.
        seed: which contradiction (and entailment) is drawn for each premise of NLI files.
        choice: which columns are read; by default all, or those of NLI.
        neutral: whether each premise of NLI gets a neutral hypothesis as a second hard negative.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read as described; the message names file, place and mend.
    """
    paths = _paths(path)
    if not paths:
        raise ValueError("no training file was given; name one or more")
    names = " and ".join(p.name for p in paths)
    return _text_of_parts([_read(p, choice) for p in paths], names, seed, neutral)


def text_of_table(
    table: Table,
    choice: ColumnChoice = WHOLE,
    *,
    seed: int = 0,
    labelled: bool = False,
    neutral: bool = False,
) -> TrainingText:
    """Make a training text of a table, as of a file of the same columns.

    Args:
        table: of whatever source.
        choice: which columns are read; by default all, or those of NLI.
        seed: which contradiction (and entailment) is drawn for each premise of NLI.
        labelled: whether NLI stays pairs with a label instead of becoming triplets.
        neutral: see `read_training_file`.

    Raises:
        ValueError: the columns are not as described.
    """
    part = _part_of(table, choice)
    if isinstance(part, NliFile) and labelled:
        return _labelled_text([part], table.source)
    return _text_of_parts([part], table.source, seed, neutral)


def text_of_sentences(
    sentences: Any,
    choice: ColumnChoice = WHOLE,
    *,
    seed: int = 0,
    labelled: bool = False,
    neutral: bool = False,
) -> TrainingText:
    """Make a training text of what Python holds.

    Args:
        sentences: an iterable of strings, or of tuples of two, three or more; or what has named
            columns (see `simcse_jax.data.tables.table_of`), such as a `Dataset` or a frame; or an
            iterable of rows that are mappings.
        choice: see `text_of_table`; only for what has names.
        seed: see `text_of_table`.
        labelled: see `text_of_table`.
        neutral: see `read_training_file`.

    Raises:
        ValueError: none of them, tuples of different lengths, or columns that are not as described.
    """
    if isinstance(sentences, str):
        raise ValueError("sentences is one string; give a list of them, or a file as train_files")
    if hasattr(sentences, "__array__"):
        check_unmasked("sentences", sentences)
    if (table := table_of(sentences, "sentences", choice.names)) is not None:
        return text_of_table(table, choice, seed=seed, labelled=labelled, neutral=neutral)
    rows = list(sentences) if isinstance(sentences, Iterable) else []
    if rows and isinstance(rows[0], Mapping):
        table = table_of_rows(rows, "sentences", choice.names)
        return text_of_table(table, choice, seed=seed, labelled=labelled, neutral=neutral)
    if choice.by_name:
        raise ValueError(
            "columns are named, but sentences has none by name; leave the names out, or give a "
            "dataset, a frame or rows that are mappings"
        )
    if any(isinstance(row, set | frozenset) for row in rows):
        raise ValueError("a row of sentences is a set, which has no order; give tuples")
    if not rows and isinstance(sentences, Iterable):
        raise ValueError("sentences is empty; give some to train on")
    several = [isinstance(row, Iterable) and not isinstance(row, str) for row in rows]
    rows = [tuple(row) if s else (row,) for row, s in zip(rows, several, strict=True)]
    widths = {len(row) for row in rows}
    strings = all(isinstance(sentence, str) for row in rows for sentence in row)
    if len(widths) != 1 or 0 in widths or not strings:
        raise ValueError(
            "sentences must be a list of strings, or of tuples of two or more strings, all of one "
            "length"
        )
    return TrainingText(tuple(zip(*rows, strict=True)))


def _text_of_parts(
    parts: Sequence[_Columns | NliFile], names: str, seed: int, neutral: bool
) -> TrainingText:
    """Make one text of files of one kind."""
    nli = [part for part in parts if isinstance(part, NliFile)]
    plain = [part for part in parts if isinstance(part, _Columns)]
    if nli and plain:
        raise ValueError(
            f"{names} mix raw NLI (premise, hypothesis, label) with ready columns; train on one "
            "kind at a time"
        )
    if nli:
        return _triplets_of(nli, names, seed, neutral)
    widths = sorted({len(part.columns) for part in plain})
    if len(widths) > 1:
        raise ValueError(
            f"{names} have {' and '.join(map(str, widths))} columns; files that are read as one "
            "need equally many"
        )
    columns = tuple(tuple(s for part in plain for s in part.columns[c]) for c in range(widths[0]))
    first = plain[0]
    labels = None if first.labels is None else tuple(x for part in plain for x in part.labels or ())
    if labels == ():
        raise ValueError(f"{names}: no row has a label; check the labels")
    description = _describe(names, len(columns[0]), columns, first)
    if blank := sum(part.blank for part in plain):
        description += f"; {counted(blank, 'blank line')} left out"
    if unlabelled := sum(part.unlabelled for part in plain):
        description += f"; {unlabelled:,} more without a label left out"
    return TrainingText(columns, description, labels)


def _paths(path: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]


@dataclass(frozen=True, eq=False)
class _Columns:
    columns: tuple[tuple[str, ...], ...]
    names: tuple[str, ...] = ()
    blank: int = 0
    labels: tuple[int, ...] | tuple[float, ...] | None = None
    label: str = ""
    unlabelled: int = 0


def _describe(name: str, rows: int, columns: Sequence, part: _Columns | None = None) -> str:
    kind = _KINDS.get(len(columns), _MORE)
    named = f" ({', '.join(part.names)})" if part is not None and part.names else ""
    count = counted(rows, kind.removesuffix("s"))
    width = counted(len(columns), "column")
    label = None if part is None else part.label
    meaning = f", each with its {label}" if label else _MEANING.get(kind, "")
    return f"{name}: {count} from {width}{named}{meaning}"


def _read(path: Path, choice: ColumnChoice = WHOLE) -> _Columns | NliFile:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path")
    if is_saved(path):
        raise ValueError(f"{path} was written by save_to_disk; give it as the dataset hf:{path}")
    suffix = path.suffix.lower()
    if choice.by_name and suffix not in SUFFIXES:
        raise ValueError(
            f"{path} has no columns by name, as {', '.join(SUFFIXES)} have; name none, or give "
            "such a file"
        )
    if path.is_dir() or is_nli_split(path):
        return read_nli(path)
    if suffix == ".txt":
        lines = read_lines(path)
        sentences = tuple(line for line in lines if line.strip())
        if not sentences:
            raise ValueError(f"{path} is empty; it needs a sentence on each line")
        return _Columns((sentences,), blank=len(lines) - len(sentences))
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path} ends in {suffix or 'no suffix'!r}, which is no training file this library "
            f"reads; convert or rename it to one of .txt, {', '.join(SUFFIXES)}"
        )
    return _part_of(read_table(path, choice.names), choice)


def _part_of(table: Table, choice: ColumnChoice) -> _Columns | NliFile:
    if not choice.by_name and nli_fields(table.names) is not None:
        return nli_examples(table)
    return _table_columns(table, choice)


def _table_columns(table: Table, choice: ColumnChoice) -> _Columns:
    label = choice.label if choice.score is None else choice.score
    place = None if label is None else table.column(label)
    names = choice.texts or tuple(name for name in table.names if name != label)
    if choice.first is not None:
        names = names[: choice.first]
    elif len(names) not in _KINDS and not choice.texts:  # who names them wants hard negatives
        raise ValueError(
            f"{table.header}: {len(names)} columns ({listed(names)}), which is neither sentences "
            "(1), pairs (2), triplets (3) nor NLI (premise, hypothesis, label); name those to "
            "train on as columns, or give their number where they are the first"
        )
    wrong = next((name for name in names if name.lower() in _NO_TEXT), None)
    if wrong is not None and not choice.texts:
        raise ValueError(
            f"{table.header}: the column {quoted(wrong)} holds no sentences; leave it out, name "
            "those that do as columns, or name the columns of NLI data premise, hypothesis and "
            "label"
        )
    rows = range(len(table.rows))
    if names == ("premise", "hypothesis") and not choice.texts and place is None:
        raise ValueError(
            f"{table.header}: premise and hypothesis are columns of NLI, but there is no label; "
            "add it, or name the two as columns to train on every row as a pair of equal meaning"
        )
    found = [None if place is None else _label(table, row, place, choice) for row in rows]
    kept = rows if place is None else [row for row in rows if found[row] is not None]
    columns = tuple(
        tuple(table.text(row, column) for row in kept) for column in map(table.column, names)
    )
    for name, texts in zip(names, columns, strict=True):
        _check_is_text(table, name, texts)
    return _Columns(
        columns,
        names,
        labels=None if label is None else tuple(x for x in found if x is not None),
        label="" if label is None else f"{'score' if choice.score else 'class'} {quoted(label)}",
        unlabelled=len(rows) - len(kept),
    )


def _check_is_text(table: Table, name: str, texts: Sequence[str]) -> None:
    """Refuse a column of numbers, or of NLI's labels: both would be trained on as sentences."""
    if len(texts) > 1 and all(map(_NUMBER.fullmatch, texts)):
        raise ValueError(
            f"{table.header}: the column {quoted(name)} holds numbers, no sentences; name those "
            "that do as columns, a score as score_column, a class as label_column"
        )
    if texts and set(texts) <= {*NLI_LABELS, "-"}:
        raise ValueError(
            f"{table.header}: the column {quoted(name)} holds the labels of NLI; leave columns "
            "out, so that triplets are drawn from them, or name it as label_column"
        )


_NUMBER = re.compile(r"\s*[+-]?\d+([.,]\d+)?\s*")


def _label(table: Table, row: int, column: int, choice: ColumnChoice) -> int | float | None:
    """The class of a row, or its similarity; None where it has no class."""
    cell = table.rows[row][column]
    if choice.score is None:
        return _class_of(cell, table.place(row))
    score = number_of(cell, table.place(row)) / choice.highest_score
    if abs(score) > 1:
        raise ValueError(
            f"{table.place(row)}: the score {quoted(cell)} is beyond {choice.highest_score:g}, the "
            "highest of the scale; give the true one as highest_score"
        )
    return score


def _class_of(cell: object, place: str) -> int | None:
    known = {str(name): number for number, name in enumerate(NLI_LABELS)} | {"-": -1}
    value = cell.strip() if isinstance(cell, str) else cell
    if isinstance(value, str):
        value = known.get(value, int(value) if value.isdecimal() or value == "-1" else None)
    if isinstance(value, float) and value.is_integer():  # what pandas makes of whole numbers
        value = int(value)
    if not isinstance(value, numbers.Integral) or value < -1:
        raise ValueError(
            f"{place}: the label {quoted(cell)} is no class; write its number from 0 on, or one of "
            f"{', '.join(NLI_LABELS)}, and -1 or - for none"
        )
    return None if value == -1 else int(value)


# Of which `float` makes a number all the same.
_NO_NUMBERS = (bool, np.bool_, bytes, bytearray, memoryview, type(None))


def number_of(cell: object, place: str) -> float:
    """Return a cell that is a score.

    Args:
        cell: a number, or its digits.
        place: what an error calls the cell's row.

    Raises:
        ValueError: it is no finite number.
    """
    try:
        score = math.nan if isinstance(cell, _NO_NUMBERS) else float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(
            f"{place}: the score {quoted(cell)} is not a finite number; write one such as 3.75"
        )
    return score


def _triplets_of(files: Sequence[NliFile], names: str, seed: int, neutral: bool) -> TrainingText:
    examples = [example for file in files for example in file.examples]
    unlabelled = sum(file.unlabelled for file in files)
    header = ("premise", "entailment", "contradiction", *(("neutral",) if neutral else ()))
    triplets = nli_triplets(examples, seed, neutral)
    if not triplets:
        needed = (
            f"{', '.join(header[1:-1])} and {header[-1]}"
            if neutral
            else ("both an entailment and a contradiction, which a triplet needs")
        )
        raise ValueError(
            f"{names}: no premise of the {len(examples)} labelled NLI pairs has {needed}; check "
            "the labels"
        )
    columns = tuple(zip(*triplets, strict=True))
    description = _describe(names, len(triplets), columns, _Columns(columns, header))
    description += f"; drawn from {counted(len(examples), 'NLI pair')} with seed {seed}"
    if unlabelled:
        description += f", {unlabelled:,} more without a label left out"
    return TrainingText(columns, description)


def read_labelled_nli(path: str | Path | Sequence[str | Path]) -> TrainingText:
    """Read NLI pairs with their classes, as Sentence-BERT is trained on them.

    Args:
        path: a file or folder as `simcse_jax.data.nli.read_nli` takes it, or several, read as one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read so; the message names file, line and mend.
    """
    paths = _paths(path)
    if not paths:
        raise ValueError("no NLI file was given; name one or more")
    return _labelled_text([read_nli(p) for p in paths], " and ".join(p.name for p in paths))


def _labelled_text(files: Sequence[NliFile], names: str) -> TrainingText:
    examples = [example for file in files for example in file.examples]
    if not examples:
        raise ValueError(f"{names}: no NLI pair has a label; check the labels")
    return labelled_nli(examples, names, sum(file.unlabelled for file in files))


def labelled_nli(examples: Sequence[NliExample], names: str, unlabelled: int = 0) -> TrainingText:
    """NLI pairs with the numbers of their classes.

    Args:
        examples: at least one.
        names: where they come from, for the description.
        unlabelled: how many without a label were left out, for the description.
    """
    columns = (tuple(e.premise for e in examples), tuple(e.hypothesis for e in examples))
    numbers = {label: number for number, label in enumerate(NLI_LABELS)}
    labels = tuple(numbers[e.label] for e in examples)
    counts = ", ".join(f"{labels.count(n):,} {label}" for label, n in numbers.items())
    description = f"{names}: {counted(len(examples), 'NLI pair')} ({counts})"
    if unlabelled:
        description += f", {unlabelled:,} more without a label left out"
    return TrainingText(columns, description, labels)


def read_sentences(
    path: str | Path | Sequence[str | Path], *, choice: ColumnChoice = WHOLE
) -> list[str]:
    """Read every sentence of one or several files, whatever its label, to fit a transform to.

    Args:
        path: as for `read_training_file`, kinds mixed as one likes.
        choice: as for `read_training_file`.

    Returns:
        The sentences file by file, row by row, repeated ones as often as they stand there. NLI
        pairs without a label are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read; the message names file, line and mend.
    """
    paths = _paths(path)
    sentences: list[str] = []
    for part in (_read(p, choice) for p in paths):
        if isinstance(part, NliFile):
            sentences += [s for e in part.examples for s in (e.premise, e.hypothesis)]
        else:
            sentences += [s for row in zip(*part.columns, strict=True) for s in row]
    return sentences
