"""Readers of the seven transfer tasks in SentEval's layout.

The folder is SentEval's `data/downstream`, or any other that holds::

    MR/rt-polarity.{pos,neg}    CR/custrev.{pos,neg}    MPQA/mpqa.{pos,neg}
    SUBJ/subj.{objective,subjective}                     a sentence a line
    SST/binary/sentiment-{train,dev,test}                sentence <tab> 0 or 1
    TREC/train_5500.label, TREC/TREC_10.label            COARSE:fine sentence
    MRPC/msr_paraphrase_{train,test}.txt                 header; label, two ids, two sentences

What is read is what SentEval reads: sentences are split at white space and joined again with single
spaces; MR, CR, MPQA, SUBJ and TREC are Latin-1, the others UTF-8. Of TREC the coarse class counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from simcse_jax.io import read_lines

_TWO_FILES = {
    # The first file's sentences are of class 1, as in SentEval.
    "MR": ("MR/rt-polarity.pos", "MR/rt-polarity.neg"),
    "CR": ("CR/custrev.pos", "CR/custrev.neg"),
    "SUBJ": ("SUBJ/subj.objective", "SUBJ/subj.subjective"),
    "MPQA": ("MPQA/mpqa.pos", "MPQA/mpqa.neg"),
}
_SST = {split: f"SST/binary/sentiment-{split}" for split in ("train", "dev", "test")}
_TREC = {"train": "TREC/train_5500.label", "test": "TREC/TREC_10.label"}
_TREC_CLASSES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
_MRPC = {split: f"MRPC/msr_paraphrase_{split}.txt" for split in ("train", "test")}

_Row = tuple[tuple[str, ...], int]

TRANSFER_TASKS: tuple[str, ...] = (*_TWO_FILES, "SST2", "TREC", "MRPC")
"""The names of the seven tasks in the papers' order."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Sentences, or pairs of them, with a class each.

    Attributes:
        columns: one tuple of sentences, or two for pairs.
        labels: the classes, from 0.
    """

    columns: tuple[tuple[str, ...], ...]
    labels: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class TransferTask:
    """One transfer task.

    Attributes:
        name: one of :data:`TRANSFER_TASKS`.
        splits: "all" alone where accuracy is cross-validated; else "train" and "test", and "dev"
            where there is one.
    """

    name: str
    splits: dict[str, Labelled]

    @property
    def sentences(self) -> list[str]:
        """Return all sentences, split by split and column by column, with repetitions."""
        return [s for split in self.splits.values() for column in split.columns for s in column]


def read_transfer(
    folder: str | Path, tasks: Sequence[str] = TRANSFER_TASKS
) -> dict[str, TransferTask]:
    """Read transfer tasks.

    Args:
        folder: SentEval's `data/downstream`.
        tasks: their names.

    Raises:
        ValueError: an unknown name, or a line that is not as above; the message names it.
        FileNotFoundError: a file is missing.
    """
    if unknown := [t for t in tasks if t not in TRANSFER_TASKS]:
        raise ValueError(f"no transfer task is called {unknown[0]!r}: {', '.join(TRANSFER_TASKS)}")
    root = Path(folder)
    return {name: TransferTask(name, _read(root, name)) for name in tasks}


def _read(root: Path, name: str) -> dict[str, Labelled]:
    rows: list[_Row]
    if name in _TWO_FILES:
        rows = [
            ((sentence,), label)
            for label, path in zip((1, 0), _TWO_FILES[name], strict=True)
            for _, line in _lines(root / path, "latin-1")
            if (sentence := " ".join(line.split()))
        ]
        return {"all": _labelled(rows, root / _TWO_FILES[name][0])}
    files = {"SST2": _SST, "TREC": _TREC, "MRPC": _MRPC}[name]
    parse = {"SST2": _sst_row, "TREC": _trec_row, "MRPC": _mrpc_row}[name]
    splits = {}
    for split, path in files.items():
        lines = _lines(root / path, "latin-1" if name == "TREC" else "utf-8")
        if name == "MRPC":
            next(lines, None)  # the header
        rows = []
        for number, line in lines:
            try:
                sentences, label = parse(line)
            except (ValueError, IndexError, KeyError):
                raise ValueError(
                    f"{root / path}, line {number}: {line[:80]!r} is not a row of {name}: "
                    f"{_ROWS[name]}"
                ) from None
            rows.append((tuple(" ".join(s.split()) for s in sentences), label))
        splits[split] = _labelled(rows, root / path)
    return splits


_ROWS = {
    "SST2": "a sentence, a tab, and 0 or 1",
    "TREC": f"one of {', '.join(_TREC_CLASSES)}, a colon, a fine class, a space and a sentence",
    "MRPC": "0 or 1, two ids and two sentences, separated by tabs",
}


def _sst_row(line: str) -> _Row:
    sentence, label = line.strip().split("\t")
    return (sentence,), _binary(label)


def _trec_row(line: str) -> _Row:
    coarse, rest = line.strip().split(":", 1)
    return (rest.split(" ", 1)[1],), _TREC_CLASSES.index(coarse)


def _mrpc_row(line: str) -> _Row:
    fields = line.strip().split("\t")
    return (fields[3], fields[4]), _binary(fields[0])


def _binary(label: str) -> int:
    return {"0": 0, "1": 1}[label]


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; the folder must be laid out as SentEval's data/downstream"
        )
    lines = read_lines(path, encoding)
    if (broken := next((n for n, line in enumerate(lines, 1) if "\0" in line), None)) is not None:
        raise ValueError(f"{path}, line {broken}: holds a NUL byte; give a text file")
    return ((n, line) for n, line in enumerate(lines, 1) if line.strip())


def _labelled(rows: list[_Row], path: Path) -> Labelled:
    if not rows:
        raise ValueError(f"{path} holds no sentence")
    columns = tuple(zip(*(sentences for sentences, _ in rows), strict=True))
    return Labelled(columns, np.array([label for _, label in rows], np.int64))
