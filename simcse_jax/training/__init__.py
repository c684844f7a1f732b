"""Training: the step, its optimizer, the loop, checkpoints, and several devices."""

from simcse_jax.process import Interrupted
from simcse_jax.training.checkpoint import Restored, RunCheckpoints, UnusableCheckpoint
from simcse_jax.training.devices import compile_step, make_mesh, replicate, shard_batch
from simcse_jax.training.grad_cache import grad_cache, value_and_gradient
from simcse_jax.training.loop import Batches, Evaluation, FitResult, fit
from simcse_jax.training.optimizer import OptimizerConfig, make_optimizer
from simcse_jax.training.step import Step, TrainState, make_step, start_state

__all__ = [
    "Batches",
    "Evaluation",
    "FitResult",
    "Interrupted",
    "OptimizerConfig",
    "Restored",
    "RunCheckpoints",
    "Step",
    "TrainState",
    "UnusableCheckpoint",
    "compile_step",
    "fit",
    "grad_cache",
    "make_mesh",
    "make_optimizer",
    "make_step",
    "replicate",
    "shard_batch",
    "start_state",
    "value_and_gradient",
]
