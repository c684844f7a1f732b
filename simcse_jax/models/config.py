"""The shape of an encoder, under the names of Hugging Face's ``config.json``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from simcse_jax.checks import quoted
from simcse_jax.models.dense import ACTIVATIONS

MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "electra")
"""Encoders of BERT's kind, by the ``model_type`` of Hugging Face's ``config.json``."""

WITHOUT_TOKEN_TYPES = ("distilbert", "mpnet")
RELATIVE_BUCKETS = 32
"""How many buckets MPNet's relative positions fall into."""

# Whose rows of the position table before and at the padding token's number are not used.
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")
# Far beyond any model: a bound before memory is asked for.
_MOST = 2**24
_SIZES = (
    ("vocab_size", 1, _MOST),
    ("hidden_size", 1, _MOST),
    ("num_hidden_layers", 1, 1000),
    ("num_attention_heads", 1, _MOST),
    ("intermediate_size", 1, _MOST),
    ("max_position_embeddings", 1, _MOST),
    ("type_vocab_size", 0, _MOST),
    ("pad_token_id", 0, _MOST),
    ("embedding_size", 1, _MOST),
    ("relative_attention_num_buckets", 0, _MOST),
)


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Describe an encoder; the fields are those of Hugging Face's ``config.json``.

    Attributes:
        type_vocab_size: 0 where tokens have no types (DistilBERT, MPNet).
        layer_norm_eps: 1e-12 in BERT, 1e-5 in RoBERTa.
        model_type: one of :data:`MODEL_TYPES`; it says where positions start, see
            `position_offset`.
        embedding_size: the width of the embeddings, which a projection takes to ``hidden_size``
            where it is another (ELECTRA); None for ``hidden_size``.
        relative_attention_num_buckets: of MPNet's relative positions; 0 for none.
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
    embedding_size: int | None = None
    relative_attention_num_buckets: int = 0

    def __post_init__(self):
        if self.model_type not in MODEL_TYPES:
            raise ValueError(
                f"model_type is {quoted(self.model_type)}; it must be one of "
                f"{', '.join(MODEL_TYPES)}"
            )
        if not isinstance(self.hidden_act, str) or self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"hidden_act {quoted(self.hidden_act)} is none of {sorted(ACTIVATIONS)}"
            )
        for name, least, most in _SIZES:
            value = getattr(self, name)
            if name == "embedding_size" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ValueError(
                    f"{name} is {quoted(value)}; it must be a whole number, {least} to {most}"
                )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            self._check_number(name, lambda x: 0 <= x <= 1, "from 0 to 1")
        self._check_number("layer_norm_eps", lambda x: 0 < x < 1, "between 0 and 1")
        self._check_number("initializer_range", lambda x: 0 <= x < math.inf, "at least 0")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.type_vocab_size == 0 and self.model_type not in WITHOUT_TOKEN_TYPES:
            raise ValueError(f"type_vocab_size is 0; {self.model_type} has one at least")
        if self.relative_attention_num_buckets not in (0, RELATIVE_BUCKETS):
            raise ValueError(
                f"relative_attention_num_buckets is {self.relative_attention_num_buckets}; it must "
                f"be {RELATIVE_BUCKETS}, which MPNet's own code counts with whatever is said here"
            )
        if self.pad_token_id >= self.vocab_size:
            raise ValueError(
                f"pad_token_id is {self.pad_token_id}; vocab_size is {self.vocab_size}"
            )
        if self.max_length < 2:
            raise ValueError(
                f"max_position_embeddings is {self.max_position_embeddings}; that leaves "
                f"{self.max_length} positions for tokens, and a sentence has at least 2"
            )

    def _check_number(self, name: str, holds: Callable[[float], bool], wanted: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
            raise ValueError(f"{name} is {quoted(value)}; it must be a number {wanted}")

    @property
    def position_offset(self) -> int:
        """Return the row of the position table that belongs to the first token."""
        if self.model_type == "mpnet":
            return 2  # whatever its padding token
        return self.pad_token_id + 1 if self.model_type in _POSITIONS_AFTER_PADDING else 0

    @property
    def embedding_width(self) -> int:
        """Return the width of the word, position and token type embeddings."""
        return self.embedding_size or self.hidden_size

    @property
    def has_pooler(self) -> bool:
        """Tell whether the pretrained model has a dense layer on its first token."""
        return self.model_type not in ("distilbert", "electra")

    @property
    def has_masked_lm_head(self) -> bool:
        """Tell whether it has BERT's masked-LM head; ELECTRA was pretrained otherwise."""
        return self.model_type != "electra"

    @property
    def max_length(self) -> int:
        """Return the longest input in tokens, special tokens included."""
        return self.max_position_embeddings - self.position_offset
