"""Sentence-BERT (Reimers & Gurevych 2019, section 3): softmax, regression and triplet objectives.

The sentences of a pair or triplet go through one encoder ("siamese"): all of a batch are segments
of one forward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from safetensors import safe_open

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_at_least, check_count, check_types
from simcse_jax.data.batches import TrainingBatch
from simcse_jax.io import write_tensors
from simcse_jax.losses.cosine_regression import Score, cosine_regression
from simcse_jax.losses.nli_softmax import Concatenation, feature_width, nli_softmax, pair_features
from simcse_jax.losses.triplet import Distance, triplet_loss
from simcse_jax.models import SentenceModel, SoftmaxClassifier
from simcse_jax.models.heads import init_classifier
from simcse_jax.models.pooling import pooled_size
from simcse_jax.objectives.objective import (
    AXIS,
    Keys,
    Metrics,
    Model,
    Objective,
    Params,
    TokenObjective,
    embed_columns,
    sentence_keys,
)

Kind = Literal["softmax", "regression", "triplet"]
CLASSIFIER_FILE = "classifier.safetensors"
_COLUMNS = {"softmax": 2, "regression": 2, "triplet": 3}
_FIELDS = {
    "softmax": ("concatenation", "use_bias", "num_labels"),
    "regression": ("score",),
    "triplet": ("margin", "distance"),
}


@dataclasses.dataclass(frozen=True)
class Sbert(TokenObjective):
    """Train on labelled pairs or on triplets (Sentence-BERT)."""

    kind: Kind = "softmax"
    """'softmax' classifies pairs, 'regression' fits the cosine of pairs to their similarity,
    'triplet' brings the second sentence nearer to the first than the third is."""
    concatenation: Concatenation = "uv-diff"
    """What the softmax sees: u, v, diff = abs(u - v), mul = u * v (the paper's table 6)."""
    use_bias: bool = True
    """Whether the softmax classifier has a bias: the authors' code has one, the paper's formula and
    Su et al. (2021) have none."""
    num_labels: int = 3
    """The number of classes of the softmax."""
    score: Score = "cosine"
    """What the regression compares with the gold similarity: 'cosine', or 'shifted' for
    (cosine + 1) / 2."""
    margin: float = 1.0
    """By how much the positive of a triplet should be nearer than the negative (the paper's ε)."""
    distance: Distance = "euclidean"
    """The distance of the triplet objective."""

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least("margin", self.margin, 0)
        check_count("num_labels", self.num_labels, 2, 100_000)
        for kind, fields in _FIELDS.items():
            for field in fields:
                value = getattr(self, field)
                if kind != self.kind and value != getattr(Sbert, field):
                    raise ValueError(
                        f"{field} is {value!r}, which is of Sentence-BERT's {kind} and not of its "
                        f"{self.kind}; leave it out"
                    )

    def init(self, model: Model, key: Key[Array, ""]) -> Params:
        """See `ObjectiveConfig.init`: a softmax has a fresh ``"classifier"``.

        Raises:
            ValueError: pooling ``"pooler"``, or one that the model is too shallow for.
        """
        if model.pooling == "pooler":
            raise ValueError("pooling is 'pooler'; it must be one without a head, such as 'cls'")
        params = super().init(model, key)
        if self.kind == "softmax":
            width = feature_width(self.concatenation) * pooled_size(
                model.pooling, model.config.hidden_size
            )
            params["classifier"] = init_classifier(key, width, self.num_labels, self.use_bias)
        return params

    def build(self, model: Model) -> Objective:
        """See `ObjectiveConfig.build`; the metrics are ``loss`` and, of classes, ``accuracy``."""
        encoder = SentenceModel(model.config, model.pooling, None, model.dtype)

        def embed(params: Params, batch: TrainingBatch, keys: Keys) -> Float[Array, "B C D"]:
            dropout = sentence_keys(keys("dropout"), batch.sentences)
            return embed_columns(encoder, params, batch, dropout)

        return Objective(embed, self.loss)

    def loss(
        self, params: Params, vectors: Float[Array, "B C D"], batch: TrainingBatch, keys: Keys
    ) -> tuple[Float[Array, ""], Metrics]:
        """Return the loss of the global batch, and its accuracy where it has one."""
        self.check_text(batch.sentences.shape[1], batch.labels is not None)
        columns = jnp.unstack(vectors, axis=1)  # [B D] each
        if self.kind == "triplet":
            a, p, n = columns
            loss, accuracy = triplet_loss(
                a, p, n, margin=self.margin, distance=self.distance, axis_name=AXIS
            )
            return loss, {"accuracy": accuracy}
        u, v = columns
        assert batch.labels is not None
        if self.kind == "regression":
            labels = jnp.asarray(batch.labels)
            return cosine_regression(u, v, labels, score=self.score, axis_name=AXIS), {}
        logits = self.classify(params["classifier"], u, v)
        loss, accuracy = nli_softmax(logits, jnp.asarray(batch.labels), axis_name=AXIS)
        return loss, {"accuracy": accuracy}

    def classify(
        self, classifier: Params, u: Float[AnyArray, "B D"], v: Float[AnyArray, "B D"]
    ) -> Float[Array, "B K"]:
        """Return the softmax' scores of every class for pairs of vectors."""
        module = SoftmaxClassifier(self.num_labels, self.use_bias)
        features = pair_features(u, v, self.concatenation)
        return module.apply({"params": classifier}, features)  # type: ignore[return-value]

    def check_text(self, columns: int, labels: bool) -> None:
        """See `ObjectiveConfig.check_text`."""
        wanted = _COLUMNS[self.kind]
        if columns != wanted:
            raise ValueError(
                f"the objective {self.kind!r} takes {wanted} sentences an example, the text has "
                f"{columns}"
            )
        if labels == (self.kind == "triplet"):
            needs = "takes no labels" if labels else "needs a label for each pair"
            raise ValueError(f"the objective {self.kind!r} {needs}")

    def check_labels(self, labels: Sequence[float]) -> None:
        """Raise ValueError for labels that are no classes of the softmax."""
        if self.kind == "softmax" and max(labels) >= self.num_labels:
            raise ValueError(
                f"num_labels is {self.num_labels}, but a label is {max(labels)}; they count from "
                f"0, so it must be at least {max(labels) + 1}"
            )

    def unused_classes(self, labels: Sequence[float]) -> str:
        """Return what is to be said where the last classes have no example; else ""."""
        enough = max(2, int(max(labels)) + 1)
        if self.kind != "softmax" or enough >= self.num_labels:
            return ""
        return (
            f"no label is above {int(max(labels))}, but {self.num_labels} classes are trained; "
            f"num_labels {enough} would be enough"
        )

    def save(self, folder: Path, params: Params) -> None:
        """See `ObjectiveConfig.save`: the softmax' classifier, which `read_classifier` reads."""
        if self.kind == "softmax":
            tensors = {name: np.asarray(x) for name, x in params["classifier"].items()}
            metadata: dict[str, str] = {"concatenation": self.concatenation}
            write_tensors(folder / CLASSIFIER_FILE, tensors, metadata)


def read_classifier(folder: Path) -> tuple[Sbert, Params]:
    """Read the softmax classifier beside a model that was trained with one.

    Returns:
        The objective, whose `Sbert.classify` applies the classifier, and its parameters.

    Raises:
        FileNotFoundError: the folder has no classifier.
    """
    path = folder / CLASSIFIER_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a model folder of an NLI run")
    with safe_open(path, "flax") as file:
        params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        concatenation: Any = file.metadata()["concatenation"]
    labels = params["kernel"].shape[1]
    objective = Sbert(concatenation=concatenation, use_bias="bias" in params, num_labels=labels)
    return objective, params
