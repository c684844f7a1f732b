"""The value and the gradient of an objective: at once, or a chunk of the batch at a time.

With chunks, the encoder sees one at a time and memory is that of a chunk, while loss and gradient
are those of the whole batch (Gao et al. 2021, "Scaling deep contrastive learning batch size under
memory limited setup", GradCache): embeddings of all chunks without gradient, the loss and its
gradient with respect to them, then each chunk again, with the same dropout masks, to carry that
gradient on to the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from simcse_jax.data.batches import split_shards
from simcse_jax.objectives.objective import AXIS, Keys, Metrics, Objective, Params

ValueAndGradient = Callable[[Params, Any, Keys], tuple[Metrics, Params]]
"""``(params, batch, keys) -> metrics with the loss, gradient of this device``."""


def value_and_gradient(objective: Objective) -> ValueAndGradient:
    """Differentiate an objective, the whole batch of the device at once."""

    def compute(params: Params, batch: Any, keys: Keys) -> tuple[Metrics, Params]:
        count = _token_count(objective, batch, keys)

        def total(params: Params) -> tuple[Float[Array, ""], Metrics]:
            vectors = objective.embed(params, batch, keys)
            loss, metrics = objective.loss(params, vectors, batch, keys)
            more, token_metrics = _token_loss(objective, params, batch, keys, count)
            return loss + more, metrics | token_metrics

        (loss, metrics), gradient = jax.value_and_grad(total, has_aux=True)(params)
        return {"loss": loss, **metrics}, gradient

    return compute


def grad_cache(objective: Objective, chunks: int) -> ValueAndGradient:
    """Differentiate an objective a chunk at a time; the result is that of the whole batch.

    Args:
        objective: any whose embeddings of a chunk follow from the chunk alone.
        chunks: the shards of each device's batch (see `simcse_jax.data.batches.TrainingBatch`).
    """
    if chunks == 1:
        return value_and_gradient(objective)

    def compute(params: Params, batch: Any, keys: Keys) -> tuple[Metrics, Params]:
        pieces = split_shards(batch, chunks)
        count = _token_count(objective, batch, keys, pieces)
        vectors = lax.map(lambda piece: objective.embed(params, piece, keys), pieces)
        (loss, metrics), (gradient, d_vectors) = _loss_of_vectors(
            *(objective, params, vectors, batch, keys)
        )

        def add_chunk(sums: Any, chunk: Any) -> tuple[Any, None]:
            piece, d_piece = chunk
            own = _gradient_of_chunk(objective, params, piece, d_piece, keys, count)
            return jax.tree.map(jnp.add, sums, own), None

        shapes = jax.eval_shape(lambda: _token_loss(objective, params, batch, keys, count))
        start = (gradient, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
        (gradient, (more, token_metrics)), _ = lax.scan(add_chunk, start, (pieces, d_vectors))
        return {"loss": loss + more, **metrics, **token_metrics}, gradient

    return compute


def _loss_of_vectors(
    objective: Objective, params: Params, vectors: Any, batch: Any, keys: Keys
) -> tuple[tuple[Float[Array, ""], Metrics], tuple[Params, Any]]:
    """Return loss and metrics of all chunks' vectors, and both gradients."""

    def loss(params: Params, vectors: Any) -> tuple[Float[Array, ""], Metrics]:
        joined = jax.tree.map(lambda x: lax.collapse(x, 0, 2), vectors)
        return objective.loss(params, joined, batch, keys)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, vectors)


def _gradient_of_chunk(
    objective: Objective, params: Params, chunk: Any, d_vectors: Any, keys: Keys, count: Array
) -> tuple[Params, tuple[Float[Array, ""], Metrics]]:
    """Carry the gradient of a chunk's vectors on to the parameters, and add its tokens' loss.

    What is differentiated is the product of the vectors with their gradient, which is a constant.
    """

    def surrogate(params: Params) -> tuple[Float[Array, ""], Any]:
        more = _token_loss(objective, params, chunk, keys, count)
        products = jax.tree.map(
            lambda z, d_z: jnp.vdot(z, d_z, precision=lax.Precision.HIGHEST),
            objective.embed(params, chunk, keys),
            d_vectors,
        )
        return sum(jax.tree.leaves(products), more[0]), more

    return jax.grad(surrogate, has_aux=True)(params)


def _token_count(objective: Objective, batch: Any, keys: Keys, pieces: Any = None) -> Array:
    """Count the tokens of the objective's token term over all chunks and devices."""
    if objective.tokens is None:
        return jnp.zeros((), jnp.int32)
    count = objective.tokens.count_of
    if pieces is None:
        return lax.psum(count(batch, keys), AXIS)
    return lax.psum(lax.map(lambda piece: count(piece, keys), pieces).sum(), AXIS)


def _token_loss(
    objective: Objective, params: Params, batch: Any, keys: Keys, count: Array
) -> tuple[Float[Array, ""], Metrics]:
    if objective.tokens is None:
        return jnp.zeros(()), {}
    return objective.tokens.loss(params, batch, keys, count)
