"""Many seeds of one configuration, and what the best of k is worth."""

import itertools
import json
import math

import numpy as np
import pytest

from experiments.tables import seeds


def test_the_best_of_k_is_the_mean_over_all_choices():
    rng = np.random.default_rng(0)
    dev, test = rng.normal(size=(2, 7))
    found = seeds.best_of(dev, test)
    for k in range(1, 8):
        chosen = [
            test[max(choice, key=lambda seed: dev[seed])]
            for choice in itertools.combinations(range(7), k)
        ]
        assert found[k - 1] == pytest.approx(np.mean(chosen), abs=1e-12)


def trained(folder, dev, test, metric="stsb_dev"):
    columns = ["dev_before", "dev_best", "test_best", "test_last"]
    rows = [[60.0, d, t, 0.0] for d, t in zip(dev, test, strict=True)]
    summary = {"seeds": list(range(len(dev))), "columns": columns, "per_seed": rows}
    folder.mkdir()
    settings = {"max_steps": 3, "dev_metric": metric}
    text = json.dumps({**summary, "settings": settings, "hardware": "a CPU"})
    (folder / "summary.json").write_text(text)
    return folder


def fitted(folder, test):
    runs = {str(i): {"tasks": {"STS-B": {"all": t}}} for i, t in enumerate(test)}
    folder.mkdir()
    found = {"runs": runs, "settings": {"epochs": 7}, "hardware": "a CPU"}
    (folder / "results.json").write_text(json.dumps(found))
    return folder


def test_the_table_and_the_picture(tmp_path, capsys):
    runs = {
        "SimCSE": trained(tmp_path / "a", [80.0, 82.0, 81.0], [70.0, 72.0, 74.0]),
        "flow": fitted(tmp_path / "b", [60.0, 61.0, 65.0, 66.0]),
    }
    seeds.main(seeds.Seeds(tuple(runs.items()), k=2, output_dir=tmp_path / "out"))
    lines = (tmp_path / "out" / "seeds.md").read_text().splitlines()
    # By dev 82 of three pairs twice, 81 once; by the test 74 twice, 72 once.
    assert (
        lines[-2]
        == "| SimCSE | 3 | 81.00 ± 1.00 | 72.00 ± 2.00 | 70.00 to 74.00 | 72.67 | 73.33 | 0.50 |"
    )
    assert lines[-1] == "| flow | 4 |  | 63.00 ± 2.94 | 60.00 to 66.00 |  | 64.83 |  |"
    assert (tmp_path / "out" / "seeds.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "out" / "seeds.json").read_text())
    assert found["runs"]["SimCSE"]["settings"] == {"max_steps": 3, "dev_metric": "stsb_dev"}
    assert "seeds.json, seeds.md and seeds.png" in " ".join(capsys.readouterr().out.split())


def test_what_is_no_run_of_several_seeds_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    one = trained(tmp_path / "one", [80.0], [70.0])
    other = trained(tmp_path / "other", [80.0, 81.0], [70.0, 71.0])
    text = (other / "summary.json").read_text()
    (other / "summary.json").write_text(text.replace("test_best", "lee_best"))
    lee = trained(tmp_path / "lee", [80.0, 81.0], [70.0, 71.0], metric="lee_spearman")
    keyless = tmp_path / "keyless"
    keyless.mkdir()
    (keyless / "summary.json").write_text('{"seeds": [0, 1]}')
    for folder, error, message in [
        (tmp_path / "empty", FileNotFoundError, "has neither the summary.json"),
        (one, ValueError, "is of one seed"),
        (trained(tmp_path / "nan", [80.0, 81.0], [70.0, math.nan]), ValueError, "not finite"),
        (fitted(tmp_path / "null", [70.0, None]), ValueError, "not finite"),
        (keyless, ValueError, "keyless has no scores as they are written there: KeyError"),
        (other, ValueError, "has no scores of STS-B"),
        (lee, ValueError, "has no scores of STS-B dev and test; train with --eval-data"),
    ]:
        with pytest.raises(error, match=message):
            seeds.main(seeds.Seeds((("x", folder),), output_dir=tmp_path / "out"))
    with pytest.raises(ValueError, match="k is 0"):
        seeds.main(seeds.Seeds((("x", one),), k=0, output_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_name_twice_is_refused(tmp_path):
    runs = (("a", tmp_path / "x"), ("b", tmp_path / "y"), ("a", tmp_path / "z"))
    with pytest.raises(ValueError, match="two runs are called 'a'"):
        seeds.main(seeds.Seeds(runs, output_dir=tmp_path / "out"))


def test_bins_are_numpys_but_for_one_seed_far_from_all_others():
    scores = np.random.default_rng(0).normal(size=30)
    assert seeds.bins_of(scores) == len(np.histogram_bin_edges(scores, "fd")) - 1
    assert seeds.bins_of([70.00001, 70.00002, 70.00003, 70.00001, 20.0]) == 5
    assert seeds.bins_of([70.0, 70.0, 70.0]) == 3


def test_equal_scores_have_no_correlation(tmp_path):
    runs = {"x": trained(tmp_path / "x", [80.0, 80.0], [70.0, 72.0])}
    seeds.main(seeds.Seeds(tuple(runs.items()), k=3, output_dir=tmp_path / "out"))
    lines = (tmp_path / "out" / "seeds.md").read_text().splitlines()
    assert lines[-1] == "| x | 2 | 80.00 ± 0.00 | 71.00 ± 1.41 | 70.00 to 72.00 |  |  |  |"


def test_the_committed_table_is_drawn_from_its_numbers(results_folder):
    results = json.loads((results_folder / "seeds.json").read_text())
    assert seeds.markdown(results) == (results_folder / "seeds.md").read_text()
