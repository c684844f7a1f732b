import itertools
from collections import Counter

import jax
import numpy as np
import pytest

from simcse_jax.data.batches import (
    Examples,
    TrainingBatches,
    group_equal,
    pack,
    packed_count,
    packed_lengths,
    split_shards,
)
from simcse_jax.data.embedded import minilm_folder
from simcse_jax.data.packing import deal
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.data.training_text import TrainingText, read_training_file

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


def random_tokens(size, columns=2, longest=30, seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(2, longest + 1, (size, columns))
    return [[random.integers(5, 64, n, dtype=np.int32) for n in row] for row in lengths]


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def tokens_of(shard):
    """The token ids of each sentence of a shard, by its segment; and that nothing else is there."""
    rows = shard.rows
    found = {}
    for row in range(len(rows.input_ids)):
        for segment in np.unique(rows.segment_ids[row]):
            here = rows.segment_ids[row] == segment
            if segment:
                ids = rows.input_ids[row][here]
                np.testing.assert_array_equal(rows.position_ids[row][here], np.arange(len(ids)))
                assert segment not in found  # a sentence lies in one row
                found[int(segment)] = ids.tolist()
            else:
                assert not rows.input_ids[row][here].any()
    return found


def examples_of(batch, shards):
    """The token ids of every example, in the global order; every shard is complete in itself."""
    found = {}
    columns = batch.sentences.shape[1]
    for s in range(shards):
        shard = jax.tree.map(lambda x, s=s: x[s], split_shards(batch, shards))
        segments = tokens_of(shard)
        assert sorted(segments) == list(range(1, shard.sentences.size + 1))
        for e, numbers in enumerate(shard.sentences):
            example = numbers[0] // columns
            assert numbers.tolist() == [example * columns + c for c in range(columns)]
            found[int(example)] = [segments[e * columns + c + 1] for c in range(columns)]
    return [found[e] for e in range(len(found))]


# Which rows, in which order


def test_an_epoch_sees_each_row_once_and_the_next_in_another_order(tokenizer):
    batches = TrainingBatches(make_text(48), tokenizer, 8)
    assert len(batches) == batches.steps_per_epoch == 6
    epochs = [np.concatenate([batches.indices(e * 6 + s) for s in range(6)]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(48))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_another_seed_is_another_order_in_every_epoch(tokenizer):
    def order(seed, epoch):
        batches = TrainingBatches(make_text(48), tokenizer, 48, seed=seed)
        return tuple(batches.indices(epoch))

    assert len({order(seed, epoch) for seed in range(4) for epoch in range(4)}) == 16
    assert order(2, 3) == order(2, 3)


@pytest.mark.parametrize("prefetch", [0, 1, 8])
def test_starting_at_a_step_equals_skipping_to_it(tokenizer, prefetch):
    text = make_text(50, columns=2)
    options = {"shards": 4, "labels": range(50)}
    whole = list(TrainingBatches(text, tokenizer, 8, prefetch=prefetch, **options).batches(0, 20))
    assert len(whole) == 20
    for start in (0, 5, 6, 13):
        resumed = TrainingBatches(text, tokenizer, 8, **options).batches(start)  # endless
        for left, right in zip(itertools.islice(resumed, 20 - start), whole[start:], strict=True):
            assert_same(left, right)
    assert list(TrainingBatches(text, tokenizer, 8).batches(4, 4)) == []


def test_the_remainder_is_left_out_or_filled_up(tokenizer):
    text = make_text(21)
    dropped = TrainingBatches(text, tokenizer, 8)
    assert len(dropped) == 2
    assert dropped.description == (
        "21 rows make 2 steps of 8 an epoch; 5 rows left out, drawn anew each time"
    )
    one = TrainingBatches(make_text(3), tokenizer, 2).description
    assert one == "3 rows make 1 step of 2 an epoch; 1 row left out, drawn anew each time"
    assert (
        TrainingBatches(make_text(1), tokenizer, 1).description
        == "1 row makes 1 step of 1 an epoch"
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


# What is in a batch


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_batch_holds_the_tokens_of_its_rows_and_their_labels(tokenizer, columns, shards):
    text = make_text(columns=columns)
    labels = [row % 3 for row in range(len(text))]
    batches = TrainingBatches(text, tokenizer, 8, max_length=64, labels=labels, shards=shards)
    for step in (0, 7):
        batch = batches.batch(step)
        indices = batches.indices(step)
        found = examples_of(batch, shards)
        for example, index in zip(found, indices, strict=True):
            expected, _ = tokenizer(text.rows([int(index)])[0])
            assert example == [ids.tolist() for ids in expected]
        assert all(x.dtype == np.int32 for x in jax.tree.leaves(batch))
        order = batch.sentences[:, 0] // columns
        np.testing.assert_array_equal(batch.labels, np.array(labels)[indices][order])
    assert TrainingBatches(text, tokenizer, 8).batch(0).labels is None
    scores = TrainingBatches(text, tokenizer, 8, labels=[0.5] * len(text))
    assert scores.batch(0).labels.dtype == np.float32


def test_one_column_is_as_many_views_as_are_asked_for(tokenizer):
    text = make_text()
    for views in (1, 2, 3):
        batch = TrainingBatches(text, tokenizer, 8, views=views, max_length=64).batch(0)
        for example in examples_of(batch, 1):
            assert example == [example[0]] * views
    pairs = TrainingBatches(make_text(columns=2), tokenizer, 8, views=2).batch(0)
    assert pairs.sentences.shape == (8, 2)


def test_the_sentences_do_not_depend_on_the_shards(tokenizer):
    text = make_text(columns=2)

    def batch(shards):
        return TrainingBatches(text, tokenizer, 8, labels=range(50), shards=shards).batch(3)

    whole = batch(1)
    np.testing.assert_array_equal(whole.sentences, np.arange(16).reshape(8, 2))
    for shards in (2, 4, 8):
        spread = batch(shards)
        assert examples_of(spread, shards) == examples_of(whole, 1)
        order = spread.sentences[:, 0] // 2
        assert sorted(order) == list(range(8))
        np.testing.assert_array_equal(spread.labels, whole.labels[order])
        np.testing.assert_array_equal(spread.groups, whole.groups[order])


def test_hosts_hold_their_shares_of_the_global_batch(tokenizer):
    text = make_text(50, columns=3)
    options = {"shards": 8, "labels": [row / 50 for row in range(50)]}
    for step in (0, 3, 9):
        whole = TrainingBatches(text, tokenizer, 8, **options).batch(step)
        parts = [
            TrainingBatches(text, tokenizer, 8, process_index=p, process_count=4, **options).batch(
                step
            )
            for p in range(4)
        ]
        assert_same(jax.tree.map(lambda *x: np.concatenate(x), *parts), whole)
        assert {part.sentences.shape for part in parts} == {(2, 3)}


def test_truncated_sentences_keep_the_last_special_token(tokenizer):
    text = TrainingText((("a " * 40, "a man", "the " * 50, "two dogs"),))
    batch = TrainingBatches(text, tokenizer, 4, max_length=8).batch(0)
    assert batch.rows.input_ids.shape[1] == 8
    separator = tokenizer(["a"])[0][0][-1]
    found = [example[0] for example in examples_of(batch, 1)]
    assert sorted(map(len, found))[-2:] == [8, 8]
    assert all(ids[-1] == separator for ids in found)


def test_long_sentences_are_cut_and_take_longer_rows(tokenizer):
    words = " ".join(WORDS * 20)
    text = TrainingText((("a dog", words) * 4, ("a man",) * 8))
    batch = TrainingBatches(text, tokenizer, 8, max_length=100).batch(0)
    assert batch.rows.input_ids.shape[1] == 100
    short = TrainingBatches(TrainingText((("a dog",) * 8,) * 2), tokenizer, 8, max_length=100)
    assert short.batch(0).rows.input_ids.shape[1] == 64


# Duplicates


def test_equal_first_sentences_are_one_group():
    assert group_equal([b"a", b"b", b"a", b"c", b"b", b"a"]).tolist() == [0, 1, 0, 3, 1, 0]
    groups = group_equal([b"a", b"b"])
    assert (groups.tolist(), groups.dtype) == ([0, 1], np.int32)


def test_groups_are_by_the_tokens_of_the_first_column(tokenizer):
    columns = (
        ("a man", "two dogs", "a man", "A Man", "the park", "a man", "run", "is"),
        ("run",) * 8,  # equal positives make no group
    )
    for text in (TrainingText(columns), TrainingText(columns[:1])):
        for shards in (1, 4):
            batches = TrainingBatches(text, tokenizer, 8, shards=shards, views=2)
            batch = batches.batch(0)
            rows = text.rows(batches.indices(0).tolist())
            sentences = [row[0].lower() for row in rows]  # the tokenizer is uncased
            order = batch.sentences[:, 0] // 2
            expected = [sentences.index(sentences[i]) for i in order]
            assert batch.groups.tolist() == expected
            assert sum(batch.groups != order) == 3


# Dealing and packing


def test_examples_are_dealt_in_a_snake():
    lengths = [2, 9, 5, 7, 3, 8, 4, 6]
    assert deal(lengths, 1) == [list(range(8))]

    def dealt(shards):
        return [sorted(lengths[i] for i in members) for members in deal(lengths, shards)]

    assert dealt(2) == [[2, 5, 6, 9], [3, 4, 7, 8]]
    assert dealt(4) == [[2, 9], [3, 8], [4, 7], [5, 6]]


@pytest.mark.parametrize("seed", range(30))
def test_dealt_shards_have_as_many_examples_and_about_as_many_tokens(seed):
    """A shard's tokens differ from another's by the range of the lengths at most."""
    random = np.random.default_rng(seed)
    shards = int(random.integers(1, 17))
    count = shards * int(random.integers(1, 40))
    draw = (
        lambda: random.integers(3, 33, count),
        lambda: random.geometric(0.05, count) + 2,
        lambda: np.full(count, 7),
    )[seed % 3]
    lengths = draw().tolist()
    dealt = deal(lengths, shards)
    assert [len(members) for members in dealt] == [count // shards] * shards
    assert sorted(i for members in dealt for i in members) == list(range(count))
    assert all(members == sorted(members) for members in dealt)
    tokens = [sum(lengths[i] for i in members) for members in dealt]
    assert max(tokens) - min(tokens) <= max(lengths) - min(lengths)
    assert dealt == deal(lengths, shards)


@pytest.mark.parametrize("shards", [1, 3, 12])
def test_every_shard_is_packed_by_itself(shards):
    tokens = random_tokens(12)
    labels = np.arange(12)
    batch = pack(Examples(np.arange(12), tokens), shards, (16, 40), labels)
    assert batch.rows.input_ids.shape[1] == 40
    assert len(batch.rows.input_ids) % shards == 0
    assert examples_of(batch, shards) == [[ids.tolist() for ids in row] for row in tokens]
    np.testing.assert_array_equal(batch.labels, batch.sentences[:, 0] // 2)


def test_packed_shapes_are_few():
    assert packed_lengths(512) == (64, 128, 256, 512)
    assert packed_lengths(100) == (64, 100)
    assert packed_lengths(32) == (32,)
    counts = [packed_count(rows) for rows in range(1, 65)]
    assert counts[:16] == list(range(1, 17))
    assert len(set(counts[16:])) == 16
    for rows, count in enumerate(counts, start=1):
        assert rows <= count < 1.125 * rows or count == rows


def test_dealing_costs_no_density_on_real_text(shared_data):
    """Slots per token of wiki1m at length 32: about a tenth is padding, on 8 shards as on one."""
    text = read_training_file(shared_data / "wikipedia" / "wiki1m_head.txt")
    tokenizer = Tokenizer.from_folder(minilm_folder())

    def density(shards):
        batches = TrainingBatches(text, tokenizer, 512, views=2, shards=shards, prefetch=0)
        rows = [batches.batch(step).rows for step in range(len(batches))]
        assert len({r.input_ids.shape for r in rows}) <= 5  # each is one compilation of the step
        tokens = sum(r.attention_mask.sum() for r in rows)
        return sum(r.input_ids.size for r in rows) / tokens

    assert density(8) <= 1.10
    assert density(8) <= 1.01 * density(1)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 11}, "10 rows of training text cannot fill one batch of 11; .* at most 10"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"shards": 3}, "a batch of 8 examples does not divide by 3, .*; take 6 or 9"),
        ({"shards": 16}, "does not divide by 16, .*; take 16"),
        ({"process_count": 3}, "1 shards cannot be divided among 3 processes"),
        (
            {"process_count": 2, "process_index": 2, "shards": 2},
            "process_index is 2, which must lie below",
        ),
        ({"shards": 0}, "shards is 0; it must be at least 1"),
        ({"views": 0}, "views is 0; it must be at least 1"),
        ({"max_length": 2}, "max_length is 2; it must be at least 3"),
        ({"seed": -1}, "seed is -1"),
        ({"prefetch": -1}, "prefetch is -1"),
        ({"labels": [0] * 9}, "10 rows of training text have 9 labels"),
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
