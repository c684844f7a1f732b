"""Sentence pairs with a score from a table of anybody's, to evaluate on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simcse_jax.checks import listed
from simcse_jax.data.libraries import parse, read_named
from simcse_jax.data.senteval import Pairs
from simcse_jax.data.tables import Table, read_table, table_of
from simcse_jax.data.training_text import number_of

COLUMNS = ("sentence1", "sentence2", "score")
"""What the columns of pairs are called where nothing else is said, as on Hugging Face's hub."""


def read_pairs(source: Any, columns: Sequence[str] = COLUMNS) -> Pairs:
    """Read pairs with a score, on which `simcse_jax.evaluate_sts` scores an encoder.

    Example:
        ::

            pairs = read_pairs("pairs.csv", ("question", "answer", "rating"))
            evaluate_sts(encoder.encode, [StsTask("mine", (pairs,))])

    Args:
        source: a `.csv`, `.tsv`, `.jsonl` or `.parquet` file; the name of another library's data
            set (see `simcse_jax.data.libraries`); or what has named columns (see
            `simcse_jax.data.tables.table_of`), such as a frame.
        columns: the names of first sentence, second sentence and score.

    Returns:
        The pairs, called by the file's name without its suffix.

    Raises:
        FileNotFoundError: no such file or data set.
        ValueError: not three names, a column that is not there, or a score that is no number; the
            message names file, place and mend.
    """
    columns = tuple(columns)
    if len(columns) != 3 or len(set(columns)) < 3:
        raise ValueError(
            f"the columns of pairs are first sentence, second sentence and score, not "
            f"{listed(columns) or 'none'}; name these three"
        )
    name, table = _table(source, columns)
    rows = range(len(table.rows))
    return Pairs(
        name,
        tuple(table.text(row, 0) for row in rows),
        tuple(table.text(row, 1) for row in rows),
        np.array([number_of(table.rows[row][2], table.place(row)) for row in rows], np.float64),
    )


def _table(source: Any, columns: Sequence[str]) -> tuple[str, Table]:
    if isinstance(source, str | Path):
        if parse(str(source)) is not None:
            return str(source), read_named(str(source), columns=columns)
        return Path(source).stem, read_table(source, columns)
    table = table_of(source, "the table of pairs", columns)
    if table is None:
        raise ValueError("the pairs have no columns by name; give a file, a dataset or a frame")
    return "pairs", table
