"""Sentences as callers hand them over: strings, lists, arrays, columns of frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from simcse_jax.checks import check_unmasked


def as_list(sentences: Iterable[str]) -> list[str]:
    """Return sentences as a list of strings: out of a list, an array, a Series, or an iterable.

    Raises:
        TypeError: it holds something else, or the array is no column.
    """
    if hasattr(sentences, "__array__"):
        check_unmasked("sentences", sentences)
        array = np.asarray(sentences)
        if array.ndim != 1:
            raise TypeError(f"sentences must be one column of text, got shape {array.shape}")
        sentences = array.tolist()
    check_iterable(sentences)
    listed = list(sentences)
    check_strings(listed)
    return listed


def check_iterable(sentences: object) -> None:
    """Raise a TypeError for what is no iterable of sentences, or has no order."""
    # The keys of dict.fromkeys are sentences without their duplicates, in order.
    if isinstance(sentences, Mapping) and any(x is not None for x in sentences.values()):
        raise TypeError(
            f"sentences are a {type(sentences).__name__}; give one of its columns, a list of "
            "strings"
        )
    if isinstance(sentences, str | bytes | set | frozenset) or not isinstance(sentences, Iterable):
        raise TypeError(f"sentences are a {type(sentences).__name__}; give a list of strings")


def check_strings(sentences: list[Any], start: int = 0) -> None:
    """Raise a TypeError for what is no string; sentences are counted from ``start``."""
    for i, sentence in enumerate(sentences, start):
        if not isinstance(sentence, str):
            raise TypeError(f"sentence {i} is a {type(sentence).__name__}, not a string")


def listed_once(x: Any) -> Any:
    """Return what can be gone through only once, or has no places, as a list; the rest as it is."""
    whole = isinstance(x, str | Sequence | Mapping) or hasattr(x, "__array__")
    return x if whole or not isinstance(x, Iterable) else list(x)


def positions_among(distinct: list[str], sentences: list[str]) -> list[int]:
    """Return where each sentence stands among the distinct ones."""
    index = {sentence: i for i, sentence in enumerate(distinct)}
    return [index[sentence] for sentence in sentences]


def is_text(x: Any) -> TypeGuard[str | Iterable[str]]:
    """Tell sentences from embeddings; an empty list is one of sentences."""
    if hasattr(x, "__array__"):
        return np.asarray(x).dtype.kind in "OTU"
    return isinstance(x, str) or (
        isinstance(x, Sequence) and (len(x) == 0 or any(isinstance(item, str) for item in x))
    )
