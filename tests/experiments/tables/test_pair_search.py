"""The two ways to the most similar pair, on a tiny model."""

import json

import numpy as np
import pytest
from tiny_data import SENTENCES

from experiments.tables import pair_search
from simcse_jax import SentenceEncoder
from simcse_jax.data.wikipedia import Article, Section


@pytest.fixture
def encoder(golden):
    return SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")


@pytest.fixture(autouse=True)
def small_wikipedia(monkeypatch):
    articles = [Article("a", (Section("", tuple(SENTENCES)),))]
    monkeypatch.setattr(pair_search, "embedded_wikipedia", lambda progress: articles)


def test_a_pair_is_read_as_two_segments(encoder):
    (together,), _ = encoder.tokenizer([pair_search.joined(encoder, "the man", "the dog")])
    (first, second), _ = encoder.tokenizer(["the man", "the dog"])
    assert together.tolist() == [*first, *second[1:]]


def test_the_bi_encoder_finds_the_pair_of_highest_cosine(encoder):
    text = SENTENCES[:12]
    cosines = encoder.similarity(text, text)
    np.fill_diagonal(cosines, -1)
    pair, _, _ = pair_search.by_bi_encoder(encoder, text)
    assert cosines[pair] == pytest.approx(cosines.max(), abs=1e-6)
    assert pair[0] < pair[1]


def test_the_cross_encoder_scores_every_pair(encoder):
    head = np.random.default_rng(0).normal(size=encoder.dimension).astype(np.float32)
    text = SENTENCES[:6]
    scores = {
        (i, j): float((encoder.encode([f"{text[i]} [SEP] {text[j]}"]) @ head)[0])
        for i in range(6)
        for j in range(i + 1, 6)
    }
    assert pair_search.by_cross_encoder(encoder, text, head) == max(scores, key=scores.get)


def test_growth():
    rows = [
        {"n": 10, "cross_s": 1.0, "encode_s": 1.0, "search_s": 0.1},
        {"n": 11, "cross_s": 5.5, "encode_s": None, "search_s": None},
        {"n": 100, "cross_s": None, "encode_s": 2.0, "search_s": 0.3},
    ]
    assert pair_search.extrapolated(rows, 1000) == {
        "n": 1000,
        "cross_s": pytest.approx(0.1 * 499_500),
        "encode_s": pytest.approx(20),
        "search_s": pytest.approx(30),
    }


@pytest.mark.filterwarnings("ignore:.* does not say how to pool")
def test_the_command(golden, tmp_path):
    settings = pair_search.PairSearch(
        model=str(golden / "tiny-bert"), cross=(3, 5), bi=(3, 20), words=(1, 30), repeats=1,
        extrapolate=1000, output_dir=tmp_path,
    )  # fmt: skip
    record = pair_search.main(settings)
    assert [r["n"] for r in record["measured"]] == [3, 5, 20]
    assert record["measured"][2]["cross_s"] is None
    assert record["extrapolated"]["n"] == 1000
    assert json.loads((tmp_path / "pair_search.json").read_text())["measured"] == record["measured"]
    assert (tmp_path / "pair_search.png").stat().st_size > 5_000


def test_bad_settings(golden, tmp_path):
    model = str(golden / "tiny-bert")
    with pytest.raises(ValueError, match="at least two sentences"):
        pair_search.main(pair_search.PairSearch(model=model, cross=(1,), output_dir=tmp_path))
    with pytest.raises(ValueError, match="only 60 fit --words"):
        pair_search.main(
            pair_search.PairSearch(model=model, bi=(70,), words=(1, 30), output_dir=tmp_path)
        )
