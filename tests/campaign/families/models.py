"""Model folders that are not what they should be: load and encode."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.campaign.bases import MODELS, TEXTS, load
from tests.campaign.cases import Case
from tests.campaign.mutate import change_json, change_tensors, damage


def make(base: Path, random: Random, folder: Path) -> Case:
    """One or two changes of a model folder, or a setting of which the meaning is known."""
    if random.random() < 0.25:
        return setting(base, random, folder)
    name = random.choice(list(MODELS))
    model = folder / "model"
    shutil.copytree(base / "models" / name, model)
    changes = [change_folder(model, random) for _ in range(random.choice((1, 1, 1, 2)))]
    about = f"{name}: " + "; ".join(text for text, _ in changes)
    fair = any(other for _, other in changes)
    expected = None if fair else np.load(base / "models" / f"{name}.npy")
    return Case(about, lambda: encoded(model), lambda found: wrong(found, expected))


def encoded(model: Path) -> tuple[Any, np.ndarray]:
    """Load a model and encode `TEXTS` with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = load(model)
        return encoder, encoder.encode(TEXTS)


def wrong(found: tuple[Any, np.ndarray], expected: np.ndarray | None) -> str | None:
    """Say what is wrong with an encoder and its vectors.

    Args:
        found: both.
        expected: the vectors that they must be; None where other vectors are fair.
    """
    encoder, vectors = found
    if vectors.dtype != np.float32 or vectors.shape != (len(TEXTS), encoder.dimension):
        return f"silently wrong: {vectors.dtype} {vectors.shape}, dimension {encoder.dimension}"
    if not np.isfinite(vectors).all():
        return "silently wrong: vectors that are not finite"
    ids, _ = encoder.tokenizer(TEXTS)
    if (most := max(max(i, default=0) for i in ids)) >= encoder.config.vocab_size:
        return f"silently wrong: token {most} of a model of {encoder.config.vocab_size} tokens"
    if expected is None:
        return None
    if vectors.shape != expected.shape:
        return f"silently wrong: vectors of shape {vectors.shape} instead of {expected.shape}"
    far = float(np.abs(vectors - expected).max())
    return None if far < 1e-2 else f"silently wrong: vectors are {far:.3g} from the right ones"


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def change_folder(model: Path, random: Random) -> tuple[str, bool]:
    """Do something to a folder; say what, and whether other vectors are fair."""
    files = files_of(model)
    if not files:
        return "nothing is left", True
    file = random.choice(files)
    name = str(file.relative_to(model))
    kind = random.choice(("content",) * 4 + ("bytes", "file"))
    if kind == "file":
        return change_entry(file, name, random)
    content = file.read_bytes()
    if kind == "content" and file.suffix == ".json":
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            pass
        else:
            change = change_json(value, random)
            file.write_text(json.dumps(change.value))
            return f"{name}: {change.about}", not change.retyped
    if kind == "content" and file.suffix == ".safetensors":
        try:
            about, fair = change_tensors(file, random)
        except Exception:  # an earlier change left no such file
            pass
        else:
            return f"{name}: {about}", fair
    change_ = damage(
        content, random, text=file.suffix in (".json", ".txt") and random.random() < 0.5
    )
    file.write_bytes(change_.content)
    return f"{name}: {change_.about}", change_.expected == "any"


def change_entry(file: Path, name: str, random: Random) -> tuple[str, bool]:
    """Put something else where a file was."""
    kinds: dict[str, Callable[[], Any]] = {
        "gone": lambda: None,
        "a folder": file.mkdir,
        "a dangling link": lambda: file.symlink_to("nowhere"),
        "a link to itself": lambda: file.symlink_to(file.name),
        "a FIFO": lambda: os.mkfifo(file),
        "called otherwise": lambda: file.with_name(f"{file.name}.bak").write_bytes(content),
    }
    kind = random.choice(list(kinds))
    content = file.read_bytes()
    file.unlink()
    kinds[kind]()
    # What is absent has its default; anything else in its place is no file.
    return f"{name} is {kind}", kind in ("gone", "called otherwise")


# ---------------------------------------------------------------------------------------------
# Settings of which the meaning is known
# ---------------------------------------------------------------------------------------------


def setting(base: Path, random: Random, folder: Path) -> Case:
    """A setting that sentence-transformers or SimCSE would honour: honoured here, or refused."""
    name, change = random.choice(SETTINGS)
    model = folder / "model"
    shutil.copytree(base / "models" / name, model)
    about, oracle = change(model, random)
    whole = base / "models" / name

    def check(found: tuple[Any, np.ndarray]) -> str | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return wrong(found, oracle(whole))

    return Case(f"{name}: {about}", lambda: encoded(model), check)


Oracle = Callable[[Path], np.ndarray]


def update(file: Path, **values: Any) -> None:
    raw = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(raw | values))


def tokenizer_length(model: Path, random: Random) -> tuple[str, Oracle]:
    length = random.randint(2, 12)
    update(model / "tokenizer_config.json", model_max_length=length)
    bert = model / "sentence_bert_config.json"
    if bert.exists():
        bert.unlink()
    return (
        f"tokenizer_config.json: model_max_length {length} alone",
        lambda whole: load(whole).encode(TEXTS, max_length=length),
    )


def module_length(model: Path, random: Random) -> tuple[str, Oracle]:
    length = random.randint(2, 12)
    file = random.choice(
        (
            "sentence_bert_config.json",
            "sentence_roberta_config.json",
            "sentence_distilbert_config.json",
            "sentence_xlm-roberta_config.json",
        )
    )
    (model / "sentence_bert_config.json").unlink()
    update(model / file, max_seq_length=length, do_lower_case=False)
    return f"{file}: max_seq_length {length}", lambda whole: load(whole).encode(
        TEXTS, max_length=length
    )


def prompt(model: Path, random: Random) -> tuple[str, Oracle]:
    text = random.choice(("a dog ", "loud music: "))
    update(
        model / "config_sentence_transformers.json",
        prompts={"query": text},
        default_prompt_name="query",
    )
    return f"default prompt {text!r}", lambda whole: load(whole).encode([text + t for t in TEXTS])


def shortened(model: Path, random: Random) -> tuple[str, Oracle]:
    keep = random.randint(1, 31)
    update(model / "config_sentence_transformers.json", truncate_dim=keep)
    return f"truncate_dim {keep}", lambda whole: load(whole).encode(TEXTS)[:, :keep]


def lower_case(model: Path, random: Random) -> tuple[str, Oracle]:
    update(model / "sentence_bert_config.json", do_lower_case=True)
    return "do_lower_case", lambda whole: load(whole).encode([text.lower() for text in TEXTS])


def simcse_checkpoint(model: Path, random: Random) -> tuple[str, Oracle]:
    kind = "BertForCL" if model_type(model) == "bert" else "RobertaForCL"
    update(model / "config.json", architectures=[kind])
    from simcse_jax import SentenceEncoder

    return f"architecture {kind}", lambda whole: SentenceEncoder.from_pretrained(
        whole, pooling="cls"
    ).encode(TEXTS)


def model_type(model: Path) -> str:
    return json.loads((model / "config.json").read_text())["model_type"]


def dense_without_bias(model: Path, random: Random) -> tuple[str, Oracle]:
    from safetensors.numpy import load_file, save_file

    file = model / "2_Dense" / "model.safetensors"
    tensors = load_file(file)
    save_file({"linear.weight": tensors["linear.weight"]}, file)
    return "Dense says bias and has none", lambda whole: load(whole).encode(TEXTS)


def pooling_modes(model: Path, random: Random) -> tuple[str, Oracle]:
    from simcse_jax import SentenceEncoder

    mode = random.choice(("cls", "mean", "max"))
    update(model / "1_Pooling" / "config.json", pooling_mode=mode)
    return f"pooling_mode {mode}", lambda whole: SentenceEncoder.from_pretrained(
        whole, pooling=mode
    ).encode(TEXTS)


def more_tokens(model: Path, random: Random) -> tuple[str, Oracle]:
    file = model / "tokenizer.json"
    raw = json.loads(file.read_text())
    vocabulary = raw["model"]["vocab"]
    word = "man" if "man" in vocabulary else random.choice(["m", "a"])
    vocabulary[word] = len(vocabulary) + random.randint(0, 5)
    file.write_text(json.dumps(raw))
    return "a token beyond the model's embeddings", lambda whole: load(whole).encode(TEXTS)


SETTINGS: list[tuple[str, Callable[[Path, Random], tuple[str, Oracle]]]] = [
    ("st-new", tokenizer_length),
    ("bert", tokenizer_length),
    ("st-old", module_length),
    ("st-new", module_length),
    ("st-new", prompt),
    ("st-new", shortened),
    ("st-new", lower_case),
    ("bert", simcse_checkpoint),
    ("roberta", simcse_checkpoint),
    ("st-old", dense_without_bias),
    ("st-new", pooling_modes),
    ("bert", more_tokens),
    ("roberta", more_tokens),
]
