"""Training speed beside PyTorch: steps of unsupervised SimCSE, the same text and optimiser.

    make bench        (or, in an environment with torch: python -m experiments.bench_train)

Every library trains the same encoder from the same weights on the same batches of sentences, each
in a process of its own, in turns: forward of both views with dropout, the contrastive loss,
backward, clipping to norm 1, AdamW. Time is that of a step, over --steps of them, after a first
pass over the same batches that compiles. Ours tokenises and packs while it runs; the others get
their batches tokenised, padded to the longest sentence, and on the device.

    simcse_jax              the training of experiments.unsup_simcse
    torch                   transformers' BertModel in SimCSE's recipe: cls, MLP head, τ = 0.05
    torch.compile           the same, compiled; on a GPU with fused AdamW, SDPA and autocast
    sentence-transformers   MultipleNegativesRankingLoss on pairs of equal sentences, mean pooling
                            (its own SimCSE example: another head, the same encoder); once more
                            with its encoder compiled

A library that is not installed, or does not work here, is left out with a line that says so.
--shape bert-base takes random weights of BERT-base's shape. Before training each reports the
contrastive loss of the first batch without dropout, so that one sees that they compute the same.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from experiments.bench import OURS, installed, machine, publish, serve, summary, take_turns

Library = Literal[
    *("simcse_jax", "torch", "torch.compile"),
    *("sentence-transformers", "sentence-transformers.compile"),
]
NEEDS = {
    "simcse_jax": ("jax",),
    "torch": ("torch", "transformers"),
    "torch.compile": ("torch", "transformers"),
    "sentence-transformers": ("torch", "sentence_transformers"),
    "sentence-transformers.compile": ("torch", "sentence_transformers"),
}
LEARNING_RATE, TEMPERATURE = 3e-5, 0.05


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time training beside other libraries."""

    train_file: Path = Path("../shared/data/wikipedia/wiki1m_head.txt")
    """Sentences; the embedded Wikipedia where there is no such file."""
    shape: Literal["minilm", "bert-base"] = "minilm"
    """The encoder; bert-base has random weights."""
    batch_size: int = 64
    max_length: int = 32
    """In tokens."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The compute type."""
    steps: int = 4
    """Of every turn, on as many batches."""
    rounds: int = 4
    """How often the libraries take turns."""
    threads: int = os.cpu_count() or 1
    """For each library."""
    output: Path = Path("experiments/results/bench_train.json")
    """The numbers; the table lies beside it."""
    worker: Library | None = None
    """For the script itself: be the process of one library."""


def training_batches(settings: Settings, folder: Path | None = None):
    """The batches that all libraries see, by the tokenizer of a model folder (MiniLM's)."""
    from simcse_jax.data.embedded import minilm_folder
    from simcse_jax.data.tokenizer import Tokenizer
    from simcse_jax.data.training_batches import TrainingBatches
    from simcse_jax.data.training_text import TrainingText, read_sentences
    from simcse_jax.data.wikipedia import embedded_wikipedia, sentences

    if settings.train_file.is_file():
        text = read_sentences(settings.train_file)
    else:
        text = sentences(embedded_wikipedia())
    tokenizer = Tokenizer.from_folder(folder or minilm_folder())
    columns = TrainingText((tuple(text),))
    options: Any = {"max_length": settings.max_length, "seed": 0}
    return TrainingBatches(columns, tokenizer, settings.batch_size, **options)


def head_weights(width: int) -> np.ndarray:
    """The MLP head's, the same for all."""
    return np.random.default_rng(0).normal(0, 0.02, (width, width)).astype(np.float32)


def ours(settings: Settings) -> tuple[Callable[[], Any], dict[str, Any]]:
    """This library's own training step and batches."""
    from simcse_jax.memory import keep_freed_memory

    keep_freed_memory()  # as experiments.runs does, before JAX is used
    import jax

    from simcse_jax import hub
    from simcse_jax.compilation_cache import enable_compilation_cache
    from simcse_jax.losses.info_nce import info_nce
    from simcse_jax.models import BertConfig, BertEncoder
    from simcse_jax.training import (
        SiameseBatch,
        TrainSettings,
        compile_step,
        create_state,
        make_mesh,
        make_optimizer,
        replicate,
        simcse_step,
    )
    from simcse_jax.training.step import embed_rows

    enable_compilation_cache()
    batches = training_batches(settings)
    if settings.shape == "minilm":
        folder = hub.find_model("minilm")
        config, params = hub.load_params(folder, hub.read_config(folder))
    else:
        config = BertConfig()
        example = batches.packed(0).rows
        params = {"encoder": BertEncoder(config).init(jax.random.key(0), example)["params"]}
    train = TrainSettings(
        learning_rate=LEARNING_RATE, temperature=TEMPERATURE, dtype=settings.dtype
    )
    optimizer = make_optimizer(train, 10**6)
    state = create_state(config, train, params, optimizer, jax.random.key(0))
    state.params["head"]["dense"]["kernel"] = head_weights(config.hidden_size)
    first = batches.packed(0)

    @jax.jit
    def loss(params, batch):
        z = embed_rows(
            config, params, batch.rows, None, pooling="cls", num_segments=batch.sentences.size
        )[batch.sentences[:, 0] - 1]
        return info_nce(z, z, temperature=TEMPERATURE)[0]

    before = float(loss(state.params, SiameseBatch(first.sentences, first.rows)))
    mesh = make_mesh()
    step = compile_step(simcse_step(config, train, optimizer, mesh=mesh), mesh)
    state, key = replicate(state, mesh), replicate(jax.random.key(0), mesh)
    shapes = set()

    def work() -> None:
        nonlocal state
        for batch in batches.packed_batches(0, settings.steps):
            shapes.add(batch.rows.input_ids.shape)
            state, metrics = step(state, SiameseBatch(batch.sentences, batch.rows), key)
        jax.block_until_ready(metrics)

    work()
    return work, {"loss_without_dropout": before, "shapes": sorted(shapes)}


def torch_recipe(settings: Settings, compiled: bool) -> tuple[Callable[[], Any], dict[str, Any]]:
    """SimCSE's recipe with transformers' BertModel."""
    import torch
    from transformers import BertConfig, BertModel

    from simcse_jax.data.embedded import minilm_folder

    torch.set_num_threads(settings.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    attention = "sdpa"
    if settings.shape == "minilm":
        bert = BertModel.from_pretrained(minilm_folder(), attn_implementation=attention)
    else:
        bert = BertModel._from_config(BertConfig(), attn_implementation=attention)

    class SimCse(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = bert
            width = bert.config.hidden_size
            self.head = torch.nn.Linear(width, width)
            with torch.no_grad():
                self.head.weight.copy_(torch.from_numpy(head_weights(width).T))
                self.head.bias.zero_()

        def forward(self, ids, mask):
            z = torch.tanh(self.head(self.bert(ids, mask).last_hidden_state[:, 0]))
            z = torch.nn.functional.normalize(z.float(), dim=-1).view(-1, 2, z.shape[-1])
            logits = z[:, 0] @ z[:, 1].T / TEMPERATURE
            labels = torch.arange(len(logits), device=logits.device)
            return torch.nn.functional.cross_entropy(logits, labels)

    batches = []
    for batch in training_batches(settings).batches(0, settings.steps):
        pair = (
            torch.from_numpy(np.repeat(np.asarray(x)[:, 0], 2, axis=0)).to(device)
            for x in (batch.input_ids, batch.attention_mask)
        )
        ids, mask = pair
        batches.append((ids.long(), mask.long()))
    model = SimCse().to(device)
    model.eval()
    with torch.no_grad():
        before = float(model(*batches[0]))
    model.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=device == "cuda"
    )
    run = torch.compile(model) if compiled else model
    half = settings.dtype == "bfloat16"

    def work() -> None:
        for ids, mask in batches:
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = run(ids, mask)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        loss.item()  # waits for the device

    work()
    return work, {"loss_without_dropout": before}


def sentence_transformers(
    settings: Settings, compiled: bool
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Its loss for unsupervised SimCSE, with the same optimiser."""
    import torch
    from sentence_transformers import SentenceTransformer, losses
    from sentence_transformers import models as parts
    from transformers import BertConfig, BertModel

    from simcse_jax.data.embedded import minilm_folder

    torch.set_num_threads(settings.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = parts.Transformer(str(minilm_folder()), max_seq_length=settings.max_length)
    if settings.shape == "bert-base":
        encoder.auto_model = BertModel(BertConfig())
    width = encoder.auto_model.config.hidden_size
    model = SentenceTransformer(modules=[encoder, parts.Pooling(width)], device=device)
    loss_of = losses.MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    batches = []
    for batch in training_batches(settings).batches(0, settings.steps):
        names = ("input_ids", "attention_mask")
        arrays = (batch.input_ids, batch.attention_mask)
        features = {
            name: torch.from_numpy(np.asarray(x)[:, 0]).long().to(device)
            for name, x in zip(names, arrays, strict=True)
        }
        batches.append(features)
    model.train()
    if compiled:
        encoder.auto_model.compile()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=device == "cuda"
    )
    half = settings.dtype == "bfloat16"

    def work() -> None:
        for features in batches:
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = loss_of([dict(features), dict(features)], None)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        loss.item()

    work()
    return work, {"loss_without_dropout": None}


def main(settings: Settings) -> None:
    """Let the libraries take turns."""
    names = ("train_file", "shape", "batch_size", "max_length", "dtype", "steps", "threads")
    arguments = []
    for name in names:
        arguments += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
    reports = take_turns(
        "experiments.bench_train", installed(NEEDS), arguments, settings.rounds, settings.threads
    )
    for report in reports.values():
        report["times"] = [seconds / settings.steps for seconds in report["times"]]
    rows = summary(reports, settings.batch_size)
    for library, row in rows.items():
        for fact in ("loss_without_dropout", "shapes"):
            if fact in reports[library]:
                row[fact] = reports[library][fact]
    how = dataclasses.asdict(settings) | {"train_file": settings.train_file.name}
    del how["output"], how["worker"]
    value = {"machine": machine(settings.threads), "settings": how, "rows": rows}
    title = (
        f"A step of unsupervised SimCSE: {settings.shape}, batch {settings.batch_size}, length "
        f"{settings.max_length}, {settings.dtype}, {settings.rounds} rounds of {settings.steps}"
    )
    columns = (
        *("library", "median s", "range s", "sentences/s", "time against ours"),
        *("load, compile and first pass, s", "peak GiB", "loss without dropout"),
    )
    cells = []
    for library, row in rows.items():
        loss = row["loss_without_dropout"]
        cells.append(
            [
                library,
                f"{row['median_s']:.3f}",
                f"{row['min_s']:.3f} to {row['max_s']:.3f}",
                f"{row['per_s']:.0f}",
                f"{row['ratio_to_ours']:.2f} ×",
                f"{row['first_s']:.1f}",
                f"{row['peak_gib']:.2f}",
                "" if loss is None else f"{loss:.6f}",
            ]
        )
    publish(settings.output, value, title, columns, cells)


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    if settings_.worker is None:
        main(settings_)
    elif settings_.worker == OURS:
        serve(lambda: ours(settings_))
    elif settings_.worker.startswith("sentence-transformers"):
        compiled_ = settings_.worker.endswith(".compile")
        serve(lambda: sentence_transformers(settings_, compiled_))
    else:
        serve(lambda: torch_recipe(settings_, settings_.worker == "torch.compile"))
