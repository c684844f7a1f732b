"""The update as a pure function of one device's share of the batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Int, Key

from simcse_jax.data.batches import split_shards
from simcse_jax.objectives.objective import AXIS, Memory, Metrics, Objective, Params, stream
from simcse_jax.training.grad_cache import grad_cache


@no_type_check  # as `Batch`
@flax.struct.dataclass
class TrainState:
    """What an update changes.

    Attributes:
        step: the number of updates done.
        params: what is trained, as the objective names it.
        opt_state: the optimizer's.
        frozen: what the objective sees among the parameters and no gradient moves.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    frozen: Params = flax.struct.field(default_factory=dict)


Step = Callable[[TrainState, Any, Key[Array, ""]], tuple[TrainState, Metrics]]


def start_state(
    params: Params, optimizer: optax.GradientTransformation, frozen: Params | None = None
) -> TrainState:
    """Return the state before the first update, of copies of these parameters."""
    # Copies: the compiled step donates its state, and the caller keeps its parameters.
    params, frozen = jax.tree.map(jnp.array, (params, frozen or {}))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), frozen)


def make_step(
    objective: Objective, optimizer: optax.GradientTransformation, chunks: int = 1
) -> Step:
    """Make the update of one device, un-jitted.

    What is large crosses the devices twice: the objective gathers what it compares, the gradients
    are averaged; and a third time with a memory, which is gathered. The rest are means of scalars.
    So the update does not depend on how many devices there are.

    Args:
        objective: what is minimised.
        optimizer: see `simcse_jax.training.make_optimizer`.
        chunks: into how many chunks a device's batch is cut, see
            `simcse_jax.training.grad_cache`.

    Returns:
        ``step(state, batch, key) -> (state, metrics)``, to be mapped over the axis `AXIS` (see
        `simcse_jax.training.compile_step`): the batch is the device's share; state, key, which is
        the run's and the same at every step, and metrics are the same on every device. Metrics are
        float32 scalars: ``loss``, ``gradient_norm`` (before clipping) and the objective's own.
    """

    def step(state: TrainState, batch: Any, key: Key[Array, ""]) -> tuple[TrainState, Metrics]:
        keys = functools.partial(stream, key, step=state.step)
        compute = grad_cache(with_frozen(objective, state.frozen), chunks)
        metrics, gradient = compute(state.params, batch, keys)
        gradient = lax.pmean(gradient, AXIS)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        frozen = state.frozen
        if objective.memory is not None:
            frozen = remember(objective.memory, state.params, frozen, batch, chunks)
        return TrainState(state.step + 1, params, opt_state, frozen), metrics

    return step


def remember(memory: Memory, params: Params, kept: Params, batch: Any, chunks: int) -> Params:
    """Return what is kept for the batches after this one.

    Args:
        memory: of the objective.
        params: those that the batch was embedded with.
        kept: what was kept of the batches before.
        batch: the device's share.
        chunks: as `make_step` has it.
    """
    kept = memory.follow(params, kept)

    def embed(piece: Any) -> Any:
        return memory.embed(params | kept, piece)

    if chunks == 1:
        return memory.store(kept, embed(batch), batch)
    vectors = lax.map(embed, split_shards(batch, chunks))
    joined = jax.tree.map(lambda x: lax.collapse(x, 0, 2), vectors)
    return memory.store(kept, joined, batch)


def with_frozen(objective: Objective, frozen: Params) -> Objective:
    """Return the objective as a function of the other parameters alone."""
    if not frozen:
        return objective
    tokens = objective.tokens
    if tokens is not None:
        token_loss = tokens.loss
        tokens = tokens._replace(loss=lambda p, *rest: token_loss(p | frozen, *rest))
    return Objective(
        lambda params, *rest: objective.embed(params | frozen, *rest),
        lambda params, *rest: objective.loss(params | frozen, *rest),
        tokens,
    )
