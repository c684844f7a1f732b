"""Hostile input, seeded: model folders, readers, arguments, the command line, runs, and faults.

Run from the repository's root::

    python -m tests.campaign.fuzz --cases 10000 --seed 1 --output fuzz.json

Every case follows from the seed and its number: ``--only 17`` repeats case 17, in this process and
with its traceback. `docs/reliability.md` says what the outcomes mean.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from simcse_jax.io import write_json
from simcse_jax.machine import hardware
from tests.campaign import bases
from tests.campaign.cases import ELSE, VERDICTS, Case, Outcome, judge, show
from tests.campaign.families import arguments, commands, faults, models, readers, runs
from tests.campaign.table import summary
from tests.campaign.workers import in_child, note, silence, solve_all

FAMILIES: dict[str, tuple[float, Any]] = {
    "model folders": (30, models.make),
    "readers": (30, readers.make),
    "arguments": (20, arguments.make),
    "command line": (12, commands.make),
    "run folders": (4, runs.make),
    "faults below": (4, faults.make),
}
"""The families by name, and how often each comes."""

LIMIT = 60.0
"""Seconds that a case may take, on a machine that does other things too."""


def family_of(seed: int, number: int) -> str:
    """Return the family of a case."""
    weights = [weight for weight, _ in FAMILIES.values()]
    return Random(f"family {seed} {number}").choices(list(FAMILIES), weights)[0]


def make_case(base: Path, seed: int, number: int, folder: Path) -> Case:
    """Make a case again, from the seed and its number alone."""
    _, make = FAMILIES[family_of(seed, number)]
    return make(base, Random(f"{seed} {number}"), folder)


def run_cases(
    seed: int, numbers: Iterable[int], jobs: int = 1, limit: float = LIMIT, progress: bool = True
) -> dict[int, Outcome]:
    """Run cases and return their outcomes by number."""
    chosen = list(numbers)
    with tempfile.TemporaryDirectory(prefix="campaign-base-") as place:
        base = Path(place)
        in_child(make_bases, base)

        def solve(number: int, folder: Path) -> Outcome:
            case = make_case(base, seed, number, folder)
            note(folder, case.about)
            return judge(case)

        found = {}
        bad = 0
        with tqdm(total=len(chosen), unit=" cases", disable=not progress) as bar:
            for number, outcome in solve_all(solve, chosen, jobs, limit):
                found[number] = outcome
                if outcome.verdict == ELSE:
                    bad += 1
                    bar.write(f"{number}: {outcome}", file=sys.stderr)
                bar.update()
                bar.set_postfix({ELSE: bad}, refresh=False)
        return found


def make_bases(base: Path) -> None:
    silence(base / "output")
    bases.make_all(base)


def repeat(seed: int, number: int) -> None:
    """Run a single case in this process and print its traceback."""
    with tempfile.TemporaryDirectory(prefix="campaign-base-") as place:
        base, folder = Path(place) / "base", Path(place) / "worker" / "case"
        base.mkdir()
        folder.mkdir(parents=True)
        in_child(make_bases, base)
        os.chdir(folder)
        print(f"{family_of(seed, number)}, ", end="")
        case = make_case(base, seed, number, folder)
        show(case)
        os.chdir("/")
        # Judged afresh, since a case may only be run once.
        again = Path(place) / "again" / "case"
        again.mkdir(parents=True)
        os.chdir(again)
        print(judge(make_case(base, seed, number, again)))
        os.chdir("/")


def report(seed: int, found: dict[int, Outcome]) -> dict[str, Any]:
    """Return a campaign's counts and failures as JSON."""
    counts: dict[str, dict[str, int]] = {
        name: {"tried": 0} | dict.fromkeys(VERDICTS, 0) for name in FAMILIES
    }
    failures = []
    for number, outcome in sorted(found.items()):
        family = family_of(seed, number)
        counts[family]["tried"] += 1
        counts[family][outcome.verdict] += 1
        if outcome.verdict == ELSE:
            failures.append({"number": number, "family": family, **outcome._asdict()})
    return {
        "campaign": "fuzz",
        "seed": seed,
        "hardware": hardware(),
        "families": {name: row for name, row in counts.items() if row["tried"]},
        "failures": failures,
    }


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for a case")
    parser.add_argument("--family", choices=FAMILIES, help="only this one's cases")
    parser.add_argument("--only", type=int, help="repeat the case of this number, with a traceback")
    parser.add_argument("--output", type=Path, help="a JSON file for counts and failures")
    options = parser.parse_args()
    if options.only is not None:
        repeat(options.seed, options.only)
        return
    numbers: Iterable[int] = range(options.cases)
    if options.family:
        numbers = [n for n in numbers if family_of(options.seed, n) == options.family]
    found = report(options.seed, run_cases(options.seed, numbers, options.jobs, options.limit))
    if options.output:
        write_json(options.output, found)
    print(summary(found))
    sys.exit(1 if found["failures"] else 0)


if __name__ == "__main__":
    main()
