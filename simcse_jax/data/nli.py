"""Natural-language-inference pairs, and the triplets that supervised SimCSE learns from."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from simcse_jax.checks import listed, quoted
from simcse_jax.data.tables import SUFFIXES, Table, read_table
from simcse_jax.io import read_lines

Label = Literal["entailment", "neutral", "contradiction"]

# The numbers are those of the Hugging Face hub's snli and multi_nli.
_LABELS: dict[str, Label | None] = {
    "entailment": "entailment",
    "neutral": "neutral",
    "contradiction": "contradiction",
    "-": None,
    "0": "entailment",
    "1": "neutral",
    "2": "contradiction",
    "-1": None,
}

# The hub's names, those of SNLI's and MultiNLI's own files, those of sentence-transformers' AllNLI.
_FIELDS = (
    ("premise", "hypothesis", "label"),
    ("sentence1", "sentence2", "gold_label"),
    ("sentence1", "sentence2", "label"),
)
_SPLIT_FILES = ("s1", "s2", "labels")


@dataclass(frozen=True, slots=True)
class NliExample:
    """A premise, a hypothesis, and whether the first entails, leaves open or denies the second."""

    premise: str
    hypothesis: str
    label: Label


class NliTriplet(NamedTuple):
    """A premise, a sentence it entails, and a sentence it contradicts."""

    premise: str
    entailment: str
    contradiction: str


class NliQuadruple(NamedTuple):
    """A triplet, and a sentence that the premise leaves open."""

    premise: str
    entailment: str
    contradiction: str
    neutral: str


@dataclass(frozen=True, eq=False)
class NliFile:
    """The examples of a file.

    Attributes:
        examples: those with a label.
        unlabelled: how many were left out because the annotators agreed on no label ("-").
    """

    examples: tuple[NliExample, ...]
    unlabelled: int


def nli_fields(names: Sequence[str]) -> tuple[str, str, str] | None:
    """Find the columns that hold premise, hypothesis and label; None where there are none."""
    return next((fields for fields in _FIELDS if set(fields) <= set(names)), None)


def is_nli_split(path: str | Path) -> bool:
    """Tell whether a path is a folder or file of the layout `s1.dev, s2.dev, labels.dev`.

    That is SNLI as InferSent and SentEval keep it: a line each.
    """
    path = Path(path)
    if path.is_dir():
        return any(path.glob("labels.*"))
    return path.stem in _SPLIT_FILES and path.suffix not in ("", ".txt", *SUFFIXES)


def read_nli(path: str | Path) -> NliFile:
    """Read NLI examples.

    Args:
        path: a `.jsonl`, `.tsv`, `.csv` or `.parquet` file with the columns premise, hypothesis and
            label, or SNLI's and MultiNLI's own sentence1, sentence2 and gold_label, other columns
            being ignored; or a folder with `s1.<split>`, `s2.<split>` and `labels.<split>`, or one
            of these three files. Labels are words, or the hub's 0, 1, 2 and -1.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the file cannot be read as described; the message names file, line and mend.
    """
    path = Path(path)
    if path.is_dir() or is_nli_split(path):
        return _read_split(path)
    return nli_examples(read_table(path))


def nli_examples(table: Table) -> NliFile:
    """Return the NLI examples of a table with the columns that `read_nli` describes.

    Raises:
        ValueError: other columns, or a label that is none of NLI's.
    """
    fields = nli_fields(table.names)
    if fields is None:
        raise ValueError(
            f"{table.source} has the columns {listed(table.names)}; "
            "NLI needs premise, hypothesis and label, or sentence1, sentence2 and gold_label"
        )
    premise, hypothesis, label = map(table.column, fields)
    examples, unlabelled = [], 0
    for row in range(len(table.rows)):
        gold = _label(table.place(row), table.rows[row][label])
        if gold is None:
            unlabelled += 1
        else:
            examples.append(NliExample(table.text(row, premise), table.text(row, hypothesis), gold))
    return NliFile(tuple(examples), unlabelled)


def _label(place: str, value: object) -> Label | None:
    try:
        return _LABELS[str(value).strip()]
    except KeyError:
        raise ValueError(
            f"{place}: the label {quoted(value)} is none of entailment, neutral, contradiction "
            "(0, 1, 2) and - (-1); correct or delete it"
        ) from None


def _read_split(path: Path) -> NliFile:
    if path.is_dir():
        labels = sorted(path.glob("labels.*"))
        if len(labels) != 1:
            found = ", ".join(file.name for file in labels) or "none"
            raise ValueError(
                f"{path} should hold one file labels.<split> beside s1.<split> and s2.<split>, "
                f"found {found}; name one file, such as {path / 'labels.train'}"
            )
        path = labels[0]
    files = [path.with_name(name + path.suffix) for name in _SPLIT_FILES]
    premises, hypotheses, labels_ = (read_lines(file) for file in files)
    if not len(premises) == len(hypotheses) == len(labels_):
        counts = f"{len(premises)}, {len(hypotheses)} and {len(labels_)}"
        names = ", ".join(file.name for file in files)
        raise ValueError(
            f"{path.parent}: {names} have {counts} lines; line n of each must belong together"
        )
    if not premises:
        raise ValueError(f"{files[0]} is empty; it needs a premise on each line")
    examples, unlabelled = [], 0
    for row, (premise, hypothesis, label) in enumerate(
        zip(premises, hypotheses, labels_, strict=True)
    ):
        gold = _label(f"{files[2]}, line {row + 1}", label)
        if gold is None:
            unlabelled += 1
        else:
            examples.append(NliExample(premise or " ", hypothesis or " ", gold))
    return NliFile(tuple(examples), unlabelled)


def nli_triplets(
    examples: Iterable[NliExample], seed: int = 0, neutral: bool = False
) -> list[NliTriplet] | list[NliQuadruple]:
    """Make a triplet for each premise with an entailment and a contradiction (SimCSE, section 4.2).

    The hypotheses of equal premises are put together, wherever they stand. Where a premise has
    several entailments or contradictions, one of each is drawn; a hypothesis that the annotators
    called both is no contradiction.

    Args:
        examples: of any number of files.
        seed: the draw of each premise depends on the seed and the premise alone, so other examples
            do not change it.
        neutral: add a neutral hypothesis, the second hard negative of the paper's ablation, and
            leave the premises out that have none. The rest of a triplet is what it is without.

    Returns:
        The triplets in the order in which the premises first appear.
    """
    by_premise: dict[str, dict[Label, list[str]]] = {}
    for example in examples:
        hypotheses = by_premise.setdefault(example.premise, {})
        hypotheses.setdefault(example.label, []).append(example.hypothesis)
    found: list[Any] = []
    for premise, hypotheses in by_premise.items():
        entailed = hypotheses.get("entailment", [])
        contradicted = [h for h in hypotheses.get("contradiction", []) if h not in entailed]
        known = (*entailed, *contradicted)
        open_ = [h for h in hypotheses.get("neutral", []) if h not in known]
        if not (entailed and contradicted and (open_ or not neutral)):
            continue
        rng = random.Random(f"{seed}\n{premise}")
        triplet = NliTriplet(premise, rng.choice(entailed), rng.choice(contradicted))
        found.append(NliQuadruple(*triplet, rng.choice(open_)) if neutral else triplet)
    return found
