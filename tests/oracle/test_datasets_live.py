"""Hugging Face's `datasets` itself, from files of this machine."""

import json

import pytest

from simcse_jax.data.datasets import DataConfig, given_data, load_training_data

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.oracle

COLUMNS = {"a": ["x", "y é"], "b": ["u", "v"], "is": [1, 0]}
CONFIG = {"columns": ("b", "a"), "label_column": "is"}


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets.Dataset.from_dict(COLUMNS)


def check(text):
    assert (text.columns, text.labels) == ((("u", "v"), ("x", "y é")), (1, 0))


@pytest.mark.parametrize("form", [None, "numpy", "pandas", "arrow"])
def test_a_dataset_in_every_format(dataset, form):
    check(given_data(dataset.with_format(form), DataConfig(**CONFIG), 0).text)


def test_a_streamed_dataset(dataset):
    check(given_data(dataset.to_iterable_dataset(), DataConfig(**CONFIG), 0).text)


def test_a_set_of_splits_is_refused(dataset):
    streamed = datasets.IterableDatasetDict(dev=dataset.to_iterable_dataset())
    for splits in (datasets.DatasetDict(dev=dataset), streamed):
        with pytest.raises(ValueError, match="is a set of splits; give one of them: 'dev'"):
            given_data(splits, DataConfig(**CONFIG), 0)


def test_folders_by_name(dataset, tmp_path):
    def load(name):
        return load_training_data(DataConfig(dataset=f"hf:{tmp_path}/{name}", **CONFIG), 0).text

    dataset.save_to_disk(tmp_path / "one")
    check(load("one"))
    datasets.DatasetDict(train=dataset, dev=dataset.select([0])).save_to_disk(tmp_path / "two")
    check(load("two"))
    assert len(load("two:dev")) == 1
    (tmp_path / "files").mkdir()
    rows = zip(*COLUMNS.values(), strict=True)
    lines = "".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n" for row in rows)
    (tmp_path / "files" / "train.jsonl").write_text(lines)
    check(load("files"))
    assert len(load("files:train[:1]")) == 1
    dataset.to_parquet(tmp_path / "x.parquet")
    check(load_training_data(DataConfig(train_files=(tmp_path / "x.parquet",), **CONFIG), 0).text)
    for name in ("files:dev", "one:dev", "two:test"):
        with pytest.raises(ValueError, match=r"cannot be opened \(.*split.*\); check name, conf"):
            load(name)
