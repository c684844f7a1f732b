"""Parquet files, by pyarrow, which is imported only here and only where one is read or written."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any, BinaryIO

from simcse_jax.checks import first_line
from simcse_jax.extras import needs


def arrow() -> Any:
    """Import pyarrow.

    Raises:
        MissingExtra: it is not installed.
    """
    with needs("parquet"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


def parquet_file(stream: BinaryIO) -> Any:
    """Open a parquet file; pages are compared with their checksums where they have some."""
    return arrow().parquet.ParquetFile(stream, page_checksum_verification=True)


@contextmanager
def whole_parquet(path: object, rows: Sized = ()) -> Iterator[None]:
    """Say in one sentence what pyarrow cannot read; errors of the system are left alone.

    Args:
        path: of the file.
        rows: those that were read of it before.

    Raises:
        ValueError: the file is damaged, or of another kind.
    """
    pa = arrow()
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        after = f", after row {len(rows)}" if rows else ""
        raise ValueError(
            f"{path}{after}: not a whole parquet file ({first_line(error)}); write it again"
        ) from error


@contextmanager
def as_parquet() -> Iterator[None]:
    """Say in one sentence which columns pyarrow cannot write.

    Raises:
        ValueError: parquet has no such type, or no such depth.
    """
    pa = arrow()
    try:
        yield
    except pa.ArrowException as error:
        raise ValueError(
            f"the input's columns cannot be written as parquet ({first_line(error)}); "
            "write to a .npy file"
        ) from error
