"""The experiments as a whole: no script imports another."""

import ast
from pathlib import Path

import experiments

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
