"""Retrieval by whitened vectors: what counts as found, and the command from text to picture."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.tables import retrieval
from simcse_jax.data.wikipedia import Article, Section

SENTENCE = "the {} {} the {}"


@pytest.fixture
def articles(monkeypatch):
    def section(word, verbs):
        things = ("flute", "piano", "food", "grass", "park")
        return Section(word, tuple(SENTENCE.format(word, v, t) for v in verbs for t in things))

    found = [
        Article("first", (section("man", ("plays", "runs")), section("dog", ("runs", "eats")))),
        Article("second", (section("cat", ("eats", "plays", "runs")), Section("one", ("alone",)))),
    ]
    monkeypatch.setattr(retrieval, "embedded_wikipedia", lambda progress: found)
    return found


def test_quality_counts_the_first_of_the_section_and_not_the_query_itself():
    sections = np.array([0, 0, 1, 1, 1, 2])
    queries = np.array([0, 2, 5])
    found = np.array([[0, 3, 1, 4], [4, 2, 0, 1], [0, 5, 1, 2]])
    # 0 finds its neighbour second, 2 finds 4 at once, 5 has nobody
    scores = retrieval.quality(found, queries, sections)
    assert scores == {
        "mrr_at_10": pytest.approx(100 * (1 / 2 + 1) / 3),
        "success_at_10": pytest.approx(200 / 3),
    }


def test_a_twin_before_the_query_does_not_cost_a_place():
    # Equal vectors: the query is not first in its own list.
    scores = retrieval.quality(np.array([[1, 0, 2]]), np.array([0]), np.array([7, 8, 7]))
    assert scores["mrr_at_10"] == 50


def test_a_repeated_sentence_belongs_to_its_first_section():
    twice = [Article("a", (Section("x", ("s", "t")), Section("y", ("t", "u"))))]
    sentences, sections = retrieval.sections_of(twice)
    assert sentences == ["s", "t", "u"]
    assert sections.tolist() == [0, 0, 1]


def test_a_sentence_alone_in_its_section_is_no_query():
    assert retrieval.choose_queries(np.array([0, 1, 1, 2]), 2, 0).tolist() == [1, 2]
    with pytest.raises(ValueError, match="only 2 sentences can be one"):
        retrieval.choose_queries(np.array([0, 1, 1, 2]), 3, 0)


def test_the_command(articles, golden, tmp_path):
    settings = retrieval.Retrieval(
        model=str(golden / "tiny-bert"), dimensions=(8, 4), queries=12, single_queries=2,
        repeats=1, output_dir=tmp_path,
    )  # fmt: skip
    rows = retrieval.main(settings)
    assert [r["method"] for r in rows] == ["raw", "whitening", "whitening", "whitening"]
    assert [r["dimensions"] for r in rows][2:] == [8, 4]
    for row in rows:
        assert 0 <= row["mrr_at_10"] <= row["success_at_10"] <= 100
        assert row["memory_mb"] == pytest.approx(36 * row["dimensions"] * 4 / 1e6)
        assert row["batch_ms"] > 0
        assert row["single_ms"] > 0
    record = json.loads((tmp_path / "retrieval_cls.json").read_text())
    assert record["rows"] == rows
    assert record["sentences"] == 36
    assert (tmp_path / "retrieval_cls.png").stat().st_size > 5_000


def test_too_many_dimensions(articles, golden, tmp_path):
    settings = retrieval.Retrieval(
        model=str(golden / "tiny-bert"), dimensions=(10_000,), queries=2, output_dir=tmp_path
    )
    with pytest.raises(ValueError, match="--dimensions 10000: of these vectors 1 to .* vary"):
        retrieval.main(settings)
    with pytest.raises(ValueError, match="repeats is 0; it must be at least 1"):
        retrieval.main(dataclasses.replace(settings, repeats=0))
