"""Embeddings to embeddings, fitted without labels: whitening, flow and two calibrations."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from simcse_jax.checks import quoted
from simcse_jax.transforms.base import SETTINGS, Affine, Transform, explained_damage, load_state
from simcse_jax.transforms.calibration import AllButTheTop, Standardization
from simcse_jax.transforms.chain import Chain, LayerNorm, Tanh, UnitRows
from simcse_jax.transforms.flow import Flow
from simcse_jax.transforms.flow_config import CONFIGS, FlowConfig
from simcse_jax.transforms.whitening import Moments, Whitening

TRANSFORMS: dict[str, type[Transform]] = {
    cls.kind: cls
    for cls in (
        Affine,
        Whitening,
        Standardization,
        AllButTheTop,
        Flow,
        Chain,
        LayerNorm,
        Tanh,
        UnitRows,
    )
}

FittedKind = Literal["whitening", "flow", "standardization", "all_but_the_top"]
FITS: dict[FittedKind, Callable[..., Transform]] = {
    "whitening": Whitening.fit,
    "flow": Flow.fit,
    "standardization": Standardization.fit,
    "all_but_the_top": AllButTheTop.fit,
}


def fit(kind: FittedKind, embeddings: Any, **options: Any) -> Transform:
    """Fit the transform of a kind to embeddings, without labels.

    Args:
        kind: ``"whitening"``, ``"flow"``, ``"standardization"`` or ``"all_but_the_top"``.
        embeddings: ``[n, D]``, or whatever else the kind's own ``fit`` takes: an iterable of such
            batches, for a flow a function of the epoch.
        options: those of the kind's own ``fit``, such as ``k`` or ``seed``.

    Raises:
        ValueError: there is no such kind, or as in the kind's own ``fit``.
        TypeError: the kind's own ``fit`` does not take such an option.
    """
    if kind not in FITS:
        raise ValueError(f"no transform is called {quoted(kind)}; choose from {', '.join(FITS)}")
    return FITS[kind](embeddings, **options)


def load_transform(folder: str | os.PathLike[str]) -> Transform:
    """Read a transform of whatever kind from the folder that its ``save`` wrote.

    Raises:
        FileNotFoundError: the folder holds no transform.
        ValueError: its files are damaged, or of a kind that is not known.
    """
    settings, tensors = load_state(folder)
    kind = settings.pop("kind", None)
    if kind not in TRANSFORMS:
        raise ValueError(
            f"{Path(folder) / SETTINGS} describes a {quoted(kind)}; known are "
            f"{', '.join(TRANSFORMS)}"
        )
    with explained_damage(folder):
        return TRANSFORMS[kind].from_state(settings, tensors)


def save(transform: Transform, folder: str | os.PathLike[str]) -> None:
    """Write a transform into a folder, from where ``load_transform`` reads it."""
    transform.save(folder)


__all__ = [
    "CONFIGS",
    "TRANSFORMS",
    "Affine",
    "AllButTheTop",
    "Chain",
    "FittedKind",
    "Flow",
    "FlowConfig",
    "LayerNorm",
    "Moments",
    "Standardization",
    "Tanh",
    "Transform",
    "UnitRows",
    "Whitening",
    "fit",
    "load_transform",
    "save",
]
