"""The settings of a run, its state, and its optimizer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from simcse_jax.losses.info_nce import Implementation, Similarity
from simcse_jax.models.bert import BertConfig
from simcse_jax.models.heads import MaskedLMHead, Pooler
from simcse_jax.models.pooling import check_pooling

Params = dict[str, Any]
Head = Literal["train_and_test", "train_only", "none"]


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """How any run is optimised and how long; the defaults are those of SimCSE's BERT-base run.

    Attributes:
        dtype: compute type, ``"float32"`` or ``"bfloat16"``; parameters are float32.
        learning_rate: the highest.
        warmup_steps: the learning rate grows linearly over so many steps.
        warmup_ratio: the same as a share of all steps, rounded up; where ``warmup_steps`` is 0.
        weight_decay: decoupled; biases and layer norms are spared.
        clip_norm: the longest gradient.
        beta1: Adam's β₁.
        beta2: Adam's β₂.
        eps: Adam's ε.
        epochs: over the data, unless ``max_steps`` is given.
        max_steps: the number of updates, or None.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    learning_rate: float = 3e-5
    warmup_steps: int = 0
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    epochs: float = 1.0
    max_steps: int | None = None

    def __post_init__(self):
        self._check(self.dtype in ("float32", "bfloat16"), "dtype", "float32 or bfloat16")
        for name in ("learning_rate", "clip_norm", "epochs"):
            self._check(getattr(self, name) > 0, name, "positive")
        for name in ("weight_decay", "warmup_steps", "eps"):
            self._check(getattr(self, name) >= 0, name, "at least 0")
        self._check(0 <= self.warmup_ratio < 1, "warmup_ratio", "at least 0 and below 1")
        self._check(self.max_steps is None or self.max_steps >= 1, "max_steps", "at least 1")

    def _check(self, fine: bool, name: str, wanted: str) -> None:
        if not fine:
            raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {wanted}")

    def _check_choice(self, name: str, choices: Any) -> None:
        known = get_args(choices)
        self._check(getattr(self, name) in known, name, f"one of {', '.join(known)}")

    def total_steps(self, steps_per_epoch: int) -> int:
        """The number of updates: ``max_steps``, or ``epochs`` times the batches of an epoch."""
        return self.max_steps or max(1, round(self.epochs * steps_per_epoch))

    def warmup(self, total_steps: int) -> int:
        """The number of warm-up steps of a run of so many steps."""
        return self.warmup_steps or min(math.ceil(self.warmup_ratio * total_steps), total_steps - 1)


@dataclasses.dataclass(frozen=True)
class TrainSettings(OptimizerSettings):
    """How SimCSE trains; the defaults are those of the unsupervised BERT-base run.

    Whether training is unsupervised is not said here: the batch's columns decide. One column is
    two views of the same sentence, two are pairs, three are triplets with a hard negative.

    Attributes:
        pooling: of the encoder's output, before the head; any but ``"pooler"``.
        head: the MLP (dense and tanh) between pooling and loss. ``"train_only"``: dropped at test
            time, as the unsupervised models do; ``"train_and_test"``: kept, as the supervised ones
            do (with ``cls`` pooling only, because model folders know no other pooler).
        temperature: τ.
        hard_negative_weight: log α, on the own hard negative.
        similarity: ``"cosine"``, or ``"dot"`` as in the ablation.
        symmetric: rank in both directions.
        implementation: of the loss, see `simcse_jax.losses.info_nce.info_nce`.
        mask_duplicates: leave the positives of equal sentences out of the denominator; otherwise
            they are only counted. Equal is by the tokens of the first column.
        shared_dropout: the views of a sentence share their dropout mask, which is the paper's
            "fixed 0.1" ablation and collapses unsupervised training.
        two_encoders: encode the first column with one encoder and head and the others with a
            second pair, which starts as their copy (the paper's table 2, f_θ1 and f_θ2); the model
            is the first. Every sentence goes through both, so that a step costs twice as much.
        mlm_weight: λ of the auxiliary masked-LM loss; 0 is without.
        mlm_probability: the share of tokens to predict.
        accumulate: into how many chunks the batch is cut for the encoder. The loss is over the
            whole batch and the gradient is the same; memory is that of a chunk.
    """

    pooling: str = "cls"
    head: Head = "train_only"
    temperature: float = 0.05
    hard_negative_weight: float = 0.0
    similarity: Similarity = "cosine"
    symmetric: bool = False
    implementation: Implementation = "auto"
    mask_duplicates: bool = False
    shared_dropout: bool = False
    two_encoders: bool = False
    mlm_weight: float = 0.0
    mlm_probability: float = 0.15
    accumulate: int = 1

    def __post_init__(self):
        super().__post_init__()
        for name, choices in (
            ("head", Head),
            ("similarity", Similarity),
            ("implementation", Implementation),
        ):
            self._check_choice(name, choices)
        self._check(self.pooling != "pooler", "pooling", "'cls' with a head, which is the pooler")
        if self.head == "train_and_test":
            self._check(
                self.pooling == "cls", "pooling", "'cls' where the head is kept at test time"
            )
        self._check(self.temperature > 0, "temperature", "positive")
        self._check(self.mlm_weight >= 0, "mlm_weight", "at least 0")
        self._check(0 < self.mlm_probability <= 1, "mlm_probability", "above 0 and at most 1")
        self._check(self.accumulate >= 1, "accumulate", "at least 1")

    @property
    def test_pooling(self) -> str:
        """The pooling to evaluate with: ``"pooler"`` where the head is kept."""
        return "pooler" if self.head == "train_and_test" else self.pooling


@flax.struct.dataclass
class TrainState:
    """What an update changes.

    Attributes:
        step: the number of updates done.
        params: ``{"encoder": …}``, with ``"head"``, ``"mlm"``, ``"classifier"`` or ``"second"``
            (the second encoder and its head) where they are trained.
        opt_state: the optimizer's.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState


def make_optimizer(settings: OptimizerSettings, total_steps: int) -> optax.GradientTransformation:
    """Clip by the global norm, AdamW, linear decay to zero, as in the authors' trainers.

    The update number k (from 0) has the learning rate `lr · (T − k) / (T − W)` after W warm-up
    steps of `lr · k / W`.
    """
    warmup = settings.warmup(total_steps)
    if warmup >= total_steps:
        raise ValueError(f"warmup_steps is {warmup}; the run has {total_steps} steps only")
    schedule = optax.linear_schedule(settings.learning_rate, 0.0, total_steps - warmup)
    if warmup:
        rise = optax.linear_schedule(0.0, settings.learning_rate, warmup)
        schedule = optax.join_schedules([rise, schedule], [warmup])

    def decayed(params: Params) -> Params:
        # Kernels and embedding tables are matrices; biases and layer norms are vectors.
        return jax.tree.map(lambda p: p.ndim > 1, params)

    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(
            schedule,
            b1=settings.beta1,
            b2=settings.beta2,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            mask=decayed,
        ),
    )


def create_state(
    config: BertConfig,
    settings: TrainSettings,
    params: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
) -> TrainState:
    """SimCSE's state before the first update.

    Args:
        config: the architecture.
        settings: of the run.
        params: ``{"encoder": …}`` as `simcse_jax.hub.load_params` gives it. A ``"head"`` is
            continued; without one the head is fresh, as in the paper: a ``"pooler"`` is not its
            start. ``"mlm"`` is used with ``mlm_weight``, and fresh where absent.
        optimizer: see `make_optimizer`.
        key: for the fresh parameters.

    Raises:
        ValueError: the model is too shallow for the pooling.
    """
    check_pooling(settings.pooling, config.num_hidden_layers)
    head_key, mlm_key = jax.random.split(key)
    hidden = jnp.zeros((1, config.hidden_size))
    chosen: Params = {"encoder": params["encoder"]}
    if settings.head != "none":
        chosen["head"] = params.get("head") or Pooler(config).init(head_key, hidden)["params"]
    if settings.two_encoders:
        chosen["second"] = dict(chosen)
    if settings.mlm_weight > 0:
        if "mlm" in params:
            chosen["mlm"] = params["mlm"]
        else:
            words = jnp.zeros((config.vocab_size, config.hidden_size))
            chosen["mlm"] = MaskedLMHead(config).init(mlm_key, hidden, words)["params"]
    return start_state(chosen, optimizer)


def start_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update, of copies of these parameters."""
    # Copies: the compiled step donates its state, and the caller keeps its parameters.
    params = jax.tree.map(lambda p: jnp.array(p, jnp.float32), params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def model_params(params: Params, settings: TrainSettings) -> Params:
    """The parameters of the trained model as model folders hold them.

    The head becomes the ``"pooler"`` where it is kept and is dropped elsewhere; the masked-LM
    head stays; a second encoder does not. The pooling that goes with them is
    ``settings.test_pooling``.
    """
    kept: Params = {name: params[name] for name in ("encoder", "mlm") if name in params}
    if settings.head == "train_and_test":
        kept["pooler"] = params["head"]
    return kept
