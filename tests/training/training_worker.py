"""A training run in a process of its own, to be killed or to be one of several.

``python training_worker.py MODEL FOLDER [ADDRESS PROCESS PROCESSES]``: six steps of a tiny model,
resumed from ``FOLDER/checkpoints`` if there is one; the last parameters go to
``FOLDER/final.npz``.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import optax
from training_support import load_tiny, make_batch

from simcse_jax.training import (
    RunCheckpoints,
    TrainSettings,
    compile_step,
    fit,
    make_mesh,
    make_optimizer,
    replicate,
    simcse_step,
)

STEPS = 6


def adam(settings: TrainSettings) -> optax.GradientTransformation:
    return make_optimizer(settings, STEPS)


def train(model: Path, folder: Path | None, optimizer=adam, devices=None, **options):
    """Train, and return the final state and the records of the steps."""
    tiny = load_tiny(model)
    settings = TrainSettings(learning_rate=1e-3)
    mesh = make_mesh(devices)
    tx = optimizer(settings)
    state = tiny.state(settings).replace(opt_state=tx.init(tiny.state(settings).params))
    share = 8 // jax.process_count()
    rows = slice(jax.process_index() * share, (jax.process_index() + 1) * share)

    def batches(start):
        for step in range(start, STEPS):
            # Uneven rows, so that a wrong order would be seen.
            yield jax.tree.map(lambda x: x[rows], make_batch(step, 8))

    records = []
    result = fit(
        compile_step(simcse_step(tiny.config, settings, tx, mesh=mesh), mesh),
        replicate(state, mesh),
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
        **options,
    )
    return result.state, records


def save(state, path: Path) -> None:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    np.savez(path, *leaves)


def sgd(settings: TrainSettings) -> optax.GradientTransformation:
    # Adam turns the rounding of small gradients into whole steps; plain descent does not.
    return optax.sgd(0.01)


def main() -> None:
    model, folder, *several = sys.argv[1:]
    if several:
        address, process, processes = several
        jax.distributed.initialize(address, int(processes), int(process))
    state, _ = train(Path(model), Path(folder), sgd if several else adam)
    if jax.process_index() == 0:
        save(state, Path(folder) / "final.npz")


if __name__ == "__main__":
    main()
