"""Whitening, flow and calibrations from the command: scores, seeds, saved models, bad input."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from experiments_support import SENTENCES, write_stsb

from experiments import postprocess, postprocess_table
from simcse_jax import SentenceEncoder
from simcse_jax.data.senteval import read_sts
from simcse_jax.evaluation.sts import evaluate_sts, paired_similarity, spearman
from simcse_jax.transforms import Flow, Whitening


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_stsb(folder)
    (folder / "text.txt").write_text("\n".join(SENTENCES) + "\n")
    return folder


@pytest.fixture
def settings(data, golden, tmp_path):
    def make(**options):
        return postprocess.Settings(
            data,
            model=str(golden / "tiny-bert"),
            pooling="cls",
            tasks=("STS-B",),
            output_dir=tmp_path / "out",
            **options,
        )

    return make


def test_target_whitening_is_that_of_the_tasks_own_sentences(settings, golden, data, tmp_path):
    results = postprocess.main(settings(k=5))
    task = read_sts(data, ["STS-B"])["STS-B"]
    pairs = task.subsets[0]
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="cls")
    x, y = encoder.encode(pairs.sentences1), encoder.encode(pairs.sentences2)
    both = np.concatenate([x, y]).astype(np.float64)
    u, s, _ = np.linalg.svd(np.cov(both.T))  # the authors' lines
    matrix = (u @ np.diag(1 / np.sqrt(s)))[:, :5]
    cosines = paired_similarity((x - both.mean(0)) @ matrix, (y - both.mean(0)) @ matrix)
    expected = 100 * spearman(cosines, pairs.scores)
    assert results["runs"]["0"]["tasks"]["STS-B"]["all"] == pytest.approx(expected, abs=1e-3)
    raw = 100 * spearman(paired_similarity(x, y), pairs.scores)
    assert results["raw"]["tasks"]["STS-B"]["all"] == pytest.approx(raw, abs=1e-3)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["settings"]["k"] == 5
    saved = Whitening.load(tmp_path / "out" / "transforms" / "STS-B")
    assert saved.output_dim == 5


def test_a_fit_on_a_file_makes_a_model_with_the_same_scores(settings, data, tmp_path):
    results = postprocess.main(settings(fit=(str(data / "text.txt"),), k=5))
    model = SentenceEncoder.from_pretrained(tmp_path / "out" / "model")
    assert model.dimension == 5
    again = evaluate_sts(model.encode, read_sts(data, ["STS-B"]))
    expected = results["runs"]["0"]["tasks"]["STS-B"]["all"]
    assert again.tasks["STS-B"].spearman.all == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("dropout", [False, True])
def test_every_seed_of_a_flow(settings, tmp_path, dropout, caplog):
    with caplog.at_level(logging.WARNING):
        results = postprocess.main(settings(method="flow", seeds=(0, 1), dropout=dropout))
    runs = [results["runs"][s]["tasks"]["STS-B"]["all"] for s in ("0", "1")]
    assert runs[0] != runs[1]
    assert isinstance(Flow.load(tmp_path / "out" / "transforms" / "STS-B"), Flow)


def test_calibrations(settings):
    raw = postprocess.main(settings(method="standardization"))
    other = postprocess.main(settings(method="remove-directions", k=2))
    scores = {r["runs"]["0"]["tasks"]["STS-B"]["all"] for r in (raw, other)}
    assert len(scores | {raw["raw"]["tasks"]["STS-B"]["all"]}) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"flow": "glow"}, "no flow is called 'glow'; they are code paper modern"),
        ({"dropout": True}, "only a flow"),
        ({"seeds": ()}, "at least one seed"),
        ({"k": 33}, "k must lie in 1..32"),
    ],
)
def test_bad_settings_write_nothing(settings, tmp_path, options, says):
    with pytest.raises(ValueError, match=says):
        postprocess.main(settings(**options))
    assert not (tmp_path / "out").exists()


def test_unknown_task_and_missing_file(settings, tmp_path):
    with pytest.raises(ValueError, match="no STS task is called 'STS17'"):
        postprocess.main(dataclasses.replace(settings(), tasks=("STS17",)))
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        postprocess.main(settings(fit=(str(tmp_path / "nowhere.txt"),)))
    assert not (tmp_path / "out").exists()


def test_the_table_has_every_row_and_its_seeds(data, golden, tmp_path, capsys):
    options = {"layers": (3, 2), "layers_all_tasks": (), "seeds": (0, 1), "output_dir": tmp_path}
    rows = [r for r in postprocess_table.ROWS if r.label in ("raw", "flow, code")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postprocess_table, "ROWS", tuple(rows))
        postprocess_table.main(
            postprocess_table.Settings(data, model=str(golden / "tiny-bert"), **options)
        )
    records = json.loads((tmp_path / "postprocess.json").read_text())["records"]
    seeds = [r["seed"] for r in records if (r["method"], r["layers"]) == ("flow, code", 2)]
    assert seeds == [0, 1]
    text = (tmp_path / "postprocess.md").read_text()
    assert "| raw |" in text
    assert " ± " in text
    for row in postprocess_table.STSB_ROWS:
        assert f"| {row.label} |" in text
    assert "2 layers" in capsys.readouterr().out


def test_the_table_refuses_a_depth_it_does_not_have(data):
    with pytest.raises(ValueError, match="--layers-all-tasks has 4"):
        postprocess_table.main(postprocess_table.Settings(data, layers=(6,), layers_all_tasks=(4,)))
