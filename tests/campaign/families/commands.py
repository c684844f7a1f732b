"""The command line: options and files that are wrong, missing or odd."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import stat
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

from simcse_jax import cli
from simcse_jax.io import read_json
from tests.campaign.bases import GOLDEN, load
from tests.campaign.cases import Case, innermost, position, unclear
from tests.tiny_data import SENTENCES

LINES = ["a dog", "", "the man plays the flute", "THE CAT eats é", "a dog"]


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        code: its exit code.
        error: what it wrote to standard error.
        cause: the exception behind its one line.
        usage: whether the parser of options ended it, with a box that says how they are used.
    """

    code: int
    error: str
    cause: BaseException | None
    usage: bool


def run(arguments: list[str]) -> Ended:
    """Run the command in this process, as the console script does."""
    cause: BaseException | None = None
    code, usage = 0, False
    os.environ.pop("SIMCSE_JAX_TRACEBACK", None)
    with captured() as caught, quiet():
        try:
            cli.main(arguments)
        except SystemExit as stop:
            cause = stop.__context__
            last = innermost(stop.__traceback__, lambda frame: True)
            usage = last is not None and "tyro" in Path(position(last)[0]).parts
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
    return Ended(code, caught.text, cause, usage)


class Caught:
    """What was written to standard error, known once the block is done."""

    text = ""


@contextlib.contextmanager
def captured() -> Iterator[Caught]:
    """Catch what is written to standard error, by whatever library."""
    sys.stdout.flush()
    sys.stderr.flush()
    before, printed = os.dup(2), os.dup(1)
    # Through a pipe: a file would have its size limited together with the others.
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    pieces: list[bytes] = []

    def collect() -> None:
        while piece := os.read(reading, 1 << 16):
            pieces.append(piece)

    reader = threading.Thread(target=collect)
    reader.start()
    caught = Caught()
    try:
        yield caught
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(before, 2)
        os.dup2(printed, 1)
        os.close(before)
        os.close(printed)
        reader.join()
        os.close(reading)
        caught.text = b"".join(pieces).decode(errors="replace")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The library's own warnings may stand beside an error; they are not looked at here."""
    log = logging.getLogger("simcse_jax")
    handler = logging.NullHandler()
    log.addHandler(handler)
    log.propagate = False
    try:
        with warnings.catch_warnings(record=True):
            yield
    finally:
        log.removeHandler(handler)
        log.propagate = True


# What a run that is not at a terminal says of its progress, before whatever goes wrong.
_STEP = re.compile(r"(seed \d+: )?step \d+ of \d+, ")


def complaint(ended: Ended) -> str | None:
    """Say what is wrong with how a command failed."""
    if ended.code not in (1, 2):
        return f"exit code {ended.code}"
    if "Traceback" in ended.error:
        return f"a traceback: {ended.error[-300:]}"
    if ended.usage:
        return None if ended.code == 2 and ended.error.strip() else "no usage"
    shown = [line for line in ended.error.splitlines() if line.strip() and not _STEP.match(line)]
    if len(shown) != 1:
        return f"{len(shown)} lines on standard error: {ended.error[:400]}"
    if isinstance(ended.cause, Exception) and (reason := unclear(ended.cause, True)):
        return f"{reason}: {ended.error[:300]}"
    return None


def command(arguments: list[str], about: str, folder: Path, outputs: set[str], check: Any) -> Case:
    """Make a case of a command.

    Args:
        arguments: of the command.
        about: what is done.
        folder: holds whatever it is about.
        outputs: names of files and folders in it that the command may write.
        check: says what is wrong after exit code 0.
    """
    before = snapshot(folder)

    def go() -> Ended:
        ended = run(arguments)
        if ended.code and (problem := complaint(ended)) is None:
            line = ended.error.strip().removeprefix("error: ") or "a message"
            raise CommandError(line)
        if ended.code:
            raise Unclear(problem)
        return ended

    def after() -> str | None:
        return lost(before, folder, outputs)

    return Case(f"simcse-jax {about}", go, lambda _: check(), after, files=False)


class CommandError(ValueError):
    """The command ended as it should, with one line and an exit code."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())[:500]


class Unclear(RuntimeError):
    """The command ended otherwise."""


def snapshot(folder: Path) -> dict[str, Any]:
    """Return what lies in a folder: names, kinds, and the content of files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = path.lstat().st_mode
        name = str(path.relative_to(folder))
        if stat.S_ISREG(kind):
            found[name] = path.read_bytes()
        elif stat.S_ISLNK(kind):
            found[name] = os.readlink(path)
        else:
            found[name] = stat.S_IFMT(kind)
    return found


def lost(before: dict[str, Any], folder: Path, outputs: set[str]) -> str | None:
    """Say what of the user's is gone or changed, and what was left behind."""
    now = snapshot(folder)

    def mine(name: str) -> bool:
        return not any(name == out or name.startswith(f"{out}/") for out in outputs)

    changed = [name for name in before if mine(name) and before[name] != now.get(name)]
    if changed:
        return f"lost or changed: {', '.join(changed[:3])}"
    left = [name for name in now if name not in before and is_leftover(name)]
    return f"left behind: {', '.join(left[:3])}" if left else None


def is_leftover(name: str) -> bool:
    """Tell whether a name is that of something half written."""
    return any(part.startswith(".") or ".orbax-checkpoint-tmp" in part for part in name.split("/"))


# ---------------------------------------------------------------------------------------------
# Cases
# ---------------------------------------------------------------------------------------------


def make(base: Path, random: Random, folder: Path) -> Case:
    """One of the three commands, with something odd."""
    make_one = random.choice((encode, encode, encode, evaluate, evaluate, train, train, bare))
    (folder / "in.txt").write_text("\n".join(LINES) + "\n")
    (folder / "thesis.txt").write_text("not to be lost\n")
    return make_one(base, random, folder)


MODEL_OPTIONS = {
    "--model": ("none", "no/such-model", "", "in.txt", ".", "\x01", "a b", "nowhere/at/all"),
    "--pooling": (
        "mean",
        "cls",
        "max",
        "pooler",
        "layer-1",
        "layer-9",
        "layer-x",
        "",
        "MEAN",
        "last-2",
    ),
    "--num-layers": ("0", "-1", "1", "2", "99", "1.5", "x", "None", "99999999999999999999"),
    "--max-length": ("0", "-1", "1", "2", "3", "24", "25", "512", "x", "1e3", "None", "9" * 30),
    "--dtype": ("float16", "bfloat16", "x", "", "float32"),
    "--batch-size": ("0", "-1", "1", "3", "10000", "1000000000", "x", "None", "9" * 30),
}


def odd(options: dict[str, Any], random: Random, count: int) -> dict[str, str]:
    return {name: random.choice(options[name]) for name in random.sample(sorted(options), count)}


def flat(options: dict[str, str]) -> list[str]:
    return [word for pair in options.items() for word in pair]


def about(words: list[str]) -> str:
    return " ".join(repr(word)[1:-1] or "''" for word in words).replace(str(GOLDEN), "golden")


def encode(base: Path, random: Random, folder: Path) -> Case:
    options = {"--model": str(GOLDEN / "tiny-bert"), "--pooling": "mean"}
    options |= odd(MODEL_OPTIONS, random, random.choice((0, 1, 1, 2)))
    if random.random() < 0.2:
        options["--normalize"] = random.choice(("True", "False", "x", "1", "None"))
    source, reads = input_file(random, folder)
    target, outputs = output_file(random, folder)
    words = ["encode", source, "--output", target, *flat(options)]

    def check() -> str | None:
        found = folder / target
        if not found.is_file():
            return None if outputs == {"special"} else f"silently wrong: no file {target}"
        vectors = np.load(found)
        if vectors.dtype != np.float32 or not np.isfinite(vectors).all():
            return "silently wrong: vectors that are not finite"
        if reads is None:
            return None
        if len(vectors) != len(reads):
            return f"silently wrong: {len(vectors)} rows for {len(reads)} lines"
        expected = oracle(options, reads)
        if vectors.shape != expected.shape or np.abs(vectors - expected).max(initial=0) > 1e-3:
            return "silently wrong: other vectors than in Python"
        return None

    if target == "thesis.txt":
        outputs = {"thesis.txt"}
    return command(words, about(words), folder, outputs, check)


def oracle(options: dict[str, str], lines: list[str]) -> np.ndarray:
    """Encode in Python as the options say."""
    from simcse_jax import SentenceEncoder

    def number(name: str) -> int | None:
        value = options.get(name, "None")
        return None if value == "None" else int(value)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = SentenceEncoder.from_pretrained(
            options["--model"],
            pooling=options["--pooling"],
            num_layers=number("--num-layers"),
            max_length=number("--max-length"),
            dtype=options.get("--dtype", "float32"),
        )
        normalize = {"True": True, "False": False}.get(options.get("--normalize", ""))
        return encoder.encode(lines, normalize=normalize)


def input_file(random: Random, folder: Path) -> tuple[str, list[str] | None]:
    """Choose what is read, and the lines that it holds; None where it should be refused or is
    the user's to know.
    """
    kind = random.choice(
        ("whole",) * 4 + ("none", "folder", "fifo", "bytes", "cr", "empty", "link")
    )
    file = folder / "odd.txt"
    text = "\n".join(LINES) + "\n"
    if kind == "whole":
        return "in.txt", LINES
    if kind == "folder":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "bytes":
        file.write_bytes(random.choice((b"a \xff dog\n", text.encode("utf-16"), b"\x00\n")))
    elif kind == "cr":
        file.write_bytes(text.replace("\n", random.choice(("\r", "\r\n"))).encode())
        return file.name, LINES
    elif kind == "empty":
        file.write_bytes(b"")
        return file.name, []
    elif kind == "link":
        file.symlink_to("odd.txt")
    return file.name, None


def output_file(random: Random, folder: Path) -> tuple[str, set[str]]:
    """Choose where to, and what may be written there."""
    kind = random.choice(
        ("new",) * 4
        + ("older", "user", "folder", "deep", "below a file", "full", "fifo", "link", "long")
    )
    if kind == "older":
        np.save(folder / "out.npy", np.zeros(3))
    elif kind == "folder":
        (folder / "out.npy").mkdir()
        (folder / "out.npy" / "thesis.txt").write_text("not to be lost\n")
        return "out.npy", set()
    elif kind == "deep":
        return "new/er/out.npy", {"new"}
    elif kind == "below a file":
        return "in.txt/out.npy", set()
    elif kind == "user":
        return "thesis.txt", {"thesis.txt"}
    elif kind == "full":
        special(folder / "out.npy")
        return "out.npy", {"special"}
    elif kind == "fifo":
        os.mkfifo(folder / "out.npy")
        drain(folder / "out.npy")
        return "out.npy", {"special"}
    elif kind == "link":
        (folder / "kept.npy").write_bytes(b"older")
        (folder / "out.npy").symlink_to("kept.npy")
        return "out.npy", {"kept.npy"}
    elif kind == "long":
        return "x" * 300 + ".npy", set()
    return "out.npy", {"out.npy"}


def special(path: Path) -> None:
    """Make a device that is always full, where that is permitted; else a FIFO that is read."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    except OSError:
        os.mkfifo(path)
        drain(path)


def drain(path: Path) -> None:
    """Read a FIFO in the background, so that who writes to it goes on."""

    def read() -> None:
        with contextlib.suppress(OSError):
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                for _ in range(500):
                    with contextlib.suppress(BlockingIOError):
                        os.read(file, 1 << 16)
                    threading.Event().wait(0.01)
            finally:
                os.close(file)

    threading.Thread(target=read, daemon=True).start()


def evaluate(base: Path, random: Random, folder: Path) -> Case:
    options = {
        "--model": str(GOLDEN / "tiny-bert"),
        "--pooling": "mean",
        "--data": str(base / "data"),
        "--tasks": "STS-B",
    }
    choices: dict[str, Any] = MODEL_OPTIONS | {
        "--data": ("none", ".", "in.txt", "", str(base)),
        "--tasks": ("STS-B", "STS12", "x", "", "SICK-R", "sts-b"),
    }
    options |= odd(choices, random, random.choice((0, 1, 1, 2)))
    outputs: set[str] = set()
    if random.random() < 0.6:
        options["--output"], outputs = output_file(random, folder)
    words = ["evaluate", *flat(options)]

    def check() -> str | None:
        file = folder / options.get("--output", "none")
        if not file.is_file():
            return None
        found = read_json(file)
        value = found["tasks"]["STS-B"]["all"] if "tasks" in found else None
        if not isinstance(value, float) or not -100 <= value <= 100:
            return f"silently wrong: a correlation of {value}"
        return None

    return command(words, about(words), folder, outputs, check)


TRAIN_OPTIONS = {
    "--epochs": ("0", "-1", "inf", "nan", "1e300", "0.5", "x", "1e-9"),
    "--max-steps": ("0", "-1", "1", "x", "None", "1.5"),
    "--batch-size": ("0", "-1", "1", "2", "60", "61", "10000", "9" * 30),
    "--max-length": ("0", "-1", "1", "2", "3", "24", "25", "512", "9" * 30),
    "--learning-rate": ("0", "-1", "nan", "inf", "1e300", "1e10", "1e-300", "x"),
    "--temperature": ("0", "-1", "nan", "inf", "1e-30", "1e30"),
    "--eval-every": ("0", "-1", "1", "1000000", "x"),
    "--seed": ("-1", "0", "4294967296", "9" * 30, "x", "1.5"),
    "--seeds": ("1 1", "0", "1 2", "-1 1", "x", ""),
    "--num-layers": ("0", "-1", "1", "4", "x"),
    "--dropout": ("0", "1", "-0.1", "1.1", "nan", "inf", "0.99"),
    "--pooling": ("mean", "pooler", "layer-1", "layer-9", "x", "last-2"),
    "--head": ("none", "train_and_test", "x"),
    "--grad-cache-chunks": ("0", "-1", "1", "2", "3", "100"),
    "--parallel": ("pmap", "x"),
    "--dtype": ("bfloat16", "float16"),
    "--weight-decay": ("-1", "nan", "inf", "1e30"),
    "--warmup-steps": ("-1", "1", "2", "1000", "x"),
    "--warmup-ratio": ("-1", "1", "nan", "0.5"),
    "--clip-norm": ("0", "-1", "nan", "inf"),
    "--beta1": ("1", "-1", "nan", "0"),
    "--eps": ("-1", "nan", "0", "inf"),
    "--mlm-weight": ("-1", "nan", "inf", "0.1"),
    "--positives": ("crop", "delete-words", "next-sentence", "synonym", "x", "mask-words"),
    "--share": ("0", "1", "-1", "nan", "2"),
    "--window": ("0", "1", "1000"),
    "--columns": ("0", "1", "2", "4"),
    "--dataset": ("x", "stsb", "", "wikipedia_sections"),
    "--dataset-source": ("none", "in.txt", "."),
    "--train-files": ("none", "thesis.txt", ".", "in.txt", ""),
    "--test-files": ("in.txt",),
    "--eval-data": ("none", ".", "in.txt"),
    "--model": ("none", ".", "in.txt", "no/such"),
    "--output-dir": ("in.txt", "in.txt/run", "mine", "new/er", "x" * 300, "run"),
}


def train(base: Path, random: Random, folder: Path) -> Case:
    """A run of two steps, or one that never begins."""
    options = {
        "--output-dir": "run",
        "--max-steps": "2",
        "--test-before": "False",
    }
    changes = odd(TRAIN_OPTIONS, random, random.choice((1, 1, 1, 2)))
    if "--epochs" in changes:
        options.pop("--max-steps")
    options |= changes
    # Folders that a user has filled.
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("not to be lost\n")
    seeds = options.pop("--seeds", None)
    words = ["train", str(base / "tiny.json")]
    for name, value in options.items():
        flags = {"True": [name], "False": ["--no-" + name[2:]]}
        words += flags.get(value, [name, value]) if name == "--test-before" else [name, value]
    if seeds is not None:
        words += ["--seeds", *seeds.split()]
    outputs = {"run", "new"} | {f"mine/{name}" for name in RUN_FILES}

    def check() -> str | None:
        place = folder / options["--output-dir"]
        runs = [place] if seeds is None or not seeds.split() else sorted(place.glob("seed-*"))
        for run_folder in runs:
            results = read_json(run_folder / "results.json")
            if not isinstance(results["dev_best"], float) or not np.isfinite(results["dev_best"]):
                return f"silently wrong: dev_best is {results['dev_best']}"
            for name in ("best", "last"):
                if not np.isfinite(load(run_folder / name).encode(SENTENCES[:3])).all():
                    return f"silently wrong: {name} gives vectors that are not finite"
            metrics = (run_folder / "metrics.jsonl").read_text()
            if "NaN" in metrics or "Infinity" in metrics:
                return "silently wrong: metrics that are not finite"
            if options.get("--batch-size") == "1":
                return "silently wrong: contrastive training in batches of one"
        return None

    shown = about(words).replace(str(base), "base")
    return command(words, shown, folder, outputs, check)


RUN_FILES = (
    *("run.json", "metrics.jsonl", "tensorboard", "checkpoints", "best", "last", "results.json"),
    *("summary.json", "settings.json"),
)


def bare(base: Path, random: Random, folder: Path) -> Case:
    """Words that are no command, or too few."""
    words = random.choice(
        [
            ["encode"],
            ["encode", "in.txt"],
            ["encode", "--output"],
            ["encode", "in.txt", "--output", "o.npy", "--unheard-of", "1"],
            ["evaluate"],
            ["train", "--output-dir", "x"],
            ["train", "unheard_of"],
            ["train", "in.txt"],
            ["train", "."],
            ["train", ""],
            ["train", str(base / "tiny.json"), "--unheard-of", "1"],
            ["train", str(base / "tiny.json"), "--model"],
            ["unheard-of"],
            ["enc\x00de"],
            ["--unheard-of"],
            ["encode", "-", "--output", "o.npy", "--model", str(GOLDEN / "tiny-bert")],
        ]
    )
    if "-" in words:
        sys.stdin = types.SimpleNamespace(buffer=io.BytesIO(random.randbytes(20)))  # type: ignore[assignment]
    check = lambda: "silently wrong: it went through" if "-" not in words else None  # noqa: E731
    return command(words, about(words).replace(str(base), "base"), folder, {"o.npy"}, check)
