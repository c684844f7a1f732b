import jax.numpy as jnp
import numpy as np
import pytest

from simcse_jax.encoder import cosine_similarity
from simcse_jax.evaluation.search import similarity_search
from simcse_jax.evaluation.sts import cosine


def brute_force(queries, corpus, top_k, cosine, exclude_self=False):
    """Every score in float64, sorted stably: the lower row first among equals."""
    q, c = queries.astype(np.float64), corpus.astype(np.float64)
    if cosine:
        q, c = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300) for x in (q, c))
    scores = q @ c.T
    if exclude_self:
        scores[np.arange(len(q)), np.arange(len(q))] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return np.take_along_axis(scores, order, axis=1), order


def assert_best(found, queries, corpus, cosine, exclude_self=False):
    """The rows found score, in float64, what the best rows score: float32 may swap near equals."""
    every, order = brute_force(queries, corpus, len(corpus), cosine, exclude_self)
    exact = np.empty_like(every)
    np.put_along_axis(exact, order, every, axis=1)
    top_k = found.indices.shape[1]
    of_found = np.take_along_axis(exact, found.indices, axis=1)
    np.testing.assert_allclose(of_found, every[:, :top_k], atol=1e-6)
    np.testing.assert_allclose(found.scores, of_found, atol=2e-6)
    assert all(len(set(row)) == top_k for row in found.indices.tolist())


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("blocks", [(3, 100), (256, 32_768), (7, 256)], ids=str)
@pytest.mark.parametrize("top_k", [1, 3, 200])
def test_agrees_with_brute_force(similarity, blocks, top_k):
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(10, 12)).astype(np.float32)
    corpus = (rng.normal(size=(1_001, 12)) * rng.uniform(0.5, 1, size=(1_001, 1))).astype(
        np.float32
    )
    found = similarity_search(
        queries, corpus, top_k, similarity=similarity, query_block=blocks[0], corpus_block=blocks[1]
    )
    assert_best(found, queries, corpus, similarity == "cosine")
    assert found.scores.dtype == np.float32
    assert found.indices.dtype == np.int64


@pytest.mark.parametrize("corpus_block", [64, 128, 10_000])
def test_of_equal_scores_the_lower_row_comes_first(corpus_block):
    # Integers, so that equal scores are equal in every order of summation.
    rng = np.random.default_rng(1)
    corpus = rng.integers(-1, 2, size=(900, 3)).astype(np.float32)
    queries = rng.integers(-1, 2, size=(20, 3)).astype(np.float32)
    found = similarity_search(
        queries, corpus, 5, similarity="dot", query_block=6, corpus_block=corpus_block
    )
    np.testing.assert_array_equal(found.indices, brute_force(queries, corpus, 5, False)[1])


@pytest.mark.parametrize("corpus_block", [64, 1_000])
def test_a_query_does_not_find_itself_when_asked(corpus_block):
    x = np.random.default_rng(2).normal(size=(300, 8)).astype(np.float32)
    found = similarity_search(x, x, 4, exclude_self=True, query_block=64, corpus_block=corpus_block)
    assert_best(found, x, x, True, exclude_self=True)
    assert similarity_search(x, x, 1).indices[:, 0].tolist() == list(range(300))


def test_the_whole_corpus_can_be_ranked():
    x = np.random.default_rng(3).normal(size=(70, 4)).astype(np.float32)
    found = similarity_search(x[:2], x, 70)
    assert sorted(found.indices[0]) == list(range(70))
    everyone_else = similarity_search(x, x, 69, exclude_self=True).indices
    assert all(i not in row for i, row in enumerate(everyone_else))


def test_a_zero_vector_has_cosine_zero():
    corpus = np.array([[0, 0], [-1, 0], [1, 1]], np.float32)
    found = similarity_search(np.array([[1, 0]], np.float32), corpus, 3)
    np.testing.assert_array_equal(found.indices, [[2, 0, 1]])
    np.testing.assert_allclose(found.scores, [[0.5**0.5, 0, -1]], atol=1e-6)


def test_half_precision_and_files_are_read_block_by_block(tmp_path):
    x = np.random.default_rng(4).normal(size=(500, 8)).astype(np.float16)
    np.save(tmp_path / "corpus.npy", x)
    corpus = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    found = similarity_search(x[:5], corpus, 3, corpus_block=64)
    assert_best(found, x[:5], x, True)


def test_no_queries_give_no_rows():
    found = similarity_search(np.zeros((0, 3), np.float32), np.ones((4, 3), np.float32), 2)
    assert found.scores.shape == found.indices.shape == (0, 2)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-19, 1e19, 1e30])
def test_the_cosine_ignores_length_however_extreme(scale):
    rng = np.random.default_rng(0)
    queries, corpus = rng.normal(size=(5, 8)), rng.normal(size=(70, 8))
    wanted = similarity_search(np.float32(queries), np.float32(corpus), 3)
    # Subnormal numbers have few digits, but whole multiples of the least are exact.
    if scale == 1e-42:
        queries, corpus = np.rint(queries * 50), np.rint(corpus * 50)
        wanted = similarity_search(queries, corpus, 3)
        scale = 2.0**-149
    for q, c in ((scale, 1), (1, scale), (scale, scale)):
        found = similarity_search(np.float32(queries * q), np.float32(corpus * c), 3)
        np.testing.assert_array_equal(found.indices, wanted.indices)
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-200, 1e-60, 1e60, 1e200])
def test_the_cosine_of_float64_beyond_float32(scale):
    rng = np.random.default_rng(0)
    queries, corpus = rng.normal(size=(5, 8)), rng.normal(size=(70, 8))
    wanted = similarity_search(queries, corpus, 3)
    for q, c in ((scale, 1), (1, scale), (scale, scale)):
        found = similarity_search(queries * q, corpus * c, 3)
        np.testing.assert_array_equal(found.indices, wanted.indices)
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-5)
        np.testing.assert_allclose(
            cosine(queries * q, corpus[:5] * c), cosine(queries, corpus[:5]), rtol=1e-12
        )
        np.testing.assert_allclose(
            cosine_similarity(queries * q, corpus * c),
            cosine_similarity(queries, corpus),
            atol=1e-6,
        )
    with pytest.raises(ValueError, match="corpus must be finite"):
        similarity_search(queries, corpus * 1e200, 3, similarity="dot")


def test_any_array_or_lists_are_searched():
    whole = np.array([[1, 2, 3], [3, 1, 0], [0, 4, 1], [2, 2, 2]])
    wanted = similarity_search(np.float32(whole), np.float32(whole), 2)
    for convert in (
        *(np.asarray, np.ndarray.tolist, np.float64, np.float16, jnp.asarray, np.asfortranarray),
        *(jnp.bfloat16, lambda x: list(np.float32(x)), lambda x: np.repeat(x, 2, 1)[:, ::2]),
    ):
        found = similarity_search(convert(whole), convert(whole), 2)
        np.testing.assert_array_equal(found.indices, wanted.indices)
        np.testing.assert_array_equal(found.scores, wanted.scores)


ROWS = np.ones((4, 3), np.float32)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((ROWS, ROWS[:, :2], 1), {}, "queries have 3 dimensions, the corpus has 2"),
        ((ROWS[0], ROWS, 1), {}, r"queries must be a matrix \[n, D\], got shape \(3,\)"),
        ((ROWS, ROWS, 5), {}, "top_k is 5; it must be from 1 to 4"),
        ((ROWS, ROWS, 4), {"exclude_self": True}, "top_k is 4; it must be from 1 to 3"),
        ((ROWS, ROWS[:2], 1), {"exclude_self": True}, "4 queries, 2 rows"),
        ((ROWS, ROWS, 0), {}, "top_k is 0"),
        ((ROWS, ROWS[:0], 1), {}, "from 1 to 0"),
        ((ROWS, ROWS, 1), {"similarity": "l2"}, "similarity is 'l2'"),
        ((ROWS, ROWS, 1), {"corpus_block": 0}, "corpus_block is 0"),
        ((ROWS, np.array([[1, 2, 3], [4, np.nan, 6]]), 1), {}, "corpus must be finite; row 1"),
        ((ROWS * np.inf, ROWS, 1), {}, "queries must be finite; rows 0, 1, 2, 3 are not"),
        ((ROWS, "abc", 1), {}, "corpus must be real numbers, not <U3"),
        ((ROWS, ROWS.astype(object), 1), {}, "corpus must be real numbers, not object"),
        ((ROWS * 1j, ROWS, 1), {}, "queries must be real numbers, not complex"),
        ((ROWS > 0, ROWS, 1), {}, "queries must be real numbers, not bool"),
        (([[1, 2, 3], [4, 5]], ROWS, 1), {}, r"queries must be a matrix \[n, D\]; its rows are of"),
        ((ROWS, ROWS[None], 1), {}, r"corpus must be a matrix \[n, D\], got shape \(1, 4, 3\)"),
        ((ROWS, ROWS, 1.0), {}, "top_k is 1.0; it must be a whole number"),
    ],
)
def test_bad_input(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        similarity_search(*arguments, **settings)
