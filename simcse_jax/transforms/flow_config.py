"""What a flow is (Li et al. 2020): its shape, its published configurations, its optimizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from simcse_jax.checks import (
    check_between,
    check_count,
    check_positive,
    check_types,
)
from simcse_jax.models.glow import Coupling, Glow, Permutation

Embeddings = np.ndarray | jax.Array | Callable[[int], np.ndarray]
"""Embeddings ``[n, D]``, or a function of the epoch that gives them."""

# Far beyond any flow: a bound before memory is asked for.
_MOST = 2**16


@dataclass(frozen=True)
class FlowConfig:
    """The shape of a flow, where it starts, and the scale of its loss."""

    levels: int = 3
    """The number of blocks; half of the vector leaves after each but the last."""
    depth: int = 3
    """The number of steps of every level."""
    width: int = 32
    """The hidden size of the coupling networks."""
    coupling: Coupling = "additive"
    """What a half of the vector does to the other: it is added, or 'affine' also scales."""
    permutation: Permutation = "reverse"
    """What mixes the dimensions between two couplings: 'reverse', 'random', or 'lu' for a learned
    linear map."""
    logscale_factor: float = 3.0
    """The factor of the activation normalisation's log-scale, which rescales its gradient."""
    whiten: float | None = None
    """The floor of the whitening put before the flow, as a fraction of the largest eigenvalue; None
    for no whitening. It is fitted once on all embeddings and kept."""
    loss_scale: float = 2.0
    """The loss is bits per dimension times this. The authors add the means of the first and of the
    second sentences of the pairs, hence 2; only clipping and Adam's eps can see it."""
    init_rows: int = 32
    """So many embeddings of the first batch initialise the activation normalisation; the authors
    use the first sentences of 32 pairs."""

    def __post_init__(self) -> None:
        check_types(self)
        for field in ("levels", "depth", "width"):
            check_count(field, getattr(self, field))
            check_between(field, getattr(self, field), 1, _MOST)
        check_count("init_rows", self.init_rows)
        check_positive("loss_scale", self.loss_scale, finite=True)
        check_positive("logscale_factor", self.logscale_factor, finite=True)
        if self.whiten is not None:  # at 0 a direction without variance is divided by zero
            check_between("whiten", self.whiten, 0, 1, "(]")

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
    # `config_l3_d3_w32` of the authors' code.
    "code": FlowConfig(),
    # Appendix B of the paper: two levels, a random permutation.
    "paper": FlowConfig(levels=2, permutation="random"),
    # Ours: starts from the whitened embeddings rather than the standardised ones, where the
    # likelihood is already higher than the other two reach.
    "modern": FlowConfig(permutation="random", whiten=1e-4),
}

# The authors' optimizer (`optimization_bert_flow.py`): BERT's Adam at a constant rate. Weight decay
# falls on every parameter, since the names that the authors exclude are of no flow's.
AUTHORS_OPTIMIZER: dict[str, Any] = {
    "learning_rate": 1e-3,
    "schedule": "constant",
    "weight_decay": 0.01,
    "decay_vectors": True,
    "clip_norm": 1.0,
    "eps": 1e-6,
    "bias_correction": False,
}
# The fields of `simcse_jax.training.OptimizerConfig`, as keywords: the training room is imported
# by who trains.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "code": AUTHORS_OPTIMIZER,
    "paper": AUTHORS_OPTIMIZER,
    # Textbook Adam.
    "modern": AUTHORS_OPTIMIZER | {"schedule": "cosine", "bias_correction": True},
}
