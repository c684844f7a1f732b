"""Ditto (Chen et al. 2023): the weights of diagonal attention pooling, which nobody learns.

Words that carry meaning attend to themselves in some heads, and words that do not attend elsewhere.
So a token weighs as much as its own attention in one head,

    ``w_t = softmax_k(q_t · k_k / √H)`` at ``k = t``,   ``v = Σ_t w_t x_t / Σ_t w_t``,

where x is the mean of the embedding layer's state and the last layer's. The authors take head 10 of
layer 1 for BERT-base, 5 of 1 for RoBERTa-base, 11 of 1 for ELECTRA-base, 7 of 3 for a trained
Sentence-BERT (``run_eval_ditto.sh``, whose numbers count from 0).

The authors' code calls the average "first_last" and takes ``hidden_states[0]``, which is the
embedding layer, not the first transformer layer; that is what is done here. It does not divide by
the sum of the weights, which no cosine sees. (What the paper's text says of the two layers could
not be compared.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simcse_jax.models.batch import Batch
from simcse_jax.models.bert import attention_bias
from simcse_jax.models.config import BertConfig
from simcse_jax.models.dense import Dense, product
from simcse_jax.models.relative_positions import RelativePositions, between


def diagonal_attention(
    config: BertConfig,
    encoder: Mapping[str, Any],
    state: Float[Array, "R L D"],
    batch: Batch,
    layer: int,
    head: int,
) -> Float[Array, "R L"]:
    """Return how much attention each token pays itself in one head (Ditto).

    Computed again from the layer's input, for one head, rather than handed out of the encoder,
    and without the dropout of attention probabilities.

    Args:
        config: the architecture.
        encoder: the variables of a `models.bert.BertEncoder`, by collection.
        state: what goes into the layer: the hidden state before it, in the compute type.
        batch: the rows of tokens.
        layer: the number of the layer, from 1.
        head: the number of the head, from 1.

    Returns:
        ``[R, L]`` float32, in (0, 1]; of no meaning at padding.
    """
    width = config.hidden_size
    size = width // config.num_attention_heads
    # Without a parent: the parameters are the encoder's, and this module has none of its own.
    dense = Dense(3 * width, config.initializer_range, state.dtype, parent=None)
    place = f"layer_{layer - 1}"
    variables = {name: tree[place]["attention"]["qkv"] for name, tree in encoder.items()}
    start = (head - 1) * size
    query: Any = dense.apply(variables, state, (start, start + size))
    key: Any = dense.apply(variables, state, (width + start, width + start + size))
    scores = product("RQH,RKH->RQK", query * size**-0.5, key) + attention_bias(batch)[:, 0]
    if config.relative_attention_num_buckets:
        positions = RelativePositions(config, parent=None)
        table = {"params": encoder["params"]["relative_positions"]}
        by_head: Any = positions.apply(table, between(batch.position_ids))  # [R N Q K]
        scores = scores + by_head[:, head - 1]
    own = jnp.diagonal(scores, axis1=1, axis2=2)  # [R L]
    return jnp.exp(own - jax.nn.logsumexp(scores, axis=-1))
