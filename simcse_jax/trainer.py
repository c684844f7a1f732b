"""Train a model by one call: the data, the model, the step, the loop, the folder.

It reads from top to bottom. A run's folder then holds ``run.json`` (the configuration),
``metrics.jsonl``, ``tensorboard/``, ``checkpoints/``, ``best/`` and ``last/`` (model folders) and
``results.json``; several seeds have a folder each, and ``summary.json`` beside them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from simcse_jax import hosts, hub, io
from simcse_jax.compilation_cache import compilations, enable_compilation_cache
from simcse_jax.config import Config, fixed_fields, load_config, replace, to_json
from simcse_jax.data.batches import TrainingBatches
from simcse_jax.data.datasets import GIVEN, TrainingData, load_training_data, with_positives
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.data.training_text import TrainingText
from simcse_jax.encoder import SentenceEncoder
from simcse_jax.evaluation.scores import Column, Scores, sts_scores, triplet_scores, with_nli
from simcse_jax.extras import needing
from simcse_jax.machine import hardware
from simcse_jax.memory import keep_freed_memory
from simcse_jax.objectives import Model, Sbert
from simcse_jax.training import (
    Evaluation,
    FitResult,
    Interrupted,
    RunCheckpoints,
    compile_step,
    fit,
    make_mesh,
    make_optimizer,
    make_step,
    replicate,
    start_state,
)
from simcse_jax.training.checkpoint import latest_step
from simcse_jax.training.run_folder import (
    CHECKPOINTS,
    RESULTS,
    RUN,
    SUMMARY,
    check_folder,
    check_same_settings,
    claimed,
    on_first_process,
    read_results,
)
from simcse_jax.transforms import Flow, FlowConfig

Evaluate = Callable[[SentenceEncoder], Mapping[str, float]]
Before = dict[str, Mapping[str, Any]]
"""Scores before training, by a digest of the model."""
# The data of a run whose sentences are given, in its configuration.
GIVEN_DATA: dict[str, Any] = {
    "dataset": GIVEN,
    **dict.fromkeys(("train_files", "test_files"), ()),
    **dict.fromkeys(("dataset_source", "columns", "per_article"), None),
    "labelled_nli": False,
}
console = Console(width=110)


def train(
    config: Config | str | Path,
    *,
    sentences: Iterable[str] | Iterable[Sequence[str]] | None = None,
    evaluate: Evaluate | None = None,
    **changes: Any,
) -> SentenceEncoder:
    """Train a model and return it: the best by the scores on the way, of the first seed.

    Example:
        ::

            encoder = train("unsup_simcse", sentences=my_list, output_dir="my_run")
            vectors = encoder.encode(["A man plays a flute."])

    Args:
        config: a configuration, its name (see `simcse_jax.config.CONFIGS`), or its file.
        sentences: what to train on instead of what the configuration says: sentences, or tuples of
            two (sentence, positive) or three (and a hard negative).
        evaluate: measures the model on the way, instead of STS; the first of its numbers chooses
            the best model, higher is better.
        **changes: fields of the configuration by name, such as ``output_dir`` or ``batch_size``.

    Raises:
        FileNotFoundError: a model, data or configuration file is missing.
        FileExistsError: the folder holds another run, and ``resume`` is False; or another process
            trains there, or what lies there is not a run's.
        ValueError: a field that does not exist or cannot be so, data that does not fit.
        FloatingPointError: the loss or the gradient is not finite; the message names the step.
        Interrupted: SIGTERM ended the run early; ``resume`` continues it.
    """
    if not isinstance(config, Config):
        config = load_config(config)
    config = replace(config, **changes)
    results = train_seeds(config, sentences=sentences, evaluate=evaluate)
    folder = Path(results[0]["folder"])
    if not hub.is_whole(folder / "best"):
        raise FileNotFoundError(
            f"{folder} is a finished run whose model {folder / 'best'} is gone; train again in "
            "another folder"
        )
    return SentenceEncoder.from_pretrained(folder / "best", dtype=config.model.dtype)


def train_seeds(
    config: Config,
    *,
    sentences: Iterable[str] | Iterable[Sequence[str]] | None = None,
    evaluate: Evaluate | None = None,
) -> list[dict[str, Any]]:
    """Train every seed and close with a table; see `train`.

    Returns:
        For each seed what its ``results.json`` holds, and its ``folder``.
    """
    config = join_others(config)
    keep_freed_memory()
    enable_compilation_cache()
    compiled = compilations()
    run = config.run
    if sentences is not None:
        config = replace(config, **GIVEN_DATA)
    if config.data.data_seed is None:
        config = replace(config, data_seed=run.seed)
    train_one = train_seed
    if isinstance(config.objective, FlowConfig):
        check_flow(config)
        train_one = train_flow_seed
    own = seed_configs(config)
    with ExitStack() as stack:
        for folder in dict.fromkeys((run.output_dir, *(c.run.output_dir for c in own))):
            stack.enter_context(claimed(folder))
        on_first_process(lambda: check_folders(config, own))
        if sentences is None:
            data = load_training_data(config.data, run.seed, run.eval_data)
        else:
            text = text_of(sentences)
            data = TrainingData(text, documents=text.columns if len(text.columns) == 1 else ())
        scores = choose_scores(config, data, evaluate)
        if "nli" in data.held_out:
            say(f"NLI accuracy is measured on: {data.held_out['nli'].description}")
        before: Before = {}
        results = [
            train_one(one, data, scores, before) | {"folder": str(one.run.output_dir)}
            for one in own
        ]
        if jax.process_index() == 0:
            close(config, scores, results)
    say(f"everything of the run: {run.output_dir}; {compiled}")
    return results


def seed_configs(config: Config) -> list[Config]:
    """Return the configuration of each seed: the run itself, or one in a folder of its own."""
    run = config.run
    return [
        replace(config, seed=seed, seeds=(), output_dir=run.output_dir / f"seed-{seed}")
        for seed in run.seeds
    ] or [config]


def check_folders(config: Config, own: Sequence[Config]) -> None:
    """Refuse a run that would overwrite what it does not continue, in any of its folders.

    Raises:
        FileExistsError: what lies there is another run, or no run.
        ValueError: it is a run of other settings.
    """
    for one in own:
        check_folder(one.run.output_dir, fixed_fields(one), config.run.resume)
    if config.run.seeds:
        fixed = fixed_fields(config)
        del fixed["seed"]
        check_folder(config.run.output_dir, fixed, config.run.resume)


def join_others(config: Config) -> Config:
    """Join the other processes where the run is to be distributed.

    Returns:
        The configuration of the run as all of them know it.
    """
    run = config.run
    if run.distributed:
        hosts.join(run.coordinator, run.num_processes, run.process_id)
    alone = {"coordinator": None, "num_processes": None, "process_id": None}
    return replace(config, distributed=False, **alone)


def text_of(sentences: Iterable[str] | Iterable[Sequence[str]]) -> TrainingText:
    """Make a training text of sentences, or of tuples of two or three.

    Raises:
        ValueError: neither of them, or tuples of different lengths.
    """
    if isinstance(sentences, str):
        raise ValueError("sentences is one string; give a list of them, or a file as train_files")
    rows = [(row,) if isinstance(row, str) else tuple(row) for row in sentences]
    widths = {len(row) for row in rows}
    strings = all(isinstance(sentence, str) for row in rows for sentence in row)
    if len(widths) != 1 or not widths <= {1, 2, 3} or not strings:
        raise ValueError(
            "sentences must be a list of strings, or of tuples of two or three strings, all of one "
            "length"
        )
    return TrainingText(tuple(zip(*rows, strict=True)))


def choose_scores(config: Config, data: TrainingData, evaluate: Evaluate | None) -> Scores:
    """Choose what is measured on the way and at the end."""
    run = config.run
    if run.all_tasks and run.eval_data is None:
        raise ValueError("all_tasks has no effect without eval_data, SentEval's folder")
    if "dev" in data.held_out:
        distance = config.objective.distance if isinstance(config.objective, Sbert) else "euclidean"
        sts = None if run.eval_data is None else sts_scores(run.eval_data, run.all_tasks)
        scores = triplet_scores(data.held_out, distance, sts)
    else:
        scores = sts_scores(run.eval_data, run.all_tasks)
    objective = config.objective
    if "nli" in data.held_out and isinstance(objective, Sbert) and objective.kind == "softmax":
        scores = with_nli(scores, data.held_out["nli"])
    if evaluate is not None:
        # Its first number chooses; what that is called is known once it was asked.
        return scores._replace(dev=evaluate, best_metric=None, dev_name="")
    if scores.best_metric is None:
        say(
            "nothing is scored and the last model is kept: name SentEval's folder as eval_data, or "
            "install the Lee corpus by `pip install --no-deps gensim==4.4.0`"
        )
    return scores


# ---------------------------------------------------------------------------------------------
# One seed
# ---------------------------------------------------------------------------------------------


def train_seed(
    config: Config, data: TrainingData, scores: Scores, before: Before
) -> dict[str, Any]:
    """Train one seed, or reuse its finished run.

    Args:
        config: of this seed and its folder, which is claimed and checked.
        data: what is trained on.
        scores: how the models are scored.
        before: the scores before training that other seeds have found.

    Returns:
        What ``results.json`` holds.
    """
    run, objective = config.run, config.objective
    assert not isinstance(objective, FlowConfig)
    text = with_positives(data, config.data, run.seed)
    columns = len(text.rows([0])[0])
    objective.check_text(columns, getattr(text, "labels", None) is not None)
    objective.check_batch(config.data.batch_size, columns)
    fixed = fixed_fields(config, text.fingerprint) | {"dev_metric": scores.best_metric}
    if (finished := finished_results(config, fixed)) is not None:
        return finished

    # Model and data
    mesh = make_mesh()
    model = load_model(config)
    batches = make_batches(config, text, model, mesh)
    say(f"{text.description}\n{batches.description}")
    total = run.total_steps(batches.steps_per_epoch)

    # Objective, optimizer and step
    optimizer = make_optimizer(config.optimizer, total)
    key = jax.random.key(run.seed)
    state = start_state(objective.init(model, jax.random.fold_in(key, 0)), optimizer)
    step = make_step(objective.build(model), optimizer, run.grad_cache_chunks)
    compiled = compile_step(step, mesh, run.parallel)

    # Evaluation and the folder
    untrained = trained_encoder(config, model, state.params)

    def encoder(params: Any) -> SentenceEncoder:
        return untrained.with_params(exported(config, params))

    def save(name: str, params: Any) -> None:
        with hub.model_folder(run.output_dir / name) as folder:
            encoder(params).save_pretrained(folder)
            objective.save(folder, jax.tree.map(np.asarray, params))

    with ExitStack() as stack:
        stack.enter_context(explained(config))
        checkpoints = stack.enter_context(RunCheckpoints(run.output_dir / CHECKPOINTS, fixed))
        checkpoints.check(run.resume)
        start_folder(config)
        scores_before = score_before(untrained, scores, before) if run.test_before else None
        started = time.perf_counter()
        dev_before = scores.dev(untrained)
        evaluation = None
        if (best_metric := scores.best_metric or next(iter(dev_before), None)) is not None:
            evaluation = Evaluation(
                run.eval_every,
                lambda params: scores.dev(encoder(params)),
                best_metric,
                lambda params, *_: save("best", params),
                lambda: hub.is_whole(run.output_dir / "best"),
            )

        # Loop
        record = stack.enter_context(tensorboard(run.output_dir))
        result = fit(
            compiled,
            replicate(state, mesh),
            lambda start: batches.batches(start, total),
            replicate(key, mesh),
            total,
            checkpoints=checkpoints,
            resume=run.resume,
            evaluation=evaluation,
            metrics_file=run.output_dir / "metrics.jsonl",
            on_record=record,
            log_every=5,
            description=f"seed {run.seed}",
        )
    if result.interrupted:
        raise Interrupted(f"stopped at step {result.step} of {total}; --resume continues")
    if jax.process_index() == 0:
        for name in ("last",) if result.best else ("last", "best"):
            save(name, result.state.params)
    seconds = time.perf_counter() - started
    return write_results(
        config, scores, fixed, result, seconds, dev_before, scores_before, best_metric
    )


def score_before(encoder: SentenceEncoder, scores: Scores, known: Before) -> Mapping[str, Any]:
    """Score a model before training, once for all seeds that begin with the same parameters."""
    digest = hashlib.blake2b(encoder.settings.pooling.encode(), digest_size=16)
    for leaf in jax.tree.leaves(encoder.params):
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    if digest.hexdigest() not in known:
        known[digest.hexdigest()] = scores.test(encoder, None)
    return known[digest.hexdigest()]


@contextmanager
def explained(config: Config) -> Iterator[None]:
    """Add to the news of a loss that is not finite what it may come from."""
    try:
        yield
    except FloatingPointError as error:
        rate, dtype = config.optimizer.learning_rate, config.model.dtype
        raise FloatingPointError(
            f"{error}; a learning_rate that is too high ({rate:g}) is the likely cause, a dtype "
            f"that is too coarse ({dtype}) or data that is broken the next"
        ) from None


def make_batches(config: Config, text: Any, model: Model, mesh: Mesh) -> TrainingBatches:
    """Make this process' share of the batches of a text."""
    assert not isinstance(config.objective, FlowConfig)
    return TrainingBatches(
        text,
        model.tokenizer,
        config.data.batch_size,
        max_length=config.data.max_length,
        seed=config.run.seed,
        views=config.objective.views,
        shards=mesh.size * config.run.grad_cache_chunks,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        labels=getattr(text, "labels", None),
    )


def load_model(config: Config) -> Model:
    """Load the model that training starts from, its layers cut off, and its tokenizer.

    Raises:
        ValueError: the data's maximal length is beyond the model's positions.
    """
    folder = hub.find_model(config.model.model)
    core = hub.encoder_folder(folder)
    architecture = hub.read_config(core)
    if config.data.max_length > architecture.max_length:
        raise ValueError(
            f"max_length is {config.data.max_length}; {folder} takes {architecture.max_length} "
            "tokens at most"
        )
    architecture, params = hub.load_params(core, architecture, config.model.num_layers)
    if (rate := config.model.dropout) is not None:
        architecture = dataclasses.replace(
            architecture, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate
        )
    settings = hub.read_settings(folder, config.model.pooling)
    if (transform := hub.read_transform(folder)) is not None:
        say(f"{folder} ends with a {transform.kind}; training is of the encoder, and leaves it out")
    tokenizer = Tokenizer.from_folder(core, settings.do_lower_case)
    dtype = jnp.dtype(config.model.dtype)
    return Model(architecture, params, tokenizer, config.model.pooling, dtype)


def trained_encoder(config: Config, model: Model, params: Any) -> SentenceEncoder:
    """Make the encoder of parameters that are being trained, used as its start folder says."""
    objective = config.objective
    assert not isinstance(objective, FlowConfig)
    folder = hub.find_model(config.model.model)
    return SentenceEncoder(
        model.config,
        exported(config, params),
        model.tokenizer,
        hub.read_settings(folder, objective.export_pooling(config.model.pooling)),
        dtype=config.model.dtype,
        tokenizer_folder=hub.encoder_folder(folder),
    )


def exported(config: Config, params: Any) -> hub.Params:
    """Return parameters that are being trained as model folders hold them, on the host."""
    assert not isinstance(config.objective, FlowConfig)
    return jax.tree.map(np.asarray, config.objective.export(params))


def check_flow(config: Config) -> None:
    """Refuse what a flow cannot be fitted with.

    Raises:
        ValueError: ``max_steps``, a part of an epoch, or an option that a flow does not know.
    """
    run = config.run
    for name, value, only in (
        ("positives", config.data.positives, "same"),
        ("grad_cache_chunks", run.grad_cache_chunks, 1),
        ("parallel", run.parallel, "shard_map"),
        ("dropout", config.model.dropout, None),
    ):
        if value != only:
            raise ValueError(f"{name} is {value!r}; a flow is fitted with {only!r} alone")
    if jax.process_count() > 1:
        raise ValueError("a flow is fitted by one process")
    if run.max_steps is not None or run.epochs != int(run.epochs):
        raise ValueError("a flow is fitted for whole epochs; leave max_steps out")


def train_flow_seed(
    config: Config, data: TrainingData, scores: Scores, before: Before
) -> dict[str, Any]:
    """Fit a flow to the frozen encoder's vectors, or reuse its finished run; see `train_seed`."""
    run, objective = config.run, config.objective
    assert isinstance(objective, FlowConfig)
    fixed = fixed_fields(config, data.text.fingerprint) | {"dev_metric": scores.best_metric}
    if (finished := finished_results(config, fixed)) is not None:
        return finished
    encoder = SentenceEncoder.from_pretrained(
        config.model.model,
        pooling=config.model.pooling,
        num_layers=config.model.num_layers,
        max_length=config.data.max_length,
        normalize=False,
        dtype=config.model.dtype,
    ).with_transform(None)
    start_folder(config)
    scores_before = score_before(encoder, scores, before) if run.test_before else None
    started = time.perf_counter()
    dev_before = scores.dev(encoder)
    best_metric = scores.best_metric or next(iter(dev_before), None)
    say(data.text.description)
    vectors = encoder.encode([s for column in data.text.columns for s in column])
    flow = Flow.fit(
        vectors,
        objective,
        int(run.epochs),
        run.seed,
        optimizer=config.optimizer,
        batch_size=config.data.batch_size,
        mesh=make_mesh(),
        progress=True,
        state_folder=run.output_dir / CHECKPOINTS,
        resume=run.resume,
    )
    fitted = encoder.with_transform(flow)
    if jax.process_index() == 0:
        for name in ("best", "last"):
            fitted.save_pretrained(run.output_dir / name)
    metrics = dict(scores.dev(fitted))
    best = {"step": flow.steps, "value": metrics.get(best_metric or ""), "metrics": metrics}
    result = FitResult(None, flow.steps, False, best)
    seconds = time.perf_counter() - started
    return write_results(
        config, scores, fixed, result, seconds, dev_before, scores_before, best_metric
    )


# ---------------------------------------------------------------------------------------------
# The folder of a run
# ---------------------------------------------------------------------------------------------


def finished_results(config: Config, fixed: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the results of a finished run in the folder, which ``resume`` reuses; None without.

    Raises:
        ValueError: they are of another run.
    """
    folder = config.run.output_dir
    file = folder / RESULTS
    if not (config.run.resume and file.exists()):
        return None
    results = read_results(file)
    # A setting that this version does not know is another one too.
    check_same_settings(file, results["settings"], {**dict.fromkeys(results["settings"]), **fixed})
    if not hub.is_whole(folder / "best") and latest_step(folder / CHECKPOINTS) is not None:
        say(f"{folder} is finished, but its model best is gone; its checkpoints give it again")
        return None
    say(f"{folder} is finished already; reusing it")
    return results


def start_folder(config: Config) -> None:
    """Write the configuration into the run's folder."""
    if jax.process_index() == 0:
        io.write_json(config.run.output_dir / RUN, to_json(config))


@contextmanager
def tensorboard(folder: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Give a function that writes the loop's records for TensorBoard, from the first process."""
    if jax.process_index() != 0:
        yield lambda values: None
        return
    with needing("train"):
        from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:

        def record(values: Mapping[str, Any]) -> None:
            for name, value in {**values, **values.get("eval", {})}.items():
                if name not in ("step", "eval"):
                    writer.add_scalar(name, value, values["step"])

        yield record


def write_results(
    config: Config,
    scores: Scores,
    fixed: dict[str, Any],
    result: FitResult,
    seconds: float,
    dev_before: Mapping[str, float],
    before: Mapping[str, Any] | None,
    best_metric: str | None,
) -> dict[str, Any]:
    """Score the best and the last model and write ``results.json``."""
    chosen = result.best or {"step": result.step, "value": None}
    folder = config.run.output_dir
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("models written")

    def test(name: str) -> dict[str, Any]:
        encoder = SentenceEncoder.from_pretrained(folder / name, dtype=config.model.dtype)
        return scores.test(encoder, folder / name)

    best = test("best")
    results = {
        "settings": fixed,
        "hardware": hardware(),
        "python": platform.python_version(),
        "steps": result.step,
        "train_seconds": seconds,
        "dev_metric": best_metric,
        "dev_before": dev_before.get(best_metric or ""),
        "dev_best": chosen["value"],
        "best_step": chosen["step"],
        **({} if before is None else {"before": before}),
        "best": best,
        "last": best if chosen["step"] == result.step else test("last"),
    }
    if jax.process_index() == 0:
        io.write_json(folder / RESULTS, results)
    return results


# ---------------------------------------------------------------------------------------------
# What people read
# ---------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Print for people, from the first process."""
    if jax.process_index() == 0:
        # As it stands: brackets in a folder's name are no markup, and a path is never broken.
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def close(config: Config, scores: Scores, results: Sequence[Mapping[str, Any]]) -> None:
    """Print the closing table, and write ``summary.json`` of several seeds."""
    metric = results[0]["dev_metric"]
    rows = [columns_of(scores, found) for found in results]
    # Without a metric nothing was measured.
    values = np.array([[column.value for column in row] for row in rows], float)
    if len(results) > 1:
        write_summary(config, results, rows[0], values)
    if metric is None:
        return
    shown = [i for i, column in enumerate(rows[0]) if column.heading]
    title = f"{scores.measure} × 100"
    if not scores.dev_name:  # chosen by a function of the user's, tested as ever
        title = f"dev is {metric}" + (f"; test is {title}" if len(shown) > 2 else "")
    table = Table(title=f"{config.run.output_dir}: {title}")
    table.add_column("seed", justify="right")
    for i in shown:
        table.add_column(rows[0][i].heading, justify="right")
        if i == 1:
            table.add_column("at step", justify="right")

    def add_row(name: str, cells: Sequence[str], step: str) -> None:
        texts = [cells[i] for i in shown]
        table.add_row(name, *texts[:2], step, *texts[2:])

    seeds = config.run.seeds or (config.run.seed,)
    for seed, row, found in zip(seeds, values, results, strict=True):
        add_row(str(seed), [f"{value:.2f}" for value in row], str(found["best_step"]))
    if len(seeds) > 1:
        mean, spread = values.mean(0), values.std(0, ddof=1)
        cells = [f"{m:.2f} ± {s:.2f}" for m, s in zip(mean, spread, strict=True)]
        add_row("mean ± sd", cells, "")
    console.print(table)


def columns_of(scores: Scores, found: Mapping[str, Any]) -> list[Column]:
    """Return what the closing table says of a seed; nothing where nothing was measured."""
    if (metric := found["dev_metric"]) is None:
        return []
    return [
        Column("dev_before", f"{scores.dev_name or metric} before", found["dev_before"]),
        Column("dev_best", "dev best", found["dev_best"]),
        *scores.columns(found["best"], found["last"]),
    ]


def write_summary(
    config: Config,
    results: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    values: np.ndarray,
) -> None:
    """Write ``summary.json``: each seed's numbers, their mean and their standard deviation."""
    first = results[0]
    alike = all(found.get("before") == first.get("before") for found in results)
    summary = {
        "seeds": list(config.run.seeds),
        "columns": [column.name for column in columns],
        "per_seed": values.tolist(),
        "mean": values.mean(0).tolist(),
        "sd": values.std(0, ddof=1).tolist(),
        # Where the seeds begin with different models, each seed's results have its own.
        **({"before": first["before"]} if alike and "before" in first else {}),
        "train_seconds": [found["train_seconds"] for found in results],
        "hardware": first["hardware"],
        "settings": {**first["settings"], "seed": None},
    }
    io.write_json(config.run.output_dir / SUMMARY, summary)
