"""From sentences to the batches that are encoded: tokenised ahead, packed, in few shapes."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from simcse_jax.data.packing import pack_rows, packed_batch
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.models.batch import Batch

ROW_LENGTHS = (64, 128, 256, 512)
# The device gets room for so many tokens per sentence of a batch.
TOKENS_PER_SENTENCE = 16


class TokenisedChunk(NamedTuple):
    """Sentences with their token ids.

    Attributes:
        sentences: as they were given.
        ids: of each sentence, the prompt before it.
        cut: how many of them were longer than the limit.
    """

    sentences: list[str]
    ids: list[Int[np.ndarray, "_"]]
    cut: int


def tokenised_chunks(
    tokenizer: Tokenizer, chunks: Iterable[list[str]], prompt: str, limit: int
) -> Iterator[TokenisedChunk]:
    """Tokenise chunks of sentences; the next one while the caller works on this one.

    Args:
        tokenizer: the model's.
        chunks: lists of sentences.
        prompt: the text before every sentence.
        limit: the longest input in tokens.
    """

    def tokenise(sentences: list[str]) -> TokenisedChunk:
        ids, cut = tokenizer([prompt + s for s in sentences] if prompt else sentences, limit)
        return TokenisedChunk(sentences, ids, cut)

    with ThreadPoolExecutor(1) as ahead:
        pending: deque[Future[TokenisedChunk]] = deque()
        for sentences in chunks:
            pending.append(ahead.submit(tokenise, sentences))
            if len(pending) == 2:
                yield pending.popleft().result()
        for last in pending:
            yield last.result()


def check_ids(ids: list[np.ndarray], sentences: list[str], vocab_size: int | None) -> None:
    """Refuse a sentence without tokens, or with one that the model lacks.

    Args:
        ids: the token ids of each sentence.
        sentences: for the message.
        vocab_size: of the model; None where its tokenizer knows no more.

    Raises:
        ValueError: the message has the sentence.
    """
    for sequence, sentence in zip(ids, sentences, strict=True):
        if len(sequence) == 0:
            raise ValueError(
                f"{sentence[:40]!r} has no tokens; the model's tokenizer adds no special ones"
            )
        if vocab_size is not None and sequence.max() >= vocab_size:
            raise ValueError(
                f"{sentence[:40]!r} has the token {sequence.max()}; the model knows "
                f"{vocab_size}: is the tokenizer another model's?"
            )


def batch_tokens(ids: list[np.ndarray], batch_size: int | None, platform: str, devices: int) -> int:
    """Return how many tokens a batch has room for: those asked for, but no more than there are.

    What there are is rounded up to the usual room, four times it, sixteen times, …; as it is, it
    would be new shapes to compile for each corpus.

    Args:
        ids: the token ids of each sentence.
        batch_size: about how many sentences the device gets; None for the usual number.
        platform: of the devices.
        devices: their number.
    """
    usual = TOKENS_PER_SENTENCE * (64 if platform == "cpu" else 2048) * devices
    wanted = usual if batch_size is None else TOKENS_PER_SENTENCE * batch_size
    tokens = sum(map(len, ids))
    room = usual
    while room < tokens:
        room *= 4
    return min(wanted, room)


def encode_batches(
    ids: list[np.ndarray], limit: int, tokens: int, devices: int
) -> Iterator[tuple[Batch, list[int]]]:
    """Make packed batches of at most a dozen shapes: three numbers of rows for each row length.

    Args:
        ids: the token ids of each sentence.
        limit: the longest input in tokens, which no sentence exceeds.
        tokens: the room of a batch.
        devices: the number of rows is a multiple of theirs.

    Returns:
        An iterator over batches, each with the places of its sentences in ``ids``.
    """
    lengths = [len(i) for i in ids]
    edges = [r for r in ROW_LENGTHS if r < limit]
    edges.append(next((r for r in ROW_LENGTHS if r >= limit), limit))
    for low, row_length in zip([0, *edges], edges, strict=False):
        members = [i for i, n in enumerate(lengths) if low < n <= row_length]
        rows = pack_rows([lengths[i] for i in members], row_length)
        start = 0
        for size in row_counts(len(rows), tokens // row_length, devices):
            order = [members[i] for row in rows[start : start + size] for i in row]
            place = iter(range(len(order)))
            numbered = [[next(place) for _ in row] for row in rows[start : start + size]]
            yield packed_batch([ids[i] for i in order], numbered, (size, row_length)), order
            start += size


@functools.lru_cache
def row_counts(rows: int, most: int, devices: int) -> list[int]:
    """Split a number of rows into batches of ``most``, a quarter, or a sixteenth of it."""
    sizes = [max(devices, most // d // devices * devices) for d in (1, 4, 16)]
    counts = []
    for size in sizes:
        # A batch may be half empty, but for the smallest, which takes what is left.
        while rows > (0 if size == sizes[-1] else size // 2):
            counts.append(size)
            rows -= size
    return counts
