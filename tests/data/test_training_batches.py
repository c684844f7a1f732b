import itertools
from collections import Counter

import numpy as np
import pytest
from simcse_jax.data.training_batches import (
    TrainingBatches,
    count_duplicates,
    default_lengths,
    group_rows,
    packed_count,
    packed_lengths,
)

from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.data.training_text import TrainingText

WORDS = ("a", "man", "is", "playing", "the", "guitar", "and", "two", "dogs", "run", "in", "green")


@pytest.fixture(scope="module")
def tokenizer(golden):
    return Tokenizer.from_folder(golden / "tiny-bert")


def make_text(rows=50, columns=1, longest=12):
    def sentence(row, column):
        return " ".join(
            WORDS[(row * 7 + column + i) % len(WORDS)] for i in range(row % longest + 1)
        )

    return TrainingText(
        tuple(tuple(f"{sentence(r, c)} {r} {c}" for r in range(rows)) for c in range(columns))
    )


def assert_same(left, right):
    assert (left.step, left.epoch) == (right.step, right.epoch)
    assert (left.duplicates, left.truncated) == (right.duplicates, right.truncated)
    for name in ("input_ids", "attention_mask", "group_ids"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_batch_holds_the_tokens_of_its_rows(tokenizer, columns):
    text = make_text(columns=columns)
    batches = TrainingBatches(text, tokenizer, 8, max_length=64)
    batch = batches.batch(2)
    shape = (8, columns, batch.input_ids.shape[2])
    assert batch.input_ids.shape == batch.attention_mask.shape == shape
    assert batch.input_ids.dtype == batch.group_ids.dtype == np.int32
    assert batch.attention_mask.dtype == np.bool_
    for row, index in enumerate(batches.indices(2)):
        expected, _ = tokenizer(text.rows([index])[0])
        for column, ids in enumerate(expected):
            mask = batch.attention_mask[row, column]
            np.testing.assert_array_equal(batch.input_ids[row, column][mask], ids)
            assert mask[: len(ids)].all()  # padded on the right
            assert (batch.input_ids[row, column][~mask] == tokenizer.pad_id).all()


def test_an_epoch_sees_each_row_once_and_the_next_in_another_order(tokenizer):
    batches = TrainingBatches(make_text(48), tokenizer, 8)
    assert len(batches) == batches.steps_per_epoch == 6
    epochs = [np.concatenate([batches.indices(e * 6 + s) for s in range(6)]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(48))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [batches.batch(s).epoch for s in (0, 5, 6, 17)] == [0, 0, 1, 2]


def test_another_seed_is_another_order_in_every_epoch(tokenizer):
    def order(seed, epoch):
        batches = TrainingBatches(make_text(48), tokenizer, 48, seed=seed)
        return tuple(batches.indices(epoch))

    assert len({order(seed, epoch) for seed in range(4) for epoch in range(4)}) == 16
    assert order(2, 3) == order(2, 3)


@pytest.mark.parametrize("prefetch", [0, 1, 8])
def test_starting_at_a_step_equals_skipping_to_it(tokenizer, prefetch):
    text = make_text(50, columns=2)
    whole = list(TrainingBatches(text, tokenizer, 8, prefetch=prefetch).batches(0, 20))
    assert [batch.step for batch in whole] == list(range(20))
    for start in (0, 5, 6, 13):
        resumed = TrainingBatches(text, tokenizer, 8).batches(start)  # endless
        for left, right in zip(itertools.islice(resumed, 20 - start), whole[start:], strict=True):
            assert_same(left, right)
    assert list(TrainingBatches(text, tokenizer, 8).batches(4, 4)) == []


def test_hosts_hold_the_rows_of_the_global_batch(tokenizer):
    text = make_text(50, columns=3)
    for step in (0, 3, 9):
        whole = TrainingBatches(text, tokenizer, 8).batch(step)
        parts = [
            TrainingBatches(text, tokenizer, 8, process_index=p, process_count=4).batch(step)
            for p in range(4)
        ]
        assert {part.input_ids.shape for part in parts} == {(2, *whole.input_ids.shape[1:])}
        for name in ("input_ids", "attention_mask", "group_ids"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(joined, getattr(whole, name))
        assert {part.duplicates for part in parts} == {whole.duplicates}


def test_the_remainder_is_left_out_or_filled_up(tokenizer):
    text = make_text(21)
    dropped = TrainingBatches(text, tokenizer, 8)
    assert len(dropped) == 2
    assert dropped.description == (
        "21 rows make 2 steps of 8 an epoch; 5 rows, others each time, are left out"
    )
    left_out = [
        set(range(21)) - {i for s in (e, e + 1) for i in dropped.indices(s)} for e in (0, 2)
    ]
    assert [len(rows) for rows in left_out] == [5, 5]
    assert left_out[0] != left_out[1]

    kept = TrainingBatches(text, tokenizer, 8, drop_last=False)
    assert len(kept) == 3
    assert "filled up with 3 of the epoch's first rows" in kept.description
    for epoch in (0, 1):
        steps = [kept.indices(3 * epoch + s) for s in range(3)]
        assert [len(rows) for rows in steps] == [8, 8, 8]
        counts = Counter(int(i) for rows in steps for i in rows)
        assert sorted(counts) == list(range(21))
        assert {i for i, n in counts.items() if n == 2} == set(steps[0][:3].tolist())
        assert len(set(steps[2].tolist())) == 8
    assert "left out" not in TrainingBatches(make_text(16), tokenizer, 8).description


def test_there_are_few_lengths(tokenizer):
    assert default_lengths(32) == (16, 24, 32)
    assert default_lengths(64) == (32, 48, 64)
    assert default_lengths(512) == (256, 384, 512)
    assert default_lengths(20) == (16, 20)
    assert default_lengths(5) == (5,)
    text = make_text(60, longest=30)
    batches = TrainingBatches(text, tokenizer, 2, max_length=32)
    seen = list(batches.batches(0, 30))
    assert {batch.input_ids.shape[2] for batch in seen} == {16, 24, 32}
    for batch in seen:
        shortest = next(n for n in (16, 24, 32) if n >= batch.attention_mask.sum(-1).max())
        assert batch.input_ids.shape[2] == shortest
    one = TrainingBatches(text, tokenizer, 2, lengths=(32,))
    assert {batch.input_ids.shape[2] for batch in one.batches(0, 30)} == {32}


def test_truncated_sentences_are_counted_and_keep_the_last_special_token(tokenizer):
    text = TrainingText((("a " * 40, "a man", "the " * 50, "two dogs"),))
    batch = TrainingBatches(text, tokenizer, 4, max_length=8).batch(0)
    assert batch.truncated == 2
    assert batch.input_ids.shape == (4, 1, 8)
    separator = tokenizer(["a"])[0][0][-1]
    last = batch.attention_mask.sum(-1)[:, 0] - 1
    assert (batch.input_ids[np.arange(4), 0, last] == separator).all()


def test_rows_that_share_a_sentence_are_one_group():
    rows = [("a", "b", "n"), ("c", "d", "n"), ("a", "e", "x"), ("f", "d", "x"), ("g", "a", "b")]
    assert group_rows(rows).tolist() == [0, 1, 0, 1, 0]  # anchors, positives, one of each
    assert group_rows([("a", "b"), ("c", "d"), ("b", "c")]).tolist() == [0, 0, 0]  # continued
    assert group_rows([("a", "b", "c"), ("d", "e", "a")]).tolist() == [0, 1]  # not by a negative
    assert group_rows([("a",), ("b",), ("a",), ("a",)]).tolist() == [0, 1, 0, 0]
    assert group_rows([("a", "a"), ("b", "b")]).tolist() == [0, 1]


def test_duplicates_are_counted(tokenizer):
    assert count_duplicates(np.array([0, 1, 0, 0, 1])) == 3
    assert count_duplicates(np.arange(4)) == 0
    text = TrainingText(
        (("a man", "two dogs", "a man", "A Man", "the park", "a man", "run", "is"),)
    )
    batches = TrainingBatches(text, tokenizer, 8)
    batch = batches.batch(0)
    sentences = [row[0].lower() for row in text.rows(batches.indices(0).tolist())]
    assert batch.duplicates == 3  # the tokenizer is uncased
    assert batch.group_ids.tolist() == [sentences.index(s) for s in sentences]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 11}, "10 rows of training text do not fill one batch of 11; .* at most 10"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"device_count": 3}, "a batch of 8 rows does not divide by 3 devices; take 6 or 9"),
        ({"device_count": 16}, "does not divide by 16 devices; take 16"),
        ({"process_count": 3}, "a batch of 8 rows does not divide by 3 processes; take 6 or 9"),
        ({"process_count": 2, "process_index": 2}, "process_index is 2, which must lie below"),
        ({"device_count": 0}, "0 devices cannot train"),
        ({"lengths": (16, 64)}, r"padded lengths are \[16, 64\]; the longest must be max_length"),
        ({"max_length": 2}, "max_length at least 3"),
        ({"seed": -1}, "seed is -1"),
        ({"prefetch": -1}, "prefetch is -1"),
    ],
)
def test_impossible_settings_are_refused(tokenizer, settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingBatches(make_text(10), tokenizer, **{"batch_size": 8, **settings})


def test_a_negative_step_is_refused(tokenizer):
    batches = TrainingBatches(make_text(10), tokenizer, 8)
    with pytest.raises(ValueError, match="the first one is 0"):
        batches.batch(-1)
    with pytest.raises(ValueError, match="the first one is 0"):
        batches.batches(-1)


def test_an_error_in_the_background_reaches_the_caller(tokenizer):
    class Broken:
        def __len__(self):
            return 8

        def rows(self, indices):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(TrainingBatches(Broken(), tokenizer, 8).batches())


def tokens_of(batch):
    """The token ids of each sentence of each example, read back from a packed batch."""
    rows = batch.rows
    found = {}
    for row in range(len(rows.input_ids)):
        for segment in np.unique(rows.segment_ids[row]):
            here = rows.segment_ids[row] == segment
            if segment:
                ids = rows.input_ids[row][here]
                np.testing.assert_array_equal(rows.position_ids[row][here], np.arange(len(ids)))
                assert rows.attention_mask[row][here].all()
                assert segment not in found  # a sentence lies in one row
                found[segment] = ids.tolist()
            else:
                assert not rows.attention_mask[row][here].any()
    return found


@pytest.mark.parametrize("columns", [2, 3])
def test_a_packed_batch_holds_the_same_sentences_and_the_labels(tokenizer, columns):
    text = make_text(columns=columns)
    labels = [row % 3 for row in range(len(text))]
    batches = TrainingBatches(text, tokenizer, 8, max_length=64, labels=labels)
    for step in (0, 7):
        batch = batches.packed(step)
        found = tokens_of(batch)
        assert (batch.step, batch.epoch, batch.sentences.shape) == (step, step // 6, (8, columns))
        assert sorted(found) == list(range(1, 8 * columns + 1))
        assert batch.labels.dtype == np.int32
        for row, index in enumerate(batches.indices(step)):
            expected, _ = tokenizer(text.rows([index])[0])
            assert [found[n] for n in batch.sentences[row]] == [ids.tolist() for ids in expected]
            assert batch.labels[row] == labels[index]
        padded = batches.batch(step).input_ids
        assert batch.rows.input_ids.size < padded.size
    assert TrainingBatches(text, tokenizer, 8).packed(0).labels is None
    scores = TrainingBatches(text, tokenizer, 8, labels=[0.5] * len(text))
    assert scores.packed(0).labels.dtype == np.float32


def test_hosts_share_a_packed_batch_and_devices_add_empty_rows_only(tokenizer):
    text = make_text(columns=2)
    labels = [row / 50 for row in range(len(text))]

    def batch(devices=1, host=0, hosts=1):
        return TrainingBatches(
            text,
            tokenizer,
            8,
            labels=labels,
            device_count=devices,
            process_index=host,
            process_count=hosts,
        ).packed(3)

    whole = batch()
    spread = batch(devices=8)
    needed = len(whole.rows.input_ids)
    assert len(spread.rows.input_ids) == 8 > needed
    parts = [batch(devices=8, host=host, hosts=2) for host in range(2)]
    for name in ("input_ids", "attention_mask", "segment_ids", "position_ids"):
        all_rows = getattr(spread.rows, name)
        np.testing.assert_array_equal(all_rows[:needed], getattr(whole.rows, name))
        assert not all_rows[needed:].any()
        joined = np.concatenate([getattr(part.rows, name) for part in parts])
        np.testing.assert_array_equal(joined, all_rows)
    for name in ("sentences", "labels"):
        np.testing.assert_array_equal(getattr(spread, name), getattr(whole, name))
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name))


def test_packed_batches_start_at_any_step(tokenizer):
    batches = TrainingBatches(make_text(columns=2), tokenizer, 8, labels=range(50))
    found = list(batches.packed_batches(5, 9))
    assert [batch.step for batch in found] == [5, 6, 7, 8]
    for batch in found:
        expected = batches.packed(batch.step)
        np.testing.assert_array_equal(batch.rows.input_ids, expected.rows.input_ids)
        np.testing.assert_array_equal(batch.labels, expected.labels)


def test_long_sentences_are_cut_and_take_longer_rows(tokenizer):
    words = " ".join(WORDS * 20)
    text = TrainingText((("a dog", words) * 4, ("a man",) * 8))
    batches = TrainingBatches(text, tokenizer, 8, max_length=100)
    assert batches.packed_lengths == packed_lengths(100) == (64, 100)
    batch = batches.packed(0)
    assert batch.rows.input_ids.shape[1] == 100
    assert batch.truncated == 4
    short = TrainingBatches(TrainingText((("a dog",) * 8,) * 2), tokenizer, 8, max_length=100)
    assert short.packed(0).rows.input_ids.shape[1] == 64


def test_packed_shapes_are_few():
    assert packed_lengths(512) == (64, 128, 256, 512)
    assert packed_lengths(32) == (32,)
    counts = [packed_count(rows, 1) for rows in range(1, 65)]
    assert counts[:16] == list(range(1, 17))
    assert len(set(counts[16:])) == 16
    for rows, count in enumerate(counts, start=1):
        assert rows <= count < 1.125 * rows or count == rows
        assert packed_count(rows, 8) % 8 == 0
        assert packed_count(rows, 8) >= rows


def test_labels_that_do_not_fit(tokenizer):
    with pytest.raises(ValueError, match="50 rows of training text have 49 labels"):
        TrainingBatches(make_text(columns=2), tokenizer, 8, labels=[0] * 49)
