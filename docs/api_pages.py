"""The API reference: a page for each room of the library, from the docstrings."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import simcse_jax


def modules() -> dict[str, list[str]]:
    """Return the modules of each room; those beside the rooms under the package's own name."""
    rooms: dict[str, list[str]] = {"simcse_jax": []}
    for found in pkgutil.walk_packages(simcse_jax.__path__, "simcse_jax."):
        if found.name.rpartition(".")[2].startswith("_"):
            continue
        room = ".".join(found.name.split(".")[:2])
        if found.ispkg or room in rooms:
            rooms.setdefault(room, []).append(found.name)
        else:
            rooms["simcse_jax"].append(found.name)
    return rooms


def title(text: str, mark: str) -> list[str]:
    """Return a heading in reStructuredText."""
    return [text, mark * len(text), ""]


def public_names(module: str) -> list[str]:
    """Return a list of what a package exports, each linked to where it is documented."""
    package = importlib.import_module(module)
    lines: list[str] = []
    own: list[str] = []
    for name in getattr(package, "__all__", ()):
        value = getattr(package, name)
        home = getattr(value, "__module__", None)
        if not (inspect.isclass(value) or inspect.isfunction(value)) or home is None:
            continue
        if home == module:
            kind = "autoclass" if inspect.isclass(value) else "autofunction"
            own += [f".. {kind}:: {module}.{name}", ""]
            continue
        summary = (inspect.getdoc(value) or "").partition("\n")[0]
        lines.append(f"* :py:obj:`{name} <{home}.{value.__qualname__}>`: {summary}")
    return [*lines, "", *own]


def page(room: str, names: list[str]) -> str:
    """Return a room's page: what its package exports, then each module."""
    lines = [*title(room, "="), f".. automodule:: {room}", "   :no-members:", ""]
    lines += public_names(room)
    for name in names:
        if name == room:
            continue
        is_package = hasattr(importlib.import_module(name), "__path__")
        lines += [*title(name, "-"), f".. automodule:: {name}"]
        lines += ["   :no-members:" if is_package else "   :members:", ""]
        lines += public_names(name) if is_package else []
    return "\n".join(lines)


def write(folder: Path) -> None:
    """Write the pages and their table of contents; a page that did not change is left alone."""
    folder.mkdir(exist_ok=True)
    rooms = modules()
    index = [*title("API reference", "="), ".. toctree::", "   :maxdepth: 2", ""]
    index += [f"   {room}" for room in rooms]
    pages = {"index": "\n".join(index)} | {room: page(room, n) for room, n in rooms.items()}
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.is_file() or path.read_text("utf-8") != text + "\n":
            path.write_text(text + "\n", "utf-8")
