"""How a script of the experiments is run: options like the command's, and its errors in a line."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import tyro

from simcse_jax.cli import check_options, naming_options, run_or_explain
from simcse_jax.help_texts import shown


def run_script(main: Callable[[Any], object], settings: type, description: str | None) -> None:
    """Call ``main`` with the settings of the command line; what the user can mend is one line.

    Args:
        main: takes an instance of ``settings``.
        settings: a dataclass, each of whose fields is an option.
        description: the script's docstring, for the help.
    """
    fields = dataclasses.fields(settings)
    several = ("--" + f.name.replace("_", "-") for f in fields if str(f.type).startswith("tuple"))

    def run() -> None:
        check_options(sys.argv[1:], [*several])
        with naming_options([field.name for field in fields]):
            main(tyro.cli(shown(settings), description=description))

    run_or_explain(run)
