"""The SimCSE commands, end to end on a tiny model: what they write, resuming, bad input."""

import dataclasses
import os
import signal

import numpy as np
import pytest

from experiments import runs, simcse, sup_simcse, unsup_simcse
from simcse_jax import SentenceEncoder
from simcse_jax.data.training_text import TrainingText
from simcse_jax.io import read_json, read_json_lines

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]


@pytest.fixture
def settings(golden, tiny_data, tmp_path):
    """Four steps of eight rows."""

    def make(kind=unsup_simcse.Settings, **options):
        chosen = {
            "model": str(golden / "tiny-bert"),
            "num_layers": 1,
            "train_file": (tiny_data / "text.txt",),
            "eval_data": tiny_data,
            "batch_size": 8,
            "max_length": 16,
            "max_steps": 4,
            "eval_every": 2,
            "learning_rate": 1e-3,
            "output_dir": tmp_path / "run",
            **options,
        }
        return kind(**chosen)

    return make


def no_text() -> TrainingText:
    raise AssertionError("there is a training file")


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def interrupt_at_second_evaluation(monkeypatch):
    """SIGTERM while the model is evaluated the second time, after step 2."""
    scores, calls = runs.dev_score, []

    def interrupting(*args):
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return scores(*args)

    monkeypatch.setattr(runs, "dev_score", interrupting)


def test_unsupervised_seeds_with_all_that_a_run_leaves(settings, tmp_path, capsys):
    run = settings(seeds=(0, 1), mlm_weight=0.1)
    simcse.main(run, unsup_simcse.PRESETS, no_text)
    out = tmp_path / "run"
    summary = read_json(out / "summary.json")
    assert summary["columns"] == ["dev_before", "dev_best", "test_best", "test_last"]
    np.testing.assert_allclose(summary["mean"], np.mean(summary["per_seed"], 0))
    np.testing.assert_allclose(summary["sd"], np.std(summary["per_seed"], 0, ddof=1))
    assert summary["per_seed"][0][0] == summary["per_seed"][1][0]
    assert summary["per_seed"][0][3] != summary["per_seed"][1][3]
    for seed in (0, 1):
        folder = out / f"seed-{seed}"
        records = read_json_lines(folder / "metrics.jsonl")
        assert [r["step"] for r in records if "eval" not in r] == [1, 2, 3, 4]
        assert [r["step"] for r in records if "eval" in r] == [2, 4]
        assert all(r["mlm_loss"] > 0 for r in records if "eval" not in r)
        assert any((folder / "tensorboard").iterdir())
        results = read_json(folder / "results.json")
        found = [results["dev_before"], results["dev_best"]]
        found += [results[w]["tasks"]["STS-B"]["all"] for w in ("best", "last")]
        assert found == summary["per_seed"][seed]
        for which in ("best", "last"):
            model = SentenceEncoder.from_pretrained(folder / which)
            assert model.settings.pooling == "cls"
            assert model.config.num_hidden_layers == 1
    printed = capsys.readouterr().out
    assert "mean ± sd" in printed
    assert f"{summary['mean'][1]:.2f} ± {summary['sd'][1]:.2f}" in printed


def test_an_interrupted_run_ends_with_the_same_bits(settings, tmp_path, monkeypatch, capsys):
    whole = dataclasses.replace(settings(), output_dir=tmp_path / "whole")
    expected = simcse.run_seed(dataclasses.replace(whole, epochs=1), text_of(whole))

    run = dataclasses.replace(settings(), epochs=1)
    with monkeypatch.context() as patch:
        interrupt_at_second_evaluation(patch)
        with pytest.raises(SystemExit, match="stopped at step 3 of 4; --resume continues"):
            simcse.run_seed(run, text_of(run))
    with pytest.raises(FileExistsError, match="holds a run at step 3; resume it"):
        simcse.run_seed(run, text_of(run))
    run = dataclasses.replace(run, resume=True)
    with pytest.raises(ValueError, match=r"temperature was 0\.05 and is 0\.1"):
        simcse.run_seed(dataclasses.replace(run, temperature=0.1), text_of(run))
    with pytest.raises(ValueError, match="cannot be resumed with other settings: text was"):
        simcse.run_seed(run, TrainingText((text_of(run).columns[0][::-1],)))
    found = simcse.run_seed(run, text_of(run))
    for name in ("dev_before", "dev_best", "best_step", "best", "last"):
        assert found[name] == expected[name]
    for which in ("best", "last"):
        assert weights(tmp_path / "run" / which) == weights(tmp_path / "whole" / which)
    assert len(read_json_lines(tmp_path / "run" / "metrics.jsonl")) == 6

    # A finished run is reused, not trained again; with other settings it is refused.
    before = (tmp_path / "run" / "last" / "model.safetensors").stat().st_mtime_ns
    assert simcse.run_seed(run, text_of(run)) == found
    assert "is finished already" in capsys.readouterr().out
    assert (tmp_path / "run" / "last" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"results\.json is of other settings"):
        simcse.run_seed(dataclasses.replace(run, learning_rate=1.0), text_of(run))


def text_of(run):
    from simcse_jax.data.training_text import read_training_file

    return read_training_file(run.train_file)


def test_supervised_triplets_keep_the_head(settings, tiny_data, tmp_path):
    triplets = tmp_path / "triplets.csv"
    words = (tiny_data / "text.txt").read_text().splitlines()
    rows = [f"{words[i]},{words[i + 1]},{words[-1 - i]}" for i in range(24)]
    triplets.write_text("\n".join(["sent0,sent1,hard_neg", *rows]) + "\n")
    run = settings(sup_simcse.Settings, train_file=(triplets,), max_steps=2, accumulate=1)
    simcse.main(run, sup_simcse.PRESETS, no_text)
    assert not (tmp_path / "run" / "summary.json").exists()
    results = read_json(tmp_path / "run" / "results.json")
    assert results["best_step"] == results["steps"] == 2
    assert results["best"] == results["last"]
    assert SentenceEncoder.from_pretrained(tmp_path / "run" / "best").settings.pooling == "pooler"


def test_bad_input(settings, tiny_data, tmp_path):
    def fails(kind, message, **options):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            simcse.main(settings(**options), unsup_simcse.PRESETS, no_text)

    fails(ValueError, "60 rows of training text do not fill one batch of 64", batch_size=64)
    fails(FileNotFoundError, "no.txt does not exist", train_file=(tiny_data / "no.txt",))
    fails(FileNotFoundError, "none", model=str(tmp_path / "none"))
    fails(ValueError, "'pooler'", pooling="pooler")
    assert not (tmp_path / "run").exists()
