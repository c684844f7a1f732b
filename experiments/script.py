"""How a script of the experiments is run: options like the command's, and its errors in a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tyro

from simcse_jax.cli import naming_options, run_or_explain
from simcse_jax.help_texts import shown


def run_script(main: Callable[[Any], object], settings: type, description: str | None) -> None:
    """Call ``main`` with the settings of the command line; what the user can mend is one line.

    Args:
        main: takes an instance of ``settings``.
        settings: a dataclass, each of whose fields is an option.
        description: the script's docstring, for the help.
    """

    def run() -> None:
        with naming_options([field.name for field in dataclasses.fields(settings)]):
            main(tyro.cli(shown(settings), description=description))

    run_or_explain(run)
