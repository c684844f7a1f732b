"""Folders of sentence-transformers, of its old layout and today's: their modules, read.

What a folder says is computed as sentence-transformers computes it, or refused. A key that is not
known here is refused too, since it could change the vectors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from simcse_jax.hub.weights import read_tensors
from simcse_jax.io import is_there, read_json, read_object
from simcse_jax.transforms import Affine

MODULES_FILE = "modules.json"
MODEL_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILE = "sentence_bert_config.json"
IDENTITY = "torch.nn.modules.linear.Identity"
TANH = "torch.nn.modules.activation.Tanh"

# The first of them that there is; old folders name it after the architecture.
_TRANSFORMER_FILES = (
    TRANSFORMER_FILE,
    *(
        f"sentence_{name}_config.json"
        for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
    ),
)
_POOLINGS = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
_OTHER_POOLINGS = ("mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
# transformers writes 1e30 for a tokenizer that has no maximal length.
_NO_MAXIMUM = 10**9

Values = Mapping[str, Collection[Any]]
_LOADING: Collection[Any] = (
    None,
    {},
    {"trust_remote_code": True},
    {"trust_remote_code": False},
    {"add_pooling_layer": False},
)
# The values by which a key changes nothing, file by file.
_MODULE: Values = {"kwargs": (None, [])}
_TRANSFORMER: Values = {
    "transformer_task": ("feature-extraction",),
    "modality_config": (
        {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    ),
    "module_output_name": ("token_embeddings",),
    "processing_kwargs": (None, {}),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    **dict.fromkeys(("model_args", "tokenizer_args", "config_args"), _LOADING),
    **dict.fromkeys(("model_kwargs", "processor_kwargs", "config_kwargs"), _LOADING),
}
_POOLING: Values = {"include_prompt": (True,)}
_NORMALIZE: Values = {
    "module_input_name": ("sentence_embedding",),
    "module_output_name": ("sentence_embedding", None),
}
_DENSE: Values = {**_NORMALIZE, "use_residual": (False, None)}
_MODEL: Values = {"model_type": ("SentenceTransformer",)}


def _check_keys(path: Path, raw: Mapping[str, Any], read: Collection[str], only: Values) -> None:
    """Raise a ValueError for a key that is not known, or that has a value we cannot follow."""
    for key, value in raw.items():
        if key in read:
            continue
        if key not in only:
            raise ValueError(f"{path}: {key!r} is not known here and could change the vectors")
        if value not in only[key]:
            raise ValueError(f"{path}: {key} is {value!r}, which is not read; only {only[key]} is")


def _of_type(path: Path, raw: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """Return the value of a key, or the default where it is absent or null.

    Raises:
        ValueError: it is of another type.
    """
    value = raw.get(key)
    if value is None:
        return default
    if type(value) is not kind:
        raise ValueError(f"{path}: {key} is {value!r}; it must be of type {kind.__name__}")
    return value


def _size(path: Path, raw: Mapping[str, Any], key: str, least: int = 1) -> int | None:
    value = _of_type(path, raw, key, int)
    if value is not None and value < least:
        raise ValueError(f"{path}: {key} is {value}; it must be at least {least}")
    return value


def listed_modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the class and the folder of each module, in the order of their use.

    Raises:
        ValueError: the list is damaged, or a module is not sentence-transformers'.
    """
    path = folder / MODULES_FILE
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ValueError(f"{path} must hold a list of JSON objects, one a module")
    found = []
    for module in modules:
        _check_keys(path, module, ("idx", "name", "path", "type"), _MODULE)
        library, _, kind = _of_type(path, module, "type", str, "").rpartition(".")
        if library.partition(".")[0] != "sentence_transformers":
            raise ValueError(
                f"{path}: the module {module.get('type')!r} is not sentence-transformers' own"
            )
        place = _of_type(path, module, "path", str, "")
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise ValueError(f"{path}: the path {place!r} leads out of the folder")
        found.append((kind, folder / place))
    return found


def read_settings(folder: Path) -> dict[str, Any]:
    """Read what a folder says of its use, by the names of `simcse_jax.hub.EncoderSettings`.

    Raises:
        ValueError: a module, a key or a value that has no counterpart here.
    """
    settings: dict[str, Any] = {}
    for kind, place in listed_modules(folder):
        if kind == "Transformer" and not settings:
            settings |= _read_transformer(folder, place)
        elif kind == "Pooling" and settings and "pooling" not in settings:
            settings["pooling"] = _read_pooling(place / "config.json")
        elif kind == "Normalize" and "pooling" in settings:
            _check_normalize(place / "config.json")
            settings["normalize"] = True
        elif kind == "Dense" and "pooling" in settings and "normalize" not in settings:
            pass  # a transform
        else:
            raise ValueError(
                f"{folder / MODULES_FILE}: module {kind} has no counterpart here; "
                "Transformer, Pooling, Dense and Normalize are read, in this order"
            )
    if "pooling" not in settings:
        raise ValueError(f"{folder / MODULES_FILE}: there is no module Pooling")
    return settings | _read_model(folder / MODEL_FILE)


def _read_transformer(folder: Path, place: Path) -> dict[str, Any]:
    if place != folder:
        raise ValueError(
            f"{folder / MODULES_FILE}: the Transformer lies in {place.name}; only models whose "
            "config.json and weights lie in the folder itself are read"
        )
    tokenizer = read_max_length(folder)
    path = next((folder / n for n in _TRANSFORMER_FILES if is_there(folder / n)), None)
    if path is None:
        return {"max_length": tokenizer}
    raw = read_object(path)
    _check_keys(path, raw, ("max_seq_length", "do_lower_case", "unpad_inputs"), _TRANSFORMER)
    own = _size(path, raw, "max_seq_length", least=2)
    return {
        "max_length": tokenizer if own is None else own,
        "do_lower_case": _of_type(path, raw, "do_lower_case", bool, False),
    }


def read_max_length(folder: Path) -> int | None:
    """Return the tokenizer's maximal length; None where it has none.

    Raises:
        ValueError: its configuration is damaged, or sentences are cut at their beginning.
    """
    path = folder / "tokenizer_config.json"
    if not is_there(path):
        return None
    raw = read_object(path)
    if raw.get("truncation_side", "right") != "right":
        raise ValueError(
            f"{path}: truncation_side is {raw['truncation_side']!r}; only 'right' is read"
        )
    length = raw.get("model_max_length")
    if isinstance(length, int | float) and length >= _NO_MAXIMUM:
        return None
    return _size(path, raw, "model_max_length", least=2)


def _read_pooling(path: Path) -> str:
    raw = read_object(path)
    flags = [f"pooling_mode_{name}" for name in (*_POOLINGS, *_OTHER_POOLINGS)]
    sizes = ("word_embedding_dimension", "embedding_dimension")
    _check_keys(path, raw, ("pooling_mode", *flags, *sizes), _POOLING)
    names = [key.removeprefix("pooling_mode_") for key in flags if _of_type(path, raw, key, bool)]
    chosen = [_POOLINGS.get(name, name) for name in names]
    if "pooling_mode" in raw:  # sentence-transformers 5.2 and later
        mode = raw["pooling_mode"]
        chosen = mode if isinstance(mode, list) else [mode]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS.values():
        raise ValueError(f"{path}: pooling {chosen} is not one of cls, mean, max")
    return chosen[0]


def _check_normalize(path: Path) -> None:
    if is_there(path):  # old folders have none
        _check_keys(path, read_object(path), (), _NORMALIZE)


def _read_model(path: Path) -> dict[str, Any]:
    """Read what is said of the model as a whole; old folders have no such file."""
    if not is_there(path):
        return {}
    raw = read_object(path)
    texts = ("default_prompt_name", "similarity_fn_name")
    read = ("prompts", "truncate_dim", *texts)
    _check_keys(path, raw, (*read, "__version__", "requirements"), _MODEL)
    prompts = _of_type(path, raw, "prompts", dict, {})
    for name in prompts:
        prompts[name] = _of_type(path, prompts, name, str, "")
    return {
        "prompts": prompts,
        "default_prompt_name": _of_type(path, raw, "default_prompt_name", str),
        "truncate_dim": _size(path, raw, "truncate_dim"),
        "similarity_fn_name": _of_type(path, raw, "similarity_fn_name", str, "cosine"),
    }


def read_transform(folder: Path) -> Affine | None:
    """Read the Dense modules of a folder as one affine map; None where there is none.

    Raises:
        ValueError: a Dense module that is not linear, or whose tensors are not as its
            configuration says.
    """
    transform: Affine | None = None
    for kind, place in listed_modules(folder):
        if kind == "Dense":
            dense = _read_dense(place)
            if transform is not None and transform.output_dim != dense.input_dim:
                raise ValueError(
                    f"{place / 'config.json'}: in_features is {dense.input_dim}; the module before "
                    f"gives {transform.output_dim}"
                )
            transform = dense if transform is None else transform.then(dense)
    return transform


def _read_dense(folder: Path) -> Affine:
    path = folder / "config.json"
    raw = read_object(path)
    activation = _of_type(path, raw, "activation_function", str, TANH)
    if activation not in (IDENTITY, "torch.nn.Identity") or raw.get("use_residual"):
        shown = activation.removeprefix("torch.nn.modules.activation.")
        raise ValueError(
            f"{path}: only Dense modules with the activation Identity and no residual are read, "
            f"this one has {shown}"
        )
    sizes = ("in_features", "out_features")
    _check_keys(path, raw, (*sizes, "bias", "activation_function"), _DENSE)
    tensors = read_tensors(folder)
    names = {"linear.weight", "linear.bias"} if "linear.bias" in tensors else {"linear.weight"}
    said = _of_type(path, raw, "bias", bool, len(names) == 2)
    if said != (len(names) == 2) or tensors.keys() != names:
        raise ValueError(f"{path}: bias is {said}; {folder} has the tensors {sorted(tensors)}")
    weight = tensors["linear.weight"].floats()
    shape = tuple(_size(path, raw, size) for size in reversed(sizes))
    if weight.ndim != 2 or any(
        said not in (None, found) for said, found in zip(shape, weight.shape, strict=True)
    ):
        raise ValueError(
            f"{path}: in_features and out_features are {shape[1]} and {shape[0]}; linear.weight "
            f"has shape {weight.shape}"
        )
    matrix = weight.T.astype(np.float64)
    if len(names) == 1:
        return Affine(np.zeros(len(matrix)), matrix)
    bias = tensors["linear.bias"].floats().astype(np.float64)
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"{path}: linear.bias has shape {bias.shape}, not {weight.shape[:1]}")
    return Affine(np.zeros(len(matrix)), matrix, bias=bias)
