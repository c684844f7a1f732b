"""Folders of sentence-transformers, of its old layout and today's: their modules, read.

What a folder says is computed as sentence-transformers computes it, or refused. A key that is not
known here is refused too, since it could change the vectors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from simcse_jax.checks import listed, quoted
from simcse_jax.hub.weights import read_tensors
from simcse_jax.io import is_there, read_json, read_object
from simcse_jax.transforms import Affine, LayerNorm, Tanh, Transform, UnitRows
from simcse_jax.transforms.chain import chained

MODULES_FILE = "modules.json"
MODEL_FILE = "config_sentence_transformers.json"
TRANSFORMER_FILE = "sentence_bert_config.json"
IDENTITY = "torch.nn.modules.linear.Identity"
TANH = "torch.nn.modules.activation.Tanh"
WEIGHTED_LAYERS = "WeightedLayerPooling"
_IDENTITIES = (IDENTITY, "torch.nn.Identity")
_TANHS = (TANH, "torch.nn.Tanh")
_AFTER_POOLING = ("Dense", "LayerNorm", "Normalize", "Dropout")

# The first of them that there is; old folders name it after the architecture.
_TRANSFORMER_FILES = (
    TRANSFORMER_FILE,
    *(
        f"sentence_{name}_config.json"
        for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
    ),
)
# Our name of a pooling by today's mode, and its flag in older folders, in the order in which the
# vectors of several flags are joined.
MODES = {
    "cls": ("cls", "pooling_mode_cls_token"),
    "max": ("max", "pooling_mode_max_tokens"),
    "mean": ("mean", "pooling_mode_mean_tokens"),
    "mean_sqrt_len_tokens": ("mean-sqrt-len", "pooling_mode_mean_sqrt_len_tokens"),
    "weightedmean": ("weighted-mean", "pooling_mode_weightedmean_tokens"),
    "lasttoken": ("last-token", "pooling_mode_lasttoken"),
}
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
            raise ValueError(
                f"{path}: {quoted(key)} is not known here and could change the vectors"
            )
        if value not in only[key]:
            raise ValueError(
                f"{path}: {key} is {quoted(value)}, which is not read; only {only[key]} is"
            )


def _of_type(path: Path, raw: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """Return the value of a key, or the default where it is absent or null.

    Raises:
        ValueError: it is of another type.
    """
    value = raw.get(key)
    if value is None:
        return default
    if type(value) is not kind:
        raise ValueError(f"{path}: {key} is {quoted(value)}; it must be of type {kind.__name__}")
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
                f"{path}: the module {quoted(module.get('type'))} is not sentence-transformers' own"
            )
        place = _of_type(path, module, "path", str, "")
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise ValueError(f"{path}: the path {quoted(place)} leads out of the folder")
        found.append((kind, folder / place))
    return found


def read_settings(folder: Path) -> dict[str, Any]:
    """Read what a folder says of its use, by the names of `simcse_jax.hub.EncoderSettings`.

    Raises:
        ValueError: a module, a key or a value that has no counterpart here.
    """
    modules = listed_modules(folder)
    kinds = [kind for kind, _ in modules]
    layers = kinds[1:2] == [WEIGHTED_LAYERS]
    start = ["Transformer", *([WEIGHTED_LAYERS] if layers else []), "Pooling"]
    after = kinds[len(start) :]
    if kinds[: len(start)] != start or not set(after) <= {*_AFTER_POOLING}:
        raise ValueError(
            f"{folder / MODULES_FILE}: the modules are {listed(kinds)}; what is read is "
            f"Transformer, perhaps {WEIGHTED_LAYERS}, Pooling, and then any of "
            f"{', '.join(_AFTER_POOLING)}"
        )
    settings = _read_transformer(modules[0][1])
    settings["pooling"] = _read_pooling(modules[len(start) - 1][1] / "config.json")
    if layers:
        settings["pooling"] = _pooling_of_layers(folder, modules[1][1], settings["pooling"])
    for kind, place in modules:
        if kind == "Normalize":
            _check_normalize(place / "config.json")
    if [kind for kind, _ in _after_pooling(modules)][-1:] == ["Normalize"]:
        settings["normalize"] = True
    return settings | _read_model(folder / MODEL_FILE)


def _after_pooling(modules: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Return the modules that change the pooled vector; Dropout does so in training only."""
    kinds = [kind for kind, _ in modules]
    first = kinds.index("Pooling") + 1 if "Pooling" in kinds else len(kinds)
    return [module for module in modules[first:] if module[0] != "Dropout"]


def encoder_folder(folder: Path) -> Path:
    """Return where the encoder and its tokenizer lie: the folder itself, or one in it."""
    places = [place for kind, place in listed_modules(folder) if kind == "Transformer"]
    return places[0] if places else folder


def _read_transformer(place: Path) -> dict[str, Any]:
    tokenizer = read_max_length(place)
    path = next((place / n for n in _TRANSFORMER_FILES if is_there(place / n)), None)
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
            f"{path}: truncation_side is {quoted(raw['truncation_side'])}; only 'right' is read"
        )
    length = raw.get("model_max_length")
    if isinstance(length, int | float) and length >= _NO_MAXIMUM:
        return None
    return _size(path, raw, "model_max_length", least=2)


def _read_pooling(path: Path) -> str:
    raw = read_object(path)
    flags = [flag for _, flag in MODES.values()]
    sizes = ("word_embedding_dimension", "embedding_dimension")
    _check_keys(path, raw, ("pooling_mode", *flags, *sizes), _POOLING)
    chosen: Any = [mode for mode, (_, flag) in MODES.items() if _of_type(path, raw, flag, bool)]
    if "pooling_mode" in raw:  # sentence-transformers 5.2 and later
        mode = raw["pooling_mode"]
        chosen = mode if isinstance(mode, list) else [mode]
    if not chosen or not all(isinstance(mode, str) and mode in MODES for mode in chosen):
        raise ValueError(f"{path}: pooling {quoted(chosen)} is none of {', '.join(MODES)}")
    return "+".join(MODES[mode][0] for mode in chosen)


def _pooling_of_layers(folder: Path, place: Path, reduction: str) -> str:
    """Return our name of a mean of layers, of which the tokens' mean is taken.

    Raises:
        ValueError: the weights are not those of one of our poolings.
    """
    path = place / "config.json"
    raw, model = read_object(path), read_object(encoder_folder(folder) / "config.json")
    sizes = ("word_embedding_dimension", "embedding_dimension")
    _check_keys(path, raw, (*sizes, "num_hidden_layers", "layer_start"), {})
    depth = _size(path, raw, "num_hidden_layers") or 12
    first = _of_type(path, raw, "layer_start", int, 4)
    weights = read_tensors(place, lambda name: name == "layer_weights")
    if not weights:
        raise ValueError(f"{place} has no tensor layer_weights")
    values = weights["layer_weights"].floats()
    if not 0 <= first <= depth or values.shape != (depth + 1 - first,):
        raise ValueError(f"{path}: {depth} layers from {first} do not fit weights {values.shape}")
    shares = {first + i: float(w / values.sum()) for i, w in enumerate(values) if w}
    known = {f"layer-{layer}": {layer: 1.0} for layer in range(depth)} | {
        "mean": {depth: 1.0},
        "last-2": {depth - 1: 0.5, depth: 0.5},
        "first-last": {1: 0.5, depth: 0.5},
        "embedding-last": {0: 0.5, depth: 0.5},
    }
    found = next((name for name, own in known.items() if own == shares), None)
    if found is None or reduction != "mean" or model.get("output_hidden_states") is not True:
        raise ValueError(
            f"{path}: only the mean of one layer, of the last two, or of the last with the first "
            "or the embeddings is read, with mean pooling and output_hidden_states true in the "
            f"encoder's config.json; here layers weigh {shares}, and the pooling is {reduction}"
        )
    return found


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


def read_transform(folder: Path) -> Transform | None:
    """Read what comes after the pooling as one map; None where nothing does.

    Linear Dense modules in a row become one affine map. Lengths that are made one at the very end
    are a setting and no part of it.

    Raises:
        ValueError: a module of another kind than it can be read, or whose tensors are not as its
            configuration says.
    """
    modules = _after_pooling(listed_modules(folder))
    while modules and modules[-1][0] == "Normalize":
        modules = modules[:-1]
    parts: list[Transform] = []
    for kind, place in modules:
        if kind == "Normalize":
            if parts:
                parts.append(UnitRows(parts[-1].output_dim))
            continue
        added = _read_dense(place) if kind == "Dense" else [_read_layer_norm(place)]
        if not parts and modules[0][0] == "Normalize":  # whose width is known only now
            parts.append(UnitRows(added[0].input_dim))
        if parts and parts[-1].output_dim != added[0].input_dim:
            raise ValueError(
                f"{place / 'config.json'}: it takes {added[0].input_dim} dimensions; the module "
                f"before gives {parts[-1].output_dim}"
            )
        if parts and isinstance(parts[-1], Affine) and isinstance(added[0], Affine):
            parts[-1], added = parts[-1].then(added[0]), added[1:]
        parts += added
    return chained(parts)


def _read_layer_norm(place: Path) -> LayerNorm:
    path = place / "config.json"
    raw = read_object(path)
    _check_keys(path, raw, ("dimension",), {})
    tensors = read_tensors(place)
    if tensors.keys() != {"norm.weight", "norm.bias"}:
        raise ValueError(
            f"{place} has the tensors {sorted(tensors)}, not norm.weight and norm.bias"
        )
    scale, bias = (tensors[f"norm.{name}"].floats() for name in ("weight", "bias"))
    shape = (_size(path, raw, "dimension"),)
    if scale.shape != shape or bias.shape != shape:
        raise ValueError(f"{path}: dimension is {shape[0]}; the tensors have shape {scale.shape}")
    return LayerNorm(scale.astype(np.float64), bias.astype(np.float64))


def _read_dense(folder: Path) -> list[Transform]:
    """Read a linear map, and its activation where it has one."""
    path = folder / "config.json"
    raw = read_object(path)
    activation = _of_type(path, raw, "activation_function", str, TANH)
    if activation not in (*_IDENTITIES, *_TANHS) or raw.get("use_residual"):
        shown = activation.removeprefix("torch.nn.modules.activation.")
        residual = " and a residual" if raw.get("use_residual") else ""
        raise ValueError(
            f"{path}: only Dense modules with the activation Identity or Tanh and no residual are "
            f"read, this one has {shown}{residual}"
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
    matrix, bias = weight.T.astype(np.float64), None
    if len(names) == 2:
        bias = tensors["linear.bias"].floats().astype(np.float64)
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"{path}: linear.bias has shape {bias.shape}, not {weight.shape[:1]}")
    linear = Affine(np.zeros(len(matrix)), matrix, bias=bias)
    return [linear, Tanh(linear.output_dim)] if activation in _TANHS else [linear]
