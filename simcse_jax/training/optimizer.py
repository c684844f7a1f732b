"""The optimizers of the authors' trainers, put together from optax."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from simcse_jax.checks import (
    check_between,
    check_count,
    check_positive,
    check_types,
    counted,
)
from simcse_jax.objectives.objective import Params

Schedule = Literal["linear", "constant", "cosine"]

# What is nearer to 1 is 1 in float32: then a moment stays at zero, and is divided by zero.
_LARGEST_DECAY = 0.9999999


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How a run is optimised: clipping, Adam with decoupled weight decay, a schedule."""

    learning_rate: float = 3e-5
    """The learning rate, the largest of the schedule."""
    schedule: Schedule = "linear"
    """How the learning rate goes on after the warm-up: it falls to zero in a line or as a cosine
    over the rest of the run, or stays."""
    warmup_steps: int = 0
    """Over so many steps the learning rate first grows in a line."""
    warmup_ratio: float = 0.0
    """The same as a share of all steps, rounded up; where warmup_steps is 0."""
    weight_decay: float = 0.0
    """The decoupled weight decay."""
    decay_vectors: bool = False
    """Whether biases and layer norms decay too; the authors of BERT spare them."""
    clip_norm: float = 1.0
    """The gradient is made shorter where its norm is larger than this."""
    beta1: float = 0.9
    """The decay of Adam's first moment."""
    beta2: float = 0.999
    """The decay of Adam's second moment."""
    eps: float = 1e-8
    """What is added to the root of Adam's second moment."""
    bias_correction: bool = True
    """Whether Adam's moments are corrected for their start at zero. BERT's own code base does not,
    so that its first steps are up to (1 - beta1) / sqrt(1 - beta2) = 3.2 times as long."""

    def __post_init__(self) -> None:
        check_types(self)
        check_between("learning_rate", self.learning_rate, 0, 1000, "(]")
        check_positive("clip_norm", self.clip_norm)
        check_count("warmup_steps", self.warmup_steps, 0)
        check_between("warmup_ratio", self.warmup_ratio, 0, 1, "[)")
        check_between("weight_decay", self.weight_decay, 0, 1000)
        check_between("beta1", self.beta1, 0, _LARGEST_DECAY)
        check_between("beta2", self.beta2, 0, _LARGEST_DECAY)
        check_between("eps", self.eps, 0, 1000)


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Clip by the global norm, Adam, decoupled weight decay, and the schedule.

    With the linear schedule the update number k (from 0) of T has the learning rate
    `lr · (T − k) / (T − W)` after W warm-up steps of `lr · k / W`.

    Raises:
        ValueError: the warm-up is no shorter than the run, or that is of no whole number of steps.
    """

    def decayed(params: Params) -> Params:
        # Kernels and embedding tables are matrices; biases and layer norms are vectors.
        return jax.tree.map(lambda p: config.decay_vectors or p.ndim > 1, params)

    adam = optax.scale_by_adam if config.bias_correction else scale_by_uncorrected_adam
    # As floats: a jitted program takes no whole number of more than 32 bits.
    return optax.chain(
        optax.clip_by_global_norm(float(config.clip_norm)),
        adam(b1=config.beta1, b2=config.beta2, eps=config.eps),
        optax.add_decayed_weights(float(config.weight_decay), decayed),
        optax.scale_by_learning_rate(make_schedule(config, total_steps)),
    )


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the number of updates done."""
    check_count("total_steps", total_steps)
    # Here 0 is "not given", as the fields say.
    warmup = config.warmup_steps or min(
        math.ceil(config.warmup_ratio * total_steps), total_steps - 1
    )
    if warmup >= total_steps:
        raise ValueError(
            f"warmup_steps is {warmup}; the run has {counted(total_steps, 'step')} only"
        )
    rest = total_steps - warmup
    falling = {
        "linear": optax.linear_schedule(config.learning_rate, 0.0, rest),
        "constant": optax.constant_schedule(config.learning_rate),
        "cosine": optax.cosine_decay_schedule(config.learning_rate, rest),
    }[config.schedule]
    if not warmup:
        return falling
    rise = optax.linear_schedule(0.0, config.learning_rate, warmup)
    return optax.join_schedules([rise, falling], [warmup])


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    r"""Scale by Adam without bias correction, as BERT's and BERT-flow's own code does.

    .. math:: m_k = \beta_1 m_{k-1} + (1 - \beta_1) g, \quad
              v_k = \beta_2 v_{k-1} + (1 - \beta_2) g^2, \quad
              u = m_k / (\sqrt{v_k} + \epsilon)

    Args:
        b1: the decay of the first moment m.
        b2: the decay of the second moment v.
        eps: ε.
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return scaled, optax.ScaleByAdamState(state.count + 1, mu, nu)

    return optax.GradientTransformation(init, update)
