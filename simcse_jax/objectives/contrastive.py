"""What contrastive objectives share: the head under the loss, what they refuse and measure."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from simcse_jax.data.batches import TrainingBatch
from simcse_jax.losses.geometry import alignment, uniformity
from simcse_jax.models import Projection
from simcse_jax.objectives.objective import AXIS, Metrics, Model, Params, TokenObjective


class ContrastiveWithHead(TokenObjective):
    """Defaults for objectives with an MLP head that is dropped at test time, and no labels.

    Attributes:
        method: what errors call it.
    """

    method: ClassVar[str]

    def init(self, model: Model, key: Key[Array, ""]) -> Params:
        """See `ObjectiveConfig.init`: a ``"head"`` of the model is continued, or a fresh one.

        Raises:
            ValueError: a pooling that the head cannot follow, or the model is too shallow for.
        """
        if model.pooling == "pooler" or "+" in model.pooling:
            raise ValueError(
                f"pooling is {model.pooling!r}; it must be one that gives the head one vector a "
                "sentence, such as 'cls'"
            )
        return super().init(model, key) | {"head": init_projection(model, key)}

    def check_text(self, columns: int, labels: bool) -> None:
        """See `ObjectiveConfig.check_text`: without labels, which would be taken for nothing."""
        refuse_labels(self.method, labels)

    def check_batch(self, batch_size: int, columns: int, width: int) -> None:
        """See `ObjectiveConfig.check_batch`: a single example has no negatives."""
        refuse_one_example(batch_size)


def init_projection(model: Model, key: Key[Array, ""]) -> Params:
    """Return the parameters of the MLP head: the model's ``"head"``, or fresh ones."""
    hidden = jnp.zeros((1, model.config.hidden_size))
    fresh = Projection(model.config).init(key, hidden)["params"]
    return model.params.get("head", fresh)


def refuse_labels(name: str, labels: bool) -> None:
    """Raise ValueError where a text has labels, which the objective of this name does not read."""
    if labels:
        raise ValueError(
            f"the training text has labels, which {name} does not read: leave labelled_nli out, "
            "so that NLI becomes triplets, or give pairs without scores"
        )


def refuse_hard_negatives(name: str, columns: int) -> None:
    """Raise ValueError where a text has more than pairs, which the objective of this name reads."""
    if columns > 2:
        raise ValueError(
            f"{name} takes sentences or pairs, the text has {columns} columns: columns 2 takes the "
            "first two of them"
        )


def refuse_one_example(batch_size: int) -> None:
    """Raise ValueError for a batch of one example, which has no negatives."""
    if batch_size == 1:
        raise ValueError(
            "batch_size is 1; it must be at least 2 without hard negatives, since a sentence's "
            "negatives are the other examples of its batch"
        )


def geometry_metrics(
    anchors: Float[Array, "B D"],
    positives: Float[Array, "B D"],
    batch: TrainingBatch,
    points: Float[Array, "B D"] | None = None,
) -> Metrics:
    """Return what is measured of the global batch beside its loss.

    They are ``alignment``, ``uniformity`` (of the points, by default the anchors) and
    ``duplicates``.
    """
    points = anchors if points is None else points
    anchors, positives, points = lax.stop_gradient((anchors, positives, points))
    repeated = jnp.sum(batch.groups != batch.sentences[:, 0] // batch.sentences.shape[1])
    return {
        "alignment": alignment(anchors, positives, axis_name=AXIS),
        "uniformity": uniformity(points, axis_name=AXIS),
        "duplicates": lax.psum(repeated, AXIS).astype(jnp.float32),
    }
