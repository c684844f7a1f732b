"""BERT-flow's objective (Li et al. 2020, section 3.2): the likelihood of frozen embeddings."""

from __future__ import annotations

import math
from typing import Any, no_type_check

import flax.struct
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from simcse_jax.arrays import AnyArray
from simcse_jax.models.glow import Glow
from simcse_jax.objectives.objective import AXIS, Keys, Metrics, Objective, Params


@no_type_check  # as `Batch`
@flax.struct.dataclass
class EmbeddingBatch:
    """Embeddings of a frozen encoder.

    Attributes:
        embeddings: one a row.
        weight: 1 for an embedding and 0 for a row that only fills the batch.
    """

    embeddings: Float[AnyArray, "B D"]
    weight: Float[AnyArray, "B"]


def bits_per_dimension(nats: Array, dim: int) -> Array:
    """Return `-log p(x) / (D ln 2)` of log-densities in nats; any shape."""
    return -nats / (dim * math.log(2))


def flow_objective(flow: Glow, loss_scale: float) -> Objective:
    r"""Minimise the mean of `-log p(x) / (D ln 2)`, the bits per dimension, times ``loss_scale``.

    The parameters are ``"flow"`` and, left alone by the optimizer, ``"constants"``: the module's
    two collections. The metrics are ``loss``, ``nats`` (the mean of `-log p`) and ``bits``.

    Args:
        flow: the module.
        loss_scale: only clipping and Adam's ε can see it.
    """

    def log_densities(params: Params, batch: EmbeddingBatch, keys: Keys) -> Float[Array, "B"]:
        variables = {"params": params["flow"], "constants": params["constants"]}
        found: Any = flow.apply(variables, batch.embeddings, method="log_prob")
        return found

    def loss(
        params: Params, log_prob: Float[Array, "B"], batch: EmbeddingBatch, keys: Keys
    ) -> tuple[Float[Array, ""], Metrics]:
        total, count = lax.psum((jnp.sum(log_prob * batch.weight), jnp.sum(batch.weight)), AXIS)
        mean = total / count
        bits = bits_per_dimension(mean, batch.embeddings.shape[1])
        return loss_scale * bits, {"nats": -mean, "bits": bits}

    return Objective(log_densities, loss)
