"""Readers of the seven STS tasks in SentEval's layout.

The folder is SentEval's `data/downstream`, or any other that holds::

    STS/STS12-en-test/STS.input.<subset>.txt     sentence 1 <tab> sentence 2
                      STS.gs.<subset>.txt        a score a line, blank where unscored
    STS/STS13-en-test/ … STS/STS16-en-test/      the same (STS13 without SMT)
    STS/STSBenchmark/sts-{train,dev,test}.csv    tab-separated, no header: score, sentence 1 and
                                                 sentence 2 are columns 5, 6 and 7
    SICK/SICK_{train,trial,test_annotated}.txt   tab-separated, with a header

What is read is what SentEval reads: the subsets are its lists and not whatever lies in the folder
(`STS2016.input.*.ascii`, `STS.gs.ALL.txt` and STS13's SMT are left alone); lines with a blank gold
score are dropped; columns beyond the needed ones are ignored; a quote character is text; sentences
are split at white space and joined again with single spaces. Pairs stay in the files' order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from simcse_jax.checks import check_array, quoted
from simcse_jax.io import read_lines

Split = Literal["train", "dev", "test"]

_SUBSETS: dict[str, tuple[str, ...]] = {
    "STS12": ("MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"),
    "STS13": ("FNWN", "headlines", "OnWN"),
    "STS14": ("deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"),
    "STS15": ("answers-forums", "answers-students", "belief", "headlines", "images"),
    "STS16": ("answer-answer", "headlines", "plagiarism", "postediting", "question-question"),
}
_STSB_FILES = {split: f"STS/STSBenchmark/sts-{split}.csv" for split in ("train", "dev", "test")}
_SICK_FILES = {
    "train": "SICK/SICK_train.txt",
    "dev": "SICK/SICK_trial.txt",
    "test": "SICK/SICK_test_annotated.txt",
}

TASKS: tuple[str, ...] = (*_SUBSETS, "STS-B", "SICK-R")
"""The names of the seven tasks in the papers' order."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Sentence pairs with a gold score each.

    Attributes:
        name: The name of the subset or split, such as `MSRpar` or `test`.
        sentences1: The first sentence of each pair.
        sentences2: The second sentence of each pair.
        scores: The gold scores, higher for closer meanings (0 to 5 in STS, 1 to 5 in SICK).
    """

    name: str
    sentences1: tuple[str, ...]
    sentences2: tuple[str, ...]
    scores: Float64[np.ndarray, "n"]

    def __post_init__(self) -> None:
        n1, n2, shape = len(self.sentences1), len(self.sentences2), np.shape(self.scores)
        if n1 != n2 or shape != (n1,):
            raise ValueError(
                f"the pairs {self.name!r} need as many first sentences as second ones and scores, "
                f"got {n1}, {n2} and scores of shape {shape}"
            )
        if not np.isfinite(check_array("scores", self.scores, 1)).all():
            raise ValueError(f"the scores of the pairs {self.name!r} must be finite")

    def __len__(self) -> int:
        return len(self.sentences1)


@dataclass(frozen=True, eq=False)
class StsTask:
    """One STS task: a name and its subsets, one for STS-B and SICK-R."""

    name: str
    subsets: tuple[Pairs, ...]

    def __len__(self) -> int:
        return sum(len(subset) for subset in self.subsets)

    @property
    def sentences(self) -> list[str]:
        """Return all sentences, subset by subset the first and the second ones, with repeats."""
        return [s for subset in self.subsets for s in (*subset.sentences1, *subset.sentences2)]


def read_sts(folder: str | Path, tasks: Sequence[str] = TASKS) -> dict[str, StsTask]:
    """Reads the STS tasks: STS12 to STS16, and the test splits of STS-B and SICK-R.

    Args:
        folder: A folder in SentEval's layout (see the module's docstring).
        tasks: The names of the tasks to read, all seven by default.

    Returns:
        The tasks by name, in the papers' order whatever the order of `tasks`.

    Raises:
        FileNotFoundError: Files are missing; the message names the first and their number.
        ValueError: An unknown task, or a file that cannot be read as described; the message names
            the file, the line and the mend.
    """
    unknown = [name for name in tasks if name not in TASKS]
    if unknown:
        raise ValueError(f"there is no STS task {unknown[0]!r}: choose from {', '.join(TASKS)}")
    chosen = [name for name in TASKS if name in tasks]
    root = Path(folder)
    _require(root, [file for name in chosen for file in _files(name)])
    return {name: StsTask(name, tuple(_read_task(root, name))) for name in chosen}


def read_stsb(folder: str | Path, split: Split = "test") -> Pairs:
    """Reads one split of STS-Benchmark: train 5749, dev 1500 or test 1379 pairs.

    Raises:
        FileNotFoundError: The split's file is missing.
        ValueError: An unknown split, or a file that cannot be read as described.
    """
    file = _split_file("STS-B", _STSB_FILES, split)
    _require(Path(folder), [file])
    return _read_columns(Path(folder) / file, split, sentence1=5, sentence2=6, score=4)


def read_sickr(folder: str | Path, split: Split = "test") -> Pairs:
    """Reads one split of SICK relatedness: train 4500, dev ("trial") 500 or test 4927 pairs.

    Raises:
        FileNotFoundError: The split's file is missing.
        ValueError: An unknown split, or a file that cannot be read as described.
    """
    file = _split_file("SICK-R", _SICK_FILES, split)
    _require(Path(folder), [file])
    return _read_columns(
        Path(folder) / file, split, sentence1=1, sentence2=2, score=3, header="pair_ID"
    )


def _split_file(task: str, files: dict[str, str], split: str) -> str:
    if split not in files:
        raise ValueError(f"{task} has no split {split!r}: choose from {', '.join(files)}")
    return files[split]


def _files(task: str) -> list[str]:
    if task == "STS-B":
        return [_STSB_FILES["test"]]
    if task == "SICK-R":
        return [_SICK_FILES["test"]]
    return [file for subset in _SUBSETS[task] for file in _subset_files(task, subset)]


def _subset_files(task: str, subset: str) -> tuple[str, str]:
    folder = f"STS/{task}-en-test"
    return f"{folder}/STS.input.{subset}.txt", f"{folder}/STS.gs.{subset}.txt"


def _require(root: Path, files: Sequence[str]) -> None:
    missing = [file for file in files if not (root / file).is_file()]
    if missing and not root.is_dir():
        raise FileNotFoundError(
            f"{root} does not exist, or is no folder: give the one that holds SentEval's STS/ and "
            "SICK/ (its data/downstream)"
        )
    if missing:
        first = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise FileNotFoundError(
            f"{root} lacks {len(missing)} of {len(files)} files ({first}): give the folder "
            "that holds SentEval's STS/ and SICK/ (its data/downstream)"
        )


def _read_task(root: Path, task: str) -> Iterable[Pairs]:
    if task == "STS-B":
        yield read_stsb(root, "test")
    elif task == "SICK-R":
        yield read_sickr(root, "test")
    else:
        for subset in _SUBSETS[task]:
            inputs, gold = _subset_files(task, subset)
            yield _read_subset(subset, root / inputs, root / gold)


def _read_subset(name: str, inputs: Path, gold: Path) -> Pairs:
    input_lines, gold_lines = read_lines(inputs), read_lines(gold)
    if len(input_lines) != len(gold_lines):
        few, many = (gold, inputs) if len(gold_lines) < len(input_lines) else (inputs, gold)
        raise ValueError(
            f"{few} ends at line {min(len(gold_lines), len(input_lines))} but {many} has "
            f"{max(len(gold_lines), len(input_lines))} lines: give each line of the input a line "
            "of gold, a blank one where it is unscored"
        )
    rows = []
    for number, (line, score) in enumerate(zip(input_lines, gold_lines, strict=True), start=1):
        if score.strip():  # a blank gold line: the pair was not scored
            columns = _columns(inputs, number, line, at_least=2)
            rows.append((columns[0], columns[1], _score(gold, number, score)))
    if not rows:
        raise ValueError(f"{gold} has no score on any line: one line at least needs a number")
    return _pairs(name, rows)


def _read_columns(
    file: Path, name: str, *, sentence1: int, sentence2: int, score: int, header: str | None = None
) -> Pairs:
    """Reads a file of tab-separated columns, the wanted ones given by index."""
    lines = read_lines(file)
    first = 1
    if header is not None:
        if not lines or lines[0].split("\t")[0].strip() != header:
            found = lines[0].split("\t")[0] if lines else ""
            raise ValueError(
                f"{file}, line 1: the header's first column should be {header!r}, found "
                f"{quoted(found)}; "
                "put the header line back"
            )
        lines, first = lines[1:], 2
    rows = []
    for number, line in enumerate(lines, start=first):
        columns = _columns(file, number, line, at_least=max(sentence1, sentence2, score) + 1)
        rows.append((columns[sentence1], columns[sentence2], _score(file, number, columns[score])))
    if not rows:
        raise ValueError(f"{file} holds no pairs: it needs a pair a line, tab-separated")
    return _pairs(name, rows)


def _columns(file: Path, number: int, line: str, at_least: int) -> list[str]:
    columns = line.split("\t")
    if len(columns) < at_least:
        raise ValueError(
            f"{file}, line {number}: {len(columns)} tab-separated columns, expected {at_least} or "
            "more; complete the row or delete it"
        )
    return columns


def _score(file: Path, number: int, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(
            f"{file}, line {number}: the score {quoted(text.strip())} is not a finite number; "
            "write one such as 3.75"
        )
    return score


def _pairs(name: str, rows: Sequence[tuple[str, str, float]]) -> Pairs:
    return Pairs(
        name,
        tuple(" ".join(row[0].split()) for row in rows),
        tuple(" ".join(row[1].split()) for row in rows),
        np.array([row[2] for row in rows], np.float64),
    )
