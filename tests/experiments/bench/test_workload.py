"""What every library works on: the same sentences, padded for others and packed for ours."""

import numpy as np
import pytest

from experiments.bench.train import TrainBenchmark
from experiments.bench.workload import padded


def test_padded():
    ids, mask = padded([np.array([2, 5, 3]), np.array([2, 3])])
    np.testing.assert_array_equal(ids, [[2, 5, 3], [2, 3, 0]])
    np.testing.assert_array_equal(mask, [[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize("shards", [1, 2])
def test_all_libraries_train_on_the_same_sentences(tiny_data, shards):
    settings = TrainBenchmark(train_file=tiny_data / "text.txt", batch_size=8, steps=2)
    ours = settings.batches(shards)
    for step, (ids, mask) in enumerate(settings.padded_batches()):
        theirs = [tuple(row[: length.sum()]) for row, length in zip(ids, mask, strict=True)]
        rows = ours.batch(step).rows
        packed = [
            tuple(row[segments == segment])
            for row, segments in zip(rows.input_ids, rows.segment_ids, strict=True)
            for segment in np.unique(segments[segments > 0])
        ]
        assert sorted(packed) == sorted(theirs * 2)
