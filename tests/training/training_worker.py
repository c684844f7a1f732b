"""A training run in a process of its own, to be killed or to be one of several.

``python training_worker.py MODEL FOLDER [ADDRESS PROCESS PROCESSES]``: six steps of a tiny model,
resumed from ``FOLDER/checkpoints`` if there is one; the last parameters go to
``FOLDER/final.npz``. One of several processes also makes an update with a few objectives, whose
gradients and metrics go to ``FOLDER/updates.npz``.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import optax
from training_support import CASES, case_batch, init, load_tiny, make_batch, update

from simcse_jax.objectives import SimCSE
from simcse_jax.training import (
    OptimizerConfig,
    RunCheckpoints,
    compile_step,
    fit,
    make_mesh,
    make_optimizer,
    make_step,
    replicate,
    start_state,
)
from simcse_jax.training.run_folder import claimed

STEPS = 6
CHUNKS = 2
# Duplicates, tokens and labels go over the border; what maps the step.
UPDATES = {"ring": "pmap", "with masked LM": "shard_map", "softmax": "pmap", "queue": "shard_map"}


def adam() -> optax.GradientTransformation:
    return make_optimizer(OptimizerConfig(learning_rate=1e-3), STEPS)


def sgd() -> optax.GradientTransformation:
    # Adam turns the rounding of small gradients into whole steps; plain descent does not.
    return optax.sgd(0.01)


def share(batch):
    """This process' share of a global batch."""
    count = jax.process_count()
    return jax.tree.map(lambda x: np.split(x, count)[jax.process_index()], batch)


def train(model: Path, folder: Path | None, optimizer=adam, devices=None, parallel="shard_map"):
    """Train, and return the final state and the records of the steps."""
    tiny, objective, tx = load_tiny(model), SimCSE(), optimizer()
    mesh = make_mesh(devices)

    def batches(start):
        for step in range(start, STEPS):
            # Uneven sentences, so that a wrong order would be seen.
            yield share(make_batch(step, 8, shards=mesh.size))

    records = []
    result = fit(
        compile_step(make_step(objective.build(tiny.model()), tx), mesh, parallel),
        replicate(start_state(init(tiny, objective), tx), mesh),
        batches,
        replicate(jax.random.key(0), mesh),
        STEPS,
        checkpoints=None if folder is None else RunCheckpoints(folder / "checkpoints", keep=2),
        checkpoint_every=1,
        resume=True,
        metrics_file=None if folder is None else folder / "metrics.jsonl",
        log_every=2,
        on_record=records.append,
        progress=False,
    )
    return result.state, records


def updates(model: Path):
    """The gradients and metrics of some objectives, on the devices of all processes."""
    tiny, devices = load_tiny(model), jax.devices()
    found = {}
    for name, parallel in UPDATES.items():
        case = CASES[name]
        batch = share(case_batch(case, CHUNKS * len(devices)))
        options = {"chunks": CHUNKS, "devices": devices, "parallel": parallel}
        found[name] = update(tiny, case.objective, batch, case.pooling, **options)
    return found


def save(tree, path: Path) -> None:
    np.savez(path, *(np.asarray(leaf) for leaf in jax.tree.leaves(tree)))


def load(path: Path, like):
    """What `save` wrote, as a tree of this structure."""
    with np.load(path) as file:
        return jax.tree.unflatten(jax.tree.structure(like), [file[name] for name in file.files])


def main() -> None:
    model, folder, *several = sys.argv[1:]
    model, folder = Path(model), Path(folder)
    if several:
        address, process, processes = several
        jax.distributed.initialize(address, int(processes), int(process))
    with claimed(folder):
        state, _ = train(model, folder, *([sgd, None, "pmap"] if several else []))
        found = updates(model) if several else None
        if jax.process_index() == 0:
            save(state, folder / "final.npz")
            save(found, folder / "updates.npz")


if __name__ == "__main__":
    main()
