"""The experiments as a whole: no script imports another, and each is run by one function."""

import ast
import dataclasses
import sys
from pathlib import Path

import pytest

import experiments
from experiments.script import run_script

ROOT = Path(experiments.__file__).parent


def modules():
    """Every module of the experiments by its name, as it is parsed."""
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        yield name, path.read_text("utf-8")


def imported(source):
    """The names of modules, and of what may be modules, that a source imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_script_imports_another():
    sources = dict(modules())
    scripts = {name for name, source in sources.items() if '__name__ == "__main__"' in source}
    assert {"experiments.demo", "experiments.tables.ablations"} <= scripts
    found = {name: scripts & set(imported(source)) for name, source in sources.items()}
    assert {name: others for name, others in found.items() if others} == {}


@dataclasses.dataclass(frozen=True)
class Settings:
    """A script's."""

    held_out: int = 1
    seeds: tuple[int, ...] = (0,)


def test_what_is_wrong_is_one_line_that_names_the_option(monkeypatch, capsys):
    def main(settings):
        if settings.held_out < 1:
            raise ValueError(f"held_out is {settings.held_out}; it must be at least 1")
        print(settings.held_out)

    monkeypatch.setattr(sys, "argv", ["script", "--held-out", "3"])
    run_script(main, Settings, "A script.")
    assert capsys.readouterr().out == "3\n"
    monkeypatch.setattr(sys, "argv", ["script", "--held-out", "0"])
    with pytest.raises(SystemExit, match="2"):
        run_script(main, Settings, "A script.")
    assert capsys.readouterr().err == "error: --held-out is 0; it must be at least 1\n"
    for args, says in (
        (["--seeds", "--held-out", "1"], "--seeds is given without a value"),
        (["--held-out", "1", "--held_out=2"], "--held-out is given twice"),
    ):
        monkeypatch.setattr(sys, "argv", ["script", *args])
        with pytest.raises(SystemExit, match="2"):
            run_script(main, Settings, "A script.")
        assert capsys.readouterr().err.startswith(f"error: {says}")
