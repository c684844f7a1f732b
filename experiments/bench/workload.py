"""What the benchmarks work on, the same for every library: sentences, batches, a head's weights.

Imports stand inside the functions, since the process of another library should load little else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

TEMPERATURE = 0.05


def benchmark_sentences(data: Path, number: int | None = None) -> tuple[list[str], str]:
    """Return the sentences that are encoded, and what they are.

    Args:
        data: SentEval's folder, of which STS-B's test set is taken, or a file of sentences; without
            either the embedded Wikipedia's first 3,000.
        number: only the first so many.
    """
    if data.is_dir():
        from simcse_jax.data.senteval import read_stsb

        pairs = read_stsb(data, "test")
        return [*pairs.sentences1, *pairs.sentences2][:number], "STS-B test"
    if data.is_file():
        from simcse_jax.data.training_text import read_sentences

        return read_sentences(data)[:number], data.name
    from simcse_jax.data.wikipedia import embedded_wikipedia, sentences

    return sentences(embedded_wikipedia())[:3000][:number], "embedded Wikipedia, the first 3,000"


def training_batches(
    train_file: Path,
    batch_size: int,
    *,
    max_length: int = 32,
    folder: Path | None = None,
    shards: int = 1,
    views: int = 2,
):
    """Return the batches that all libraries train on.

    Args:
        train_file: sentences; without the file the embedded Wikipedia is taken.
        batch_size: sentences of a batch.
        max_length: of a sentence in tokens.
        folder: the model whose tokenizer is taken; default MiniLM's.
        shards: the devices that share a batch.
        views: how often each sentence is seen.
    """
    from simcse_jax.data.batches import TrainingBatches
    from simcse_jax.data.embedded import minilm_folder
    from simcse_jax.data.tokenizer import Tokenizer
    from simcse_jax.data.training_text import TrainingText, read_sentences
    from simcse_jax.data.wikipedia import embedded_wikipedia, sentences

    text = read_sentences(train_file) if train_file.is_file() else sentences(embedded_wikipedia())
    return TrainingBatches(
        TrainingText((tuple(text),)),
        Tokenizer.from_folder(folder or minilm_folder()),
        batch_size,
        max_length=max_length,
        seed=0,
        views=views,
        shards=shards,
    )


def padded(sentences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids and attention mask of sentences, a row each, as other libraries take them.

    Args:
        sentences: the token ids of each.
    """
    length = max(map(len, sentences))
    ids = np.zeros((len(sentences), length), np.int64)
    mask = np.zeros_like(ids)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)] = sentence
        mask[row, : len(sentence)] = 1
    return ids, mask


def step_operations(lengths: Sequence[int], layers: int, hidden: int, intermediate: int) -> int:
    """Return the operations that a step needs of cls pooling: its products, a multiply-add as two.

    Those of the encoder, whose backward pass needs twice its forward pass; of the last layer only
    what the first token depends on. Padding, dropout, norms and the loss are not counted.

    Args:
        lengths: of every sentence, in tokens.
        layers: of the encoder.
        hidden: its width.
        intermediate: the width between its feed-forward's layers.
    """
    projections, feed_forward = 4 * hidden**2, 2 * hidden * intermediate
    forward = 0
    for length in lengths:
        attention = 2 * length * hidden  # of one token: scores, and the mean of the values
        forward += (layers - 1) * length * (projections + feed_forward + attention)
        forward += length * projections // 2  # keys and values of the last layer
        forward += projections // 2 + feed_forward + attention
    return 3 * 2 * forward


def head_weights(width: int) -> np.ndarray:
    """Return the weights from which every library's MLP head starts."""
    return np.random.default_rng(0).normal(0, 0.02, (width, width)).astype(np.float32)
