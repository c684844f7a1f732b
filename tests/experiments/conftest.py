"""The tiny data as a fixture, the committed results, and one device."""

from pathlib import Path

import jax
import pytest
from tiny_data import SENTENCES, write_nli, write_stsb

from experiments import report, runs
from simcse_jax.training import make_mesh


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-data")
    write_stsb(folder)
    write_nli(folder / "nli.jsonl")
    (folder / "text.txt").write_text("\n".join(SENTENCES) + "\n")
    return folder


@pytest.fixture(scope="session")
def results_folder():
    """What the experiments measured, as committed."""
    return Path(report.__file__).parent / "results"


@pytest.fixture
def one_device(monkeypatch):
    """Training on one of the eight fake devices: several are tested with the steps, for less."""
    monkeypatch.setattr(runs, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
