"""Attention by cuDNN's fused kernel, which never writes the scores out: for encoding, if asked for.

`jax.nn.dot_product_attention` has it for NVIDIA GPUs. It was measured nowhere, so that the plain
attention of `models.bert` is what is computed unless somebody asks; `simcse_jax.cudnn` tells then
whether it can be had.

It takes bfloat16, heads of a multiple of 8 numbers up to 128 (256 from Hopper on), and a mask as a
bias of 0 and -2^41 in bfloat16, which is what JAX makes of ours. Tokens of a sentence see that
sentence and padding sees padding, so that every query has a key, and no softmax is empty.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax
from jaxtyping import Array, Bool, Float, Key

from simcse_jax.models.batch import Batch, same_segment
from simcse_jax.models.config import BertConfig

AttentionName = Literal["dense", "cudnn"]
"""How rows attend, for who encodes: by `models.bert`, or by cuDNN."""
ATTENTIONS: tuple[AttentionName, ...] = get_args(AttentionName)
Implementation = Literal["cudnn", "xla"]
"""What computes fused attention: cuDNN, or JAX's own form of that, for the tests and a trial."""
Attention = Literal["dense", Implementation]
# Rows of 64 are those of `data.encode_batches` that stay dense; the longer ones are multiples.
ROW_MULTIPLE = 128


class Fused(NamedTuple):
    """What fused attention has to know beside queries, keys and values.

    Attributes:
        implementation: of `jax.nn.dot_product_attention`.
        allowed: which keys each query sees.
    """

    implementation: Implementation
    allowed: Bool[Array, "R 1 Q K"]


def fused_for(
    attention: Attention, config: BertConfig, batch: Batch, keys: Key[Array, "S"] | None
) -> Fused | None:
    """Return what fused attention needs; None where the plain attention is to be computed.

    Which is so unless another is asked for, for rows of 64 or of a length that 128 does not divide,
    with dropout, and with relative positions.

    Args:
        attention: what is asked for.
        config: the architecture.
        batch: rows of tokens.
        keys: of the dropout, if there is any.
    """
    suits = keys is None and not config.relative_attention_num_buckets
    if attention == "dense" or not suits or batch.input_ids.shape[-1] % ROW_MULTIPLE:
        return None
    return Fused(attention, same_segment(batch.segment_ids))


def fused_attention(
    query: Float[Array, "R Q N H"],
    key: Float[Array, "R K N H"],
    value: Float[Array, "R K N H"],
    fused: Fused,
) -> Float[Array, "R Q N H"]:
    """Return `softmax(QKᵀ/√H + mask) V` of every head, in the type of the queries."""
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=fused.allowed,
        implementation=fused.implementation,
    )
