"""Whitening, flow and calibrations from the command: scores, seeds, saved models, bad input."""

import dataclasses
import json
import logging

import numpy as np
import pytest

from experiments.tables import postprocess
from simcse_jax import SentenceEncoder
from simcse_jax.data.senteval import read_sts
from simcse_jax.evaluation.sts import evaluate_sts, paired_similarity, spearman
from simcse_jax.transforms import Flow, Whitening


@pytest.fixture
def settings(tiny_data, golden, tmp_path):
    def make(**options):
        return postprocess.PostProcessing(
            tiny_data,
            model=str(golden / "tiny-bert"),
            pooling="cls",
            tasks=("STS-B",),
            output_dir=tmp_path / "out",
            **options,
        )

    return make


def test_target_whitening_is_that_of_the_tasks_own_sentences(settings, golden, tiny_data, tmp_path):
    results = postprocess.main(settings(k=5))
    task = read_sts(tiny_data, ["STS-B"])["STS-B"]
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


def test_a_fit_on_a_file_makes_a_model_with_the_same_scores(settings, tiny_data, tmp_path):
    results = postprocess.main(settings(fit=(str(tiny_data / "text.txt"),), k=5))
    model = SentenceEncoder.from_pretrained(tmp_path / "out" / "model")
    assert model.dimension == 5
    again = evaluate_sts(model.encode, read_sts(tiny_data, ["STS-B"]))
    expected = results["runs"]["0"]["tasks"]["STS-B"]["all"]
    assert again.tasks["STS-B"].spearman.all == pytest.approx(expected, abs=1e-3)


def test_files_that_are_not_its_own_stay(settings, tiny_data, tmp_path):
    """What it wrote before goes, and another folder, a run's for one, is refused."""
    out = tmp_path / "out"
    postprocess.main(settings(k=5))
    (out / "thesis.txt").write_text("years of work")
    postprocess.main(settings(fit=(str(tiny_data / "text.txt"),), k=5))
    assert sorted(p.name for p in out.iterdir()) == ["model", "results.json", "thesis.txt"]
    (out / "results.json").write_text('{"best": 3}')
    with pytest.raises(FileExistsError, match="out: it holds model and no results.json"):
        postprocess.main(settings(k=5))
    assert (out / "results.json").read_text() == '{"best": 3}'


def test_every_seed_of_a_flow_with_and_without_dropout(settings, tmp_path, caplog):
    def scores(dropout):
        results = postprocess.main(settings(method="flow", seeds=(0, 1), dropout=dropout))
        return [results["runs"][seed]["tasks"]["STS-B"]["all"] for seed in ("0", "1")]

    with caplog.at_level(logging.WARNING):
        found = [*scores(dropout=False), *scores(dropout=True)]
    assert len(set(found)) == 4
    assert not caplog.records
    assert isinstance(Flow.load(tmp_path / "out" / "transforms" / "STS-B"), Flow)


def test_calibrations(settings):
    raw = postprocess.main(settings(method="standardization"))
    other = postprocess.main(settings(method="all_but_the_top", k=2))
    scores = {r["runs"]["0"]["tasks"]["STS-B"]["all"] for r in (raw, other)}
    assert len(scores | {raw["raw"]["tasks"]["STS-B"]["all"]}) == 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"flow": "glow"}, "no flow is called 'glow'; they are code paper modern"),
        ({"dropout": True}, "only a flow"),
        ({"seeds": (), "method": "flow"}, "at least one seed"),
        ({"seeds": (0, 0), "method": "flow"}, "seeds has 0 more than once; name each once"),
        ({"seeds": (0, 1)}, "--seeds is of a flow, not of whitening; leave it out"),
        ({"epochs": 5}, "--epochs is of a flow"),
        ({"k": 33}, "k is 33; it must be at least 1 and at most 32"),
        ({"k": 5, "method": "flow"}, "--k is of whitening and all_but_the_top, not of flow"),
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
