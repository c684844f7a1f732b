"""How results are reported: mean ± standard deviation, tables in Markdown, LaTeX and the terminal.

The one place of the experiments for these, so that every table reads alike, and no result names a
folder of the machine that it was made on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from simcse_jax.extras import needs
from simcse_jax.io import written_file
from simcse_jax.machine import hardware

if TYPE_CHECKING:  # benchmarks report without drawing
    from matplotlib.figure import Figure

console = Console(width=110)
_LATEX = {
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "_": r"\_",
    "&": r"\&",
    "%": r"\%",
}


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return ``mean ± standard deviation`` (N-1), or a single value alone, with two decimals."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; no newline follows its last row."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def latex(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in LaTeX (booktabs): text at the left, numbers at the right.

    Args:
        caption: of the table.
        columns: their headings.
        rows: their cells; a first cell that begins with spaces is indented.
    """

    def escape(text: str) -> str:
        indent = r"\quad " if text.startswith(" ") else ""
        return indent + "".join(_LATEX.get(character, character) for character in text.strip())

    head, *body = (" & ".join(map(escape, line)) + r" \\" for line in (columns, *rows))
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1
) -> None:
    """Print a table on the terminal.

    Args:
        title: above the table.
        columns: their headings.
        rows: their cells.
        text_columns: so many columns are text, at the left; the others are numbers, at the right.
    """
    table = Table(title=title)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < text_columns else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def settings_record(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass for a file of results, with a path's name for the path."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return value.name
        if isinstance(value, Mapping):
            return {name: plain(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    return plain(dataclasses.asdict(settings))


def results_record(settings: Any, **known: Any) -> dict[str, Any]:
    """Return what every file of results begins with: the settings and the hardware.

    Args:
        settings: a dataclass.
        **known: settings that are known better afterwards.
    """
    return {"settings": settings_record(settings) | known, "hardware": hardware()}


def pyplot() -> ModuleType:
    """Return matplotlib's pyplot, which draws into files; ask for it before what takes long.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    with needs("plots"):
        import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def write_figure(path: Path, figure: Figure, dpi: int = 150) -> None:
    """Write a matplotlib figure as its name ends: .png or .pdf."""
    # No date, so that a figure drawn again from the same numbers is the same file.
    metadata = {"CreationDate": None} if path.suffix == ".pdf" else None
    with written_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=dpi, metadata=metadata)
