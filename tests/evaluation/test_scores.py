"""What a run's scores are called in its model card."""

import numpy as np
import pytest

from simcse_jax.config import CONFIGS
from simcse_jax.evaluation.scores import card_scores, pair_scores, triplet_scores
from simcse_jax.run_card import _note


class Lengths:
    """Embeds a sentence by its length."""

    def encode(self, sentences, **_):
        return np.array([[len(sentence), 1.0] for sentence in sentences], np.float32)


def test_own_pairs_are_no_published_test_whatever_the_file_is_called(tmp_path):
    file = tmp_path / "STS-B;.csv"
    rows = [f"{'x' * i},{'y' * (i * i % 5 + 1)},{i}\n" for i in range(1, 6)]
    file.write_text("sentence1,sentence2,score\n" + "".join(rows))
    scores = pair_scores(file, ("sentence1", "sentence2", "score"))
    found = card_scores(scores.test(Lengths(), None), scores.pairs_file)
    assert [score.metric for score in found] == ["spearman_cosine", "pearson_cosine"]
    for score in found:
        assert score[1:4] == ("STS-B;.csv", "unknown", None)
        assert score.size == "5 pairs"
        assert "SentEval" not in score.protocol
        assert score.protocol.startswith("STS-B;.csv: the user's own pairs, which are no published")
    note = (
        "The model is chosen by the pairs that it is scored on, the 5 of STS-B;.csv, so its score "
        "is no measure of new text."
    )
    assert _note(CONFIGS["unsup_simcse"], scores).endswith(note)
    of_sections = triplet_scores({}, "cosine", scores)
    assert of_sections.pairs_file == file.name
    best = {"sections": 1.0, "sections_cosine": 1.0, "sections_all": 1.0} | scores.test(
        Lengths(), None
    )
    headings = [column.heading for column in of_sections.columns(best, best)]
    assert [h for h in headings if h][2:] == ["STS-B;.csv, best", "STS-B;.csv, last"]


def test_pairs_of_one_score_rank_nothing(tmp_path):
    (tmp_path / "p.csv").write_text("sentence1,sentence2,score\na,b,3\nc,d,3\n")
    with pytest.raises(ValueError, match=r"p\.csv: all scores are 3, which rank nothing"):
        pair_scores(tmp_path / "p.csv", ("sentence1", "sentence2", "score"))


def test_senteval_s_test_is_called_what_it_is():
    task = {"subsets": {"a": {}}, "pairs": 3, "all": 1.0, "pearson": {"all": 2.0}}
    (spearman, _) = card_scores({"tasks": {"STS-B": task}})
    assert spearman[1:4] == ("STS-B", "sts-b", "test")
    assert "SentEval" in spearman.protocol
