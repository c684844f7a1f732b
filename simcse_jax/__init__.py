"""Sentence embeddings in JAX: BERT averages, Sentence-BERT, BERT-flow, BERT-whitening, SimCSE.

The names of three doors: `SentenceEncoder` encodes, `train` trains, `evaluate_sts` evaluates.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from simcse_jax.encoder import SentenceEncoder, cosine_similarity
from simcse_jax.transforms import (
    AllButTheTop,
    Flow,
    FlowConfig,
    Standardization,
    Transform,
    Whitening,
    load_transform,
)

if TYPE_CHECKING:
    from simcse_jax.config import Config, load_config
    from simcse_jax.data.pairs import read_pairs
    from simcse_jax.data.senteval import read_sts
    from simcse_jax.evaluation.geometry import alignment, uniformity
    from simcse_jax.evaluation.search import similarity_search
    from simcse_jax.evaluation.sts import evaluate_sts
    from simcse_jax.evaluation.transfer import evaluate_transfer
    from simcse_jax.losses.info_nce import info_nce
    from simcse_jax.trainer import train

__version__ = "0.1.0"
__all__ = [
    "AllButTheTop",
    "Config",
    "Flow",
    "FlowConfig",
    "SentenceEncoder",
    "Standardization",
    "Transform",
    "Whitening",
    "__version__",
    "alignment",
    "cosine_similarity",
    "evaluate_sts",
    "evaluate_transfer",
    "info_nce",
    "load_config",
    "load_transform",
    "read_pairs",
    "read_sts",
    "similarity_search",
    "train",
    "uniformity",
]

# Imported when asked for: who only encodes need not wait for them, nor have their extras.
_LATER = {
    "Config": "simcse_jax.config",
    "alignment": "simcse_jax.evaluation.geometry",
    "evaluate_sts": "simcse_jax.evaluation.sts",
    "evaluate_transfer": "simcse_jax.evaluation.transfer",
    "info_nce": "simcse_jax.losses.info_nce",
    "load_config": "simcse_jax.config",
    "read_pairs": "simcse_jax.data.pairs",
    "read_sts": "simcse_jax.data.senteval",
    "similarity_search": "simcse_jax.evaluation.search",
    "train": "simcse_jax.trainer",
    "uniformity": "simcse_jax.evaluation.geometry",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
