"""What the model card of a training run says: from configuration, text and scores to its facts."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import simcse_jax
from simcse_jax import hub
from simcse_jax.config import OBJECTIVES, Config, fixed_fields, recorded
from simcse_jax.data.batches import Rows
from simcse_jax.data.datasets import GIVEN, TrainingData
from simcse_jax.evaluation.scores import Scores, card_scores
from simcse_jax.machine import hardware
from simcse_jax.objectives import ESimCSE, MaskedLM, Sbert, SimCSE, SimCSEPlusPlus, WhitenedCSE
from simcse_jax.transforms import FlowConfig

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "tokenizers")
_HUB_DATASET = "princeton-nlp/datasets-for-simcse"
_ON_HUB = ("wiki1m_for_simcse", "nli_for_simcse")
"""The data sets that are downloaded from `_HUB_DATASET`."""
_WIKIPEDIA = "the excerpt of the English Wikipedia (CC BY-SA) in the package gensim"
_EMBEDDED = {
    "embedded_wikipedia": f"the sentences of {_WIKIPEDIA}",
    "embedded_triplets": f"triplets of sentences from sections of {_WIKIPEDIA}",
}

_SBERT = {
    "softmax": (
        "Each pair of sentences is classified by a softmax over features of both vectors "
        "(Reimers & Gurevych 2019, section 3); the classifier is not part of the model."
    ),
    "regression": (
        "The cosine of each pair of sentences is fitted to its score by the mean squared error "
        "(Reimers & Gurevych 2019, section 3)."
    ),
    "triplet": (
        "The first sentence of each triplet is brought nearer to the second than to the third, by "
        "a margin (Reimers & Gurevych 2019, section 3)."
    ),
}


def training_facts(
    config: Config, data: TrainingData, text: Rows, steps: int, scores: Scores
) -> hub.Training:
    """Return what the card says of how a model was trained.

    Args:
        config: of this seed.
        data: what was read.
        text: what was trained on: the data, with its positives.
        steps: the number of updates.
        scores: how the models are scored.
    """
    method, objective, papers = _method(config, len(data.text.rows([0])[0]))
    named = not config.data.train_files and config.data.dataset != GIVEN
    dataset = config.data.dataset if named else None
    downloaded = dataset in _ON_HUB and config.data.dataset_source is None
    description = getattr(text, "description", "")
    return hub.Training(
        method=method,
        objective=objective,
        papers=papers,
        data="; ".join(filter(None, (_EMBEDDED.get(dataset or ""), description))),
        dataset=dataset,
        hub_datasets=(_HUB_DATASET,) if downloaded else (),
        rows=len(text),
        columns=len(text.rows([0])[0]),
        labels=getattr(text, "labels", None) is not None,
        fingerprint=getattr(text, "fingerprint", ""),
        steps=steps,
        settings=_settings(config),
        is_configuration=type(config.objective) in OBJECTIVES.values(),
        hardware=hardware(),
        versions=_versions(),
        note=_note(config, scores),
    )


def outcome(config: Config, results: Mapping[str, Any], name: str, scores: Scores) -> hub.Outcome:
    """Return what the card says of a trained model.

    Args:
        config: of this seed.
        results: what ``results.json`` holds.
        name: ``"best"`` or ``"last"``.
        scores: how the models were scored.
    """
    return hub.Outcome(
        _chosen(config, results, name, scores),
        card_scores(results[name], scores.pairs_file),
        card_scores(results.get("before", {}), scores.pairs_file),
    )


def _chosen(config: Config, results: Mapping[str, Any], name: str, scores: Scores) -> str:
    last = f"after the last update, number {results['steps']:,}"
    metric, best = results["dev_metric"], results["dev_best"]
    if name == "last" or metric is None or best is None:
        return last
    what = scores.dev_name or f"the user's own measure `{metric}`"
    if isinstance(config.objective, FlowConfig):
        return f"{last}; {what} is {best:.2f}, and was {results['dev_before']:.2f} before"
    return (
        f"after update {results['best_step']:,}, the best of the evaluations every "
        f"{config.run.eval_every:,} updates and at the end, by {what}, which is {best:.2f} there "
        f"and was {results['dev_before']:.2f} before training"
    )


def _note(config: Config, scores: Scores) -> str:
    known = scores.note
    if not scores.pairs_file:  # whose name may have a semicolon
        known, _, _ = known.partition(";")  # what follows is for who trains
    said = f"All scores are of one run, with seed {config.run.seed}."
    return f"{said} {known[0].upper()}{known[1:]}." if known else said


def _method(config: Config, columns: int) -> tuple[str, str, tuple[str, ...]]:
    """Return a method's name, what it minimises, and whose it is.

    Args:
        config: of the run.
        columns: of the data before it was given positives.
    """
    objective = config.objective
    if isinstance(objective, SimCSE):
        positive = _positive(config.data.positives, columns)
        kind = "unsupervised" if columns == 1 else "supervised"
        return (
            f"{kind} SimCSE",
            "Contrastive learning by in-batch InfoNCE (Gao et al. 2021): each sentence's positive "
            f"is ranked above the other sentences of the batch. The positive is {positive}.",
            ("simcse",),
        )
    if isinstance(objective, WhitenedCSE):
        two = columns == 1 and config.data.positives == "same"
        one = _positive(config.data.positives, columns)
        positive = "itself under each of two other dropout masks" if two else one
        said = (
            "Contrastive learning by in-batch InfoNCE of vectors that are whitened in the batch, "
            "in shuffled groups of their channels (Zhuo et al. 2023). The positive "
            f"of a sentence is {positive}."
        )
        return "WhitenedCSE", said, ("whitened_cse",)
    if isinstance(objective, SimCSEPlusPlus):
        said = (
            "Contrastive learning by in-batch InfoNCE whose negatives have no dropout, and by the "
            "same of dimensions instead of sentences (Xu et al. 2023)."
        )
        return "SimCSE++", said, ("simcse_plus_plus",)
    if isinstance(objective, ESimCSE):
        said = (
            "Contrastive learning by in-batch InfoNCE with further negatives out of earlier "
            "batches, embedded by a second encoder that follows the first slowly (Wu et al. 2022). "
            f"The positive of a sentence is {_positive(config.data.positives, columns)}."
        )
        return "ESimCSE", said, ("esimcse",)
    if isinstance(objective, Sbert):
        return f"Sentence-BERT ({objective.kind})", _SBERT[objective.kind], ("sbert",)
    if isinstance(objective, MaskedLM):
        said = (
            "Continued pretraining: masked tokens are predicted (Devlin et al. 2019). Nothing "
            "compares sentences, so that the vectors are those of a language model."
        )
        return "masked language modelling", said, ("bert",)
    if isinstance(objective, FlowConfig):
        said = (
            "The encoder is frozen. An invertible network is fitted to its vectors, which maps "
            "them to a standard Gaussian (Li et al. 2020)."
        )
        return "BERT-flow", said, ("flow",)
    name = type(objective).__name__
    return f"the objective {name}", f"The objective is the user's own, {name}.", ()


def _positive(positives: str, columns: int) -> str:
    """Say what a sentence's positive is."""
    if columns > 1:
        return "the sentence beside it"
    known = {
        "same": "itself under another dropout mask",
        "repeat-words": "itself with some words said twice",
    }
    return known.get(positives, f"made by {positives!r}")


def _settings(config: Config) -> dict[str, Any]:
    """Return the settings that move a number, by section, and files by their names alone."""
    fixed = fixed_fields(config)
    settings = {
        section: {name: value for name, value in fields.items() if name in fixed}
        for section, fields in recorded(config).items()
    }
    model, data = config.model, config.data
    if model.model != "minilm" and Path(model.model).expanduser().is_dir():
        settings["model"]["model"] = hub.local_name(Path(model.model))
    for field, files in (("train_files", data.train_files), ("test_files", data.test_files)):
        settings["data"][field] = [file.name for file in files]
    source = data.dataset_source
    settings["data"]["dataset_source"] = None if source is None else source.name
    settings["data"]["data_seed"] = data.data_seed
    return settings


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "simcse_jax": simcse_jax.__version__}
    return found | {name: metadata.version(name) for name in _PACKAGES}
