"""STS evaluation against scipy and by hand."""

import json
import warnings

import numpy as np
import pytest
from scipy import stats

from simcse_jax import SentenceEncoder
from simcse_jax.data.senteval import Pairs, StsTask, read_sts
from simcse_jax.evaluation.sts import (
    cosine,
    dot,
    encode_once,
    euclidean,
    evaluate_sts,
    evaluate_transformed_sts,
    format_table,
    manhattan,
    paired_similarity,
    pearson,
    results_to_json,
    spearman,
)


def make_pairs(name: str, n: int, seed: int) -> Pairs:
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 30, (2, n))  # some sentences repeat, within and across subsets
    return Pairs(
        name,
        tuple(f"s{i}" for i in words[0]),
        tuple(f"s{i}" for i in words[1]),
        rng.integers(0, 6, n).astype(np.float64),  # many ties
    )


@pytest.fixture
def tasks() -> dict[str, StsTask]:
    return {
        "STS12": StsTask("STS12", (make_pairs("a", 40, 1), make_pairs("b", 10, 2))),
        "STS-B": StsTask("STS-B", (make_pairs("test", 25, 3),)),
    }


def encode(sentences):
    """A vector a sentence, a function of the sentence alone."""
    return np.stack([np.random.default_rng(int(s[1:])).normal(size=8) for s in sentences]).astype(
        np.float32
    )


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_against_scipy(ties):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 200))
    y = y + 0.5 * x
    if ties:
        x, y = np.round(x), np.round(2 * y)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert spearman(x, -x) == pytest.approx(-1.0, abs=1e-12)
    assert -1.0 <= pearson(x, -3 * x + 7) == pytest.approx(-1.0, abs=1e-12)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("correlation", [spearman, pearson])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 2.0], [7.0, 7.0], "all 2 values of the second vector are 7.0"),
        ([0.5, 0.5, 0.5], [1.0, 2.0, 3.0], "all 3 values of the first vector are 0.5"),
        ([1.0], [1.0], "at least 2"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"got shapes \(2,\) and \(3,\)"),
        ([1.0, np.nan], [1.0, 2.0], "the first vector of a correlation should be finite"),
    ],
)
def test_undefined_correlations(correlation, x, y, message):
    with pytest.raises(ValueError, match=message):
        correlation(np.array(x), np.array(y))


def test_similarities():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50, 7)).astype(np.float32)
    for i in range(len(x)):
        u, v = x[i].astype(np.float64), y[i].astype(np.float64)
        np.testing.assert_allclose(dot(x, y)[i], u @ v, atol=1e-12)
        np.testing.assert_allclose(
            cosine(x, y)[i], u @ v / np.linalg.norm(u) / np.linalg.norm(v), atol=1e-12
        )
        np.testing.assert_allclose(euclidean(x, y)[i], -np.sqrt(((u - v) ** 2).sum()), atol=1e-12)
        np.testing.assert_allclose(manhattan(x, y)[i], -np.abs(u - v).sum(), atol=1e-12)
    np.testing.assert_array_equal(cosine(x, x), 1.0)  # exactly: repeated sentences tie
    np.testing.assert_array_equal(paired_similarity(x, y), cosine(x, y))


def test_cosine_of_zero_vectors_is_zero():
    x = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    y = np.array([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(cosine(x, y), 0.0)


@pytest.mark.usefixtures("unchecked")
def test_bad_similarities():
    with pytest.raises(ValueError, match="similarity is 'cos'; it must be one of cosine, dot"):
        paired_similarity(np.ones((2, 2)), np.ones((2, 2)), "cos")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one shape \[n, D\], got \(2, 3\) and \(1, 3\)"):
        cosine(np.ones((2, 3)), np.ones((1, 3)))


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_protocols_by_hand(tasks, similarity):
    results = evaluate_sts(encode, tasks, similarity)
    sims, golds, per_subset = [], [], {"spearman": [], "pearson": []}
    for subset in tasks["STS12"].subsets:
        sims.append(
            paired_similarity(encode(subset.sentences1), encode(subset.sentences2), similarity)
        )
        golds.append(subset.scores)
        per_subset["spearman"].append(100 * stats.spearmanr(sims[-1], golds[-1]).statistic)
        per_subset["pearson"].append(100 * stats.pearsonr(sims[-1], golds[-1]).statistic)
    x, y = np.concatenate(sims), np.concatenate(golds)
    overall = {
        "spearman": 100 * stats.spearmanr(x, y).statistic,
        "pearson": 100 * stats.pearsonr(x, y).statistic,
    }
    task = results.tasks["STS12"]
    for measure in ("spearman", "pearson"):
        a, b = per_subset[measure]
        scores = getattr(task, measure)
        assert scores.all == pytest.approx(overall[measure], abs=1e-9)
        assert scores.mean == pytest.approx((a + b) / 2, abs=1e-9)
        assert scores.wmean == pytest.approx((40 * a + 10 * b) / 50, abs=1e-9)
        assert getattr(task.subsets["b"], measure) == pytest.approx(b, abs=1e-9)
    assert (task.pairs, task.subsets["a"].pairs) == (50, 40)
    single = results.tasks["STS-B"].spearman
    assert single.all == single.mean == single.wmean


def test_one_encode_call_over_distinct_sentences(tasks):
    calls = []

    def counted(sentences):
        calls.append(list(sentences))
        return encode(sentences)

    results = evaluate_sts(counted, tasks.values())  # any iterable will do
    assert len(calls) == 1
    assert len(set(calls[0])) == len(calls[0])
    assert results == evaluate_sts(encode, tasks)


def test_what_is_encoded_once_is_looked_up(tasks):
    calls = []

    def counted(sentences):
        calls.append(sentences)
        return encode(sentences)

    sentences = [s for task in tasks.values() for s in task.sentences]
    assert len(sentences) == 2 * sum(map(len, tasks.values()))
    cached = encode_once(counted, sentences)
    assert evaluate_sts(cached, tasks) == evaluate_sts(encode, tasks)
    np.testing.assert_array_equal(cached(sentences[::-1]), encode(sentences[::-1]))
    assert calls == [list(dict.fromkeys(sentences))]


def test_each_task_is_scored_with_its_transform(tasks):
    def halved(x):
        return x[:, :4]

    def turned(x):
        return x[:, ::-1] * np.arange(1, 9)

    own = evaluate_transformed_sts(encode, tasks, {"STS12": halved, "STS-B": turned})
    for name, transform in (("STS12", halved), ("STS-B", turned)):
        one = evaluate_transformed_sts(encode, tasks.values(), transform)
        expected = evaluate_sts(lambda s, f=transform: f(encode(s)), tasks)
        assert own.tasks[name] == one.tasks[name] == expected.tasks[name]
    assert list(own.tasks) == list(tasks)
    with pytest.raises(KeyError, match="STS-B"):
        evaluate_transformed_sts(encode, tasks, {"STS12": halved})


def test_average_is_of_rounded_scores(tasks):
    results = evaluate_sts(encode, tasks)
    for protocol in ("all", "mean", "wmean"):
        printed = [float(f"{getattr(t.spearman, protocol):.2f}") for t in results.tasks.values()]
        assert getattr(results.average, protocol) == pytest.approx(sum(printed) / 2, abs=1e-12)


def test_json(tasks):
    results = evaluate_sts(encode, tasks)
    content = json.loads(json.dumps(results_to_json(results), allow_nan=False))
    assert list(content) == ["tasks", "average"]
    assert list(content["tasks"]) == ["STS12", "STS-B"]
    assert list(content["average"]) == ["all", "mean", "wmean"]
    task = content["tasks"]["STS12"]
    assert list(task) == ["all", "mean", "wmean", "pairs", "pearson", "subsets"]
    assert list(task["pearson"]) == ["all", "mean", "wmean"]
    assert list(task["subsets"]) == ["a", "b"]
    assert list(task["subsets"]["a"]) == ["spearman", "pearson", "pairs"]
    assert task["all"] == results.tasks["STS12"].spearman.all
    assert task["pairs"] == 50


def test_table(tasks):
    results = evaluate_sts(encode, tasks)
    lines = format_table(results).splitlines()
    assert lines[0].split() == ["Spearman", "×", "100", "STS12", "STS-B", "average"]
    assert [line.split()[0] for line in lines[2:]] == ["all", "mean", "wmean", "pairs"]
    assert lines[2].split()[1:] == [
        f"{results.tasks['STS12'].spearman.all:.2f}",
        f"{results.tasks['STS-B'].spearman.all:.2f}",
        f"{results.average.all:.2f}",
    ]
    assert lines[5].split() == ["pairs", "50", "25"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda s: np.ones((len(s), 4)), r"STS12, a: all 40 values of the first .*are 1\.0"),
        (lambda s: encode(s)[:-1], r"should give an array \[\d+, D\] for \d+ sentences"),
        (lambda s: encode(s)[:, 0], r"got shape \(\d+,\)"),
        (lambda s: encode(s) * np.nan, r"embeddings are not finite, the first that of 's\d+'"),
    ],
)
def test_bad_encoders(tasks, bad, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message):
            evaluate_sts(bad, tasks)


def test_bad_tasks(tasks):
    with pytest.raises(ValueError, match=r"one STS task or more .*got \[\]"):
        evaluate_sts(encode, {})
    with pytest.raises(ValueError, match="distinct names"):
        evaluate_sts(encode, [tasks["STS12"], tasks["STS12"]])
    twice = StsTask("X", (make_pairs("a", 5, 0), make_pairs("a", 5, 1)))
    with pytest.raises(ValueError, match=r"X needs .* distinct names, got \['a', 'a'\]"):
        evaluate_sts(encode, [twice])
    flat = StsTask("X", (Pairs("a", ("s1", "s2"), ("s3", "s4"), np.ones(2)),))
    with pytest.raises(ValueError, match="X, a: all 2 values of the second vector are 1.0"):
        evaluate_sts(encode, [flat])


def test_real_tasks(shared_data):
    """Bags of words on the real files: the right pairs meet the right scores."""
    from sklearn.feature_extraction.text import HashingVectorizer

    words = HashingVectorizer(n_features=256, alternate_sign=False)
    tasks = read_sts(shared_data / "senteval", ["STS12", "STS-B"])
    results = evaluate_sts(lambda s: words.transform(s).toarray(), tasks)
    assert results.tasks["STS12"].pairs == 3108
    assert next(iter(results.tasks["STS12"].subsets)) == "MSRpar"
    assert results.tasks["STS-B"].spearman.all > 50
    for subset in results.tasks["STS12"].subsets.values():
        assert subset.spearman > 20


def test_a_correlation_does_not_change_with_the_size_of_numbers():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 30))
    for scale in (2.0**-1000, 2.0**1000):
        assert pearson(x * scale, y) == pearson(x, y)


def test_evaluation_cuts_no_sentence_that_the_model_takes():
    """Training cuts to 32 tokens, SentEval's evaluation to none."""
    encoder = SentenceEncoder.from_pretrained("minilm", num_layers=1, pooling="mean")
    assert encoder.max_length > 33
    words = ["dog", "cat", "man", "red"]
    pairs = [
        (" ".join(words[i % 4] for i in range(30)), " ".join(words[(i * k) % 4] for i in range(34)))
        for k in range(1, 5)
    ]
    ends = [
        (first + f" {word}", second) for (first, second), word in zip(pairs, words, strict=True)
    ]
    sides = [tuple(side) for side in zip(*ends, strict=True)]
    task = StsTask("STS-B", (Pairs("test", *sides, np.arange(4.0)),))
    found = evaluate_sts(encoder.encode, {"STS-B": task}).tasks["STS-B"].spearman.all
    vectors = [encoder.encode(side, on_truncation="error", normalize=True) for side in sides]
    cosines = (vectors[0] * vectors[1]).sum(1)
    assert found == pytest.approx(100 * stats.spearmanr(cosines, np.arange(4.0)).statistic)
