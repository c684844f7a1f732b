"""Model folders of Hugging Face and sentence-transformers <-> Flax parameters.

`find` finds a folder, `weights` reads and writes its architecture and tensors,
`sentence_transformers` how it is to be used, and the folder as a whole.
"""

from simcse_jax.hub.find import find_model, weight_files
from simcse_jax.hub.sentence_transformers import (
    EncoderSettings,
    check_settings,
    read_settings,
    read_transform,
    replace_settings,
    save_model,
)
from simcse_jax.hub.weights import (
    Params,
    expected_shapes,
    load_params,
    read_config,
    to_torch_names,
)

__all__ = [
    "EncoderSettings",
    "Params",
    "check_settings",
    "expected_shapes",
    "find_model",
    "load_params",
    "read_config",
    "read_settings",
    "read_transform",
    "replace_settings",
    "save_model",
    "to_torch_names",
    "weight_files",
]
