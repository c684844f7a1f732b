"""What sits on top of the encoder: the pooler (also SimCSE's MLP head) and the masked-LM head."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from simcse_jax.models.bert import ACTIVATIONS, BertConfig


class Pooler(nn.Module):
    """`tanh(x W + b)`: BERT's pooler, and the projection head (MLP) of SimCSE's section 6.3.

    SimCSE initialises its head afresh (normal, 0.02); it does not start from BERT's pooler.
    """

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        init = nn.initializers.normal(self.config.initializer_range)
        dense = nn.Dense(self.config.hidden_size, dtype=self.dtype, kernel_init=init, name="dense")
        return jnp.tanh(dense(x))


class MaskedLMHead(nn.Module):
    """Dense, activation, layer norm, then the word embeddings transposed, plus a bias per word."""

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "*B D"], word_embeddings: Float[Array, "V D"]
    ) -> Float[Array, "*B V"]:
        """Logits over the vocabulary, float32."""
        cfg = self.config
        init = nn.initializers.normal(cfg.initializer_range)
        x = nn.Dense(cfg.hidden_size, dtype=self.dtype, kernel_init=init, name="dense")(hidden)
        # RoBERTa's head uses exact gelu whatever the config says; BERT's uses hidden_act.
        x = ACTIVATIONS["gelu" if cfg.model_type == "roberta" else cfg.hidden_act](x)
        x = nn.LayerNorm(
            epsilon=cfg.layer_norm_eps, dtype=jnp.float32, use_fast_variance=False, name="norm"
        )(x)
        bias = self.param("bias", nn.initializers.zeros, (cfg.vocab_size,))
        logits = jnp.einsum(
            "...D,VD->...V",
            x.astype(self.dtype),
            word_embeddings.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        return logits + bias
