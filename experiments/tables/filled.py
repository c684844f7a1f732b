"""Positives whose masked words a model's own masked-LM head has filled in ("MLM 15 %")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from simcse_jax import hub
from simcse_jax.data.augmentation import mask_words
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.models.batch import one_a_row
from simcse_jax.objectives.masked_lm import head_params, token_states, word_scores

# Longer sentences keep the words that a mask beyond this token stood for.
MAX_LENGTH = 128
ROWS = 64


def filled_positives(
    model: str, sentences: Sequence[str], share: float = 0.15, seed: int = 0
) -> list[str]:
    """Return sentences with a share of their words guessed from the others by a model.

    Each word is masked as a whole, by one mask, and becomes the likeliest token there that is no
    special one; all masks of a sentence are filled at once. SimCSE's paper (table 1) says that BERT
    fills them and no more.

    Args:
        model: a folder or hub id whose weights have a masked-LM head.
        sentences: any.
        share: of the words that are masked; row i draws them by (seed, i).
        seed: from 0.

    Raises:
        ValueError: the model has no masked-LM head, or its tokenizer no mask token.
    """
    folder = hub.encoder_folder(hub.find_model(model))
    config, params = hub.load_params(folder, hub.read_config(folder))
    tokenizer = Tokenizer.from_folder(folder, hub.read_settings(folder, "mean").do_lower_case)
    if "mlm" not in params:
        raise ValueError(f"{model} has no masked-LM head, which is to fill in masked words")
    if (mask := tokenizer.mask_token) is None:
        raise ValueError(f"the tokenizer of {model} has no mask token")
    masked = [
        mask_words(sentence, np.random.default_rng((seed, row)), share, mask)
        for row, sentence in enumerate(sentences)
    ]
    special = np.asarray(tokenizer.special_ids())

    @jax.jit
    def likeliest(ids: jax.Array, mask: jax.Array) -> jax.Array:
        states = token_states(config, params, one_a_row(ids, mask), None, jnp.float32)
        logits = word_scores(config, jnp.float32, head_params(params), states)
        return jnp.argmax(logits.at[..., special].set(-jnp.inf), -1)

    ids, _ = tokenizer(masked, min(MAX_LENGTH, config.max_length))
    guesses: dict[int, list[str]] = {}
    for rows, batch in tqdm(list(batches(ids)), desc="fill in masked words", unit=" batch"):
        found = np.asarray(likeliest(batch, batch >= 0))
        for row, tokens, guessed in zip(rows, batch, found, strict=False):
            places = np.flatnonzero(tokens == tokenizer.mask_id)
            guesses[row] = [word_of(tokenizer, int(guessed[place])) for place in places]
    return [
        filled(sentence, text, mask, guesses[row])
        for row, (sentence, text) in enumerate(zip(sentences, masked, strict=True))
    ]


def batches(ids: Sequence[np.ndarray]) -> Iterator[tuple[list[int], np.ndarray]]:
    """Return rows of like length, and their ids padded by -1 to few different shapes."""
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        length = -(-len(ids[rows[-1]]) // 16) * 16
        batch = np.full((ROWS, length), -1, np.int32)
        for place, row in enumerate(rows):
            batch[place, : len(ids[row])] = ids[row]
        yield rows, batch


def word_of(tokenizer: Tokenizer, token: int) -> str:
    """Return a token as a word: without the mark of one that continues or begins a word."""
    return tokenizer.backend.decode([token]).strip().removeprefix("##")


def filled(sentence: str, masked: str, mask: str, guesses: Sequence[str]) -> str:
    """Put guesses in the place of masks; where there are no more of them, the words stay."""
    left = iter(guesses)
    return " ".join(
        next(left, word) if there == mask else word
        for word, there in zip(sentence.split(), masked.split(), strict=True)
    )
