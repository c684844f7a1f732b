"""Run folders of which something is gone or broken, and then the run is started again."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.campaign.bases import load
from tests.campaign.cases import Case
from tests.campaign.families.commands import (
    CommandError,
    Ended,
    Unclear,
    complaint,
    lost,
    run,
    snapshot,
)
from tests.campaign.families.models import change_entry, files_of
from tests.campaign.mutate import change_json, damage

CLOCKS = {"train_seconds", "hardware", "python", "sentences_per_second", "digest"}


def make(base: Path, random: Random, folder: Path) -> Case:
    """Change something in a finished or interrupted run, and start it again."""
    name = random.choice(("finished", "interrupted", "interrupted"))
    place = folder / "run"
    shutil.copytree(base / name, place, symlinks=True)
    change, fair = change_run(place, random)
    users = random.sample(("thesis.txt", "best/thesis.txt", "checkpoints/notes"), 1)
    for user in users:
        if (place / user).parent.is_dir():
            (place / user).write_text("not to be lost\n")
    resume = random.random() < 0.85
    before = snapshot(folder)
    words = ["train", str(base / "tiny.json"), "--output-dir", "run"]
    words += ["--resume"] if resume else []

    def go() -> Ended:
        ended = run(words)
        if ended.code == 0:
            return ended
        if (problem := complaint(ended)) is not None:
            raise Unclear(problem)
        raise CommandError(ended.error.strip().removeprefix("error: "))

    def check(_: Ended) -> str | None:
        if not resume:
            return "silently wrong: another run's folder was trained in without --resume"
        # A finished run is reused for its best model; who has deleted the last one may.
        names = ("best",) if name == "finished" else ("best", "last")
        return differs(base / "finished", place, fair, names)

    def after() -> str | None:
        present = {user for user in users if f"run/{user}" in before}
        mine = {f"run/{user}": before[f"run/{user}"] for user in present}
        return lost(mine if resume else before, folder, set())

    start = "resumed" if resume else "started anew"
    return Case(f"{name} run, {change}, {start}", go, check, after, files=False)


def change_run(place: Path, random: Random) -> tuple[str, bool]:
    """Do something to a run's folder; say what, and whether it cannot be noticed."""
    kind = random.choice(("file", "file", "file", "file", "top", "step", "nothing", "foreign"))
    if kind == "nothing":
        return "as it is", False
    if kind == "foreign":
        names = ["99", "x"] + ([] if finished(place) else ["3.orbax-checkpoint-tmp-1"])
        (place / "checkpoints" / random.choice(names)).mkdir(exist_ok=True)
        return "a folder that is no checkpoint among them", False
    if kind == "top":
        entry = random.choice(sorted(p for p in place.iterdir()))
        remove(entry)
        return f"{entry.name} is gone", False
    if kind == "step":
        steps = sorted((place / "checkpoints").iterdir())
        entry = random.choice(steps)
        remove(entry)
        return f"checkpoint {entry.name} is gone", False
    files = [f for f in files_of(place) if "tensorboard" not in f.parts]
    # A run has a hundred files of checkpoints; the others are as likely here.
    folder = random.choice(sorted({f.parent for f in files}))
    file = random.choice([f for f in files if f.parent == folder])
    name = str(file.relative_to(place))
    if random.random() < 0.25:
        return change_entry(file, name, random)[0], False
    content = file.read_bytes()
    if file.suffix == ".json" and random.random() < 0.5:
        change = change_json(json.loads(content), random)
        file.write_text(json.dumps(change.value))
        # Another number where a number was: nobody could tell.
        return f"{name}: {change.about}", not change.retyped
    done = damage(content, random, text=False)
    file.write_bytes(done.content)
    # Bits of weights and of results have no checksum; those of checkpoints do.
    fair = "checkpoints" not in file.parts and done.about.startswith(("bits", "1 bytes", "4 bytes"))
    return f"{name}: {done.about}", fair


def finished(place: Path) -> bool:
    return (place / "results.json").exists()


def remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def differs(
    reference: Path, place: Path, fair: bool = False, names: Sequence[str] = ("best", "last")
) -> str | None:
    """Say how a run ended otherwise than the uninterrupted one; None where it did not.

    Args:
        reference: the uninterrupted run.
        place: the other.
        fair: whether other numbers are fair, as long as they are numbers.
        names: the models that are compared.
    """
    for name in names:
        weights = place / name / "model.safetensors"
        if not weights.exists():
            return f"silently wrong: {name} has no weights"
        if weights.read_bytes() != (reference / name / "model.safetensors").read_bytes():
            if not fair:
                return f"silently wrong: {name} has other weights than the uninterrupted run"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if not np.isfinite(load(place / name).encode(["a dog"])).all():
                    return f"silently wrong: {name} gives vectors that are not finite"
    if fair:
        return None
    if results(place) != results(reference):
        return "silently wrong: other results than the uninterrupted run"
    return None


def results(place: Path) -> Any:
    """Return what a run found, without clocks."""
    return without_clocks(json.loads((place / "results.json").read_text()))


def metrics(place: Path) -> Any:
    """Return what a run logged, without clocks."""
    lines = (place / "metrics.jsonl").read_text().splitlines()
    return [without_clocks(json.loads(line)) for line in lines]


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_clocks(v) for k, v in value.items() if k not in CLOCKS}
    return value
