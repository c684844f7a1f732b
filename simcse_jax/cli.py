"""The console command: ``simcse-jax encode``, ``whiten``, ``train`` and ``evaluate``."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import logging
import os
import select
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from simcse_jax import __version__, hosts
from simcse_jax.checks import check_count, counted, did_you_mean, first_twice, one_line, quoted
from simcse_jax.extras import MissingExtra
from simcse_jax.help_texts import of_the_command_line, shown
from simcse_jax.io import (
    check_not_input,
    is_special,
    read_json,
    spoken,
    write_json,
    written_file,
)
from simcse_jax.process import SIGTERM_EXIT_CODE, Interrupted, Terminated, unwinding_on_sigterm

if TYPE_CHECKING:
    from simcse_jax.config import Config
    from simcse_jax.encoder import SentenceEncoder


@dataclasses.dataclass(frozen=True)
class Model:
    """Which model, and how it is used."""

    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id."""
    pooling: str | None = None
    """How the encoder's output becomes one vector: cls, pooler, mean, max, mean-sqrt-len,
    weighted-mean, last-token, last-2, first-last, embedding-last, layer-K or ditto-LAYER-HEAD; or
    several of the last layer's side by side, such as cls+mean. Default: as the model says."""
    num_layers: int | None = None
    """Keep the first so many layers of the encoder; default: all."""
    max_length: int | None = None
    """Cut sentences to so many tokens; default: as the model says."""
    dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    """What the encoder computes in; the vectors are float32. In int8 the dense layers multiply
    whole numbers of 8 bits; with jax 0.12 it is the fastest on a CPU."""
    batch_size: int | None = None
    """About how many sentences the device gets at a time; default: 64 on a CPU, 2048 on a GPU or
    TPU."""

    def check(self) -> None:
        """Raise ValueError for a size that no model has, before any file is read."""
        for name, least in (("num_layers", 1), ("max_length", 2), ("batch_size", 1)):
            if (value := getattr(self, name)) is not None:
                check_count(name, value, least)

    def load(self):
        """Return the encoder, used as its folder says unless asked otherwise."""
        from simcse_jax.encoder import SentenceEncoder

        return SentenceEncoder.from_pretrained(
            self.model,
            pooling=self.pooling,
            num_layers=self.num_layers,
            max_length=self.max_length,
            dtype=self.dtype,
        )


@dataclasses.dataclass(frozen=True)
class Processes:
    """Several processes, on one host or many, that share the work."""

    distributed: bool = False
    """This is one of several processes, each of which encodes its share of the input and writes a
    file of its own, vectors-00003-of-00016.npy. TPU pods, Slurm and Open MPI say who they are;
    elsewhere give the three options that follow."""
    coordinator: str | None = None
    """HOST:PORT of the process with process id 0, for all processes the same."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """The number of this process among them, from 0."""
    join_timeout: int = 120
    """Wait so many seconds for the other processes to start."""

    def check(self) -> None:
        """Raise ValueError where the options cannot be so."""
        check_count("join_timeout", self.join_timeout)
        hosts.check_processes(
            self.distributed, self.coordinator, self.num_processes, self.process_id
        )

    def join(self) -> None:
        """Join the others; see `simcse_jax.hosts.join`."""
        hosts.join(self.coordinator, self.num_processes, self.process_id, self.join_timeout)


@dataclasses.dataclass(frozen=True)
class Encode:
    """Encode text of any size, a sentence a row, into a NumPy file of float32 [n, D] or parquet."""

    input: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
    """The file: text in UTF-8 with a sentence a line, or .csv, .tsv, .jsonl or .parquet; '-' is
    standard input, of text, or of JSON lines where --column is given."""
    output: Path
    """The file to write: with the ending .parquet the columns of the input and one more,
    'embedding'; else a .npy file."""
    column: str | None = None
    """The field of a .jsonl file, or the column of a .csv, .tsv or .parquet file, that holds the
    sentences; default: text."""
    normalize: bool | None = None
    """Scale vectors to length one; default: as the model says."""
    resume: bool = False
    """Go on where a command that was killed or stopped has been, to the same bytes; without this
    option one that was begun is refused. Standard input must be given the same text again."""
    model: Annotated[Model, tyro.conf.arg(name="")] = Model()
    processes: Annotated[Processes, tyro.conf.arg(name="")] = Processes()

    def run(self) -> None:
        """Run the command."""
        self.model.check()
        self.processes.check()
        if self.processes.distributed:
            self._run_share()
        else:
            self._run_alone()

    def _run_alone(self) -> None:
        from simcse_jax import streaming

        check_not_input(self.output, [self.input])
        streaming.check_ending(self.output)
        source = streaming.open_source(self.input, self.column)
        encoder = self.model.load()  # before a folder is made for the output
        with streaming.partial_output(self.output, self.resume) as part:
            rows = streaming.encode_source(encoder, source, part, **self._options())
        self._tell(self.output, rows, encoder.dimension)

    def _run_share(self) -> None:
        """Encode this process's share of the input."""
        from simcse_jax import streaming

        if is_special(self.output):
            raise ValueError(
                f"{self.output} is no regular file; each process writes one of its own"
            )
        source = streaming.open_source(self.input, self.column)
        if source.rows is None:
            raise ValueError("standard input cannot be shared by several processes; give a file")
        self.processes.join()
        index, count = _agreed_place(self.input, source.rows, os.stat(self.input).st_size)
        start, stop = streaming.share_of(source.rows, index, count)
        shard = streaming.shard_of(self.output, index, count)
        check_not_input(shard, [self.input])
        streaming.check_ending(shard)
        encoder = self.model.load()  # before a folder is made for the output
        with streaming.partial_output(shard, self.resume) as part:
            share: dict[str, Any] = {"start": start, "stop": stop, "show_progress": index == 0}
            rows = streaming.encode_source(
                encoder, source, part, keep_progress=True, **share, **self._options()
            )
            # Who is done waits for the others, and keeps the progress until then: where one of
            # them is lost, all are started again, and what is done is not done again.
            hosts.wait_for_others()
        self._tell(shard, rows, encoder.dimension)

    def _options(self) -> dict[str, Any]:
        return {"batch_size": self.model.batch_size, "normalize": self.normalize}

    @staticmethod
    def _tell(output: Path, rows: int, dimension: int) -> None:
        tell(output, f"{one_line(str(output))}: float32 {[rows, dimension]}")


def _agreed_place(name: str, rows: int, size: int) -> tuple[int, int]:
    """Return the number of this process and how many there are, once all see the same input.

    Args:
        name: of the input.
        rows: of the input, as this process sees it.
        size: its bytes.

    Raises:
        ValueError: the processes do not see as many rows and bytes.
    """
    import jax
    from jax.experimental import multihost_utils

    # A device takes whole numbers below 2³¹.
    halves = np.asarray([*divmod(rows, 2**31), *divmod(size, 2**31)], np.int32)
    gathered = np.asarray(multihost_utils.process_allgather(halves)).reshape(-1, 2).tolist()
    seen = [high * 2**31 + low for high, low in gathered]
    for what, counts in (("rows", seen[::2]), ("bytes", seen[1::2])):
        if len(set(counts)) > 1:
            raise ValueError(
                f"{name} has {min(counts):,} {what} for one process and {max(counts):,} for "
                "another; give all of them the same file"
            )
    return jax.process_index(), jax.process_count()


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score a model on pairs of yours, or the seven STS tasks by the protocols all, mean, wmean."""

    data: Path | None = None
    """The folder that holds SentEval's STS/ and SICK/."""
    pairs: tuple[str, ...] = ()
    """Pairs of your own, each file a task: .csv, .tsv, .jsonl or .parquet files, or names of
    other libraries' data sets, hf:NAME[/CONFIG][:SPLIT] or tfds:NAME[/CONFIG][:SPLIT]."""
    columns: tuple[str, str, str] = ("sentence1", "sentence2", "score")
    """The columns of the pairs, by their names: first sentence, second sentence, score."""
    output: Path | None = None
    """A JSON file for the results."""
    tasks: tuple[str, ...] = ()
    """Some of STS12 STS13 STS14 STS15 STS16 STS-B SICK-R; default: all."""
    model: Annotated[Model, tyro.conf.arg(name="")] = Model()

    def run(self) -> None:
        """Run the command."""
        from simcse_jax.data.pairs import COLUMNS, read_pairs
        from simcse_jax.data.senteval import TASKS, StsTask, read_sts
        from simcse_jax.evaluation.sts import evaluate_sts, format_table, results_to_json

        self.model.check()
        if unknown := set(self.tasks) - set(TASKS):
            name = unknown.pop()
            raise ValueError(
                f"no STS task is called {name!r}; they are {' '.join(TASKS)}"
                f"{did_you_mean(name.upper(), TASKS)}"
            )
        if self.data is None and not self.pairs:
            raise ValueError("give --data, SentEval's folder, or --pairs, files of your own")
        if self.data is None and self.tasks:
            raise ValueError("--tasks has no effect without --data, SentEval's folder")
        if not self.pairs and self.columns != COLUMNS:
            raise ValueError("--columns has no effect without --pairs")
        if self.output is not None:
            check_not_input(self.output, self.pairs)
            check_is_result(self.output)
        tasks = [] if self.data is None else [*read_sts(self.data, self.tasks or TASKS).values()]
        own = [read_pairs(source, self.columns) for source in self.pairs]
        tasks += [StsTask(pairs.name, (pairs,)) for pairs in own]
        if twice := first_twice([task.name for task in tasks]):
            raise ValueError(f"two tasks are called {twice!r}; rename the file of one of them")
        output: AbstractContextManager[Path | None] = (
            nullcontext() if self.output is None else written_file(self.output)
        )
        encoder = self.model.load()  # before a folder is made for the output
        with output as temporary:
            results = evaluate_sts(
                lambda sentences: encoder.encode(sentences, batch_size=self.model.batch_size),
                tasks,
            )
            settings = dataclasses.asdict(self.model) | {"pooling": encoder.settings.pooling}
            if temporary is not None:
                write_json(temporary, results_to_json(results) | {"settings": settings})
        layers = self.model.num_layers
        cut = "" if layers is None else f", first {counted(layers, 'layer')}"
        title = f"{self.model.model}{cut}, {encoder.settings.pooling} pooling"
        text = f"{title}\n\n{format_table(results)}"
        if self.output:
            text += f"\n\nresults in {self.output}"
        tell(self.output, text)


@dataclasses.dataclass(frozen=True)
class Whiten:
    """Fit BERT-whitening to text without labels, and write the model with it at its end."""

    input: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
    """The text, a thousand sentences or more: as for `simcse-jax encode`."""
    output_dir: Path
    """The folder that gets the model: new, empty, or one of a model that it replaces."""
    column: str | None = None
    """The field of a .jsonl file, or the column of a .csv, .tsv or .parquet file, that holds the
    sentences; default: text."""
    k: int | None = None
    """Keep so many dimensions, those of the largest variance; default: all."""
    model: Annotated[Model, tyro.conf.arg(name="")] = Model()

    def run(self) -> None:
        """Run the command."""
        from simcse_jax import hub, streaming
        from simcse_jax.progress import Progress
        from simcse_jax.transforms import Whitening

        self.model.check()
        if self.k is not None:
            check_count("k", self.k)
        source = streaming.open_source(self.input, self.column)
        if source.rows == 0:
            raise ValueError(f"{self.input} has no sentences; whitening needs a thousand or more")
        encoder = self.model.load()
        self._refuse_finished(encoder)
        if self.k is not None and self.k > encoder.dimension:
            raise ValueError(f"k is {self.k}; the model's vectors have {encoder.dimension}")
        pieces = source.read(0, None, False)
        with (
            hub.model_folder(self.output_dir) as folder,
            Progress("encode", source.rows, 0, None, unit=" sentences", delay=1) as progress,
        ):
            vectors = encoder.encode_stream(
                (sentence for piece in pieces for sentence in piece.sentences),
                batch_size=self.model.batch_size,
                normalize=False,
                on_progress=streaming.rate_writer(progress, source.rows),
            )
            try:
                whitening = Whitening.fit(vectors, self.k)
            except ValueError as error:  # `floor` is an option of Python's
                told = str(error).replace(", or set floor", "")
                raise ValueError(f"{spoken(self.input)}: {told}") from error
            encoder.with_transform(whitening).save_pretrained(folder)
        print(
            one_line(
                f"{self.output_dir}: {self.model.model}, {encoder.settings.pooling} pooling, "
                f"whitened from {encoder.dimension} to "
                f"{counted(whitening.output_dim, 'dimension')} by {progress.done:,} sentences"
            )
        )

    def _refuse_finished(self, encoder: SentenceEncoder) -> None:
        """Refuse a model whose vectors are changed after the pooling, since that would be lost."""
        what = ""
        if encoder.transform is not None:
            what = f"ends with a {encoder.transform.kind}"
        elif encoder.settings.truncate_dim is not None:
            what = f"cuts its vectors to {encoder.settings.truncate_dim} dimensions"
        if what:
            raise ValueError(
                f"{self.model.model} {what}, which whitening would replace; whiten the model that "
                "it was made of, or in Python encoder.fit(Whitening, sentences)"
            )


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a model; `simcse-jax train CONFIG --help` has every option."""

    config: tyro.conf.Positional[str]
    """The configuration: a built-in name, a .json file, or a .py file that defines CONFIG."""


def tell(output: Path | None, text: str) -> None:
    """Print for people: not among what went to a pipe, which may be standard output itself."""
    text = "\n".join(map(one_line, text.split("\n")))  # a file's name may hold anything
    print(text, file=sys.stderr if output is not None and is_special(output) else sys.stdout)


def main(args: list[str] | None = None) -> None:
    """Run the command; what the user can mend is one line on standard error and exit code 2."""
    try:
        run_command(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
    except BrokenPipeError:
        if not nobody_reads():
            raise
        # Python itself tries to write the rest at its end, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def run_as_program() -> None:
    """Be the program ``simcse-jax``: `main`, and after SIGTERM an end that waits for nothing.

    A device that still computes calls back into a Python that is being taken down, which aborts.
    """
    try:
        main()
    except Terminated:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(SIGTERM_EXIT_CODE)


def nobody_reads() -> bool:
    """Tell whether standard output is a pipe that was closed, such as that of ``| head``."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def run_command(args: list[str]) -> None:
    """Run the command that the arguments name."""
    if args == ["--version"]:
        print(f"simcse-jax {__version__}")
        return
    if args[:1] == ["train"]:
        command = functools.partial(run_or_explain, lambda: train_command(args[1:]), resumed(args))
        hosts.run_as_child(command) if hosts.is_child() else command()
        return
    commands: dict[str, Callable[..., Any]] = {
        "encode": Encode,
        "whiten": Whiten,
        "train": Train,
        "evaluate": Evaluate,
    }
    if args and not args[0].startswith("-") and args[0] not in commands:
        near = did_you_mean(args[0], commands)
        known = ", ".join(commands)
        _print_error(f"there is no command {quoted(args[0])}; there are {known}{near}")
        raise SystemExit(2)
    run_or_explain(lambda: check_options(args))
    if args[1:2] == [""]:
        _print_error("the file is empty text; name a file")
        raise SystemExit(2)
    if args and args[0] in commands:  # reading the texts of all takes time at every start
        commands[args[0]] = shown(commands[args[0]])  # type: ignore[arg-type]
    chosen = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="simcse-jax",
        description="Encode sentences; whiten, train, evaluate encoders; --version tells which.",
        args=args,
    )
    if isinstance(chosen, Encode) and chosen.processes.distributed and not hosts.is_child():
        raise SystemExit(hosts.watch(args))
    goes_on = isinstance(chosen, Encode) and not is_special(chosen.output)
    again = resumed(args) if goes_on else ""
    run = functools.partial(run_or_explain, lambda: run_chosen(chosen), again)
    hosts.run_as_child(run) if hosts.is_child() else run()


def resumed(args: list[str]) -> str:
    """Return the command that goes on where that of these arguments has been."""
    return shlex.join(["simcse-jax", *args, *([] if "--resume" in args else ["--resume"])])


def run_chosen(command: Encode | Whiten | Evaluate) -> None:
    """Run a command that was parsed."""
    sections = [command, *filter(dataclasses.is_dataclass, vars(command).values())]
    with naming_options({name for section in sections for name in vars(section)}):
        command.run()


@contextmanager
def naming_options(fields: Iterable[str]) -> Iterator[None]:
    """Call fields as they are typed, ``--batch-size``, in the errors that the block raises."""
    try:
        yield
    except (OSError, ValueError, TypeError, FloatingPointError) as error:
        if len(error.args) == 1:
            error.args = (of_the_command_line(str(error), fields),)
        raise


def train_command(args: list[str]) -> None:
    """Train by a configuration that is named first, with the options that follow it.

    Raises:
        FileNotFoundError: there is no such configuration.
        ValueError: no configuration is named, or it cannot be so.
    """
    from simcse_jax.config import CONFIGS, DESCRIPTIONS, field_names, load_config
    from simcse_jax.results import say
    from simcse_jax.trainer import train

    names = "\n".join(f"  {name:<20}{DESCRIPTIONS.get(name, '')}" for name in CONFIGS)
    usage = (
        "usage: simcse-jax train CONFIG [--option value ...]\n\n"
        "CONFIG is a .json file, a .py file that defines CONFIG, or one of:\n\n"
        f"{names}\n\nsimcse-jax train CONFIG --help lists the options of a configuration."
    )
    if not args or args[0] in ("-h", "--help"):
        print(usage)
        return
    if args[0].startswith("-"):
        raise ValueError(f"the configuration comes first: simcse-jax train CONFIG {args[0]} ...")
    config = load_config(args[0])  # whose errors are of a file, which has fields
    with naming_options(field_names(config)):
        config = override(config, args[0], args[1:])
        if config.run.distributed and not hosts.is_child():
            raise SystemExit(hosts.watch(["train", *args]))
        encoder = train(config)
    say(f"simcse_jax.SentenceEncoder.from_pretrained({str(encoder.tokenizer_folder)!r}) loads it")


def override(config: Config, name: str, args: list[str]) -> Config:
    """Change the fields of a configuration that the command line names."""
    from simcse_jax.config import DESCRIPTIONS, NOT_OF_A_FLOW, Config, field_names
    from simcse_jax.transforms.flow_config import FlowConfig

    check_options(args)
    given = words(args)
    if {"--train-files", "--dataset"} <= set(given):
        raise ValueError("--train-files and --dataset both say what to train on; leave one out")
    if "--dataset" in given and config.data.train_files:
        raise ValueError(
            "--dataset has no effect beside the files that the configuration trains on; leave it "
            "out, or take a configuration without files"
        )
    hidden = NOT_OF_A_FLOW if isinstance(config.objective, FlowConfig) else ()
    for option in given:
        if option.startswith("--") and option[2:].removeprefix("no-").replace("-", "_") in hidden:
            raise ValueError(f"{option} has no effect on a flow; leave it out")
    # The objective's own fields become options, so its type must be the one at hand.
    kinds = {f.name: type(getattr(config, f.name)) for f in dataclasses.fields(config)}
    values = {name: getattr(config, name) for name in kinds}
    # What everybody sets comes first in the help.
    options = field_names(config)
    for section in ("data", "run", "model", "optimizer", "objective"):
        value = values.pop(section)
        values[section] = shown(kinds[section], hidden, options, checked=False)(**vars(value))
    sections = [(name, type(value)) for name, value in values.items()]
    shape: Any = dataclasses.make_dataclass("Options", sections, frozen=True)
    without_sections: Any = tyro.conf.OmitArgPrefixes
    parsed = tyro.cli(
        without_sections[shape],
        prog=f"simcse-jax train {name}",
        description=DESCRIPTIONS.get(name, f"Train by {name}."),
        default=shape(**values),
        args=args,
    )
    return Config(**{name: kind(**vars(getattr(parsed, name))) for name, kind in kinds.items()})


def check_is_result(output: Path) -> None:
    """Refuse a file that is there and is no result of `evaluate`, a model's own one perhaps.

    Raises:
        FileExistsError: it is such a file.
    """
    if not output.is_file() or not output.stat().st_size:
        return
    try:
        found = read_json(output)
    except ValueError:
        found = None
    if not (isinstance(found, dict) and "tasks" in found):
        raise FileExistsError(
            f"{output} is there and is no result of evaluate, which would replace it; give another "
            "--output"
        )


def words(args: Sequence[str]) -> list[str]:
    """Return the words of a command line, options as they stand in the help.

    >>> words(["--train_files=a.txt"])
    ['--train-files', 'a.txt']
    """
    found = []
    for arg in args:
        option, equals, value = arg.partition("=")
        if not option.startswith("--"):
            found.append(arg)
            continue
        found.append(option.replace("_", "-"))
        if equals:
            found.append(value)
    return found


SEVERAL = (
    "--train-files",
    "--test-files",
    "--columns",
    "--eval-columns",
    "--seeds",
    "--tasks",
    "--pairs",
)
"""The options of several values."""


def check_options(args: Sequence[str], several: Iterable[str] = SEVERAL) -> None:
    """Refuse an option that is given twice, with an empty value, or with none of several values.

    Each would be as if it were not there: of an option given twice, only the last is read.

    Args:
        args: the words of a command line.
        several: the options of several values.

    Raises:
        ValueError: there is one; the message names it.
    """
    given: set[str] = set()
    option = ""
    for word, after in itertools.pairwise([*words(args), "--"]):
        if word.startswith("--"):
            option = word
            if option in given:
                raise ValueError(f"{option} is given twice; give it once, with all its values")
            given.add(option)
            if option in several and after.startswith("--"):
                raise ValueError(f"{option} is given without a value; name some, or leave it out")
        if option and after == "":  # of a variable that is not set
            raise ValueError(f"{option} is given an empty value; give another, or leave it out")


def run_or_explain(run: Callable[[], None], again: str = "") -> None:
    """Call ``run``; an error of the user's, numbers that are none, or a signal become one line.

    Args:
        run: the command.
        again: the command that goes on where a signal has ended this one; "" where none does.
    """
    explain_logs()
    goes_on = f"; it goes on by: {again}" if again else ""
    anew = f"; start it again by: {again}" if again else ""
    try:
        with unwinding_on_sigterm():
            run()
    except KeyboardInterrupt:
        _print_error(f"stopped by Ctrl-C{anew}")
        raise SystemExit(128 + signal.SIGINT) from None
    except Terminated:
        _print_error(f"stopped by SIGTERM{anew}")
        raise
    except Interrupted as error:
        _print_error(f"{error}{goes_on}")
        raise SystemExit(error.exit_code) from None
    except RuntimeError as error:
        no_device = "Unable to initialize backend" in str(error)
        if not no_device or os.environ.get("SIMCSE_JAX_TRACEBACK"):
            raise
        _print_error(f"JAX has no such device as JAX_PLATFORMS asks for: {error}")
        raise SystemExit(2) from None
    except (OSError, ValueError, TypeError, FloatingPointError, MissingExtra) as error:
        gone = isinstance(error, BrokenPipeError) and nobody_reads()
        if gone or os.environ.get("SIMCSE_JAX_TRACEBACK"):
            raise
        loss = hosts.loss_in(error)
        _print_error(str(error) if loss is None else hosts.lost_sentence(loss))
        own = loss is None and not isinstance(error, FloatingPointError)
        raise SystemExit(2 if own else 1) from None


def _print_error(sentence: str) -> None:
    print(f"error: {one_line(sentence)}", file=sys.stderr)


def explain_logs() -> None:
    """Write log lines for people; those of the libraries below us would bury our own.

    What they complain of, we raise as an error of one line.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler])  # unless an import has set up its own
    if not os.environ.get("SIMCSE_JAX_TRACEBACK"):
        for each in logging.getLogger().handlers:
            each.addFilter(is_not_from_below)
        sys.excepthook = print_what_ends_the_program
        sys.unraisablehook = pass_over_event_loops
        warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


def print_what_ends_the_program(
    kind: type[BaseException], error: BaseException, trace: Any
) -> None:
    """Print an exception that ends the program, and none of a callback from C++.

    After a checkpoint that could not be written there are dozens of them: its event loop is closed.
    """
    # C++ calls from threads of its own, or with Python below it that goes on.
    frame, here = inspect.currentframe(), threading.get_ident()
    if here == threading.main_thread().ident and frame is not None and frame.f_back is None:
        sys.__excepthook__(kind, error, trace)


def pass_over_event_loops(found: Any) -> None:
    """Print what a destructor raises, but for orbax's event loop after a checkpoint that failed."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(found.exc_traceback)]
    if not any(
        part in ("asyncio", "orbax", "uvloop") for file in files for part in Path(file).parts
    ):
        sys.__unraisablehook__(found)


def is_not_from_below(record: logging.LogRecord) -> bool:
    """Tell whether a log line is of no library that checkpoints rest on."""
    return record.name.partition(".")[0] not in ("absl", "asyncio", "orbax")


if __name__ == "__main__":
    run_as_program()
