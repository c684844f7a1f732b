"""The ablations: what each row changes, what trains, and the table."""

import dataclasses
import json
import math
import sys

import pytest
from tiny_data import SENTENCES

from experiments.tables import ablations
from experiments.tables.ablations import ABLATIONS, Ablation, AblationTable, Row, configuration
from simcse_jax import SentenceEncoder, hub
from simcse_jax.config import CONFIGS, replace
from simcse_jax.data.datasets import load_training_data, with_positives
from simcse_jax.data.senteval import read_stsb
from simcse_jax.evaluation.sts import paired_similarity, spearman
from simcse_jax.io import read_json


@pytest.fixture
def settings(tiny_data, golden, tmp_path):
    return AblationTable(
        tiny_data,
        model=str(golden / "tiny-bert"),
        num_layers=1,
        train_files=(tiny_data / "text.txt",),
        nli=(tiny_data / "nli.jsonl",),
        steps=2,
        every=1,
        batch_size=8,
        max_length=16,
        seeds=(0, 1),
        output_dir=tmp_path / "out",
    )


def row_of(preset, label):
    return next(row for row in ABLATIONS[preset].rows if row.label == label)


def fields_of(config):
    sections = (config.objective, config.model, config.data, config.optimizer, config.run)
    return {name: value for section in sections for name, value in vars(section).items()}


@pytest.mark.parametrize(
    ("preset", "label", "expected"),
    [
        ("augmentation", "none (dropout)", {"positives": "same", "dropout": None}),
        ("augmentation", "crop 20 %", {"positives": "crop", "share": 0.2}),
        ("augmentation", "masked words 15 %, left", {"positives": "mask-words", "share": 0.15}),
        (
            "augmentation",
            "delete one word, no dropout",
            {"positives": "delete-one-word", "dropout": 0.0},
        ),
        (
            "objective",
            "next 3 sentences, two encoders",
            {"positives": "next-sentence", "window": 3, "two_encoders": True},
        ),
        ("dropout", "p = 0.05", {"dropout": 0.05, "shared_dropout": False}),
        ("dropout", "fixed 0.1", {"dropout": 0.1, "shared_dropout": True}),
        ("pooler", "cls with MLP", {"head": "train_and_test", "columns": None}),
        ("pooler", "first-last", {"head": "none", "pooling": "first-last"}),
        ("pooler-nli", "cls without MLP", {"head": "none", "pooling": "cls", "columns": 3}),
        ("temperature", "inner product", {"similarity": "dot", "temperature": 1.0, "columns": 3}),
        ("hard-negative", "none", {"columns": 2, "hard_negative_weight": 0.0}),
        ("hard-negative", "α = 2", {"columns": 3, "hard_negative_weight": math.log(2)}),
        ("mlm", "λ = 0.1", {"mlm_weight": 0.1, "head": "train_and_test"}),
        ("batch-size", "32", {"batch_size": 32}),
        ("sbert-pooling", "max", {"pooling": "max", "kind": "softmax", "labelled_nli": True}),
        ("sbert-concatenation", "diff-mul", {"concatenation": "diff-mul", "pooling": "mean"}),
        ("sbert-pooling-stsb", "cls", {"pooling": "cls", "dataset": "stsb", "train_files": ()}),
    ],
)
def test_what_a_row_changes(settings, preset, label, expected):
    config = configuration(settings, preset, row_of(preset, label))
    fields = fields_of(config)
    assert {name: fields[name] for name in expected} == expected
    assert fields["seeds"] == (0, 1)
    assert fields["batch_size"] == (32 if preset == "batch-size" else 8)
    if preset != "sbert-pooling-stsb":
        files = settings.nli if fields["columns"] or preset[:5] == "sbert" else settings.train_files
        assert fields["train_files"] == files


def test_what_is_not_asked_for_is_as_the_options_say(tiny_data):
    def fields(preset):
        config = configuration(AblationTable(tiny_data), preset, ABLATIONS[preset].rows[0])
        return fields_of(config)

    simcse = {"batch_size": 64, "learning_rate": 3e-5, "max_length": 32, "max_steps": 125}
    assert fields("augmentation").items() >= simcse.items()
    assert fields("temperature").items() >= simcse.items()
    sbert = {"batch_size": 16, "learning_rate": 2e-5, "max_length": 128, "max_steps": None}
    assert fields("sbert-pooling").items() >= (sbert | {"epochs": 1.0}).items()
    assert fields("sbert-pooling-stsb").items() >= (sbert | {"epochs": 4}).items()


def test_what_a_row_trains_on(settings):
    def text(preset, label):
        config = configuration(settings, preset, row_of(preset, label))
        return with_positives(load_training_data(config.data, 0), config.data, 0, lambda: "[MASK]")

    sentences = tuple(SENTENCES)
    assert text("dropout", "p = 0.1").columns == (sentences,)
    one = text("augmentation", "crop 20 %").columns
    assert one[0] == sentences
    assert all(len(s.split()) == 3 for s in one[1])  # of four words
    assert "[MASK]" in text("augmentation", "masked words 15 %, left").columns[1][0]
    pairs = text("objective", "next sentence").columns
    assert pairs == (sentences[:-1], sentences[1:])
    assert len(text("sbert-pooling", "mean").labels) < 48  # premises are held out


def test_rows_that_cannot_be_run(settings, monkeypatch):
    def missing(preset, label, nli_columns=3, nli_labels=False):
        data = configuration(settings, preset, row_of(preset, label)).data
        return ablations.missing(data, nli_columns, nli_labels)

    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    assert "pip install nltk" in missing("augmentation", "synonym")
    assert missing("augmentation", "crop 10 %", nli_columns=0) is None
    assert missing("temperature", "τ = 0.05", nli_columns=0) == "needs --nli"
    assert missing("temperature", "τ = 0.05", nli_columns=2) == "needs 3 columns"
    assert missing("hard-negative", "none", nli_columns=2) is None
    assert missing("sbert-pooling", "mean", nli_columns=0) == "needs --nli"
    assert "labels in --nli" in missing("sbert-pooling", "mean", nli_columns=3)
    assert missing("sbert-pooling", "mean", nli_columns=0, nli_labels=True) is None


def test_what_nli_has(tmp_path):
    def file(name, text):
        (tmp_path / name).write_text(text)
        return (tmp_path / name,)

    def pairs(*labels):
        lines = ({"premise": "p", "hypothesis": f"h {x}", "label": x} for x in labels)
        return file("pairs.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))

    labels = ("entailment", "neutral", "contradiction")
    assert ablations.nli_has(()) == (0, False)
    assert ablations.nli_has(pairs(*labels)) == (4, True)
    assert ablations.nli_has(pairs(*labels[::2])) == (3, True)  # no neutral hypothesis
    assert ablations.nli_has(pairs(*labels[:2])) == (0, True)  # no contradiction: no triplets
    triplets = file("triplets.csv", "sent0,sent1,hard_neg\na,b,c\n")
    assert ablations.nli_has(triplets) == (3, False)
    with pytest.raises(ValueError, match="pairs.jsonl"):
        ablations.nli_has(pairs("maybe"))


def test_every_row_has_a_folder_of_its_own(settings):
    folders = [
        configuration(settings, preset, row).run.output_dir
        for preset, ablation in ABLATIONS.items()
        for row in ablation.rows
    ]
    assert len(set(folders)) == len(folders)


def no_wordnet():
    raise FileNotFoundError("no WordNet")


@pytest.mark.slow
def test_table_and_reuse(settings, tiny_data, golden, monkeypatch):
    rows = (Row("SimCSE", 82.5), Row("synonym", 77.4, {"positives": "synonym"}))
    base = replace(CONFIGS["unsup_simcse"], learning_rate=1e-3)
    monkeypatch.setitem(ABLATIONS, "dropout", Ablation(base, rows))
    monkeypatch.setattr(ablations, "wordnet_synonyms", no_wordnet)
    settings = dataclasses.replace(settings, presets=("dropout",), nli=())
    ablations.main(settings)
    out = settings.output_dir
    results = read_json(out / "ablations.json")
    runs = results["tables"]["dropout"][0]["runs"]
    assert [run["settings"]["seed"] for run in runs] == [0, 1]
    assert [r["step"] for r in runs[0]["records"]] == [0, 1, 2]
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="cls", num_layers=1)
    dev = read_stsb(tiny_data, "dev")
    x, y = (encoder.encode(column) for column in (dev.sentences1, dev.sentences2))
    before = 100 * spearman(paired_similarity(x, y), dev.scores)
    assert runs[0]["before"] == pytest.approx(before, abs=1e-3)
    assert runs[0]["before"] == runs[0]["records"][0]["stsb_dev"]
    best = max(runs[0]["records"][1:], key=lambda record: record["stsb_dev"])
    assert (runs[0]["best"], runs[0]["best_step"]) == (best["stsb_dev"], best["step"])
    text = (out / "ablations.md").read_text()
    assert (
        "1 layer, pooling cls, head train_only, 2 steps of 8, learning rate 0.001, seeds 0, 1; "
        in text
    )
    assert "| SimCSE | 82.5 | " in text
    assert " ± " in text
    assert "| synonym | 77.4 | not run |" in text
    assert "Not run: synonym (no WordNet)." in text
    assert str(tiny_data) not in text + (out / "ablations.json").read_text()
    left = {path.name for path in (out / "dropout" / "SimCSE" / "seed-0").iterdir()}
    assert left == {"run.json", "metrics.jsonl", "results.json", "tensorboard"}

    # Nothing is trained again.
    monkeypatch.setattr("simcse_jax.trainer.fit", None)
    ablations.main(dataclasses.replace(settings, resume=True))
    assert read_json(out / "ablations.json")["tables"] == results["tables"]
    with pytest.raises(ValueError, match="is of other settings"):
        ablations.main(dataclasses.replace(settings, resume=True, steps=3))


def test_bad_settings(settings):
    for change, says in (
        ({"steps": 0}, "max_steps is 0"),
        ({"every": 0}, "eval_every is 0"),
        ({"seeds": ()}, "--presets and --seeds"),
        ({"head": "none", "presets": ("pooler", "sbert-pooling")}, "--head has no effect on these"),
        ({"presets": ("batch-size",)}, "--batch-size has no effect on these presets; leave it out"),
        ({"presets": ("pooler-nli",)}, "--train-files has no effect on these presets"),
        ({"presets": ("dropout",)}, "--nli has no effect on these presets"),
        ({"train_files": settings.nli, "nli": ()}, r"triplets .*; rows without labels need one"),
        ({"head": "train_and_test", "pooling": "mean"}, "it must be 'cls' where the head is kept"),
    ):
        with pytest.raises(ValueError, match=says):
            ablations.main(dataclasses.replace(settings, **change))
    assert not settings.output_dir.exists()
    assert hub.find_model(settings.model).is_dir()


@pytest.mark.parametrize("name", ["", "_raw", "_raw_nli", "_raw_poolers"])
def test_the_committed_table_is_drawn_from_its_numbers(results_folder, name):
    results = read_json(results_folder / f"ablations{name}.json")
    assert ablations.markdown(results) == (results_folder / f"ablations{name}.md").read_text()


def test_how_far_the_order_is_the_papers():
    def row(paper, *best, seeds=(0, 1)):
        runs = [{"best": b, "settings": {"seed": s}} for b, s in zip(best, seeds, strict=False)]
        return {"paper": paper, "runs": runs}

    # Means 1, 3, 2.5, 6: one of the six pairs is exchanged in the means, none in seed 0.
    rows = [row(1.0, 1.0, 1.0), row(2.0, 2.0, 4.0), row(3.0, 3.0, 2.0), row(4.0, 4.0, 8.0)]
    assert ablations.likeness(rows) == (
        "Spearman's ρ between the paper's 4 rows and ours: 0.80; of seeds 0, 1 alone: 1.00, 0.80."
    )
    # What has no number of the paper's, or was not run, is left out; a seed must be in every row.
    rows += [row(None, 9.0), row(0.0)]
    rows[1]["runs"] = rows[1]["runs"][:1]
    assert ablations.likeness(rows) == ("Spearman's ρ between the paper's 4 rows and ours: 1.00.")
    assert ablations.likeness(rows[:2]) is None
    equal = [row(float(i), 5.0, i) for i in range(3)]
    assert ablations.likeness(equal) == (
        "Spearman's ρ between the paper's 3 rows and ours: 1.00; "
        "of seeds 0, 1 alone: none, all are equal, 1.00."
    )


def test_pairs_of_ones_own_are_not_called_stsb(settings, tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("sentence1,sentence2,score\na,b,1\nc,d,2\n")
    with pytest.raises((ValueError, OSError), match=r"pairs\.csv"):
        ablations.main(dataclasses.replace(settings, eval_data=file))
    assert not settings.output_dir.exists()
