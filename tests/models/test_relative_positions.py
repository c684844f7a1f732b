"""MPNet's buckets of distances, against the formula of T5 as transformers computes it."""

import math

import jax.numpy as jnp
import numpy as np

from simcse_jax.models.relative_positions import between, bucket


def formula(distance):
    """Raffel et al. 2020, as its code: 32 buckets, half for each side, to a distance of 128."""
    side, size = (16 if distance > 0 else 0), abs(distance)
    if size < 8:
        return side + size
    exact = 8 * math.log(size / 8) / math.log(128 / 8)
    return side + min(8 + int(exact + 1e-9), 15)


def test_every_distance_falls_into_its_bucket():
    distances = np.arange(-600, 601)
    expected = [formula(int(d)) for d in distances]
    np.testing.assert_array_equal(bucket(jnp.asarray(distances)), expected)
    assert set(expected) == set(range(32)) - {16}  # 0 has one side


def test_distances_are_of_key_from_query():
    positions = np.array([[0, 1, 2, 0, 1]])
    distances = np.asarray(between(positions))
    assert distances.shape == (1, 5, 5)
    assert distances[0, 0].tolist() == [0, 1, 2, 0, 1]
    assert distances[0, 2].tolist() == [-2, -1, 0, -2, -1]
