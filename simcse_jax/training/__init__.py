"""Training: the step, its state, the loop, checkpoints, and several devices."""

from simcse_jax.training.checkpoint import Restored, RunCheckpoints
from simcse_jax.training.loop import Batches, Evaluation, FitResult, fit
from simcse_jax.training.sbert import (
    SbertSettings,
    create_sbert_state,
    sbert_step,
)
from simcse_jax.training.sharding import compile_step, make_mesh, replicate, shard_batch
from simcse_jax.training.state import (
    OptimizerSettings,
    TrainSettings,
    TrainState,
    create_state,
    make_optimizer,
    model_params,
)
from simcse_jax.training.step import MaskingTokens, SiameseBatch, simcse_step

__all__ = [
    "Batches",
    "Evaluation",
    "FitResult",
    "MaskingTokens",
    "OptimizerSettings",
    "Restored",
    "RunCheckpoints",
    "SbertSettings",
    "SiameseBatch",
    "TrainSettings",
    "TrainState",
    "compile_step",
    "create_sbert_state",
    "create_state",
    "fit",
    "make_mesh",
    "make_optimizer",
    "model_params",
    "replicate",
    "sbert_step",
    "shard_batch",
    "simcse_step",
]
