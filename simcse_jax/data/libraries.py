"""Data sets of other libraries by name: Hugging Face's `datasets` and TensorFlow Datasets.

- ``hf:NAME[/CONFIG][:SPLIT]``: of the hub, such as ``hf:sentence-transformers/all-nli/triplet``;
  or a folder, one that ``save_to_disk`` has written or one of files that `datasets` understands.
- ``tfds:NAME[/CONFIG][:SPLIT]``: of TensorFlow Datasets, such as ``tfds:snli:validation``, or one
  that somebody prepared, by its name there. TensorFlow itself is not needed.

The split is ``train`` unless another is named, and may be a part of one, such as ``train[:1000]``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from simcse_jax.checks import first_line, listed, quoted
from simcse_jax.data.nli import nli_fields
from simcse_jax.data.tables import Table, check_columns, table_of
from simcse_jax.extras import needs

HUGGING_FACE, TFDS = "hf:", "tfds:"
SPELLINGS = "hf:NAME[/CONFIG][:SPLIT] or tfds:NAME[/CONFIG][:SPLIT]"
# What save_to_disk leaves of a data set, and of one with several splits.
_SAVED = ("state.json", "dataset_dict.json")


class DatasetName(NamedTuple):
    """The parts of a name.

    Attributes:
        library: `HUGGING_FACE` or `TFDS`.
        name: of the data set, with its configuration.
        split: "" where none is named.
    """

    library: str
    name: str
    split: str


def parse(name: str) -> DatasetName | None:
    """Take a name apart; None for one of no other library.

    Raises:
        ValueError: the library is known, but no data set is named.
    """
    # A version of TFDS, such as snli:1.1.0, belongs to the name.
    match = re.fullmatch(r"(hf:|tfds:)([^:]*(?::\d+\.[\d*]+\.[\d*]+)?)(?::(.*))?", name)
    if match is None:
        return None
    library, found, split = match.groups()
    if not found or split == "":
        raise ValueError(f"there is no data set {quoted(name)}; it is written {SPELLINGS}")
    return DatasetName(library, found, split or "")


def is_saved(folder: str | Path) -> bool:
    """Tell whether a folder was written by ``save_to_disk`` of Hugging Face's."""
    return any((Path(folder) / file).is_file() for file in _SAVED)


def read_named(name: str, folder: Path | None = None, columns: Sequence[str] = ()) -> Table:
    """Read a data set of another library.

    Args:
        name: see the module.
        folder: of TensorFlow Datasets, where data sets are prepared; by default that library's.
        columns: the names of those to read, in the order that the table is to have; default: all.

    Raises:
        FileNotFoundError: there is no such data set, or no network to get it by.
        MissingExtra: the library is not installed.
        ValueError: another spelling, split or column than there are.
    """
    parts = parse(name)
    if parts is None:
        raise ValueError(f"there is no data set {quoted(name)}; it is written {SPELLINGS}")
    if parts.library == TFDS:
        return _tfds_table(name, parts, folder, columns)
    if folder is not None:
        raise ValueError(f"{name} names all that is read; leave the folder {folder} out")
    table = table_of(_hugging_face(name, parts), name, columns)
    assert table is not None
    return table


def _hugging_face(name: str, parts: DatasetName) -> Any:
    with needs("datasets"):
        import datasets
    try:
        if is_saved(parts.name):
            data = datasets.load_from_disk(parts.name)
            return _split_of(name, data, parts.split)
        path, config = parts.name, None
        if Path(path).exists():
            path = str(Path(path).absolute())  # a bare name may be that of a format, such as csv
        elif path.count("/") == 2:  # OWNER/NAME/CONFIG
            path, _, config = path.rpartition("/")
        return datasets.load_dataset(path, config, split=parts.split or "train")
    except Exception as error:  # of a library that has many kinds
        raise _not_opened(name, error) from error


def _split_of(name: str, data: Any, split: str) -> Any:
    """The split of what was saved with several, or the whole of what was saved as one."""
    if not isinstance(data, dict):
        if split:
            raise ValueError(f"it was saved without splits; leave {quoted(split)} out")
        return data
    if (split or "train") not in data:
        raise ValueError(f"it has no split {split or 'train'!r}; it has {listed(data)}")
    return data[split or "train"]


def _tfds_table(
    name: str, parts: DatasetName, folder: Path | None, columns: Sequence[str]
) -> Table:
    with needs("data"):
        import tensorflow_datasets as tfds
    try:
        builder = tfds.builder(parts.name, data_dir=None if folder is None else str(folder))
        if not builder.info.splits:
            # In a format that is read without TensorFlow.
            builder.download_and_prepare(file_format="array_record")
        names = tuple(sorted(builder.info.features))
        source = builder.as_data_source(parts.split or "train")
        found = source.__getitems__(range(len(source)))
    except Exception as error:  # of a library that has many kinds
        raise _not_opened(name, error) from error
    check_columns(name, names, columns)
    if not columns and len(names) > 1 and nli_fields(names) is None:
        raise ValueError(
            f"{name} has the features {listed(names)}, whose order says nothing; name those to "
            "train on as columns"
        )
    columns = tuple(columns) or names
    rows = tuple(tuple(_plain(row[column]) for column in columns) for row in found)
    return Table(name, columns, rows, range(1, len(rows) + 1), "row")


def _plain(cell: Any) -> Any:
    """Text is bytes there."""
    return cell.decode("utf-8") if isinstance(cell, bytes) else cell


def _not_opened(name: str, error: BaseException) -> Exception:
    kind = FileNotFoundError if isinstance(error, OSError) else ValueError
    reason = first_line(error.__cause__ or error).rstrip(".")
    return kind(
        f"the data set {name} cannot be opened ({reason}); check name, configuration and split, "
        "and the network where it is to be downloaded"
    )
