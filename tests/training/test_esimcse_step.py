"""ESimCSE: two steps against the equations, and a queue that no division of a batch changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_support import (
    SEED,
    SGD,
    Tiny,
    make_batches,
    make_examples,
    packed,
    padded,
    start,
    worst,
)

from simcse_jax.models import BertEncoder, one_a_row
from simcse_jax.objectives import ESimCSE, sentence_keys, stream
from simcse_jax.training import (
    RunCheckpoints,
    compile_step,
    fit,
    make_mesh,
    make_step,
    replicate,
)
from simcse_jax.training.devices import Parallel

KEY = jax.random.key(SEED)
SIZE = 8
EXAMPLES = [make_examples(step, SIZE, columns=2) for step in range(3)]


def run(
    tiny: Tiny,
    objective: ESimCSE,
    steps: int,
    *,
    devices: int = 1,
    chunks: int = 1,
    parallel: Parallel = "shard_map",
):
    """The states after each of so many steps, from the start on, and the losses."""
    mesh = make_mesh(jax.devices()[:devices])
    step = compile_step(make_step(objective.build(tiny.model()), SGD, chunks), mesh, parallel)
    state = replicate(start(tiny, objective), mesh)
    states, losses = [jax.device_get(state)], []
    for examples in EXAMPLES[:steps]:
        batch = packed(examples, devices * chunks)
        state, metrics = step(state, batch, replicate(KEY, mesh))
        states.append(jax.device_get(state))
        losses.append(float(metrics["loss"]))
    return states, losses


def embedded(tiny, encoder, head, examples, keys=None):
    """The vectors after the head, ``[B, 2, D]``, of a sentence a row."""
    ids, mask = padded(examples)
    states = BertEncoder(tiny.config).apply({"params": encoder}, one_a_row(ids, mask), keys)
    z = jnp.tanh(states[-1][:, 0] @ head["dense"]["kernel"] + head["dense"]["bias"])
    return z.reshape(len(examples), 2, -1)


def test_two_steps_are_those_of_the_equations(tiny):
    """The queue is longer than a batch; of the second step it has the first batch alone."""
    objective = ESimCSE(temperature=0.2, queue_size=12, momentum=0.7)
    states, losses = run(tiny, objective, 2)
    slow, queue = states[0].params["encoder"], jnp.zeros((0, tiny.config.hidden_size))
    for step, examples in enumerate(EXAMPLES[:2]):
        params = states[step].params
        numbers = jnp.arange(2 * SIZE)[None]
        keys = sentence_keys(stream(KEY, "dropout", step), numbers)

        def loss(params, examples=examples, keys=keys, queue=queue):
            z = embedded(tiny, params["encoder"], params["head"], examples, keys)
            h, positive = jnp.unstack(z / jnp.linalg.norm(z, axis=-1, keepdims=True), axis=1)
            unit = queue / jnp.linalg.norm(queue, axis=-1, keepdims=True)
            logits = h @ jnp.concatenate([positive, unit]).T / 0.2
            return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits))

        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
        np.testing.assert_allclose(losses[step], value, rtol=1e-5)
        descended = jax.tree.map(jnp.subtract, params, gradient)
        assert worst(states[step + 1].params, descended) < 2e-5

        slow = jax.tree.map(lambda a, b: 0.7 * a + 0.3 * b, slow, params["encoder"])
        new = embedded(tiny, slow, params["head"], examples)[:, 0]
        queue = jnp.concatenate([queue, new])[-12:]
        kept = states[step + 1].frozen
        assert worst(kept["momentum_encoder"], slow) < 1e-6
        assert int(kept["filled"]) == len(queue)
        np.testing.assert_allclose(kept["queue"][-len(queue) :], queue, atol=2e-5)


@pytest.fixture(scope="module")
def whole(tiny):
    """Three steps of whole batches on one device; the queue ends in the middle of a batch."""
    return run(tiny, ESimCSE(queue_size=11), 3)


@pytest.mark.parametrize(
    ("devices", "chunks", "parallel"), [(8, 1, "shard_map"), (2, 2, "pmap"), (1, 4, "shard_map")]
)
def test_devices_and_chunks_keep_the_same_sentences(tiny, whole, devices, chunks, parallel):
    states, losses = whole
    again, same = run(
        tiny, ESimCSE(queue_size=11), 3, devices=devices, chunks=chunks, parallel=parallel
    )
    np.testing.assert_allclose(same, losses, rtol=1e-4)
    assert int(again[-1].frozen["filled"]) == 11
    assert worst(again[-1].frozen, states[-1].frozen) < 1e-3
    assert worst(again[-1].params, states[-1].params) < 1e-4


def test_a_queue_shorter_than_a_batch_has_its_last_sentences(tiny):
    states, _ = run(tiny, ESimCSE(queue_size=3), 1)
    start, kept = states[0].params, states[1].frozen
    assert int(kept["filled"]) == 3
    new = embedded(tiny, start["encoder"], start["head"], EXAMPLES[0])[-3:, 0]
    np.testing.assert_allclose(kept["queue"], new, atol=2e-5)
    assert worst(kept["momentum_encoder"], start["encoder"]) < 1e-7  # not yet the updated one


def test_a_resumed_run_has_the_same_queue(tiny, tmp_path):
    """Parameters, momentum encoder and queue have the same bits as without an interruption."""
    objective = ESimCSE(queue_size=12)
    mesh = make_mesh(jax.devices()[:1])
    step = compile_step(make_step(objective.build(tiny.model()), SGD), mesh)

    def train(total, **options):
        state, key = replicate(start(tiny, objective), mesh), replicate(KEY, mesh)
        batches = make_batches(SIZE, columns=2)
        found = fit(step, state, batches, key, total, progress=False, **options).state
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found)]

    for total in (2, 4):
        with RunCheckpoints(tmp_path / "run") as checkpoints:
            resumed = train(total, checkpoints=checkpoints, resume=True)
    assert resumed == train(4)


def test_the_model_is_the_trained_encoder_alone(tiny):
    objective = ESimCSE()
    params = start(tiny, objective).params
    assert params.keys() == {"encoder", "head"}
    assert objective.export(params).keys() == {"encoder"}


def test_what_is_refused():
    with pytest.raises(ValueError, match="ESimCSE takes sentences or pairs, the text has 3"):
        ESimCSE().check_text(3, False)
    with pytest.raises(ValueError, match="labels, which ESimCSE does not read"):
        ESimCSE().check_text(2, True)
    with pytest.raises(ValueError, match="batch_size is 1"):
        ESimCSE().check_batch(1, 2, 32)
    ESimCSE(queue_size=10).check_rows(18, 8)
    with pytest.raises(ValueError, match="the text has 17 rows: .*; queue_size can be 9 at most"):
        ESimCSE(queue_size=10).check_rows(17, 8)
    with pytest.raises(ValueError, match="give more text"):
        ESimCSE().check_rows(8, 8)
    for field, value in (("queue_size", 0), ("momentum", 1.5), ("temperature", 0.0)):
        with pytest.raises(ValueError, match=field):
            ESimCSE(**{field: value})
