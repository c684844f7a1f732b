"""How a model folder is to be used: what it says itself, by our file or by another library's."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from simcse_jax.checks import levels_to_caller, quoted
from simcse_jax.hub import sentence_transformers
from simcse_jax.hub.weights import Params, is_simcse
from simcse_jax.io import SETTINGS_FILE, is_there, read_object
from simcse_jax.models.config import BertConfig
from simcse_jax.models.pooling import check_pooling, layers_and_reduction
from simcse_jax.transforms import Transform, load_transform

TRANSFORM_FOLDER = "transform"
# What `simcse_jax.io.written_folder` adds to our file.
_OF_THE_WRITE = ("files", "incomplete")
_OF_VERSION_0_1 = {"pooling", "normalize", "max_length", "do_lower_case"}


@dataclasses.dataclass(frozen=True)
class EncoderSettings:
    """What a model folder says of its own use.

    Attributes:
        pooling: a name of :data:`simcse_jax.models.POOLINGS`, or several joined by a plus.
        normalize: whether embeddings are scaled to length one.
        max_length: inputs are cut to so many tokens; None is the whole position table.
        do_lower_case: lower-case before the tokenizer, as old sentence-transformers folders ask.
        prompts: texts to put before a sentence, by name.
        default_prompt_name: the one that `SentenceEncoder.encode` puts there; None for none.
        truncate_dim: keep the first so many dimensions of an embedding, after normalising it, as
            sentence-transformers does; None for all.
        similarity_fn_name: what two embeddings are to be compared by.

    Raises:
        ValueError: a field that cannot be so.
    """

    pooling: str = "mean"
    normalize: bool = False
    max_length: int | None = None
    do_lower_case: bool = False
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    similarity_fn_name: str = "cosine"

    def __post_init__(self):
        for field in dataclasses.fields(self):
            holds, wanted = _RULES[field.name]
            value = getattr(self, field.name)
            if not holds(value):
                raise ValueError(f"{field.name} is {quoted(value)}; it must be {wanted}")
        layers_and_reduction(self.pooling)
        name = self.default_prompt_name
        if name is not None and name not in self.prompts:
            raise ValueError(
                f"default_prompt_name is {quoted(name)}; the prompts are {[*self.prompts]}"
            )

    @property
    def prompt(self) -> str:
        """Return what comes before every sentence; nothing where there is no default prompt."""
        return "" if self.default_prompt_name is None else self.prompts[self.default_prompt_name]

    def longest_input(self, config: BertConfig) -> int:
        """Return how many tokens an input of a model may have, special tokens included."""
        return min(self.max_length or config.max_length, config.max_length)

    def dimension(self, whole: int) -> int:
        """Return how many dimensions are kept of so many."""
        return min(whole, self.truncate_dim or whole)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _is_none_or_at_least(least: int) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value is None or (whole and value >= least)

    return holds


def _is_prompts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, [*value, *value.values()]))


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "pooling": (_is_text, "the name of a pooling"),
    "normalize": (_is_truth, "true or false"),
    "max_length": (_is_none_or_at_least(2), "a whole number, 2 or more"),
    "do_lower_case": (_is_truth, "true or false"),
    "prompts": (_is_prompts, "texts by name"),
    "default_prompt_name": (lambda value: value is None or _is_text(value), "a name"),
    "truncate_dim": (_is_none_or_at_least(1), "a whole number, 1 or more"),
    "similarity_fn_name": (_is_text, "a name"),
}


def replace_settings(settings: EncoderSettings, changes: Mapping[str, Any]) -> EncoderSettings:
    """Return the settings with every change that is not None."""
    return dataclasses.replace(settings, **{k: v for k, v in changes.items() if v is not None})


def check_settings(settings: EncoderSettings, config: BertConfig, params: Params) -> None:
    """Raise a ValueError where a model cannot be pooled as the settings say."""
    check_pooling(settings.pooling, config)
    if settings.pooling == "pooler" and "pooler" not in params:
        raise ValueError("pooling 'pooler' needs a pooler, and this model has none; try 'cls'")


# ---------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------


def read_settings(folder: Path, pooling: str | None = None) -> EncoderSettings:
    """Read how a folder is to be used, with the caller's pooling if there is one.

    Raises:
        ValueError: see `folder_settings`.
    """
    own = folder_settings(folder, ask=pooling is None)
    return replace_settings(own, {"pooling": pooling})


def folder_settings(folder: Path, *, ask: bool = True) -> EncoderSettings:
    """Read what a folder says of its use.

    Our own ``simcse_jax.json`` says so, else sentence-transformers' ``modules.json`` and what it
    names, else the tokenizer's maximal length alone.

    Args:
        folder: a model folder.
        ask: warn of a folder that does not say how to pool, which means the mean; False where the
            caller has chosen.

    Raises:
        ValueError: a file that is damaged, or that says what has no counterpart here; or a folder
            of SimCSE's own code, which does not say which of two poolings it was trained for.
    """
    if is_there(folder / SETTINGS_FILE):
        source, found = folder / SETTINGS_FILE, _read_own(folder)
    elif is_there(folder / sentence_transformers.MODULES_FILE):
        source = folder / sentence_transformers.MODEL_FILE
        found = sentence_transformers.read_settings(folder)
    else:
        source = folder
        found = {"max_length": sentence_transformers.read_max_length(folder)}
        if ask:
            _check_is_not_simcse(folder)
            _warn_of_mean(folder)
    try:
        return EncoderSettings(**found)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _read_own(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    raw = read_object(path)
    if raw.get("incomplete"):
        raise ValueError(f"{path}: the last save was interrupted; save the model again")
    found = {k: v for k, v in raw.items() if k not in _OF_THE_WRITE}
    if unknown := sorted(found.keys() - _RULES.keys()):
        raise ValueError(
            f"{path}: {quoted(unknown[0])} is not known; was a newer version's model saved?"
        )
    if missing := sorted((_RULES.keys() if "files" in raw else _OF_VERSION_0_1) - found.keys()):
        raise ValueError(f"{path}: {quoted(missing[0])} is missing")
    return found


def _check_is_not_simcse(folder: Path) -> None:
    """Raise a ValueError for a folder of SimCSE's own code, for which the mean is not right."""
    if is_simcse(folder):
        raise ValueError(
            f"{folder} is a model of SimCSE's own code, which does not say how it was trained; "
            "choose the pooling: 'cls' for unsupervised models (the MLP is of the training alone), "
            "'pooler' for supervised ones (with the MLP)"
        )


@functools.cache
def _warn_of_mean(folder: Path) -> None:
    """Warn, once a folder, that it is taken to be mean pooled."""
    warnings.warn(
        f"{folder} does not say how to pool; taking the mean of the tokens. Choose a pooling to be "
        "sure (SimCSE's published models want 'cls', those of supervised training 'pooler')",
        stacklevel=levels_to_caller(),
    )


def encoder_folder(folder: Path) -> Path:
    """Return where the encoder and its tokenizer lie: the folder itself, or one in it.

    Raises:
        ValueError: its list of modules is damaged.
    """
    ours = is_there(folder / SETTINGS_FILE)
    if ours or not is_there(folder / sentence_transformers.MODULES_FILE):
        return folder
    return sentence_transformers.encoder_folder(folder)


def read_transform(folder: Path) -> Transform | None:
    """Read the transform of a folder's embeddings: ours, or the modules after the pooling, or None.

    Raises:
        ValueError: a damaged transform, or a module that has no counterpart here.
    """
    if is_there(folder / SETTINGS_FILE):
        files = read_object(folder / SETTINGS_FILE).get("files")
        place = folder / TRANSFORM_FOLDER
        if files is None:  # folders of version 0.1 have no list of their files
            return load_transform(place) if place.is_dir() else None
        if not isinstance(files, list) or not all(map(_is_text, files)):
            raise ValueError(
                f"{folder / SETTINGS_FILE}: files is {quoted(files)}; it must list names"
            )
        return load_transform(place) if any(n.startswith(f"{place.name}/") for n in files) else None
    if is_there(folder / sentence_transformers.MODULES_FILE):
        return sentence_transformers.read_transform(folder)
    return None
