"""Model folders of Hugging Face and sentence-transformers <-> Flax parameters.

Weights are read from safetensors only, by an explicit table of names. A tensor that is missing
or left over is an error that names it; the pooler and the masked-LM head are optional.

The parameters are one tree::

    {"encoder": {"embeddings": …, "layer_0": …, …}, "pooler": …, "mlm": …}

with the last two only where the folder has them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from simcse_jax.data.embedded import minilm_folder
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.models.config import BertConfig
from simcse_jax.models.pooling import check_pooling, layers_and_reduction
from simcse_jax.transforms import Affine, Transform, load_transform

log = logging.getLogger(__name__)

Params = dict[str, Any]
SETTINGS_FILE = "simcse_jax.json"
TRANSFORM_FOLDER = "transform"
IDENTITY = "torch.nn.modules.linear.Identity"
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt"]


# ---------------------------------------------------------------------------------------------
# Finding a model
# ---------------------------------------------------------------------------------------------


def find_model(name: str | os.PathLike[str]) -> Path:
    """The folder of a model: ``"minilm"`` (the embedded one), a local folder, or a hub id.

    A hub id is fetched by huggingface_hub, which keeps its cache and respects
    ``HF_HUB_OFFLINE``.

    Raises:
        FileNotFoundError: there is no such folder and the hub has none or cannot be reached.
    """
    if str(name) == "minilm":
        return minilm_folder()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)):
        raise FileNotFoundError(f"model folder {str(name)!r} does not exist")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), allow_patterns=_HUB_PATTERNS))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise FileNotFoundError(
            f"{str(name)!r} is neither a local folder nor a model that the Hugging Face hub "
            f"would give ({type(error).__name__}); give a folder, a hub id, or 'minilm'"
        ) from error


def read_json(path: Path) -> Any:
    """Parse a JSON file; a ValueError names the file and line where it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; is this a model folder?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def read_config(folder: Path) -> BertConfig:
    """The architecture in a folder's ``config.json``.

    Raises:
        FileNotFoundError: no ``config.json``.
        ValueError: neither BERT nor RoBERTa, or a variant that is not implemented.
    """
    path = Path(folder) / "config.json"
    raw = read_json(path)
    model_type = raw.get("model_type")
    if model_type not in ("bert", "roberta"):
        raise ValueError(
            f"{path}: model_type is {model_type!r}; only 'bert' and 'roberta' are read"
        )
    positions = raw.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise ValueError(
            f"{path}: position_embedding_type is {positions!r}; only 'absolute' is read"
        )
    fields = {f.name for f in dataclasses.fields(BertConfig)}
    known = {k: v for k, v in raw.items() if k in fields and v is not None}
    defaults = {"pad_token_id": 1, "type_vocab_size": 1} if model_type == "roberta" else {}
    try:
        return BertConfig(**{**defaults, **known})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


# ---------------------------------------------------------------------------------------------
# The table of names
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter of ours and the tensors it is made of.

    A kernel is the transpose of torch's weight; several sources are concatenated along the
    output axis (the fused query, key and value).
    """

    path: tuple[str, ...]
    sources: tuple[str, ...]
    transpose: bool = False


def _dense(path: tuple[str, ...], *sources: str) -> list[Entry]:
    return [
        Entry((*path, "kernel"), tuple(f"{s}.weight" for s in sources), transpose=True),
        Entry((*path, "bias"), tuple(f"{s}.bias" for s in sources)),
    ]


def _norm(path: tuple[str, ...], source: str) -> list[Entry]:
    return [
        Entry((*path, "scale"), (f"{source}.weight",)),
        Entry((*path, "bias"), (f"{source}.bias",)),
    ]


def encoder_table(config: BertConfig) -> list[Entry]:
    """The encoder's names, without any prefix."""
    table = [
        Entry(("embeddings", ours, "embedding"), (f"embeddings.{theirs}_embeddings.weight",))
        for ours, theirs in (
            ("word", "word"),
            ("position", "position"),
            ("token_type", "token_type"),
        )
    ]
    table += _norm(("embeddings", "norm"), "embeddings.LayerNorm")
    for i in range(config.num_hidden_layers):
        ours, theirs = f"layer_{i}", f"encoder.layer.{i}"
        attention = [f"{theirs}.attention.self.{n}" for n in ("query", "key", "value")]
        table += _dense((ours, "attention", "qkv"), *attention)
        table += _dense((ours, "attention", "output"), f"{theirs}.attention.output.dense")
        table += _norm((ours, "attention_norm"), f"{theirs}.attention.output.LayerNorm")
        table += _dense((ours, "intermediate"), f"{theirs}.intermediate.dense")
        table += _dense((ours, "output"), f"{theirs}.output.dense")
        table += _norm((ours, "output_norm"), f"{theirs}.output.LayerNorm")
    return table


POOLER_TABLE = _dense(("dense",), "pooler.dense")


def mlm_table(config: BertConfig) -> list[Entry]:
    """The masked-LM head's names, which carry no prefix of the encoder's."""
    if config.model_type == "roberta":
        return [
            *_dense(("dense",), "lm_head.dense"),
            *_norm(("norm",), "lm_head.layer_norm"),
            Entry(("bias",), ("lm_head.bias",)),
        ]
    head = "cls.predictions"
    return [
        *_dense(("dense",), f"{head}.transform.dense"),
        *_norm(("norm",), f"{head}.transform.LayerNorm"),
        Entry(("bias",), (f"{head}.bias",)),
    ]


# Buffers, tied copies, and heads that sentence embeddings have no use for.
_IGNORED = re.compile(
    r"embeddings\.(position_ids|token_type_ids)$"
    r"|^cls\.predictions\.decoder\.(weight|bias)$|^cls\.seq_relationship\.|^lm_head\.decoder\."
)
_LAYER = re.compile(r"^encoder\.layer\.(\d+)\.")


def _set(tree: dict, path: tuple[str, ...], value: np.ndarray) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _get(tree: Mapping, path: tuple[str, ...]) -> np.ndarray:
    for part in path:
        tree = tree[part]
    return np.asarray(tree, np.float32)


# ---------------------------------------------------------------------------------------------
# Reading weights
# ---------------------------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder, one or several shards.

    Raises:
        FileNotFoundError: there is none; where there are pickled weights instead the message
            says how to convert them, because no pickle is ever read.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = [folder / f for f in sorted(set(read_json(index)["weight_map"].values()))]
    else:
        files = [folder / "model.safetensors"]
    missing = [f.name for f in files if not f.exists()]
    if not missing:
        return files
    pickled = sorted(f.name for f in folder.glob("*.bin")) + sorted(
        f.name for f in folder.glob("*.pt*")
    )
    if pickled:
        raise FileNotFoundError(
            f"{folder} has only pickled weights ({', '.join(pickled)}), which can run code when "
            "read; convert them where you trust them: transformers.AutoModel.from_pretrained"
            "(folder).save_pretrained(new_folder) writes safetensors"
        )
    raise FileNotFoundError(f"{folder} has no weights: {', '.join(missing)} is missing")


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for path in weight_files(folder):
        try:
            # "flax" rather than "numpy" would need no conversion but puts all on the device.
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - the handle is no dict
                    tensors[name] = file.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    return tensors


def load_params(
    folder: Path, config: BertConfig, num_layers: int | None = None
) -> tuple[BertConfig, Params]:
    """Read a folder's weights.

    Args:
        folder: a model folder.
        config: its architecture.
        num_layers: keep the first so many layers only.

    Returns:
        The architecture after truncation and the float32 parameters
        ``{"encoder": …}``, with ``"pooler"`` and ``"mlm"`` where the folder has them; which of
        the two it has is logged at level INFO.

    Raises:
        FileNotFoundError: no safetensors.
        ValueError: a tensor that is missing, left over, or of a wrong shape; it is named.
    """
    total = config.num_hidden_layers
    if num_layers is not None and not 1 <= num_layers <= total:
        raise ValueError(f"num_layers is {num_layers}; {folder} has layers 1 to {total}")
    kept = dataclasses.replace(config, num_hidden_layers=num_layers or total)

    tensors: dict[str, np.ndarray] = {}
    for original, tensor in _read_tensors(folder).items():
        name = original.removeprefix(f"{config.model_type}.")
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        layer = _LAYER.match(name)
        dropped = layer is not None and kept.num_hidden_layers <= int(layer[1]) < total
        if not (_IGNORED.search(name) or dropped):
            tensors[name] = tensor

    def take(table: list[Entry]) -> Params:
        tree: Params = {}
        for entry in table:
            parts = [tensors.pop(s).astype(np.float32) for s in entry.sources]
            joined = np.concatenate([p.T if entry.transpose else p for p in parts], axis=-1)
            _set(tree, entry.path, joined)
        return tree

    def missing(table: list[Entry]) -> list[str]:
        return [s for entry in table for s in entry.sources if s not in tensors]

    table = encoder_table(kept)
    if absent := missing(table):
        raise ValueError(f"{folder} lacks {_some(absent)}, which its config.json calls for")
    params: Params = {"encoder": take(table)}
    for head, table in (("pooler", POOLER_TABLE), ("mlm", mlm_table(kept))):
        if not missing(table):
            params[head] = take(table)
        else:
            log.info("%s has no %s", folder, head)
    if tensors:
        raise ValueError(f"{folder} has {_some(sorted(tensors))}, which no part of the model takes")
    _check_shapes(kept, params, folder)
    return kept, params


def _some(names: list[str], limit: int = 4) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ("tensor " if len(names) == 1 else "tensors ") + ", ".join(names[:limit]) + rest


def _check_shapes(config: BertConfig, params: Params, folder: Path) -> None:
    d, i, v = config.hidden_size, config.intermediate_size, config.vocab_size
    expected: dict[tuple[str, ...], tuple[int, ...]] = {
        ("embeddings", "word", "embedding"): (v, d),
        ("embeddings", "position", "embedding"): (config.max_position_embeddings, d),
        ("embeddings", "token_type", "embedding"): (config.type_vocab_size, d),
    }
    for n in range(config.num_hidden_layers):
        expected[(f"layer_{n}", "attention", "qkv", "kernel")] = (d, 3 * d)
        expected[(f"layer_{n}", "attention", "output", "kernel")] = (d, d)
        expected[(f"layer_{n}", "intermediate", "kernel")] = (d, i)
        expected[(f"layer_{n}", "output", "kernel")] = (i, d)
    for path, shape in expected.items():
        found = _get(params["encoder"], path).shape
        if found != shape:
            raise ValueError(
                f"{folder}: {'/'.join(path)} has shape {found}; config.json says {shape}"
            )


# ---------------------------------------------------------------------------------------------
# How a folder wants to be used
# ---------------------------------------------------------------------------------------------


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


def read_settings(folder: Path) -> EncoderSettings:
    """A folder's pooling, normalisation and maximal length.

    They come from our own ``simcse_jax.json``, else from sentence-transformers'
    ``modules.json``, else they are mean pooling of everything.

    Raises:
        ValueError: a sentence-transformers module that has no counterpart here.
    """
    if (folder / SETTINGS_FILE).exists():
        raw = read_json(folder / SETTINGS_FILE)
        names = {f.name for f in dataclasses.fields(EncoderSettings)}
        return EncoderSettings(**{k: v for k, v in raw.items() if k in names})
    if not (folder / "modules.json").exists():
        log.info("%s does not say how to pool; taking the mean", folder)
        return EncoderSettings()

    settings: dict[str, Any] = {}
    for module in read_json(folder / "modules.json"):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Transformer":
            path = folder / module["path"] / "sentence_bert_config.json"
            raw = read_json(path) if path.exists() else {}
            settings["max_length"] = raw.get("max_seq_length")
            settings["do_lower_case"] = bool(raw.get("do_lower_case", False))
        elif kind == "Pooling":
            settings["pooling"] = _read_pooling(folder / module["path"] / "config.json")
        elif kind == "Normalize":
            settings["normalize"] = True
        elif kind == "Dense" and "pooling" in settings and "normalize" not in settings:
            pass  # a transform
        else:
            raise ValueError(
                f"{folder / 'modules.json'}: module {kind} has no counterpart here; "
                "Transformer, Pooling, Dense and Normalize are read, in this order"
            )
    return EncoderSettings(**settings)


def read_transform(folder: Path) -> Transform | None:
    """The transform of a folder's embeddings, ours or linear Dense modules; None without one.

    Raises:
        ValueError: a damaged transform, or a Dense module that is not linear.
    """
    if (folder / TRANSFORM_FOLDER).is_dir():
        return load_transform(folder / TRANSFORM_FOLDER)
    if (folder / SETTINGS_FILE).exists() or not (folder / "modules.json").exists():
        return None
    transform: Affine | None = None
    for module in read_json(folder / "modules.json"):
        if module["type"].rsplit(".", 1)[-1] == "Dense":
            dense = _read_dense(folder / module["path"])
            transform = dense if transform is None else transform.then(dense)
    return transform


def _read_dense(folder: Path) -> Affine:
    raw = read_json(folder / "config.json")
    activation = raw.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not activation.endswith(".Identity") or raw.get("use_residual"):
        raise ValueError(
            f"{folder / 'config.json'}: only Dense modules with the activation Identity and no "
            f"residual are read, this one has {activation.rsplit('.', 1)[-1]}"
        )
    tensors = _read_tensors(folder)
    matrix = tensors["linear.weight"].T.astype(np.float64)
    bias = tensors.get("linear.bias")
    bias = None if bias is None else bias.astype(np.float64)
    return Affine(np.zeros(len(matrix)), matrix, bias=bias)


def replace_settings(settings: EncoderSettings, changes: Mapping[str, Any]) -> EncoderSettings:
    """The settings with every change that is not None."""
    return dataclasses.replace(settings, **{k: v for k, v in changes.items() if v is not None})


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


# ---------------------------------------------------------------------------------------------
# Writing a folder
# ---------------------------------------------------------------------------------------------


@contextmanager
def written_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a folder beside its place and rename it there once it is whole.

    An older folder of the same name is replaced, and stays if anything fails.

    Raises:
        OSError: the place cannot be written.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} is a file; give the name of a folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise type(error)(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            target.rename(old / "old")
            temporary.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people: indented, in UTF-8, with a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def to_torch_names(config: BertConfig, params: Params) -> dict[str, np.ndarray]:
    """The tensors under the names that ``transformers.AutoModel`` reads.

    The encoder and the pooler carry no prefix; a masked-LM head is written too, under the
    names of ``BertForMaskedLM``, and AutoModel passes over it.
    """
    tensors: dict[str, np.ndarray] = {}
    parts = [("encoder", encoder_table(config)), ("pooler", POOLER_TABLE)]
    for part, table in [*parts, ("mlm", mlm_table(config))]:
        if part not in params:
            continue
        for entry in table:
            value = _get(params[part], entry.path)
            pieces = np.split(value, len(entry.sources), axis=-1)
            for source, piece in zip(entry.sources, pieces, strict=True):
                tensors[source] = np.ascontiguousarray(piece.T if entry.transpose else piece)
    return tensors


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
        params: as :func:`load_params` returns them.
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
    check_pooling(settings.pooling, config.num_hidden_layers)
    if settings.pooling == "pooler" and "pooler" not in params:
        raise ValueError("pooling 'pooler' needs the parameters of a pooler")
    with written_folder(folder) as out:
        save_file(to_torch_names(config, params), out / "model.safetensors", {"format": "pt"})
        roberta = config.model_type == "roberta"
        layers, _ = layers_and_reduction(settings.pooling)
        several = layers != (-1,)
        write_json(
            out / "config.json",
            {
                "architectures": ["RobertaModel" if roberta else "BertModel"],
                **dataclasses.asdict(config),
                # sentence-transformers' WeightedLayerPooling reads every layer
                **({"output_hidden_states": True} if several else {}),
            },
        )
        write_json(out / SETTINGS_FILE, dataclasses.asdict(settings))
        tokenizer.backend.save(str(out / "tokenizer.json"))
        if tokenizer_folder is not None:
            for name in TOKENIZER_FILES:
                if (tokenizer_folder / name).exists():
                    shutil.copyfile(tokenizer_folder / name, out / name)
        if transform is not None:
            transform.save(out / TRANSFORM_FOLDER)
        _write_sentence_transformers(out, config, params, settings, transform)
    if transform is not None and not isinstance(transform, Affine):
        log.warning(
            "%s ends with a %s, for which sentence-transformers has no module: it will refuse the "
            "folder; load it with simcse_jax",
            folder,
            transform.kind,
        )
    return Path(folder)


def _write_sentence_transformers(
    out: Path,
    config: BertConfig,
    params: Params,
    settings: EncoderSettings,
    transform: Transform | None,
) -> None:
    modules: list[dict[str, Any]] = []

    def add(kind: str, raw: dict[str, Any] | None, weights: dict[str, np.ndarray] | None = None):
        number = len(modules)
        path = "" if kind == "Transformer" else f"{number}_{kind}"
        modules.append(
            {
                "idx": number,
                "name": str(number),
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
        )
        (out / path).mkdir(exist_ok=True)
        if raw is not None:
            write_json(out / path / "config.json", raw)
        if weights is not None:
            save_file(weights, out / path / "model.safetensors", {"format": "pt"})

    d, depth = config.hidden_size, config.num_hidden_layers
    add("Transformer", None)
    write_json(
        out / "sentence_bert_config.json",
        {
            "max_seq_length": settings.max_length or config.max_length,
            "do_lower_case": settings.do_lower_case,
        },
    )
    layers, reduction = layers_and_reduction(settings.pooling)
    if layers != (-1,):
        # Ones for the chosen layers: a weighted mean that is their plain mean.
        weights = np.zeros(depth + 1, np.float32)
        for layer in layers:
            weights[layer] += 1
        add(
            "WeightedLayerPooling",
            {"word_embedding_dimension": d, "num_hidden_layers": depth, "layer_start": 0},
            {"layer_weights": weights},
        )
    add(
        "Pooling",
        {
            "word_embedding_dimension": d,
            "pooling_mode_cls_token": reduction == "cls",
            "pooling_mode_mean_tokens": reduction == "mean",
            "pooling_mode_max_tokens": reduction == "max",
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )

    def add_dense(kernel: np.ndarray, bias: np.ndarray, activation: str) -> None:
        add(
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

    if settings.pooling == "pooler":
        dense = params["pooler"]["dense"]
        tanh = "torch.nn.modules.activation.Tanh"
        add_dense(np.asarray(dense["kernel"]), np.asarray(dense["bias"]), tanh)
    normalize = settings.normalize
    if isinstance(transform, Affine):
        add_dense(*transform.dense(), IDENTITY)
        normalize |= transform.normalize
    elif transform is not None:
        # A type that it cannot load: better than embeddings without the transform.
        refused = {"path": TRANSFORM_FOLDER, "type": "simcse_jax.transforms.Flow"}
        modules.append({"idx": len(modules), "name": str(len(modules)), **refused})
    if normalize:
        add("Normalize", None)
    write_json(out / "modules.json", modules)
    write_json(out / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
