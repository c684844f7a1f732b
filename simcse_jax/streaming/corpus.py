"""Encode a source into an output, from where an earlier process was."""

from __future__ import annotations

import functools
import hashlib
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tokenizers
from tqdm import tqdm

from simcse_jax import __version__
from simcse_jax.checks import listed
from simcse_jax.encoder import SentenceEncoder, fingerprint
from simcse_jax.io import spoken
from simcse_jax.progress import Progress
from simcse_jax.streaming.output import PartialOutput
from simcse_jax.streaming.sinks import NpyFile, ParquetFile, Sink
from simcse_jax.streaming.sources import Piece, Source


def encode_source(
    encoder: SentenceEncoder,
    source: Source,
    part: PartialOutput,
    *,
    start: int = 0,
    stop: int | None = None,
    batch_size: int | None = None,
    normalize: bool | None = None,
    show_progress: bool = True,
    keep_progress: bool = False,
) -> int:
    """Encode rows of a source into an output: parquet by its ending, else ``.npy``.

    After each piece but the last the progress is kept. What an earlier process has left is gone on
    with where it is of the same model, options and text, which is read again to that end.

    Args:
        encoder: the model.
        source: where the text is read.
        part: the output, from `simcse_jax.streaming.partial_output`.
        start: the first row.
        stop: the row after the last; default: all.
        batch_size: as in `SentenceEncoder.encode`.
        normalize: as in `SentenceEncoder.encode`.
        show_progress: a bar where standard error is a terminal, and elsewhere a line a minute.
        keep_progress: keep the progress after the last piece too, until ``part`` is let go of.

    Returns:
        The number of rows.

    Raises:
        ValueError: text that cannot be read; or what an earlier process has left is of another
            model, other options or other text.
        OSError: the output cannot be written.
    """
    sink: Sink = (
        ParquetFile() if part.target.suffix.lower() == ".parquet" else NpyFile(encoder.dimension)
    )
    share = {} if stop is None else {"share": f"rows {start} to {stop}"}
    settings = functools.cache(
        lambda: _settings(
            encoder, source, sink, batch_size=batch_size, normalize=normalize, **share
        )
    )
    digest = hashlib.blake2b(digest_size=16)
    pieces = source.read(start, stop, sink.wants_columns)
    if part.record is not None:
        _check_settings(part, settings())
        _read_again(pieces, digest, source, part)
        if part.is_done:
            return part.rows
    waiting: deque[tuple[Piece, str]] = deque()

    def sentences() -> Iterator[str]:
        for piece in pieces:
            _add(digest, piece)
            waiting.append((piece, digest.hexdigest()))
            yield from piece.sentences

    done, read = part.rows, digest.hexdigest()
    total = None if source.rows is None else (source.rows if stop is None else stop) - start
    # By Python's own means: by C's, NumPy does not notice a disk that is full at the very end.
    with part.vectors.open("w+b" if part.record is None else "r+b") as file:
        sink.begin(file)  # the same bytes again, where an earlier process was
        checksum = 0 if part.record is None else part.go_on(file)

        def append(piece: Piece, vectors: np.ndarray) -> None:
            nonlocal checksum
            data = sink.encoded(piece, vectors, is_first=file.tell() == 0)
            file.write(data)
            checksum = zlib.crc32(data, checksum)

        show = None if show_progress else False
        with Progress("encode", total, done, show, unit=" sentences", delay=1) as progress:
            for vectors in encoder.encode_stream(
                sentences(),
                chunk_size=source.piece_rows,
                batch_size=batch_size,
                normalize=normalize,
                on_progress=rate_writer(progress, total),
            ):
                piece, read = waiting.popleft()
                append(piece, vectors)
                file.flush()
                done += len(vectors)
                # The next piece has been read by now. Where there is none, all is done.
                if waiting and part.resumable:
                    part.keep(settings(), done, file.tell(), checksum, read, None)
        for empty, _ in waiting:  # of an input without rows, its columns
            append(empty, np.empty((0, encoder.dimension), np.float32))
        size = file.tell()
        whole: Path = sink.finish(file, done, part.folder)
    if keep_progress:
        part.keep(settings(), done, size, checksum, read, whole)
    os.replace(whole, part.target)
    return done


def shard_of(output: Path, index: int, count: int) -> Path:
    """Return the name of a process's part of an output: ``vectors-00003-of-00016.npy``."""
    return output.with_name(f"{output.stem}-{index:05d}-of-{count:05d}{output.suffix}")


def share_of(rows: int, index: int, count: int) -> tuple[int, int]:
    """Return the first row of a process's share of the rows, and the row after its last."""
    return rows * index // count, rows * (index + 1) // count


# ---------------------------------------------------------------------------------------------
# Whether it is the same
# ---------------------------------------------------------------------------------------------


def _settings(
    encoder: SentenceEncoder, source: Source, sink: Sink, **options: Any
) -> dict[str, Any]:
    """Return what the bits of the output depend on beside the text."""
    devices = sorted(jax.tree.leaves(encoder.params)[0].devices(), key=lambda device: device.id)
    return {
        "input": source.kind,
        "format": sink.name,
        "model": fingerprint(encoder),
        **options,
        "piece": f"{source.piece_rows} rows",
        "machine": f"{len(devices)} {devices[0].device_kind}, jax {jax.__version__}",
        "library": f"simcse_jax {__version__}, tokenizers {tokenizers.__version__}",
    }


def _check_settings(part: PartialOutput, now: Mapping[str, Any]) -> None:
    assert part.record is not None
    before = part.record["settings"]
    for name, value in now.items():
        if before.get(name) != value:
            then = listed([str(before.get(name))])
            change = "" if name == "model" else f" ({then} then, {value} now)"
            raise ValueError(
                f"{part.target} was begun with another {name}{change}; give the command that began "
                f"it, or delete {part.folder} to begin anew"
            )


def _read_again(pieces: Iterator[Piece], digest: Any, source: Source, part: PartialOutput) -> None:
    """Read what the rows that are done were made of, and see that it is the same."""
    assert part.record is not None
    rows = 0
    while rows < part.rows and (piece := next(pieces, None)) is not None:
        _add(digest, piece)
        rows += len(piece.sentences)
    if rows != part.rows or digest.hexdigest() != part.record["read"]:
        what = "text" if part.target.suffix.lower() != ".parquet" else "text or columns"
        raise ValueError(
            f"{spoken(source.name)} begins with other {what} than the {part.rows:,} rows that "
            f"{part.target} was begun with; give the same {what}, or delete {part.folder} to begin "
            "anew"
        )


def _add(digest: Any, piece: Piece) -> None:
    digest.update(np.fromiter(map(len, piece.read), np.int64, len(piece.read)).data)
    digest.update("".join(piece.read).encode())
    digest.update(piece.columns)


def rate_writer(progress: Progress, total: int | None) -> Callable[[int], None]:
    """Return what is called with sentences that are done, and says how fast it goes."""
    start, began = progress.done, time.monotonic()

    def tell(sentences: int) -> None:
        progress.update(sentences)
        if not progress.line_is_due:
            return
        rate = (progress.done - start) / (time.monotonic() - began)
        if total is None:
            progress.write_line(f"{progress.done:,} sentences, {rate:,.0f}/s")
        else:
            left = tqdm.format_interval((total - progress.done) / rate)
            progress.write_line(
                f"{progress.done:,} of {total:,} sentences, {rate:,.0f}/s, {left} left"
            )

    return tell
