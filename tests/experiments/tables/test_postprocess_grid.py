"""The grid of transforms, depths and tasks: its rows, its seeds, and its table from the numbers."""

import json

import numpy as np
import pytest

from experiments.tables import postprocess_grid
from experiments.tables.postprocess_grid import PostProcessingGrid


def test_the_table_has_every_row_and_its_seeds(tiny_data, golden, tmp_path, capsys):
    options = {"layers": (3, 2), "layers_all_tasks": (), "seeds": (0, 1), "output_dir": tmp_path}
    rows = [r for r in postprocess_grid.ROWS if r.label in ("raw", "flow, code")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postprocess_grid, "ROWS", tuple(rows))
        postprocess_grid.main(
            PostProcessingGrid(tiny_data, model=str(golden / "tiny-bert"), **options)
        )
    records = json.loads((tmp_path / "postprocess.json").read_text())["records"]
    seeds = [r["seed"] for r in records if (r["method"], r["layers"]) == ("flow, code", 2)]
    assert seeds == [0, 1]
    text = (tmp_path / "postprocess.md").read_text()
    assert "| raw |" in text
    assert " ± " in text
    for row in postprocess_grid.STSB_ROWS:
        assert f"| {row.label} |" in text
    assert "2 layers" in capsys.readouterr().out


def test_the_table_refuses_a_depth_it_does_not_have(tiny_data):
    with pytest.raises(ValueError, match="--layers-all-tasks has 4"):
        postprocess_grid.main(PostProcessingGrid(tiny_data, layers=(6,), layers_all_tasks=(4,)))


def test_whitening_by_the_authors_lines_makes_the_covariance_the_identity():
    x = np.random.default_rng(0).normal(size=(50, 4)) @ np.diag([5.0, 1.0, 0.1, 1e-3]) + 7
    rows = {f"sentence {i}": row for i, row in enumerate(x)}
    whitened = postprocess_grid.by_authors_lines(
        lambda sentences: np.stack([rows[s] for s in sentences]), list(rows)
    )(list(rows))
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(4), atol=1e-8)
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-10)


def test_the_committed_table_is_drawn_from_its_numbers(results_folder):
    results = json.loads((results_folder / "postprocess.json").read_text())
    text = (results_folder / "postprocess.md").read_text()
    assert postprocess_grid.markdown(results) == text
