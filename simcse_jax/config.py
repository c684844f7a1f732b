"""The configuration of a training run: model, data, objective, optimizer, run.

A configuration is a name of `CONFIGS`, a JSON file, or a Python file that defines ``CONFIG``; each
of its fields has a name of its own, by which it is changed: `replace(config, batch_size=32)` in
Python, ``--batch-size 32`` on the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import numbers
import os
import sys
import traceback
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from simcse_jax import hosts, io
from simcse_jax.checks import (
    check_between,
    check_count,
    check_positive,
    check_seed,
    check_seeds,
    check_type,
    check_types,
    did_you_mean,
    is_of,
    quoted,
)
from simcse_jax.data.datasets import DataConfig
from simcse_jax.data.pairs import COLUMNS
from simcse_jax.models.pooling import layers_and_reduction
from simcse_jax.objectives import (
    ESimCSE,
    MaskedLM,
    ObjectiveConfig,
    Sbert,
    SimCSE,
    SimCSEPlusPlus,
    WhitenedCSE,
)
from simcse_jax.process import Interrupted
from simcse_jax.training.devices import Parallel
from simcse_jax.training.optimizer import OptimizerConfig
from simcse_jax.transforms.flow_config import AUTHORS_OPTIMIZER, FlowConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The pretrained model that training starts from."""

    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id such as bert-base-uncased."""
    pooling: str = "mean"
    """How the encoder's output becomes one vector: cls, mean, max, mean-sqrt-len,
    weighted-mean, last-token, last-2, first-last, embedding-last, layer-K or ditto-LAYER-HEAD; or
    several of the last layer's side by side, such as cls+mean."""
    num_layers: int | None = None
    """Keep the first so many layers of the encoder; default: all."""
    dropout: float | None = None
    """The dropout rate of the encoder while it trains; default: the model's own."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type to compute in; parameters are float32."""

    def __post_init__(self) -> None:
        check_types(self)
        layers_and_reduction(self.pooling)
        if self.dropout is not None:
            check_between("dropout", self.dropout, 0, 1)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How long a run takes, what is measured, and where everything goes."""

    output_dir: Path = Path("runs/run")
    """The folder of the run: models, metrics, checkpoints, results."""
    epochs: float = 1.0
    """How often the data is seen."""
    max_steps: int | None = None
    """The number of updates, instead of epochs."""
    eval_data: Path | None = None
    """SentEval's folder: STS-B dev chooses the best model, STS-B test is scored at the end.
    Or a .csv, .tsv, .jsonl or .parquet file of pairs with a score, for both. Default: the embedded
    Lee corpus for both."""
    eval_columns: tuple[str, ...] = COLUMNS
    """The columns of the pairs in eval_data, by their names: first sentence, second sentence,
    score."""
    all_tasks: bool = False
    """Score all seven STS tasks at the end, not STS-B alone."""
    test_before: bool = False
    """Score the test before training too."""
    eval_every: int = 125
    """The number of steps between two evaluations."""
    checkpoint_minutes: float = 10.0
    """The number of minutes between two checkpoints, from which resume continues; Ctrl-C and
    SIGTERM write one too."""
    checkpoint_steps: int | None = None
    """Write a checkpoint every so many steps as well; default: by minutes alone."""
    seed: int = 42
    """The seed of the run: of the order of the data, the fresh parameters and the dropout."""
    seeds: tuple[int, ...] = ()
    """Train once for each of these seeds, in a folder of its own; the closing table then has mean
    and standard deviation."""
    grad_cache_chunks: int = 1
    """Cut each device's batch into so many chunks for the encoder (GradCache): memory is that of a
    chunk, loss and gradient stay those of the whole batch."""
    parallel: Parallel = "shard_map"
    """What maps the step over the devices: shard_map, or pmap; the numbers are the same."""
    wandb: str | None = None
    """Log to Weights & Biases too, in the project of this name, under the name of output_dir."""
    resume: bool = False
    """Continue an interrupted run; a finished one is reused."""
    distributed: bool = False
    """This is one of several processes that train together. TPU pods, Slurm and Open MPI say who
    they are; elsewhere give the three options that follow."""
    coordinator: str | None = None
    """HOST:PORT of the process with process id 0, for all processes the same."""
    num_processes: int | None = None
    """How many processes train together."""
    process_id: int | None = None
    """The number of this process among them, from 0."""
    join_timeout: int = 120
    """Wait so many seconds for the other processes to start."""

    def __post_init__(self) -> None:
        check_types(self)
        check_count("eval_every", self.eval_every)
        check_between("checkpoint_minutes", self.checkpoint_minutes, 0, 1_000_000, "(]")
        if self.checkpoint_steps is not None:
            check_count("checkpoint_steps", self.checkpoint_steps)
        check_count("grad_cache_chunks", self.grad_cache_chunks)
        check_count("join_timeout", self.join_timeout)
        if self.max_steps is not None:
            check_count("max_steps", self.max_steps)
        check_positive("epochs", self.epochs, finite=True)
        check_seed("seed", self.seed)
        check_seeds(self.seeds)
        hosts.check_processes(
            self.distributed, self.coordinator, self.num_processes, self.process_id
        )

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of updates: ``max_steps``, or ``epochs`` times those of an epoch.

        Raises:
            ValueError: more than a step counter holds.
        """
        steps = self.max_steps or max(1, round(self.epochs * steps_per_epoch))
        if steps >= 2**31:
            raise ValueError(f"the run would take {steps:.1e} steps; fewer than 2**31 are possible")
        return steps


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run."""

    objective: ObjectiveConfig | FlowConfig
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        # Of a class itself, SimCSE for SimCSE(), is_dataclass is true as well.
        if isinstance(self.objective, type) or not dataclasses.is_dataclass(self.objective):
            raise ValueError(
                f"the objective is {quoted(self.objective)}; it must be one such as SimCSE()"
            )
        for name, kind in _SECTIONS.items():
            if not isinstance(section := getattr(self, name), kind):
                raise ValueError(f"{name} is {quoted(section)}; it must be a {kind.__name__}(...)")
        field_names(self)


OBJECTIVES: dict[str, type] = {
    "simcse": SimCSE,
    "whitened_cse": WhitenedCSE,
    "simcse_plus_plus": SimCSEPlusPlus,
    "esimcse": ESimCSE,
    "sbert": Sbert,
    "masked_lm": MaskedLM,
    "flow": FlowConfig,
}
"""The objectives by the names that JSON files call them."""

_SECTIONS = {
    "model": ModelConfig,
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "run": RunConfig,
}
# Places (the text has a fingerprint), what is asked for, and what moves no number: these may differ
# when a run is resumed.
_FREE = {
    *("output_dir", "eval_data", "train_files", "test_files", "dataset_source", "data_seed"),
    *("label_column", "score_column", "highest_score", "eval_columns"),
    *("resume", "seeds", "all_tasks", "parallel", "checkpoint_steps", "checkpoint_minutes"),
    *("wandb", "distributed", "coordinator", "num_processes", "process_id", "join_timeout"),
}

NOT_OF_A_FLOW = (
    *("dropout", "positives", "share", "window", "max_steps", "eval_every"),
    *("grad_cache_chunks", "parallel", "wandb", "checkpoint_minutes"),
    *("distributed", "coordinator", "num_processes", "process_id", "join_timeout"),
)
"""The fields that change nothing of a flow: its encoder is frozen, and one process fits it."""


def field_names(config: Config) -> dict[str, str]:
    """Return the section of every field of a configuration, by the field's name."""
    found: dict[str, str] = {}
    for section in dataclasses.fields(config):
        for field in dataclasses.fields(getattr(config, section.name)):
            if field.name in found:
                raise ValueError(
                    f"{section.name} and {found[field.name]} both have a field {field.name!r}: "
                    "rename the objective's, fields are changed by their names alone"
                )
            found[field.name] = section.name
    return found


# ---------------------------------------------------------------------------------------------
# The configurations of the papers
# ---------------------------------------------------------------------------------------------

# Sentence-BERT's: one epoch, batch 16, Adam with learning rate 2e-5 after a warm-up of 10 %.
_SBERT_OPTIMIZER = OptimizerConfig(learning_rate=2e-5, warmup_ratio=0.1)
_SBERT_DATA = DataConfig(batch_size=16, max_length=128)

CONFIGS: dict[str, Config] = {
    "unsup_simcse": Config(
        SimCSE(head="train_only"),
        ModelConfig(pooling="cls"),
        DataConfig(batch_size=64),
        OptimizerConfig(learning_rate=3e-5),
        RunConfig(Path("runs/unsup_simcse")),
    ),
    "sup_simcse": Config(
        SimCSE(head="train_and_test", mlm_decoder="copied"),
        ModelConfig(pooling="cls"),
        DataConfig(dataset="embedded_triplets", batch_size=512),
        OptimizerConfig(learning_rate=5e-5),
        RunConfig(Path("runs/sup_simcse"), epochs=3),
    ),
    "whitened_cse": Config(
        WhitenedCSE(),
        ModelConfig(pooling="cls"),
        DataConfig(batch_size=128),
        OptimizerConfig(learning_rate=1e-5),
        RunConfig(Path("runs/whitened_cse")),
    ),
    "simcse_plus_plus": Config(
        SimCSEPlusPlus(),
        ModelConfig(pooling="cls"),
        DataConfig(batch_size=64),
        OptimizerConfig(learning_rate=3e-5),
        RunConfig(Path("runs/simcse_plus_plus")),
    ),
    "esimcse": Config(
        ESimCSE(),
        ModelConfig(pooling="cls"),
        DataConfig(batch_size=64, positives="repeat-words"),
        OptimizerConfig(learning_rate=3e-5),
        RunConfig(Path("runs/esimcse")),
    ),
    "sbert_nli": Config(
        Sbert("softmax"),
        ModelConfig(pooling="mean"),
        dataclasses.replace(_SBERT_DATA, labelled_nli=True),
        _SBERT_OPTIMIZER,
        RunConfig(Path("runs/sbert_nli"), test_before=True),
    ),
    "sbert_stsb": Config(
        Sbert("regression"),
        ModelConfig(pooling="mean"),
        dataclasses.replace(_SBERT_DATA, dataset="stsb"),
        _SBERT_OPTIMIZER,
        RunConfig(Path("runs/sbert_stsb"), epochs=4, test_before=True),
    ),
    "sbert_wikisections": Config(
        Sbert("triplet"),
        ModelConfig(pooling="mean"),
        dataclasses.replace(_SBERT_DATA, dataset="wikipedia_sections"),
        _SBERT_OPTIMIZER,
        RunConfig(Path("runs/sbert_wikisections"), test_before=True),
    ),
    "mlm": Config(
        MaskedLM(),
        ModelConfig(pooling="mean"),
        DataConfig(batch_size=64, max_length=128),
        OptimizerConfig(learning_rate=5e-5, warmup_ratio=0.1),
        RunConfig(Path("runs/mlm")),
    ),
    "flow": Config(
        FlowConfig(),
        ModelConfig(pooling="first-last"),
        DataConfig(batch_size=64, max_length=64),
        OptimizerConfig(**AUTHORS_OPTIMIZER),
        RunConfig(Path("runs/flow"), test_before=True),
    ),
}
"""The configurations that `train` knows by name: the papers' settings for BERT-base, but for the
model, which is the embedded MiniLM, and the text, which is the embedded Wikipedia's."""

DESCRIPTIONS: dict[str, str] = {
    "unsup_simcse": "Unsupervised SimCSE (Gao et al. 2021, section 3): the positive of a sentence "
    "is the sentence itself under another dropout mask.",
    "sup_simcse": "Supervised SimCSE (Gao et al. 2021, section 4): the positive is an entailed "
    "sentence, a contradiction is the hard negative. Without NLI at hand: section triplets of "
    "Wikipedia.",
    "whitened_cse": "WhitenedCSE (Zhuo et al. 2023): unsupervised SimCSE with two positives, of "
    "vectors that are whitened in the batch in shuffled groups of their channels.",
    "simcse_plus_plus": "SimCSE++ (Xu et al. 2023): unsupervised SimCSE whose negatives have no "
    "dropout, and a loss that contrasts dimensions against a collapse of the spectrum.",
    "esimcse": "ESimCSE (Wu et al. 2022): unsupervised SimCSE whose positives say some words "
    "twice, and whose negatives are also those of earlier batches, embedded by a slower encoder.",
    "sbert_nli": "Sentence-BERT on NLI (Reimers & Gurevych 2019, section 3): a softmax over "
    "(u, v, |u - v|) tells entailment, neutral and contradiction apart.",
    "sbert_stsb": "Sentence-BERT on the STS benchmark (section 4.2): the cosine of a pair is "
    "fitted to its score. Needs SentEval's folder as eval_data, or train_files of pairs with a "
    "score_column.",
    "sbert_wikisections": "Sentence-BERT on Wikipedia's sections (section 4.4): two sentences of "
    "one section are brought nearer to each other than to one of another section.",
    "mlm": "Continued pretraining by masked language modelling (domain adaptation), on the text "
    "that the model is to know.",
    "flow": "BERT-flow (Li et al. 2020): an invertible network maps the frozen encoder's vectors "
    "to a Gaussian; the model is the encoder with that transform.",
}
"""What each of `CONFIGS` is, in a sentence or two."""


# ---------------------------------------------------------------------------------------------
# Changing, reading, writing
# ---------------------------------------------------------------------------------------------


def replace(config: Config, **changes: Any) -> Config:
    """Return the configuration with some of its fields changed, whatever section they are in.

    Example:
        >>> replace(CONFIGS["unsup_simcse"], batch_size=128, temperature=0.1).data.batch_size
        128

    Raises:
        ValueError: there is no such field, or a value that it cannot have.
    """
    sections = field_names(config)
    by_section: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if name not in sections:
            raise ValueError(
                f"a configuration of this objective has no field {quoted(name)}; it has "
                f"{', '.join(sorted(sections))}{did_you_mean(name, sections)}"
            )
        hint = typing.get_type_hints(type(getattr(config, sections[name])))[name]
        by_section.setdefault(sections[name], {})[name] = _typed(hint, value, name)
    return dataclasses.replace(
        config,
        **{
            section: dataclasses.replace(getattr(config, section), **fields)
            for section, fields in by_section.items()
        },
    )


def load_config(name: str | Path) -> Config:
    """Find a configuration: a name of `CONFIGS`, a JSON file, or a Python file with ``CONFIG``.

    Raises:
        FileNotFoundError: there is no such name or file.
        ValueError: the file does not hold a configuration; the message names file and field.
    """
    if not isinstance(name, str | os.PathLike):
        raise ValueError(
            f"the configuration is {quoted(name)}; it must be a simcse_jax.config.Config, a file, "
            f"or a name: {', '.join(CONFIGS)}"
        )
    if str(name) in CONFIGS:
        return CONFIGS[str(name)]
    path = Path(name)
    if not io.is_there(path) or not path.is_file():
        # What looks like a path is a file that is missing.
        is_name = path.name == str(name) and not path.suffix
        near = did_you_mean(str(name), CONFIGS) if is_name else ""
        raise FileNotFoundError(
            f"there is no configuration {str(name)!r}: give one of {', '.join(CONFIGS)}, a .json "
            f"file, or a .py file that defines CONFIG{near}"
        )
    if path.suffix == ".py":
        config = getattr(_run_file(path), "CONFIG", None)
        if not isinstance(config, Config):
            raise ValueError(f"{path} does not define CONFIG, a simcse_jax.config.Config")
        return config
    return from_json(io.read_json(path, fields_once=True), path)


def _run_file(path: Path) -> types.ModuleType:
    """Run a Python file as a module, whose classes have the source that help is read from.

    Nothing compiled is left beside the file.

    Raises:
        ValueError: it is no Python, or raises an error.
    """
    module = types.ModuleType(f"simcse_jax_configuration.{path.stem}")
    module.__file__ = str(path.absolute())
    sys.modules[module.__name__] = module
    try:
        exec(compile(path.read_bytes(), module.__file__, "exec"), module.__dict__)
    except SyntaxError as error:
        line = "" if error.lineno is None else f", line {error.lineno}"
        raise ValueError(f"{path}{line}: not Python ({error.msg})") from None
    except Interrupted:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        number = max((f.lineno or 0 for f in frames if f.filename == module.__file__), default=0)
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{path}, line {number}: {kind}{error}") from error
    return module


def to_json(config: Config) -> dict[str, Any]:
    """Return the configuration as JSON, from which `from_json` makes it again."""
    kinds = {kind: name for name, kind in OBJECTIVES.items()}
    kind = type(config.objective)
    value = dataclasses.asdict(config)
    value["objective"] = {"type": kinds.get(kind, kind.__qualname__), **value["objective"]}
    return {section: _plain(fields) for section, fields in value.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(x) for name, x in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(x) for x in value]
    return str(value) if isinstance(value, Path) else value


def from_json(value: Any, where: Path | str = "the configuration") -> Config:
    """Make a configuration of what `to_json` returned; fields that are absent have their default.

    Raises:
        ValueError: an unknown section, field or objective, or a value of another type; the message
            names ``where`` and the field.
    """
    known = {"objective", *_SECTIONS}
    if not isinstance(value, Mapping) or not value.keys() <= known:
        raise ValueError(f"{where} must be a JSON object of {', '.join(sorted(known))}")
    objective = value.get("objective")
    kind = objective.get("type") if isinstance(objective, Mapping) else None
    if not isinstance(kind, str) or kind not in OBJECTIVES:
        raise ValueError(
            f"{where}: objective must have a type, one of {', '.join(OBJECTIVES)}, not "
            f"{quoted(kind)}; an objective of your own is configured by a .py file that defines "
            "CONFIG"
        )
    assert isinstance(objective, Mapping)
    fields = {name: x for name, x in objective.items() if name != "type"}
    return Config(
        _section(OBJECTIVES[kind], fields, f"{where}: objective"),
        **{
            name: _section(section, value.get(name, {}), f"{where}: {name}")
            for name, section in _SECTIONS.items()
        },
    )


def _section(section: type, fields: Any, where: str) -> Any:
    hints = typing.get_type_hints(section)
    names = {field.name for field in dataclasses.fields(section)}
    known = ", ".join(sorted(names))
    if not isinstance(fields, Mapping):
        raise ValueError(
            f"{where} is {quoted(fields)}; it must be a JSON object of {known}, or left out"
        )
    if unknown := sorted(fields.keys() - names):
        near = did_you_mean(unknown[0], names)
        raise ValueError(f"{where} has no field {quoted(unknown[0])}; it has {known}{near}")
    try:
        return section(**{n: _typed(hints[n], x, f"{where}.{n}") for n, x in fields.items()})
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where not in str(error) else error) from None


def _typed(hint: Any, value: Any, where: str) -> Any:
    """Turn a value, of JSON or of a caller, into one of the type that a field is annotated with."""
    value = _converted(hint, value)
    check_type(where, value, hint)
    return value


def _converted(hint: Any, value: Any) -> Any:
    """Make NumPy's numbers Python's, lists tuples and strings paths; leave the rest to be judged.

    A bool is no number.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, typing.Union):
        kinds = [arg for arg in args if arg is not type(None)]
        found = [_converted(kind, value) for kind in kinds]
        fits = (x for x, kind in zip(found, kinds, strict=True) if is_of(kind, x))
        return None if value is None else next(fits, found[0])
    if origin is tuple:
        # A single one is obviously meant where several are possible.
        several = value if isinstance(value, list | tuple) else (value,)
        return tuple(_converted(args[0], item) for item in several)
    accepted = {int: numbers.Integral, float: numbers.Real, Path: str | os.PathLike}.get(hint)
    if hint is Path and value == "":  # which would be the folder that one is in
        return value
    if accepted is not None and isinstance(value, accepted) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # of a whole number that no float can be
            return hint(value)
    return value


def recorded(config: Config) -> dict[str, Any]:
    """Return the configuration of a run as JSON, with the share that it takes by default said."""
    sections = to_json(config)
    sections["data"]["share"] = config.data.share_of_words
    return sections


def fixed_fields(config: Config, fingerprint: str | None = None) -> dict[str, Any]:
    """Return what must not change when a run is resumed, by the fields' names, as JSON.

    Args:
        config: of one seed.
        fingerprint: of the training text; without it that is left out.
    """
    sections = recorded(config)
    fixed = {name: x for fields in sections.values() for name, x in fields.items()}
    free = _FREE | {"dataset"} if config.data.train_files else _FREE  # of files it says nothing
    text = {} if fingerprint is None else {"text": fingerprint}
    return {name: x for name, x in fixed.items() if name not in free} | text
