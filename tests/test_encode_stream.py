"""A stream of sentences: what `encode` gives, a chunk at a time."""

import warnings

import numpy as np
import pytest
from tiny_data import SENTENCES

from simcse_jax import SentenceEncoder


@pytest.fixture(scope="module")
def tiny(golden):
    return SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")


def test_a_stream_gives_what_encode_gives(tiny):
    """To the bit where the chunks are the same; equal sentences are put back in their places."""
    texts = [*SENTENCES[:20], *SENTENCES[:5], "", *SENTENCES[15:]]
    chunks = list(tiny.encode_stream(iter(texts), chunk_size=16))
    assert [len(chunk) for chunk in chunks] == [16, 16, 16, 16, 7]
    np.testing.assert_allclose(np.concatenate(chunks), tiny.encode(texts), atol=1e-6)
    for start, chunk in zip(range(0, len(texts), 16), chunks, strict=True):
        np.testing.assert_array_equal(chunk, tiny.encode(texts[start : start + 16]))
    (whole,) = tiny.encode_stream(texts, prompt="the ", truncate_dim=8, normalize=True)
    expected = tiny.encode(texts, prompt="the ", truncate_dim=8, normalize=True)
    np.testing.assert_array_equal(whole, expected)
    assert list(tiny.encode_stream([])) == []


def test_no_more_is_taken_than_the_next_chunk(tiny):
    taken = 0

    def sentences():
        nonlocal taken
        while True:
            taken += 1
            yield "a dog" if taken % 2 else "a cat"

    done = []
    stream = tiny.encode_stream(sentences(), chunk_size=10, on_progress=done.append)
    assert taken == 0
    for number in range(1, 4):
        assert next(stream).shape == (10, 32)
        assert taken == 10 * (number + 1)
        assert sum(done) == 10 * number
    stream.close()


def test_what_a_stream_refuses(tiny, unchecked):
    with pytest.raises(TypeError, match="give a list of strings"):
        tiny.encode_stream("a dog")
    with pytest.raises(ValueError, match="chunk_size is 0; it must be at least 1"):
        tiny.encode_stream(["a dog"], chunk_size=0)
    with pytest.raises(ValueError, match="no prompt is called 'x'"):
        tiny.encode_stream(["a dog"], prompt_name="x")
    with pytest.raises(TypeError, match="sentence 2 is a int, not a string"):
        list(tiny.encode_stream(["a dog", "a cat", 3], chunk_size=2))


def test_long_sentences_are_told_of_once(tiny):
    texts = [*SENTENCES[:4], " ".join(["dog"] * 40), *SENTENCES[4:6]]
    message = "1 of 7 encoded sentences was cut to 24 tokens"
    with pytest.warns(UserWarning, match=message) as caught:
        list(tiny.encode_stream(texts, chunk_size=2))
    assert len(caught) == 1
    with pytest.raises(ValueError, match="1 sentence is longer than 24 tokens"):
        list(tiny.encode_stream(texts, chunk_size=2, on_truncation="error"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(tiny.encode_stream(texts, max_length=10))
