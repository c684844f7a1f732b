"""Positives by changing the text: what SimCSE's dropout is compared with (section 3, table 1).

Each augmentation is a pure function of a sentence and a numpy Generator; `augmented_pairs` makes
the training pairs of a whole text, row i with a generator of its own, drawn from the seed and i, so
that a row's positive depends neither on the other rows nor on their order.

    text = read_training_file("sentences.txt")
    pairs = augmented_pairs(text, functools.partial(crop, share=0.1), seed=42)

A word is what stands between white space, its punctuation included, and is kept or changed as a
whole (the authors, in SimCSE#231); the result's words are joined by single spaces. k % of n words
are `k n / 100` rounded to the nearest number, half up: the paper does not say, and with few words
that may be none. At least one word is left. A sentence without words comes back as it is. On top of
this the two views still have dropout masks of their own, as in the paper (SimCSE#259).

`next_sentence_pairs` is the other kind of table 2: a positive that follows in the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from simcse_jax.checks import check_between, check_count, counted
from simcse_jax.data.training_text import TrainingText

Augmentation = Callable[[str, np.random.Generator], str]
Synonyms = Callable[[str], Sequence[str]]


def crop(sentence: str, rng: np.random.Generator, share: float) -> str:
    """Keep a span of words, of 1 − share of the length, at a random place ("crop k %").

    >>> crop("one two three four five", np.random.default_rng(0), 0.4)
    'three four five'

    Raises:
        ValueError: share is not in [0, 1].
    """
    words = sentence.split()
    kept = len(words) - _number(len(words), share, spare=1)
    if kept == len(words):
        return sentence
    start = int(rng.integers(len(words) - kept + 1))
    return " ".join(words[start : start + kept])


def delete_words(sentence: str, rng: np.random.Generator, share: float) -> str:
    """Delete a share of the words, at random places ("word deletion k %").

    >>> delete_words("one two three four five", np.random.default_rng(0), 0.4)
    'one two four'

    Raises:
        ValueError: share is not in [0, 1].
    """
    words = sentence.split()
    return _without(sentence, words, rng, _number(len(words), share, spare=1))


def delete_one_word(sentence: str, rng: np.random.Generator) -> str:
    """Delete one word at random ("delete one word"); a single word is left alone.

    >>> delete_one_word("one two three", np.random.default_rng(0))
    'one two'
    """
    words = sentence.split()
    return _without(sentence, words, rng, min(1, max(len(words) - 1, 0)))


def repeat_words(sentence: str, rng: np.random.Generator, share: float = 0.32) -> str:
    """Say some words twice, at random places (ESimCSE, arXiv 2109.04380, section 3.1).

    With N words their number is drawn from 0 to the larger of 2 and ``share N``, rounded down,
    each as likely. So the two sentences of a positive pair differ in length, as those of negative
    pairs do. (The authors repeat the tokenizer's pieces of words; here words are, as everywhere in
    this module, and a word alone is said twice at most.)

    >>> repeat_words("one two three four five", np.random.default_rng(1))
    'one one two three four five five'

    Raises:
        ValueError: share is not in [0, 1].
    """
    check_between("share", share, 0, 1)
    words = sentence.split()
    most = min(max(2, int(share * len(words))), len(words))
    twice = set(rng.permutation(len(words))[: rng.integers(most + 1)].tolist())
    if not twice:
        return sentence
    return " ".join(f"{word} {word}" if i in twice else word for i, word in enumerate(words))


def mask_words(
    sentence: str, rng: np.random.Generator, share: float = 0.15, mask: str = "[MASK]"
) -> str:
    """Put a mask in the place of a share of the words, each as a whole ("MLM 15 %").

    In the paper BERT's masked-LM head then fills the masks in; that is a matter of a model, which
    the caller may apply to the result.

    >>> mask_words("one two three four five", np.random.default_rng(0), 0.4)
    'one two [MASK] four [MASK]'

    Args:
        sentence: Any.
        rng: Which words.
        share: Of the words.
        mask: The tokenizer's mask token: `[MASK]` for BERT, `<mask>` for RoBERTa.

    Raises:
        ValueError: share is not in [0, 1].
    """
    words = sentence.split()
    chosen = rng.permutation(len(words))[: _number(len(words), share)]
    if len(chosen) == 0:
        return sentence
    for place in chosen:
        words[place] = mask
    return " ".join(words)


def replace_synonym(sentence: str, rng: np.random.Generator, synonyms: Synonyms) -> str:
    """Replace one word that has a synonym by one of them, both at random.

    Punctuation around the word stays, and so does a capital at its beginning. A sentence without
    such a word comes back as it is. (The paper used nlpaug, which also looks at the part of
    speech.)

    >>> replace_synonym("A big dog!", np.random.default_rng(0), {"dog": ["hound"]}.get)
    'A big hound!'

    Args:
        sentence: Any.
        rng: Which word and which synonym.
        synonyms: From a lower-case word to its synonyms, in a fixed order; nothing or None where
            there are none. See `wordnet_synonyms`.
    """
    words = sentence.split()
    cores = [_core(word) for word in words]
    choices = [
        synonyms(word[slice(*core)].lower()) for word, core in zip(words, cores, strict=True)
    ]
    places = [i for i, choice in enumerate(choices) if choice]
    if not places:
        return sentence
    place = places[int(rng.integers(len(places)))]
    word, (start, stop) = words[place], cores[place]
    new = choices[place][int(rng.integers(len(choices[place])))]
    if word[start].isupper():
        new = new[:1].upper() + new[1:]
    words[place] = word[:start] + new + word[stop:]
    return " ".join(words)


def wordnet_synonyms() -> Synonyms:
    """Look synonyms up in WordNet, by nltk, which is not among the requirements.

    The lemmas of all synsets of a word, without the word itself, as WordNet spells them but for
    underscores (`hot_dog` becomes `hot dog`), sorted.

    Raises:
        FileNotFoundError: nltk or its WordNet corpus is not installed; the message has the command.
    """
    try:
        from nltk.corpus import wordnet
    except ImportError:
        raise FileNotFoundError(
            "synonyms come from WordNet by nltk, which is not installed: `pip install nltk`, then "
            "`python -m nltk.downloader wordnet`"
        ) from None
    try:
        wordnet.ensure_loaded()
    except LookupError:
        raise FileNotFoundError(
            "nltk has no WordNet corpus here: `python -m nltk.downloader wordnet`"
        ) from None

    known: dict[str, tuple[str, ...]] = {}

    def synonyms(word: str) -> tuple[str, ...]:
        if word not in known:
            lemmas = {
                lemma.replace("_", " ")
                for synset in (wordnet.synsets(word) if word else ())
                for lemma in synset.lemma_names()
            }
            known[word] = tuple(sorted(s for s in lemmas if s.lower() != word))
        return known[word]

    return synonyms


def augmented_pairs(text: TrainingText, augmentation: Augmentation, seed: int) -> TrainingText:
    """Pairs of a sentence and its augmentation, for training with the augmentation as positive.

    Args:
        text: One column of sentences.
        augmentation: Such as `delete_one_word`, or `functools.partial(crop, share=0.1)`.
        seed: From 0. Row i is augmented with `numpy.random.default_rng((seed, i))`.

    Raises:
        ValueError: text has more than one column, or the seed is negative.
    """
    if len(text.columns) != 1:
        raise ValueError(
            "positives are made of single sentences, and the text has "
            f"{len(text.columns)} columns: columns has to be 1 to train on the first; positives "
            "has to be 'same' to train on the text's own pairs"
        )
    check_count("seed", seed, 0)
    positives = tuple(
        augmentation(sentence, np.random.default_rng((seed, row)))
        for row, sentence in enumerate(text.columns[0])
    )
    changed = sum(a != b for a, b in zip(text.columns[0], positives, strict=True))
    return TrainingText(
        (text.columns[0], positives),
        f"{counted(len(text), 'pair')} of a sentence and its augmentation (seed {seed}), "
        f"{len(text) - changed:,} of which it leaves as they are",
    )


def next_sentence_pairs(
    documents: Sequence[Sequence[str]], window: int = 1, seed: int = 0
) -> TrainingText:
    """Pairs of a sentence and one that follows it ("next sentence", "next 3 sentences"; table 2).

    Args:
        documents: Sentences in reading order; no pair spans two documents. One document where
            nothing is known of them, such as the lines of a file whose order was kept.
        window: The positive is drawn from the next so many sentences, each as likely, or from those
            that are left at the end of a document.
        seed: From 0, of the draw: sentence i of document d has the generator of (seed, d, i).

    Returns:
        A pair for each sentence but the last of each document.

    Raises:
        ValueError: window below 1, a negative seed, or no document of two sentences.
    """
    check_count("window", window)
    check_count("seed", seed, 0)
    anchors: list[str] = []
    positives: list[str] = []
    for number, document in enumerate(documents):
        for i in range(len(document) - 1):
            ahead = min(window, len(document) - 1 - i)
            step = int(np.random.default_rng((seed, number, i)).integers(ahead)) if ahead > 1 else 0
            anchors.append(document[i])
            positives.append(document[i + 1 + step])
    if not anchors:
        raise ValueError(
            f"none of {len(documents)} documents has two sentences: a next sentence needs them"
        )
    which = "the next sentence" if window == 1 else f"one of the next {window} sentences"
    return TrainingText(
        (tuple(anchors), tuple(positives)),
        f"{counted(len(anchors), 'pair')} of a sentence and {which}",
    )


def _number(words: int, share: float, spare: int = 0) -> int:
    """A share of the words, rounded half up; so many are spared."""
    check_between("share", share, 0, 1)
    # 0.15 · 10 is a hair below 1.5 in floating point.
    number = math.floor(round(share * words, 9) + 0.5)
    return max(min(number, words - spare), 0)


def _without(sentence: str, words: list[str], rng: np.random.Generator, number: int) -> str:
    if number == 0:
        return sentence
    gone = set(rng.permutation(len(words))[:number].tolist())
    return " ".join(word for i, word in enumerate(words) if i not in gone)


def _core(word: str) -> tuple[int, int]:
    """Where the word begins and ends within its punctuation."""
    inside = [i for i, character in enumerate(word) if character.isalnum()]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)
