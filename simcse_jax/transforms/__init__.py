"""Embeddings to embeddings, fitted without labels: whitening, flow and two calibrations."""

from __future__ import annotations

import os
from pathlib import Path

from simcse_jax.transforms.base import SETTINGS, Affine, Transform, load_state
from simcse_jax.transforms.calibration import RemoveDirections, Standardization
from simcse_jax.transforms.flow import CONFIGS, Flow, FlowConfig
from simcse_jax.transforms.whitening import Moments, Whitening

TRANSFORMS: dict[str, type[Transform]] = {
    cls.kind: cls for cls in (Affine, Whitening, Standardization, RemoveDirections, Flow)
}


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
            f"{Path(folder) / SETTINGS} describes a {kind!r}; known are {', '.join(TRANSFORMS)}"
        )
    return TRANSFORMS[kind].from_state(settings, tensors)


def save(transform: Transform, folder: str | os.PathLike[str]) -> None:
    """Write a transform into a folder, from where ``load_transform`` reads it."""
    transform.save(folder)


__all__ = [
    "CONFIGS",
    "TRANSFORMS",
    "Affine",
    "Flow",
    "FlowConfig",
    "Moments",
    "RemoveDirections",
    "Standardization",
    "Transform",
    "Whitening",
    "load_transform",
    "save",
]
