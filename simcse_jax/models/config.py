"""The shape of an encoder, under the names of Hugging Face's ``config.json``."""

from __future__ import annotations

import dataclasses

from simcse_jax.models.dense import ACTIVATIONS


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Describe an encoder; the fields are those of Hugging Face's ``config.json``.

    Attributes:
        model_type: ``"bert"`` or ``"roberta"``. RoBERTa's positions start at
            ``pad_token_id + 1``, and it has a single token type.
        layer_norm_eps: 1e-12 in BERT, 1e-5 in RoBERTa.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    pad_token_id: int = 0
    model_type: str = "bert"

    def __post_init__(self):
        if self.model_type not in ("bert", "roberta"):
            raise ValueError(f"model_type is {self.model_type!r}; it must be 'bert' or 'roberta'")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {self.hidden_act!r} is none of {sorted(ACTIVATIONS)}")

    @property
    def position_offset(self) -> int:
        """Return the row of the position table that belongs to the first token."""
        return self.pad_token_id + 1 if self.model_type == "roberta" else 0

    @property
    def max_length(self) -> int:
        """Return the longest input in tokens, special tokens included."""
        return self.max_position_embeddings - self.position_offset
