"""Packages that only some of the library needs, and what is said where one is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtra(ModuleNotFoundError):
    """A package of an extra is not installed; the message has the command that brings it."""


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Name the extra that brings a package where an import inside fails for the lack of it.

    Args:
        extra: a name of ``[options.extras_require]`` in ``setup.cfg``.

    Raises:
        MissingExtra: a package is not installed.
    """
    try:
        yield
    except MissingExtra:
        raise
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f'{error.name} is not installed; `pip install "simcse_jax[{extra}]"` brings it',
            name=error.name,
        ) from error
