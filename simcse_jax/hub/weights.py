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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from simcse_jax.arrays import Params
from simcse_jax.checks import first_line, quoted
from simcse_jax.hub.find import weight_files
from simcse_jax.hub.names import Entry, config_from_json, is_ignored, layer_of, our_name, tables
from simcse_jax.io import is_there, read_object
from simcse_jax.models import BertConfig, BertEncoder, MaskedLMHead, Projection, one_a_row

log = logging.getLogger(__name__)

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
        ValueError: a model of none of :data:`simcse_jax.models.MODEL_TYPES`, a variant that is not
            implemented, or a size that cannot be.
    """
    path = Path(folder) / "config.json"
    if not is_there(path):
        raise FileNotFoundError(f"{path} is missing; is this a model folder?")
    raw = read_object(path)
    positions = raw.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise ValueError(
            f"{path}: position_embedding_type is {quoted(positions)}; only 'absolute' is read"
        )
    for key, computed in _OTHER_MODELS.items():
        if raw.get(key):
            raise ValueError(f"{path}: {key} is {quoted(raw[key])}; {computed}, which is not read")
    try:
        return config_from_json(raw)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


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
            raise ValueError(
                f"{path} is not a complete safetensors file: {first_line(error)}"
            ) from error
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
        name = our_name(config, original)
        layer = layer_of(config, name)
        dropped = layer is not None and num_layers <= layer < config.num_hidden_layers
        if is_ignored(config, name) or dropped:
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
