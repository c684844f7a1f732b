"""Model folders of Hugging Face and sentence-transformers <-> Flax parameters.

`find` finds a folder, `weights` reads its architecture and tensors, `settings` how it is to be
used, with `sentence_transformers` for folders of that library, `save` writes all of it, with the
`card` that says what it is, and `push` uploads it.
"""

from simcse_jax.hub.card import (
    CARD_FILE,
    ModelFacts,
    Origin,
    Outcome,
    Score,
    Training,
    local_name,
    model_card,
    read_origin,
    write_card,
)
from simcse_jax.hub.find import encoder_digest, find_model, weight_files
from simcse_jax.hub.push import upload
from simcse_jax.hub.save import is_whole, model_facts, model_folder, save_model
from simcse_jax.hub.settings import (
    SETTINGS_FILE,
    EncoderSettings,
    check_settings,
    encoder_folder,
    folder_settings,
    read_settings,
    read_transform,
    replace_settings,
)
from simcse_jax.hub.weights import (
    Params,
    expected_shapes,
    load_params,
    read_config,
    to_torch_names,
)

__all__ = [
    "CARD_FILE",
    "SETTINGS_FILE",
    "EncoderSettings",
    "ModelFacts",
    "Origin",
    "Outcome",
    "Params",
    "Score",
    "Training",
    "check_settings",
    "encoder_digest",
    "encoder_folder",
    "expected_shapes",
    "find_model",
    "folder_settings",
    "is_whole",
    "load_params",
    "local_name",
    "model_card",
    "model_facts",
    "model_folder",
    "read_config",
    "read_origin",
    "read_settings",
    "read_transform",
    "replace_settings",
    "save_model",
    "to_torch_names",
    "upload",
    "weight_files",
    "write_card",
]
