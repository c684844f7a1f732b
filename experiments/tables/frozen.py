"""What the tables of frozen encoders share: embeddings made once, and transforms fitted to them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from simcse_jax import SentenceEncoder
from simcse_jax.data.senteval import StsTask
from simcse_jax.evaluation.sts import Encode, encode_once
from simcse_jax.transforms import FittedKind, Transform, fit


def load_frozen(
    model: str, pooling: str | None = None, num_layers: int | None = None
) -> SentenceEncoder:
    """Load an encoder that cuts no sentence, without a transform on top."""
    return SentenceEncoder.from_pretrained(
        model, pooling=pooling, num_layers=num_layers, max_length="longest"
    ).with_transform(None)


def encode_tasks(
    encoder: SentenceEncoder, tasks: Iterable[StsTask], text: Iterable[str] = ()
) -> Encode:
    """Encode the sentences of tasks and of a text, and return a function that looks them up."""
    sentences = [*(s for task in tasks for s in task.sentences), *text]
    return encode_once(functools.partial(encoder.encode, normalize=False), sentences)


def fit_method(
    method: FittedKind,
    encoder: SentenceEncoder,
    cached: Encode,
    sentences: list[str],
    *,
    k: int | None = None,
    flow: str = "code",
    epochs: int = 1,
    dropout: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Transform:
    """Fit a transform to the embeddings of sentences.

    Args:
        method: the transform.
        encoder: draws the embeddings where there is dropout.
        cached: looks the embeddings up where there is none.
        sentences: what it is fitted to.
        k: of whitening and all_but_the_top; None is their default.
        flow: the configuration of a flow, and the rest is of a flow too.
        epochs: passes over the embeddings.
        dropout: draw the embeddings anew in every epoch, with the encoder's dropout on.
        seed: of the flow and of the dropout.
        progress: show a progress bar.
    """
    if method != "flow":
        return fit(method, cached(sentences), **({} if k is None else {"k": k}))

    def draw(epoch: int) -> np.ndarray:
        return encoder.encode(
            sentences, normalize=False, dropout_seed=1000 * seed + epoch, show_progress=False
        )

    options: dict[str, Any] = {"config": flow, "epochs": epochs, "seed": seed}
    return fit(method, draw if dropout else cached(sentences), progress=progress, **options)


def transforms_of(
    fit_to: Callable[[list[str]], Transform], tasks: Sequence[StsTask], text: list[str] | None
) -> dict[str, Transform]:
    """Return each task's transform, fitted to its own sentences or, all one, to a text."""
    if text is None:
        return {task.name: fit_to(task.sentences) for task in tasks}
    return dict.fromkeys((task.name for task in tasks), fit_to(text))
