"""Writing a model folder: for ourselves, for transformers, and for sentence-transformers."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.hub.card import CARD_FILE, ModelFacts, Origin, is_users, model_card, write_card
from simcse_jax.hub.names import config_to_json
from simcse_jax.hub.sentence_transformers import (
    IDENTITY,
    MODEL_FILE,
    MODES,
    MODULES_FILE,
    TANH,
    TRANSFORMER_FILE,
)
from simcse_jax.hub.settings import (
    SETTINGS_FILE,
    TRANSFORM_FOLDER,
    EncoderSettings,
    check_settings,
)
from simcse_jax.hub.weights import Params, to_torch_names
from simcse_jax.io import (
    is_written,
    read_object,
    write_json,
    write_tensors,
    write_text,
    written_folder,
)
from simcse_jax.models.config import BertConfig
from simcse_jax.models.pooling import ditto_head, layers_and_reduction, pooled_size
from simcse_jax.transforms import Affine, Chain, LayerNorm, Tanh, Transform, UnitRows

log = logging.getLogger(__name__)

TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


@contextmanager
def model_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder to write a model into; its files are moved to ``folder`` at the end of a block.

    See `simcse_jax.io.written_folder`: what else lies in ``folder`` stays, and so does a card that
    is the user's.

    Raises:
        OSError: the folder cannot be written, or it is neither new nor empty nor a model's.
    """
    with written_folder(folder, SETTINGS_FILE, _is_model) as out:
        yield out
        if is_users(Path(folder)):
            (out / CARD_FILE).unlink(missing_ok=True)
            _disown_card(Path(folder) / SETTINGS_FILE)


def _disown_card(marker: Path) -> None:
    """Take the card off the list of our files, with which a write would remove it."""
    try:
        record = read_object(marker)
    except (OSError, ValueError):
        return
    files = record.get("files")
    if isinstance(files, list) and CARD_FILE in files:
        write_json(marker, record | {"files": [name for name in files if name != CARD_FILE]})


def is_whole(folder: Path) -> bool:
    """Tell whether a folder holds a model that we have saved, and all of it but for its card."""
    return is_written(folder, SETTINGS_FILE, spare=(CARD_FILE,))


def _is_model(folder: Path) -> bool:
    """Tell whether a folder is a model's: ours of version 0.1, or another library's."""
    if (folder / SETTINGS_FILE).exists():
        return True
    try:
        return "model_type" in read_object(folder / "config.json")
    except (OSError, ValueError):
        return False


def save_model(
    folder: str | os.PathLike[str],
    config: BertConfig,
    params: Params,
    settings: EncoderSettings,
    tokenizer: Tokenizer,
    tokenizer_folder: Path | None = None,
    transform: Transform | None = None,
    origin: Origin | None = None,
) -> Path:
    """Write a folder that we, ``transformers.AutoModel`` and sentence-transformers load.

    Args:
        folder: a new or empty one, or a model's; what else lies there stays.
        config: the architecture.
        params: as `simcse_jax.hub.load_params` returns them.
        settings: how it is used, written for us and, in its own modules, for
            sentence-transformers.
        tokenizer: written as ``tokenizer.json``.
        tokenizer_folder: a folder whose other tokenizer files are copied.
        transform: of the pooled embeddings; a linear one is also written as a Dense module. Any
            other makes sentence-transformers refuse the folder, as the pooling
            ``ditto-LAYER-HEAD`` does, and a warning says so.
        origin: where the weights come from, for the card.

    Returns:
        The folder.

    Raises:
        ValueError: ``pooler`` pooling without a pooler, or a pooling the model is too shallow for.
        OSError: the folder cannot be written, and nothing is left behind, or it holds something
            else than a model, or files of another tokenizer.
    """
    check_settings(settings, config, params)
    _refuse_other_tokenizer(Path(folder), tokenizer_folder)
    with model_folder(folder) as out:
        write_tensors(out / "model.safetensors", to_torch_names(config, params), {"format": "pt"})
        _write_config(out / "config.json", config, settings)
        write_json(out / SETTINGS_FILE, dataclasses.asdict(settings))
        # Not by its own save, whose errors say neither what they are nor of which file.
        write_text(out / "tokenizer.json", tokenizer.backend.to_str(pretty=True))
        if tokenizer_folder is not None:
            for name in TOKENIZER_FILES:
                if (tokenizer_folder / name).exists():
                    shutil.copyfile(tokenizer_folder / name, out / name)
        if transform is not None:
            transform.save(out / TRANSFORM_FOLDER)
        _write_modules(out, config, settings, _modules(config, params, settings, transform))
        card = origin.readme if origin is not None and origin.unchanged else None
        write_card(out, card or model_card(model_facts(config, settings, transform), origin))
    unknown = ""
    if transform is not None and _of_transform(transform) is None:
        unknown = f"a {transform.kind} at the end"
    if ditto_head(settings.pooling) is not None:
        unknown = f"the pooling {settings.pooling}"
    if unknown:  # whoever saves knows the folder, and here it may be a temporary one of theirs
        log.warning(
            "sentence-transformers has no module for %s: it will refuse the model that is saved; "
            "load it with simcse_jax",
            unknown,
        )
    return Path(folder)


def model_facts(
    config: BertConfig, settings: EncoderSettings, transform: Transform | None
) -> ModelFacts:
    """Return what the card of a model says of it."""
    whole = pooled_size(settings.pooling, config.hidden_size)
    if transform is not None:
        whole = transform.output_dim
    parts = transform.parts if isinstance(transform, Chain) else filter(None, [transform])
    return ModelFacts(
        f"{config.model_type}, {config.num_hidden_layers} layers of width {config.hidden_size}",
        settings.dimension(whole),
        settings.longest_input(config),
        settings,
        tuple(part.kind for part in parts),
        _of_transform(transform) is not None and ditto_head(settings.pooling) is None,
    )


def _refuse_other_tokenizer(folder: Path, tokenizer_folder: Path | None) -> None:
    """Raise a FileExistsError for tokenizer files that would stay, and be read beside ours."""
    if (folder / SETTINGS_FILE).exists():
        return
    for name in TOKENIZER_FILES:
        ours = tokenizer_folder is not None and (tokenizer_folder / name).exists()
        if (folder / name).exists() and not ours:
            raise FileExistsError(
                f"{folder / name} is of another model's tokenizer and would be read together with "
                "the one that is saved; remove it, or choose another folder"
            )


def _write_config(path: Path, config: BertConfig, settings: EncoderSettings) -> None:
    layers, _ = layers_and_reduction(settings.pooling)
    raw = config_to_json(config)
    if layers != (-1,):  # sentence-transformers' WeightedLayerPooling reads every layer
        raw["output_hidden_states"] = True
    write_json(path, raw)


# Types that it cannot load, and where they lie: better than other embeddings than ours.
_REFUSED = {
    "Flow": (TRANSFORM_FOLDER, "simcse_jax.transforms.Flow"),
    "Ditto": ("ditto", "simcse_jax.models.Ditto"),
}


class _Module(NamedTuple):
    """A module of sentence-transformers: its class, and what its folder holds.

    Attributes:
        kind: the class.
        config: its ``config.json``; None for none.
        weights: its tensors; None for none.
    """

    kind: str
    config: dict[str, Any] | None = None
    weights: dict[str, np.ndarray] | None = None


def _modules(
    config: BertConfig, params: Params, settings: EncoderSettings, transform: Transform | None
) -> list[_Module]:
    """Return what sentence-transformers does after one another, as we do it."""
    layers, reduction = layers_and_reduction(settings.pooling)
    modules = [_Module("Transformer")]
    if layers != (-1,):
        modules.append(_mean_of_layers(config, layers))
    ditto = ditto_head(settings.pooling) is not None
    modules.append(_Module("Ditto") if ditto else _pooling(config, reduction))
    if settings.pooling == "pooler":
        dense = params["pooler"]["dense"]
        modules.append(_dense(np.asarray(dense["kernel"]), np.asarray(dense["bias"]), TANH))
    after = _of_transform(transform)
    modules += [_Module("Flow")] if after is None else after
    if settings.normalize and modules[-1].kind != "Normalize":
        modules.append(_Module("Normalize"))
    return modules


def _of_transform(transform: Transform | None) -> list[_Module] | None:
    """Return a transform as modules, or None where sentence-transformers has none for it."""
    modules: list[_Module] = []
    before: Transform | None = None
    for part in transform.parts if isinstance(transform, Chain) else filter(None, [transform]):
        if isinstance(part, Affine):
            modules.append(_dense(*part.dense(), IDENTITY))
            modules += [_Module("Normalize")] if part.normalize else []
        elif isinstance(part, UnitRows):
            modules.append(_Module("Normalize"))
        elif isinstance(part, LayerNorm) and part.epsilon == LayerNorm.epsilon:  # torch's
            modules.append(_layer_norm(part))
        elif isinstance(part, Tanh) and isinstance(before, Affine) and not before.normalize:
            modules[-1] = _dense(*before.dense(), TANH)
        else:
            return None
        before = part
    return modules


def _layer_norm(part: LayerNorm) -> _Module:
    scale, bias = (np.asarray(value, np.float32) for value in (part.scale, part.bias))
    return _Module(
        "LayerNorm", {"dimension": part.input_dim}, {"norm.weight": scale, "norm.bias": bias}
    )


def _mean_of_layers(config: BertConfig, layers: tuple[int, ...]) -> _Module:
    """Return a weighted mean of layers that is the plain mean of the chosen ones."""
    depth = config.num_hidden_layers
    weights = np.zeros(depth + 1, np.float32)
    for layer in layers:
        weights[layer] += 1
    return _Module(
        "WeightedLayerPooling",
        {
            "word_embedding_dimension": config.hidden_size,
            "num_hidden_layers": depth,
            "layer_start": 0,
        },
        {"layer_weights": weights},
    )


def _pooling(config: BertConfig, reduction: str) -> _Module:
    """Return the module by flags, which every version reads, where they say the order too."""
    names = reduction.split("+")
    flags: dict[str, Any] = {flag: name in names for name, flag in MODES.values()}
    said = [name for name, _ in MODES.values() if name in names]
    if names != said:
        modes = {name: mode for mode, (name, _) in MODES.items()}
        flags = {"pooling_mode": [modes[name] for name in names]}
    return _Module("Pooling", {"word_embedding_dimension": config.hidden_size, **flags})


def _dense(kernel: np.ndarray, bias: np.ndarray, activation: str) -> _Module:
    return _Module(
        "Dense",
        {
            "in_features": kernel.shape[0],
            "out_features": kernel.shape[1],
            "bias": True,
            "activation_function": activation,
        },
        {
            "linear.weight": np.ascontiguousarray(kernel.T, np.float32),
            "linear.bias": np.asarray(bias, np.float32),
        },
    )


def _write_modules(
    out: Path, config: BertConfig, settings: EncoderSettings, modules: list[_Module]
) -> None:
    """Write the modules' folders, their list, and sentence-transformers' two other files."""
    listed = []
    for number, module in enumerate(modules):
        kind = f"sentence_transformers.models.{module.kind}"
        path = f"{number}_{module.kind}"
        if module.kind == "Transformer":
            path = ""  # the encoder's own files lie in the folder itself
        elif module.kind in _REFUSED:
            path, kind = _REFUSED[module.kind]
        listed.append({"idx": number, "name": str(number), "path": path, "type": kind})
        (out / path).mkdir(exist_ok=True)
        if module.config is not None:
            write_json(out / path / "config.json", module.config)
        if module.weights is not None:
            write_tensors(out / path / "model.safetensors", module.weights, {"format": "pt"})
    write_json(out / MODULES_FILE, listed)
    write_json(
        out / TRANSFORMER_FILE,
        {
            "max_seq_length": settings.max_length or config.max_length,
            "do_lower_case": settings.do_lower_case,
        },
    )
    truncation = {} if settings.truncate_dim is None else {"truncate_dim": settings.truncate_dim}
    write_json(
        out / MODEL_FILE,
        {
            "prompts": dict(settings.prompts),
            "default_prompt_name": settings.default_prompt_name,
            "similarity_fn_name": settings.similarity_fn_name,
            **truncation,
        },
    )
