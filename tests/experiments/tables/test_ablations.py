"""The ablations: what each row hands to training, and the table."""

import dataclasses
import json
import sys

import jax
import pytest
from experiments.ablations import VARIANTS, Variant, train_variant, training_text

from experiments import ablations
from simcse_jax import SentenceEncoder, hub
from simcse_jax.data.senteval import read_stsb
from simcse_jax.data.training_text import TrainingText
from simcse_jax.evaluation.sts import paired_similarity, spearman
from simcse_jax.training import make_mesh

DOCUMENTS = [
    [f"{a} {b} {c} the {d}" for a in ("one", "two") for b in ("old", "new") for c in "xyz"]
    for d in ("man", "dog")
]
TRIPLETS = TrainingText((("a", "b"), ("c", "d"), ("e", "f")))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    path = folder / "STS" / "STSBenchmark" / "sts-dev.csv"
    path.parent.mkdir(parents=True)
    first, second = DOCUMENTS
    rows = [("g", "f", "y", str(i), str(i % 6), first[i], second[(i * i) % 12]) for i in range(12)]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    for name, document in zip("ab", DOCUMENTS, strict=True):
        (folder / f"{name}.txt").write_text("\n".join(document) + "\n")
    return folder


@pytest.fixture
def settings(data, golden, tmp_path):
    return ablations.Settings(
        data,
        model=str(golden / "tiny-bert"),
        num_layers=1,
        train_file=(data / "a.txt", data / "b.txt"),
        steps=2,
        every=1,
        batch_size=8,
        seeds=(0, 1),
        output_dir=tmp_path / "out",
    )


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("preset", "label", "expected"),
    [
        ("augmentation", "none (dropout)", {"columns": 1}),
        ("augmentation", "delete one word, no dropout", {"columns": 2, "dropout": 0.0}),
        ("dropout", "p = 0.05", {"dropout": 0.05}),
        ("dropout", "fixed 0.1", {"dropout": 0.1, "shared_dropout": True}),
        ("pooler", "cls with MLP", {"head": "train_and_test"}),
        ("pooler", "first-last", {"head": "none", "pooling": "first-last"}),
        ("temperature", "inner product", {"similarity": "dot", "temperature": 1.0, "columns": 3}),
        ("hard-negative", "none", {"columns": 2, "hard_negative_weight": 0.0}),
        ("hard-negative", "α = 2", {"hard_negative_weight": pytest.approx(0.6931, abs=1e-4)}),
        ("mlm", "λ = 0.1", {"mlm_weight": 0.1, "masking": True}),
        ("batch-size", "32", {"batch_size": 32}),
    ],
)
def test_what_a_row_hands_to_training(preset, label, expected, golden, monkeypatch):
    seen = {}

    def step(config, train, optimizer, *, masking, mesh):
        seen.update(dataclasses.asdict(train), masking=masking is not None)
        seen["dropout"] = config.hidden_dropout_prob
        assert config.attention_probs_dropout_prob == config.hidden_dropout_prob
        raise Stop

    class Batches:
        def __init__(self, text, tokenizer, batch_size, **_):
            seen["columns"], seen["batch_size"] = len(text.columns), batch_size

    monkeypatch.setattr(ablations, "simcse_step", step)
    monkeypatch.setattr(ablations, "TrainingBatches", Batches)
    variant = next(v for v in VARIANTS[preset] if v.label == label)
    text = training_text(variant, DOCUMENTS, TRIPLETS, seed=0)
    options = {"steps": 2, "every": 1, "batch_size": 8, "learning_rate": 3e-5, "seed": 0}
    with pytest.raises(Stop):
        train_variant(variant, text, dict, model=str(golden / "tiny-bert"), num_layers=1, **options)
    assert {name: seen[name] for name in expected} == expected


def test_texts():
    def text(preset, label):
        variant = next(v for v in VARIANTS[preset] if v.label == label)
        return training_text(variant, DOCUMENTS, None, seed=0)

    flat = tuple(s for d in DOCUMENTS for s in d)
    assert text("dropout", "p = 0.1").columns == (flat,)
    one = text("augmentation", "crop 20 %").columns
    assert one[0] == flat
    assert all(len(s.split()) == 4 for s in one[1])  # of five words
    assert "[MASK]" in text("augmentation", "masked words 15 %").columns[1][0]
    pairs = text("objective", "next sentence").rows(range(11))
    assert pairs == list(zip(DOCUMENTS[0][:-1], DOCUMENTS[0][1:], strict=True))


def test_rows_that_cannot_be_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    synonym = next(v for v in VARIANTS["augmentation"] if v.label == "synonym")
    assert "pip install nltk" in training_text(synonym, DOCUMENTS, None, 0)
    assert training_text(VARIANTS["temperature"][0], DOCUMENTS, None, 0) == "needs --nli"
    pairs = TrainingText(TRIPLETS.columns[:2])
    assert training_text(VARIANTS["temperature"][0], DOCUMENTS, pairs, 0) == "needs 3 columns"
    two = VARIANTS["hard-negative"][-1]
    assert "one hard negative" in training_text(two, DOCUMENTS, TRIPLETS, 0)


def test_labels_name_different_files():
    for rows in VARIANTS.values():
        assert len({row.label for row in rows}) == len(rows)


def test_table_and_reuse(settings, data, golden, monkeypatch):
    rows = (Variant("dropout", 82.5), Variant("two encoders", 80.7, not_run="one encoder"))
    monkeypatch.setitem(VARIANTS, "dropout", rows)
    monkeypatch.setattr(ablations, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
    settings = dataclasses.replace(settings, presets=("dropout",))
    ablations.main(settings)
    out = settings.output_dir
    results = json.loads((out / "ablations.json").read_text())
    runs = results["tables"]["dropout"][0]["runs"]
    assert [run["settings"]["seed"] for run in runs] == [0, 1]
    assert [r["step"] for r in runs[0]["records"]] == [0, 1, 2]
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="cls", num_layers=1)
    dev = read_stsb(data, "dev")
    x, y = (encoder.encode(column) for column in (dev.sentences1, dev.sentences2))
    before = 100 * spearman(paired_similarity(x, y), dev.scores)
    assert runs[0]["before"] == pytest.approx(before, abs=1e-3)
    assert runs[0]["best"] == max(r["stsb_dev"] for r in runs[0]["records"][1:])
    text = (out / "ablations.md").read_text()
    assert "| dropout | 82.5 | " in text
    assert " ± " in text
    assert "| two encoders | 80.7 | not run |" in text
    assert str(data) not in text + (out / "ablations.json").read_text()

    monkeypatch.setattr(ablations, "train_variant", None)  # nothing is trained again
    ablations.main(dataclasses.replace(settings, resume=True))
    assert json.loads((out / "ablations.json").read_text())["tables"] == results["tables"]
    with pytest.raises(ValueError, match="is of other settings"):
        ablations.main(dataclasses.replace(settings, resume=True, steps=3))


def test_bad_settings(settings):
    for change, says in (
        ({"steps": 0}, "--steps and --every"),
        ({"seeds": ()}, "--presets and --seeds"),
    ):
        with pytest.raises(ValueError, match=says):
            ablations.main(dataclasses.replace(settings, **change))
    assert not settings.output_dir.exists()
    assert hub.find_model(settings.model).is_dir()


def test_the_committed_table_is_drawn_from_its_numbers(results_folder):
    results = json.loads((results_folder / "ablations.json").read_text())
    assert ablations.markdown(results) == (results_folder / "ablations.md").read_text()
