"""`train`, end to end on a tiny model: what it leaves, resuming, every objective, bad input."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from jax import lax
from tiny_data import LABELS, SENTENCES

import simcse_jax
from simcse_jax import SentenceEncoder, Whitening, cli, train, trainer
from simcse_jax.config import CONFIGS, from_json, load_config, replace
from simcse_jax.data.datasets import (
    TrainingData,
    given_data,
    load_training_data,
    split_premises,
)
from simcse_jax.data.training_text import read_labelled_nli
from simcse_jax.evaluation.scores import no_scores, sts_scores
from simcse_jax.hub.card import BIBTEX
from simcse_jax.io import read_json, read_json_lines
from simcse_jax.models import SentenceModel
from simcse_jax.objectives import AXIS, Objective, TokenObjective, sentence_keys
from simcse_jax.objectives.sbert import read_classifier
from simcse_jax.process import Interrupted
from simcse_jax.trainer import train_seeds
from simcse_jax.training.run_folder import claimed

pytestmark = pytest.mark.slow


@pytest.fixture
def make(golden, tiny_data, tmp_path):
    """Four steps of eight examples, on eight devices: a configuration by name, with changes."""

    def config(name, **changes):
        tiny = {
            "model": str(golden / "tiny-bert"),
            "num_layers": 1,
            "eval_data": tiny_data,
            "batch_size": 8,
            "max_length": 16,
            "max_steps": 4,
            "eval_every": 2,
            "learning_rate": 1e-3,
            "output_dir": tmp_path / "run",
        }
        if name == "flow":
            del tiny["eval_every"]  # which it does not know
        return replace(CONFIGS[name], **(tiny | changes))

    return config


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def card(folder):
    """The card of a model, as the hub's own reader has it."""
    return ModelCard.load(folder / "README.md")


def test_seeds_with_all_that_a_run_leaves(make, tiny_data, tmp_path, capsys):
    config = make(
        "unsup_simcse", seeds=(0, 1), mlm_weight=0.1, train_files=(tiny_data / "text.txt",)
    )
    encoder = train(config)
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
            check_card(config, results, folder / which)
    printed = capsys.readouterr().out
    assert "mean ± sd" in printed
    assert f"{summary['mean'][1]:.2f} ± {summary['sd'][1]:.2f}" in printed
    best = SentenceEncoder.from_pretrained(out / "seed-0" / "best")
    np.testing.assert_array_equal(encoder.encode(SENTENCES[:3]), best.encode(SENTENCES[:3]))


def check_card(config, results, folder):
    """A card has the scores, the settings and the text's fingerprint of its run."""
    read, task = card(folder), results[folder.name]["tasks"]["STS-B"]
    (sts, pearson) = read.data.eval_results
    assert (sts.dataset_name, sts.dataset_split, sts.metric_type) == (
        *("STS-B", "test", "spearman_cosine"),
    )
    assert sts.metric_value == round(task["all"] / 100, 6)
    assert pearson.metric_value == round(task["pearson"]["all"] / 100, 6)
    assert read.data.base_model is None
    seed = results["settings"]["seed"]
    settings = json.loads(re.search("```json\n(.*?)```", read.text, re.S)[1])
    own = replace(config, seed=seed, seeds=(), model="tiny-bert", train_files=("text.txt",))
    places = {"output_dir": from_json(settings).run.output_dir, "eval_data": None}
    share = {"share": own.data.share_of_words}
    assert from_json(settings) == replace(own, **places, **share, data_seed=config.run.seed)
    assert f"`{results['settings']['text']}`" in read.text
    assert "text.txt: 60 sentences" in read.text
    assert "title = {{SimCSE}: Simple Contrastive Learning" in read.text
    assert f"All scores are of one run, with seed {seed}." in read.text
    assert results["hardware"] in read.text
    assert f"jax {jax.__version__}, jaxlib" in read.text
    if folder.name == "best":
        assert f"after update {results['best_step']}, the best of the evaluations" in read.text
    assert str(config.run.output_dir.parent) not in str(read)


def test_an_interrupted_run_ends_with_the_same_bits(make, tiny_data, tmp_path, monkeypatch, capsys):
    config = make("sbert_stsb")
    whole = train_seeds(replace(config, output_dir=tmp_path / "whole"))[0]
    assert whole["before"]["tasks"]["STS-B"]["pairs"] == 40

    scores, asked = sts_scores(tiny_data, all_tasks=False), []

    def interrupting(encoder):
        """SIGTERM while the model is evaluated the second time, after step 2."""
        asked.append(encoder)
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return scores.dev(encoder)

    with pytest.raises(Interrupted, match="stopped at step 3 of 4, with a checkpoint in .*run$"):
        train_seeds(config, evaluate=interrupting)

    def again(config):
        return train_seeds(config, evaluate=scores.dev)[0]

    # What is refused leaves the run as it is.
    written = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(FileExistsError, match="holds a run at step 3; go on with it"):
        again(replace(config, score="shifted"))
    config = replace(config, resume=True)
    with pytest.raises(ValueError, match="score was 'cosine' and is 'shifted'"):
        again(replace(config, score="shifted"))
    with pytest.raises(ValueError, match="dev_metric was None and is 'stsb_dev'"):
        train_seeds(config)
    assert (tmp_path / "run" / "run.json").read_bytes() == written
    other = TrainingData(read_labelled_nli(tiny_data / "nli.jsonl"))
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "load_training_data", lambda *_: other)
        changed = "text has changed; the text at hand is the data set 'stsb'"
        with pytest.raises(ValueError, match=changed):
            again(config)
    found = again(config)
    for name in ("dev_before", "dev_best", "best_step", "best", "last"):
        assert found[name] == whole[name]
    for which in ("best", "last"):
        assert weights(tmp_path / "run" / which) == weights(tmp_path / "whole" / which)
    steps = [record["step"] for record in read_json_lines(tmp_path / "run" / "metrics.jsonl")]
    assert steps == [1, 2, 2, 3, 4, 4]

    # A finished run is reused, not trained again; with other settings it is refused.
    before = (tmp_path / "run" / "last" / "model.safetensors").stat().st_mtime_ns
    assert again(config) == found
    assert "is finished already" in capsys.readouterr().out
    assert (tmp_path / "run" / "last" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"results\.json is of other settings"):
        again(replace(config, learning_rate=1.0))


def test_a_finished_run_is_never_overwritten(make, tiny_data, tmp_path, capsys):
    """Whatever of it is gone; and what lies beside it stays."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    config = make("unsup_simcse", train_files=(tiny_data / "text.txt",))
    found = train_seeds(config)[0]
    assert "dataset" not in found["settings"]  # files are no data set, and not called one
    assert "embedded_wikipedia" not in card(folder / "best").text
    shutil.rmtree(folder / "checkpoints")
    written = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert folder / "run.lock" not in written

    def unchanged():
        return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == written

    with pytest.raises(FileExistsError, match=r"holds a finished run, results\.json; go on"):
        train_seeds(replace(config, learning_rate=1.0))
    assert unchanged()
    with pytest.raises(ValueError, match="learning_rate was 0.001 and is 1.0"):
        train_seeds(replace(config, learning_rate=1.0, resume=True))
    assert unchanged()
    assert train_seeds(replace(config, resume=True))[0] == found
    assert unchanged()

    (folder / "results.json").write_text('{"settings": {')
    with pytest.raises(ValueError, match=r"results\.json, line 1: not JSON .*; delete it, and"):
        train_seeds(replace(config, resume=True))
    (folder / "results.json").unlink()
    with pytest.raises(FileExistsError, match="holds the model of a run, best"):
        train_seeds(config)
    (folder / "best" / "simcse_jax.json").unlink()
    with pytest.raises(FileExistsError, match="best was not written by a run"):
        train_seeds(replace(config, resume=True))
    shutil.rmtree(folder / "best")
    (folder / "results.json").write_bytes(written[folder / "results.json"])
    with pytest.raises(FileNotFoundError, match="is a finished run whose model .*best is gone"):
        train(replace(config, resume=True))
    assert (folder / "thesis.txt").read_text() == "mine"


def test_a_best_model_that_was_deleted_is_written_again(make, tiny_data, tmp_path, capsys):
    config = make("unsup_simcse", train_files=(tiny_data / "text.txt",), eval_every=4)
    found = train_seeds(config)[0]
    best, last = tmp_path / "run" / "best", tmp_path / "run" / "last"
    before, said = weights(best), str(card(best))
    shutil.rmtree(best)
    # The other model is written again as well: but not the card, which is the user's now.
    (last / "README.md").write_text(f"{card(last)}\nMine.\n")
    again = train_seeds(replace(config, resume=True))[0]
    assert again["best"] == found["best"]
    assert weights(best) == before
    assert str(card(best)) == said
    assert str(card(last)).endswith("\nMine.\n")
    # As if it had been killed between the cards and the results.
    (tmp_path / "run" / "results.json").unlink()
    assert train_seeds(replace(config, resume=True))[0]["best"] == found["best"]
    assert str(card(best)) == said
    # A card that is gone is no model that is gone.
    (best / "README.md").unlink()
    train(replace(config, resume=True))
    assert not (best / "README.md").exists()
    printed = " ".join(capsys.readouterr().out.split())
    assert "its model best is gone; its checkpoints give it again" in printed


def test_a_run_goes_on_from_the_same_weights_and_is_scored_on_the_same_data(
    make, golden, tiny_data, tmp_path
):
    start, data = tmp_path / "start", tmp_path / "data"
    shutil.copytree(golden / "tiny-bert", start)
    shutil.copytree(tiny_data, data)
    text = {"train_files": (tiny_data / "text.txt",)}
    config = make("unsup_simcse", model=str(start), eval_data=data, max_steps=1, **text)
    (found,) = train_seeds(config)
    again = replace(config, resume=True)
    assert train_seeds(again) == [found]
    test = data / "STS" / "STSBenchmark" / "sts-test.csv"
    told = test.read_text()
    test.write_text("".join(told.splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match="what is scored, by eval_data or test_files, has changed"):
        train_seeds(again)
    test.write_text(told)
    # Another model under the same name, for a finished run and one that was interrupted.
    encoder = SentenceEncoder.from_pretrained(start, pooling="cls")
    bigger = encoder.with_params(jax.tree.map(lambda x: 2 * x, encoder.params))
    shutil.rmtree(start)
    bigger.save_pretrained(start)
    results, aside = tmp_path / "run" / "results.json", tmp_path / "aside.json"
    with pytest.raises(ValueError, match="the model to start from has changed"):
        train_seeds(again)
    results.rename(aside)
    with pytest.raises(ValueError, match="the model to start from has changed"):
        train_seeds(again)
    # A finished run needs its start no more.
    aside.rename(results)
    shutil.rmtree(start)
    assert train_seeds(again) == [found]


def test_seeds_are_refused_before_any_is_trained(make, tiny_data, tmp_path, monkeypatch):
    config = make("unsup_simcse", seeds=(0, 1), train_files=(tiny_data / "text.txt",), max_steps=1)
    train_seeds(replace(config, seeds=(), seed=1, output_dir=tmp_path / "run" / "seed-1"))
    (tmp_path / "run" / "seed-0").mkdir()
    monkeypatch.setattr("simcse_jax.trainer.fit", None)
    with pytest.raises(FileExistsError, match="seed-1 holds a finished run"):
        train_seeds(config)
    with claimed(tmp_path / "run" / "seed-1"), pytest.raises(FileExistsError, match="is held by"):
        train_seeds(replace(config, resume=True))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["seed-0", "seed-1"]
    assert not list((tmp_path / "run" / "seed-0").iterdir())
    one = replace(config, output_dir=tmp_path / "run" / "seed-1", resume=True)
    with pytest.raises(FileExistsError, match="seed-1 holds a run of one seed; choose another"):
        train_seeds(one)


def test_a_seed_is_reproduced_by_its_own_configuration(make, tiny_data, tmp_path):
    """Its data is drawn as that of all seeds of the run is."""
    rows = [
        {"premise": SENTENCES[i // 4], "hypothesis": SENTENCES[-1 - i], "label": label}
        for i, label in enumerate(
            ["entailment", "entailment", "contradiction", "contradiction"] * 9
        )
    ]
    (tmp_path / "nli.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train_files": (tmp_path / "nli.jsonl",), "max_steps": 1}
    config = make("sup_simcse", seeds=(3, 4), seed=5, **files)
    found = train_seeds(config)[1]
    of_run = load_training_data(config.data, 5).text.fingerprint
    assert (
        found["settings"]["text"] == of_run != load_training_data(config.data, 4).text.fingerprint
    )
    own = load_config(tmp_path / "run" / "seed-4" / "run.json")
    assert (own.run.seed, own.data.data_seed) == (4, 5)
    again = train_seeds(replace(own, output_dir=tmp_path / "again"))[0]
    assert again["last"] == found["last"]
    assert weights(tmp_path / "again" / "last") == weights(tmp_path / "run" / "seed-4" / "last")


@pytest.mark.parametrize(("head", "kept"), [("train_only", False), ("train_and_test", True)])
def test_scores_before_training_are_shared_where_the_models_are(make, tmp_path, head, kept):
    rows = [(SENTENCES[i], SENTENCES[i + 1]) for i in range(24)]
    config = make(
        "unsup_simcse", head=head, seeds=(0, 1), test_before=True, max_steps=1, mlm_weight=0.0
    )
    first, second = train_seeds(config, sentences=rows)
    assert (first["before"] != second["before"]) == kept
    assert ("before" in read_json(tmp_path / "run" / "summary.json")) != kept


def test_given_sentences_are_named_so(make, tmp_path):
    config = make("unsup_simcse", max_steps=1)
    train(config, sentences=SENTENCES)
    own = load_config(tmp_path / "run" / "run.json")
    assert own.data.dataset == "given"
    with pytest.raises(ValueError, match="the data set 'given' stands for the sentences that"):
        train(replace(own, output_dir=tmp_path / "again"))
    train(replace(own, output_dir=tmp_path / "again"), sentences=SENTENCES)
    assert weights(tmp_path / "again" / "last") == weights(tmp_path / "run" / "last")


def test_seeds_without_scores_have_a_summary_too(make, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "sts_scores", lambda *_: no_scores())
    config = make("unsup_simcse", seeds=(0, 1), eval_data=None, max_steps=1)
    train_seeds(config, sentences=SENTENCES)
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["seeds"] == [0, 1]
    assert summary["columns"] == summary["mean"] == []
    assert len(summary["train_seconds"]) == 2
    assert "nothing is scored" in capsys.readouterr().out
    said = card(tmp_path / "run" / "seed-0" / "best")
    assert said.data.eval_results is None
    assert "Not measured: the run had no data to score its models on." in said.text


def test_a_loss_that_is_no_number_is_one_line_with_causes(make, tiny_data, tmp_path, capsys):
    args = [
        *("train", "unsup_simcse", "--model", make("unsup_simcse").model.model),
        *("--num-layers", "1", "--train-files", str(tiny_data / "text.txt"), "--batch-size", "8"),
        *("--max-length", "16", "--eval-data", str(tiny_data), "--output-dir"),
        *(str(tmp_path / "run"), "--learning-rate", "1000", "--dtype", "bfloat16"),
        *("--max-steps", "40", "--weight-decay", "1000"),
    ]
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    assert stop.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert re.match(r"error: (loss|gradient_norm) is (nan|inf) at step \d+", line)
    assert "a --learning-rate that is too high (1000)" in line
    assert "bfloat16" in line


def test_a_signal_ends_the_command_with_its_exit_code(
    make, tiny_data, tmp_path, monkeypatch, capsys
):
    """Between its steps it saves; elsewhere it leaves at once, and the folder is let go."""
    config = make("unsup_simcse", train_files=(tiny_data / "text.txt",), checkpoint_steps=2)
    again = "simcse-jax train unsup_simcse --resume"
    moments = {
        "before": (1, signal.SIGTERM),
        "within": (2, signal.SIGTERM),
        "ctrl-c": (2, signal.SIGINT),
        "after": (4, signal.SIGTERM),
    }
    dev = SentenceEncoder.encode
    for moment, (call, number) in moments.items():
        calls = []

        def ending(self, *args, calls=calls, call=call, number=number, **options):
            calls.append(None)
            if len(calls) == call:
                os.kill(os.getpid(), number)
            return dev(self, *args, **options)

        monkeypatch.setattr(SentenceEncoder, "encode", ending)
        own = replace(config, output_dir=tmp_path / moment)
        with pytest.raises(SystemExit) as stop:
            cli.run_or_explain(lambda own=own: train(own), again)
        assert stop.value.code == 128 + number
        printed = capsys.readouterr()
        assert "is written every 10 minutes, every 2 steps" in printed.out or moment == "before"
        within = call == 2
        assert ("error: stopped at step 3 of 4, with" if within else "by SIGTERM;") in printed.err
        how = "it goes on by" if within else "start it again by"
        assert printed.err.endswith(f"; {how}: {again}\n")
        steps = sorted(p.name for p in (tmp_path / moment / "checkpoints").iterdir())
        assert steps == {"before": [], "after": ["2", "4"]}.get(moment, ["2", "3"])
        assert not (tmp_path / moment / "run.lock").exists()
        assert not [p for p in (tmp_path / moment).rglob(".*")]
    monkeypatch.setattr(SentenceEncoder, "encode", dev)
    found = [
        train_seeds(replace(config, output_dir=tmp_path / moment, resume=True))[0]["last"]
        for moment in moments
    ]
    assert found[1:] == found[:-1]
    cards = {str(card(tmp_path / m / name)) for m in moments for name in ("best", "last")}
    assert len(cards) == 2
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{tmp_path / 'before'}: no checkpoint to continue from, so it starts anew" in printed
    assert f"{tmp_path / 'ctrl-c'}: continues at step 3 of 4" in printed


def test_nli_with_accuracy_on_a_test_file(make, tiny_data, tmp_path, capsys):
    test_file = tmp_path / "test.jsonl"
    rows = [
        {"premise": SENTENCES[i], "hypothesis": SENTENCES[-1 - i], "label": LABELS[i % 3]}
        for i in range(20)
    ]
    test_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train_files": (tiny_data / "nli.jsonl",), "test_files": (test_file,)}
    config = make("sbert_nli", **files, concatenation="uv-diff-mul", learning_rate=1e-2)
    results = train_seeds(config)[0]
    assert set(results["before"]) == {"tasks", "average"}
    assert "48 NLI pairs (16 entailment, 16 neutral, 16 contradiction)" in capsys.readouterr().out

    # Accuracy once more, in numpy, from what the folder holds.
    folder = tmp_path / "run" / "last"
    objective, classifier = read_classifier(folder)
    assert objective.concatenation == "uv-diff-mul"
    encoder = SentenceEncoder.from_pretrained(folder)
    assert encoder.settings.pooling == "mean"
    u, v = (encoder.encode([row[name] for row in rows]) for name in ("premise", "hypothesis"))
    features = np.hstack([u, v, np.abs(u - v), u * v])
    logits = features @ np.asarray(classifier["kernel"]) + np.asarray(classifier["bias"])
    right = [LABELS[k] == row["label"] for k, row in zip(logits.argmax(1), rows, strict=True)]
    np.testing.assert_allclose(results["last"]["nli"], 100 * np.mean(right))
    *_, nli = card(folder).data.eval_results
    assert (nli.dataset_name, nli.metric_value) == ("NLI", round(np.mean(right), 6))
    assert "a pair of sentences with a label" in card(folder).text

    # The folder is where STS-B goes on from.
    more = {"model": str(folder), "num_layers": None, "output_dir": tmp_path / "stsb"}
    stsb = train_seeds(make("sbert_stsb", **more, max_steps=1))[0]
    assert stsb["before"]["tasks"] == results["last"]["tasks"]
    with pytest.raises(FileNotFoundError, match=r"classifier\.safetensors does not exist"):
        read_classifier(tmp_path)


def test_nli_from_a_model_that_truncates_and_without_similarities(
    make, golden, tiny_data, tmp_path, monkeypatch, capsys
):
    """The classifier reads whole vectors; its accuracy is in the table though nothing chooses."""
    monkeypatch.setattr(trainer, "sts_scores", lambda *_: no_scores())
    start = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    settings = dataclasses.replace(start.settings, truncate_dim=5)
    start._but(settings=settings).save_pretrained(tmp_path / "short")
    files = {"train_files": (tiny_data / "nli.jsonl",), "test_files": (tiny_data / "nli.jsonl",)}
    config = make("sbert_nli", **files, model=str(tmp_path / "short"), test_before=False)
    (results,) = train_seeds(replace(config, max_steps=1, eval_data=None))
    encoder = SentenceEncoder.from_pretrained(tmp_path / "run" / "last")
    assert encoder.encode("the dog").shape == (5,)
    objective, classifier = read_classifier(tmp_path / "run" / "last")
    pairs = read_labelled_nli(files["test_files"])
    u, v = (encoder.encode(column, truncate_dim=32) for column in pairs.columns)
    right = np.argmax(objective.classify(classifier, u, v), 1) == np.asarray(pairs.labels)
    np.testing.assert_allclose(results["last"]["nli"], 100 * np.mean(right))
    said = " ".join(capsys.readouterr().out.split())
    assert "no model is chosen and the last model is kept" in said
    assert re.search(r"seed . [^a-z]*NLI [^a-z]*", said), said
    assert "NLI, best" not in said
    assert "Spearman" not in said


def test_classes_that_no_example_has_are_told_of(make, tmp_path, capsys):
    pairs = {"a": SENTENCES[:16], "b": SENTENCES[16:32], "same": [0, 1] * 8}
    options = {"columns": ("a", "b"), "label_column": "same", "max_steps": 1, "batch_size": 8}
    config = make("sbert_nli", labelled_nli=False, train_files=(), **options)
    train_seeds(config, sentences=pairs)
    told = "no label is above 1, but 3 classes are trained; num_labels 2 would be enough"
    assert told in " ".join(capsys.readouterr().out.split())
    train_seeds(replace(config, num_labels=2, output_dir=tmp_path / "two"), sentences=pairs)
    assert "no label is" not in capsys.readouterr().out


def test_labels_of_pairs_held_out_are_checked_too(make, tmp_path):
    def write(name, label):
        rows = [{"a": a, "b": b, "label": label} for a, b in itertools.pairwise(SENTENCES[:20])]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    config = make(
        "sbert_nli",
        train_files=(write("train.jsonl", 1),),
        test_files=(write("test.jsonl", 7),),
        columns=("a", "b"),
        label_column="label",
    )
    with pytest.raises(ValueError, match="num_labels is 3, but a label is 7"):
        train_seeds(config)


def test_a_finished_run_is_not_taken_for_one_with_other_scores(make, monkeypatch, tiny_data):
    config = make("unsup_simcse", train_files=(tiny_data / "text.txt",), max_steps=1)
    train_seeds(config)
    again = replace(config, all_tasks=True, resume=True)
    with pytest.raises(
        ValueError, match=r"scored on STS-B; leave all_tasks out, .* --model .*best"
    ):
        train_seeds(again)
    assert train_seeds(replace(config, resume=True))


def test_without_a_test_file_premises_are_held_out(make, tiny_data):
    config = make("sbert_nli", train_files=(tiny_data / "nli.jsonl",))
    whole = read_labelled_nli(config.data.train_files)
    data = load_training_data(config.data, 0)
    kept, held_out = data.text, data.held_out["nli"]
    assert len(kept) + len(held_out) == len(whole)
    assert not set(kept.columns[0]) & set(held_out.columns[0])
    rows = set(zip(*whole.columns, whole.labels, strict=True))
    for side in (kept, held_out):
        assert set(zip(*side.columns, side.labels, strict=True)) <= rows
    assert held_out.description.endswith(f"{len(held_out)} of them held out")
    with pytest.raises(ValueError, match="too few to hold some out"):
        split_premises(whole, 0.0)


def write_dump(path, articles=40):
    """A MediaWiki dump whose articles have two sections with words of their own."""
    pages = []
    for number in range(articles):
        sections = []
        for heading, things in (("Music", ("flute", "piano")), ("Food", ("food", "grass"))):
            sentences = [
                f"The {who} {what} the {thing} in park {number}."
                for who, what, thing in zip(("man", "dog"), ("plays", "eats"), things, strict=True)
            ]
            sections.append(f"== {heading} ==\n{' '.join(sentences)}\n")
        pages.append(
            f"<page><title>Title {number}</title><ns>0</ns><revision><text>{''.join(sections)}"
            "</text></revision></page>"
        )
    path.write_text(f"<mediawiki>{''.join(pages)}</mediawiki>")
    return path


def test_wikisections_of_a_dump(make, tmp_path, capsys):
    # Two passes at half the rate: the loss at 1e-2 swings more than it falls.
    config = make(
        "sbert_wikisections",
        dataset_source=write_dump(tmp_path / "dump.xml"),
        eval_data=None,
        max_steps=12,
        eval_every=6,
        learning_rate=5e-3,
        max_length=24,
    )
    data = load_training_data(config.data, 42)
    # Each sentence ends in its article's number.
    articles = {
        name: {s.rpartition(" ")[2] for column in text.columns for s in column}
        for name, text in {"train": data.text, **data.held_out}.items()
    }
    assert not articles["train"] & articles["all"]
    assert not (articles["train"] | articles["all"]) & articles["dev"]
    results = train_seeds(config)[0]
    assert set(results["last"]) == {"sections", "sections_cosine", "sections_all"}
    assert results["last"]["sections"] > results["before"]["sections"]
    records = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert records[-2]["loss"] < records[0]["loss"]
    assert "section triplets of" in capsys.readouterr().out
    said = {
        (r.dataset_type, r.metric_type): r for r in card(tmp_path / "run/last").data.eval_results
    }
    assert said["wikipedia-sections", "euclidean_accuracy"].metric_value == round(
        results["last"]["sections"] / 100, 6
    )
    assert len(said) == 3
    assert '"dataset_source": "dump.xml"' in card(tmp_path / "run/last").text


def test_columns_and_scores_of_ones_own_from_the_command_line(
    golden, tmp_path, monkeypatch, capsys
):
    """Pairs with a score train, choose and test; and the run is logged twice."""
    library = SimpleNamespace(Error=Exception, begun=[], logged=[])
    library.init = lambda **options: library.begun.append(options) or library
    library.id, library.finish = "its-id", lambda exit_code: None
    library.define_metric, library.log = lambda *_, **__: None, library.logged.append
    monkeypatch.setitem(sys.modules, "wandb", library)
    rows = [(SENTENCES[i], SENTENCES[(7 * i) % 60], i % 6, "x") for i in range(32)]
    columns = dict(zip(("q", "a b", "stars", "more"), zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    (tmp_path / "dev.jsonl").write_text(
        "".join(json.dumps({"q": q, "p": p, "stars": s}) + "\n" for q, p, s, _ in rows)
    )
    command = [
        *("train", "sbert_stsb", "--model", str(golden / "tiny-bert"), "--num-layers", "1"),
        *("--train-files", str(tmp_path / "train.parquet"), "--columns", "q", "a b"),
        *("--score-column", "stars", "--highest-score", "5", "--wandb", "mine"),
        *("--eval-data", str(tmp_path / "dev.jsonl"), "--eval-columns", "q", "p", "stars"),
        *("--batch-size", "8", "--max-length", "16", "--max-steps", "2", "--eval-every", "1"),
        *("--output-dir", str(tmp_path / "run")),
    ]
    cli.main(command)
    printed = " ".join(capsys.readouterr().out.split())
    assert "32 pairs from 2 columns (q, a b), each with its score 'stars'" in printed
    assert "the pairs that it is scored on, the 32 of dev.jsonl" in printed
    results = read_json(tmp_path / "run" / "results.json")
    assert results["dev_metric"] == "pairs_dev"
    told = (tmp_path / "dev.jsonl").read_text()
    (tmp_path / "dev.jsonl").write_text(told.replace('"stars": 1', '"stars": 2'))
    with pytest.raises(SystemExit):
        cli.main([*command, "--resume"])
    assert "scored, by --eval-data or --test-files, has changed" in capsys.readouterr().err
    assert results["best"]["tasks"]["dev"]["all"] == pytest.approx(results["dev_best"])
    assert library.begun[0]["config"]["data"]["columns"] == ["q", "a b"]
    logged = [{n: x for n, x in r.items() if n != "eval"} for r in library.logged]
    records = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert logged == [
        {n: x for n, x in {**r, **r.get("eval", {})}.items() if n != "eval"} for r in records
    ]
    # The same rows by another way are the same text.
    given = {name: columns[name] for name in ("q", "a b", "stars")}
    config = replace(load_config(tmp_path / "run" / "run.json"), dataset="embedded_wikipedia")
    assert given_data(given, config.data, 0).text.fingerprint == results["settings"]["text"]


def test_a_list_of_triplets_keeps_the_head(make, tmp_path):
    rows = [(SENTENCES[i], SENTENCES[i + 1], SENTENCES[-1 - i]) for i in range(24)]
    encoder = train(make("sup_simcse"), sentences=rows, max_steps=2)
    assert not (tmp_path / "run" / "summary.json").exists()
    results = read_json(tmp_path / "run" / "results.json")
    assert results["best_step"] == results["steps"] == 2
    assert results["best"] == results["last"]
    assert encoder.settings.pooling == "pooler"


def test_a_flow_is_a_run_like_the_others(make, tiny_data, tmp_path):
    files = {"train_files": (tiny_data / "text.txt",), "levels": 1, "depth": 1}
    config = make("flow", **files, max_steps=None, epochs=2, pooling="mean")
    encoder = train(config)
    assert encoder.transform.steps == 14
    results = read_json(tmp_path / "run" / "results.json")
    assert results["best"]["tasks"]["STS-B"]["all"] != results["before"]["tasks"]["STS-B"]["all"]
    assert train_seeds(replace(config, resume=True))[0]["best"] == results["best"]
    read = card(tmp_path / "run" / "best")
    assert read.data.library_name == "simcse_jax"
    assert read.text.count("```python") == 1
    assert "after the last update, number 14; STS-B dev is" in read.text
    assert "BERT-flow from tiny-bert" in read.text
    with pytest.raises(FileExistsError, match="holds a finished run, results.json; go on"):
        train_seeds(config)
    (tmp_path / "run" / "results.json").unlink()
    with pytest.raises(ValueError, match="pooling was 'mean' and is 'cls'"):
        train_seeds(replace(config, resume=True, pooling="cls"))
    with pytest.raises(ValueError, match="parallel is 'pmap'; a flow is fitted with"):
        train_seeds(replace(config, parallel="pmap", output_dir=tmp_path / "other"))
    with pytest.raises(
        ValueError, match="max_steps is 3; a flow is fitted for whole epochs: leave"
    ):
        train(make("flow", **files, max_steps=3))
    with pytest.raises(ValueError, match=r"epochs is 0\.5; .* whole epochs: give a whole number"):
        train(make("flow", **files, max_steps=None, epochs=0.5))


def test_a_flow_that_starts_where_another_ended(make, golden, tiny_data, tmp_path, capsys):
    """The transform of the start folder is left out, with what was said of its vectors."""
    start = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean", num_layers=1)
    whitened = start.fit(Whitening, SENTENCES, k=4)
    settings = dataclasses.replace(whitened.settings, truncate_dim=3)
    whitened._but(settings=settings).save_pretrained(tmp_path / "start")
    text = Path(shutil.copy(tiny_data / "text.txt", tmp_path))  # other tests read that one, too
    options = {"model": str(tmp_path / "start"), "train_files": (text,)}
    flow = {"levels": 1, "depth": 1, "max_steps": None, "epochs": 1, "output_dir": tmp_path / "a"}
    encoder = train(make("flow", **options, **flow, pooling="cls"))
    assert "ends with a whitening, which is left out" in capsys.readouterr().out
    assert (encoder.settings.pooling, encoder.dimension) == ("cls", start.dimension)
    assert trainer.settings_without_transform(tmp_path / "start", "mean").truncate_dim is None
    text.write_text("Another text.\n" * 20)
    with pytest.raises(ValueError, match=r"the text at hand is .*text\.txt"):
        train(make("flow", **options, **flow, pooling="cls", resume=True))


def test_continued_pretraining_from_the_command_line(golden, tiny_data, tmp_path, capsys):
    cli.main(
        [
            *("train", "mlm", "--model", str(golden / "tiny-bert"), "--num-layers", "1"),
            *("--train-files", str(tiny_data / "text.txt"), "--batch-size", "8"),
            *("--max-length", "16", "--max-steps", "3", "--eval-data", str(tiny_data)),
            *("--output-dir", str(tmp_path / "run"), "--seed", "1"),
        ]
    )
    printed = capsys.readouterr().out
    assert "STS-B dev before" in printed
    assert "SentenceEncoder.from_pretrained(" in printed
    records = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [set(r) >= {"loss", "mlm_loss"} for r in records] == [True] * 3 + [False]
    assert records[0]["loss"] == records[0]["mlm_loss"] > 3
    assert read_json(tmp_path / "run" / "run.json")["run"]["seed"] == 1
    assert "mlm" in SentenceEncoder.from_pretrained(tmp_path / "run" / "last").params


def test_a_run_of_one_step_is_told_as_one(capsys):
    config = replace(CONFIGS["mlm"], checkpoint_minutes=1.0, checkpoint_steps=1)
    trainer.say_start(config, 0, 1)
    said = capsys.readouterr().out
    assert said.startswith("runs/mlm: 1 step; a checkpoint is written every 1 minute, every 1 step")


def test_the_command_line_explains_itself(capsys):
    cli.main(["train"])
    assert "unsup_simcse" in capsys.readouterr().out
    for args, message in (
        (["train", "simce"], "there is no configuration 'simce'"),
        (["train", "unsup_simce"], "defines CONFIG; did you mean unsup_simcse?"),
        (
            ["trian", "unsup_simcse"],
            "there are encode, whiten, train, evaluate; did you mean train?",
        ),
        (["train", "--seed", "1"], "the configuration comes first"),
        (["train", "sbert_stsb"], "error: --eval-data is missing"),
        (
            ["train", "mlm", "--batch-size", "0"],
            "error: --batch-size is 0; it must be at least 1\n",
        ),
        (["train", "mlm", "--epochs", "-1"], "error: --epochs is -1.0; it must be positive"),
        (["train", "unsup_simcse", "--temperature", "0"], "error: --temperature is 0.0; it must"),
        (["train", "mlm", "--all-tasks"], "error: --all-tasks needs --eval-data, SentEval's"),
        (["train", "mlm", "--train-files"], "--train-files is given without a value; name some"),
        (["train", "mlm", "--seeds", "--resume"], "--seeds is given without a value"),
    ):
        with pytest.raises(SystemExit, match="2"):
            cli.main(args)
        assert message in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class NearestCentre(TokenObjective):
    """Pull the views of a sentence to each other, and the batch's centre to zero."""

    centre_weight: float = 0.1
    views = 2

    def build(self, model):
        encoder = SentenceModel(model.config, model.pooling, None, model.dtype)

        def embed(params, batch, keys):
            dropout = sentence_keys(keys("dropout"), batch.sentences)
            z = encoder.apply({"params": params}, batch.rows, dropout, num_sentences=dropout.size)
            return z.reshape(*batch.sentences.shape, -1)

        def loss(params, vectors, batch, keys):
            pull = lax.pmean(jnp.square(vectors[:, 0] - vectors[:, 1]).mean(), AXIS)
            centre = lax.pmean(vectors.mean((0, 1)), AXIS)
            return pull + self.centre_weight * jnp.square(centre).sum(), {"pull": pull}

        return Objective(embed, loss)


@pytest.mark.parametrize("devices", [1, 4])
def test_a_new_objective_needs_no_change_to_the_library(make, monkeypatch, tmp_path, devices):
    mesh = simcse_jax.training.make_mesh(jax.devices()[:devices])
    monkeypatch.setattr("simcse_jax.trainer.make_mesh", lambda: mesh)
    plain = dataclasses.replace(make("unsup_simcse", pooling="mean"), objective=NearestCentre())
    cached = replace(plain, grad_cache_chunks=2, output_dir=tmp_path / "cached", centre_weight=0.1)
    for config in (plain, cached):
        train(config, sentences=SENTENCES)
    losses = [
        [r["loss"] for r in read_json_lines(c.run.output_dir / "metrics.jsonl") if "loss" in r]
        for c in (plain, cached)
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    file = tmp_path / "run" / "run.json"
    assert read_json(file)["objective"]["type"] == "NearestCentre"
    with pytest.raises(ValueError, match=r"'NearestCentre'; an objective of your own .* a \.py"):
        load_config(file)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("whitened_cse", {"groups": 16}), ("simcse_plus_plus", {}), ("esimcse", {"queue_size": 5})],
)
def test_the_heirs_of_simcse_train(make, tmp_path, name, changes):
    """From one column of text, on eight devices; under pmap the losses are the same."""
    plain = make(name, **changes)
    mapped = replace(plain, output_dir=tmp_path / "again", parallel="pmap")
    encoder, _ = (train(config, sentences=SENTENCES) for config in (plain, mapped))
    losses = [
        [r["loss"] for r in read_json_lines(c.run.output_dir / "metrics.jsonl") if "loss" in r]
        for c in (plain, mapped)
    ]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert encoder.settings.pooling == "cls"
    assert load_config(tmp_path / "run" / "run.json").objective == plain.objective
    text = card(tmp_path / "run" / "best").text
    assert BIBTEX[name] in text
    assert ("itself with some words said twice" in text) == (name == "esimcse")


def test_esimcse_takes_pairs_of_ones_own(make):
    pairs = [(sentence, f"so {sentence}") for sentence in SENTENCES]
    with pytest.raises(ValueError, match="the text has 2 columns: columns has to be 1"):
        train(make("esimcse"), sentences=pairs)
    with pytest.raises(ValueError, match="queue_size is 160 and batch_size 8, but the text has .*"):
        train(make("esimcse", positives="same"), sentences=pairs)
    train(make("esimcse", positives="same", queue_size=5), sentences=pairs)


def test_a_measure_of_ones_own_chooses_the_best_model(make, tmp_path, capsys):
    values = iter((0.0, 3.0, 2.0))
    config = make("unsup_simcse")
    train_seeds(config, sentences=SENTENCES, evaluate=lambda encoder: {"mine": next(values)})
    results = read_json(tmp_path / "run" / "results.json")
    assert (results["dev_metric"], results["dev_best"], results["best_step"]) == ("mine", 3.0, 2)
    printed = " ".join(capsys.readouterr().out.split())
    assert "STS-B dev" not in printed
    assert "dev is mine; test is Spearman × 100" in printed
    assert "mine before" in printed
    assert "by the user's own measure `mine`, which is 3.00" in card(tmp_path / "run/best").text


def test_masked_words_are_masked_as_the_models_tokenizer_does(make, golden, monkeypatch):
    class MasksAreKnown(Exception):
        pass

    def with_positives(text, data, seed, mask):
        raise MasksAreKnown(mask())

    monkeypatch.setattr(trainer, "with_positives", with_positives)
    config = make("unsup_simcse", positives="mask-words", share=0.2)
    for model, mask in (("tiny-bert", r"\[MASK\]"), ("tiny-roberta", "<mask>")):
        with pytest.raises(MasksAreKnown, match=mask):
            train(replace(config, model=str(golden / model)))


@pytest.mark.usefixtures("unchecked")
def test_arguments_that_cannot_be_so(make, tiny_data, tmp_path):
    """One sentence for each, and before anything is trained."""
    config, text = make("unsup_simcse"), str(tiny_data / "text.txt")
    pairs = [("a dog", "a cat")] * 8

    def fails(message, config=config, **arguments):
        with pytest.raises(ValueError, match=message):
            train(config, **arguments)

    for measure in (1.5, {}, "spearman"):
        fails("evaluate is .*; it must be a function from the", sentences=pairs, evaluate=measure)
    for returned, message in (
        (0.5, r"evaluate returned 0\.5; it must return scores by name"),
        ({}, "evaluate returned {}; it must"),
        ("high", "evaluate returned 'high'; it must"),
        ({"mine": float("nan")}, "what evaluate returned as 'mine' is nan; it must be finite"),
        ({"mine": "high"}, "what evaluate returned as 'mine' is 'high'; it must be a number"),
    ):
        fails(message, sentences=pairs, evaluate=lambda encoder, r=returned: r)
    fails("sentences and train_files are both given", sentences=pairs, train_files=text)
    fails("train_files is empty; name a file", train_files=[])
    fails("sentences is empty; give some to train on", sentences=[])
    for sentences in ([1], 3, [("a", 1)], [None]):
        fails("sentences must be a list of strings", sentences=sentences)
    for name in (None, 3):
        fails("the configuration is .*; it must be a simcse_jax.config.Config", config=name)
    supervised = make("sup_simcse")
    fails("plain sentences, but .* give two or three", config=supervised, sentences=["a"] * 8)
    fails("plain sentences, but .* or train unsup_simcse", config=supervised, train_files=text)
    assert not (tmp_path / "run" / "results.json").exists()


def test_a_single_file_and_a_single_seed_will_do(make, tiny_data, tmp_path):
    text = tiny_data / "text.txt"
    train(make("unsup_simcse"), train_files=str(text), seeds=3, max_steps=1)
    own = load_config(tmp_path / "run" / "seed-3" / "run.json")
    assert own.data.train_files == (text,)


def test_one_corpus_for_dev_and_test_is_told_of(make, tmp_path, monkeypatch, capsys):
    score = {"lee_spearman": 50.0}
    monkeypatch.setattr("simcse_jax.evaluation.scores.lee_score", lambda _: score)
    monkeypatch.setattr("simcse_jax.evaluation.scores.read_lee", lambda: None)
    config = make("unsup_simcse", eval_data=None, max_steps=1)
    train(config, sentences=SENTENCES)
    printed = capsys.readouterr().out
    assert "the model is chosen by the corpus that it is scored on, Lee's 50" in printed
    assert re.search("seed ┃ Lee dev before ┃ dev best ┃ at step ┃ dev last ┃", printed)
    assert "test" not in printed.split("┏")[1].split("┡")[0]
    said = card(tmp_path / "run" / "best").text
    assert "| Lee, 1,225 pairs | Spearman's rank correlation | 50.00 |" in said
    assert "The model is chosen by the corpus that it is scored on, Lee's 50 documents, so" in said


def test_a_pooling_that_cannot_be_is_refused_before_text_is_read(make, monkeypatch):
    monkeypatch.setattr(trainer, "make_batches", lambda *_: pytest.fail("text was tokenised"))
    model = SentenceEncoder.from_pretrained(make("mlm").model.model, pooling="mean")
    monkeypatch.setattr(
        trainer.hub,
        "load_params",
        lambda *_: (model.config, {k: v for k, v in model.params.items() if k != "pooler"}),
    )
    for name in ("mlm", "unsup_simcse", "sbert_stsb"):
        with pytest.raises(ValueError, match="pooling '?(is )?'?pooler"):
            train(make(name, pooling="pooler"), sentences=None if "sts" in name else SENTENCES)


def test_a_batch_that_whitening_makes_one_distance_of_is_refused_before_text_is_read(
    make, monkeypatch
):
    monkeypatch.setattr(trainer, "make_batches", lambda *_: pytest.fail("text was tokenised"))
    for groups, message in (
        (4, "batch_size is 8; it must be above the 8 channels of a group, .* choose a larger"),
        (12, "groups is 12; it must divide the model's 32 channels: take 8"),
    ):
        with pytest.raises(ValueError, match=message):
            train(make("whitened_cse", groups=groups), sentences=SENTENCES)


def test_bad_input(make, tiny_data, tmp_path):
    def fails(name, message, sentences=None, **changes):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train(make(name, **changes), sentences=sentences)

    text = {"train_files": (tiny_data / "text.txt",)}
    fails("unsup_simcse", "60 rows of training text cannot fill one", **text, batch_size=64)
    fails("unsup_simcse", r"most 60 \(text\.txt: 60 sentences from", **text, batch_size=64)
    fails("unsup_simcse", "does not divide by 8, the devices times", **text, batch_size=12)
    fails("unsup_simcse", r"no\.txt does not exist", train_files=(tiny_data / "no.txt",))
    fails("unsup_simcse", "none' does not exist", **text, model=str(tmp_path / "none"))
    fails("unsup_simcse", "'pooler'", **text, pooling="pooler")
    fails("unsup_simcse", "max_length is 25; .* takes 24 tokens", **text, max_length=25)
    fails("unsup_simcse", "there is no data set 'wiki'", dataset="wiki")
    fails("unsup_simcse", "sentences must be a list of strings", sentences=[("a",), ("a", "b")])
    fails("unsup_simcse", "sentences is one string", sentences="text.txt")
    fails("unsup_simcse", "has labels, which SimCSE does not read", dataset="stsb")
    fails("sbert_wikisections", "takes 3 sentences an example, the text has 1", **text)
    fails("sbert_stsb", "'regression' needs a label for each pair", sentences=[("a", "b")] * 8)
    fails("unsup_simcse", "columns is 2, but the training text has 1", **text, columns=2)
    fails("sbert_nli", "train_files is missing: name NLI files")
    triplets = [("a", "b", "c")] * 8
    fails("whitened_cse", "WhitenedCSE takes sentences or pairs, the text has 3", triplets)
    pairs = [("a", "b")] * 8
    fails("sup_simcse", "but the text has no hard negatives", pairs, hard_negative_weight=1.0)
    fails(
        "unsup_simcse",
        "label_column is 'a', which this .* train Sentence-BERT's soft",
        label_column="a",
    )
    nli = {"train_files": (tiny_data / "nli.jsonl",), "kind": "regression"}
    fails("sbert_nli", "labelled_nli is set, but Sentence-BERT's regression learns no", **nli)
    fails("sbert_nli", "score_column is 'a', which this .* Sentence-BERT's regr", score_column="a")
    labelled = {"sentences": {"a": ["x"] * 60, "b": SENTENCES, "l": [4] * 60}}
    labelled |= {"columns": ("a", "b"), "label_column": "l", "labelled_nli": False}
    fails("sbert_nli", "num_labels is 3, but a label is 4; .* must be at least 5", **labelled)
    fails("unsup_simcse", "eval_columns is a b c, which has no effect", eval_columns=tuple("abc"))
    fails(
        "unsup_simcse",
        "all_tasks needs SentEval's folder as eval_data, not .*text.txt",
        **text,
        eval_data=text["train_files"][0],
        all_tasks=True,
    )
    fails("sbert_stsb", "eval_data is missing", eval_data=None)
    fails("sbert_stsb", r"sts-dev\.csv|sts-train\.csv", eval_data=tmp_path)
    fails("sbert_wikisections", "does not exist", dataset_source=tmp_path / "no.xml")
    dump = write_dump(tmp_path / "dump.xml", articles=1)
    fails("sbert_wikisections", "has no triplet for", dataset_source=dump)
    with pytest.raises(ValueError, match="dataset has no effect beside the configuration's train"):
        train(make("unsup_simcse", **text), dataset="embedded_triplets")
    (tmp_path / "pairs.csv").write_text("a,b\nx,y\n")
    fails("sbert_nli", "NLI needs premise, hypothesis", train_files=(tmp_path / "pairs.csv",))
    fails("unsup_simcse", "all_tasks needs eval_data", **text, eval_data=None, all_tasks=True)
    assert not (tmp_path / "run").exists()
