"""Sentences to token ids, with the Rust tokenizers of Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from simcse_jax.checks import first_line, is_unicode, quoted
from simcse_jax.extras import needs
from simcse_jax.io import check_is_file, is_there, read_object


class Tokenizer:
    """A model folder's tokenizer: one sentence in, its ids out, special tokens included.

    Attributes:
        mask_id: the id of the mask token; None where there is none.
    """

    def __init__(self, backend: tokenizers.Tokenizer, lower_case: bool = False):
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.lower_case = lower_case
        ids = map(backend.token_to_id, ("[MASK]", "<mask>"))
        self.mask_id = next((i for i in ids if i is not None), None)

    @classmethod
    def from_folder(cls, folder: Path, lower_case: bool = False) -> Tokenizer:
        """Read ``tokenizer.json``, or build the tokenizer from a vocabulary by transformers.

        Raises:
            FileNotFoundError: the folder has neither.
            OSError: ``tokenizer.json`` is no file.
            ValueError: they are damaged, or ``tokenizer_config.json`` contradicts them.
        """
        path = Path(folder) / "tokenizer.json"
        if not is_there(path):
            if not any((Path(folder) / name).is_file() for name in ("vocab.txt", "vocab.json")):
                raise FileNotFoundError(f"{folder} has no tokenizer: tokenizer.json is missing")
            return cls(_built_backend(Path(folder)), lower_case)
        check_is_file(path)
        try:
            # Straight from the file: importing transformers costs seconds at the start.
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing more particular
            raise ValueError(f"{path} is not a tokenizer: {first_line(error)}") from error
        _check_parts(path)
        _check_normalizer(Path(folder), backend)
        return cls(backend, lower_case)

    @property
    def mask_token(self) -> str | None:
        """The mask token as it is written: ``[MASK]`` of BERT, ``<mask>`` of RoBERTa."""
        return None if self.mask_id is None else self.backend.id_to_token(self.mask_id)

    @property
    def vocab_size(self) -> int:
        """Return the number of token ids."""
        return self.backend.get_vocab_size()

    def largest_id(self) -> int:
        """Return the largest token id; -1 where there is none."""
        return max(self.backend.get_vocab().values(), default=-1)

    def special_ids(self) -> list[int]:
        """Return the ids of the special tokens ([CLS], [SEP], [PAD], …), which are never masked."""
        added = self.backend.get_added_tokens_decoder()
        return sorted(i for i, token in added.items() if token.special)

    def __call__(
        self, sentences: Sequence[str], max_length: int | None = None
    ) -> tuple[list[np.ndarray], int]:
        """Tokenise.

        Args:
            sentences: any strings; an empty one gives the special tokens alone.
            max_length: the longest result; longer ones lose tokens before the final special one.

        Returns:
            One int32 array a sentence, and how many were truncated.

        Raises:
            ValueError: the tokenizer is broken: it lacks its own [UNK], for one; or half of a
                surrogate pair, which is no text.
        """
        if self.lower_case:
            sentences = [s.lower() for s in sentences]
        try:
            encodings = self.backend.encode_batch_fast(list(sentences))
            ids = [np.asarray(e.ids, np.int32) for e in encodings]
        except Exception as error:  # tokenizers raises nothing more particular
            for sentence in sentences:
                if not is_unicode(sentence):
                    raise ValueError(
                        f"the sentence {quoted(sentence)} holds half of a surrogate pair, which is "
                        "no text; leave the sentence out, or mend it"
                    ) from None
            raise ValueError(f"the model's tokenizer does not work: {first_line(error)}") from error
        truncated = 0
        if max_length is not None:
            for i, sequence in enumerate(ids):
                if len(sequence) > max_length:
                    ids[i] = np.append(sequence[: max_length - 1], sequence[-1])
                    truncated += 1
        return ids, truncated


def _built_backend(folder: Path) -> tokenizers.Tokenizer:
    with needs("tokenizers"):
        from transformers import AutoTokenizer

    try:
        backend = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    except Exception as error:  # whatever it meets in the files
        raise ValueError(
            f"{folder} has no vocabulary that transformers reads: {first_line(error)}"
        ) from error
    if backend.get_vocab_size() <= len(backend.get_added_tokens_decoder()):
        # It had been looking for other files, and made a tokenizer of the special tokens alone.
        raise ValueError(f"{folder} has no vocabulary that transformers reads; give tokenizer.json")
    return backend


def _check_parts(path: Path) -> None:
    """Refuse lists where objects belong: ``["x"]`` would be taken for a part with one field."""
    raw = read_object(path)
    waiting = [(name, raw.get(name)) for name in ("model", *_SEQUENCES)]
    while waiting:
        name, part = waiting.pop()
        if isinstance(part, list):
            raise ValueError(
                f"{path} is not a tokenizer: its {name} is {quoted(part)}; it must be an object or "
                "null"
            )
        members = part.get(_SEQUENCES.get(name)) if isinstance(part, dict) else None
        if isinstance(members, list):
            waiting += [(name, member) for member in members]


# The parts of a tokenizer, and where one that is a sequence has its members.
_SEQUENCES = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}


def _check_normalizer(folder: Path, backend: tokenizers.Tokenizer) -> None:
    """Raise a ValueError where the other file says otherwise, which transformers obeys then."""
    path = folder / "tokenizer_config.json"
    normalizer = backend.normalizer
    if not is_there(path) or not isinstance(normalizer, tokenizers.normalizers.BertNormalizer):
        return
    raw = read_object(path)
    for key, name in (
        ("do_lower_case", "lowercase"),
        ("strip_accents", "strip_accents"),
        ("tokenize_chinese_chars", "handle_chinese_chars"),
    ):
        own = getattr(normalizer, name)
        if raw.get(key, own) != own:
            raise ValueError(
                f"{path}: {key} is {quoted(raw[key])}, and tokenizer.json says "
                f"{quoted(own)}; make them agree"
            )
