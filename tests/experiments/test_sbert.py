"""The Sentence-BERT commands, end to end on a tiny model: scores, folders, resuming, bad input."""

import dataclasses
import json

import numpy as np
import pytest
from test_simcse import interrupt_at_second_evaluation, weights
from tiny_data import LABELS, SENTENCES

from experiments import runs, sbert_ablation, sbert_nli, sbert_stsb, sbert_wikisections
from experiments.sbert import read_classifier
from simcse_jax import SentenceEncoder
from simcse_jax.data.training_text import read_labelled_nli
from simcse_jax.io import read_json, read_json_lines

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]


@pytest.fixture
def options(golden, tiny_data, tmp_path):
    """Four steps of eight examples."""
    return {
        "model": str(golden / "tiny-bert"),
        "num_layers": 1,
        "eval_data": tiny_data,
        "batch_size": 8,
        "max_length": 24,
        "max_steps": 4,
        "eval_every": 2,
        "learning_rate": 1e-2,
        "output_dir": tmp_path / "run",
    }


def test_an_interrupted_stsb_run_ends_with_the_same_bits(options, tmp_path, monkeypatch):
    whole = sbert_stsb.Settings(**{**options, "output_dir": tmp_path / "whole"})
    means = sbert_stsb.main(whole)
    results = read_json(tmp_path / "whole" / "results.json")
    assert means["dev_best"] == results["dev_best"] != results["dev_before"]
    assert means["test_last"] == results["last"]["tasks"]["STS-B"]["all"]
    assert results["before"]["tasks"]["STS-B"]["pairs"] == 40

    run = sbert_stsb.Settings(**options)
    with monkeypatch.context() as patch:
        interrupt_at_second_evaluation(patch)
        with pytest.raises(SystemExit, match="stopped at step 3 of 4; --resume continues"):
            sbert_stsb.main(run)
    run = dataclasses.replace(run, resume=True)
    with pytest.raises(ValueError, match="regressand was 'cosine' and is 'shifted'"):
        sbert_stsb.main(dataclasses.replace(run, regressand="shifted"))
    sbert_stsb.main(run)
    found = read_json(tmp_path / "run" / "results.json")
    for name in ("dev_before", "before", "dev_best", "best_step", "best", "last"):
        assert found[name] == results[name]
    for which in ("best", "last"):
        assert weights(tmp_path / "run" / which) == weights(tmp_path / "whole" / which)
    steps = [record["step"] for record in read_json_lines(tmp_path / "run" / "metrics.jsonl")]
    assert steps == [1, 2, 2, 3, 4, 4]
    assert read_json_lines(tmp_path / "run" / "metrics.jsonl")[0]["sentences_per_second"] > 0


def test_nli_seeds_with_accuracy_on_a_test_file_then_stsb(options, tiny_data, tmp_path, capsys):
    test_file = tmp_path / "test.jsonl"
    rows = [
        {"premise": SENTENCES[i], "hypothesis": SENTENCES[-1 - i], "label": LABELS[i % 3]}
        for i in range(20)
    ]
    test_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    nli = {"train_file": (tiny_data / "nli.jsonl",), "test_file": (test_file,), "seeds": (0, 1)}
    means = sbert_nli.main(sbert_nli.Settings(**options, **nli, concatenation="uv-diff-mul"))
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["columns"][-2:] == ["nli_best", "nli_last"]
    assert means == dict(zip(summary["columns"], summary["mean"], strict=True))
    assert set(summary["before"]) == {"tasks", "average"}
    assert "48 NLI pairs (16 entailment, 16 neutral, 16 contradiction)" in capsys.readouterr().out

    # Accuracy once more, in numpy, from what the folder holds.
    folder = tmp_path / "run" / "seed-1" / "last"
    kernel, bias, concatenation = read_classifier(folder)
    assert concatenation == "uv-diff-mul"
    encoder = SentenceEncoder.from_pretrained(folder)
    assert encoder.settings.pooling == "mean"
    u, v = (encoder.encode([row[name] for row in rows]) for name in ("premise", "hypothesis"))
    logits = np.hstack([u, v, np.abs(u - v), u * v]) @ np.asarray(kernel) + np.asarray(bias)
    right = [LABELS[k] == row["label"] for k, row in zip(logits.argmax(1), rows, strict=True)]
    np.testing.assert_allclose(summary["per_seed"][1][-1], 100 * np.mean(right))

    # The folder is where STS-B goes on from.
    stsb = {**options, "model": str(folder), "output_dir": tmp_path / "stsb", "num_layers": None}
    sbert_stsb.main(sbert_stsb.Settings(**stsb))
    results = read_json(tmp_path / "stsb" / "results.json")
    last = read_json(tmp_path / "run" / "seed-1" / "results.json")["last"]
    assert results["before"]["tasks"] == last["tasks"]
    with pytest.raises(FileNotFoundError, match="classifier.safetensors does not exist"):
        read_classifier(tmp_path / "stsb" / "last")


def test_without_a_test_file_premises_are_held_out(tiny_data):
    settings = sbert_nli.Settings(train_file=(tiny_data / "nli.jsonl",))
    whole = read_labelled_nli(settings.train_file)
    train, held_out = sbert_nli.read_texts(settings)
    assert len(train) + len(held_out) == len(whole)
    assert not set(train.columns[0]) & set(held_out.columns[0])
    rows = set(zip(*whole.columns, whole.labels, strict=True))
    for side in (train, held_out):
        assert set(zip(*side.columns, side.labels, strict=True)) <= rows
    assert held_out.description.endswith(f"{len(held_out)} of them held out")
    with pytest.raises(ValueError, match="too few to hold some out"):
        sbert_nli.split_premises(whole, 0.0)


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


def test_wikisections_of_a_dump(options, tmp_path, capsys):
    dump = write_dump(tmp_path / "dump.xml")
    del options["eval_data"]
    # Two passes at half the rate: the loss at 1e-2 swings more than it falls.
    more = {"max_steps": 12, "eval_every": 6, "learning_rate": 5e-3}
    settings = sbert_wikisections.Settings(**{**options, **more}, dump=dump)
    text, parts = sbert_wikisections.read_triplets(settings)
    # Each sentence ends in its article's number.
    train = {s.rpartition(" ")[2] for column in text.columns for s in column}
    test = {t.anchor.rpartition(" ")[2] for t in parts["all"]}
    dev = {t.anchor.rpartition(" ")[2] for t in parts["dev"]}
    assert not train & test
    assert not (train | test) & dev
    means = sbert_wikisections.main(settings)
    results = read_json(tmp_path / "run" / "results.json")
    assert set(results["last"]) == {"sections", "sections_cosine", "sections_all"}
    assert results["last"]["sections"] > results["before"]["sections"]
    assert means["sections_last"] == results["last"]["sections"]
    assert all(0 <= score <= 100 for score in means.values())
    records = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert records[-2]["loss"] < records[0]["loss"]
    assert "section triplets of" in capsys.readouterr().out


def test_ablations_are_a_run_for_each_pooling_and_concatenation(
    options, tiny_data, tmp_path, monkeypatch, capsys
):
    asked = []

    def fake(run):
        asked.append(run)
        return {"dev_best": 50.0 + len(asked), "test_best": 40.0, "nli_best": 33.3}

    monkeypatch.setattr(sbert_nli, "main", fake)
    monkeypatch.setattr(sbert_stsb, "main", fake)
    nli = {**options, "train_file": (tiny_data / "nli.jsonl",), "use_bias": False}
    sbert_ablation.main(sbert_ablation.Settings(**nli, poolings=("mean", "cls")))
    assert [(run.pooling, run.concatenation, run.epochs) for run in asked] == [
        ("mean", "uv-diff", 1),
        ("cls", "uv-diff", 1),
    ]
    assert all(not run.use_bias and run.batch_size == 8 for run in asked)
    assert asked[0].output_dir == tmp_path / "run" / "mean_uv-diff"
    rows = read_json(tmp_path / "run" / "ablation.json")
    assert [row["dev_best"] for row in rows] == [51.0, 52.0]
    assert "52.00" in capsys.readouterr().out

    asked.clear()
    sbert_ablation.main(sbert_ablation.Settings(**nli, concatenations=()))
    assert len({run.concatenation for run in asked}) == 7

    asked.clear()
    stsb = sbert_ablation.Settings(**options, objective="stsb", poolings=("max",))
    sbert_ablation.main(stsb)
    assert isinstance(asked[0], sbert_stsb.Settings)
    assert (asked[0].pooling, asked[0].epochs) == ("max", 4)
    with pytest.raises(ValueError, match="need --objective nli"):
        sbert_ablation.main(dataclasses.replace(stsb, concatenations=("uv",)))


def test_bad_input(options, tiny_data, tmp_path):
    with pytest.raises(ValueError, match="--train-file is missing"):
        sbert_nli.main(sbert_nli.Settings(**options))
    with pytest.raises(ValueError, match="--eval-data is missing"):
        sbert_stsb.main(sbert_stsb.Settings(**{**options, "eval_data": None}))
    with pytest.raises(FileNotFoundError, match="sts-train.csv"):
        sbert_stsb.main(sbert_stsb.Settings(**{**options, "eval_data": tmp_path}))
    (tmp_path / "pairs.csv").write_text("a,b\nx,y\n")
    with pytest.raises(ValueError, match="NLI needs premise, hypothesis"):
        sbert_nli.main(sbert_nli.Settings(**options, train_file=(tmp_path / "pairs.csv",)))
    with pytest.raises(ValueError, match="pooling is 'pooler'"):
        sbert_stsb.main(sbert_stsb.Settings(**{**options, "pooling": "pooler"}))
    wiki = sbert_wikisections.Settings(**options, dump=tmp_path / "no.xml")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        sbert_wikisections.main(wiki)
    dump = write_dump(tmp_path / "dump.xml", articles=1)
    with pytest.raises(ValueError, match="has no triplet for"):
        sbert_wikisections.main(dataclasses.replace(wiki, dump=dump))
    assert not (tmp_path / "run").exists()
    assert runs.dev_metric(None) == "lee_spearman"
