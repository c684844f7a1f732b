"""How far long work is: a bar at a terminal, elsewhere a line a minute."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

# Where standard error is no terminal, a line of progress is written so often.
LINE_SECONDS = 60


class Progress:
    """A bar where standard error is a terminal; elsewhere lines there, which the caller words.

    Attributes:
        done: how much is done, that of an earlier process which was resumed included.
    """

    def __init__(
        self, description: str, total: int | None, start: int, show: bool | None, **options: Any
    ):
        """Begin to show.

        Args:
            description: what is being done.
            total: of how much; None where that is not known.
            start: how much was done before.
            show: True for a bar whatever standard error is, False for nothing; None for a bar at a
                terminal and lines elsewhere.
            options: of the bar, as `tqdm` has them.
        """
        self._description = description
        self._lines = show is None and not sys.stderr.isatty()
        self._bar = tqdm(
            desc=description,
            total=total,
            initial=start,
            disable=self._lines or show is False,
            **options,
        )
        self.done = start
        self._said = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, more: int = 1) -> None:
        """Tell that so much more is done."""
        self._bar.update(more)
        self.done += more

    def show_values(self, values: dict[str, str]) -> None:
        """Show values beside the bar."""
        self._bar.set_postfix(values, refresh=False)

    @property
    def line_is_due(self) -> bool:
        """Tell whether a minute has passed since the last line, where lines are written."""
        return self._lines and time.monotonic() - self._said >= LINE_SECONDS

    def write_line(self, text: str) -> None:
        """Write a line, where lines are written; the next is due in a minute."""
        self._said = time.monotonic()
        if self._lines:
            print(f"{self._description}: {text}", file=sys.stderr, flush=True)
