"""The snippets of a card, run by both libraries; and sentence-transformers reads our header."""

import importlib
import re

import numpy as np
import pytest
from huggingface_hub import ModelCard

from simcse_jax import SentenceEncoder, Whitening
from simcse_jax.evaluation.scores import card_scores
from simcse_jax.hub.card import TASKS, placed

pytest.importorskip("torch")
st = pytest.importorskip("sentence_transformers")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.mark.parametrize("whitened", [False, True])
def test_both_snippets_give_the_same_vectors(golden, tmp_path, whitened, capsys):
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    if whitened:
        texts = ["a dog eats", "the cat sat", "a bird", "two dogs eat the bird"]
        encoder = encoder.fit(Whitening, texts, k=2)
    encoder.save_pretrained(tmp_path)
    card = placed((tmp_path / "README.md").read_text(), str(tmp_path))
    vectors = []
    for code in re.findall("```python\n(.*?)```", card, re.DOTALL):
        known = {}
        exec(code, known)
        vectors.append(known["vectors"])
    ours, theirs = vectors
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
    first, second = capsys.readouterr().out.split("tensor(")
    said = [
        [float(x) for x in re.findall(r"-?\d+\.\d*(?:e-?\d+)?", text)] for text in (first, second)
    ]
    np.testing.assert_allclose(*said, atol=2e-4)


def test_names_in_the_header_are_those_of_sentence_transformers(golden, tmp_path):
    """Of the library, the tasks and the metrics, in the card that it writes of scored models."""
    evaluation = importlib.import_module("sentence_transformers.sentence_transformer.evaluation")
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    encoder.save_pretrained(tmp_path / "ours")
    ours = ModelCard.load(tmp_path / "ours" / "README.md").data
    (tmp_path / "ours" / "README.md").unlink()  # it would be copied, as we copy it
    model = st.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    columns = (["a dog", "a cat", "a bird"], ["dogs", "the park", "two birds"])
    third = ["music", "a flute", "grass"]
    pairs = evaluation.EmbeddingSimilarityEvaluator(*columns, [1.0, 0.0, 0.5], name="sts-b")
    distances = ["cosine", "euclidean"]
    triplets = evaluation.TripletEvaluator(
        *columns, third, name="sections", similarity_fn_names=distances
    )
    pairs(model)
    triplets(model)
    model.save_pretrained(str(tmp_path / "theirs"))
    theirs = ModelCard.load(tmp_path / "theirs" / "README.md").data
    assert (ours.library_name, ours.pipeline_tag) == (theirs.library_name, theirs.pipeline_tag)
    assert set(theirs.tags) <= {*ours.tags, "dense"}
    known = {(r.task_type, r.task_name, r.metric_type) for r in theirs.eval_results}
    task = {
        "all": 70.0,
        "mean": 70.0,
        "wmean": 70.0,
        "pairs": 3,
        "pearson": {"all": 60.0},
        "subsets": {"": {}},
    }
    scores = card_scores({"tasks": {"STS-B": task}, "sections": 80.0})
    named = {(score.task, TASKS[score.task], score.metric) for score in scores}
    assert len(named) == 3
    assert named <= known
