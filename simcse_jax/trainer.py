"""Train a model by one call: the data, the model, the step, the loop, the folder.

It reads from top to bottom. A run's folder then holds ``run.json`` (the configuration),
``metrics.jsonl``, ``tensorboard/``, ``checkpoints/``, ``best/`` and ``last/`` (model folders with
their cards) and ``results.json``; several seeds have a folder each, and ``summary.json`` beside
them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simcse_jax import hosts, hub, io
from simcse_jax.checks import check_finite, counted, quoted
from simcse_jax.compilation_cache import Compilations, compilations, enable_compilation_cache
from simcse_jax.config import (
    OBJECTIVES,
    Config,
    RunConfig,
    fixed_fields,
    load_config,
    recorded,
    replace,
    to_json,
)
from simcse_jax.data.batches import TrainingBatches
from simcse_jax.data.datasets import (
    GIVEN,
    TrainingData,
    given_data,
    load_training_data,
    with_positives,
)
from simcse_jax.data.pairs import COLUMNS
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.encoder import SentenceEncoder
from simcse_jax.evaluation.scores import Scores, sts_scores, triplet_scores, with_nli
from simcse_jax.extras import needs
from simcse_jax.memory import keep_freed_memory
from simcse_jax.objectives import Model, Sbert
from simcse_jax.results import StartScores, close, say, write_results
from simcse_jax.run_card import training_facts
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
from simcse_jax.training.checkpoint import ChangedSettings, latest_step
from simcse_jax.training.run_folder import (
    CHECKPOINTS,
    METRICS,
    RESULTS,
    RUN,
    check_folder,
    check_same_settings,
    claimed,
    on_first_process,
    read_results,
)
from simcse_jax.training.writers import records
from simcse_jax.transforms import Flow, FlowConfig

Evaluate = Callable[[SentenceEncoder], Mapping[str, float]]
Before = dict[str, Mapping[str, Any]]
"""Scores before training, by a digest of the model."""
Card = Callable[[hub.Outcome | None], str]
"""From what a run has given to the card of a model; None while it goes on."""
# The data of a run whose sentences are given, in its configuration.
GIVEN_DATA: dict[str, Any] = {
    "dataset": GIVEN,
    **dict.fromkeys(("train_files", "test_files"), ()),
    **dict.fromkeys(("dataset_source", "columns", "per_article"), None),
    **dict.fromkeys(("label_column", "score_column"), None),
    "highest_score": 1.0,
    "labelled_nli": False,
}
# What of it says how the sentences that are given are to be read.
_HOW = ("columns", "label_column", "score_column", "highest_score", "labelled_nli", "test_files")


def train(
    config: Config | str | Path,
    *,
    sentences: Any = None,
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
        sentences: what to train on instead of what the configuration says: an iterable of
            sentences, or of tuples of two (sentence, positive), three (and a hard negative) or more
            (and several of them); or what has columns, such as a `Dataset` of Hugging Face's or a
            frame of pandas or polars, of which ``columns=("question", "answer")`` are trained on.
            All of it is read at once.
        evaluate: measures the model on the way, instead of STS; the first of its numbers chooses
            the best model, higher is better.
        **changes: fields of the configuration by name, such as ``output_dir`` or ``batch_size``.

    Raises:
        FileNotFoundError: a model, data or configuration file is missing.
        FileExistsError: the folder holds another run, and ``resume`` is False; or another process
            trains there, or what lies there is not a run's.
        ValueError: a field that does not exist or cannot be so, data that does not fit.
        FloatingPointError: the loss or the gradient is not finite; the message names the step.
        Interrupted: SIGTERM or Ctrl-C ended the run early; ``resume`` continues it.
    """
    if not isinstance(config, Config):
        config = load_config(config)
    check_text_arguments(config, sentences is not None, changes)
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
    sentences: Any = None,
    evaluate: Evaluate | None = None,
) -> list[dict[str, Any]]:
    """Train every seed and close with a table; see `train`.

    Returns:
        For each seed what its ``results.json`` holds, and its ``folder``.
    """
    if evaluate is not None and not callable(evaluate):
        raise ValueError(
            f"evaluate is {quoted(evaluate)}; it must be a function from the encoder to scores by "
            "name"
        )
    config = replace(config, output_dir=config.run.output_dir.expanduser())
    config = join_others(config)
    keep_freed_memory()
    enable_compilation_cache()
    compiled_before = compilations().seconds
    run = config.run
    check_label_columns(config)
    if run.wandb is not None:
        with needs("wandb"):  # said before the text is read
            import wandb  # noqa: F401
    data = None
    if sentences is not None:
        data = given_data(sentences, config.data, run.seed)
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
        if data is None:
            data = load_training_data(config.data, run.seed, run.eval_data)
        scores = choose_scores(config, data, evaluate)
        if "nli" in data.held_out:
            say(f"NLI accuracy is measured on: {data.held_out['nli'].description}")
        check_all_labels(config, data)
        before: Before = {}
        started_from = start_digest(config)
        results = [
            train_one(one, data, scores, started_from, before) | {"folder": str(one.run.output_dir)}
            for one in own
        ]
        if jax.process_index() == 0:
            close(config, scores, results)
    compiled = Compilations(compilations().seconds - compiled_before)
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
        check_scored_tasks(one)
    if config.run.seeds:
        if (config.run.output_dir / METRICS).exists():
            raise FileExistsError(
                f"{config.run.output_dir} holds a run of one seed; choose another folder for "
                "several"
            )
        fixed = fixed_fields(config)
        del fixed["seed"]
        check_folder(config.run.output_dir, fixed, config.run.resume)


def check_all_labels(config: Config, data: TrainingData) -> None:
    """Refuse labels, also of pairs that are held out, that are no classes; tell of unused classes.

    Raises:
        ValueError: a label is beyond ``num_labels``.
    """
    if not isinstance(config.objective, Sbert):
        return
    held_out = data.held_out.get("nli")
    texts = [data.text] if held_out is None else [data.text, held_out]
    labels = [label for text in texts for label in getattr(text, "labels", None) or ()]
    if labels:
        config.objective.check_labels(labels)
        if unused := config.objective.unused_classes(labels):
            say(unused)


def check_scored_tasks(config: Config) -> None:
    """Refuse to reuse a finished run that was scored on other tasks than are asked for.

    Raises:
        ValueError: the message says what to do instead.
    """
    run, file = config.run, config.run.output_dir / RESULTS
    if not (run.resume and file.exists()):
        return
    tasks = read_results(file)["best"].get("tasks", {})
    if not tasks or (len(tasks) > 1) == run.all_tasks:
        return
    if run.all_tasks:
        raise ValueError(
            f"{run.output_dir} is finished and was scored on {', '.join(tasks)}; leave all_tasks "
            f"out, and score its model: simcse-jax evaluate --model {run.output_dir}/best --data "
            f"{run.eval_data}"
        )
    raise ValueError(
        f"{run.output_dir} is finished and was scored on all tasks; give all_tasks too"
    )


def join_others(config: Config) -> Config:
    """Join the other processes where the run is to be distributed.

    Returns:
        The configuration of the run as all of them know it.
    """
    run = config.run
    if run.distributed:
        hosts.join(run.coordinator, run.num_processes, run.process_id, run.join_timeout)
    alone = {"coordinator": None, "num_processes": None, "process_id": None}
    return replace(config, distributed=False, **alone)


def check_text_arguments(config: Config, sentences: bool, changes: Mapping[str, Any]) -> None:
    """Refuse what `train` is given to train on twice, or not at all.

    Raises:
        ValueError: ``train_files`` and the like beside ``sentences``, a ``dataset`` beside files of
            the configuration, or none in ``train_files``.
    """
    others = [name for name in GIVEN_DATA if name not in _HOW]
    if sentences and (twice := next((name for name in others if changes.get(name)), None)):
        raise ValueError(
            f"sentences and {twice} are both given, and both say what to train on; leave one out"
        )
    if changes.get("train_files") and changes.get("dataset"):
        raise ValueError(
            "train_files and dataset are both given, and both say what to train on; leave one out"
        )
    if changes.get("dataset") and config.data.train_files:
        raise ValueError(
            "dataset has no effect beside the configuration's train_files; leave it out, or take a "
            "configuration without files"
        )
    files = changes.get("train_files", True)
    if isinstance(files, str | list | tuple) and not files:
        raise ValueError("train_files is empty; name a file, or leave train_files out")


def choose_scores(config: Config, data: TrainingData, evaluate: Evaluate | None) -> Scores:
    """Choose what is measured on the way and at the end."""
    run = config.run
    if run.all_tasks and run.eval_data is None:
        raise ValueError(
            "all_tasks needs eval_data, SentEval's folder; give it, or leave all_tasks out "
            "(--no-all-tasks, where a configuration asks for it)"
        )
    own_pairs = run.eval_data is not None and run.eval_data.is_file()
    if own_pairs and run.all_tasks:
        raise ValueError(f"all_tasks needs SentEval's folder as eval_data, not {run.eval_data}")
    if not own_pairs and run.eval_columns != COLUMNS:
        raise ValueError(
            f"eval_columns is {' '.join(run.eval_columns)}, which has no effect: it needs a file "
            "of pairs as eval_data"
        )
    measured = run.eval_data, run.all_tasks, run.eval_columns
    if "dev" in data.held_out:
        distance = config.objective.distance if isinstance(config.objective, Sbert) else "euclidean"
        sts = None if run.eval_data is None else sts_scores(*measured)
        scores = triplet_scores(data.held_out, distance, sts)
    else:
        scores = sts_scores(*measured)
    objective = config.objective
    softmax = isinstance(objective, Sbert) and objective.kind == "softmax"
    if with_accuracy := softmax and "nli" in data.held_out:
        chosen = evaluate is not None or scores.best_metric is not None
        scores = with_nli(scores, data.held_out["nli"], chosen)
    if evaluate is not None:
        # Its first number chooses; what that is called is known once it was asked.
        return scores._replace(
            dev=checked(evaluate),
            best_metric=None,
            dev_name="",
            note="",
            one_corpus=False,
        )
    if scores.best_metric is None:
        nothing = "no model is chosen" if with_accuracy else "nothing is scored"
        say(
            f"{nothing} and the last model is kept: name SentEval's folder as eval_data "
            "(--eval-data), or install the Lee corpus by `pip install --no-deps gensim==4.4.0`"
        )
    return scores


def check_label_columns(config: Config) -> None:
    """Refuse classes or similarities that the objective does not learn.

    Raises:
        ValueError: the configuration names a column of them, or NLI with its labels.
    """
    objective, data = config.objective, config.data
    if type(objective) not in OBJECTIVES.values():
        return  # of the user's own
    kind = objective.kind if isinstance(objective, Sbert) else None
    for field, learner in (("label_column", "softmax"), ("score_column", "regression")):
        if (name := getattr(data, field)) is not None and kind != learner:
            raise ValueError(
                f"{field} is {name!r}, which this objective does not learn; leave it out, or train "
                f"Sentence-BERT's {learner}"
            )
    if data.labelled_nli and kind in ("regression", "triplet"):
        raise ValueError(
            f"labelled_nli is set, but Sentence-BERT's {kind} learns no classes; leave it out "
            "(--no-labelled-nli), or train its softmax"
        )


def checked(evaluate: Evaluate) -> Evaluate:
    """Return the measure of the user's, which raises ValueError where it gives no scores."""

    def measure(encoder: SentenceEncoder) -> Mapping[str, float]:
        scores = evaluate(encoder)
        names = list(scores) if isinstance(scores, Mapping) else []
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"evaluate returned {quoted(scores)}; it must return scores by name, such as "
                "{'accuracy': 0.5}, the first of which chooses the best model"
            )
        if "step" in names:
            raise ValueError("evaluate returned a score called 'step', as logs call the update")
        found = {}
        for name, score in scores.items():
            found[name] = (
                score.item() if isinstance(score, jax.Array) and score.size == 1 else score
            )
            check_finite(f"what evaluate returned as {name!r}", found[name])
        return found

    return measure


# ---------------------------------------------------------------------------------------------
# One seed
# ---------------------------------------------------------------------------------------------


def train_seed(
    config: Config,
    data: TrainingData,
    scores: Scores,
    started_from: dict[str, str],
    before: Before,
) -> dict[str, Any]:
    """Train one seed, or reuse its finished run.

    Args:
        config: of this seed and its folder, which is claimed and checked.
        data: what is trained on.
        scores: how the models are scored.
        started_from: the digest of the model to start from, as `start_digest` gives it.
        before: the scores before training that other seeds have found.

    Returns:
        What ``results.json`` holds.
    """
    run, objective = config.run, config.objective
    assert not isinstance(objective, FlowConfig)
    text = with_positives(data, config.data, run.seed, functools.partial(mask_token, config))
    columns = len(text.rows([0])[0])
    objective.check_text(columns, getattr(text, "labels", None) is not None)
    objective.check_rows(len(text), config.data.batch_size)
    fixed = fixed_fields(config, text.fingerprint) | started_from | scores.fixed()
    fixed["text_columns"] = len(data.text.rows([0])[0])  # of made positives not counted
    with naming_text(config):
        finished = finished_results(config, fixed)
    if finished is not None:
        return finished

    # Model and data
    mesh = make_mesh()
    model = load_model(config)
    objective.check_batch(config.data.batch_size, columns, model.config.hidden_size)
    key = jax.random.key(run.seed)
    params = objective.init(model, jax.random.fold_in(key, 0))
    untrained = trained_encoder(config, model, params)  # refuses a pooling before text is read
    batches = make_batches(config, text, model, mesh)
    say(f"{text.description}\n{batches.description}")
    total = run.total_steps(batches.steps_per_epoch)
    card = card_of(untrained, training_facts(config, data, text, total, scores))

    # Optimizer and step
    optimizer = make_optimizer(config.optimizer, total)
    state = start_state(params, optimizer, objective.init_frozen(params))
    step = make_step(objective.build(model), optimizer, run.grad_cache_chunks)
    compiled = compile_step(step, mesh, run.parallel)

    # The folder and the scores before training
    with ExitStack() as stack:
        stack.enter_context(explained(config))
        stack.enter_context(naming_text(config))
        checkpoints = stack.enter_context(RunCheckpoints(run.output_dir / CHECKPOINTS, fixed))
        checkpoints.check(run.resume)
        start_folder(config)
        test_before = score_before(untrained, scores, before) if run.test_before else None
        started = time.perf_counter()
        start = start_scores(untrained, scores, test_before)

        # Loop
        record = stack.enter_context(
            records(run.output_dir, to_json(config), run.wandb, run.resume)
        )
        result = fit(
            compiled,
            replicate(state, mesh),
            lambda done: batches.batches(done, total),
            replicate(key, mesh),
            total,
            checkpoints=checkpoints,
            checkpoint_every=run.checkpoint_steps,
            checkpoint_seconds=60 * run.checkpoint_minutes,
            resume=run.resume,
            evaluation=evaluation_of(config, scores, untrained, start.metric, card),
            metrics_file=run.output_dir / METRICS,
            on_record=record,
            on_start=lambda done: say_start(config, done, total),
            log_every=5,
            description=f"seed {run.seed}",
        )
    if result.stopped_by is not None:
        raise Interrupted(
            f"stopped at step {result.step} of {total}, with a checkpoint in {run.output_dir}",
            result.stopped_by,
        )
    if jax.process_index() == 0:
        for name in ("last",) if result.best else ("last", "best"):
            save_trained(config, untrained, result.state.params, name, card)
    seconds = time.perf_counter() - started
    return write_results(config, scores, fixed, result, seconds, start, card)


def card_of(encoder: SentenceEncoder, training: hub.Training) -> Card:
    """Return the card of a run's models, but for the outcome: None before its end."""
    facts = hub.model_facts(encoder.config, encoder.settings, encoder.transform)
    return functools.partial(hub.model_card, facts, encoder.origin, training)


def evaluation_of(
    config: Config,
    scores: Scores,
    untrained: SentenceEncoder,
    best_metric: str | None,
    card: Card,
) -> Evaluation | None:
    """Say how the loop scores parameters and keeps the best; None where nothing is scored."""
    if best_metric is None:
        return None
    return Evaluation(
        config.run.eval_every,
        lambda params: scores.dev(with_trained(config, untrained, params)),
        best_metric,
        lambda params, *_: save_trained(config, untrained, params, "best", card),
        lambda: hub.is_whole(config.run.output_dir / "best"),
    )


def say_start(config: Config, start: int, total: int) -> None:
    """Say where a seed's run begins, and how it is kept from being lost."""
    run = config.run
    steps = counted(total, "step")
    if start:
        begins = f"{run.output_dir}: continues at step {start} of {total}"
    elif run.resume:
        begins = f"{run.output_dir}: no checkpoint to continue from, so it starts anew: {steps}"
    else:
        begins = f"{run.output_dir}: {steps}"
    minutes = counted(run.checkpoint_minutes, "minute")
    also = f", every {counted(run.checkpoint_steps, 'step')}" if run.checkpoint_steps else ""
    say(
        f"{begins}; a checkpoint is written every {minutes}{also} and on "
        "Ctrl-C, from which --resume (in Python resume=True) continues. The first step is being "
        "compiled, which takes a minute or so on a CPU"
    )


def start_scores(
    encoder: SentenceEncoder, scores: Scores, test: Mapping[str, Any] | None
) -> StartScores:
    """Score a model before training on dev, and find what will choose the best one."""
    dev = scores.dev(encoder)
    return StartScores(dev, test, scores.best_metric or next(iter(dev), None))


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


@contextmanager
def naming_text(config: Config) -> Iterator[None]:
    """Add to the news of another training text where this one is from."""
    try:
        yield
    except ChangedSettings as error:
        if "text" not in error.names:
            raise
        data = config.data
        files = ", ".join(map(str, data.train_files))
        source = files or f"the data set {data.dataset!r}"
        raise ChangedSettings(f"{error}; the text at hand is {source}", error.names) from None


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
            "tokens at most; give that or less"
        )
    architecture, params = hub.load_params(core, architecture, config.model.num_layers)
    if (rate := config.model.dropout) is not None:
        architecture = dataclasses.replace(
            architecture, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate
        )
    dtype = jnp.dtype(config.model.dtype)
    tokenizer = load_tokenizer(folder, config.model.pooling)
    return Model(architecture, params, tokenizer, config.model.pooling, dtype)


def start_digest(config: Config) -> dict[str, str]:
    """Return a digest of the encoder that training starts from, under the name that runs record.

    A folder's path says nothing of it: another model may lie there when a run is resumed. Where it
    is gone, which a finished run does not mind, there is none.
    """
    try:
        folder = hub.encoder_folder(hub.find_model(config.model.model))
        return {"start": hub.encoder_digest(folder)}
    except FileNotFoundError:
        return {}


def load_tokenizer(folder: Path, pooling: str) -> Tokenizer:
    """Load the tokenizer of a model's folder, which is used with this pooling."""
    settings = hub.read_settings(folder, pooling)
    return Tokenizer.from_folder(hub.encoder_folder(folder), settings.do_lower_case)


def mask_token(config: Config) -> str | None:
    """Return how the tokenizer of the model that training starts from writes a mask."""
    folder = hub.find_model(config.model.model)
    return load_tokenizer(folder, config.model.pooling).mask_token


def trained_encoder(config: Config, model: Model, params: Any) -> SentenceEncoder:
    """Make the encoder of parameters that are being trained, used as its start folder says."""
    objective = config.objective
    assert not isinstance(objective, FlowConfig)
    folder = hub.find_model(config.model.model)
    return SentenceEncoder(
        model.config,
        exported(config, params),
        model.tokenizer,
        settings_without_transform(folder, objective.export_pooling(config.model.pooling)),
        dtype=config.model.dtype,
        tokenizer_folder=hub.encoder_folder(folder),
        origin=start_of(config, folder),
    )


def start_of(config: Config, folder: Path) -> hub.Origin:
    """Say for the card which model training starts from, which lies in a folder."""
    origin = hub.read_origin(config.model.model, folder)
    return origin._replace(num_layers=config.model.num_layers)


def settings_without_transform(folder: Path, pooling: str) -> hub.EncoderSettings:
    """Read how a start folder is used, with another pooling and without its transform.

    Its embeddings are not truncated then: that was said of what the transform gives.
    """
    settings = hub.read_settings(folder, pooling)
    if (transform := hub.read_transform(folder)) is None:
        return settings
    say(f"{folder} ends with a {transform.kind}, which is left out: training is of the encoder")
    return dataclasses.replace(settings, truncate_dim=None)


def with_trained(config: Config, encoder: SentenceEncoder, params: Any) -> SentenceEncoder:
    """Return the same encoder with parameters that are being trained."""
    return encoder.with_params(exported(config, params))


def save_trained(
    config: Config, encoder: SentenceEncoder, params: Any, name: str, card: Card
) -> None:
    """Write parameters that are being trained as a model of the run, with the objective's own.

    Its card has no scores until `write_results` writes them.
    """
    assert not isinstance(config.objective, FlowConfig)
    with hub.model_folder(config.run.output_dir / name) as folder:
        with_trained(config, encoder, params).save_pretrained(folder)
        config.objective.save(folder, jax.tree.map(np.asarray, params))
        hub.write_card(folder, card(None))


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
        ("wandb", run.wandb, None),
        ("checkpoint_minutes", run.checkpoint_minutes, 10.0),
    ):
        if value != only:
            raise ValueError(f"{name} is {value!r}; a flow is fitted with {only!r} alone")
    if jax.process_count() > 1:
        raise ValueError("a flow is fitted by one process")
    if run.max_steps is not None:
        raise ValueError(
            f"max_steps is {run.max_steps}; a flow is fitted for whole epochs: leave it out"
        )
    if run.epochs != int(run.epochs):
        raise ValueError(
            f"epochs is {run.epochs}; a flow is fitted for whole epochs: give a whole number"
        )
    if run.eval_every != RunConfig.eval_every:
        raise ValueError(
            f"eval_every is {run.eval_every}, which has no effect on a flow; leave it out"
        )


def train_flow_seed(
    config: Config,
    data: TrainingData,
    scores: Scores,
    started_from: dict[str, str],
    before: Before,
) -> dict[str, Any]:
    """Fit a flow to the frozen encoder's vectors, or reuse its finished run; see `train_seed`."""
    run, objective = config.run, config.objective
    assert isinstance(objective, FlowConfig)
    fixed = fixed_fields(config, data.text.fingerprint) | started_from | scores.fixed()
    with naming_text(config):
        finished = finished_results(config, fixed)
    if finished is not None:
        return finished
    encoder = frozen_encoder(config)
    start_folder(config)
    test_before = score_before(encoder, scores, before) if run.test_before else None
    started = time.perf_counter()
    start = start_scores(encoder, scores, test_before)
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
        progress=None,
        state_folder=run.output_dir / CHECKPOINTS,
        save_every=run.checkpoint_steps,
        resume=run.resume,
    )
    fitted = encoder.with_transform(flow)
    card = card_of(fitted, training_facts(config, data, data.text, flow.steps, scores))
    if jax.process_index() == 0:
        for name in ("best", "last"):
            fitted.save_pretrained(run.output_dir / name)
            hub.write_card(run.output_dir / name, card(None))
    metrics = dict(scores.dev(fitted))
    best = {"step": flow.steps, "value": metrics.get(start.metric or ""), "metrics": metrics}
    result = FitResult(None, flow.steps, None, best)
    seconds = time.perf_counter() - started
    return write_results(config, scores, fixed, result, seconds, start, card)


def frozen_encoder(config: Config) -> SentenceEncoder:
    """Make the encoder that a flow is fitted to, used as its start folder says but for lengths.

    Its vectors are neither scaled nor truncated, since the flow takes them whole.
    """
    folder = hub.find_model(config.model.model)
    model = load_model(config)
    settings = settings_without_transform(folder, config.model.pooling)
    return SentenceEncoder(
        model.config,
        dict(model.params),
        model.tokenizer,
        dataclasses.replace(
            settings, max_length=config.data.max_length, normalize=False, truncate_dim=None
        ),
        dtype=config.model.dtype,
        tokenizer_folder=hub.encoder_folder(folder),
        origin=start_of(config, folder),
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
    known = dict.fromkeys(n for n in results["settings"] if n not in ("dataset", "start"))
    check_same_settings(file, results["settings"], {**known, **fixed})
    if not hub.is_whole(folder / "best") and latest_step(folder / CHECKPOINTS) is not None:
        say(f"{folder} is finished, but its model best is gone; its checkpoints give it again")
        return None
    say(f"{folder} is finished already; reusing it")
    return results


def start_folder(config: Config) -> None:
    """Write the configuration into the run's folder."""
    if jax.process_index() == 0:
        io.write_json(config.run.output_dir / RUN, recorded(config))
