"""The tiny encoder as a fixture."""

import pytest
from training_support import Tiny, load_tiny


@pytest.fixture(scope="session")
def tiny(golden) -> Tiny:
    return load_tiny(golden / "tiny-bert")
