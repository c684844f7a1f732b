"""Sentences to token ids, with the Rust tokenizers of Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers


class Tokenizer:
    """A model folder's tokenizer: one sentence in, its ids out, special tokens included.

    Attributes:
        pad_id, mask_id: ids of the padding and mask tokens; None where there is none.
    """

    def __init__(self, backend: tokenizers.Tokenizer, lower_case: bool = False):
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.lower_case = lower_case
        self.pad_id = self._first("[PAD]", "<pad>")
        self.mask_id = self._first("[MASK]", "<mask>")

    def _first(self, *tokens: str) -> int | None:
        ids = [self.backend.token_to_id(t) for t in tokens]
        return next((i for i in ids if i is not None), None)

    @classmethod
    def from_folder(cls, folder: Path, lower_case: bool = False) -> Tokenizer:
        """Read ``tokenizer.json``, or build the tokenizer from a vocabulary by transformers.

        Raises:
            FileNotFoundError: the folder has neither.
        """
        path = Path(folder) / "tokenizer.json"
        if path.exists():
            # Straight from the file: importing transformers costs seconds at the start.
            return cls(tokenizers.Tokenizer.from_file(str(path)), lower_case)
        if not any((Path(folder) / name).exists() for name in ("vocab.txt", "vocab.json")):
            raise FileNotFoundError(f"{folder} has no tokenizer: tokenizer.json is missing")
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(folder).backend_tokenizer, lower_case)

    @property
    def vocab_size(self) -> int:
        """Return the number of token ids."""
        return self.backend.get_vocab_size()

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
        """
        if self.lower_case:
            sentences = [s.lower() for s in sentences]
        encodings = self.backend.encode_batch_fast(list(sentences))
        ids = [np.asarray(e.ids, np.int32) for e in encodings]
        truncated = 0
        if max_length is not None:
            for i, sequence in enumerate(ids):
                if len(sequence) > max_length:
                    ids[i] = np.append(sequence[: max_length - 1], sequence[-1])
                    truncated += 1
        return ids, truncated
