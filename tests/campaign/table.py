"""The campaigns' results as tables: for the terminal, and for `docs/reliability.md`.

``python -m tests.campaign.table FILE ...`` prints the documentation's tables of results.
"""

from __future__ import annotations

import collections
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.report import markdown

FIRST = {"fuzz": "family", "kill": "moment"}


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """Return campaigns of one kind, their counts added up, as a table in Markdown."""
    found = list(results)
    rows: dict[str, collections.Counter[str]] = {}
    for result in found:
        for name, counts in result["families"].items():
            rows.setdefault(name, collections.Counter()).update(counts)
    # Counter.update drops nothing, but adds in the order of the first.
    columns = list(next(iter(rows.values())))
    total: collections.Counter[str] = collections.Counter()
    for counts in rows.values():
        total.update(counts)
    body = [[name, *(f"{counts[c]:,}" for c in columns)] for name, counts in rows.items()]
    body.append(["all", *(f"{total[c]:,}" for c in columns)])
    return markdown([FIRST[found[0]["campaign"]], *columns], body)


def classes(failures: Sequence[Mapping[str, Any]]) -> str:
    """Return failures by family, exception and place, the most frequent first."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for failure in failures:
        kind = failure["detail"].split(":")[0]
        groups.setdefault((failure["family"], kind, failure["where"]), []).append(failure)
    lines = []
    for (family, kind, where), members in sorted(groups.items(), key=lambda item: -len(item[1])):
        first = members[0]
        lines.append(f"{len(members):4} {family}: {kind} {where}")
        lines.append(f"       case {first['number']}: {first['about'][:200]}")
        lines.append(f"       {' '.join(first['detail'].split())[:300]}")
    return "\n".join(lines)


def summary(result: Mapping[str, Any]) -> str:
    """Return a campaign's counts and its failures for the terminal."""
    return "\n\n".join(filter(None, (table([result]), classes(result["failures"]))))


def main() -> None:
    """Print the tables of files of results."""
    results = [json.loads(Path(file).read_text()) for file in sys.argv[1:]]
    for kind in ("fuzz", "kill"):
        if own := [result for result in results if result["campaign"] == kind]:
            seeds = ", ".join(str(result["seed"]) for result in own)
            print(f"{table(own)}\n\n({kind}, seeds {seeds}; {own[0]['hardware']})\n")


if __name__ == "__main__":
    main()
