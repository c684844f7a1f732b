"""BERT-flow (Li et al. 2020): a Glow fitted to the embeddings of a frozen encoder.

The flow maps an embedding ``x`` to a latent ``z`` that it makes as standard normal as it can, by
maximum likelihood; ``z`` takes the place of the embedding. One fit is

    ``min  E[-log p(x)] / (D ln 2)``,   ``log p(x) = log N(z; 0, I) + log |det dz/dx|``

(bits per dimension). The embeddings are computed once and given as an array; the original code
left the encoder's dropout on, for which ``fit`` also takes a function that gives the embeddings of
each epoch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float
from tqdm import tqdm

from simcse_jax.models.glow import COUPLINGS, PERMUTATIONS, Coupling, Glow, Permutation, check_dim
from simcse_jax.transforms.base import SETTINGS, Transform, check_embeddings, load_state, save_state
from simcse_jax.transforms.whitening import Moments, spectrum

# Rows of one forward pass outside of training.
_CHUNK = 4096

Embeddings = np.ndarray | jax.Array | Callable[[int], np.ndarray]


@dataclass(frozen=True)
class FlowConfig:
    """A flow and the way it is trained.

    Attributes:
        levels: blocks; half of the vector leaves after each but the last.
        depth: steps of every level.
        width: hidden size of the coupling networks.
        coupling: ``additive`` or ``affine``.
        permutation: ``reverse``, ``random`` or ``lu`` (a learned linear map).
        logscale_factor: of the activation normalisation.
        whiten: floor of the whitening put before the flow, as a fraction of the largest
            eigenvalue; None for no whitening. It is fitted once on all embeddings and kept.
        learning_rate: of Adam.
        schedule: ``constant``, or ``cosine`` from the learning rate to 0 over the whole fit.
        weight_decay: decoupled, on every parameter (the authors exclude names no flow has).
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the root of the second moment.
        bias_correction: of the two moments; the BERT code base's Adam has none, so that its first
            steps are up to ``(1 - beta1) / sqrt(1 - beta2)`` = 3.2 times as long.
        clip: of the gradient's global norm.
        towers: the loss is bits per dimension times this. The authors add the means of the first
            and the second sentences of the pairs, hence 2; only clipping and eps can see it.
        init_rows: embeddings of the first batch that initialise the activation normalisation;
            the authors use the first sentences of 32 pairs.
    """

    levels: int = 3
    depth: int = 3
    width: int = 32
    coupling: Coupling = "additive"
    permutation: Permutation = "reverse"
    logscale_factor: float = 3.0
    whiten: float | None = None
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    bias_correction: bool = False
    clip: float = 1.0
    towers: float = 2.0
    init_rows: int = 32

    def __post_init__(self) -> None:
        for field, value, allowed in (
            ("coupling", self.coupling, COUPLINGS),
            ("permutation", self.permutation, PERMUTATIONS),
            ("schedule", self.schedule, ("constant", "cosine")),
        ):
            if value not in allowed:
                raise ValueError(f"{field} must be one of {', '.join(allowed)}, got {value!r}")
        for field in ("levels", "depth", "width", "init_rows", "learning_rate", "clip", "towers"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")

    def model(self) -> Glow:
        """Return the flow's module."""
        return Glow(
            self.levels,
            self.depth,
            self.width,
            self.coupling,
            self.permutation,
            self.logscale_factor,
        )


CONFIGS: dict[str, FlowConfig] = {
    # `config_l3_d3_w32` of the authors' code and its optimiser (`optimization_bert_flow.py`).
    "code": FlowConfig(),
    # Appendix B of the paper: two levels, a random permutation.
    "paper": FlowConfig(levels=2, permutation="random"),
    # Ours: starts from the whitened embeddings rather than the standardised ones, where the
    # likelihood is already higher than the other two reach; textbook Adam.
    "modern": FlowConfig(
        permutation="random", whiten=1e-4, schedule="cosine", bias_correction=True
    ),
}


class FlowState(NamedTuple):
    """All that a fit carries from step to step; with the seed, all that it is resumed from."""

    params: Any
    constants: Any
    mu: Any  # Adam's first moment
    nu: Any  # and its second
    step: Array  # [] int32


class Base(NamedTuple):
    """The affine map before the flow, ``(x - mean) W``, with the inverse of W and its log-det."""

    mean: Float[np.ndarray, " D"]
    matrix: Float[np.ndarray, "D D"]
    inverse: Float[np.ndarray, "D D"]
    logdet: float

    @classmethod
    def whitening(cls, x: Float[np.ndarray, "n D"], floor: float) -> Base:
        """Whiten along the embeddings' own axes (ZCA), eigenvalues raised to ``floor`` Λ_1."""
        moments = Moments.of(x)
        values, vectors = spectrum(moments, ddof=0)
        scale = np.sqrt(np.maximum(values, floor * values[0]))
        return cls(
            moments.mean,
            (vectors / scale) @ vectors.T,
            (vectors * scale) @ vectors.T,
            -float(np.log(scale).sum()),
        )


def bits_per_dimension(nats: Array, dim: int) -> Array:
    """Return ``-log p(x) / (D ln 2)`` of log-densities in nats; any shape."""
    return -nats / (dim * math.log(2))


def init_state(config: FlowConfig, key: Array, first: Float[Array, "rows D"]) -> FlowState:
    """Initialise the flow from the embeddings of the first batch, and Adam at zero."""
    variables = config.model().init(key, first, method="forward")
    params = variables["params"]
    zeros = jax.tree.map(jnp.zeros_like, params)
    return FlowState(params, variables.get("constants", {}), zeros, zeros, jnp.zeros((), jnp.int32))


def train_step(
    state: FlowState,
    batch: Float[Array, "B D"],
    weight: Float[Array, " B"],
    *,
    config: FlowConfig,
    total_steps: int,
) -> tuple[FlowState, dict[str, Array]]:
    """Take one step of maximum likelihood; pure and not jitted.

    Args:
        state: the flow and its optimiser.
        batch: the global batch ``[B, D]``; over how many devices it lies changes nothing.
        weight: ``[B]``, 1 for an embedding and 0 for a row that only fills the batch.
        config: the flow's and the optimiser's settings.
        total_steps: of the whole fit, for the cosine schedule; a constant rate ignores it.

    Returns:
        The next state, and ``nats`` (mean -log p), ``bits`` (per dimension) and ``grad_norm``.
    """
    model = config.model()

    def loss(params: Any) -> tuple[Array, Array]:
        variables = {"params": params, "constants": state.constants}
        log_prob = jnp.asarray(model.apply(variables, batch, method="log_prob"))  # [B]
        mean = jnp.sum(log_prob * weight) / jnp.sum(weight)
        return config.towers * bits_per_dimension(mean, batch.shape[1]), mean

    (_, mean), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    norm = jnp.linalg.norm(jnp.stack([jnp.linalg.norm(g) for g in jax.tree.leaves(grads)]))
    grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, config.clip / (norm + 1e-30)), grads)

    step = state.step + 1
    mu = jax.tree.map(lambda m, g: config.beta1 * m + (1 - config.beta1) * g, state.mu, grads)
    nu = jax.tree.map(lambda v, g: config.beta2 * v + (1 - config.beta2) * g**2, state.nu, grads)
    c1 = 1 - config.beta1**step if config.bias_correction else 1.0
    c2 = 1 - config.beta2**step if config.bias_correction else 1.0
    rate: Any = config.learning_rate
    if config.schedule == "cosine":
        rate = rate * 0.5 * (1 + jnp.cos(jnp.pi * state.step / total_steps))

    def move(p: Array, m: Array, v: Array) -> Array:
        update = (m / c1) / (jnp.sqrt(v / c2) + config.eps) + config.weight_decay * p
        return (p - rate * update).astype(p.dtype)

    params = jax.tree.map(move, state.params, mu, nu)
    metrics = {
        "nats": -mean,
        "bits": bits_per_dimension(mean, batch.shape[1]),
        "grad_norm": norm,
    }
    return FlowState(params, state.constants, mu, nu, step), metrics


_train_step = jax.jit(train_step, static_argnames=("config", "total_steps"), donate_argnums=0)


@functools.partial(jax.jit, static_argnames=("config", "method"))
def _apply(
    variables: dict[str, Any], x: Array, *, config: FlowConfig, method: str
) -> tuple[Array, Array]:
    out: Any = config.model().apply(variables, x, method=method)
    return out


@dataclass(frozen=True, eq=False)
class Flow(Transform):
    """A fitted flow; called on embeddings ``[n, D]`` it gives their latents ``[n, D]``.

    It is not an affine map and has no equivalent among the modules of sentence-transformers.

    Attributes:
        config: the flow and how it was trained.
        variables: the module's ``params`` and ``constants``, on the host.
        dim: D.
        base: the whitening before the flow, if any.
        steps: optimiser steps taken.
    """

    kind: ClassVar[str] = "flow"

    config: FlowConfig
    variables: dict[str, Any]
    dim: int
    base: Base | None = None
    steps: int = 0

    @property
    def input_dim(self) -> int:
        """See ``Transform.input_dim``."""
        return self.dim

    @classmethod
    def fit(
        cls,
        embeddings: Embeddings,
        config: str | FlowConfig = "code",
        epochs: int = 1,
        seed: int = 0,
        *,
        batch_size: int = 64,
        shuffle: bool = True,
        mesh: Mesh | None = None,
        progress: bool = False,
        state_folder: str | os.PathLike[str] | None = None,
        save_every: int | None = None,
        on_step: Callable[[int, dict[str, float]], None] | None = None,
    ) -> Self:
        """Fit by maximum likelihood.

        The order of the rows, the initial weights and so the result depend on the seed alone. A
        dimension that does not vary has no density: activation normalisation leaves its scale at
        1, so that it can be carried along (the authors' 1e6 per step overflows the gradient).

        Args:
            embeddings: ``[n, D]``; or a function of the epoch (0, 1, ...) that gives them, for
                embeddings drawn anew with the encoder's dropout on.
            config: a name in ``CONFIGS`` or settings of one's own.
            epochs: passes over the embeddings; 0 leaves the flow where its initialisation put it.
            seed: of the run.
            batch_size: embeddings of a step, over all devices. What does not fill a last batch is
                left out, other rows in every epoch: as every gradient is clipped to one length, a
                batch of a few rows would move the flow as far as a full one.
            shuffle: draw a new order in every epoch.
            mesh: a mesh with one axis, ``data``: every batch is spread over its devices. The
                result does not depend on it, up to the rounding of sums. None: one device.
            progress: show a tqdm bar with the bits per dimension.
            state_folder: keep the training state there: after every epoch and at ``save_every``.
                If it holds one of the same run, go on from it; the result has the same bits.
            save_every: steps between two saves within an epoch.
            on_step: called after every step with its number and its metrics.

        Raises:
            ValueError: embeddings that are not finite matrices, of a D that the levels do not
                split, of fewer than two rows; a ``state_folder`` of another run.
            FloatingPointError: the loss or its gradient is not finite; nothing is saved.
        """
        if isinstance(config, str):
            if config not in CONFIGS:
                raise ValueError(f"config must be one of {', '.join(CONFIGS)}, got {config!r}")
            config = CONFIGS[config]
        if batch_size < 1 or epochs < 0:
            raise ValueError(f"batch_size={batch_size} and epochs={epochs}: at least 1 and 0")
        draw = embeddings if callable(embeddings) else None
        x = check_embeddings(draw(0) if draw else embeddings, least=2)  # type: ignore[arg-type]
        n, dim = x.shape
        check_dim(dim, config.levels)
        base = None if config.whiten is None else Base.whitening(x, config.whiten)

        per_epoch = max(1, n // batch_size)
        total = epochs * per_epoch
        run = {
            "kind": "flow_state",
            "config": dataclasses.asdict(config),
            "rows": n,
            "dim": dim,
            "seed": seed,
            "batch_size": batch_size,
            "shuffle": shuffle,
            # A cosine is drawn over the whole fit; a constant rate lets a run be lengthened.
            "total_steps": total if config.schedule == "cosine" else None,
        }
        # Static in the jitted step: a constant rate must not compile anew for another length.
        horizon = total if config.schedule == "cosine" else 0
        key = jax.random.key(seed)
        init_key, order_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)

        def order(epoch: int) -> np.ndarray:
            if not shuffle:
                return np.arange(n)
            return np.asarray(jax.random.permutation(jax.random.fold_in(order_key, epoch), n))

        place = functools.partial(jax.device_put, device=_sharding(mesh, PartitionSpec()))
        spread = functools.partial(jax.device_put, device=_sharding(mesh, PartitionSpec("data")))
        # Rows of zero weight fill a batch that the devices do not divide.
        devices = 1 if mesh is None else mesh.size
        rows = -(-min(batch_size, n) // devices) * devices

        state = _load_run(state_folder, run) if state_folder is not None else None
        if state is None:
            first = order(0)[: min(config.init_rows, batch_size)]
            if first.size < 2:
                raise ValueError("activation normalisation needs two embeddings: a larger batch")
            state = jax.jit(init_state, static_argnums=0)(
                config, init_key, jnp.asarray(_based(base, x[first]))
            )
        state = place(state)

        start = int(state.step)
        bar = tqdm(total=total, initial=start, desc="flow", unit="step", disable=not progress)
        with bar:
            for epoch in range(start // per_epoch, epochs):
                if draw and epoch:
                    x = check_embeddings(draw(epoch), dim=dim, least=n)
                indices = order(epoch)
                for i in range(start % per_epoch if epoch == start // per_epoch else 0, per_epoch):
                    rows_now = indices[i * batch_size : (i + 1) * batch_size]
                    batch = np.zeros((rows, dim), np.float32)
                    batch[: rows_now.size] = _based(base, x[rows_now])
                    weight = (np.arange(rows) < rows_now.size).astype(np.float32)
                    state, device_metrics = _train_step(
                        state, spread(batch), spread(weight), config=config, total_steps=horizon
                    )
                    metrics = {k: float(v) for k, v in device_metrics.items()}
                    step = epoch * per_epoch + i + 1
                    if not all(map(math.isfinite, metrics.values())):
                        raise FloatingPointError(
                            f"step {step} (epoch {epoch}): -log p is {metrics['nats']} nats and "
                            f"its gradient's norm {metrics['grad_norm']}; lower the learning rate "
                            f"({config.learning_rate}), or look for outliers in the embeddings"
                        )
                    if base is not None:
                        metrics["nats"] -= base.logdet
                        metrics["bits"] -= base.logdet / (dim * math.log(2))
                    bar.update()
                    bar.set_postfix_str(f"{metrics['bits']:.3f} bits/dim", refresh=False)
                    if state_folder is not None and (
                        i + 1 == per_epoch or (save_every and step % save_every == 0)
                    ):
                        _save_run(state_folder, run, state)
                    if on_step is not None:
                        on_step(step, metrics)

        variables = {"params": state.params, "constants": state.constants}
        return cls(config, jax.device_get(variables), dim, base, int(state.step))

    def __call__(self, embeddings: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
        """Return the latents ``z [n, D]`` of embeddings, float32 on the host.

        Raises:
            ValueError: the embeddings are not ``[n, D]``, or not finite.
        """
        return self.forward(embeddings)[0]

    def forward(
        self, embeddings: Float[np.ndarray, "n D"]
    ) -> tuple[Float[np.ndarray, "n D"], Float[np.ndarray, " n"]]:
        """Return ``(z, log |det dz/dx|)``, float32."""
        x = check_embeddings(embeddings, dim=self.dim)
        z, logdet = self._chunks(_based(self.base, x), "forward")
        return z, logdet if self.base is None else logdet + np.float32(self.base.logdet)

    def inverse(
        self, latents: Float[np.ndarray, "n D"]
    ) -> tuple[Float[np.ndarray, "n D"], Float[np.ndarray, " n"]]:
        """Return ``(x, log |det dx/dz|)``, float32: ``forward``'s inverse."""
        x, logdet = self._chunks(check_embeddings(latents, dim=self.dim), "inverse")
        if self.base is None:
            return x, logdet
        x = x @ self.base.inverse.astype(np.float32) + self.base.mean.astype(np.float32)
        return x, logdet - np.float32(self.base.logdet)

    def log_prob(self, embeddings: Float[np.ndarray, "n D"]) -> Float[np.ndarray, " n"]:
        """Return ``log p(x)`` in nats, ``[n]`` float64."""
        z, logdet = self.forward(embeddings)
        square = np.square(z, dtype=np.float64).sum(axis=1)
        return logdet - 0.5 * (square + self.dim * math.log(2 * math.pi))

    def bits_per_dimension(self, embeddings: Float[np.ndarray, "n D"]) -> float:
        """Return the mean of ``-log p(x) / (D ln 2)`` over the embeddings."""
        return float(-self.log_prob(embeddings).mean() / (self.dim * math.log(2)))

    def sample(self, n: int, seed: int = 0) -> Float[np.ndarray, "n D"]:
        """Draw ``n`` embeddings from the fitted density."""
        z = jax.random.normal(jax.random.key(seed), (n, self.dim), jnp.float32)
        return self.inverse(np.asarray(z))[0]

    def _chunks(self, x: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
        out, logdet = np.empty_like(x), np.empty(x.shape[0], np.float32)
        for start in range(0, x.shape[0], _CHUNK):
            part = x[start : start + _CHUNK]
            # Powers of two: a dozen shapes to compile for whatever the number of embeddings.
            padded = np.zeros((1 << max(0, len(part) - 1).bit_length(), self.dim), np.float32)
            padded[: len(part)] = part
            y, change = _apply(self.variables, padded, config=self.config, method=method)
            out[start : start + len(part)] = np.asarray(y)[: len(part)]
            logdet[start : start + len(part)] = np.asarray(change)[: len(part)]
        return out, logdet

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """See ``Transform.state``."""
        settings: dict[str, Any] = {
            "config": dataclasses.asdict(self.config),
            "dim": self.dim,
            "steps": self.steps,
        }
        tensors = _flatten(self.variables)
        if self.base is not None:
            settings["base_logdet"] = self.base.logdet
            for name in ("mean", "matrix", "inverse"):
                tensors[f"base/{name}"] = getattr(self.base, name)
        return settings, tensors

    @classmethod
    def from_state(cls, settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> Self:
        """See ``Transform.from_state``."""
        tree = _unflatten(tensors)
        kept = tree.pop("base", None)
        base = None if kept is None else Base(logdet=settings["base_logdet"], **kept)
        variables = {"params": tree["params"], "constants": tree.get("constants", {})}
        config = FlowConfig(**settings["config"])
        return cls(config, variables, settings["dim"], base, settings["steps"])


def _based(base: Base | None, x: np.ndarray) -> np.ndarray:
    if base is None:
        return x
    return (x - base.mean.astype(np.float32)) @ base.matrix.astype(np.float32)


def _sharding(mesh: Mesh | None, spec: PartitionSpec) -> NamedSharding | None:
    return None if mesh is None else NamedSharding(mesh, spec)


def _flatten(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    return {k: np.asarray(v) for k, v in flatten_dict(tree, sep="/").items()}


def _unflatten(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    return unflatten_dict(tensors, sep="/")


def _save_run(folder: str | os.PathLike[str], run: dict[str, Any], state: FlowState) -> None:
    save_state(folder, run, _flatten(jax.device_get(state._asdict())))


def _load_run(folder: str | os.PathLike[str], run: dict[str, Any]) -> FlowState | None:
    """Return the state saved in ``folder``, None where there is none.

    Raises:
        ValueError: the state belongs to a run with other settings, which are named.
    """
    if not (Path(folder) / SETTINGS).exists():
        return None
    settings, tensors = load_state(folder)
    differ = sorted(k for k in run.keys() | settings.keys() if run.get(k) != settings.get(k))
    if differ:
        what = ", ".join(f"{k} {settings.get(k)!r} there, {run.get(k)!r} here" for k in differ)
        raise ValueError(f"{Path(folder)} holds the training state of another run: {what}")
    tree = _unflatten(tensors)
    tree.setdefault("constants", {})
    return FlowState(**tree)
