"""What sits on top of the encoder: projection, softmax classifier and masked-LM head."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from simcse_jax.arrays import AnyArray
from simcse_jax.models.config import BertConfig
from simcse_jax.models.dense import ACTIVATIONS, layer_norm


class Projection(nn.Module):
    """`tanh(x W + b)`: BERT's pooler, and the MLP head of SimCSE's section 6.3.

    SimCSE initialises its head afresh (normal, 0.02); it does not start from BERT's pooler.
    """

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        init = nn.initializers.normal(self.config.initializer_range)
        dense = nn.Dense(self.config.hidden_size, dtype=self.dtype, kernel_init=init, name="dense")
        return jnp.tanh(dense(x))


class SoftmaxClassifier(nn.Module):
    """`W_tᵀ f + b`: the scores of K classes (Reimers & Gurevych 2019, section 3), float32.

    The paper's formula and Su et al. (2021) have no bias, the authors' code has one. Parameters
    start at `U(-1/√F, 1/√F)` over the F features, as torch's linear layer does; see
    `init_classifier`.
    """

    num_labels: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, features: Float[AnyArray, "B F"]) -> Float[Array, "B K"]:
        uniform = _uniform(features.shape[-1])
        kernel = self.param("kernel", uniform, (features.shape[-1], self.num_labels))
        accumulate = jnp.promote_types(features.dtype, jnp.float32)
        logits = jnp.matmul(features, kernel, preferred_element_type=accumulate)
        return logits + self.param("bias", uniform, (self.num_labels,)) if self.use_bias else logits


def _uniform(width: int) -> Callable[[Key[Array, ""], tuple[int, ...]], Array]:
    def draw(key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, shape, minval=-1, maxval=1) * width**-0.5

    return draw


def init_classifier(
    key: Key[Array, ""], width: int, num_labels: int, use_bias: bool
) -> dict[str, Array]:
    """Draw the parameters of a `SoftmaxClassifier` as every run until now has drawn them.

    Args:
        key: split in two for kernel and bias, where Linen would fold in their names.
        width: the number of features F.
        num_labels: the number of classes K.
        use_bias: whether there is a bias.
    """
    kernel_key, bias_key = jax.random.split(key)
    params = {"kernel": _uniform(width)(kernel_key, (width, num_labels))}
    return params | ({"bias": _uniform(width)(bias_key, (num_labels,))} if use_bias else {})


class MaskedLMHead(nn.Module):
    """Dense, activation, layer norm, then the word embeddings transposed, plus a bias per word."""

    config: BertConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "*B D"], word_embeddings: Float[AnyArray, "V D"]
    ) -> Float[Array, "*B V"]:
        """Return logits over the vocabulary, float32."""
        cfg = self.config
        init = nn.initializers.normal(cfg.initializer_range)
        x = nn.Dense(cfg.hidden_size, dtype=self.dtype, kernel_init=init, name="dense")(hidden)
        # Whatever the config says, the exact gelu; but BERT's and DistilBERT's heads obey it.
        obeys = cfg.model_type in ("bert", "distilbert")
        x = ACTIVATIONS[cfg.hidden_act if obeys else "gelu"](x)
        x = layer_norm(cfg.layer_norm_eps, "norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (cfg.vocab_size,))
        logits = jnp.einsum(
            "...D,VD->...V",
            x.astype(self.dtype),
            word_embeddings.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        return logits + bias
