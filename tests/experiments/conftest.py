"""The committed results."""

from pathlib import Path

import pytest

from experiments import report


@pytest.fixture(scope="session")
def results_folder() -> Path:
    """What the experiments measured, as committed."""
    return Path(report.__file__).parent / "results"
