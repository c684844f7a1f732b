"""Pure Flax Linen modules: the encoder, pooling, heads, and the flow. They know no other room."""

from simcse_jax.models.batch import Batch, one_a_row
from simcse_jax.models.bert import BertEncoder
from simcse_jax.models.config import MODEL_TYPES, BertConfig
from simcse_jax.models.first_tokens import FirstTokenEncoder
from simcse_jax.models.heads import MaskedLMHead, Projection, SoftmaxClassifier
from simcse_jax.models.pooling import POOLINGS, pool
from simcse_jax.models.sentence import SentenceModel

__all__ = [
    "MODEL_TYPES",
    "POOLINGS",
    "Batch",
    "BertConfig",
    "BertEncoder",
    "FirstTokenEncoder",
    "MaskedLMHead",
    "Projection",
    "SentenceModel",
    "SoftmaxClassifier",
    "one_a_row",
    "pool",
]
