"""The order of training: which examples make the batch of step s, tokenised, dealt and packed.

The batch of a step is a function of the step, the seed and the text alone. So nothing but the step
number need be saved to resume, and every host finds its own rows without asking the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, no_type_check, runtime_checkable

import flax.struct
import jax
import numpy as np
from jaxtyping import Int, Shaped

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_between, check_count, counted
from simcse_jax.data.packing import deal, pack_rows, packed_batch
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.extras import needs
from simcse_jax.models.batch import Batch

with needs("train"):
    import grain

# Grain's indices go through C integers; nobody takes as many steps.
_ENDLESS = 2**62


@runtime_checkable
class Rows(Protocol):
    """Rows of sentences, in memory (`TrainingText`) or on disk (`PreparedText`)."""

    def __len__(self) -> int:
        """Count the rows."""

    def rows(self, indices: Sequence[int]) -> list[tuple[str, ...]]:
        """Return the rows at these places, all with equally many sentences."""


@no_type_check  # as `Batch`
@flax.struct.dataclass
class TrainingBatch:
    """Examples of C sentences each, packed: the one batch of every objective on tokens.

    The first axis of every array is cut into shards, one for each device and chunk of cached
    gradients. A shard is complete in itself: its sentences lie in its rows, and its segments are
    numbered from 1, example by example and sentence by sentence.

    Attributes:
        rows: the tokens.
        sentences: the number of each sentence in the global batch, from which its dropout masks
            follow: that of its example times C, and its place in the example.
        groups: the number of the first example of the global batch with an equal first sentence.
        labels: classes (softmax) or similarities (regression); None where there are none.
    """

    rows: Batch
    sentences: Int[AnyArray, "B C"]
    groups: Int[AnyArray, "B"]
    labels: Shaped[AnyArray, "B"] | None = None


def split_shards(batch: Any, shards: int) -> Any:
    """Cut every array of a batch into shards, along a new first axis."""
    return jax.tree.map(lambda x: x.reshape(shards, -1, *x.shape[1:]), batch)


class Examples(NamedTuple):
    """The global batch of a step before it is packed.

    Attributes:
        indices: the places of the examples in the text.
        tokens: the token ids of every sentence of every example.
    """

    indices: Int[np.ndarray, "B"]
    tokens: list[list[np.ndarray]]


def group_equal(sentences: Sequence[bytes]) -> Int[np.ndarray, "B"]:
    """Group examples by their first sentences.

    In-batch InfoNCE takes the positive of another example for a negative; where both examples have
    the same first sentence it is none.

    Args:
        sentences: the first sentence of each example, as the bytes of its token ids, so that
            sentences are equal that differ in nothing the model sees.

    Returns:
        For each example the place of the first one of its group: 0, 1, …, B - 1 where there are no
        duplicates.
    """
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(s, i) for i, s in enumerate(sentences)], np.int32)


def packed_lengths(max_length: int) -> tuple[int, ...]:
    """List the row lengths of packed batches: 64, 128, 256, … up to `max_length`.

    Attention costs as much as a row is long, so a batch takes the shortest row that holds its
    longest sentence.
    """
    lengths = []
    length = 64
    while length < max_length:
        lengths.append(length)
        length *= 2
    return (*lengths, max_length)


def packed_count(rows: int) -> int:
    """Round the number of rows of a shard up: those it needs, and empty ones.

    They make up one of a few numbers, since each is one compilation of the step: up to 16 rows stay
    as they are, and at most a ninth is empty above. A run whose batches vary by a few per cent
    meets three to five of them.
    """
    grain_size = max(1, 2 ** ((rows - 1).bit_length() - 4))
    return -(-rows // grain_size) * grain_size


def pack(examples: Examples, shards: int, lengths: Sequence[int], labels: Any) -> TrainingBatch:
    """Deal examples to shards and pack each shard's sentences into rows of its own.

    Args:
        examples: as many as the shards divide.
        shards: how many.
        lengths: the row lengths to choose from, ascending.
        labels: of the examples, ``[B]``, or None.

    Returns:
        The global batch, shard after shard, on the host.
    """
    tokens = examples.tokens
    columns = len(tokens[0])
    longest = max(len(sentence) for example in tokens for sentence in example)
    length = next(length for length in lengths if length >= longest)
    dealt = deal([sum(map(len, example)) for example in tokens], shards)
    flat = [[sentence for e in members for sentence in tokens[e]] for members in dealt]
    packed = [pack_rows([len(sentence) for sentence in shard], length) for shard in flat]
    count = packed_count(max(map(len, packed)))
    rows = [
        packed_batch(ids, shard, (count, length)) for ids, shard in zip(flat, packed, strict=True)
    ]
    order = np.concatenate(dealt).astype(np.int32)
    return TrainingBatch(
        jax.tree.map(lambda *parts: np.concatenate(parts), *rows),
        order[:, None] * columns + np.arange(columns, dtype=np.int32),
        group_equal([example[0].tobytes() for example in tokens])[order],
        None if labels is None else labels[order],
    )


class TrainingBatches:
    """Batches by global step: deterministic, resumable, a share of each for every host.

    Each epoch is shuffled anew, and no row comes twice in one. A text whose rows do not fill whole
    batches has a remainder, which may not divide by the devices. By default it is left out, another
    one in each epoch (the authors' trainer keeps it); with `drop_last=False` the epoch's last batch
    is filled up with the epoch's first rows.

    Attributes:
        batch_size: examples of the global batch.
        steps_per_epoch: batches of an epoch, also `len()`.
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
        views: int = 1,
        drop_last: bool = True,
        shards: int = 1,
        process_index: int = 0,
        process_count: int = 1,
        prefetch: int = 8,
        labels: Sequence[int] | Sequence[float] | None = None,
    ):
        """Check everything that could go wrong later.

        Args:
            text: what to train on.
            tokenizer: the model's.
            batch_size: examples of the global batch, over all hosts and devices.
            max_length: longer sentences lose tokens before the final special one.
            seed: of the shuffles, from 0 to 2³² - 1.
            views: how often a text of one column has each of its sentences in an example.
            drop_last: leave out the remainder of each epoch.
            shards: devices of all hosts together, times the chunks of cached gradients on each.
            process_index: which host this is, as `jax.process_index()`.
            process_count: how many there are, as `jax.process_count()`.
            prefetch: how many batches are tokenised ahead in the background; 0 for none.
            labels: of the text's rows.

        Raises:
            ValueError: fewer rows than a batch, another number of labels than rows, a batch that
                does not divide by the shards, or another impossible value.
        """
        rows = len(text)
        for name, value, least in (
            *(("batch_size", batch_size, 1), ("views", views, 1), ("shards", shards, 1)),
            *(("process_count", process_count, 1), ("prefetch", prefetch, 0)),
            # Two special tokens and a word.
            ("max_length", max_length, 3),
        ):
            check_count(name, value, least)
        check_between("views", views, 1, 100)
        if rows < batch_size:
            said = getattr(text, "description", "")
            read = f" ({said})" if said else ""
            raise ValueError(
                f"{counted(rows, 'row')} of training text cannot fill one batch of {batch_size}; "
                f"give more text or a batch size of at most {rows}{read}"
            )
        if not 0 <= process_index < process_count:
            raise ValueError(
                f"process_index is {process_index}, which must lie below process_count "
                f"({process_count})"
            )
        if shards % process_count:
            raise ValueError(f"{shards} shards cannot be divided among {process_count} processes")
        if batch_size % shards:
            below, above = batch_size // shards * shards, -(-batch_size // shards) * shards
            raise ValueError(
                f"a batch of {counted(batch_size, 'example')} does not divide by {shards}, the "
                f"devices times the chunks on each; take {f'{below} or ' if below else ''}{above}"
            )
        check_count("seed", seed, 0)
        check_between("seed", seed, 0, 2**32 - 1)
        if labels is not None and len(labels) != rows:
            raise ValueError(f"{rows} rows of training text have {len(labels)} labels, not as many")
        self.text = text
        self.labels = None if labels is None else _as_32_bits(labels)
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.max_length = max_length
        self._views = views
        self._shards = shards
        self._prefetch = prefetch
        self._process = (process_index, process_count)
        # Random access, epoch after epoch, in constant memory. Not `shuffle(seed)`: it adds the
        # epoch to the seed, so epoch 1 of seed 0 would be epoch 0 of seed 1.
        order = grain.MapDataset.range(rows).seed(seed).shuffle()
        self._order = order.batch(batch_size, drop_remainder=drop_last)
        self.steps_per_epoch = len(self._order)
        remainder = rows % batch_size
        steps = counted(self.steps_per_epoch, "step")
        make = "makes" if rows == 1 else "make"
        self.description = f"{counted(rows, 'row')} {make} {steps} of {batch_size} an epoch"
        if remainder and drop_last:
            self.description += f"; {counted(remainder, 'row')} left out, drawn anew each time"
        elif remainder:
            self.description += (
                f"; the last is filled up with {batch_size - remainder} of the epoch's first rows"
            )

    def __len__(self) -> int:
        return self.steps_per_epoch

    def indices(self, step: int) -> Int[np.ndarray, "B"]:
        """Return the places in the text of the rows that make the global batch of a step."""
        rows = self._order[step]
        missing = self.batch_size - len(rows)
        if missing:
            first = self._order[step - step % self.steps_per_epoch]
            rows = np.concatenate([rows, first[:missing]])
        return rows

    def examples(self, step: int) -> Examples:
        """Tokenise the global batch of a step, in the order of the shuffle.

        Raises:
            ValueError: a negative step.
        """
        if step < 0:
            raise ValueError(f"the step is {step}; the first one is 0")
        indices = self.indices(step)
        rows = self.text.rows(indices.tolist())
        columns = len(rows[0])
        flat, _ = self.tokenizer([s for row in rows for s in row], self.max_length)
        views = self._views if columns == 1 else 1
        tokens = [flat[i : i + columns] * views for i in range(0, len(flat), columns)]
        return Examples(indices, tokens)

    def batch(self, step: int) -> TrainingBatch:
        """Make this host's share of the batch of a global step, any step of any epoch.

        Every host tokenises the whole global batch, since the dealing and the duplicates depend on
        all examples; it keeps its own shards.

        Raises:
            ValueError: a negative step.
        """
        examples = self.examples(step)
        labels = None if self.labels is None else self.labels[examples.indices]
        whole = pack(examples, self._shards, packed_lengths(self.max_length), labels)
        index, count = self._process
        return jax.tree.map(lambda x: np.split(x, count)[index], whole)

    def batches(self, start_step: int = 0, stop_step: int | None = None) -> Iterator[TrainingBatch]:
        """Make the batches from a step on, tokenised ahead in a background thread.

        Args:
            start_step: 0, or the number of steps already taken when a run is resumed.
            stop_step: the first step not wanted; None goes on for ever, epoch after epoch.

        Raises:
            ValueError: a negative step.
        """
        if start_step < 0:
            raise ValueError(f"start_step is {start_step}; the first one is 0")
        stop = _ENDLESS if stop_step is None else stop_step
        if stop <= start_step:
            return iter(())
        steps: Any = grain.MapDataset.range(start_step, stop).map(self.batch)
        # One thread: the tokenizer itself runs on all cores, outside of Python.
        options = grain.ReadOptions(
            num_threads=min(1, self._prefetch), prefetch_buffer_size=self._prefetch
        )
        return iter(steps.to_iter_dataset(options))


def _as_32_bits(labels: Sequence[int] | Sequence[float]) -> Shaped[np.ndarray, "n"]:
    array = np.asarray(labels)
    return array.astype(np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32)
