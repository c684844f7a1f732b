"""What a loss is of the global batch, where each device has a share of it."""

from __future__ import annotations

from typing import TypeVar

from jax import lax

T = TypeVar("T")


def mean_over_shares(x: T, axis_name: str | None) -> T:
    """Return the mean over a mapped axis, whose devices have equal shares of the batch.

    Args:
        x: an array or a tree of them, this device's means over its share.
        axis_name: the mapped axis; None where the batch is whole, and ``x`` with it.
    """
    return x if axis_name is None else lax.pmean(x, axis_name)
