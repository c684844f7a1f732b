"""The versions of the loss side by side; no test here depends on a time."""

import json

import numpy as np
import pytest

from experiments.bench import info_nce


@pytest.mark.slow
def test_versions_of_the_loss_take_turns_and_agree(tmp_path):
    output = tmp_path / "info_nce.json"
    versions = ("dense", "blockwise", "auto")
    settings = info_nce.InfoNceBenchmark(
        sizes=(64,), dims=(16,), versions=versions, repeats=2, output=output
    )
    info_nce.main(settings)
    rows = json.loads(output.read_text())["rows"]
    assert [row["version"] for row in rows] == list(versions)
    assert all(row["seconds"] > 0 and row["temporaries_bytes"] > 0 for row in rows)
    np.testing.assert_allclose([row["loss"] for row in rows], rows[0]["loss"], rtol=1e-6)
    assert output.with_suffix(".md").read_text().count("| 64 | 16 |") == 3


def test_what_does_not_fit_is_skipped_and_said(monkeypatch):
    monkeypatch.setattr(info_nce, "free_bytes", lambda: 10)
    facts, call = info_nce.prepare_jax(info_nce.InfoNceBenchmark(), "dense", 64, 16)
    assert call is None
    assert "of temporaries" in facts["skipped"]
