"""Fitting a flow: its batches, its start, and the training room's step and loop."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from simcse_jax.checks import levels_to_caller
from simcse_jax.models.glow import check_dim
from simcse_jax.objectives.flow import EmbeddingBatch, flow_objective
from simcse_jax.training import (
    Interrupted,
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
from simcse_jax.training.devices import CompiledStep
from simcse_jax.training.run_folder import claimed
from simcse_jax.transforms.base import check_embeddings
from simcse_jax.transforms.flow_config import Embeddings, FlowConfig
from simcse_jax.transforms.prewhitening import PreWhitening, prewhiten


@dataclasses.dataclass(frozen=True)
class FlowRun:
    """All that the result of a fit depends on beside the embeddings; see `Flow.fit`."""

    config: FlowConfig
    optimizer: OptimizerConfig
    epochs: int
    seed: int
    batch_size: int
    shuffle: bool

    def steps_per_epoch(self, rows: int) -> int:
        """Count the batches of a pass over so many embeddings."""
        return max(1, rows // self.batch_size)

    @property
    def has_no_horizon(self) -> bool:
        """Tell whether the learning rate is the same however long the fit is."""
        warm = self.optimizer.warmup_steps or self.optimizer.warmup_ratio
        return self.optimizer.schedule == "constant" and not warm

    def settings(self, x: Float[np.ndarray, "n D"]) -> dict[str, Any]:
        """Say what must not change when the fit is resumed, as JSON."""
        digest = hashlib.blake2b(np.ascontiguousarray(x).data, digest_size=16).hexdigest()
        fixed = dataclasses.asdict(self) | {"embeddings": digest}
        # A cosine is drawn over the whole fit; a constant rate lets a run be lengthened.
        if self.has_no_horizon:
            del fixed["epochs"]
        return fixed


class FittedFlow(NamedTuple):
    """What a fit found, as `Flow` takes it."""

    variables: dict[str, Any]
    dim: int
    prewhitening: PreWhitening | None
    steps: int


def fit_flow(
    run: FlowRun,
    embeddings: Embeddings,
    *,
    mesh: Mesh | None,
    progress: bool | None,
    state_folder: str | os.PathLike[str] | None,
    save_every: int | None,
    resume: bool,
    on_step: Callable[[int, dict[str, float]], None] | None,
) -> FittedFlow:
    """Fit a flow; see `simcse_jax.transforms.Flow.fit`, whose arguments these are."""
    first: Any = embeddings(0) if callable(embeddings) else embeddings
    x = check_embeddings(first, least=2)
    rows, dim = x.shape
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(x, axis=1)
    if np.allclose(lengths, 1, atol=1e-3):
        warnings.warn(
            "every embedding has length one, and a sphere has no density for a flow to fit: use "
            "encoder.fit(Flow, text), which takes the embeddings before they are normalised",
            stacklevel=levels_to_caller(),
        )
    check_dim(dim, run.config.levels)
    floor = run.config.whiten
    prewhitening = None if floor is None else PreWhitening.fit(x, floor)
    mesh = make_mesh(jax.local_devices()[:1]) if mesh is None else mesh
    per_epoch = run.steps_per_epoch(rows)
    total = run.epochs * per_epoch
    # A constant rate must not compile anew for another length.
    horizon = 1 if run.has_no_horizon else max(total, 1)
    step, optimizer = _compiled_step(run.config, run.optimizer, horizon, mesh)
    key = jax.random.key(run.seed)
    params, constants = init_flow(run, jax.random.fold_in(key, 0), prewhiten(prewhitening, x))
    state = start_state({"flow": params}, optimizer, {"constants": constants})

    def record(values: Mapping[str, Any]) -> None:
        if on_step is not None:
            names = ("nats", "bits", "loss", "gradient_norm")
            metrics = {name: values[name] for name in names}
            if prewhitening is not None:
                metrics["nats"] -= prewhitening.logdet
                metrics["bits"] -= prewhitening.logdet / (dim * math.log(2))
            on_step(values["step"], metrics)

    checkpoints = None
    with contextlib.ExitStack() as stack:
        if state_folder is not None:
            stack.enter_context(claimed(Path(state_folder)))
            opened = RunCheckpoints(state_folder, run.settings(x), keep=1)
            checkpoints = stack.enter_context(opened)
            checkpoints.check(resume)
        try:
            result = fit(
                step,
                replicate(state, mesh),
                functools.partial(
                    flow_batches, run, x, embeddings, prewhitening, total, devices=mesh.size
                ),
                replicate(key, mesh),
                total,
                checkpoints=checkpoints,
                checkpoint_every=save_every or per_epoch,
                resume=True,
                log_every=1 if on_step is not None else 25,
                on_record=record,
                progress=progress,
                description="flow",
            )
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{error}; lower the learning rate ({run.optimizer.learning_rate}), or look for "
                "outliers in the embeddings"
            ) from None
    if result.stopped_by is not None:
        raise Interrupted(
            f"the flow's fit was stopped at step {result.step} of {total}", result.stopped_by
        )
    trained = jax.device_get(result.state)
    variables = {"params": trained.params["flow"], "constants": trained.frozen["constants"]}
    return FittedFlow(variables, dim, prewhitening, result.step)


@functools.lru_cache(maxsize=32)
def _compiled_step(
    config: FlowConfig, optimizer: OptimizerConfig, total_steps: int, mesh: Mesh
) -> tuple[CompiledStep, Any]:
    """Compile the update once for all fits of a kind."""
    transformation = make_optimizer(optimizer, total_steps)
    step = make_step(flow_objective(config.model(), config.loss_scale), transformation)
    return compile_step(step, mesh), transformation


@functools.partial(jax.jit, static_argnames="config")
def _init(config: FlowConfig, key: Array, first: Float[Array, "rows D"]) -> Any:
    return config.model().init(key, first, method="forward")


def init_flow(run: FlowRun, key: Array, x: Float[np.ndarray, "n D"]) -> tuple[Any, Any]:
    """Initialise the flow from the embeddings of the first batch; params and constants.

    Raises:
        ValueError: the first batch is of one embedding.
    """
    first = row_order(run, len(x), 0)[: min(run.config.init_rows, run.batch_size)]
    if first.size < 2:
        raise ValueError("activation normalisation needs two embeddings: a larger batch")
    variables = _init(run.config, key, jnp.asarray(x[first]))
    return variables["params"], variables.get("constants", {})


def row_order(run: FlowRun, rows: int, epoch: int) -> np.ndarray:
    """Return the order in which an epoch sees the embeddings."""
    if not run.shuffle:
        return np.arange(rows)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run.seed), 1), epoch)
    return np.asarray(jax.random.permutation(key, rows))


def flow_batches(
    run: FlowRun,
    x: Float[np.ndarray, "n D"],
    embeddings: Embeddings,
    prewhitening: PreWhitening | None,
    total: int,
    start: int,
    *,
    devices: int,
) -> Iterator[EmbeddingBatch]:
    """Make the batches of the steps from ``start`` up to ``total``.

    Rows of zero weight fill a batch that the devices do not divide.
    """
    (rows, dim), per_epoch = x.shape, run.steps_per_epoch(len(x))
    size = -(-min(run.batch_size, rows) // devices) * devices
    order, of_epoch = np.empty(0, int), -1
    for step in range(start, total):
        epoch, number = divmod(step, per_epoch)
        if epoch != of_epoch:
            order, of_epoch = row_order(run, rows, epoch), epoch
            if callable(embeddings) and epoch:
                x = check_embeddings(embeddings(epoch), dim=dim, least=rows)
        chosen = order[number * run.batch_size : (number + 1) * run.batch_size]
        batch = np.zeros((size, dim), np.float32)
        batch[: chosen.size] = prewhiten(prewhitening, x[chosen])
        yield EmbeddingBatch(batch, (np.arange(size) < chosen.size).astype(np.float32))
