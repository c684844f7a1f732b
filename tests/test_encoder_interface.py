"""What people bring from sentence-transformers and pandas, and what an encoder says of itself."""

import dataclasses
import pickle

import numpy as np
import pytest

from simcse_jax import SentenceEncoder
from simcse_jax.transforms import AllButTheTop, Flow, FlowConfig, LayerNorm, Whitening

TEXTS = ["a dog eats", "the cat sat", "a bird", "two dogs eat the bird"]
PROMPTS = {"query": "dog ", "passage": "cat "}


@pytest.fixture(scope="module")
def encoder(golden):
    loaded = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean", normalize=True)
    return loaded._but(settings=dataclasses.replace(loaded.settings, prompts=PROMPTS))


def test_one_string_gives_one_vector(encoder):
    vector = encoder.encode(TEXTS[0])
    assert vector.shape == (32,)
    np.testing.assert_array_equal(vector, encoder.encode(TEXTS[:1])[0])


class Series:
    """Strings as pandas, polars and pyarrow hand them out."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return iter(self.values)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=object)


@pytest.mark.parametrize(
    "kind",
    [np.array, lambda x: np.array(x, object), Series, tuple, iter, dict.fromkeys],
)
def test_what_strings_come_in(encoder, kind):
    np.testing.assert_array_equal(encoder.encode(kind(TEXTS)), encoder.encode(TEXTS))


def test_arrow_columns(encoder):
    pyarrow = pytest.importorskip("pyarrow")
    column = pyarrow.chunked_array([TEXTS[:2], TEXTS[2:]])
    np.testing.assert_array_equal(encoder.encode(column), encoder.encode(TEXTS))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.array([TEXTS]), r"one column of text, got shape \(1, 4\)"),
        (np.array("a dog"), r"one column of text, got shape \(\)"),
        (Series(["a", np.nan]), "sentence 1 is a float, not a string"),
        (b"a dog", "sentences are a bytes"),
        (7, "sentences are a int"),
    ],
)
def test_what_is_no_text(encoder, given, message):
    with pytest.raises(TypeError, match=message):
        encoder.encode(given)


def test_prompts(encoder):
    def after(prompt):
        return encoder.encode([prompt + text for text in TEXTS])

    np.testing.assert_array_equal(encoder.encode(TEXTS, prompt="fox "), after("fox "))
    np.testing.assert_array_equal(encoder.encode(TEXTS, prompt_name="query"), after("dog "))
    both = encoder.encode(TEXTS, prompt="fox ", prompt_name="query")
    np.testing.assert_array_equal(both, after("fox "))
    np.testing.assert_array_equal(encoder.encode_query(TEXTS), after("dog "))
    np.testing.assert_array_equal(encoder.encode_document(TEXTS), after(""))
    named = encoder.encode_document(TEXTS, prompt_name="passage")
    np.testing.assert_array_equal(named, after("cat "))
    np.testing.assert_array_equal(encoder.encode_query(TEXTS, prompt=""), after(""))
    assert np.abs(after("dog ") - after("cat ")).max() > 0.01
    with pytest.raises(ValueError, match="no prompt is called 'x'; this model has"):
        encoder.encode(TEXTS, prompt_name="x")
    settings = dataclasses.replace(encoder.settings, default_prompt_name="passage")
    default = encoder._but(settings=settings)
    np.testing.assert_array_equal(default.encode(TEXTS), after("cat "))
    np.testing.assert_array_equal(default.encode(TEXTS, prompt=""), after(""))


def test_truncated_dimensions(encoder):
    whole = encoder.encode(TEXTS)
    np.testing.assert_array_equal(encoder.encode(TEXTS, truncate_dim=5), whole[:, :5])
    unit = encoder.encode(TEXTS, truncate_dim=5, normalize_embeddings=True)
    expected = whole[:, :5] / np.linalg.norm(whole[:, :5], axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected, atol=1e-6)
    assert encoder.encode(TEXTS, truncate_dim=99).shape == (4, 32)
    short = encoder._but(settings=dataclasses.replace(encoder.settings, truncate_dim=5))
    np.testing.assert_array_equal(short.encode(TEXTS, truncate_dim=7), whole[:, :7])
    with pytest.raises(ValueError, match="truncate_dim is 0"):
        encoder.encode(TEXTS, truncate_dim=0)


def test_sentence_transformers_names_of_options(encoder, capsys):
    whole = encoder.encode(TEXTS)
    same = encoder.encode(
        TEXTS, normalize_embeddings=False, show_progress_bar=False, convert_to_numpy=True
    )
    np.testing.assert_array_equal(same, whole)
    with pytest.raises(TypeError, match="normalize and normalize_embeddings are the same option"):
        encoder.encode(TEXTS, normalize=True, normalize_embeddings=True)
    with pytest.raises(TypeError, match="show_progress and show_progress_bar are the same"):
        encoder.encode(TEXTS, show_progress=True, show_progress_bar=True)
    with pytest.raises(ValueError, match=r"convert_to_numpy is False; .* jax\.numpy\.asarray"):
        encoder.encode(TEXTS, convert_to_numpy=False)


@pytest.mark.parametrize("fitted", [False, True])
def test_it_pickles(encoder, fitted):
    encoder = encoder.fit(Whitening, TEXTS, k=2) if fitted else encoder
    payload = pickle.dumps(encoder)
    assert b"jax._src.array" not in payload
    again = pickle.loads(payload)
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert repr(again) == repr(encoder)


def test_its_repr(encoder, golden):
    path = str(golden / "tiny-bert")
    assert repr(encoder) == (
        f"SentenceEncoder(model={path!r}, pooling='mean', layers=3, transform=None, dimension=32, "
        "normalize=True, max_length=24, dtype='float32', devices='1 cpu')"
    )
    assert "transform='whitening', dimension=2" in repr(encoder.fit(Whitening, TEXTS, k=2))


def test_fit_is_on_the_embeddings_before_they_are_normalised(encoder):
    raw = encoder.encode(TEXTS, normalize=False)
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 0.1
    for transform, options in (
        (Whitening, {"k": 2}),
        (AllButTheTop, {"k": 1}),
        (Flow, {"config": FlowConfig(levels=1, depth=1, width=4), "epochs": 1, "batch_size": 2}),
    ):
        fitted = encoder.fit(transform, TEXTS, **options)
        assert type(fitted.transform) is transform
        expected = transform.fit(raw, **options)(raw)
        np.testing.assert_allclose(fitted.encode(TEXTS, normalize=False), expected, atol=1e-5)
        assert fitted.settings.normalize
    again = fitted.fit(Whitening, TEXTS, k=2)  # in place of the flow, not after it
    np.testing.assert_allclose(again.transform.mean, raw.mean(axis=0), atol=1e-5)
    with pytest.raises(TypeError, match="has nothing to fit"):
        encoder.fit(LayerNorm, TEXTS)


def test_a_flow_on_unit_rows_warns(encoder):
    config = FlowConfig(levels=1, depth=1, width=4)
    with pytest.warns(UserWarning, match=r"every embedding has length one.*encoder\.fit\(Flow"):
        Flow.fit(encoder.encode(TEXTS), config, epochs=0)


def test_what_has_no_order_or_is_a_table_is_refused(golden):
    tiny = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    table = {"text": ["a man", "a dog"]}
    for call in (tiny.encode, tiny.encode_stream, lambda x: tiny.fit(Whitening, x)):
        with pytest.raises(TypeError, match="are a dict; give one of its columns, a list of"):
            call(table)
        with pytest.raises(TypeError, match="are a set; give a list of strings"):
            call({"a man", "a dog"})
    assert tiny.encode(table["text"]).shape == tiny.encode(iter(table["text"])).shape


def test_a_generator_is_compared_with_itself(golden):
    tiny = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    once = (text for text in ["a man", "a dog"])
    found = tiny.similarity(once, once)
    np.testing.assert_allclose(found, tiny.similarity(["a man", "a dog"], ["a man", "a dog"]))
    assert tiny.similarity({"x": "a man"}.values(), ["a dog"]).shape == (1, 1)


def test_a_name_in_the_place_of_the_parts(golden):
    with pytest.raises(TypeError, match=r"by SentenceEncoder.from_pretrained\('minilm'\)"):
        SentenceEncoder("minilm")

    class Named(SentenceEncoder):
        def __init__(self, name):
            super().__init__(**SentenceEncoder.from_pretrained(name, pooling="mean")._parts())

    assert Named(str(golden / "tiny-bert")).encode("a dog").shape == (32,)
