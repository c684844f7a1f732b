"""The same update on any number of devices and chunks, under shard_map and pmap, and processes."""

import functools
import json
import socket

import jax
import numpy as np
import pytest
import training_worker as worker
from jax import lax
from training_support import CASES, assert_same, case_batch, make_batch, start_worker, update

from simcse_jax.training import compile_step, make_mesh, replicate, shard_batch


@pytest.fixture(scope="module")
def one_device(tiny):
    """By the name of an objective, its gradient and metrics on one device at once."""
    assert tiny.config.hidden_dropout_prob > 0

    @functools.cache
    def compute(name):
        case = CASES[name]
        return update(tiny, case.objective, case_batch(case, 1), case.pooling)

    return compute


def assert_the_update_is_that_of_one_device(tiny, one_device, name, devices, chunks, parallel):
    case = CASES[name]
    batch = case_batch(case, devices * chunks)
    found = update(
        tiny,
        case.objective,
        batch,
        case.pooling,
        chunks=chunks,
        devices=jax.devices()[:devices],
        parallel=parallel,
    )
    assert_same(found, one_device(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "chunks", "parallel"),
    [(8, 1, "shard_map"), (2, 8, "pmap")],
)
@pytest.mark.parametrize("name", CASES)
def test_the_update_depends_on_no_layout(tiny, one_device, name, devices, chunks, parallel):
    assert_the_update_is_that_of_one_device(tiny, one_device, name, devices, chunks, parallel)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "chunks", "parallel"),
    [
        (2, 1, "shard_map"),
        (4, 1, "shard_map"),
        (8, 2, "shard_map"),
        (1, 8, "shard_map"),
        (1, 1, "pmap"),
        (4, 2, "pmap"),
        (8, 1, "pmap"),
    ],
)
def test_the_other_numbers_of_devices(tiny, one_device, devices, chunks, parallel):
    args = ("duplicates", devices, chunks, parallel)
    assert_the_update_is_that_of_one_device(tiny, one_device, *args)


@pytest.mark.slow
def test_there_is_something_to_compare(tiny, one_device):
    """Duplicates, labels and masks are in the cases, and every objective has a gradient."""
    for name in CASES:
        _, metrics = one_device(name)
        assert metrics["gradient_norm"] > 1e-2
        assert np.isfinite(metrics["loss"])
    assert one_device("duplicates")[1]["duplicates"] == 1


@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_the_state_is_given_away_and_comes_back_replicated(parallel):
    mesh = make_mesh(jax.devices()[:2])

    def step(state, batch, key):
        mean = lax.pmean(batch.mean() + jax.random.uniform(key), "data")
        return {"w": state["w"] + mean, "none": None}, {"loss": mean}

    run = compile_step(step, mesh, parallel)
    state, key = replicate(({"w": np.ones(3), "none": None}, jax.random.key(3)), mesh)
    for number in (1, 2):
        new, metrics = run(state, np.arange(4.0), key)
        assert state["w"].is_deleted()
        assert new["w"].sharding == key.sharding == metrics["loss"].sharding
        expected = 1 + number * (1.5 + jax.random.uniform(jax.random.key(3)))
        np.testing.assert_allclose(new["w"], np.full(3, expected), rtol=1e-6)
        state = new


def test_a_batch_that_cannot_be_divided(tiny):
    mesh = make_mesh()
    assert mesh.axis_names == ("data",)
    with pytest.raises(ValueError, match="batch of 12 rows cannot be divided among 8 devices"):
        shard_batch(make_batch(size=12, shards=12), mesh)
    with pytest.raises(ValueError, match="batch of no rows"):
        shard_batch(np.float32(1), mesh)
    case = CASES["unsupervised"]
    with pytest.raises(ValueError, match="batch of 12 rows cannot be divided among 8 devices"):
        update(
            *(tiny, case.objective, make_batch(size=12, shards=12)),
            devices=jax.devices(),
            parallel="pmap",
        )


@pytest.mark.slow
def test_two_processes_with_two_devices_each(tmp_path, golden, tiny, one_device):
    """`jax.distributed` with gloo: losses, parameters, checkpoints and updates of one process."""
    model = golden / "tiny-bert"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [start_worker(model, tmp_path, address, i, 2, devices=2) for i in range(2)]
    try:
        expected, records = worker.train(model, None, worker.sgd, jax.devices()[:4])
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()

    found = worker.load(tmp_path / "final.npz", expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5)
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in lines] == list(range(1, 7))
    for mine, theirs in zip(lines, records, strict=True):
        for name in ("loss", "gradient_norm", "accuracy", "alignment", "uniformity"):
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, err_msg=name)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["5", "6"]

    wanted = {name: one_device(name) for name in worker.UPDATES}
    found = worker.load(tmp_path / "updates.npz", wanted)
    for name in wanted:
        assert_same(found[name], wanted[name])
