r"""WhitenedCSE (Zhuo et al. 2023): SimCSE of vectors that are whitened in shuffled groups.

.. math::
  \ell = \sum_{p=1}^{P}
    \ell_{InfoNCE}\left(g(\mathrm{SGW}_0(h)), g(\mathrm{SGW}_p(h^p))\right)

h and h¹ … h^P are a sentence under P + 1 dropout masks, SGW whitens them in the batch, each with
another shuffle of the channels (`losses.group_whitening`), and g is the MLP head. At test time
there is neither whitening nor head.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from simcse_jax.checks import check_count, check_positive, check_types, counted
from simcse_jax.data.batches import TrainingBatch
from simcse_jax.losses.group_whitening import group_whitening
from simcse_jax.losses.info_nce import Implementation, info_nce
from simcse_jax.models import Projection, SentenceModel
from simcse_jax.objectives.contrastive import (
    ContrastiveWithHead,
    geometry_metrics,
    refuse_hard_negatives,
)
from simcse_jax.objectives.objective import (
    AXIS,
    Keys,
    Metrics,
    Model,
    Objective,
    Params,
    embed_columns,
    sentence_keys,
)


@dataclasses.dataclass(frozen=True)
class WhitenedCSE(ContrastiveWithHead):
    """Rank each sentence's positives, all whitened, above the rest of the batch (WhitenedCSE).

    As in the authors' code, from which the defaults are, whitening comes before the head and the
    losses of the positives are added. Not as there, each view is whitened by its own statistics and
    shuffle: their code cuts the batch into thirds of the sentences with all their views, so that
    the views of a sentence share both. A text of one column has each sentence three times, which
    makes two positives; of two columns the second is the one positive.
    """

    temperature: float = 0.05
    """The temperature τ that cosines are divided by."""
    groups: int = 128
    """Into how many groups the channels are cut; it must divide the width of the model. 128 are
    groups of 6 channels in BERT-base, of 3 in MiniLM."""
    whitening_gradient: bool = False
    """Also differentiate the whitening matrices, which the authors' code takes for constants."""
    implementation: Implementation = "auto"
    """How InfoNCE is computed, which changes memory and speed but not its value."""

    method: ClassVar[str] = "WhitenedCSE"
    views: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_types(self)
        check_positive("temperature", self.temperature, finite=True)
        check_count("groups", self.groups)

    def init(self, model: Model, key: Key[Array, ""]) -> Params:
        """See `ContrastiveWithHead.init`.

        Raises:
            ValueError: also groups that do not divide the width.
        """
        self.check_groups(model.config.hidden_size)
        return super().init(model, key)

    def check_groups(self, width: int, batch_size: float = math.inf) -> None:
        """Raise ValueError where the groups do not divide so many channels.

        The message has the nearest number that does, and whose groups have fewer channels than the
        batch has examples.
        """
        if width % self.groups == 0:
            return
        divisors = (n for n in range(1, width + 1) if width % n == 0 and width // n < batch_size)
        near = min(divisors, key=lambda number: abs(number - self.groups))
        raise ValueError(
            f"groups is {self.groups}; it must divide the model's {width} channels: take {near}"
        )

    def check_text(self, columns: int, labels: bool) -> None:
        """See `ObjectiveConfig.check_text`: sentences or pairs; there are no hard negatives."""
        super().check_text(columns, labels)
        refuse_hard_negatives(self.method, columns)

    def check_batch(self, batch_size: int, columns: int, width: int) -> None:
        """See `ObjectiveConfig.check_batch`: a group needs more examples than it has channels."""
        super().check_batch(batch_size, columns, width)
        self.check_groups(width, batch_size)
        channels = width // self.groups
        if batch_size <= channels:
            raise ValueError(
                f"batch_size is {batch_size}; it must be above the {counted(channels, 'channel')} "
                "of a group, else whitening makes all sentences equally far apart: choose a larger "
                "batch, or more groups"
            )

    def build(self, model: Model) -> Objective:
        """See `ObjectiveConfig.build`.

        The metrics are ``loss``, ``contrastive_loss``, ``accuracy`` (the mean over the positives),
        ``alignment`` (to the first of them), ``uniformity`` (of the anchors) and ``duplicates``;
        all of the whitened vectors after the head.
        """
        encoder = SentenceModel(model.config, model.pooling, None, model.dtype)
        head = Projection(model.config, model.dtype)

        def embed(params: Params, batch: TrainingBatch, keys: Keys) -> Float[Array, "B C D"]:
            dropout = sentence_keys(keys("dropout"), batch.sentences)
            return embed_columns(encoder, params, batch, dropout)

        def loss(
            params: Params, vectors: Float[Array, "B C D"], batch: TrainingBatch, keys: Keys
        ) -> tuple[Float[Array, ""], Metrics]:
            white = self.whiten(vectors, keys)
            z: Any = head.apply({"params": params["head"]}, lax.collapse(white, 0, 2))
            return self.contrast(z.astype(jnp.float32).reshape(vectors.shape), batch)

        return Objective(embed, loss)

    def whiten(self, vectors: Float[Array, "B C D"], keys: Keys) -> Float[Array, "B C D"]:
        """Whiten every column of a batch, with a shuffle of its own."""
        rows, columns, width = vectors.shape
        self.check_batch(rows * lax.axis_size(AXIS), columns, width)
        shuffles = jax.random.split(keys("shuffle"), columns)
        orders = jax.vmap(functools.partial(jax.random.permutation, x=width))(shuffles)  # [C D]

        def whitened(x: Float[Array, "B D"], order: Array) -> Float[Array, "B D"]:
            return group_whitening(
                x,
                self.groups,
                order,
                whitening_gradient=self.whitening_gradient,
                axis_name=AXIS,
            )

        return jax.vmap(whitened, (1, 0), 1)(vectors, orders)

    def contrast(
        self, z: Float[Array, "B C D"], batch: TrainingBatch
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the sum of the positives' losses, and what is measured."""
        anchors, *positives = jnp.unstack(z, axis=1)
        if not positives:
            raise ValueError("WhitenedCSE takes a sentence with its positives; the text has none")
        found = [
            info_nce(
                anchors,
                positive,
                temperature=self.temperature,
                implementation=self.implementation,
                axis_name=AXIS,
            )
            for positive in positives
        ]
        value = sum((one.loss for one in found[1:]), found[0].loss)
        accuracy = sum((one.accuracy for one in found[1:]), found[0].accuracy) / len(found)
        return value, {
            "contrastive_loss": value,
            "accuracy": accuracy,
            **geometry_metrics(anchors, positives[0], batch),
        }
