r"""SimCSE (Gao et al. 2021): in-batch InfoNCE, unsupervised and supervised.

.. math:: \ell = \ell_{InfoNCE} + \lambda\, \ell_{MLM}

Whether training is unsupervised is not said here, the text's columns decide: one column is two
views of the same sentence under two dropout masks, two are pairs, three are triplets with a hard
negative, and more have several.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from simcse_jax.checks import (
    check_at_least,
    check_between,
    check_finite,
    check_positive,
    check_types,
)
from simcse_jax.data.batches import TrainingBatch
from simcse_jax.losses.info_nce import Implementation, Similarity, info_nce
from simcse_jax.models import SentenceModel
from simcse_jax.objectives.contrastive import (
    geometry_metrics,
    init_projection,
    refuse_labels,
    refuse_one_example,
)
from simcse_jax.objectives.masked_lm import init_head, masked_lm_term, word_embeddings
from simcse_jax.objectives.objective import (
    AXIS,
    Keys,
    Metrics,
    Model,
    Objective,
    Params,
    TokenObjective,
    sentence_keys,
)

Head = Literal["train_and_test", "train_only", "none"]


@dataclasses.dataclass(frozen=True)
class SimCSE(TokenObjective):
    """Rank each sentence's positive above the rest of the batch (SimCSE, equations 1, 4 and 5)."""

    head: Head = "train_only"
    """The MLP (dense and tanh) between pooling and loss: 'train_only' is dropped at test time, as
    the unsupervised models do; 'train_and_test' is kept, as the supervised ones do (with cls
    pooling only, because model folders know no other pooler); 'none' trains without it."""
    temperature: float = 0.05
    """The temperature τ that cosines are divided by."""
    hard_negative_weight: float = 0.0
    """The logarithm of α, the weight of a sentence's own hard negatives; 0 is α = 1."""
    similarity: Similarity = "cosine"
    """What is compared: 'cosine', or 'dot' as in the paper's ablation."""
    symmetric: bool = False
    """Also rank the anchors for each positive, and average both losses."""
    implementation: Implementation = "auto"
    """How the loss is computed, which changes memory and speed but not its value."""
    mask_duplicates: bool = False
    """Leave the positives of equal sentences out of the denominator; otherwise they are only
    counted. Sentences are equal whose first columns have equal tokens."""
    shared_dropout: bool = False
    """Let the views of a sentence share one dropout mask: the paper's 'fixed 0.1' ablation, which
    collapses unsupervised training there."""
    two_encoders: bool = False
    """Encode the first column with one encoder and head and the others with a second pair, which
    starts as their copy (the paper's table 2); the model is the first. Every sentence goes through
    both, so that a step costs twice as much."""
    mlm_weight: float = 0.0
    """The weight λ of an auxiliary masked-LM loss (table D.2 of the paper); 0 is without."""
    mlm_probability: float = 0.15
    """The share of the tokens that the masked-LM loss predicts."""
    mlm_decoder: Literal["tied", "copied"] = "tied"
    """What masked tokens are guessed with: the word embeddings ('tied'), or a matrix of its own
    that begins as their copy ('copied', as in the authors' code) and is not part of the model."""

    views: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_types(self)
        check_positive("temperature", self.temperature, finite=True)
        check_finite("hard_negative_weight", self.hard_negative_weight)
        check_at_least("mlm_weight", self.mlm_weight, 0)
        check_between("mlm_probability", self.mlm_probability, 0, 1, "(]")

    def check_pooling(self, pooling: str) -> None:
        """Raise ValueError for a pooling that this head cannot follow."""
        if pooling == "pooler":
            raise ValueError(
                "pooling is 'pooler'; it must be 'cls' with a head, which is the pooler"
            )
        if self.head != "none" and "+" in pooling:
            raise ValueError(
                f"pooling is {pooling!r}; the head takes one vector a sentence, such as 'cls': "
                "choose another, or head 'none'"
            )
        if self.head == "train_and_test" and pooling != "cls":
            raise ValueError(
                f"pooling is {pooling!r}; it must be 'cls' where the head is kept at test time"
            )

    def check_text(self, columns: int, labels: bool) -> None:
        """See `ObjectiveConfig.check_text`: nothing is given that would be taken for nothing."""
        refuse_labels("SimCSE", labels)
        if self.hard_negative_weight and columns < 3:
            raise ValueError(
                f"hard_negative_weight is {self.hard_negative_weight}, but the text has no hard "
                "negatives; leave it out, or give three columns"
            )

    def check_batch(self, batch_size: int, columns: int, width: int) -> None:
        """See `ObjectiveConfig.check_batch`: a single example needs a hard negative."""
        if columns < 3:
            refuse_one_example(batch_size)

    def init(self, model: Model, key: Key[Array, ""]) -> Params:
        """See `ObjectiveConfig.init`.

        A ``"head"`` of the model is continued; without one the head is fresh, as in the paper: a
        ``"pooler"`` is not its start.

        Raises:
            ValueError: a pooling that the head cannot follow, or the model is too shallow for.
        """
        self.check_pooling(model.pooling)
        if self.head == "train_and_test" and not model.config.has_pooler:
            raise ValueError(
                f"head is 'train_and_test'; a model of type {model.config.model_type} has no place "
                "for it, so that it must be 'train_only' or 'none'"
            )
        params = super().init(model, key)
        head_key, mlm_key = jax.random.split(key)
        if self.head != "none":
            params["head"] = init_projection(model, head_key)
        if self.two_encoders:
            params["second"] = dict(params)
        if self.mlm_weight > 0:
            params["mlm"] = init_head(model, mlm_key)
            if self.mlm_decoder == "copied":
                params["decoder"] = word_embeddings(params)
        return params

    def build(self, model: Model) -> Objective:
        """See `ObjectiveConfig.build`.

        The metrics are ``loss``, ``contrastive_loss``, ``accuracy``, ``alignment``, ``uniformity``
        (of the anchors), ``duplicates``, and ``mlm_loss`` with ``mlm_weight``.

        Raises:
            ValueError: ``mlm_weight`` with a tokenizer that has no mask token.
        """
        encoder = SentenceModel(
            model.config,
            model.pooling,
            None if self.head == "none" else "head",
            model.dtype,
            model.dtype,
        )
        tokens = None
        if self.mlm_weight > 0:
            tokens = masked_lm_term(model, self.mlm_weight, self.mlm_probability)

        def embed(params: Params, batch: TrainingBatch, keys: Keys) -> Float[Array, "B C D"]:
            sentences = batch.sentences
            if self.shared_dropout:
                sentences = jnp.broadcast_to(sentences[:, :1], sentences.shape)
            dropout = sentence_keys(keys("dropout"), sentences)

            def vectors(params: Params) -> Float[Array, "B C D"]:
                z: Any = encoder.apply(
                    {"params": params}, batch.rows, dropout, num_sentences=sentences.size
                )
                return z.reshape(*sentences.shape, -1)

            z = vectors(params)
            if self.two_encoders:
                z = jnp.concatenate([z[:, :1], vectors(params["second"])[:, 1:]], axis=1)
            return z

        return Objective(embed, self.loss, tokens)

    def loss(
        self, params: Params, vectors: Float[Array, "B C D"], batch: TrainingBatch, keys: Keys
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the contrastive loss of the global batch, and what is measured of it."""
        _, columns, width = vectors.shape
        if columns < 2:
            raise ValueError(
                "SimCSE takes pairs, with hard negatives or none; the examples have one sentence"
            )
        self.check_batch(len(vectors) * lax.axis_size(AXIS), columns, width)
        anchors, positives = vectors[:, 0], vectors[:, 1]  # [B D] each
        value, accuracy = info_nce(
            anchors,
            positives,
            vectors[:, 2:] if columns > 2 else None,  # [B K D]
            temperature=self.temperature,
            hard_negative_weight=self.hard_negative_weight,
            similarity=self.similarity,
            symmetric=self.symmetric,
            implementation=self.implementation,
            group_ids=batch.groups if self.mask_duplicates else None,
            axis_name=AXIS,
        )
        return value, {
            "contrastive_loss": value,
            "accuracy": accuracy,
            **geometry_metrics(anchors, positives, batch),
        }

    def export(self, params: Params) -> Params:
        """See `ObjectiveConfig.export`.

        The head becomes the ``"pooler"`` where it is kept and is dropped elsewhere; the masked-LM
        head stays where its decoder is the word embeddings, which model folders have it from; a
        second encoder does not.
        """
        names = ("encoder",) if "decoder" in params else ("encoder", "mlm")
        kept: Params = {name: params[name] for name in names if name in params}
        if self.head == "train_and_test":
            kept["pooler"] = params["head"]
        return kept

    def export_pooling(self, pooling: str) -> str:
        """See `ObjectiveConfig.export_pooling`: ``"pooler"`` where the head is kept."""
        return "pooler" if self.head == "train_and_test" else pooling
