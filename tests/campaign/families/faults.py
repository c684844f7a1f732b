"""Errors from below: a full disk, a folder that is read-only, a file that vanishes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import jax
import numpy as np

from simcse_jax.data.senteval import read_sts
from simcse_jax.data.training_text import read_training_file
from simcse_jax.transforms import Whitening, load_transform
from tests.campaign.bases import GOLDEN, load, vectors
from tests.campaign.cases import Case
from tests.campaign.families.commands import (
    CommandError,
    Unclear,
    complaint,
    is_leftover,
    run,
)
from tests.campaign.families.runs import differs
from tests.tiny_data import SENTENCES

POINTS = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.listdir",
          "os.scandir", "os.truncate", "shutil.rmtree", "shutil.copyfile"}  # fmt: skip
WRITING = EVENTS - {"os.listdir", "os.scandir"}

Action = Callable[[str, str], None]
_action: Action | None = None
_hooked = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _action is None or event not in EVENTS:
        return
    path = next((os.fspath(a) for a in arguments[:2] if isinstance(a, str | os.PathLike)), None)
    if path is None or (event == "open" and arguments[1] is None and isinstance(arguments[0], int)):
        return
    _action(event, os.path.abspath(path))


@contextlib.contextmanager
def watching(action: Action) -> Iterator[None]:
    """Call something at each operation on a file by Python, before it is done."""
    global _action, _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    _action = action
    try:
        yield
    finally:
        _action = None


# ---------------------------------------------------------------------------------------------
# What is done
# ---------------------------------------------------------------------------------------------


class Task:
    """Something that reads and writes files in a folder, and how to see that it is right."""

    def __init__(self, name: str, base: Path, place: Path):
        self.name, self.base, self.place = name, base, place
        place.mkdir()
        if name in ("save over", "read model"):
            shutil.copytree(base / "models" / "saved", place / "model")
        if name == "encode over":
            np.save(place / "out.npy", np.zeros(3, np.float32))
        if name in ("encode", "encode over"):
            (place / "in.txt").write_text("\n".join(SENTENCES) + "\n")
        if name in ("resume", "reuse"):
            shutil.copytree(
                base / ("interrupted" if name == "resume" else "finished"), place / "run"
            )
        if name in ("train", "resume", "reuse", "read data"):
            shutil.copytree(base / "data", place / "data")
        if name == "read transform":
            shutil.copytree(base / "models" / "whitened" / "transform", place / "transform")

    def __call__(self) -> Any:
        """Do it."""
        place = self.place
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.name in ("save", "save over"):
                return load(self.base / "models" / "st-old").save_pretrained(place / "model")
            if self.name == "read model":
                return vectors(place / "model")
            if self.name == "read data":
                read_sts(place / "data", ["STS-B"])
                return read_training_file(place / "data" / "text.txt")
            if self.name == "read transform":
                return load_transform(place / "transform")
            if self.name == "save transform":
                return Whitening.fit(POINTS).save(place / "transform")
        if self.name in ("encode", "encode over"):
            words = ["encode", str(place / "in.txt"), "--output", str(place / "out.npy")]
            return self.command([*words, "--model", str(GOLDEN / "tiny-bert"), "--pooling", "mean"])
        words = ["train", str(self.base / "tiny.json"), "--output-dir", str(place / "run")]
        words += ["--train-files", str(place / "data" / "text.txt"), "--resume"]
        return self.command([*words, "--eval-data", str(place / "data")])

    @staticmethod
    def command(words: list[str]) -> None:
        ended = run(words)
        if ended.code == 0:
            return
        if (problem := complaint(ended)) is not None:
            raise Unclear(problem)
        raise CommandError(ended.error.strip().removeprefix("error: "))

    def wrong(self) -> str | None:
        """Say what is wrong with what was written; nothing may be half there."""
        place = self.place
        if self.name in ("save", "save over") and (place / "model").exists():
            return self.wrong_model()
        if self.name in ("encode", "encode over") and (place / "out.npy").exists():
            shape = np.load(place / "out.npy").shape
            return None if shape in ((60, 32), (3,)) else f"out.npy has shape {shape}"
        return None

    def wrong_model(self) -> str | None:
        """A model is whole, the old or the new one, or refused."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = vectors(self.place / "model")
            except (ValueError, OSError):
                return None
            names = ["st-old"] + (["saved"] if self.name == "save over" else [])
            good = [vectors(self.base / "models" / name) for name in names]
        if any(found.shape == g.shape and np.allclose(found, g, atol=1e-4) for g in good):
            return None
        return "silently wrong: a model that is neither the old one nor the new one"

    def done(self) -> str | None:
        """Say what is wrong once it has been done without a fault."""
        if self.name in ("train", "resume", "reuse"):
            return differs(self.base / "finished", self.place / "run")
        return self.wrong()


TASKS = (
    *("save", "save over", "encode", "encode over", "read model", "read data", "read transform"),
    *("save transform", "train", "resume", "reuse"),
)
WRITERS = ("save", "save over", "encode", "encode over", "save transform", "train", "resume")


def make(base: Path, random: Random, folder: Path) -> Case:
    """Do something while the system fails below, and then once more while it does not."""
    fault = random.choice(FAULTS)
    fit = WRITERS if fault in (full_disk, no_space, read_only, too_large) else TASKS
    task = Task(random.choice(fit), base, folder / "place")
    about, around = fault(task, random)
    (folder / "place" / "thesis.txt").write_text("not to be lost\n")

    def go() -> Any:
        with around():
            return task()

    def check(_: Any) -> str | None:
        return None

    def after() -> str | None:
        if (problem := task.wrong()) is not None:
            return problem
        if (task.place / "thesis.txt").read_text() != "not to be lost\n":
            return "lost: thesis.txt"
        if "vanish" in about:  # what is gone is gone
            return None
        try:
            task()
        except (Exception, SystemExit) as error:
            return f"it fails afterwards too: {type(error).__name__}: {str(error)[:300]}"
        left = [str(p) for p in task.place.rglob("*") if is_leftover(p.name)]
        return task.done() or (f"left behind: {left[0]}" if left else None)

    return Case(f"{task.name}, {about}", go, check, after)


Fault = tuple[str, Callable[[], Any]]


def no_space(task: Task, random: Random) -> Fault:
    """An operation on a file fails as on a full disk."""
    number = random.choice((1, 2, 3, 5, 8, 13, 21, 40, 80, 150))
    code = random.choice((errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS))
    seen = 0

    def action(event: str, path: str) -> None:
        nonlocal seen
        if event in WRITING and path.startswith(str(task.place)) and event not in (
            "os.remove", "os.rmdir", "shutil.rmtree"
        ):  # fmt: skip
            seen += 1
            if seen == number:
                raise OSError(code, os.strerror(code), path)

    return f"operation {number} fails with {errno.errorcode[code]}", lambda: watching(action)


def too_large(task: Task, random: Random) -> Fault:
    """No file may become larger than a limit; this one the libraries below Python meet too."""
    most = random.choice((0, 100, 1000, 5000, 20_000, 60_000, 100_000))

    @contextlib.contextmanager
    def limited() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        # It would say that it could not be written, which is not what is asked here.
        jax.config.update("jax_enable_compilation_cache", False)
        try:
            with unprinted():
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
                yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            jax.config.update("jax_enable_compilation_cache", True)

    return f"no file larger than {most} bytes", limited


@contextlib.contextmanager
def unprinted() -> Iterator[None]:
    """Print to nowhere, since standard output and standard error are files as well."""
    sys.stdout.flush()
    sys.stderr.flush()
    before, nowhere = {1: os.dup(1), 2: os.dup(2)}, os.open(os.devnull, os.O_WRONLY)
    for stream in before:
        os.dup2(nowhere, stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, kept in before.items():
            os.dup2(kept, stream)
            os.close(kept)
        os.close(nowhere)


def full_disk(task: Task, random: Random) -> Fault:
    """The folder lies on a small disk that is full before long."""
    size = random.choice((64, 128, 256, 512, 1024))

    @contextlib.contextmanager
    def filled() -> Iterator[None]:
        # Room for what lies there, whole: half of a checkpoint would be the harness' doing.
        used = sum(path.lstat().st_size // 4096 + 2 for path in task.place.rglob("*")) * 4
        if not mount(task.place, f"size={size + used}k"):
            yield
            return
        try:
            yield
        finally:
            unmount(task.place)

    if not can_mount():
        return no_space(task, random)
    return f"a disk of {size} kB", filled


def read_only(task: Task, random: Random) -> Fault:
    """The folder cannot be written."""

    @contextlib.contextmanager
    def closed() -> Iterator[None]:
        if os.geteuid() != 0:
            task.place.chmod(0o555)
            try:
                yield
            finally:
                task.place.chmod(0o755)
            return
        libc().mount(bytes(task.place), bytes(task.place), None, MS_BIND, None)
        libc().mount(b"none", bytes(task.place), None, MS_REMOUNT | MS_BIND | MS_RDONLY, None)
        try:
            yield
        finally:
            unmount(task.place)

    if os.geteuid() == 0 and not can_mount():
        return no_space(task, random)
    return "a read-only folder", closed


def vanishing(task: Task, random: Random) -> Fault:
    """At some operation, a file of the folder vanishes: the one that it is about, or another."""
    number = random.choice((1, 2, 3, 4, 5, 7, 10, 15, 25, 50))
    own = random.random() < 0.5
    choice = random.random()
    seen = 0

    def action(event: str, path: str) -> None:
        nonlocal seen
        if not path.startswith(str(task.place)):
            return
        seen += 1
        if seen != number:
            return
        files = sorted(p for p in task.place.rglob("*") if p.is_file() and p.name != "thesis.txt")
        file = Path(path) if own else files[int(choice * len(files))] if files else None
        if file is not None and file.is_file():
            file.unlink()

    which = "the file at hand" if own else "another file"
    return f"{which} vanishes at operation {number}", lambda: watching(action)


FAULTS = (no_space, no_space, too_large, full_disk, read_only, vanishing, vanishing)


# ---------------------------------------------------------------------------------------------
# Mounts, in a namespace of this process' own
# ---------------------------------------------------------------------------------------------

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
CLONE_NEWNS, MNT_DETACH = 0x20000, 2
_may_mount: bool | None = None


def libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def can_mount() -> bool:
    """Tell whether this process may mount, and give it a namespace of its own to do so."""
    global _may_mount
    if _may_mount is None:
        _may_mount = sys.platform == "linux" and libc().unshare(CLONE_NEWNS) == 0
        if _may_mount:
            libc().mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    return _may_mount


def mount(place: Path, options: str) -> bool:
    """Put a small disk of memory in a folder's place, with the same files."""
    kept = place.with_name("kept")
    shutil.copytree(place, kept, symlinks=True)
    done = libc().mount(b"none", bytes(place), b"tmpfs", 0, options.encode()) == 0
    if done:
        shutil.copy2(kept / "thesis.txt", place)
        others = shutil.ignore_patterns("thesis.txt")
        with contextlib.suppress(OSError, shutil.Error):  # the disk is full from the start
            shutil.copytree(kept, place, symlinks=True, dirs_exist_ok=True, ignore=others)
    shutil.rmtree(kept)
    return done


def unmount(place: Path) -> None:
    """Take it away again, and keep what was written on it."""
    kept = place.with_name("kept")
    shutil.copytree(place, kept, symlinks=True)
    libc().umount2(bytes(place), MNT_DETACH)
    shutil.rmtree(place, ignore_errors=True)
    kept.rename(place)
