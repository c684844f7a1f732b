"""The same update on any number of devices, under pmap, and on several processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training_worker as worker
from training_support import MASKING, make_batch, packed

from simcse_jax.training import (
    TrainSettings,
    compile_step,
    make_mesh,
    replicate,
    shard_batch,
    simcse_step,
)

SGD = optax.sgd(1.0)


def update(tiny, devices, settings, pack=False):
    """The gradient and metrics of one step on so many devices."""
    mesh = make_mesh(jax.devices()[:devices])
    state = tiny.state(settings).replace(opt_state=SGD.init(None))
    step = simcse_step(tiny.config, settings, SGD, masking=MASKING, mesh=mesh)
    run = compile_step(step, mesh)
    batch = make_batch(size=16, columns=1)
    if pack:
        batch = packed(batch, devices)
    new, metrics = run(replicate(state, mesh), batch, replicate(jax.random.key(0), mesh))
    gradient = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), state.params, new.params)
    return gradient, jax.device_get(metrics)


def assert_same(found, expected):
    gradient, metrics = found
    wanted, wanted_metrics = expected
    norm = float(wanted_metrics["gradient_norm"])
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * norm, rtol=0)
    for name in wanted_metrics:
        np.testing.assert_allclose(metrics[name], wanted_metrics[name], rtol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def one_device(tiny):
    """One device, with dropout on."""
    assert tiny.config.hidden_dropout_prob > 0
    return update(tiny, 1, TrainSettings(mask_duplicates=True))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_the_update_does_not_depend_on_the_devices(tiny, one_device, devices):
    assert_same(update(tiny, devices, TrainSettings(mask_duplicates=True)), one_device)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"implementation": "ring"}, {"accumulate": 2}], ids=["ring", "chunks"]
)
def test_other_ways_on_four_devices(tiny, one_device, changes):
    assert_same(update(tiny, 4, TrainSettings(mask_duplicates=True, **changes)), one_device)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_packed_rows_give_the_update_of_padded_ones(tiny, one_device, devices):
    found = update(tiny, devices, TrainSettings(mask_duplicates=True), pack=True)
    assert_same(found, one_device)


@pytest.mark.slow
def test_the_per_device_step_runs_under_pmap(tiny):
    """`jax.pmap(step, axis_name=…)`: each device has its rows, all end with the global update."""
    settings = TrainSettings(mask_duplicates=True, mlm_weight=0.5, accumulate=2)
    state = tiny.state(settings).replace(opt_state=SGD.init(None))
    step = simcse_step(tiny.config, settings, SGD, masking=MASKING, axis_name="data")
    batch = jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[1:]), make_batch(size=16))
    run = jax.pmap(step, "data", in_axes=(None, 0, None), devices=jax.devices()[:4])
    new, metrics = run(state, batch, jax.random.key(0))
    for leaf in jax.tree.leaves((new.params, metrics)):
        np.testing.assert_array_equal(leaf, jnp.broadcast_to(leaf[0], leaf.shape))
    gradient = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b[0]), state.params, new.params)
    expected = update(tiny, 1, TrainSettings(mask_duplicates=True, mlm_weight=0.5))
    assert_same((gradient, jax.tree.map(lambda m: np.asarray(m[0]), metrics)), expected)


def test_a_batch_that_cannot_be_divided():
    mesh = make_mesh()
    assert mesh.axis_names == ("data",)
    with pytest.raises(ValueError, match="batch of 12 rows cannot be divided among 8 devices"):
        shard_batch(make_batch(size=12), mesh)
    with pytest.raises(ValueError, match="batch of no rows"):
        shard_batch(np.float32(1), mesh)


@pytest.mark.slow
def test_two_processes_with_two_devices_each(tmp_path, golden):
    """`jax.distributed` with gloo: losses, final parameters and checkpoints of one process."""
    model = golden / "tiny-bert"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    processes = [
        subprocess.Popen(
            [sys.executable, worker.__file__, str(model), str(tmp_path), address, str(i), "2"],
            env=environment,
            cwd=Path(__file__).parent,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        expected, records = worker.train(model, None, worker.sgd, jax.devices()[:4])
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()

    with np.load(tmp_path / "final.npz") as file:
        found = [file[name] for name in file.files]
    for a, b in zip(found, jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5)
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in lines] == list(range(1, 7))
    for mine, theirs in zip(lines, records, strict=True):
        for name in ("loss", "gradient_norm", "accuracy", "alignment", "uniformity"):
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, err_msg=name)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["5", "6"]
