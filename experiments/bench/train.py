"""Training speed beside PyTorch: steps of unsupervised SimCSE, the same text and optimiser.

    make bench        (or, in an environment with torch: python -m experiments.bench.train)

Every library trains the same encoder from the same weights on the same batches of sentences, each
in a process of its own, in turns: forward of both views with dropout, the contrastive loss,
backward, clipping to norm 1, AdamW. Time is that of a step, over --steps of them, after a first
pass over the same batches that compiles. Ours tokenises and packs while it runs; the others get
their batches tokenised, padded to the longest sentence, and on the device.

    simcse_jax              the step of `simcse-jax train unsup_simcse`
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

from experiments import report
from experiments.bench.turns import (
    OURS,
    TIMINGS,
    BenchTable,
    device_busy,
    installed,
    machine,
    publish,
    serve,
    summary,
    take_turns,
    timings,
)
from experiments.bench.workload import (
    TEMPERATURE,
    head_weights,
    padded,
    step_operations,
    training_batches,
)
from experiments.script import run_script
from simcse_jax.io import write_json

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
LEARNING_RATE = 3e-5
Prepared = tuple[Callable[[], Any], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class TrainBenchmark:
    """Time training beside other libraries."""

    train_file: Path = Path("../shared/data/wikipedia/wiki1m_head.txt")
    """A file of sentences; where there is none, the embedded Wikipedia is taken."""
    shape: Literal["minilm", "bert-base"] = "minilm"
    """The encoder; bert-base has random weights."""
    batch_size: int = 64
    """So many sentences are in a batch, with two views of each."""
    max_length: int = 32
    """Sentences are cut to so many tokens."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type that is computed in."""
    grad_cache_chunks: int = 1
    """Cut the batch into so many chunks for the encoder (GradCache); sentence-transformers then has
    its cached loss, and torch alone is left out."""
    compiled: bool = True
    """Time the other libraries compiled, too."""
    steps: int = 4
    """Every turn is so many steps, on as many batches."""
    rounds: int = 4
    """The libraries take turns so often."""
    threads: int = os.cpu_count() or 1
    """Each library may use so many threads."""
    output: Path = Path("experiments/results/bench_train.json")
    """The JSON file that gets the numbers; the table is written beside it."""
    profile: bool = False
    """Measure in which share of our step's time the device is busy, and nothing else."""
    worker: Library | None = None
    """Used by the script itself: be the process of this library."""

    @property
    def libraries(self) -> dict[str, tuple[str, ...]]:
        """Return the libraries that can do it, with the modules they need."""
        left_out = [] if self.grad_cache_chunks == 1 else ["torch"]
        left_out += [] if self.compiled else ["compile"]
        return {
            name: needs
            for name, needs in NEEDS.items()
            if not any(part in name.split(".") for part in left_out)
        }

    def batches(self, shards: int = 1):
        """Return the batches that all libraries see."""
        return training_batches(
            self.train_file, self.batch_size, max_length=self.max_length, shards=shards
        )

    def padded_batches(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return token ids and attention mask of every step's sentences, each of them once."""
        batches = self.batches()
        steps = [batches.examples(step) for step in range(self.steps)]
        return [padded([views[0] for views in examples.tokens]) for examples in steps]


def ours(settings: TrainBenchmark) -> Prepared:
    """Prepare this library's own training step and batches."""
    from simcse_jax.memory import keep_freed_memory

    keep_freed_memory()  # as simcse_jax.train does, before JAX is used
    import jax

    from simcse_jax import hub
    from simcse_jax.compilation_cache import enable_compilation_cache
    from simcse_jax.losses.info_nce import info_nce
    from simcse_jax.models import BertConfig, BertEncoder, SentenceModel
    from simcse_jax.objectives import Model, SimCSE
    from simcse_jax.training import (
        OptimizerConfig,
        compile_step,
        make_mesh,
        make_optimizer,
        make_step,
        replicate,
        start_state,
    )

    enable_compilation_cache()
    mesh = make_mesh()
    batches = settings.batches(mesh.size * settings.grad_cache_chunks)
    # As one shard, whose vectors come out in order; of a large batch a part will do.
    part = dataclasses.replace(settings, batch_size=min(settings.batch_size, 512))
    first = part.batches().batch(0)
    if settings.shape == "minilm":
        folder = hub.find_model("minilm")
        config, params = hub.load_params(folder, hub.read_config(folder))
    else:
        config = BertConfig()
        params = {"encoder": BertEncoder(config).init(jax.random.key(0), first.rows)["params"]}
    model = Model(config, params, batches.tokenizer, "cls", settings.dtype)
    objective = SimCSE(temperature=TEMPERATURE)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=LEARNING_RATE), 10**6)
    started = objective.init(model, jax.random.key(0))
    started["head"]["dense"]["kernel"] = head_weights(config.hidden_size)

    @jax.jit
    def loss(params, batch):
        encoder = SentenceModel(config, "cls", "head")
        z = encoder.apply({"params": params}, batch.rows, num_sentences=batch.sentences.size)
        return info_nce(z[::2], z[1::2], temperature=TEMPERATURE)[0]

    before = float(loss(started, first))
    step = compile_step(
        make_step(objective.build(model), optimizer, settings.grad_cache_chunks), mesh
    )
    state = replicate(start_state(started, optimizer), mesh)
    key = replicate(jax.random.key(0), mesh)
    shapes = set()

    def work() -> None:
        nonlocal state
        for batch in batches.batches(0, settings.steps):
            shapes.add(batch.rows.input_ids.shape)
            state, metrics = step(state, batch, key)
        jax.block_until_ready(metrics)

    work()
    seen = [batches.examples(step) for step in range(settings.steps)]
    lengths = [len(view) for examples in seen for views in examples.tokens for view in views]
    operations = step_operations(
        lengths, config.num_hidden_layers, config.hidden_size, config.intermediate_size
    )
    return work, {
        "loss_without_dropout": before,
        "shapes": sorted(shapes),
        "operations": operations / settings.steps,
    }


def torch_work(
    settings: TrainBenchmark, parameters: list, batches: list, loss_of: Callable[[Any], Any]
) -> Callable[[], None]:
    """Return the work of a torch library: a step on every batch, as ours takes it."""
    import torch

    device = torch_device()
    optimizer = torch.optim.AdamW(
        parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=device == "cuda"
    )
    half = settings.dtype == "bfloat16"

    def work() -> None:
        for batch in batches:
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = loss_of(batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        loss.item()  # waits for the device

    return work


def torch_device() -> str:
    """Return torch's name of the device that it trains on."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_recipe(settings: TrainBenchmark, compiled: bool) -> Prepared:
    """Prepare SimCSE's recipe with transformers' BertModel."""
    import torch
    from transformers import BertConfig, BertModel

    from simcse_jax.data.embedded import minilm_folder

    torch.set_num_threads(settings.threads)
    device = torch_device()
    if settings.shape == "minilm":
        bert = BertModel.from_pretrained(minilm_folder(), attn_implementation="sdpa")
    else:
        bert = BertModel._from_config(BertConfig(), attn_implementation="sdpa")

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

    batches = [
        tuple(torch.from_numpy(np.repeat(x, 2, axis=0)).to(device) for x in batch)
        for batch in settings.padded_batches()
    ]
    model = SimCse().to(device)
    model.eval()
    with torch.no_grad():
        before = float(model(*batches[0]))
    model.train()
    run = torch.compile(model) if compiled else model
    work = torch_work(settings, list(model.parameters()), batches, lambda batch: run(*batch))
    work()
    return work, {"loss_without_dropout": before}


def sentence_transformers(settings: TrainBenchmark, compiled: bool) -> Prepared:
    """Prepare sentence-transformers' loss for unsupervised SimCSE, with the same optimiser."""
    import torch
    from sentence_transformers import SentenceTransformer, losses
    from sentence_transformers import models as parts
    from transformers import BertConfig, BertModel

    from simcse_jax.data.embedded import minilm_folder

    torch.set_num_threads(settings.threads)
    device = torch_device()
    encoder = parts.Transformer(str(minilm_folder()), max_seq_length=settings.max_length)
    if settings.shape == "bert-base":
        encoder.auto_model = BertModel(BertConfig())
    width = encoder.auto_model.config.hidden_size
    model = SentenceTransformer(modules=[encoder, parts.Pooling(width)], device=device)
    loss_of: Any = losses.MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    if settings.grad_cache_chunks > 1:
        size = settings.batch_size // settings.grad_cache_chunks
        loss_of = losses.CachedMultipleNegativesRankingLoss(
            model, 1 / TEMPERATURE, mini_batch_size=size
        )
    batches = [
        {
            "input_ids": torch.from_numpy(ids).to(device),
            "attention_mask": torch.from_numpy(mask).to(device),
        }
        for ids, mask in settings.padded_batches()
    ]
    model.train()
    if compiled:
        encoder.auto_model.compile()
    work = torch_work(
        settings,
        list(model.parameters()),
        batches,
        lambda features: loss_of([dict(features), dict(features)], None),
    )
    work()
    return work, {"loss_without_dropout": None}


def table(value: dict[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""
    how, rows = value["settings"], value["rows"]
    title = (
        f"A step of unsupervised SimCSE: {how['shape']}, batch {how['batch_size']}, length "
        f"{how['max_length']}, {how['dtype']}, {how['rounds']} rounds of {how['steps']}"
    )
    losses = [row["loss_without_dropout"] for row in rows.values()]
    cells = [
        [*row, "" if loss is None else f"{loss:.6f}"]
        for row, loss in zip(timings(rows, digits=3), losses, strict=True)
    ]
    return BenchTable(title, (*TIMINGS, "loss without dropout"), cells)


def main(settings: TrainBenchmark) -> None:
    """Let the libraries take turns, or profile ours."""
    if settings.profile:
        work, _ = ours(settings)
        write_json(settings.output, device_busy(work))
        return
    names = ("train_file", "shape", "batch_size", "max_length", "dtype")
    names += ("grad_cache_chunks", "steps", "threads")
    arguments = []
    for name in names:
        arguments += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
    answers = take_turns(
        "experiments.bench.train",
        installed(settings.libraries),
        arguments,
        settings.rounds,
        settings.threads,
    )
    for answer in answers.values():
        answer["times"] = [seconds / settings.steps for seconds in answer["times"]]
    rows = summary(answers, settings.batch_size)
    for library, row in rows.items():
        for fact in ("loss_without_dropout", "shapes", "operations"):
            if fact in answers[library]:
                row[fact] = answers[library][fact]
    how = report.settings_record(settings)
    del how["output"], how["worker"]
    value = {"machine": machine(settings.threads, answers), "settings": how, "rows": rows}
    publish(settings.output, value, table(value))


def prepare(settings: TrainBenchmark) -> Prepared:
    """Prepare the library of a worker."""
    if settings.worker == OURS:
        return ours(settings)
    library, _, how = str(settings.worker).partition(".")
    recipe = torch_recipe if library == "torch" else sentence_transformers
    return recipe(settings, compiled=how == "compile")


def run(settings: TrainBenchmark) -> None:
    """Measure, or be one of the processes that are measured."""
    if settings.worker:
        serve(lambda: prepare(settings))
    else:
        main(settings)


if __name__ == "__main__":
    run_script(run, TrainBenchmark, __doc__)
