"""Augmentations on sentences that can be checked by eye."""

import doctest
import functools
import sys
import types

import numpy as np
import pytest

from simcse_jax.data import augmentation
from simcse_jax.data.augmentation import (
    augmented_pairs,
    crop,
    delete_one_word,
    delete_words,
    mask_words,
    next_sentence_pairs,
    repeat_words,
    replace_synonym,
    wordnet_synonyms,
)
from simcse_jax.data.training_text import TrainingText

TEN = "zero one two three four five six seven eight nine"
BIG = {"big": ("large", "huge"), "dog": ("hound",)}
SHARED = {
    "crop": functools.partial(crop, share=0.3),
    "deletion": functools.partial(delete_words, share=0.3),
    "delete one": delete_one_word,
    "mask": functools.partial(mask_words, share=0.3),
    "synonym": functools.partial(replace_synonym, synonyms=BIG.get),
}


def seeds(n=50):
    return [np.random.default_rng(seed) for seed in range(n)]


def test_docstrings():
    assert doctest.testmod(augmentation).attempted == 6
    assert doctest.testmod(augmentation).failed == 0


def test_crop_keeps_a_span():
    """30 % of ten words are three: seven words in a row are left, from any of four places."""
    spans = {" ".join(TEN.split()[start : start + 7]) for start in range(4)}
    assert {crop(TEN, rng, 0.3) for rng in seeds()} == spans
    assert crop(TEN, np.random.default_rng(0), 0) == TEN
    assert crop(TEN, np.random.default_rng(0), 1) in TEN.split()  # one word is left


def test_deletion_keeps_the_order():
    results = {delete_words(TEN, rng, 0.3) for rng in seeds()}
    assert len(results) > 20
    for result in results:
        words = result.split()
        assert len(words) == 7
        assert words == sorted(set(words), key=TEN.split().index)


def test_repetition_says_words_twice_in_place():
    """With share 0.32 none to three of ten words, each number as likely; with less none to two."""
    numbers = []
    for rng in seeds(400):
        words = repeat_words(TEN, rng, 0.32).split()
        assert list(dict.fromkeys(words)) == TEN.split()
        assert words == sorted(words, key=TEN.split().index)
        assert max(map(words.count, words)) <= 2
        numbers.append(len(words) - 10)
    assert np.bincount(numbers) == pytest.approx([100] * 4, abs=30)
    assert {len(repeat_words(TEN, rng, 0.0).split()) for rng in seeds()} == {10, 11, 12}
    assert {repeat_words("word", rng) for rng in seeds()} == {"word", "word word"}
    for sentence in ("", " "):
        assert repeat_words(sentence, seeds(1)[0]) == sentence


def test_delete_one():
    thirds = {"b c", "a c", "a b"}
    assert {delete_one_word("a b c", rng) for rng in seeds()} == thirds


def test_mask_takes_whole_words():
    """15 % of ten words are 1.5, rounded up: two masks."""
    for rng in seeds():
        words = mask_words(TEN, rng).split()
        assert words.count("[MASK]") == 2
        assert all(w in (o, "[MASK]") for w, o in zip(words, TEN.split(), strict=True))
    assert mask_words("don't stop", seeds(1)[0], 1, "<mask>") == "<mask> <mask>"


@pytest.mark.parametrize(
    ("words", "share", "gone"),
    [(10, 0.05, 1), (10, 0.04, 0), (4, 0.1, 0), (5, 0.1, 1), (10, 0.15, 2), (20, 0.15, 3)],
)
def test_rounding(words, share, gone):
    sentence = " ".join("abcdefghijklmnopqrst"[:words])
    assert len(delete_words(sentence, seeds(1)[0], share).split()) == words - gone
    assert len(crop(sentence, seeds(1)[0], share).split()) == words - gone
    assert mask_words(sentence, seeds(1)[0], share).split().count("[MASK]") == gone


def test_synonym_keeps_capital_and_punctuation():
    results = {replace_synonym('"Big" trees, (a dog).', rng, BIG.get) for rng in seeds()}
    assert results == {
        '"Large" trees, (a dog).',
        '"Huge" trees, (a dog).',
        '"Big" trees, (a hound).',
    }
    assert replace_synonym("nothing  known - here", seeds(1)[0], BIG.get) == "nothing  known - here"


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("sentence", ["", " ", "word", " word "])
def test_short_sentences_are_left_alone(name, sentence):
    assert SHARED[name](sentence, seeds(1)[0]) == sentence


@pytest.mark.parametrize("name", [*SHARED, "repetition"])
def test_rows_depend_on_seed_and_number_alone(name):
    text = TrainingText((("a big dog sat on the mat today ok", TEN, "a big dog", ""),))
    change = {**SHARED, "repetition": repeat_words}[name]
    pairs = augmented_pairs(text, change, seed=3)
    assert pairs.columns[0] == text.columns[0]
    assert pairs.columns == augmented_pairs(text, change, seed=3).columns
    # other rows before and after change nothing
    other = TrainingText((("x y z", TEN, "x"),))
    assert augmented_pairs(other, change, seed=3).columns[1][1] == pairs.columns[1][1]
    many = {augmented_pairs(text, change, seed).columns[1][0] for seed in range(20)}
    assert len(many) > 1


def test_equal_sentences_in_different_rows_differ():
    text = TrainingText(((TEN,) * 30,))
    pairs = augmented_pairs(text, SHARED["deletion"], seed=0)
    assert len(set(pairs.columns[1])) > 10
    assert "30 pairs" in pairs.description
    assert " 0 of which it leaves as they are" in pairs.description


def test_next_sentence():
    documents = [["a", "b", "c"], ["alone"], ["d", "e"]]
    pairs = next_sentence_pairs(documents)
    assert pairs.rows(range(3)) == [("a", "b"), ("b", "c"), ("d", "e")]
    wide = [
        next_sentence_pairs(documents, window=3, seed=seed).rows(range(3)) for seed in range(20)
    ]
    assert {rows[0] for rows in wide} == {("a", "b"), ("a", "c")}
    assert {rows[1] for rows in wide} == {("b", "c")}  # no other is left
    assert {rows[2] for rows in wide} == {("d", "e")}


def fake_nltk(monkeypatch, loaded=True):
    """WordNet as nltk shows it, with one word in it."""

    def ensure_loaded():
        if not loaded:
            raise LookupError("Resource wordnet not found.")

    class Synset:
        def __init__(self, *names):
            self.names = names

        def lemma_names(self):
            return list(self.names)

    synsets = {"dog": [Synset("dog", "domestic_dog"), Synset("frank", "Dog", "hot_dog")]}
    wordnet = types.SimpleNamespace(
        ensure_loaded=ensure_loaded, synsets=lambda word: synsets.get(word, [])
    )
    monkeypatch.setitem(sys.modules, "nltk", types.ModuleType("nltk"))
    corpus = types.ModuleType("nltk.corpus")
    corpus.wordnet = wordnet
    monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)


def test_wordnet(monkeypatch):
    fake_nltk(monkeypatch)
    synonyms = wordnet_synonyms()
    assert synonyms("dog") == ("domestic dog", "frank", "hot dog")
    assert synonyms("cat") == synonyms("") == ()
    assert replace_synonym("Dog.", seeds(1)[0], synonyms) in ("Domestic dog.", "Frank.", "Hot dog.")


def test_wordnet_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(FileNotFoundError, match="`pip install nltk`"):
        wordnet_synonyms()
    fake_nltk(monkeypatch, loaded=False)
    with pytest.raises(FileNotFoundError, match=r"`python -m nltk\.downloader wordnet`"):
        wordnet_synonyms()


def test_bad_input():
    rng = np.random.default_rng(0)
    for function in (crop, delete_words, mask_words):
        with pytest.raises(ValueError, match=r"share is 10; it must be at least 0 and at most 1"):
            function(TEN, rng, 10)
    text = TrainingText((("a",), ("b",)))
    with pytest.raises(ValueError, match="the text has 2"):
        augmented_pairs(text, delete_one_word, 0)
    with pytest.raises(ValueError, match="seed is -1"):
        augmented_pairs(TrainingText((("a",),)), delete_one_word, -1)
    with pytest.raises(ValueError, match="window is 0"):
        next_sentence_pairs([["a", "b"]], window=0)
    with pytest.raises(ValueError, match="none of 2 documents has two sentences"):
        next_sentence_pairs([["a"], []])
    with pytest.raises(ValueError, match="seed is -1"):
        next_sentence_pairs([["a", "b"]], seed=-1)
