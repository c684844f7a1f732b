"""Pure Flax Linen modules: the encoder, pooling, heads, and the flow. They know no other room."""

from simcse_jax.models.batch import Batch
from simcse_jax.models.bert import BertConfig, BertEncoder, EncoderOutput
from simcse_jax.models.heads import MaskedLMHead, Pooler
from simcse_jax.models.pooling import POOLINGS, pool

__all__ = [
    "POOLINGS",
    "Batch",
    "BertConfig",
    "BertEncoder",
    "EncoderOutput",
    "MaskedLMHead",
    "Pooler",
    "pool",
]
