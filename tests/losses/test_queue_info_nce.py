"""InfoNCE with a queue against loops in float64, InfoNCE alone, and several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jax.test_util import check_grads

from simcse_jax.losses.info_nce import info_nce
from simcse_jax.losses.queue_info_nce import queue_info_nce

RNG = np.random.default_rng(0)
ANCHORS, POSITIVES = RNG.normal(size=(2, 16, 8))
QUEUE = RNG.normal(size=(10, 8))


def float32(*arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def by_hand(anchors, positives, queue, temperature):
    """The equation, a sentence at a time."""

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    losses, right = [], 0
    for i, anchor in enumerate(anchors):
        scores = [cosine(anchor, other) / temperature for other in (*positives, *queue)]
        losses.append(np.log(np.exp(scores).sum()) - scores[i])
        right += np.argmax(scores) == i
    return np.mean(losses), right / len(anchors)


@pytest.mark.parametrize("filled", [0, 3, 10])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_last_rows_of_the_queue_count(filled, temperature):
    found = queue_info_nce(
        *float32(ANCHORS, POSITIVES, QUEUE), jnp.int32(filled), temperature=temperature
    )
    wanted = by_hand(ANCHORS, POSITIVES, QUEUE[len(QUEUE) - filled :], temperature)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_an_empty_queue_leaves_info_nce():
    anchors, positives, queue = float32(ANCHORS, POSITIVES, QUEUE)
    found = queue_info_nce(anchors, positives, queue, 0, temperature=0.1)
    np.testing.assert_allclose(found, info_nce(anchors, positives, temperature=0.1), rtol=1e-5)


def test_gradients():
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (ANCHORS, POSITIVES)]
        queue = jnp.asarray(QUEUE)
        check_grads(
            lambda *x: queue_info_nce(*x, queue, 7, temperature=0.5).loss, arrays, 1, rtol=1e-5
        )
        gradient = jax.grad(lambda q: queue_info_nce(*arrays, q, 7).loss)(queue)
        np.testing.assert_array_equal(gradient, 0)


def test_eight_devices_give_what_one_gives():
    """In value and gradient, each device with two of the sentences and the whole queue."""
    anchors, positives, queue = float32(ANCHORS, POSITIVES, QUEUE)

    def loss(anchors, positives, queue, axis_name=None):
        return queue_info_nce(anchors, positives, queue, 7, axis_name=axis_name).loss

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("data")
    spread = jax.shard_map(
        functools.partial(loss, axis_name="data"),
        mesh=mesh,
        in_specs=(rows, rows, PartitionSpec()),
        out_specs=PartitionSpec(),
    )
    found = jax.jit(jax.value_and_grad(spread, (0, 1)))(anchors, positives, queue)
    wanted = jax.jit(jax.value_and_grad(loss, (0, 1)))(anchors, positives, queue)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.usefixtures("unchecked")
def test_what_is_refused():
    anchors, positives, queue = float32(ANCHORS, POSITIVES, QUEUE)
    with pytest.raises(ValueError, match="temperature"):
        queue_info_nce(anchors, positives, queue, 1, temperature=0.0)
    for wrong in (
        (anchors, positives[1:], queue),
        (anchors, positives, queue[:, 1:]),
        (anchors, positives, queue[0]),
    ):
        with pytest.raises(ValueError, match="must be of one shape"):
            queue_info_nce(*wrong, 1)
