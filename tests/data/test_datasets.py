"""Training data by name and from files, with every kind of positives."""

import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import get_args

import pytest
from tiny_data import SENTENCES

from simcse_jax.data import builders
from simcse_jax.data.datasets import (
    DATASETS,
    DataConfig,
    Positives,
    given_data,
    load_training_data,
    with_positives,
)
from simcse_jax.data.embedded import gensim_test_data


@pytest.fixture
def text(tmp_path):
    """Two files, which are two documents."""
    files = (tmp_path / "a.txt", tmp_path / "b.txt")
    for file, part in zip(files, (SENTENCES[:30], SENTENCES[30:]), strict=True):
        file.write_text("\n".join(part) + "\n")
    return DataConfig(train_files=files)


@pytest.mark.parametrize("positives", get_args(Positives))
def test_positives(text, positives):
    by_share = positives in ("crop", "delete-words", "repeat-words", "mask-words")
    share = {"share": 0.4} if by_share else {}
    config = dataclasses.replace(text, positives=positives, **share)
    data = load_training_data(config, 0)
    assert [len(document) for document in data.documents] == [30, 30]
    if positives == "synonym" and importlib.util.find_spec("nltk") is None:
        with pytest.raises(FileNotFoundError, match="pip install nltk"):
            with_positives(data, config, 3, lambda: "[MASK]")
        return
    found = with_positives(data, config, 3, lambda: "[MASK]")
    if positives == "same":
        assert found is data.text
        return
    anchors, others = found.columns
    assert any(a != b for a, b in zip(anchors, others, strict=True))
    assert found.fingerprint == with_positives(data, config, 3, lambda: "[MASK]").fingerprint
    if positives == "mask-words":
        other = with_positives(data, config, 3, lambda: "<mask>")
        assert other.columns[1] == tuple(s.replace("[MASK]", "<mask>") for s in others)
        with pytest.raises(ValueError, match="the tokenizer of the model has no mask token"):
            with_positives(data, config, 3, lambda: None)
    if positives == "next-sentence":
        # No pair spans the two files.
        assert anchors == (*SENTENCES[:29], *SENTENCES[30:59])
        assert others == (*SENTENCES[1:30], *SENTENCES[31:])
    else:
        assert anchors == tuple(SENTENCES)


def test_the_first_columns_only(tmp_path):
    file = tmp_path / "triplets.csv"
    file.write_text("sent0,sent1,hard_neg\na,b,c\nd,e,f\n")
    config = DataConfig(train_files=(file,), columns=2)
    assert load_training_data(config, 0).text.columns == (("a", "d"), ("b", "e"))
    with pytest.raises(ValueError, match="columns is 4, but the training text has 3 only"):
        load_training_data(dataclasses.replace(config, columns=4), 0)


def test_a_number_of_columns_says_what_is_trained_on_of_a_wide_file(tmp_path):
    """Several hard negatives; and columns behind them, which are not looked at."""
    file = tmp_path / "wide.csv"
    file.write_text("anchor,positive,negative,other,label\na,b,c,d,1\ne,f,g,h,0\n")
    for columns in (4, 2):
        found = load_training_data(DataConfig(train_files=(file,), columns=columns), 0).text
        assert found.columns == (("a", "e"), ("b", "f"), ("c", "g"), ("d", "h"))[:columns]
    table = {"one": ["a"], "two": ["b"], "three": ["c"], "four": ["d"]}
    given = given_data(table, DataConfig(columns=4), 0)
    assert given.text.columns == (("a",), ("b",), ("c",), ("d",))
    with pytest.raises(ValueError, match="or give their number where they are the first"):
        load_training_data(DataConfig(train_files=(file,)), 0)
    file.write_text("a,b,c,d,e\nv,w,x,y,z\n")
    with pytest.raises(ValueError, match="columns is 6, but the training text has 5 only"):
        load_training_data(DataConfig(train_files=(file,), columns=6), 0)


def test_labelled_columns_by_name(tmp_path):
    """Pairs of anybody's with classes, a tenth of which is held out."""
    names = {"columns": ("question", "answer"), "label_column": "good"}
    rows = [(SENTENCES[i], SENTENCES[-1 - i], i % 2) for i in range(60)]
    columns = dict(zip(("question", "answer", "good"), zip(*rows, strict=True), strict=True))
    file = tmp_path / "qa.csv"
    file.write_text(
        "number,good,question,answer\n" + "".join(f"0,{g},{q},{a}\n" for q, a, g in rows)
    )
    config = DataConfig(train_files=(file,), labelled_nli=True, **names)
    read, given = load_training_data(config, 0), given_data(columns, config, 0)
    assert read.text.fingerprint == given.text.fingerprint
    assert read.held_out["nli"].fingerprint == given.held_out["nli"].fingerprint
    assert len(read.text) + len(read.held_out["nli"]) == 60
    # All is trained on where there is another file to test on, or nothing is tested.
    tested = load_training_data(dataclasses.replace(config, test_files=(file,)), 0)
    assert len(tested.text) == len(tested.held_out["nli"]) == 60
    plain = load_training_data(DataConfig(train_files=(file,), **names), 0)
    assert (plain.text.fingerprint, plain.held_out) == (tested.text.fingerprint, {})
    with pytest.raises(ValueError, match="label_column is missing: name the column of the classes"):
        load_training_data(dataclasses.replace(config, label_column=None), 0)


def test_columns_by_name_are_documents_too(text):
    (file,) = text.train_files[:1]
    table = file.with_suffix(".tsv")
    table.write_text("number\ttext\n" + "".join(f"1\t{s}\n" for s in SENTENCES[:30]))
    config = DataConfig(train_files=(table, table), columns=("text",))
    assert list(map(len, load_training_data(config, 0).documents)) == [30, 30]
    assert load_training_data(config, 0).documents[0] == SENTENCES[:30]


def test_a_prepared_data_set_is_read_from_its_source(tmp_path, monkeypatch):
    """Through tensorflow-datasets' builder, row by row from disk."""
    prepare = functools.partial(builders.prepare, data_dir=tmp_path / "prepared")
    monkeypatch.setattr(
        builders, "prepare", lambda name, data_dir, source: prepare(name, source=source)
    )
    source = tmp_path / "nli_for_simcse.csv"
    source.write_text("sent0,sent1,hard_neg\n" + "a man,a person,a dog\n" * 3)
    data = load_training_data(DataConfig(dataset="nli_for_simcse", dataset_source=source), 0)
    assert isinstance(data.text, builders.PreparedText)
    assert data.text.rows([1]) == [("a man", "a person", "a dog")]


@pytest.mark.slow
def test_embedded_data_sets():
    gensim_test_data()
    sentences = load_training_data(DataConfig(), 0)
    assert sentences.text.columns[0][: len(sentences.documents[0])] == tuple(sentences.documents[0])
    triplets = load_training_data(DataConfig(dataset="embedded_triplets"), 0)
    assert len(triplets.text.columns) == 3


@pytest.mark.usefixtures("unchecked")
def test_what_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=f"it must be one of {', '.join(DATASETS)}"):
        load_training_data(DataConfig(dataset="wikipedia"), 0)
    with pytest.raises(ValueError, match="train_files is missing"):
        load_training_data(DataConfig(labelled_nli=True), 0)
    with pytest.raises(ValueError, match="dataset_source is x, but embedded_wikipedia comes"):
        load_training_data(DataConfig(dataset_source=Path("x")), 0)
    with pytest.raises(ValueError, match="columns is -1; it must be at least 1"):
        DataConfig(columns=-1)
    with pytest.raises(ValueError, match="columns has 0 names; it must have one"):
        DataConfig(columns=())
    with pytest.raises(ValueError, match="the column 'a' is named twice; name each once"):
        DataConfig(columns=("a", "b"), label_column="a")
    with pytest.raises(ValueError, match="label_column 'a' and score_column 'b' are both given"):
        DataConfig(label_column="a", score_column="b")
    with pytest.raises(ValueError, match="columns is 2 beside a column by name; name the texts"):
        DataConfig(columns=2, label_column="a")
    with pytest.raises(ValueError, match="highest_score is 5.0, which has no effect: it needs sco"):
        DataConfig(highest_score=5.0)
    with pytest.raises(ValueError, match="highest_score is 0; it must be positive"):
        DataConfig(highest_score=0, score_column="a")
    monkeypatch.setitem(DATASETS, "stsb", lambda *_: given_data([("a", "b")], DataConfig(), 0))
    with pytest.raises(ValueError, match="the data set 'stsb' has its own; leave the names out"):
        load_training_data(DataConfig(dataset="stsb", columns=("a", "b")), 0)
    with pytest.raises(ValueError, match="test_files are for the accuracy on NLI"):
        DataConfig(test_files=(Path("x"),))
    with pytest.raises(ValueError, match="positives is 'translated'"):
        DataConfig(positives="translated")


def test_scores_of_sts_b_are_over_five(tiny_data):
    """Sentence-BERT's cosine is fitted to the score over 5: not to (score + 1) / 2, nor to 0..5."""
    data = load_training_data(DataConfig(dataset="stsb", dataset_source=tiny_data), 0)
    file = tiny_data / "STS" / "STSBenchmark" / "sts-train.csv"
    scores = [float(line.split("\t")[4]) for line in file.read_text().splitlines()]
    assert max(scores) > 1
    assert data.text.labels == pytest.approx([score / 5 for score in scores], abs=1e-12)
