"""Sentence-BERT's update as a pure function (Reimers & Gurevych 2019, section 3).

The sentences of a pair or triplet go through one encoder ("siamese"): all of a batch are segments
of one forward pass. Sentences vary from 5 to 100 tokens, so that a padded batch of 16 pairs would
be three quarters padding; packed rows hold several sentences each, with attention confined to each.

Letters: B examples of the batch, C sentences of an example, S = B·C, R rows, L length, D hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from simcse_jax.losses.cosine_regression import Score, cosine_regression
from simcse_jax.losses.nli_softmax import (
    Concatenation,
    feature_width,
    nli_softmax,
    pair_features,
)
from simcse_jax.losses.triplet import Distance, triplet_loss
from simcse_jax.models.bert import BertConfig
from simcse_jax.models.pooling import check_pooling
from simcse_jax.training.state import OptimizerSettings, Params, TrainState, start_state
from simcse_jax.training.step import Metrics, SiameseBatch, Step, embed_rows, row_keys, stream

Objective = Literal["softmax", "regression", "triplet"]
_COLUMNS = {"softmax": 2, "regression": 2, "triplet": 3}


@dataclasses.dataclass(frozen=True)
class SbertSettings(OptimizerSettings):
    """How Sentence-BERT trains; the defaults are those of the paper's NLI run.

    Attributes:
        objective: ``"softmax"`` classifies pairs, ``"regression"`` fits the cosine of pairs,
            ``"triplet"`` ranks.
        pooling: of the encoder's output; any but ``"pooler"``.
        concatenation: softmax: the features, see `simcse_jax.losses.nli_softmax.CONCATENATIONS`.
        use_bias: softmax: whether the classifier has a bias. The authors' code has one, the
            paper's formula and Su et al. (2021) have none.
        num_labels: softmax: the number of classes.
        score: regression: what is fitted, ``"cosine"``, or ``"shifted"`` for `(cos + 1) / 2`.
        margin: triplet: ε.
        distance: triplet: ``"euclidean"``, ``"cosine"`` or ``"manhattan"``.
    """

    learning_rate: float = 2e-5
    warmup_ratio: float = 0.1
    objective: Objective = "softmax"
    pooling: str = "mean"
    concatenation: Concatenation = "uv-diff"
    use_bias: bool = True
    num_labels: int = 3
    score: Score = "cosine"
    margin: float = 1.0
    distance: Distance = "euclidean"

    def __post_init__(self):
        super().__post_init__()
        for name, choices in (
            ("objective", Objective),
            ("concatenation", Concatenation),
            ("score", Score),
            ("distance", Distance),
        ):
            self._check_choice(name, choices)
        self._check(self.pooling != "pooler", "pooling", "one without a head, such as 'cls'")
        self._check(self.margin >= 0, "margin", "at least 0")
        self._check(self.num_labels >= 2, "num_labels", "at least 2")


def create_sbert_state(
    config: BertConfig,
    settings: SbertSettings,
    params: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
) -> TrainState:
    r"""The state before the first update.

    A softmax has a fresh ``"classifier"``: `U(-1/\sqrt{F}, 1/\sqrt{F})` over its F features, as
    in the authors' code.

    Args:
        config: the architecture.
        settings: of the run.
        params: ``{"encoder": …}`` as `simcse_jax.hub.load_params` gives it; the rest is dropped.
        optimizer: see `simcse_jax.training.make_optimizer`.
        key: for the fresh parameters.

    Raises:
        ValueError: the model is too shallow for the pooling.
    """
    check_pooling(settings.pooling, config.num_hidden_layers)
    chosen: Params = {"encoder": params["encoder"]}
    if settings.objective == "softmax":
        width = feature_width(settings.concatenation) * config.hidden_size
        kernel_key, bias_key = jax.random.split(key)

        def uniform(key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, minval=-1, maxval=1) * width**-0.5

        chosen["classifier"] = {"kernel": uniform(kernel_key, (width, settings.num_labels))}
        if settings.use_bias:
            chosen["classifier"]["bias"] = uniform(bias_key, (settings.num_labels,))
    return start_state(chosen, optimizer)


def sbert_step(
    config: BertConfig, settings: SbertSettings, optimizer: optax.GradientTransformation
) -> Step:
    """Sentence-BERT's update, un-jitted and written for the global batch.

    Every loss is a mean over examples, so that the step needs to know nothing of the devices; a
    sentence has its own dropout key, whatever row or device it lies on.

    Args:
        config: the architecture, with its dropout rates.
        settings: of the run.
        optimizer: see `simcse_jax.training.make_optimizer`.

    Returns:
        ``step(state, batch, key) -> (state, metrics)``. The batch is a `SiameseBatch`; the key is
        the run's, the same at every step. Metrics are float32 scalars: ``loss``, ``gradient_norm``
        (before clipping), and ``accuracy`` but for the regression.

    Raises:
        ValueError: when the step is traced: a batch of another number of columns than the
            objective takes, or without labels where it needs them.
    """
    dtype = jnp.dtype(settings.dtype)

    def objective(params: Params, z: Float[Array, "B C D"], labels: Any) -> Metrics:
        columns = [z[:, c] for c in range(z.shape[1])]  # [B D] each
        if settings.objective == "triplet":
            options: Any = {"margin": settings.margin, "distance": settings.distance}
            return triplet_loss(*columns, **options)._asdict()
        u, v = columns
        if settings.objective == "regression":
            return {"loss": cosine_regression(u, v, labels, score=settings.score)}
        kernel, bias = params["classifier"]["kernel"], params["classifier"].get("bias")
        logits = pair_features(u, v, settings.concatenation) @ kernel  # [B K]
        return nli_softmax(logits if bias is None else logits + bias, labels)._asdict()

    def step(
        state: TrainState, batch: SiameseBatch, key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        _check_batch(batch, settings)
        # By the segment or, where the rows are not packed, by the row: see `SiameseBatch`.
        numbers = jnp.arange(batch.sentences.size)
        by_segment = jnp.zeros_like(numbers).at[batch.sentences.reshape(-1) - 1].set(numbers)
        keys = row_keys(stream(key, "dropout", state.step), by_segment)  # [S]

        def loss(params: Params) -> tuple[Array, Metrics]:
            z = embed_rows(
                config,
                params,
                batch.rows,
                keys,
                pooling=settings.pooling,
                dtype=dtype,
                num_segments=batch.sentences.size,
            )  # [S D]
            metrics = objective(params, z[batch.sentences - 1], batch.labels)
            return metrics["loss"], metrics

        gradient, metrics = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def _check_batch(batch: SiameseBatch, settings: SbertSettings) -> None:
    shape, wanted = batch.sentences.shape, _COLUMNS[settings.objective]
    if len(shape) != 2 or shape[1] != wanted:
        raise ValueError(
            f"sentences {shape} must be [B, {wanted}] for the objective {settings.objective!r}"
        )
    if settings.objective != "triplet" and (
        batch.labels is None or batch.labels.shape != shape[:1]
    ):
        found = "no labels" if batch.labels is None else f"labels {batch.labels.shape}"
        raise ValueError(f"{found} for sentences {shape}: one is needed for each pair")
