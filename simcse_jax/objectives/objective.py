"""What an objective is: pure functions of one device's share of a batch.

Every objective is written for a device that holds its share of the global batch under the mapped
axis `AXIS`, whether `jax.shard_map` or `jax.pmap` maps it. Losses and metrics are those of the
global batch and the same on every device; the step averages the devices' gradients, which makes
the gradient of the global loss of them (see `simcse_jax.losses.info_nce.info_nce`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int, Key

from simcse_jax.arrays import AnyArray, Params
from simcse_jax.data.batches import TrainingBatch
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.models import BertConfig, SentenceModel
from simcse_jax.models.pooling import check_pooling

AXIS = "data"

Metrics = dict[str, Float[Array, ""]]
Keys = Callable[[str], Key[Array, ""]]
"""From the name of a stream of randomness to its key at this step."""


class TokenTerm(NamedTuple):
    """A loss of single tokens, which may be added up piece by piece.

    Attributes:
        count_of: ``(batch, keys) -> count``: over how many tokens the mean goes, of this piece.
        loss: ``(params, batch, keys, count) -> loss, metrics``: this piece's share of the mean over
            ``count`` tokens; the shares of pieces add up, and so do the metrics.
    """

    count_of: Callable[[TrainingBatch, Keys], Int[Array, ""]]
    loss: Callable[[Params, TrainingBatch, Keys, Int[Array, ""]], tuple[Float[Array, ""], Metrics]]


class Memory(NamedTuple):
    """What an objective keeps of earlier batches, without a gradient.

    What is kept is a tree that lies among the parameters which the objective's functions see (see
    `ObjectiveConfig.init_frozen`). An update follows the parameters that its batch was embedded
    with, embeds the batch for the batches to come, and stores that.

    Attributes:
        follow: ``(params, kept) -> kept``: what is kept, brought nearer to the parameters.
        embed: ``(params, batch) -> vectors``, of a piece of the batch as in `Objective`.
        store: ``(kept, vectors, batch) -> kept``, of the vectors of the device's whole batch; the
            same on every device.
    """

    follow: Callable[[Params, Params], Params]
    embed: Callable[[Params, Any], Any]
    store: Callable[[Params, Any, Any], Params]


class Objective(NamedTuple):
    """What is minimised.

    Attributes:
        embed: ``(params, batch, keys) -> vectors``; those of a piece of the batch follow from the
            piece alone, so that a batch may be embedded piece by piece.
        loss: ``(params, vectors, batch, keys) -> loss, metrics``, of the vectors of the whole
            batch of the device; what it draws is the same on every device.
        tokens: a loss of single tokens beside it, or None.
        memory: what is kept of earlier batches, or None.
    """

    embed: Callable[[Params, Any, Keys], Any]
    loss: Callable[[Params, Any, Any, Keys], tuple[Float[Array, ""], Metrics]]
    tokens: TokenTerm | None = None
    memory: Memory | None = None


class Model(NamedTuple):
    """The pretrained model that training starts from, and how its output is to be pooled.

    Attributes:
        config: the architecture.
        params: as `simcse_jax.hub.load_params` gives them.
        tokenizer: the model's.
        pooling: a name of :data:`simcse_jax.models.POOLINGS`.
        dtype: the compute type.
    """

    config: BertConfig
    params: Mapping[str, Any]
    tokenizer: Tokenizer
    pooling: str
    dtype: Any


@runtime_checkable
class ObjectiveConfig(Protocol):
    """What training needs of the configuration of an objective; `TokenObjective` has defaults."""

    views: ClassVar[int]

    def init(self, model: Model, key: Key[Array, ""]) -> Params:
        """Return the parameters before the first update."""

    def init_frozen(self, params: Params) -> Params:
        """Return what the objective sees beside these parameters, and no gradient moves."""

    def build(self, model: Model) -> Objective:
        """Return the functions to minimise."""

    def check_text(self, columns: int, labels: bool) -> None:
        """Raise ValueError for a text of so many columns, with labels or not, that does not fit."""

    def check_rows(self, rows: int, batch_size: int) -> None:
        """Raise ValueError for a text of so few rows, in batches of so many, that it misleads."""

    def check_batch(self, batch_size: int, columns: int, width: int) -> None:
        """Raise ValueError for a global batch of so many examples that teaches nothing.

        Args:
            batch_size: how many examples.
            columns: how many sentences an example has.
            width: that of a vector.
        """

    def export(self, params: Params) -> Params:
        """Return the parameters of the trained model as model folders hold them."""

    def export_pooling(self, pooling: str) -> str:
        """Return the pooling that goes with the exported parameters."""

    def save(self, folder: Path, params: Params) -> None:
        """Add files of the objective's own to the folder of the trained model."""


class TokenObjective:
    """Defaults for objectives that train an encoder on tokens: the encoder alone is trained.

    Attributes:
        views: how often a text of one column has each of its sentences in an example.
    """

    views: ClassVar[int] = 1

    def init(self, model: Model, key: Key[Array, ""]) -> Params:
        """See `ObjectiveConfig.init`.

        Raises:
            ValueError: the model is too shallow for the pooling.
        """
        check_pooling(model.pooling, model.config)
        return {"encoder": model.params["encoder"]}

    def init_frozen(self, params: Params) -> Params:
        """See `ObjectiveConfig.init_frozen`; there is nothing."""
        return {}

    def check_text(self, columns: int, labels: bool) -> None:
        """See `ObjectiveConfig.check_text`; every text fits."""

    def check_rows(self, rows: int, batch_size: int) -> None:
        """See `ObjectiveConfig.check_rows`; every number will do."""

    def check_batch(self, batch_size: int, columns: int, width: int) -> None:
        """See `ObjectiveConfig.check_batch`; every size will do."""

    def export(self, params: Params) -> Params:
        """See `ObjectiveConfig.export`."""
        return {"encoder": params["encoder"]}

    def export_pooling(self, pooling: str) -> str:
        """See `ObjectiveConfig.export_pooling`."""
        return pooling

    def save(self, folder: Path, params: Params) -> None:
        """See `ObjectiveConfig.save`; nothing is added."""


def stream(key: Key[Array, ""], name: str, step: Int[Array, ""] | int) -> Key[Array, ""]:
    """Return the key of a named stream of randomness at a step of a run."""
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)


def sentence_keys(key: Key[Array, ""], sentences: Int[AnyArray, "B C"]) -> Key[Array, "S"]:
    """Return a key for each sentence, by its number in the global batch.

    They are in the order of the shard's segments.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, sentences.reshape(-1))


def other_keys(keys: Key[Array, "S"], number: int) -> Key[Array, "S"]:
    """Return another key for each key, by a number."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def embed_columns(
    encoder: SentenceModel,
    params: Params,
    batch: TrainingBatch,
    dropout: Key[Array, "S"] | None = None,
) -> Float[Array, "B C D"]:
    """Return the vectors of every sentence of a batch, by example and column.

    Args:
        encoder: with a head or without.
        params: its own, among others.
        batch: or a piece of one.
        dropout: a key for each sentence; without, there is no dropout.
    """
    sentences = batch.sentences
    z: Any = encoder.apply({"params": params}, batch.rows, dropout, num_sentences=sentences.size)
    return z.reshape(*sentences.shape, -1)
