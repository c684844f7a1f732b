"""What the benchmarks work on, the same for every library: sentences, batches, a head's weights.

Imports stand inside the functions, since the process of another library should load little else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

TEMPERATURE = 0.05


def benchmark_sentences(data: Path) -> tuple[list[str], str]:
    """Return the sentences that are encoded, and what they are.

    Args:
        data: SentEval's folder, of which STS-B's test set is taken; without it the embedded
            Wikipedia is.
    """
    if data.is_dir():
        from simcse_jax.data.senteval import read_stsb

        pairs = read_stsb(data, "test")
        return [*pairs.sentences1, *pairs.sentences2], "STS-B test"
    from simcse_jax.data.wikipedia import embedded_wikipedia, sentences

    return sentences(embedded_wikipedia())[:3000], "embedded Wikipedia, the first 3,000"


def training_batches(
    train_file: Path, batch_size: int, *, max_length: int = 32, folder: Path | None = None
):
    """Return the batches that all libraries train on.

    Args:
        train_file: sentences; without the file the embedded Wikipedia is taken.
        batch_size: sentences of a batch.
        max_length: of a sentence in tokens.
        folder: the model whose tokenizer is taken; default MiniLM's.
    """
    from simcse_jax.data.embedded import minilm_folder
    from simcse_jax.data.tokenizer import Tokenizer
    from simcse_jax.data.training_batches import TrainingBatches
    from simcse_jax.data.training_text import TrainingText, read_sentences
    from simcse_jax.data.wikipedia import embedded_wikipedia, sentences

    text = read_sentences(train_file) if train_file.is_file() else sentences(embedded_wikipedia())
    tokenizer = Tokenizer.from_folder(folder or minilm_folder())
    columns = TrainingText((tuple(text),))
    return TrainingBatches(columns, tokenizer, batch_size, max_length=max_length, seed=0)


def head_weights(width: int) -> np.ndarray:
    """Return the weights from which every library's MLP head starts."""
    return np.random.default_rng(0).normal(0, 0.02, (width, width)).astype(np.float32)
