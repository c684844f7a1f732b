"""What the training runs share: from settings to a trained, evaluated and saved model.

A `Recipe` says what a method adds: its text, its update, and its scores.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key
from rich.console import Console
from rich.table import Table
from tensorboardX import SummaryWriter

from simcse_jax import SentenceEncoder, hub
from simcse_jax.compilation_cache import compilations
from simcse_jax.data.lee import pair_indices, read_lee
from simcse_jax.data.senteval import TASKS, read_sts, read_stsb
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.data.training_batches import TrainingBatches
from simcse_jax.data.training_text import TrainingText
from simcse_jax.encoder import cosine_similarity
from simcse_jax.evaluation.sts import evaluate_sts, paired_similarity, results_to_json, spearman
from simcse_jax.io import read_json, write_json, written_folder
from simcse_jax.machine import hardware
from simcse_jax.memory import keep_freed_memory
from simcse_jax.models import BertConfig
from simcse_jax.training import (
    Evaluation,
    OptimizerSettings,
    RunCheckpoints,
    TrainState,
    compile_step,
    fit,
    make_mesh,
    make_optimizer,
    replicate,
)
from simcse_jax.training.step import Step

console = Console(width=110)

# What may differ when a run is resumed: places (the text has a fingerprint), and what is asked for.
_FREE = {
    *("output_dir", "eval_data", "train_file", "test_file", "dump"),
    *("resume", "seeds", "all_tasks"),
}


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """A run: what is trained on what, and how."""

    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id such as bert-base-uncased."""
    pooling: str = "mean"
    """Of the encoder's output."""
    num_layers: int | None = None
    """Keep the first so many layers."""
    eval_data: Path | None = None
    """SentEval's folder: STS-B dev on the way, STS-B test at the end. Default: the Lee corpus."""
    all_tasks: bool = False
    """Score all seven STS tasks at the end, not only STS-B."""
    output_dir: Path = Path("runs/run")
    """The run's folder."""
    batch_size: int | None = None
    learning_rate: float | None = None
    """The highest."""
    epochs: float | None = None
    max_steps: int | None = None
    """Instead of epochs."""
    max_length: int = 32
    """In tokens."""
    eval_every: int = 125
    """In steps."""
    seed: int = 42
    seeds: tuple[int, ...] = ()
    """Several seeds, each in a folder of its own; mean and standard deviation at the end."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The compute type."""
    resume: bool = False
    """Continue an interrupted run; a finished one is reused."""


class Column(NamedTuple):
    """A score of a run.

    Attributes:
        name: in summary.json.
        heading: in the closing table; "" leaves it out there.
        value: times 100.
    """

    name: str
    heading: str
    value: float


class Model(NamedTuple):
    """What training starts from."""

    folder: Path
    config: BertConfig
    params: dict[str, Any]
    tokenizer: Tokenizer


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a method adds to a run.

    Attributes:
        text: what is trained on.
        settings: of the method.
        create_state: from a model, an optimizer and a key to the state before the first update.
        make_step: from a model, an optimizer and the devices to the un-jitted update.
        batches: the update's batches, from a step up to another.
        model_params: from trained parameters to those of a model folder.
        pooling: of the model folder.
        evaluate: the scores on the way, from the encoder.
        best_metric: which of them chooses the best model.
        test: the scores at the end, from the encoder and its folder (None before training).
        test_columns: what of them goes into the table, from the scores of the best model and of
            the last.
        test_before: whether the model is also tested before training.
        save: called with a model folder and the trained parameters, to add files.
    """

    text: TrainingText
    settings: OptimizerSettings
    create_state: Callable[[Model, optax.GradientTransformation, Key[Array, ""]], TrainState]
    make_step: Callable[[Model, optax.GradientTransformation, Mesh], Step]
    batches: Callable[[TrainingBatches, int, int], Iterator[Any]]
    model_params: Callable[[Any], Any]
    pooling: str
    evaluate: Callable[[SentenceEncoder], Mapping[str, float]]
    best_metric: str
    test: Callable[[SentenceEncoder, Path | None], dict[str, Any]]
    test_columns: Callable[[dict[str, Any], dict[str, Any]], Sequence[Column]]
    test_before: bool = False
    save: Callable[[Path, Any], None] = lambda folder, params: None


# ---------------------------------------------------------------------------------------------
# Scores
# ---------------------------------------------------------------------------------------------


def dev_metric(eval_data: Path | None) -> str:
    """The name of `dev_score`'s number."""
    return "lee_spearman" if eval_data is None else "stsb_dev"


def dev_score(encoder: SentenceEncoder, eval_data: Path | None) -> dict[str, float]:
    """Spearman x 100 on STS-B dev, or on the Lee corpus where there is no SentEval folder."""
    if eval_data is None:
        lee = read_lee()
        vectors = encoder.encode(lee.documents, show_progress=False, max_length=encoder.max_length)
        cosines = cosine_similarity(vectors, vectors)[pair_indices()]
        return {"lee_spearman": 100 * spearman(cosines, lee.pair_similarities())}
    pairs = read_stsb(eval_data, "dev")
    vectors = encoder.encode([*pairs.sentences1, *pairs.sentences2], show_progress=False)
    first, second = np.split(vectors, 2)
    return {"stsb_dev": 100 * spearman(paired_similarity(first, second), pairs.scores)}


def test_scores(encoder: SentenceEncoder, run: RunSettings) -> dict[str, Any]:
    """STS at the end: STS-B test, or all seven tasks; Lee without SentEval's folder."""
    if run.eval_data is None:
        return dev_score(encoder, None)
    tasks = read_sts(run.eval_data) if run.all_tasks else read_sts(run.eval_data, ["STS-B"])
    return results_to_json(evaluate_sts(encoder.encode, tasks))


def headline(scores: Mapping[str, Any]) -> float:
    """The one number of a run's closing table."""
    if "tasks" not in scores:
        return scores["lee_spearman"]
    return scores["tasks"]["STS-B"]["all"]


def sts_columns(best: dict[str, Any], last: dict[str, Any]) -> list[Column]:
    """STS-B or Lee of the best and the last model; all tasks and their average where scored."""
    columns = []
    for which, scores in (("best", best), ("last", last)):
        columns.append(Column(f"test_{which}", f"test, {which}", headline(scores)))
        if len(scores.get("tasks", ())) == len(TASKS):
            average = float(np.mean([round(scores["tasks"][t]["all"], 2) for t in TASKS]))
            columns.append(Column(f"average_{which}", f"average, {which}", average))
            columns += [
                Column(f"{task}_{which}", "", scores["tasks"][task]["all"]) for task in TASKS
            ]
    return columns


# ---------------------------------------------------------------------------------------------
# One seed
# ---------------------------------------------------------------------------------------------


def load_model(run: RunSettings) -> Model:
    """The model, its layers cut off, and its tokenizer."""
    folder = hub.find_model(run.model)
    config, params = hub.load_params(folder, hub.read_config(folder), run.num_layers)
    tokenizer = Tokenizer.from_folder(folder, hub.read_settings(folder).do_lower_case)
    return Model(folder, config, params, tokenizer)


def fixed_settings(run: RunSettings, text: TrainingText) -> dict[str, Any]:
    """What must not change when a run is resumed, as JSON."""
    fixed = dataclasses.asdict(run) | {"text": text.fingerprint}
    return {name: value for name, value in fixed.items() if name not in _FREE}


def train_seed(
    run: RunSettings, recipe: Recipe, before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Train one seed, or reuse its finished run.

    The folder then holds ``settings.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/``,
    ``best/`` and ``last/`` (model folders), and ``results.json``.

    Args:
        run: with batch size, learning rate and epochs.
        recipe: of the method.
        before: the scores before training where another seed has found them already.
    """
    assert run.batch_size is not None
    out = run.output_dir
    model = load_model(run)
    fixed = fixed_settings(run, recipe.text)
    results_file = out / "results.json"
    if results_file.exists() and run.resume:
        results = read_json(results_file)
        if results["settings"] != json.loads(json.dumps(fixed)):
            raise ValueError(f"{results_file} is of other settings; choose another folder")
        console.print(f"{out} is finished already; reusing it")
        return results

    mesh = make_mesh()
    batches = TrainingBatches(
        recipe.text,
        model.tokenizer,
        run.batch_size,
        max_length=run.max_length,
        seed=run.seed,
        device_count=mesh.size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        labels=recipe.text.labels,
    )
    console.print(f"{recipe.text.description}\n{batches.description}")
    total = recipe.settings.total_steps(batches.steps_per_epoch)
    optimizer = make_optimizer(recipe.settings, total)
    root = jax.random.key(run.seed)
    state = recipe.create_state(model, optimizer, jax.random.fold_in(root, 0))
    step = compile_step(recipe.make_step(model, optimizer, mesh), mesh)

    def encoder(trained: Any) -> SentenceEncoder:
        return SentenceEncoder(
            model.config,
            jax.tree.map(np.asarray, recipe.model_params(trained)),
            model.tokenizer,
            hub.EncoderSettings(recipe.pooling),
            dtype=run.dtype,
            tokenizer_folder=model.folder,
        )

    def save(folder: Path, trained: Any) -> None:
        with written_folder(folder) as temporary:
            encoder(trained).save_pretrained(temporary)
            recipe.save(temporary, trained)

    write_json(out / "settings.json", fixed)
    if recipe.test_before and before is None:
        before = recipe.test(encoder(state.params), None)
    started = time.perf_counter()
    dev_before = recipe.evaluate(encoder(state.params))[recipe.best_metric]
    writer = SummaryWriter(str(out / "tensorboard"))

    def record(values: Mapping[str, Any]) -> None:
        for name, value in {**values, **values.get("eval", {})}.items():
            if name not in ("step", "eval"):
                writer.add_scalar(name, value, values["step"])

    with writer, RunCheckpoints(out / "checkpoints", fixed) as checkpoints:
        result = fit(
            step,
            replicate(state, mesh),
            lambda start: recipe.batches(batches, start, total),
            replicate(root, mesh),
            total,
            checkpoints=checkpoints,
            resume=run.resume,
            evaluation=Evaluation(
                run.eval_every,
                lambda trained: recipe.evaluate(encoder(trained)),
                recipe.best_metric,
                lambda trained, *_: save(out / "best", trained),
            ),
            metrics_file=out / "metrics.jsonl",
            on_record=record,
            log_every=5,
            description=f"seed {run.seed}",
        )
    if result.interrupted:
        raise SystemExit(f"stopped at step {result.step} of {total}; --resume continues")
    assert result.best is not None
    seconds = time.perf_counter() - started
    save(out / "last", result.state.params)

    def test(folder: Path) -> dict[str, Any]:
        return recipe.test(SentenceEncoder.from_pretrained(folder, dtype=run.dtype), folder)

    best = test(out / "best")
    results = {
        "settings": fixed,
        "hardware": hardware(),
        "python": platform.python_version(),
        "steps": total,
        "train_seconds": seconds,
        "dev_metric": recipe.best_metric,
        "dev_before": dev_before,
        "dev_best": result.best["value"],
        "best_step": result.best["step"],
        **({} if before is None else {"before": before}),
        "best": best,
        "last": best if result.best["step"] == total else test(out / "last"),
    }
    write_json(results_file, results)
    return results


# ---------------------------------------------------------------------------------------------
# All seeds
# ---------------------------------------------------------------------------------------------


def train_seeds(
    run: RunSettings, recipe: Recipe, dev: str, measure: str = "Spearman"
) -> dict[str, float]:
    """Train every seed and close with a table.

    With several seeds ``summary.json`` has the columns' mean and standard deviation.

    Args:
        run: what the user asked for, with batch size, learning rate and epochs.
        recipe: of the method.
        dev: what the best model is chosen by, for people.
        measure: what the scores are, for people.

    Returns:
        The mean of each column, by name.
    """
    keep_freed_memory()
    compiled = compilations()
    many = run.seeds or (run.seed,)
    all_results: list[dict[str, Any]] = []
    before = None
    for seed in many:
        out = run.output_dir / f"seed-{seed}" if run.seeds else run.output_dir
        own = dataclasses.replace(run, seed=seed, output_dir=out)
        all_results.append(train_seed(own, recipe, before))
        before = all_results[0].get("before")

    rows = [
        [
            Column("dev_before", f"{dev} before", results["dev_before"]),
            Column("dev_best", "dev best", results["dev_best"]),
            *recipe.test_columns(results["best"], results["last"]),
        ]
        for results in all_results
    ]
    values = np.array([[column.value for column in row] for row in rows])
    mean = values.mean(0)
    shown = [i for i, column in enumerate(rows[0]) if column.heading]

    table = Table(title=f"{run.output_dir}: {measure} × 100")
    table.add_column("seed", justify="right")
    for i in shown:
        table.add_column(rows[0][i].heading, justify="right")
        if i == 1:
            table.add_column("at step", justify="right")

    def add_row(name: str, cells: Sequence[str], step: str) -> None:
        texts = [cells[i] for i in shown]
        table.add_row(name, *texts[:2], step, *texts[2:])

    for seed, row, results in zip(many, values, all_results, strict=True):
        add_row(str(seed), [f"{v:.2f}" for v in row], str(results["best_step"]))
    if len(many) > 1:
        spread = values.std(0, ddof=1)
        add_row("mean ± sd", [f"{m:.2f} ± {s:.2f}" for m, s in zip(mean, spread, strict=True)], "")
        summary = {
            "seeds": list(many),
            "columns": [column.name for column in rows[0]],
            "per_seed": values.tolist(),
            "mean": mean.tolist(),
            "sd": spread.tolist(),
            **({} if before is None else {"before": before}),
            "train_seconds": [results["train_seconds"] for results in all_results],
            "hardware": all_results[0]["hardware"],
            "settings": all_results[0]["settings"] | {"seed": None},
        }
        write_json(run.output_dir / "summary.json", summary)
    console.print(table)
    console.print(f"everything of the run: {run.output_dir}; {compiled}")
    return {column.name: float(m) for column, m in zip(rows[0], mean, strict=True)}
