"""What parts of the library need beyond encoding, and what is said where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Extra = Literal[
    "train", "data", "parquet", "datasets", "wandb", "transfer", "tokenizers", "plots", "mteb"
]
_WHAT: dict[Extra, str] = {
    "train": "training, or fitting a flow,",
    "data": "reading Wikipedia and TensorFlow Datasets",
    "parquet": "reading or writing parquet",
    "datasets": "a data set of Hugging Face's, by its name or folder,",
    "wandb": "logging to Weights & Biases",
    "transfer": "a transfer task or an estimator of scikit-learn's kind",
    "tokenizers": "a tokenizer without tokenizer.json",
    "plots": "drawing",
    "mteb": "a model for mteb",
}


class MissingExtra(ImportError):
    """A package is not installed that this part of the library needs."""


@contextmanager
def needs(extra: Extra) -> Iterator[None]:
    """Import what an extra of ``setup.cfg`` brings.

    Raises:
        MissingExtra: a package of it is not installed; the message has the line for pip.

    Example:
        >>> with needs("train"):
        ...     import optax
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "simcse_jax":
            raise
        raise MissingExtra(
            f"{_WHAT[extra]} needs the package {error.name.partition('.')[0]}: "
            f"pip install 'simcse_jax[{extra}]'"
        ) from error
