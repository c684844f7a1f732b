"""How a model folder is used, for ourselves and, by its modules, for sentence-transformers."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.hub.weights import Params, read_tensors, to_torch_names
from simcse_jax.io import read_json, write_json, written_folder
from simcse_jax.models.bert import BertConfig
from simcse_jax.models.pooling import check_pooling, layers_and_reduction
from simcse_jax.transforms import Affine, Transform, load_transform

log = logging.getLogger(__name__)

SETTINGS_FILE = "simcse_jax.json"
MODULES_FILE = "modules.json"
TRANSFORM_FOLDER = "transform"
IDENTITY = "torch.nn.modules.linear.Identity"
TANH = "torch.nn.modules.activation.Tanh"
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


@dataclasses.dataclass(frozen=True)
class EncoderSettings:
    """What a model folder says of its own use.

    Attributes:
        pooling: a name of :data:`simcse_jax.models.POOLINGS`.
        normalize: whether embeddings are scaled to length one.
        max_length: inputs are cut to so many tokens; None is the whole position table.
        do_lower_case: lower-case before the tokenizer, as old sentence-transformers folders ask.
    """

    pooling: str = "mean"
    normalize: bool = False
    max_length: int | None = None
    do_lower_case: bool = False


def replace_settings(settings: EncoderSettings, changes: Mapping[str, Any]) -> EncoderSettings:
    """Return the settings with every change that is not None."""
    return dataclasses.replace(settings, **{k: v for k, v in changes.items() if v is not None})


def check_settings(settings: EncoderSettings, config: BertConfig, params: Params) -> None:
    """Raise a ValueError where a model cannot be pooled as the settings say."""
    check_pooling(settings.pooling, config.num_hidden_layers)
    if settings.pooling == "pooler" and "pooler" not in params:
        raise ValueError("pooling 'pooler' needs a pooler, and this model has none; try 'cls'")


# ---------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------


def read_settings(folder: Path) -> EncoderSettings:
    """Read a folder's pooling, normalisation and maximal length.

    They come from our own ``simcse_jax.json``, else from sentence-transformers'
    ``modules.json``, else they are mean pooling of everything.

    Raises:
        ValueError: a sentence-transformers module that has no counterpart here.
    """
    if (folder / SETTINGS_FILE).exists():
        raw = read_json(folder / SETTINGS_FILE)
        names = {f.name for f in dataclasses.fields(EncoderSettings)}
        return EncoderSettings(**{k: v for k, v in raw.items() if k in names})
    if not (folder / MODULES_FILE).exists():
        log.info("%s does not say how to pool; taking the mean", folder)
        return EncoderSettings()

    settings: dict[str, Any] = {}
    for kind, place in _listed_modules(folder):
        if kind == "Transformer":
            path = place / "sentence_bert_config.json"
            raw = read_json(path) if path.exists() else {}
            settings["max_length"] = raw.get("max_seq_length")
            settings["do_lower_case"] = bool(raw.get("do_lower_case", False))
        elif kind == "Pooling":
            settings["pooling"] = _read_pooling(place / "config.json")
        elif kind == "Normalize":
            settings["normalize"] = True
        elif kind == "Dense" and "pooling" in settings and "normalize" not in settings:
            pass  # a transform
        else:
            raise ValueError(
                f"{folder / MODULES_FILE}: module {kind} has no counterpart here; "
                "Transformer, Pooling, Dense and Normalize are read, in this order"
            )
    return EncoderSettings(**settings)


def read_transform(folder: Path) -> Transform | None:
    """Read the transform of a folder's embeddings: ours, or linear Dense modules, else None.

    Raises:
        ValueError: a damaged transform, or a Dense module that is not linear.
    """
    if (folder / TRANSFORM_FOLDER).is_dir():
        return load_transform(folder / TRANSFORM_FOLDER)
    if (folder / SETTINGS_FILE).exists() or not (folder / MODULES_FILE).exists():
        return None
    transform: Affine | None = None
    for kind, place in _listed_modules(folder):
        if kind == "Dense":
            dense = _read_dense(place)
            transform = dense if transform is None else transform.then(dense)
    return transform


def _listed_modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the class and the folder of each module, in the order of their use."""
    modules = read_json(folder / MODULES_FILE)
    return [(m["type"].rsplit(".", 1)[-1], folder / m["path"]) for m in modules]


def _read_pooling(path: Path) -> str:
    raw = read_json(path)
    names = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    chosen = [k for k, v in raw.items() if k.startswith("pooling_mode_") and v is True]
    chosen = [names.get(k.removeprefix("pooling_mode_"), k) for k in chosen]
    if "pooling_mode" in raw:  # sentence-transformers 5.2 and later
        mode = raw["pooling_mode"]
        chosen = [mode] if isinstance(mode, str) else list(mode)
    if len(chosen) != 1 or chosen[0] not in names.values():
        raise ValueError(f"{path}: pooling {chosen} is not one of cls, mean, max")
    return chosen[0]


def _read_dense(folder: Path) -> Affine:
    raw = read_json(folder / "config.json")
    activation = raw.get("activation_function", TANH)
    if not activation.endswith(".Identity") or raw.get("use_residual"):
        raise ValueError(
            f"{folder / 'config.json'}: only Dense modules with the activation Identity and no "
            f"residual are read, this one has {activation.rsplit('.', 1)[-1]}"
        )
    tensors = read_tensors(folder)
    matrix = tensors["linear.weight"].T.astype(np.float64)
    bias = tensors.get("linear.bias")
    bias = None if bias is None else bias.astype(np.float64)
    return Affine(np.zeros(len(matrix)), matrix, bias=bias)


# ---------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------


def save_model(
    folder: str | os.PathLike[str],
    config: BertConfig,
    params: Params,
    settings: EncoderSettings,
    tokenizer: Tokenizer,
    tokenizer_folder: Path | None = None,
    transform: Transform | None = None,
) -> Path:
    """Write a folder that we, ``transformers.AutoModel`` and sentence-transformers load.

    Args:
        folder: where; replaced as a whole if it exists.
        config: the architecture.
        params: as `simcse_jax.hub.load_params` returns them.
        settings: pooling, normalisation and maximal length, written for us and, in its own
            modules, for sentence-transformers.
        tokenizer: written as ``tokenizer.json``.
        tokenizer_folder: a folder whose other tokenizer files are copied.
        transform: of the pooled embeddings; a linear one is also written as a Dense module, any
            other makes sentence-transformers refuse the folder, and a warning says so.

    Returns:
        The folder.

    Raises:
        ValueError: ``pooler`` pooling without a pooler, or a pooling the model is too shallow for.
        OSError: the folder cannot be written; nothing is left behind.
    """
    check_settings(settings, config, params)
    with written_folder(folder) as out:
        save_file(to_torch_names(config, params), out / "model.safetensors", {"format": "pt"})
        _write_config(out / "config.json", config, settings)
        write_json(out / SETTINGS_FILE, dataclasses.asdict(settings))
        tokenizer.backend.save(str(out / "tokenizer.json"))
        if tokenizer_folder is not None:
            for name in TOKENIZER_FILES:
                if (tokenizer_folder / name).exists():
                    shutil.copyfile(tokenizer_folder / name, out / name)
        if transform is not None:
            transform.save(out / TRANSFORM_FOLDER)
        _write_modules(out, config, settings, _modules(config, params, settings, transform))
    if transform is not None and not isinstance(transform, Affine):
        log.warning(
            "%s ends with a %s, for which sentence-transformers has no module: it will refuse the "
            "folder; load it with simcse_jax",
            folder,
            transform.kind,
        )
    return Path(folder)


def _write_config(path: Path, config: BertConfig, settings: EncoderSettings) -> None:
    layers, _ = layers_and_reduction(settings.pooling)
    roberta = config.model_type == "roberta"
    raw: dict[str, Any] = {
        "architectures": ["RobertaModel" if roberta else "BertModel"],
        **dataclasses.asdict(config),
    }
    if layers != (-1,):  # sentence-transformers' WeightedLayerPooling reads every layer
        raw["output_hidden_states"] = True
    write_json(path, raw)


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
    modules.append(_pooling(config, reduction))
    if settings.pooling == "pooler":
        dense = params["pooler"]["dense"]
        modules.append(_dense(np.asarray(dense["kernel"]), np.asarray(dense["bias"]), TANH))
    if isinstance(transform, Affine):
        modules.append(_dense(*transform.dense(), IDENTITY))
    elif transform is not None:
        modules.append(_Module("Flow"))
    if settings.normalize or (isinstance(transform, Affine) and transform.normalize):
        modules.append(_Module("Normalize"))
    return modules


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
    return _Module(
        "Pooling",
        {
            "word_embedding_dimension": config.hidden_size,
            "pooling_mode_cls_token": reduction == "cls",
            "pooling_mode_mean_tokens": reduction == "mean",
            "pooling_mode_max_tokens": reduction == "max",
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )


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
        elif module.kind == "Flow":
            # A type that it cannot load: better than embeddings without the transform.
            path, kind = TRANSFORM_FOLDER, "simcse_jax.transforms.Flow"
        listed.append({"idx": number, "name": str(number), "path": path, "type": kind})
        (out / path).mkdir(exist_ok=True)
        if module.config is not None:
            write_json(out / path / "config.json", module.config)
        if module.weights is not None:
            save_file(module.weights, out / path / "model.safetensors", {"format": "pt"})
    write_json(out / MODULES_FILE, listed)
    write_json(
        out / "sentence_bert_config.json",
        {
            "max_seq_length": settings.max_length or config.max_length,
            "do_lower_case": settings.do_lower_case,
        },
    )
    write_json(out / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
