"""Data sets of other libraries by name: TensorFlow Datasets, and a stand-in for `datasets`.

`tests/oracle/test_datasets_live.py` has `datasets` itself.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds

from simcse_jax.data.datasets import DataConfig, load_training_data
from simcse_jax.data.libraries import DatasetName, parse, read_named
from simcse_jax.data.pairs import read_pairs
from simcse_jax.data.training_text import read_training_file


class Answers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set that somebody prepared; its code is unknown where it is read."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        features = {
            "question": tfds.features.Text(),
            "answer": tfds.features.Text(),
            "score": np.float32,
            "good": tfds.features.ClassLabel(names=["no", "yes"]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "dev": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"question": f"é {i}?", "answer": f"{i}.", "score": i / 4, "good": i % 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    Answers(data_dir=folder).download_and_prepare(file_format="array_record")
    return folder


def test_names_are_taken_apart():
    assert parse("stsb") is None
    assert parse("hf:snli") == DatasetName("hf:", "snli", "")
    assert parse("hf:a/b/c:train[:10]") == DatasetName("hf:", "a/b/c", "train[:10]")
    assert parse("tfds:snli:1.1.0") == DatasetName("tfds:", "snli:1.1.0", "")
    assert parse("tfds:glue/stsb:1.*.*:test") == DatasetName("tfds:", "glue/stsb:1.*.*", "test")
    for name in ("hf:", "tfds::train", "hf:snli:"):
        with pytest.raises(ValueError, match=r"written hf:NAME\[/CONFIG\]\[:SPLIT\] or tfds:"):
            parse(name)
    with pytest.raises(ValueError, match="there is no data set 'stsb'; it is written hf:"):
        read_named("stsb")


def test_tensorflow_datasets(prepared):
    def load(name, **options):
        return load_training_data(DataConfig(dataset=name, dataset_source=prepared, **options), 0)

    both = ("question", "answer")
    text = load("tfds:answers", columns=both, label_column="good").text
    assert text.columns == (("é 0?", "é 1?", "é 2?", "é 3?"), ("0.", "1.", "2.", "3."))
    assert text.labels == (0, 1, 0, 1)
    text = load("tfds:answers:1.2.0:train[1:3]", columns=both[::-1], score_column="score").text
    assert (text.columns, text.labels) == ((("1.", "2."), ("é 1?", "é 2?")), (0.25, 0.5))
    plain = load("tfds:answers:dev", columns=("answer",))
    assert (plain.text.columns, plain.documents) == ((("0.", "1."),), (("0.", "1."),))
    assert "tensorflow" not in sys.modules

    with pytest.raises(ValueError, match="has the features answer, good, question, score, whose"):
        load("tfds:answers")
    with pytest.raises(ValueError, match="tfds:answers has no column 'text'; name one of those it"):
        load("tfds:answers", columns=("text",))
    with pytest.raises(ValueError, match=r"cannot be opened \(Unknown split 'test'.*; check name"):
        load("tfds:answers:test", columns=both)
    with pytest.raises(ValueError, match=r"tfds:nothing cannot be opened \(Dataset nothing not f"):
        load("tfds:nothing")


def test_our_own_builders_by_their_names_there(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "prepared"))
    source = tmp_path / "nli_for_simcse.csv"
    source.write_text("sent0,sent1,hard_neg\na man,a person,a dog\n")
    named = {"dataset_source": source, "dataset": "tfds:nli_for_simcse"}

    def load(**options):
        return load_training_data(DataConfig(**(named | options)), 0).text

    monkeypatch.setattr("simcse_jax.data.builders.prepare", in_folder(tmp_path / "prepared"))
    assert load().columns == (("a man",), ("a person",), ("a dog",))
    assert load().fingerprint == load(dataset="nli_for_simcse").fingerprint
    assert load(columns=2).columns == (("a man",), ("a person",))
    by_name = {"columns": ("hard_neg", "sent0")}
    assert load(**by_name).columns == (("a dog",), ("a man",))
    assert load(dataset="nli_for_simcse", **by_name).columns == (("a dog",), ("a man",))
    with pytest.raises(ValueError, match="'tfds:nli_for_simcse' has no column 'text'; name one of"):
        load(columns=("text",))
    with pytest.raises(ValueError, match="'tfds:nli_for_simcse' has its own; leave the names out"):
        load(label_column="sent1")
    with pytest.raises(ValueError, match="tfds:nli_for_simcse:dev has one split, train"):
        load(dataset="tfds:nli_for_simcse:dev")
    with pytest.raises(ValueError, match="tfds:senteval_sts is to evaluate on; train on one of"):
        load(dataset="tfds:senteval_sts")


def in_folder(folder):
    from simcse_jax.data import builders

    prepare = builders.prepare
    return lambda name, data_dir, source: prepare(name, data_dir=folder, source=source)


class Split(dict):
    """What the stand-in gives: columns by name, which is no set of splits."""


@pytest.fixture
def library(monkeypatch):
    """A stand-in for `datasets` that remembers what it was asked for."""
    rows = {"text": ["a", "b"], "score": [1.0, 2.0], "other": ["x", "y"]}
    asked = []

    def load_dataset(path, config, split):
        asked.append((path, config, split))
        if path == "nobody/nothing":
            raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub.\nTry again")
        return Split(rows)

    def load_from_disk(path):
        asked.append(path)
        return {"train": Split(rows), "dev": Split(rows)}

    library = SimpleNamespace(load_dataset=load_dataset, load_from_disk=load_from_disk, asked=asked)
    monkeypatch.setitem(sys.modules, "datasets", library)
    return library


def test_hugging_face(library, tmp_path, monkeypatch):
    def load(name, **options):
        config = DataConfig(dataset=name, **({"columns": ("text",)} | options))
        return load_training_data(config, 0).text

    assert load("hf:owner/name").columns == (("a", "b"),)
    assert load("hf:owner/name/config:dev[:2]", columns=("other", "text")).columns[0] == ("x", "y")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "csv").mkdir()
    load("hf:csv")
    assert library.asked == [
        ("owner/name", None, "train"),
        ("owner/name", "config", "dev[:2]"),
        (str(tmp_path / "csv"), None, "train"),
    ]
    (tmp_path / "csv" / "dataset_dict.json").touch()
    assert load("hf:csv:dev").columns == (("a", "b"),)
    assert library.asked[-1] == "csv"
    with pytest.raises(ValueError, match="csv was written by save_to_disk; give it as the dataset"):
        read_training_file("csv")
    with pytest.raises(ValueError, match=r"\(it has no split 'test'; it has train, dev\); check"):
        load("hf:csv:test")
    message = r"hf:nobody/nothing cannot be opened \(Couldn't reach 'nobody/nothing' on the Hub\);"
    with pytest.raises(FileNotFoundError, match=message):
        load("hf:nobody/nothing")
    with pytest.raises(ValueError, match="hf:owner/name names all that is read; leave the folder"):
        load("hf:owner/name", dataset_source=tmp_path)
    pairs = read_pairs("hf:owner/name:test", ("text", "other", "score"))
    assert (pairs.name, pairs.scores.tolist()) == ("hf:owner/name:test", [1.0, 2.0])
