"""What the cases start from: tiny model folders with their vectors, data, and runs; made once."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from simcse_jax import SentenceEncoder, trainer
from simcse_jax.config import CONFIGS, replace, to_json
from simcse_jax.process import Interrupted
from simcse_jax.transforms import Flow, FlowConfig, Whitening
from tests.tiny_data import SENTENCES, write_nli, write_stsb

GOLDEN = Path(__file__).parents[1] / "golden"
TEXTS = [
    "the man plays flute",
    "The WOMAN eats, loud music!",
    "",
    "a dog runs and a cat eats the grass in the park while the man plays the loud piano",
]
"""What every model folder is asked to encode: lower and upper case, nothing, and too long."""

ST = "sentence_transformers.models"


def make_all(place: Path) -> None:
    """Make every base in a folder."""
    make_data(place / "data")
    (place / "models").mkdir()
    for name, make in MODELS.items():
        folder = place / "models" / name
        make(folder)
        np.save(place / "models" / f"{name}.npy", vectors(folder))
    make_runs(place)


def load(folder: Path) -> SentenceEncoder:
    """Load a model as a user does."""
    return SentenceEncoder.from_pretrained(folder)


def vectors(folder: Path) -> np.ndarray:
    """Return a model's vectors of `TEXTS`."""
    return load(folder).encode(TEXTS)


# ---------------------------------------------------------------------------------------------
# Model folders
# ---------------------------------------------------------------------------------------------


def copy_golden(name: str, folder: Path) -> None:
    folder.mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(GOLDEN / name / file, folder / file)


def saved(folder: Path, **settings: Any) -> None:
    SentenceEncoder.from_pretrained(GOLDEN / "tiny-bert", **settings).save_pretrained(folder)


def whitened(folder: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(GOLDEN / "tiny-bert", pooling="first-last")
    fitted = Whitening.fit(encoder.encode(SENTENCES), k=8)
    encoder.with_transform(fitted).save_pretrained(folder)


def flowed(folder: Path) -> None:
    encoder = SentenceEncoder.from_pretrained(GOLDEN / "tiny-bert")
    config = FlowConfig(levels=1, depth=1, width=4)
    encoder.with_transform(Flow.fit(encoder.encode(SENTENCES), config)).save_pretrained(folder)


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2))


def sentence_transformers_old(folder: Path) -> None:
    """As sentence-transformers 2 wrote it, with every module that is read."""
    copy_golden("tiny-bert", folder)
    names = ["Transformer", "Pooling", "Dense", "Normalize"]
    places = ["", "1_Pooling", "2_Dense", "3_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{ST}.{name}"}
        for i, (name, path) in enumerate(zip(names, places, strict=True))
    ]
    write(folder / "modules.json", modules)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": False})
    flags = {"cls_token": False, "mean_tokens": True, "max_tokens": False}
    pooling = {"word_embedding_dimension": 32} | {f"pooling_mode_{k}": v for k, v in flags.items()}
    write(folder / "1_Pooling" / "config.json", pooling)
    dense = {
        "in_features": 32,
        "out_features": 8,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    write(folder / "2_Dense" / "config.json", dense)
    random = np.random.default_rng(0)
    weight = random.normal(size=(8, 32)).astype(np.float32)
    bias = random.normal(size=8).astype(np.float32)
    save_file(
        {"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors"
    )
    (folder / "3_Normalize").mkdir()
    write(folder / "config_sentence_transformers.json", {"__version__": {"pytorch": "2.0.0"}})
    write(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": 24})


def sentence_transformers_new(folder: Path) -> None:
    """As sentence-transformers 5 writes it."""
    copy_golden("tiny-bert", folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{ST}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{ST}.Pooling"},
    ]
    write(folder / "modules.json", modules)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False})
    pooling = {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}
    write(folder / "1_Pooling" / "config.json", pooling)
    settings = {
        "model_type": "SentenceTransformer",
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    write(folder / "config_sentence_transformers.json", settings)
    write(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": 24})


def sharded(folder: Path) -> None:
    copy_golden("tiny-bert", folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    place = {}
    for number, own in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in own}, folder / file, {"format": "pt"})
        place |= dict.fromkeys(own, file)
    write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": place})


def renamed_half(folder: Path) -> None:
    """bfloat16 is what many folders are kept in; float16 is what NumPy can write."""
    copy_golden("tiny-bert", folder)
    tensors = load_file(folder / "model.safetensors")
    half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    save_file(half, folder / "model.safetensors", {"format": "pt"})


MODELS = {
    "bert": functools.partial(copy_golden, "tiny-bert"),
    "roberta": functools.partial(copy_golden, "tiny-roberta"),
    "saved": functools.partial(saved, max_length=12, normalize=True),
    "saved-pooler": functools.partial(saved, pooling="pooler"),
    "whitened": whitened,
    "flow": flowed,
    "st-old": sentence_transformers_old,
    "st-new": sentence_transformers_new,
    "sharded": sharded,
    "float16": renamed_half,
}


# ---------------------------------------------------------------------------------------------
# Data and runs
# ---------------------------------------------------------------------------------------------


def make_data(folder: Path) -> None:
    """SentEval's STS-B, NLI pairs and sentences, in words that the tiny models know."""
    folder.mkdir(parents=True)
    write_stsb(folder)
    write_nli(folder / "nli.jsonl")
    (folder / "text.txt").write_text("\n".join(SENTENCES) + "\n")


STEPS = 6


def tiny_config(place: Path) -> Any:
    """A training run of six steps of eight sentences."""
    return replace(
        CONFIGS["unsup_simcse"],
        model=str(GOLDEN / "tiny-bert"),
        num_layers=1,
        eval_data=place / "data",
        train_files=(place / "data" / "text.txt",),
        batch_size=8,
        max_length=16,
        max_steps=STEPS,
        eval_every=2,
        checkpoint_steps=2,
        learning_rate=1e-3,
        output_dir=Path("run"),
    )


def interrupt_at(step: int) -> None:
    """Have the runs of this process get a SIGTERM when a step is logged."""
    whole = trainer.fit

    def fit(*args: Any, on_record: Any = None, **options: Any) -> Any:
        def record(values: Any) -> None:
            on_record(values)
            if values["step"] == step:
                os.kill(os.getpid(), signal.SIGTERM)

        return whole(*args, on_record=record, **options)

    trainer.fit = fit


def make_runs(place: Path) -> None:
    """A finished run, and one that was interrupted between two checkpoints."""
    write(place / "tiny.json", to_json(tiny_config(place)))
    os.chdir(place)
    trainer.train(str(place / "tiny.json"), output_dir=place / "finished")
    interrupt_at(4)
    try:
        trainer.train(str(place / "tiny.json"), output_dir=place / "interrupted")
    except Interrupted:
        return
    raise AssertionError("the run was not interrupted")
