"""Sentences to vectors: encoder, pooling and head, used alike by `encode` and by training."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from simcse_jax.models.batch import Batch
from simcse_jax.models.bert import BertEncoder
from simcse_jax.models.config import BertConfig
from simcse_jax.models.ditto import diagonal_attention
from simcse_jax.models.first_tokens import FirstTokenEncoder
from simcse_jax.models.fused_attention import Attention
from simcse_jax.models.heads import Projection
from simcse_jax.models.pooling import ditto_head, first_only, pool


class SentenceModel(nn.Module):
    """Map a batch to one float32 vector a sentence.

    The parameters are ``"encoder"`` and, where there is a projection, that one's name.

    Attributes:
        config: the architecture.
        pooling: a name of :data:`simcse_jax.models.POOLINGS`.
        projection: the name of the projection on top: ``"pooler"`` (the model's own), ``"head"``
            (SimCSE's MLP), or None for none.
        dtype: the compute type of the encoder.
        projection_dtype: that of the projection.
        attention: how rows attend where there is no dropout, see `models.fused_attention`.
    """

    config: BertConfig
    pooling: str
    projection: Literal["pooler", "head"] | None = None
    dtype: jnp.dtype = jnp.float32
    projection_dtype: jnp.dtype = jnp.float32
    attention: Attention = "dense"

    @nn.compact
    def __call__(
        self, batch: Batch, keys: Key[Array, "S"] | None = None, *, num_sentences: int
    ) -> Float[Array, "S D"]:
        """Encode, pool and project.

        Args:
            batch: rows of tokens.
            keys: switches dropout on: a key for each sentence.
            num_sentences: the (static) number of sentences S; sentence ``s`` is the one whose
                ``segment_ids`` are ``s + 1``.

        Returns:
            ``[S, D]`` float32; of no meaning for a sentence that is not there.
        """
        vectors: Any
        if first_only(self.pooling):
            firsts = FirstTokenEncoder(self.config, self.dtype, self.attention, name="encoder")
            vectors = firsts(batch, keys, num_sentences=num_sentences).astype(jnp.float32)
        else:
            encoder = BertEncoder(self.config, self.dtype, self.attention, name="encoder")
            states = encoder(batch, keys)
            weights = None
            if (place := ditto_head(self.pooling)) is not None:
                of_encoder = {name: tree["encoder"] for name, tree in self.variables.items()}
                before = states[place[0] - 1]
                weights = diagonal_attention(self.config, of_encoder, before, batch, *place)
            vectors = pool(states, batch, self.pooling, num_sentences, weights)
        if self.projection is not None:
            head = Projection(self.config, self.projection_dtype, name=self.projection)
            vectors = head(vectors)
        return vectors.astype(jnp.float32)
