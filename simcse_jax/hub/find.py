"""Where a model lies: the embedded one, a local folder, or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from simcse_jax.checks import did_you_mean
from simcse_jax.data.embedded import minilm_folder
from simcse_jax.io import check_is_file, is_there, read_object

_HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "README.md"]


def find_model(name: str | os.PathLike[str]) -> Path:
    """Return the folder of a model: ``"minilm"`` (the embedded one), a local folder, or a hub id.

    A hub id is fetched by huggingface_hub, which keeps its cache and respects
    ``HF_HUB_OFFLINE``.

    Raises:
        FileNotFoundError: there is no such folder and the hub has none or cannot be reached; or the
            folder is a run's, which has its models in others.
    """
    if str(name) == "minilm":
        return minilm_folder()
    folder = Path(name).expanduser()
    if folder.is_dir():
        _refuse_folder_of_run(folder)
        return folder
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)):
        raise FileNotFoundError(f"model folder {str(name)!r} does not exist")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), allow_patterns=_HUB_PATTERNS))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise FileNotFoundError(
            f"{str(name)!r} is no folder, and the Hugging Face hub, if it could be reached, has no "
            f"such model ({type(error).__name__}); give a folder, a hub id, or 'minilm'"
            f"{did_you_mean(str(name), ['minilm'])}"
        ) from error


def _refuse_folder_of_run(folder: Path) -> None:
    """Tell who gives the folder of a training run where its model is."""
    for place in ("best", "seed-*/best"):
        for config in sorted(folder.glob(f"{place}/config.json")):
            if not is_there(folder / "config.json"):
                raise FileNotFoundError(
                    f"{folder} is the folder of a run and no model's; its best model is "
                    f"{config.parent}"
                )


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder, one or several shards.

    The single file comes first, as in transformers: it may have been saved beside older shards.

    Raises:
        OSError: one of them is no file but a folder or a pipe.
        FileNotFoundError: there is none; where there are pickled weights instead the message
            says how to convert them, because no pickle is ever read.
        ValueError: the list of the shards is damaged.
    """
    files = [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not is_there(files[0]) and is_there(index):
        names = read_object(index).get("weight_map")
        if not isinstance(names, dict) or not all(_is_file_name(n) for n in names.values()):
            raise ValueError(f"{index}: weight_map must name a file of the folder for each tensor")
        files = [folder / name for name in sorted(set(names.values()))]
    missing = [f.name for f in files if not f.exists()]
    if not missing:
        for file in files:
            check_is_file(file)
        return files
    pickled = [f.name for pattern in ("*.bin", "*.pt*") for f in sorted(folder.glob(pattern))]
    if pickled:
        raise FileNotFoundError(
            f"{folder} has only pickled weights ({', '.join(pickled)}), which can run code when "
            "read; convert them where you trust them: transformers.AutoModel.from_pretrained"
            "(folder).save_pretrained(new_folder) writes safetensors"
        )
    raise FileNotFoundError(f"{folder} has no weights: {', '.join(missing)} is missing")


# What an encoder is made of beside its weights.
_PARTS = (
    *("config.json", "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "vocab.json", "merges.txt", "vocab.txt"),
)


def encoder_digest(folder: Path) -> str:
    """Return a digest of the files of an encoder: weights, architecture, tokenizer.

    Raises:
        OSError, ValueError: as of `weight_files`.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in (*weight_files(folder), *(folder / name for name in _PARTS)):
        if path.is_file():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def _is_file_name(name: Any) -> bool:
    # No system has longer ones.
    return isinstance(name, str) and name == Path(name).name and len(name) <= 255
