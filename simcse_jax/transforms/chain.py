"""Maps one after another, and the small ones that sentence-transformers' folders end with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Real

from simcse_jax.arrays import AnyArray, Lists
from simcse_jax.losses.geometry import unit_rows
from simcse_jax.transforms.base import AnyTransform, Transform, check_embeddings


@dataclass(frozen=True)
class _SameWidth(Transform):
    """A map that keeps the number of dimensions and has nothing to learn.

    Attributes:
        dim: the number of dimensions.
    """

    dim: int

    @property
    def input_dim(self) -> int:
        """See ``Transform.input_dim``."""
        return self.dim

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """See ``Transform.state``."""
        return {"dim": self.dim}, {}


class Tanh(_SameWidth):
    """The hyperbolic tangent of every number: the activation of a Dense module."""

    kind: ClassVar[str] = "tanh"

    def __call__(self, embeddings: Real[AnyArray, "n D"] | Lists) -> Float[np.ndarray, "n K"]:
        """Apply the map; ValueError for embeddings that are not ``[n, D]``, or not finite."""
        return np.tanh(check_embeddings(embeddings, dim=self.dim))


class UnitRows(_SameWidth):
    """Every row divided by its L2 norm, before another map."""

    kind: ClassVar[str] = "unit_rows"

    def __call__(self, embeddings: Real[AnyArray, "n D"] | Lists) -> Float[np.ndarray, "n K"]:
        """Apply the map; ValueError for embeddings that are not ``[n, D]``, or not finite."""
        return unit_rows(check_embeddings(embeddings, dim=self.dim))


@dataclass(frozen=True, eq=False)
class LayerNorm(Transform):
    """``(x - mean of x) / sqrt(variance of x + epsilon) * scale + bias``, row by row.

    Attributes:
        scale: ``[D]``.
        bias: ``[D]``.
        epsilon: 1e-5, as torch has it.
    """

    kind: ClassVar[str] = "layer_norm"

    scale: Float[np.ndarray, " D"]
    bias: Float[np.ndarray, " D"]
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.scale.ndim != 1 or self.scale.shape != self.bias.shape:
            raise ValueError(f"a scale {self.scale.shape} and a bias {self.bias.shape} do not fit")

    @property
    def input_dim(self) -> int:
        """See ``Transform.input_dim``."""
        return len(self.scale)

    def __call__(self, embeddings: Real[AnyArray, "n D"] | Lists) -> Float[np.ndarray, "n K"]:
        """Apply the map; ValueError for embeddings that are not ``[n, D]``, or not finite."""
        x = check_embeddings(embeddings, dim=self.input_dim).astype(np.float64)
        centred = x - x.mean(1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(1, keepdims=True) + self.epsilon)
        return (centred / deviation * self.scale + self.bias).astype(np.float32)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """See ``Transform.state``."""
        return {"epsilon": self.epsilon}, {"scale": self.scale, "bias": self.bias}


@dataclass(frozen=True, eq=False)
class Chain(Transform):
    """One map after another.

    Attributes:
        parts: the maps, the first one first; each takes as many dimensions as the one before gives.
    """

    kind: ClassVar[str] = "chain"

    parts: tuple[Transform, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a chain of no maps is none")
        for before, after in zip(self.parts, self.parts[1:], strict=False):
            if before.output_dim != after.input_dim:
                raise ValueError(
                    f"a {before.kind} gives {before.output_dim} dimensions, and the {after.kind} "
                    f"after it takes {after.input_dim}"
                )

    @property
    def input_dim(self) -> int:
        """See ``Transform.input_dim``."""
        return self.parts[0].input_dim

    @property
    def output_dim(self) -> int:
        """See ``Transform.output_dim``."""
        return self.parts[-1].output_dim

    def __call__(self, embeddings: Real[AnyArray, "n D"] | Lists) -> Float[np.ndarray, "n K"]:
        """Apply the maps; ValueError for embeddings that are not ``[n, D]``, or not finite."""
        x: Any = embeddings
        for part in self.parts:
            x = part(x)
        return x

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """See ``Transform.state``: the parts', each tensor's name after its part's number."""
        states = [part.state() for part in self.parts]
        settings = [
            {"kind": part.kind, **state}
            for part, (state, _) in zip(self.parts, states, strict=True)
        ]
        tensors = {
            f"{number}.{name}": tensor
            for number, (_, own) in enumerate(states)
            for name, tensor in own.items()
        }
        return {"parts": settings}, tensors

    @classmethod
    def from_state(
        cls: type[AnyTransform], settings: dict[str, Any], tensors: dict[str, np.ndarray]
    ) -> AnyTransform:
        """See ``Transform.from_state``."""
        from simcse_jax.transforms import TRANSFORMS  # which lists this class

        parts = []
        for number, own in enumerate(settings["parts"]):
            prefix = f"{number}."
            kind = TRANSFORMS[own["kind"]]
            rest = {name: value for name, value in own.items() if name != "kind"}
            held = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            parts.append(kind.from_state(rest, held))
        fields: dict[str, Any] = {"parts": tuple(parts)}
        return cls(**fields)


def chained(parts: list[Transform]) -> Transform | None:
    """Return the parts as one map: None for none, itself for one."""
    return Chain(tuple(parts)) if len(parts) > 1 else next(iter(parts), None)
