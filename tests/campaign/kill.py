"""Kills at any moment, and what is there afterwards.

Run from the repository's root::

    python -m tests.campaign.kill --kills 1000 --seed 1 --output kill.json

A process trains, resumes, saves or encodes, and gets SIGKILL or SIGTERM: before its n-th operation
on a file, which reaches every moment between two of them, or after a time drawn evenly from what
the whole takes. Then the same command is given again, as a user would, perhaps killed again, and in
the end left alone. It must end with the same bits as a command that nobody killed, without a file
of the user's gone and with nothing left behind. Every case follows from the seed and its number.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest import mock

from tqdm import tqdm

from simcse_jax import cli, streaming
from simcse_jax.io import write_json
from simcse_jax.machine import hardware
from simcse_jax.process import SIGTERM_EXIT_CODE, Interrupted
from tests.campaign import bases
from tests.campaign.cases import CLEAR, ELSE, RIGHT, Outcome
from tests.campaign.families.commands import is_leftover
from tests.campaign.families.faults import WRITING, watching
from tests.campaign.families.runs import differs, metrics
from tests.campaign.table import summary
from tests.campaign.workers import in_child, note, silence, solve_all

LIMIT = 180.0
"""Seconds for a case: a killed command, perhaps two more, and the one that goes through."""
USERS = "not to be lost\n"


class Moment(NamedTuple):
    """What is killed.

    Attributes:
        prepare: makes the folder as it is before.
        run: does it in the folder; the same call goes on after a kill.
        wrong: says how a folder is otherwise than that of one whom nobody killed.
        whole: says what is wrong with a folder right after a kill.
    """

    prepare: Callable[[Path, Path], None]
    run: Callable[[Path, Path], None]
    wrong: Callable[[Path, Path], str | None]
    whole: Callable[[Path, Path], str | None]


class Measured(NamedTuple):
    """What a whole command takes: seconds, and operations on files that are about the folder."""

    seconds: float
    operations: int


# ---------------------------------------------------------------------------------------------
# Moments
# ---------------------------------------------------------------------------------------------


def train(base: Path, place: Path) -> None:
    words = ["train", str(base / "tiny.json"), "--output-dir", str(place / "run"), "--resume"]
    cli.main(words)


def nothing_yet(base: Path, place: Path) -> None:
    (place / "thesis.txt").write_text(USERS)


def interrupted(base: Path, place: Path) -> None:
    nothing_yet(base, place)
    shutil.copytree(base / "interrupted", place / "run")
    (place / "run" / "thesis.txt").write_text(USERS)


def same_run(base: Path, place: Path) -> str | None:
    """A run is as the uninterrupted one: weights, cards, results, and every step of the log."""
    if (problem := differs(base / "finished", place / "run")) is not None:
        return problem
    for name in ("best", "last"):
        cards = [run / name / "README.md" for run in (base / "finished", place / "run")]
        if cards[0].read_bytes() != cards[1].read_bytes():
            return f"another card of {name} than that of the uninterrupted run"
    if metrics(place / "run") != metrics(base / "finished"):
        return "other metrics than the uninterrupted run"
    if names(place / "run") != names(base / "finished"):
        extra = names(place / "run") ^ names(base / "finished")
        return f"other files than the uninterrupted run: {', '.join(sorted(extra)[:4])}"
    return None


def names(run: Path) -> set[str]:
    """Return the names of a run's files, but for those that have clocks in their own.

    Of the checkpoints the last one is named; which one is kept beside it depends on the kill.
    """
    found = set()
    for path in run.rglob("*"):
        parts = path.relative_to(run).parts
        name = "/".join(parts)
        if parts[0] not in ("tensorboard", "checkpoints") and not is_leftover(name):
            found.add(name)
    steps = sorted(path.name for path in (run / "checkpoints").iterdir())
    return found - {"thesis.txt"} | {f"checkpoints/{steps[-1]}", f"{len(steps)} checkpoints"}


def loads_or_refused(base: Path, place: Path) -> str | None:
    """Each model of a run is whole, or is refused."""
    folders = [place / "run" / name for name in ("best", "last")]
    return next(filter(None, map(unclear_model, folders)), None)


def unclear_model(folder: Path) -> str | None:
    if not folder.exists():
        return None
    try:
        bases.vectors(folder)
    except (ValueError, OSError):
        return None
    except Exception as error:
        return f"{folder.name} is neither loaded nor refused: {type(error).__name__}: {error}"
    return None


def new_model(base: Path, place: Path) -> None:
    bases.load(base / "models" / "whitened").save_pretrained(place / "model")


def older_model(base: Path, place: Path) -> None:
    nothing_yet(base, place)
    shutil.copytree(base / "models" / "saved", place / "model")
    (place / "model" / "thesis.txt").write_text(USERS)


def same_model(base: Path, place: Path) -> str | None:
    """A model is as one that was saved in peace."""
    for file in sorted((base / "expected").rglob("*")):
        own = place / "model" / file.relative_to(base / "expected")
        if file.is_file() and (not own.is_file() or own.read_bytes() != file.read_bytes()):
            return f"another {own.relative_to(place)} than that of a save in peace"
    return None


def old_new_or_refused(base: Path, place: Path) -> str | None:
    """A model's folder is the older one, the new one, or refused, but no mixture of both."""
    folder = place / "model"
    if (problem := unclear_model(folder)) is not None or not folder.exists():
        return problem
    try:
        found = bases.vectors(folder)
    except (ValueError, OSError):
        return None
    for name in ("saved", "whitened"):
        expected = bases.vectors(base / "models" / name)
        if found.shape == expected.shape and abs(found - expected).max() < 1e-5:
            return None
    return "the model is neither the older nor the new one"


def encode(base: Path, place: Path) -> None:
    words = ["encode", str(base / "data" / "text.txt"), "--output", str(place / "out.npy")]
    in_pieces = functools.partial(streaming.open_source, piece_rows=16)  # of 60 rows
    with mock.patch.object(streaming, "open_source", in_pieces):
        cli.main([*words, "--model", str(base / "models" / "st-new"), "--resume"])


def older_vectors(base: Path, place: Path) -> None:
    nothing_yet(base, place)
    (place / "out.npy").write_bytes(b"older")


def same_vectors(base: Path, place: Path) -> str | None:
    if (place / "out.npy").read_bytes() != (base / "out.npy").read_bytes():
        return "other vectors than those of a command in peace"
    return None


def older_or_new(base: Path, place: Path) -> str | None:
    file = place / "out.npy"
    if not file.exists() or file.read_bytes() == b"older":
        return None
    return same_vectors(base, place)


MOMENTS = {
    "training": Moment(nothing_yet, train, same_run, loads_or_refused),
    "resuming": Moment(interrupted, train, same_run, loads_or_refused),
    "saving a model": Moment(nothing_yet, new_model, same_model, old_new_or_refused),
    "saving over a model": Moment(older_model, new_model, same_model, old_new_or_refused),
    "encoding to a file": Moment(older_vectors, encode, same_vectors, older_or_new),
}
SHARES = (45, 25, 10, 10, 10)


# ---------------------------------------------------------------------------------------------
# Killing
# ---------------------------------------------------------------------------------------------


class Kill(NamedTuple):
    """When a process gets which signal: before an operation on a file, or after a time."""

    signal: signal.Signals
    operation: int | None
    seconds: float | None

    def __str__(self) -> str:
        when = (
            f"before operation {self.operation}"
            if self.seconds is None
            else f"after {self.seconds:.3f} s"
        )
        return f"{self.signal.name} {when}"


def start(moment: Moment, base: Path, place: Path, kill: Kill | None) -> int:
    """Run in a process of its own, killed or not; return how it ended, below zero by a signal."""
    pid = os.fork()
    if pid:
        if kill is not None and kill.seconds is not None:
            timer = threading.Timer(kill.seconds, gone_or_killed, (pid, kill.signal))
            timer.start()
            _, status = os.waitpid(pid, 0)
            timer.cancel()
            timer.join()
        else:
            _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)
    code = 70
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        silence(place.parent / "said")
        with watching(counter(place, kill)):
            moment.run(base, place)
        code = 0
    except Interrupted:
        code = SIGTERM_EXIT_CODE
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:
        import traceback

        traceback.print_exc()
        code = 71 if isinstance(error, ValueError | TypeError | OSError) else 72
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def gone_or_killed(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def counter(place: Path, kill: Kill | None) -> Callable[[str, str], None]:
    """Count the operations on files in a folder, leave the count in a file, kill at its number."""
    seen = 0
    counted = place.parent / "operations"
    prefix = f"{place}{os.sep}"

    def action(event: str, path: str) -> None:
        nonlocal seen
        if event not in WRITING or not path.startswith(prefix):
            return
        seen += 1
        if kill is None:
            with contextlib.suppress(OSError):
                os.truncate(counted, seen)
        elif seen == kill.operation:
            os.kill(os.getpid(), kill.signal)

    if kill is None:
        counted.touch()
    return action


def measure(moment: Moment, base: Path, place: Path) -> Measured:
    """Run in peace, and see what it takes."""
    moment.prepare(base, place)
    began = time.monotonic()
    code = start(moment, base, place, None)
    seconds = time.monotonic() - began
    if code:
        said = (place.parent / "said").read_text()
        raise RuntimeError(f"it does not go through in peace ({code}): {said[-2000:]}")
    return Measured(seconds, (place.parent / "operations").stat().st_size)


def draw(random: Random, measured: Measured) -> Kill:
    """Draw a moment and a signal."""
    number = random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
    if random.random() < 0.6:
        return Kill(number, random.randint(1, max(1, measured.operations)), None)
    return Kill(number, None, random.uniform(0, measured.seconds))


def moment_of(seed: int, number: int) -> str:
    """Return what a case kills."""
    return Random(f"moment {seed} {number}").choices(list(MOMENTS), SHARES)[0]


def solve(
    base: Path, measured: dict[str, Measured], seed: int, number: int, folder: Path
) -> Outcome:
    """Kill once or more, and look at what is there, and at what becomes of it."""
    random = Random(f"{seed} {number}")
    name = moment_of(seed, number)
    moment = MOMENTS[name]
    place = folder / "place"
    place.mkdir()
    moment.prepare(base, place)
    users = {p: p.read_text() for p in place.rglob("thesis.txt")}
    kills = [draw(random, measured[name]) for _ in range(random.choice((1, 1, 1, 2, 3)))]
    about = f"{name}: {', then '.join(map(str, kills))}"
    note(folder, about)

    def ended(verdict: str, detail: str = "") -> Outcome:
        return Outcome(verdict, about, detail)

    for kill in kills:
        code = start(moment, base, place, kill)
        if code not in (0, -kill.signal) and not (
            kill.signal == signal.SIGTERM and code == SIGTERM_EXIT_CODE
        ):
            return ended(ELSE, f"exit code {code}: {said(folder)}")
        for file, text in users.items():
            if not file.exists() or file.read_text() != text:
                return ended(ELSE, f"lost: {file.relative_to(place)}")
        # In a process of its own: one that has used JAX cannot be forked any more.
        if (problem := in_child(moment.whole, base, place)) is not None:
            return ended(ELSE, f"after the kill: {problem}")
    code = start(moment, base, place, None)
    if code in (1, 2, 71) and "Traceback" not in said(folder):
        return ended(CLEAR, said(folder))
    if code:
        return ended(ELSE, f"it does not go on, exit code {code}: {said(folder)}")
    for file, text in users.items():
        if not file.exists() or file.read_text() != text:
            return ended(ELSE, f"lost: {file.relative_to(place)}")
    if (problem := moment.wrong(base, place)) is not None:
        return ended(ELSE, problem)
    left = [p for p in place.rglob("*") if is_leftover(p.name)]
    if left:
        return ended(ELSE, f"left behind: {left[0].relative_to(place)}")
    return ended(RIGHT)


def said(folder: Path) -> str:
    """Return the end of what the last command said."""
    return (folder / "said").read_text(errors="replace")[-600:]


# ---------------------------------------------------------------------------------------------
# The campaign
# ---------------------------------------------------------------------------------------------


def make_bases(base: Path) -> None:
    silence(base / "output")
    bases.make_all(base)
    bases.load(base / "models" / "whitened").save_pretrained(base / "expected")
    encode(base, base)


def prepared(base: Path) -> dict[str, Measured]:
    """Make what the cases start from, and measure every moment."""
    in_child(make_bases, base)
    found = {}
    for name, moment in MOMENTS.items():
        place = base / "measured" / name / "place"
        place.mkdir(parents=True)
        found[name] = measure(moment, base, place)
        if (problem := moment.wrong(base, place)) is not None:
            raise RuntimeError(f"{name} in peace: {problem}")
    return found


def run_kills(
    seed: int, numbers: Iterable[int], jobs: int = 1, progress: bool = True
) -> dict[int, Outcome]:
    """Run cases and return their outcomes by number."""
    chosen = list(numbers)
    with tempfile.TemporaryDirectory(prefix="campaign-base-") as place:
        base = Path(place)
        measured = prepared(base)
        found, bad = {}, 0
        with tqdm(total=len(chosen), unit=" kills", disable=not progress) as bar:
            for number, outcome in solve_all(
                lambda number, folder: solve(base, measured, seed, number, folder),
                chosen,
                jobs,
                LIMIT,
            ):
                found[number] = outcome
                if outcome.verdict == ELSE:
                    bad += 1
                    bar.write(f"{number}: {outcome}", file=sys.stderr)
                bar.update()
                bar.set_postfix({ELSE: bad}, refresh=False)
    return found


COLUMNS = {RIGHT: "same bits", CLEAR: "clear refusal", ELSE: ELSE}


def report(seed: int, found: dict[int, Outcome]) -> dict[str, Any]:
    """Return a campaign's counts and failures as JSON."""
    counts = {name: {"tried": 0} | dict.fromkeys(COLUMNS.values(), 0) for name in MOMENTS}
    failures = []
    for number, outcome in sorted(found.items()):
        name = moment_of(seed, number)
        counts[name]["tried"] += 1
        counts[name][COLUMNS[outcome.verdict]] += 1
        if outcome.verdict == ELSE:
            failures.append({"number": number, "family": name, **outcome._asdict()})
    return {
        "campaign": "kill",
        "seed": seed,
        "hardware": hardware(),
        "families": {name: row for name, row in counts.items() if row["tried"]},
        "refusals": [
            {"number": n, "about": o.about, "detail": o.detail}
            for n, o in sorted(found.items())
            if o.verdict == CLEAR
        ],
        "failures": failures,
    }


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", type=int, help="repeat the case of this number")
    parser.add_argument("--output", type=Path, help="a JSON file for counts and failures")
    options = parser.parse_args()
    numbers = range(options.kills) if options.only is None else [options.only]
    outcomes = run_kills(options.seed, numbers, options.jobs)
    found = report(options.seed, outcomes)
    if options.output:
        write_json(options.output, found)
    print(summary(found))
    if options.only is not None:
        print(outcomes[options.only])
    sys.exit(1 if found["failures"] else 0)


if __name__ == "__main__":
    main()
