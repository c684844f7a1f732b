"""What the tests of model folders share."""

import shutil

import pytest


@pytest.fixture(params=["tiny-bert", "tiny-roberta"])
def folder(request, golden, tmp_path):
    """A copy of a tiny model folder, to be spoilt."""
    shutil.copytree(golden / request.param, tmp_path / "model")
    return tmp_path / "model"
