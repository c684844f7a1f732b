"""Masked language modelling (Devlin et al. 2019): alone, or beside another objective.

Alone it is continued pretraining, also called domain-adaptive; beside the contrastive loss it is
SimCSE's auxiliary term (table D.2 of the paper).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_between, check_types
from simcse_jax.data.batches import TrainingBatch
from simcse_jax.losses.masked_lm import IGNORED, masked_lm_sum
from simcse_jax.models import Batch, BertConfig, BertEncoder, MaskedLMHead
from simcse_jax.models.dropout import token_seeds
from simcse_jax.objectives.objective import (
    AXIS,
    Keys,
    Metrics,
    Model,
    Objective,
    Params,
    TokenObjective,
    TokenTerm,
    other_keys,
    sentence_keys,
)


@dataclasses.dataclass(frozen=True)
class MaskedLM(TokenObjective):
    """Predict masked tokens (continued pretraining)."""

    probability: float = 0.15
    """The share of the tokens that are to be predicted."""

    def __post_init__(self) -> None:
        check_types(self)
        check_between("probability", self.probability, 0, 1, "(]")

    def init(self, model: Model, key: Key[Array, ""]) -> Params:
        """See `ObjectiveConfig.init`: the model's masked-LM head is continued, or a fresh one."""
        return super().init(model, key) | {"mlm": init_head(model, key)}

    def build(self, model: Model) -> Objective:
        """See `ObjectiveConfig.build`: nothing but a loss of single tokens."""

        def embed(params: Params, batch: TrainingBatch, keys: Keys) -> Float[Array, "B 0"]:
            return jnp.zeros((len(batch.sentences), 0))

        def loss(
            params: Params, vectors: Array, batch: TrainingBatch, keys: Keys
        ) -> tuple[Array, Metrics]:
            return jnp.zeros(()), {}

        return Objective(embed, loss, masked_lm_term(model, 1.0, self.probability))

    def export(self, params: Params) -> Params:
        """See `ObjectiveConfig.export`: the head is kept."""
        return {"encoder": params["encoder"], "mlm": params["mlm"]}


class MaskingTokens(NamedTuple):
    """What masking needs to know of the tokenizer.

    Attributes:
        mask_id: the id of ``[MASK]`` or ``<mask>``.
        special_ids: ids that are never predicted: ``[CLS]``, ``[SEP]``, ``[PAD]`` and the like.
    """

    mask_id: int
    special_ids: tuple[int, ...]


def init_head(model: Model, key: Key[Array, ""]) -> Params:
    """Return the model's masked-LM head, or a fresh one where it has none.

    Raises:
        ValueError: a kind of model that was not pretrained by masked language modelling.
    """
    cfg = model.config
    if not cfg.has_masked_lm_head:
        raise ValueError(
            f"a model of type {cfg.model_type} has no masked-LM head; choose another model, or "
            "leave masked language modelling out"
        )
    if "mlm" in model.params:
        return model.params["mlm"]
    words = jnp.zeros((cfg.vocab_size, cfg.hidden_size))
    return MaskedLMHead(cfg).init(key, jnp.zeros((1, cfg.hidden_size)), words)["params"]


def masked_lm_term(model: Model, weight: float, probability: float) -> TokenTerm:
    r"""Make the mean cross entropy of masked tokens, times ``weight``, a term of an objective.

    Raises:
        ValueError: the tokenizer has no mask token.
    """
    config, tokens = model.config, masking_tokens(model)
    score = functools.partial(word_scores, config, model.dtype)

    def masked(batch: TrainingBatch, keys: Keys) -> tuple[Array, Array]:
        drawn = sentence_keys(keys("masking"), batch.sentences)
        return mask_tokens(batch.rows, drawn, tokens, config.vocab_size, probability)

    def count(batch: TrainingBatch, keys: Keys) -> Int[Array, ""]:
        return jnp.sum(masked(batch, keys)[1] != IGNORED)

    def loss(
        params: Params, batch: TrainingBatch, keys: Keys, total: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        ids, labels = masked(batch, keys)
        dropout = other_keys(sentence_keys(keys("dropout"), batch.sentences), 1)
        rows = dataclasses.replace(batch.rows, input_ids=ids)
        states = token_states(config, params, rows, dropout, model.dtype)
        own = masked_lm_sum(
            score, head_params(params), lax.collapse(states, 0, 2), labels.reshape(-1)
        )
        share = lax.psum(own / jnp.maximum(total, 1), AXIS)
        return weight * share, {"mlm_loss": share}

    return TokenTerm(count, loss)


def token_states(
    config: BertConfig, params: Params, rows: Batch, keys: Key[Array, "S"] | None, dtype: Any
) -> Float[Array, "R L D"]:
    """Return the encoder's last hidden state of every token."""
    states: Any = BertEncoder(config, dtype).apply({"params": params["encoder"]}, rows, keys)
    return states[-1]


def head_params(params: Params) -> tuple[Params, Float[AnyArray, "V D"]]:
    """Return what `word_scores` needs: the head's parameters and its last matrix.

    A ``"decoder"`` among the parameters takes the place of the word embeddings.
    """
    return params["mlm"], params["decoder"] if "decoder" in params else word_embeddings(params)


def word_scores(
    config: BertConfig, dtype: Any, params: tuple[Params, AnyArray], states: Float[Array, "*T D"]
) -> Float[Array, "*T V"]:
    """Return the masked-LM head's scores of every word for some tokens, given `head_params`."""
    head, words = params
    logits: Any = MaskedLMHead(config, dtype).apply({"params": head}, states, words)
    return logits


def word_embeddings(params: Params) -> Float[AnyArray, "V D"]:
    """Return the encoder's word embeddings."""
    return params["encoder"]["embeddings"]["word"]["embedding"]


def masking_tokens(model: Model) -> MaskingTokens:
    """Ask the tokenizer what masking needs.

    Raises:
        ValueError: it has no mask token.
    """
    if model.tokenizer.mask_id is None:
        raise ValueError(
            "the model's tokenizer has neither [MASK] nor <mask>, which masked language modelling "
            "needs; choose another model, or leave it out"
        )
    return MaskingTokens(model.tokenizer.mask_id, tuple(model.tokenizer.special_ids()))


def mask_tokens(
    batch: Batch,
    keys: Key[Array, "S"],
    tokens: MaskingTokens,
    vocab_size: int,
    probability: float = 0.15,
) -> tuple[Int[Array, "R L"], Int[Array, "R L"]]:
    """Mask tokens as BERT does (Devlin et al. 2019, section 3.1).

    Each token but the special ones is chosen with ``probability``; a chosen one becomes the mask
    (80 %), any word of the vocabulary (10 %), or stays (10 %). What is drawn for a token depends
    on its sentence's key and its place in the sentence.

    Args:
        batch: rows of tokens.
        keys: a key for each sentence.
        tokens: the tokenizer's.
        vocab_size: the number of words.
        probability: of a token to be chosen.

    Returns:
        The masked ids, and labels: the true id where chosen, -100 elsewhere.
    """
    input_ids = jnp.asarray(batch.input_ids)
    seeds = token_seeds(keys, batch)  # [R L 2]
    chosen, changed = (s.astype(jnp.float32) * 2.0**-32 for s in jnp.unstack(seeds, axis=-1))
    other = token_seeds(other_keys(keys, 1), batch)[..., 0]
    words = (other % jnp.uint32(vocab_size)).astype(input_ids.dtype)
    special = jnp.isin(input_ids, jnp.asarray(tokens.special_ids, input_ids.dtype))
    picked = (chosen < probability) & batch.attention_mask & ~special
    masked = jnp.where(changed < 0.8, tokens.mask_id, jnp.where(changed < 0.9, words, input_ids))
    return jnp.where(picked, masked, input_ids), jnp.where(picked, input_ids, IGNORED)
