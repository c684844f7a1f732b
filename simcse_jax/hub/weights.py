"""``config.json`` and safetensors of Hugging Face <-> the architecture and Flax parameters.

Weights are read from safetensors only, by an explicit table of names. A tensor that is missing,
left over or of another shape than the Flax module's is an error that names it; the pooler and the
masked-LM head are optional.

The parameters are one tree::

    {"encoder": {"embeddings": …, "layer_0": …, …}, "pooler": …, "mlm": …}

with the last two only where the folder has them.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from simcse_jax.hub.find import weight_files
from simcse_jax.io import is_there, read_object
from simcse_jax.models import BertConfig, BertEncoder, MaskedLMHead, Projection, one_a_row

log = logging.getLogger(__name__)

Params = dict[str, Any]

# What makes another computation of the same tensors.
_OTHER_MODELS = {
    "is_decoder": "its attention looks back only",
    "add_cross_attention": "it attends to another model",
    "pruned_heads": "heads are cut out of it",
    "quantization_config": "its weights are quantised",
    "auto_map": "code of its own computes it",
}


def read_config(folder: Path) -> BertConfig:
    """Read the architecture from a folder's ``config.json``.

    Raises:
        FileNotFoundError: no ``config.json``.
        ValueError: neither BERT nor RoBERTa, a variant that is not implemented, or a size that
            cannot be.
    """
    path = Path(folder) / "config.json"
    if not is_there(path):
        raise FileNotFoundError(f"{path} is missing; is this a model folder?")
    raw = read_object(path)
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
    for key, computed in _OTHER_MODELS.items():
        if raw.get(key):
            raise ValueError(f"{path}: {key} is {raw[key]!r}; {computed}, which is not read")
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
    """Return the encoder's names, without any prefix."""
    table = [
        Entry(("embeddings", name, "embedding"), (f"embeddings.{name}_embeddings.weight",))
        for name in ("word", "position", "token_type")
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
    """Return the masked-LM head's names, which carry no prefix of the encoder's."""
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


def tables(config: BertConfig) -> dict[str, list[Entry]]:
    """Return the names of every part of the parameters."""
    return {
        "encoder": encoder_table(config),
        "pooler": POOLER_TABLE,
        "mlm": mlm_table(config),
    }


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


def _get(tree: Mapping, path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


# ---------------------------------------------------------------------------------------------
# Shapes
# ---------------------------------------------------------------------------------------------


@functools.cache
def expected_shapes(config: BertConfig) -> Params:
    """Return the tree of `load_params` with the shapes and types that the Flax modules give it.

    All layers are alike, so that one is traced for all of them: a twentieth of a second instead
    of half a second.
    """

    def init() -> Params:
        key = jax.random.key(0)
        ids = jnp.zeros((1, 1), jnp.int32)
        hidden = jnp.zeros((1, config.hidden_size))
        words = jnp.zeros((config.vocab_size, config.hidden_size))
        encoder = BertEncoder(dataclasses.replace(config, num_hidden_layers=1))
        return {
            "encoder": encoder.init(key, one_a_row(ids, ids == 0)),
            "pooler": Projection(config).init(key, hidden),
            "mlm": MaskedLMHead(config).init(key, hidden, words),
        }

    shapes = {part: variables["params"] for part, variables in jax.eval_shape(init).items()}
    layer = shapes["encoder"].pop("layer_0")
    shapes["encoder"] |= {f"layer_{i}": layer for i in range(config.num_hidden_layers)}
    return shapes


def _source_shape(entry: Entry, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of each tensor that a parameter of this shape is made of."""
    *inputs, outputs = shape
    source = (*inputs, outputs // len(entry.sources))
    return source[::-1] if entry.transpose else source


# ---------------------------------------------------------------------------------------------
# Reading weights
# ---------------------------------------------------------------------------------------------


class Tensor(NamedTuple):
    """A tensor, its name in the file, and the file."""

    name: str
    value: np.ndarray
    file: Path

    def floats(self) -> np.ndarray:
        """Return the numbers as float32.

        Raises:
            ValueError: they are integers or truth values, NaN or infinite.
        """
        if not jnp.issubdtype(self.value.dtype, np.floating):
            raise ValueError(
                f"{self.file}: tensor {self.name} is of {self.value.dtype}; weights must be "
                "floating point"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            value = self.value.astype(np.float32)
            # The sum needs no array of its own; it may overflow where every number is finite.
            if not (np.isfinite(value.sum()) or np.isfinite(value).all()):
                raise ValueError(f"{self.file}: tensor {self.name} holds NaN or infinite numbers")
        return value


def read_tensors(folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Tensor]:
    """Read the tensors of a folder's safetensors, those whose names are wanted.

    Raises:
        FileNotFoundError: no safetensors.
        ValueError: a file that was cut off.
    """
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            # "flax" rather than "numpy" would need no conversion but puts all on the device.
            with safe_open(path, framework="numpy") as file:
                for name in filter(wanted, file.keys()):
                    tensors[name] = Tensor(name, file.get_tensor(name), path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
        except OSError as error:  # which does not say of what file
            raise type(error)(f"{path} cannot be read: {error}") from error
    return tensors


def is_simcse(folder: Path) -> bool:
    """Tell whether a folder is as SimCSE's own code saves it, by its architecture or its head."""
    named = read_object(folder / "config.json").get("architectures")
    if isinstance(named, list) and any(str(name).endswith("ForCL") for name in named):
        return True
    return bool(read_tensors(folder, lambda name: name.startswith("mlp.dense.")))


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
        ValueError: a tensor that is missing, left over, of a wrong shape or type, or not finite;
            it is named.
    """
    total = config.num_hidden_layers
    if num_layers is not None and not 1 <= num_layers <= total:
        raise ValueError(f"num_layers is {num_layers}; {folder} has layers 1 to {total}")
    kept = dataclasses.replace(config, num_hidden_layers=num_layers or total)
    tensors = _model_tensors(folder, config, kept.num_hidden_layers)
    found: dict[str, list[Entry]] = {}
    for part, table in tables(kept).items():
        absent = [s for entry in table for s in entry.sources if s not in tensors]
        if not absent:
            found[part] = table
        elif part == "encoder":
            raise ValueError(f"{folder} lacks {_some(absent)}, which its config.json calls for")
        else:
            log.info("%s has no %s", folder, part)
    _check_tensors(folder, kept, found, tensors)
    return kept, {part: _take(table, tensors) for part, table in found.items()}


def _model_tensors(folder: Path, config: BertConfig, num_layers: int) -> dict[str, Tensor]:
    """Read what is used of a folder's weights, by the names of the table."""
    tensors: dict[str, Tensor] = {}
    for original, tensor in read_tensors(folder).items():
        name = original.removeprefix(f"{config.model_type}.")
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        name = re.sub(r"^mlp\.dense\.", "pooler.dense.", name)  # SimCSE's own code
        if config.model_type == "bert":
            name = re.sub(r"^lm_head\.", "cls.predictions.", name)  # the same
        layer = _LAYER.match(name)
        dropped = layer is not None and num_layers <= int(layer[1]) < config.num_hidden_layers
        if _IGNORED.search(name) or dropped:
            continue
        if name in tensors:
            raise ValueError(
                f"{folder} has {tensors[name].name} and {original}, which are the same"
            )
        tensors[name] = tensor
    return tensors


def _check_tensors(
    folder: Path,
    config: BertConfig,
    found: Mapping[str, list[Entry]],
    tensors: Mapping[str, Tensor],
) -> None:
    shapes = expected_shapes(config)
    expected = {
        source: _source_shape(entry, _get(shapes[part], entry.path).shape)
        for part, table in found.items()
        for entry in table
        for source in entry.sources
    }
    if left := sorted(tensor.name for name, tensor in tensors.items() if name not in expected):
        raise ValueError(f"{folder} has {_some(left)}, which no part of the model takes")
    wrong = [
        f"{tensors[source].name} has shape {tensors[source].value.shape} instead of {shape}"
        for source, shape in expected.items()
        if tensors[source].value.shape != shape
    ]
    if wrong:
        raise ValueError(f"{folder} does not fit its config.json: {_some(wrong)}")


def _some(names: Sequence[str], limit: int = 4) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ("tensor " if len(names) == 1 else "tensors ") + ", ".join(names[:limit]) + rest


def _take(table: list[Entry], tensors: dict[str, Tensor]) -> Params:
    """Make parameters of the tensors, which are popped so that their memory is freed."""
    tree: Params = {}
    for entry in table:
        parts = [tensors.pop(s).floats() for s in entry.sources]
        joined = np.concatenate([p.T if entry.transpose else p for p in parts], axis=-1)
        _set(tree, entry.path, joined)
    return tree


# ---------------------------------------------------------------------------------------------
# Writing weights
# ---------------------------------------------------------------------------------------------


def to_torch_names(config: BertConfig, params: Params) -> dict[str, np.ndarray]:
    """Return the tensors under the names that ``transformers.AutoModel`` reads.

    The encoder and the pooler carry no prefix; a masked-LM head is written too, under the
    names of ``BertForMaskedLM``, and AutoModel passes over it.
    """
    tensors: dict[str, np.ndarray] = {}
    for part, table in tables(config).items():
        for entry in table if part in params else ():
            value = np.asarray(_get(params[part], entry.path), np.float32)
            pieces = np.split(value, len(entry.sources), axis=-1)
            for source, piece in zip(entry.sources, pieces, strict=True):
                tensors[source] = np.ascontiguousarray(piece.T if entry.transpose else piece)
    return tensors
