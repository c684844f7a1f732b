"""The demo: its rows and its picture, on vectors that are made up."""

import numpy as np
import pytest
from tiny_data import SENTENCES

from experiments import demo
from simcse_jax import SentenceEncoder, train
from simcse_jax.data.lee import read_lee
from simcse_jax.data.wikipedia import SectionTriplet
from simcse_jax.io import read_json


@pytest.fixture
def data():
    triplets = [SectionTriplet(*SENTENCES[i : i + 3]) for i in range(0, 30, 3)]
    return demo.Data(read_lee(), triplets, 5, SENTENCES, triplets)


@pytest.fixture
def vectors(data):
    random = np.random.default_rng(0)
    return demo.Vectors(
        random.normal(size=(len(data.lee.documents), 8)), random.normal(size=(3, 10, 8))
    )


def test_rows(data):
    rows = [name for name, _ in demo.methods(data, demo.Demo(sbert_steps=0))]
    assert rows[0] == "MiniLM, cls"
    assert rows[-2:] == ["cls + flow (trained)", "cls + SimCSE, 40 steps (trained)"]
    rows = [name for name, _ in demo.methods(data, demo.Demo())]
    assert rows[-1] == "mean + SBERT triplets, 40 steps (trained)"


def test_table_picture_and_numbers(data, vectors, tmp_path, monkeypatch, capsys):
    methods = [("one", lambda: vectors), ("two", lambda: vectors)]
    monkeypatch.setattr(demo, "read_data", lambda seed: data)
    monkeypatch.setattr(demo, "methods", lambda *_: methods)
    demo.main(demo.Demo(output_dir=tmp_path / "out"))
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")
    first, second = read_json(tmp_path / "out" / "demo.json")["rows"]
    assert first == second | {"method": "one", "seconds": first["seconds"]}
    assert f"{first['lee_spearman']:.2f}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* encoded sentences w(as|ere) cut")  # Lee's
def test_the_last_model_of_a_short_run_is_taken(data, golden, tmp_path, monkeypatch):
    def tiny(config, **options):
        options |= {"model": str(golden / "tiny-bert"), "num_layers": 1, "max_length": 16}
        return train(config, **options)

    monkeypatch.setattr(demo, "train", tiny)
    settings = demo.Demo(output_dir=tmp_path)
    rows = [demo.sentences_of(triplet) for triplet in data.training_triplets] * 2
    found = demo.trained("sbert_wikisections", rows, 1, data, settings)
    last = SentenceEncoder.from_pretrained(tmp_path / "sbert_wikisections" / "last")
    assert last.settings.pooling == "mean"
    np.testing.assert_array_equal(found.documents, demo.embed(last, data).documents)
