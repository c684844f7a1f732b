"""What SimCSE trains on: sentences, pairs, or triplets with a hard negative.

The number of columns decides, as in the authors' code:

- one: sentences; the positive of each is itself under another dropout mask (unsupervised);
- two: pairs of a sentence and its positive;
- three: triplets of a sentence, its positive and its hard negative.

A `.txt` file is one column, a sentence a line. `.csv`, `.tsv` and `.jsonl` have named columns, of
which the order counts and not the names, but for natural-language-inference data (`premise,
hypothesis, label`), which becomes triplets as in the paper.

Sentence-BERT's rows have labels too: the class of an NLI pair (`read_labelled_nli`) or the
similarity of an STS pair.

An empty cell is a sentence of one space, as in the authors' code. A blank line is no row; the
authors keep those of `.txt` files as empty sentences, but these are nothing but false negatives of
each other. How many were left out is in the description.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from simcse_jax.checks import listed, quoted
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
from simcse_jax.data.tables import SUFFIXES, Table, read_table
from simcse_jax.io import read_lines

Kind = Literal["sentences", "pairs", "triplets"]

NLI_LABELS: tuple[Label, ...] = get_args(Label)
"""The classes of NLI in the order of their numbers, 0, 1 and 2, as on the Hugging Face hub."""

_KINDS: dict[int, Kind] = {1: "sentences", 2: "pairs", 3: "triplets"}
_MEANING = {
    "sentences": "each is its own positive (unsupervised)",
    "pairs": "the second is the positive (supervised)",
    "triplets": "the second is the positive, the third the hard negative (supervised)",
}
# Columns that betray a labelled file, whose third column would be taken for a sentence.
_NO_TEXT = frozenset({"label", "labels", "gold_label", "score", "similarity", "relatedness_score"})


@dataclass(frozen=True, eq=False)
class TrainingText:
    """Rows of one, two or three sentences.

    Attributes:
        columns: the sentences, column by column, all equally many.
        description: one sentence for the user about what was read and how it will be used.
        labels: what each row is to be called, class numbers or similarities; None for no labels.

    Raises:
        ValueError: no rows, columns or labels of different lengths, or not one to three columns.
    """

    columns: tuple[tuple[str, ...], ...]
    description: str = ""
    labels: tuple[int, ...] | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        counts = [len(column) for column in self.columns]
        if len(counts) not in _KINDS:
            raise ValueError(
                f"training text has one column (sentences), two (pairs) or three (triplets), not "
                f"{len(counts)}"
            )
        if min(counts) == 0 or len(set(counts)) > 1:
            raise ValueError(
                "the columns of training text must be equally long and not empty, got "
                f"{', '.join(map(str, counts))} rows"
            )
        if self.labels is not None and len(self.labels) != counts[0]:
            raise ValueError(
                f"training text of {counts[0]} rows has {len(self.labels)} labels; each row needs "
                "one"
            )
        if not self.description:
            object.__setattr__(self, "description", _describe("training text", len(self), counts))

    @property
    def kind(self) -> Kind:
        """Return what the number of columns makes of it."""
        return _KINDS[len(self.columns)]

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


def read_training_file(path: str | Path | Sequence[str | Path], *, seed: int = 0) -> TrainingText:
    """Read what to train on; the number of columns decides what it is (see the module).

    Args:
        path: a `.txt`, `.csv`, `.tsv` or `.jsonl` file; or a folder or file of NLI in the layout
            `s1.<split>, s2.<split>, labels.<split>`; or several of the same kind, read as one.
            The premises of several NLI files are put together.
        seed: which contradiction (and entailment) is drawn for each premise of NLI files.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file cannot be read as described; the message names file, line and mend.
    """
    paths = _paths(path)
    if not paths:
        raise ValueError("no training file was given; name one or more")
    parts = [_read(p) for p in paths]
    names = " and ".join(p.name for p in paths)
    nli = [part for part in parts if isinstance(part, NliFile)]
    plain = [part for part in parts if isinstance(part, _Columns)]
    if nli and plain:
        raise ValueError(
            f"{names} mix raw NLI (premise, hypothesis, label) with ready columns; train on one "
            "kind at a time"
        )
    if nli:
        return _triplets_of(nli, names, seed)
    widths = sorted({len(part.columns) for part in plain})
    if len(widths) > 1:
        raise ValueError(
            f"{names} have {' and '.join(map(str, widths))} columns; files that are read as one "
            "need equally many"
        )
    columns = tuple(tuple(s for part in plain for s in part.columns[c]) for c in range(widths[0]))
    blank = sum(part.blank for part in plain)
    header = plain[0].names
    description = _describe(names, len(columns[0]), columns, header)
    if blank:
        description += f"; {blank} blank lines left out"
    return TrainingText(columns, description)


def _paths(path: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(path)] if isinstance(path, str | Path) else [Path(p) for p in path]


@dataclass(frozen=True, eq=False)
class _Columns:
    columns: tuple[tuple[str, ...], ...]
    names: tuple[str, ...] = ()
    blank: int = 0


def _describe(name: str, rows: int, columns: Sequence, header: Sequence[str] = ()) -> str:
    kind = _KINDS[len(columns)]
    named = f" ({', '.join(header)})" if header else ""
    count = f"{rows:,} {kind if rows > 1 else kind.removesuffix('s')}"
    width = "1 column" if len(columns) == 1 else f"{len(columns)} columns"
    return f"{name}: {count} from {width}{named}, {_MEANING[kind]}"


def _read(path: Path) -> _Columns | NliFile:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path")
    if path.is_dir() or is_nli_split(path):
        return read_nli(path)
    suffix = path.suffix.lower()
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
    table = read_table(path)
    if nli_fields(table.names) is not None:
        return nli_examples(table)
    return _table_columns(table)


def _table_columns(table: Table) -> _Columns:
    names = table.names
    if len(names) not in _KINDS:
        raise ValueError(
            f"{table.path}, line 1: {len(names)} columns ({listed(names)}), "
            "which is neither "
            "sentences (1), pairs (2), triplets (3) nor NLI (premise, hypothesis, label); keep the "
            "columns to train on"
        )
    wrong = next((name for name in names if name.lower() in _NO_TEXT), None)
    if wrong is not None:
        raise ValueError(
            f"{table.path}, line 1: the column {quoted(wrong)} holds no sentences; leave it out, "
            "or name the columns of NLI data premise, hypothesis and label"
        )
    columns = tuple(
        tuple(table.text(row, column) for row in range(len(table.rows)))
        for column in range(len(names))
    )
    return _Columns(columns, names)


def _triplets_of(files: Sequence[NliFile], names: str, seed: int) -> TrainingText:
    examples = [example for file in files for example in file.examples]
    unlabelled = sum(file.unlabelled for file in files)
    triplets = nli_triplets(examples, seed)
    if not triplets:
        raise ValueError(
            f"{names}: no premise of the {len(examples)} labelled NLI pairs has both an entailment "
            "and a contradiction, which a triplet needs; check the labels"
        )
    columns = tuple(zip(*triplets, strict=True))
    header = ("premise", "entailment", "contradiction")
    description = _describe(names, len(triplets), columns, header)
    description += f"; drawn from {len(examples):,} NLI pairs with seed {seed}"
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
    files = [read_nli(p) for p in paths]
    names = " and ".join(p.name for p in paths)
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
    description = f"{names}: {len(examples):,} NLI pairs ({counts})"
    if unlabelled:
        description += f", {unlabelled:,} more without a label left out"
    return TrainingText(columns, description, labels)


def read_sentences(path: str | Path | Sequence[str | Path]) -> list[str]:
    """Read every sentence of one or several files, whatever its label, to fit a transform to.

    Args:
        path: as for `read_training_file`, kinds mixed as one likes.

    Returns:
        The sentences file by file, row by row, repeated ones as often as they stand there. NLI
        pairs without a label are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read; the message names file, line and mend.
    """
    paths = _paths(path)
    sentences: list[str] = []
    for part in map(_read, paths):
        if isinstance(part, NliFile):
            sentences += [s for e in part.examples for s in (e.premise, e.hypothesis)]
        else:
            sentences += [s for row in zip(*part.columns, strict=True) for s in row]
    return sentences
