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
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jaxtyping import Array, Float, Real

from simcse_jax.arrays import AnyArray, Lists
from simcse_jax.checks import check_seed
from simcse_jax.transforms.base import Transform, check_embeddings
from simcse_jax.transforms.flow_config import (
    AUTHORS_OPTIMIZER,
    CONFIGS,
    OPTIMIZERS,
    Embeddings,
    FlowConfig,
)
from simcse_jax.transforms.prewhitening import PreWhitening, prewhiten

if TYPE_CHECKING:  # who only applies a flow need not import what fits it
    from simcse_jax.training import OptimizerConfig

# Rows of one forward pass outside of training.
_CHUNK = 4096

MOST_EPOCHS = 1_000_000
"""More are a mistake: a flow is fitted in one to ten."""


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
        prewhitening: the whitening before the flow, if any.
        steps: optimizer steps taken.
    """

    kind: ClassVar[str] = "flow"

    config: FlowConfig
    variables: dict[str, Any]
    dim: int
    prewhitening: PreWhitening | None = None
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
        optimizer: OptimizerConfig | None = None,
        batch_size: int = 64,
        shuffle: bool = True,
        mesh: Mesh | None = None,
        progress: bool | None = False,
        state_folder: str | os.PathLike[str] | None = None,
        save_every: int | None = None,
        resume: bool = True,
        on_step: Callable[[int, dict[str, float]], None] | None = None,
    ) -> Flow:
        """Fit by maximum likelihood.

        The order of the rows, the initial weights and so the result depend on the seed alone. A
        dimension that does not vary has no density: activation normalisation leaves its scale at
        1, so that it can be carried along (the authors' 1e6 per step overflows the gradient).

        Args:
            embeddings: ``[n, D]``; or a function of the epoch (0, 1, ...) that gives them, for
                embeddings drawn anew with the encoder's dropout on.
            config: a name in ``CONFIGS`` or a configuration of one's own.
            epochs: passes over the embeddings; 0 leaves the flow where its initialisation put it.
            seed: of the run.
            optimizer: default that of the name in ``OPTIMIZERS``, or the authors'.
            batch_size: embeddings of a step, over all devices. What does not fill a last batch is
                left out, other rows in every epoch: as every gradient is clipped to one length, a
                batch of a few rows would move the flow as far as a full one.
            shuffle: draw a new order in every epoch.
            mesh: a mesh with one axis, ``data``: every batch is spread over its devices. The
                result does not depend on it, up to the rounding of sums. None: one device.
            progress: show a progress bar; None where standard error is a terminal, else lines.
            state_folder: keep the training state there, every ``save_every`` steps and at the end.
                If it holds one of the same run, go on from it; the result has the same bits.
            save_every: steps between two saves; default an epoch.
            resume: False refuses a ``state_folder`` that holds a run.
            on_step: called after every step with its number and its metrics: ``nats`` and ``bits``
                (per dimension), ``loss`` and ``gradient_norm``.

        Raises:
            ValueError: embeddings that are not finite matrices, of a D that the levels do not
                split, of fewer than two rows; a ``state_folder`` of another run.
            FloatingPointError: the loss or its gradient is not finite; nothing is saved.
            FileExistsError: another process fits in ``state_folder``.
            Interrupted: SIGTERM or Ctrl-C ended the fit early; the state is saved.
        """
        from simcse_jax.transforms import flow_fit

        if isinstance(config, str):
            if config not in CONFIGS:
                raise ValueError(f"config must be one of {', '.join(CONFIGS)}, got {config!r}")
            optimizer = optimizer or flow_fit.OptimizerConfig(**OPTIMIZERS[config])
            config = CONFIGS[config]
        check_seed("seed", seed)
        if batch_size < 1 or not 0 <= epochs <= MOST_EPOCHS:
            raise ValueError(
                f"batch_size={batch_size} and epochs={epochs}: at least 1, and 0 to {MOST_EPOCHS:,}"
            )
        run = flow_fit.FlowRun(
            config,
            optimizer or flow_fit.OptimizerConfig(**AUTHORS_OPTIMIZER),
            epochs=epochs,
            seed=seed,
            batch_size=batch_size,
            shuffle=shuffle,
        )
        fitted = flow_fit.fit_flow(
            run,
            embeddings,
            mesh=mesh,
            progress=progress,
            state_folder=state_folder,
            save_every=save_every,
            resume=resume,
            on_step=on_step,
        )
        return cls(config, *fitted)

    def __call__(self, embeddings: Real[AnyArray, "n D"] | Lists) -> Float[np.ndarray, "n D"]:
        """Return the latents ``z [n, D]`` of embeddings, float32 on the host.

        Raises:
            ValueError: the embeddings are not ``[n, D]``, or not finite.
        """
        return self.forward(embeddings)[0]

    def forward(
        self, embeddings: Real[AnyArray, "n D"] | Lists
    ) -> tuple[Float[np.ndarray, "n D"], Float[np.ndarray, " n"]]:
        """Return ``(z, log |det dz/dx|)``, float32."""
        x = check_embeddings(embeddings, dim=self.dim)
        z, logdet = self._chunks(prewhiten(self.prewhitening, x), "forward")
        return z, logdet if self.prewhitening is None else logdet + np.float32(
            self.prewhitening.logdet
        )

    def inverse(
        self, latents: Float[np.ndarray, "n D"]
    ) -> tuple[Float[np.ndarray, "n D"], Float[np.ndarray, " n"]]:
        """Return ``(x, log |det dx/dz|)``, float32: ``forward``'s inverse."""
        x, logdet = self._chunks(check_embeddings(latents, dim=self.dim), "inverse")
        if self.prewhitening is None:
            return x, logdet
        x = x @ self.prewhitening.inverse.astype(np.float32) + self.prewhitening.mean.astype(
            np.float32
        )
        return x, logdet - np.float32(self.prewhitening.logdet)

    def log_prob(self, embeddings: Real[AnyArray, "n D"] | Lists) -> Float[np.ndarray, " n"]:
        """Return ``log p(x)`` in nats, ``[n]`` float64."""
        z, logdet = self.forward(embeddings)
        square = np.square(z, dtype=np.float64).sum(axis=1)
        return logdet - 0.5 * (square + self.dim * math.log(2 * math.pi))

    def bits_per_dimension(self, embeddings: Real[AnyArray, "n D"] | Lists) -> float:
        """Return the mean of ``-log p(x) / (D ln 2)`` over the embeddings."""
        return float(-self.log_prob(embeddings).mean() / (self.dim * math.log(2)))

    def sample(self, n: int, seed: int = 0) -> Float[np.ndarray, "n D"]:
        """Draw ``n`` embeddings from the fitted density."""
        check_seed("seed", seed)
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
        flat = flatten_dict(self.variables, sep="/")
        tensors = {name: np.asarray(x) for name, x in flat.items()}
        if self.prewhitening is not None:
            settings["base_logdet"] = self.prewhitening.logdet
            for name in ("mean", "matrix", "inverse"):
                tensors[f"base/{name}"] = getattr(self.prewhitening, name)
        return settings, tensors

    @classmethod
    def from_state(cls, settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> Flow:
        """See ``Transform.from_state``."""
        tree = unflatten_dict(tensors, sep="/")
        kept = tree.pop("base", None)
        prewhitening = (
            None if kept is None else PreWhitening(logdet=settings["base_logdet"], **kept)
        )
        variables = {"params": tree["params"], "constants": tree.get("constants", {})}
        config = FlowConfig(**_of_today(settings["config"]))
        return cls(config, variables, settings["dim"], prewhitening, settings["steps"])


def _of_today(config: dict[str, Any]) -> dict[str, Any]:
    """Read the configuration in a flow's folder, also of version 0.1.

    There ``loss_scale`` was called ``towers``, and the optimizer's fields stood beside the flow's.
    """
    renamed = {"loss_scale" if name == "towers" else name: x for name, x in config.items()}
    of_optimizer = {
        *("learning_rate", "schedule", "weight_decay", "beta1", "beta2", "eps"),
        *("bias_correction", "clip"),
    }
    return {name: x for name, x in renamed.items() if name not in of_optimizer}
