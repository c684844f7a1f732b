"""What is minimised: SimCSE and its heirs, Sentence-BERT, masked language modelling, the flow.

A new method is one file here: a configuration (`TokenObjective` has what most of it needs) whose
``build`` returns an `Objective`.
"""

from simcse_jax.objectives.esimcse import ESimCSE
from simcse_jax.objectives.masked_lm import MaskedLM
from simcse_jax.objectives.objective import (
    AXIS,
    Memory,
    Model,
    Objective,
    ObjectiveConfig,
    TokenObjective,
    TokenTerm,
    sentence_keys,
    stream,
)
from simcse_jax.objectives.sbert import Sbert
from simcse_jax.objectives.simcse import SimCSE
from simcse_jax.objectives.simcse_plus_plus import SimCSEPlusPlus
from simcse_jax.objectives.whitened_cse import WhitenedCSE

__all__ = [
    "AXIS",
    "ESimCSE",
    "MaskedLM",
    "Memory",
    "Model",
    "Objective",
    "ObjectiveConfig",
    "Sbert",
    "SimCSE",
    "SimCSEPlusPlus",
    "TokenObjective",
    "TokenTerm",
    "WhitenedCSE",
    "sentence_keys",
    "stream",
]
