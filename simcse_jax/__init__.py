"""Sentence embeddings in JAX: BERT averages, Sentence-BERT, BERT-flow, BERT-whitening, SimCSE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simcse_jax.encoder import SentenceEncoder, cosine_similarity

if TYPE_CHECKING:
    from simcse_jax.trainer import train

__version__ = "0.1.0"
__all__ = ["SentenceEncoder", "__version__", "cosine_similarity", "train"]


def __getattr__(name: str) -> Any:
    # Who only encodes need not wait for what trains to be imported.
    if name == "train":
        import importlib

        return importlib.import_module("simcse_jax.trainer").train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
