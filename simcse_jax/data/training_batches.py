"""The order of training: which rows make the batch of step s, tokenised and padded.

The batch of a step is a function of the step, the seed and the text alone. So nothing but the step
number need be saved to resume, and every host finds its own rows without asking the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grain
import numpy as np
from jaxtyping import Bool, Int, Shaped

from simcse_jax.data.packing import pack_rows, packed_batch
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.models.batch import Batch

T = TypeVar("T")


class Rows(Protocol):
    """Rows of sentences, in memory (`TrainingText`) or on disk (`PreparedText`)."""

    def __len__(self) -> int:
        """How many rows there are."""

    def rows(self, indices: Sequence[int]) -> list[tuple[str, ...]]:
        """The rows at these places, all with equally many sentences."""


@dataclass(frozen=True, eq=False)
class TokenisedBatch:
    """One step's rows on one host: P hosts hold B of the P·B rows of the global batch.

    C is the number of columns, 1 for sentences (the step makes two views of each), 2 for pairs, 3
    for triplets. L is one of `TrainingBatches.lengths` and the same on every host.

    Attributes:
        step: the global step, from 0.
        epoch: how often the text was seen before, from 0.
        input_ids: token ids, padded on the right.
        attention_mask: True where there is a token.
        group_ids: rows with equal ids are duplicates of each other, over the global batch: the
            positive of one is a false negative of the other (see `group_rows`).
        duplicates: rows of the global batch that repeat an earlier one (see `count_duplicates`).
        truncated: sentences of the global batch that lost tokens to `max_length`.
    """

    step: int
    epoch: int
    input_ids: Int[np.ndarray, "B C L"]
    attention_mask: Bool[np.ndarray, "B C L"]
    group_ids: Int[np.ndarray, "B"]
    duplicates: int
    truncated: int


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """One step's rows with several sentences to a row: S = B·C segments in R rows of L tokens.

    R and L are the same on every host, which holds R of the P·R rows, and B of the P·B examples.
    Sentences are numbered through the global batch, and an example's need not lie in its host's
    rows.

    Attributes:
        step: the global step, from 0.
        epoch: how often the text was seen before, from 0.
        sentences: the segment, counted from 1, of each sentence of each example.
        rows: the packed rows.
        labels: of the examples; None for a text without.
        truncated: sentences of the global batch that lost tokens to `max_length`.
    """

    step: int
    epoch: int
    sentences: Int[np.ndarray, "B C"]
    rows: Batch
    labels: Shaped[np.ndarray, "B"] | None
    truncated: int


def group_rows(rows: Sequence[Sequence[bytes | str]]) -> Int[np.ndarray, "B"]:
    """Group the rows of a batch that are false negatives of each other.

    In-batch InfoNCE takes the positive of row j for a negative of row i. That is false where the
    rows have a sentence in common, be it the anchor (then either positive belongs to both), the
    positive (then it is the very same candidate), or the anchor of one and the positive of the
    other. Being a positive is meant as "says the same", so the relation is continued: rows i and k
    that each share a sentence with j are one group. Hard negatives do not count.

    Args:
        rows: the sentences of each row, as text or as the bytes of their token ids.

    Returns:
        For each row the place of the first row of its group, so a batch without duplicates gives
        0, 1, …, B - 1.
    """
    group = list(range(len(rows)))

    def root(i: int) -> int:
        while group[i] != i:
            group[i] = group[group[i]]
            i = group[i]
        return i

    first: dict[bytes | str, int] = {}
    for i, row in enumerate(rows):
        for sentence in row[:2]:
            a, b = root(first.setdefault(sentence, i)), root(i)
            group[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(len(rows))], np.int32)


def count_duplicates(group_ids: Int[np.ndarray, "B"]) -> int:
    """Rows of a batch that repeat an earlier one: rows less groups, 0 where all are distinct.

    Args:
        group_ids: the ids of the global batch, as `group_rows` gives them.
    """
    return len(group_ids) - len(np.unique(group_ids))


def default_lengths(max_length: int) -> tuple[int, ...]:
    """Half, three quarters and the whole of `max_length`, in multiples of 8: (16, 24, 32) for 32.

    Each is one compilation of the step. Batches of 64 rarely fit into less than half.
    """
    lengths = {-(-max_length * quarters // 4 // 8) * 8 for quarters in (2, 3, 4)}
    return (*sorted(length for length in lengths if length < max_length), max_length)


def packed_lengths(max_length: int) -> tuple[int, ...]:
    """64, 128, 256, … up to `max_length`: the row lengths of packed batches.

    Attention costs as much as a row is long, so a batch takes the shortest row that holds its
    longest sentence.
    """
    lengths = []
    length = 64
    while length < max_length:
        lengths.append(length)
        length *= 2
    return (*lengths, max_length)


def packed_count(rows: int, devices: int) -> int:
    """How many rows a packed batch has: those it needs, and empty ones.

    They make up one of a few numbers, since each is one compilation of the step, and a multiple of
    the devices. On one device up to 16 rows stay as they are, and at most a ninth is empty above.
    A run whose batches vary by a few per cent meets three to five of them.
    """
    grain_size = max(1, 2 ** ((rows - 1).bit_length() - 4))
    rows = -(-rows // grain_size) * grain_size
    return -(-rows // devices) * devices


class TrainingBatches:
    """Batches by global step: deterministic, resumable, a share of each for every host.

    Each epoch is shuffled anew, and no row comes twice in one. A text whose rows do not fill whole
    batches has a remainder, which would compile another shape and may not divide by the devices.
    By default it is left out, another one in each epoch (the authors' trainer keeps it); with
    `drop_last=False` the epoch's last batch is filled up with the epoch's first rows.

    Equal sentences are found by their tokens: sentences that differ in nothing the model sees, such
    as letter case under an uncased tokenizer, are equal.

    Attributes:
        batch_size: rows of the global batch.
        steps_per_epoch: batches of an epoch, also `len()`.
        lengths: the padded lengths; a batch has the shortest that holds its longest sentence.
        packed_lengths: the same of the rows of packed batches.
        labels: of the text's rows, as 32-bit numbers, or None.
        description: one sentence for the user about steps and remainder.
    """

    def __init__(
        self,
        text: Rows,
        tokenizer: Tokenizer,
        batch_size: int,
        *,
        max_length: int = 32,
        seed: int = 42,
        drop_last: bool = True,
        lengths: Sequence[int] | None = None,
        device_count: int = 1,
        process_index: int = 0,
        process_count: int = 1,
        prefetch: int = 8,
        labels: Sequence[int] | Sequence[float] | None = None,
    ):
        """Check everything that could go wrong later.

        Args:
            text: what to train on.
            tokenizer: the model's.
            batch_size: rows of the global batch, over all hosts and devices.
            max_length: longer sentences lose tokens before the final special one.
            seed: of the shuffles, from 0 to 2³² - 1.
            drop_last: leave out the remainder of each epoch.
            lengths: padded lengths instead of `default_lengths`; the longest is `max_length`.
            device_count: devices of all hosts together; the batch must divide by them.
            process_index: which host this is, as `jax.process_index()`.
            process_count: how many there are, as `jax.process_count()`.
            prefetch: how many batches are tokenised ahead in the background; 0 for none.
            labels: of the text's rows, for packed batches.

        Raises:
            ValueError: fewer rows than a batch, another number of labels than rows, a batch that
                does not divide by devices or hosts, lengths that do not fit, a tokenizer without
                padding, or another impossible value.
        """
        rows = len(text)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if rows < batch_size:
            raise ValueError(
                f"{rows} rows of training text do not fill one batch of {batch_size}; give more "
                f"text or a batch size of at most {rows}"
            )
        if not 0 <= process_index < process_count:
            raise ValueError(
                f"process_index is {process_index}, which must lie below process_count "
                f"({process_count})"
            )
        for count, what in ((device_count, "devices"), (process_count, "processes")):
            if count < 1:
                raise ValueError(f"{count} {what} cannot train; there must be at least 1")
            if batch_size % count:
                below, above = batch_size // count * count, -(-batch_size // count) * count
                raise ValueError(
                    f"a batch of {batch_size} rows does not divide by {count} {what}; take "
                    f"{f'{below} or ' if below else ''}{above}"
                )
        lengths = default_lengths(max_length) if lengths is None else tuple(sorted(set(lengths)))
        if max_length < 3 or not lengths or lengths[0] < 1 or lengths[-1] != max_length:
            raise ValueError(
                f"max_length is {max_length} and the padded lengths are {list(lengths)}; the "
                "longest must be max_length, and max_length at least 3 (two special tokens and a "
                "word)"
            )
        if tokenizer.pad_id is None:
            raise ValueError(
                "the tokenizer has neither [PAD] nor <pad>, so batches cannot be padded"
            )
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed}; it must lie between 0 and 2**32 - 1")
        if prefetch < 0:
            raise ValueError(f"prefetch is {prefetch}; it must not be negative")
        if labels is not None and len(labels) != rows:
            raise ValueError(f"{rows} rows of training text have {len(labels)} labels, not as many")
        self.text = text
        self.labels = None if labels is None else _as_32_bits(labels)
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.max_length = max_length
        self.lengths = lengths
        self.packed_lengths = packed_lengths(max_length)
        self._pad_id = tokenizer.pad_id
        self._prefetch = prefetch
        self._device_count = device_count
        self._share = (process_index, process_count)
        local = batch_size // process_count
        self._mine = slice(process_index * local, (process_index + 1) * local)
        # Random access, epoch after epoch, in constant memory. Not `shuffle(seed)`: it adds the
        # epoch to the seed, so epoch 1 of seed 0 would be epoch 0 of seed 1.
        order = grain.MapDataset.range(rows).seed(seed).shuffle()
        self._order = order.batch(batch_size, drop_remainder=drop_last)
        self.steps_per_epoch = len(self._order)
        remainder = rows % batch_size
        self.description = (
            f"{rows:,} rows make {self.steps_per_epoch:,} steps of {batch_size} an epoch"
        )
        if remainder and drop_last:
            self.description += f"; {remainder} rows, others each time, are left out"
        elif remainder:
            self.description += (
                f"; the last is filled up with {batch_size - remainder} of the epoch's first rows"
            )

    def __len__(self) -> int:
        return self.steps_per_epoch

    def indices(self, step: int) -> Int[np.ndarray, "B"]:
        """The rows of the text that make the global batch of a step."""
        rows = self._order[step]
        missing = self.batch_size - len(rows)
        if missing:
            first = self._order[step - step % self.steps_per_epoch]
            rows = np.concatenate([rows, first[:missing]])
        return rows

    def batch(self, step: int) -> TokenisedBatch:
        """The batch of a global step, any step of any epoch.

        Every host tokenises the whole global batch, since the padded length and the duplicates
        depend on all rows; it keeps its own.

        Raises:
            ValueError: a negative step.
        """
        _, columns, tokens, truncated = self._tokenise(step)
        keys = [sequence.tobytes() for sequence in tokens]
        groups = group_rows([keys[i : i + columns] for i in range(0, len(keys), columns)])
        longest = max(len(sequence) for sequence in tokens)
        length = next(length for length in self.lengths if length >= longest)
        mine = tokens[self._mine.start * columns : self._mine.stop * columns]
        sizes = np.array([len(sequence) for sequence in mine])
        mask = np.arange(length) < sizes[:, None]  # [B·C, L]
        ids = np.full(mask.shape, self._pad_id, np.int32)
        ids[mask] = np.concatenate(mine)
        return TokenisedBatch(
            step=step,
            epoch=step // self.steps_per_epoch,
            input_ids=ids.reshape(-1, columns, length),
            attention_mask=mask.reshape(-1, columns, length),
            group_ids=groups[self._mine],
            duplicates=count_duplicates(groups),
            truncated=truncated,
        )

    def packed(self, step: int) -> PackedBatch:
        """The same batch with several sentences to a row, and with labels where the text has some.

        The rows are packed over the whole global batch, so that they do not depend on the number
        of hosts and devices, but for empty ones at the end.

        Raises:
            ValueError: a negative step.
        """
        indices, columns, tokens, truncated = self._tokenise(step)
        lengths = [len(sequence) for sequence in tokens]
        length = next(length for length in self.packed_lengths if length >= max(lengths))
        rows = pack_rows(lengths, length)
        count = packed_count(len(rows), self._device_count)
        batch, order = packed_batch(tokens, rows, (count, length))
        sentences = np.empty(len(tokens), np.int32)
        sentences[order] = np.arange(1, len(tokens) + 1)
        index, hosts = self._share
        mine = slice(index * count // hosts, (index + 1) * count // hosts)
        assert batch.segment_ids is not None
        assert batch.position_ids is not None
        return PackedBatch(
            step=step,
            epoch=step // self.steps_per_epoch,
            sentences=sentences.reshape(-1, columns)[self._mine],
            rows=Batch(
                batch.input_ids[mine],
                batch.attention_mask[mine],
                segment_ids=batch.segment_ids[mine],
                position_ids=batch.position_ids[mine],
            ),
            labels=None if self.labels is None else self.labels[indices[self._mine]],
            truncated=truncated,
        )

    def _tokenise(self, step: int) -> tuple[np.ndarray, int, list[np.ndarray], int]:
        """The global batch: its rows' places, the columns, all tokens, and how many were cut."""
        if step < 0:
            raise ValueError(f"the step is {step}; the first one is 0")
        indices = self.indices(step)
        rows = self.text.rows(indices.tolist())
        flat = [sentence for row in rows for sentence in row]
        return indices, len(rows[0]), *self.tokenizer(flat, self.max_length)

    def packed_batches(
        self, start_step: int = 0, stop_step: int | None = None
    ) -> Iterator[PackedBatch]:
        """`batches`, packed."""
        return self._ahead(self.packed, start_step, stop_step)

    def batches(
        self, start_step: int = 0, stop_step: int | None = None
    ) -> Iterator[TokenisedBatch]:
        """The batches from a step on, tokenised ahead in a background thread.

        Args:
            start_step: 0, or the number of steps already taken when a run is resumed.
            stop_step: the first step not wanted; None goes on for ever, epoch after epoch.

        Raises:
            ValueError: a negative step.
        """
        return self._ahead(self.batch, start_step, stop_step)

    def _ahead(
        self, make: Callable[[int], T], start_step: int, stop_step: int | None
    ) -> Iterator[T]:
        if start_step < 0:
            raise ValueError(f"start_step is {start_step}; the first one is 0")
        stop = _ENDLESS if stop_step is None else stop_step
        if stop <= start_step:
            return iter(())
        steps: Any = grain.MapDataset.range(start_step, stop).map(make)
        # One thread: the tokenizer itself runs on all cores, outside of Python.
        options = grain.ReadOptions(
            num_threads=min(1, self._prefetch), prefetch_buffer_size=self._prefetch
        )
        return iter(steps.to_iter_dataset(options))


def _as_32_bits(labels: Sequence[int] | Sequence[float]) -> Shaped[np.ndarray, "n"]:
    array = np.asarray(labels)
    return array.astype(np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32)


# Grain's indices go through C integers; nobody takes as many steps.
_ENDLESS = 2**62
