"""The Lee corpus: fifty short news texts, every pair of them rated by people.

Lee, Pincombe and Welsh, "An Empirical Evaluation of Models of Text Document Similarity" (2005).
Each of the 1,225 pairs was rated from 1 to 5 by about ten readers; the files hold the mean
divided by five. It is a small, public stand-in for an STS set: texts of about eighty words, with
graded human similarity. A second file holds 300 unrated texts of the same kind, the background
that methods without labels are fitted on.
"""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int

from simcse_jax.checks import first_line
from simcse_jax.data.embedded import gensim_test_data
from simcse_jax.io import read_lines

DOCUMENTS = 50
BACKGROUND_DOCUMENTS = 300

_DOCUMENT_FILE = "lee.cor"
_BACKGROUND_FILE = "lee_background.cor"
_SIMILARITY_FILE = "similarities0-1.txt"


# eq=False: comparing two corpora field by field would ask an array for its truth value.
@dataclass(frozen=True, eq=False)
class LeeCorpus:
    """Fifty documents and the mean human similarity of every pair.

    Attributes:
        documents: the 50 texts.
        similarities: symmetric matrix in [0, 1], read-only; the diagonal is 1.
    """

    documents: tuple[str, ...]
    similarities: Float64[np.ndarray, "50 50"]

    def pair_similarities(self) -> Float64[np.ndarray, "1225"]:
        """Return the rating of every pair, in the order of `pair_indices`."""
        rows, columns = pair_indices()
        return self.similarities[rows, columns]


def pair_indices() -> tuple[Int[np.ndarray, "1225"], Int[np.ndarray, "1225"]]:
    """Return row and column of the 1,225 pairs of different documents, row by row, row < column."""
    rows, columns = np.triu_indices(DOCUMENTS, k=1)
    return rows, columns


def read_lee(folder: str | Path | None = None) -> LeeCorpus:
    """Read the fifty rated documents and their similarity matrix.

    Args:
        folder: where `lee.cor` and `similarities0-1.txt` lie; by default gensim's test data.

    Returns:
        The corpus; the file's upper triangle is mirrored into a symmetric matrix.

    Raises:
        FileNotFoundError: a file, or the wheel that carries it, is missing.
        ValueError: a file does not hold 50 texts, or 50 by 50 similarities in [0, 1].
    """
    root = gensim_test_data() if folder is None else Path(folder)
    documents = _read_documents(root / _DOCUMENT_FILE, DOCUMENTS)
    return LeeCorpus(documents, _read_similarities(root / _SIMILARITY_FILE))


def lee_background(folder: str | Path | None = None) -> tuple[str, ...]:
    """Read the 300 unrated background documents.

    Args:
        folder: where `lee_background.cor` lies; by default gensim's test data.

    Raises:
        FileNotFoundError: the file, or the wheel that carries it, is missing.
        ValueError: the file does not hold 300 texts.
    """
    root = gensim_test_data() if folder is None else Path(folder)
    return _read_documents(root / _BACKGROUND_FILE, BACKGROUND_DOCUMENTS)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; a Lee corpus file was expected there.")
    try:
        lines = read_lines(path)
    except ValueError:
        # lee.cor writes its one pound sign in Latin-1. Latin-1 decodes any bytes at all, so the
        # check for control characters below is what notices a file that is not text.
        lines = read_lines(path, "latin-1")
    for number, line in enumerate(lines, start=1):
        if any(unicodedata.category(character) == "Cc" for character in line.expandtabs()):
            raise ValueError(f"{path}, line {number}: neither UTF-8 nor Latin-1 text.")
    return lines


def _read_documents(path: Path, expected: int) -> tuple[str, ...]:
    lines = [line.strip() for line in _lines(path)]
    for number, line in enumerate(lines, start=1):
        if not line:
            raise ValueError(f"{path}, line {number}: empty, but every line must be a document.")
    if len(lines) != expected:
        raise ValueError(f"{path}: {len(lines)} lines, but {expected} documents are expected.")
    return tuple(lines)


def _read_similarities(path: Path) -> Float64[np.ndarray, "50 50"]:
    rows: list[list[float]] = []
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != DOCUMENTS:
            raise ValueError(
                f"{path}, line {number}: {len(fields)} numbers, but {DOCUMENTS} are expected."
            )
        try:
            row = [float(field) for field in fields]
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {first_line(error)}") from None
        if not all(0.0 <= value <= 1.0 for value in row):  # also refuses nan
            raise ValueError(f"{path}, line {number}: a similarity lies outside [0, 1].")
        rows.append(row)
    if len(rows) != DOCUMENTS:
        raise ValueError(f"{path}: {len(rows)} rows, but {DOCUMENTS} are expected.")

    matrix = np.array(rows, dtype=np.float64)  # [50, 50]
    upper, lower = np.triu(matrix, k=1), np.tril(matrix, k=-1)
    # The published file leaves the lower triangle zero; a full matrix is as good if it agrees.
    if lower.any() and not np.array_equal(lower.T, upper):
        raise ValueError(f"{path}: the lower triangle is neither zero nor the upper one mirrored.")
    if not np.all(np.diagonal(matrix) == 1.0):
        raise ValueError(f"{path}: the diagonal must be 1, each document's similarity to itself.")
    similarities = upper + upper.T + np.eye(DOCUMENTS)  # [50, 50]
    similarities.setflags(write=False)
    return similarities
