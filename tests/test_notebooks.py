"""Every notebook runs from top to bottom, and is kept with its outputs and small."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jupyter and zmq, not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, monkeypatch):
    from nbclient import NotebookClient

    # A kernel is a process of its own: one device as a reader has, optimised programs, since these
    # compute more than they compile.
    monkeypatch.delenv("XLA_FLAGS")
    # Warnings in a notebook are in the reader's way; here they are errors.
    monkeypatch.setenv("PYTHONWARNINGS", "error:::simcse_jax")
    notebook = nbformat.read(path, 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}}).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_with_its_outputs_and_small(path):
    assert os.path.getsize(path) < 300_000
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert any("image/png" in out.get("data", {}) for cell in code for out in cell.outputs) or (
        path.stem.startswith("05")
    )
