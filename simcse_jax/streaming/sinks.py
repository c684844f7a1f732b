"""What vectors are written to: NumPy's file, or a column of parquet.

A format says what comes before the first rows (``begin``), what is appended for the vectors of a
piece (``encoded``), and how the output is made of that, in its place or beside it (``finish``).
"""

from __future__ import annotations

import os
from io import BufferedRandom
from pathlib import Path

import numpy as np

from simcse_jax.data.parquet import arrow, as_parquet
from simcse_jax.streaming.sources import Piece

# The column of a parquet file that the vectors are put in.
EMBEDDING = "embedding"


# Whose endings promise what is not written here: everything but parquet is ``.npy``.
_OTHER_FORMATS = frozenset(
    (".txt", ".csv", ".tsv", ".json", ".jsonl", ".npz", ".pt", ".h5", ".safetensors")
)


def check_ending(output: Path) -> None:
    """Refuse an output of vectors that is called as what it will not be.

    Raises:
        ValueError: standard output, or the ending of another format.
    """
    if str(output) == "-" or output.suffix.lower() in _OTHER_FORMATS:
        raise ValueError(
            f"vectors cannot be written to {str(output)!r}; name a file that ends in .npy or "
            ".parquet"
        )


class NpyFile:
    """Vectors as NumPy's ``.npy``: float32 ``[n, D]``, as ``np.save`` writes it, to the byte."""

    name = "npy"
    wants_columns = False

    def __init__(self, dimension: int):
        self._dimension = dimension

    def begin(self, file: BufferedRandom) -> None:
        self._write_header(file, 0)

    def encoded(self, piece: Piece, vectors: np.ndarray, is_first: bool) -> memoryview:
        return np.ascontiguousarray(vectors, "<f4").reshape(-1).view(np.uint8).data

    def finish(self, file: BufferedRandom, rows: int, folder: Path) -> Path:
        file.seek(0)
        self._write_header(file, rows)
        return Path(file.name)

    def _write_header(self, file: BufferedRandom, rows: int) -> None:
        # NumPy leaves room for any number of rows, so that all of these headers are of one length.
        shape = (rows, self._dimension)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)


class ParquetFile:
    """Vectors as a column of parquet, beside those of the text.

    What a parquet file holds is told at its end, so that none can be gone on with. Every piece is
    therefore written as a stream of Arrow's own first, and the file is made of these at the end.
    """

    name = "parquet"
    wants_columns = True

    def begin(self, file: BufferedRandom) -> None:
        pass

    def encoded(self, piece: Piece, vectors: np.ndarray, is_first: bool) -> memoryview:
        pa = arrow()
        if EMBEDDING in piece.table.column_names:
            raise ValueError(
                f"the input has a column {EMBEDDING!r} already; rename it, or write to a .npy file"
            )
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        table = piece.table.append_column(EMBEDDING, column)
        with as_parquet():
            if is_first:  # before hours of work, not after
                pa.parquet.ParquetWriter(pa.BufferOutputStream(), table.schema).close()
            data = pa.BufferOutputStream()
            with pa.ipc.new_stream(data, table.schema) as stream:
                stream.write_table(table)
        return memoryview(data.getvalue())

    def finish(self, file: BufferedRandom, rows: int, folder: Path) -> Path:
        pa = arrow()
        whole = folder / "whole"
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        with pa.ipc.open_stream(file) as stream:
            schema = stream.schema
        file.seek(0)
        # A dictionary is for values that come again, which those of a vector do not.
        texts = [name for name in schema.names if name != EMBEDDING]
        with (
            whole.open("w+b") as output,
            pa.parquet.ParquetWriter(output, schema, use_dictionary=texts) as writer,
        ):
            while file.tell() < end:
                with pa.ipc.open_stream(file) as stream:
                    for batch in stream:
                        writer.write_batch(batch)
        return whole


Sink = NpyFile | ParquetFile
