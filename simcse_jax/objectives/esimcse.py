r"""ESimCSE (Wu et al. 2022): SimCSE with negatives of earlier batches, out of a queue.

.. math:: \theta_m \leftarrow \lambda\, \theta_m + (1 - \lambda)\, \theta

What the queue keeps of a batch is embedded without dropout by a second encoder, :math:`\theta_m`,
which follows the first slowly, and goes through the head as it is then. The method's other half,
positives that say some words twice, is a matter of the text (`repeat-words`).
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from simcse_jax.checks import check_between, check_count, check_positive, check_types, counted
from simcse_jax.data.batches import TrainingBatch
from simcse_jax.losses.queue_info_nce import queue_info_nce
from simcse_jax.models import SentenceModel
from simcse_jax.objectives.contrastive import (
    ContrastiveWithHead,
    geometry_metrics,
    refuse_hard_negatives,
)
from simcse_jax.objectives.objective import (
    AXIS,
    Keys,
    Memory,
    Metrics,
    Model,
    Objective,
    Params,
    embed_columns,
    sentence_keys,
)


@dataclasses.dataclass(frozen=True)
class ESimCSE(ContrastiveWithHead):
    """Rank each sentence's positive above the batch and a queue of earlier batches (ESimCSE)."""

    temperature: float = 0.05
    """The temperature τ that cosines are divided by."""
    queue_size: int = 160
    """How many sentences of earlier batches are further negatives: two and a half batches of 64, as
    in the authors' script. The text needs as many rows and a batch; many more are better."""
    momentum: float = 0.995
    """How slowly the encoder of the queue follows the trained one (λ): 0 is at once, 1 never; 0.995
    in the authors' script."""

    method: ClassVar[str] = "ESimCSE"
    views: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_types(self)
        check_positive("temperature", self.temperature, finite=True)
        check_count("queue_size", self.queue_size)
        check_between("momentum", self.momentum, 0, 1)

    def check_text(self, columns: int, labels: bool) -> None:
        """See `ObjectiveConfig.check_text`: sentences or pairs; hard negatives are not read."""
        super().check_text(columns, labels)
        refuse_hard_negatives(self.method, columns)

    def check_rows(self, rows: int, batch_size: int) -> None:
        """See `ObjectiveConfig.check_rows`: else a sentence meets itself, as its own negative.

        Within an epoch: after the text is shuffled for the next one, the queue may still hold it
        (the authors empty theirs at every epoch); the shorter it is beside the text, the more
        rarely.
        """
        if rows < self.queue_size + batch_size:
            most = rows - batch_size
            mend = f"queue_size can be {most} at most" if most > 0 else "give more text"
            raise ValueError(
                f"queue_size is {self.queue_size} and batch_size {batch_size}, but the text has "
                f"{counted(rows, 'row')}: a sentence would be its own negative, out of the queue; "
                f"{mend}"
            )

    def init_frozen(self, params: Params) -> Params:
        """See `ObjectiveConfig.init_frozen`.

        ``momentum_encoder``, a copy of the encoder; ``queue``, ``[Q, D]`` float32; and ``filled``,
        int32: how many of its rows, the last ones, hold a sentence.
        """
        width = params["head"]["dense"]["kernel"].shape[-1]
        return {
            "momentum_encoder": params["encoder"],
            "queue": jnp.zeros((self.queue_size, width), jnp.float32),
            "filled": jnp.zeros((), jnp.int32),
        }

    def build(self, model: Model) -> Objective:
        """See `ObjectiveConfig.build`.

        The metrics are ``loss``, ``contrastive_loss``, ``accuracy``, ``alignment``, ``uniformity``
        (of the anchors) and ``duplicates``.
        """
        encoder = SentenceModel(model.config, model.pooling, "head", model.dtype, model.dtype)

        def embed(params: Params, batch: TrainingBatch, keys: Keys) -> Float[Array, "B C D"]:
            dropout = sentence_keys(keys("dropout"), batch.sentences)
            return embed_columns(encoder, params, batch, dropout)

        def embed_for_the_queue(params: Params, batch: TrainingBatch) -> Float[Array, "B D"]:
            slow = {"encoder": params["momentum_encoder"], "head": params["head"]}
            # Sentences share rows with their positives, which are embedded too and left out.
            return embed_columns(encoder, slow, batch)[:, 0]

        return Objective(
            embed, self.loss, memory=Memory(self.follow, embed_for_the_queue, self.store)
        )

    def loss(
        self, params: Params, vectors: Float[Array, "B C D"], batch: TrainingBatch, keys: Keys
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the loss of the global batch, and what is measured of it."""
        _, columns, width = vectors.shape
        self.check_batch(len(vectors) * lax.axis_size(AXIS), columns, width)
        anchors, positives = jnp.unstack(vectors, axis=1)  # [B D] each
        value, accuracy = queue_info_nce(
            *(anchors, positives, params["queue"], params["filled"]),
            temperature=self.temperature,
            axis_name=AXIS,
        )
        return value, {
            "contrastive_loss": value,
            "accuracy": accuracy,
            **geometry_metrics(anchors, positives, batch),
        }

    def follow(self, params: Params, kept: Params) -> Params:
        """Return what is kept, with the momentum encoder ``λ θ_m + (1 - λ) θ`` (section 3.2)."""

        def nearer(slow: Array, fast: Array) -> Array:
            return self.momentum * slow + (1 - self.momentum) * fast

        slow = jax.tree.map(nearer, kept["momentum_encoder"], params["encoder"])
        return kept | {"momentum_encoder": slow}

    def store(self, kept: Params, vectors: Float[Array, "B D"], batch: TrainingBatch) -> Params:
        """Return what is kept, with the global batch at the queue's end, in the batch's order.

        The sentences that have been there for the longest leave it.
        """
        share = vectors.astype(jnp.float32), batch.sentences[:, 0]
        new, numbers = lax.all_gather(share, AXIS, tiled=True)
        # Of a part of a batch, which sentences leave must not depend on the devices.
        queue = jnp.concatenate([kept["queue"], new[jnp.argsort(numbers)]])
        filled = jnp.minimum(kept["filled"] + len(new), self.queue_size)
        return kept | {"queue": queue[len(queue) - self.queue_size :], "filled": filled}
