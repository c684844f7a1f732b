r"""SimCSE++ (Xu et al. 2023): negatives without dropout, and dimensions contrasted too.

.. math:: \ell = \ell_{off-dropout} + \lambda\, \ell_{DCL}

with `losses.off_dropout` and `losses.dimension_wise`. A sentence is embedded three times: under two
dropout masks and without one.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from simcse_jax.checks import check_at_least, check_positive, check_types
from simcse_jax.data.batches import TrainingBatch
from simcse_jax.losses.dimension_wise import dimension_wise_loss
from simcse_jax.losses.off_dropout import off_dropout_info_nce
from simcse_jax.models import Batch, SentenceModel
from simcse_jax.objectives.contrastive import ContrastiveWithHead, geometry_metrics
from simcse_jax.objectives.objective import (
    AXIS,
    Keys,
    Metrics,
    Model,
    Objective,
    Params,
    sentence_keys,
)


def twice(rows: Batch, count: int) -> Batch:
    """Return rows of ``count`` sentences and, as further sentences, the same ones again."""
    segments = jnp.asarray(rows.segment_ids)
    moved = jnp.where(segments > 0, segments + count, 0)
    again = dataclasses.replace(rows, segment_ids=moved)
    return jax.tree.map(lambda *both: jnp.concatenate(both), rows, again)


@dataclasses.dataclass(frozen=True)
class SimCSEPlusPlus(ContrastiveWithHead):
    """Rank the other dropout mask of a sentence above the dropout-free others (SimCSE++).

    The defaults are those of the authors' script ``run_re_vicreg.sh`` and the code it runs.
    """

    temperature: float = 0.05
    """The temperature τ that cosines of sentences are divided by."""
    positive_weight: float = 1.0
    """What the positive's cosine is multiplied by (m): 1 in the authors' script; 0.9 is the default
    in one version of their code."""
    dimension_weight: float = 0.1
    """The weight λ of the dimension-wise loss; 0 is without."""
    dimension_temperature: float = 5.0
    """The temperature that correlations of dimensions are divided by; for the dimension-wise loss
    beside plain SimCSE the authors note 20."""

    method: ClassVar[str] = "SimCSE++"

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("temperature", "positive_weight", "dimension_temperature"):
            check_positive(name, getattr(self, name), finite=True)
        check_at_least("dimension_weight", self.dimension_weight, 0)

    def check_text(self, columns: int, labels: bool) -> None:
        """See `ObjectiveConfig.check_text`: sentences alone, whose positives are dropout's."""
        super().check_text(columns, labels)
        if columns != 1:
            raise ValueError(
                f"SimCSE++ takes text of one column, the text has {columns}: columns 1 takes the "
                "first of them"
            )

    def build(self, model: Model) -> Objective:
        """See `ObjectiveConfig.build`.

        The metrics are ``loss``, ``contrastive_loss``, ``dimension_loss``, ``accuracy``,
        ``alignment`` (of the two masks), ``uniformity`` (without dropout) and ``duplicates``.
        """
        encoder = SentenceModel(model.config, model.pooling, "head", model.dtype, model.dtype)

        def embed(params: Params, batch: TrainingBatch, keys: Keys) -> Float[Array, "B 3 D"]:
            numbers = batch.sentences  # [B 1]
            count = numbers.size
            # The numbers of SimCSE's two views, and so their masks.
            both = jnp.concatenate([2 * numbers, 2 * numbers + 1])
            masks = sentence_keys(keys("dropout"), both)
            masked: Any = encoder.apply(
                {"params": params}, twice(batch.rows, count), masks, num_sentences=2 * count
            )
            plain: Any = encoder.apply({"params": params}, batch.rows, num_sentences=count)
            return jnp.stack([masked[:count], masked[count:], plain], axis=1)

        return Objective(embed, self.loss)

    def loss(
        self, params: Params, vectors: Float[Array, "B 3 D"], batch: TrainingBatch, keys: Keys
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the loss of the global batch, and what is measured of it."""
        self.check_batch(len(vectors) * lax.axis_size(AXIS), 1, vectors.shape[-1])
        z, other, plain = jnp.unstack(vectors, axis=1)  # [B D] each
        contrast, accuracy = off_dropout_info_nce(
            *(z, other, plain),
            temperature=self.temperature,
            positive_weight=self.positive_weight,
            axis_name=AXIS,
        )
        dimensions = dimension_wise_loss(
            z, other, temperature=self.dimension_temperature, axis_name=AXIS
        )
        return contrast + self.dimension_weight * dimensions, {
            "contrastive_loss": contrast,
            "dimension_loss": dimensions,
            "accuracy": accuracy,
            **geometry_metrics(z, other, batch, plain),
        }
