"""What is said to wrong arguments: one sentence with name, value, and what would be right."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import numbers
import os
import re
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Real

from simcse_jax.arrays import AnyArray

T = TypeVar("T")


def quoted(value: object, most: int = 60) -> str:
    """Return what is to be quoted in an error, cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 2]}…{text[-1]}"


def one_line(text: str) -> str:
    """Return a text with line breaks, control characters and halves of characters escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def is_unicode(text: str) -> bool:
    """Tell whether UTF-8 can hold a text: whether it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question for the name that is most like an unknown one; "" where none is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def levels_to_caller() -> int:
    """Return the ``stacklevel`` with which a warning points at the code that called the library."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _WRAPPERS.search(frame.f_code.co_filename):
        frame = frame.f_back
    while frame.f_back is not None and _OWN_FRAMES.search(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    return level


# Of those that check signatures in the tests.
_WRAPPERS = re.compile("/jaxtyping/|/beartype/|^<")
_OWN_FRAMES = re.compile(rf"^{re.escape(str(Path(__file__).parent))}/|{_WRAPPERS.pattern}")


def listed(names: Iterable[str], most: int = 200) -> str:
    """Return names for an error, on one line, cut where they are long."""
    text = one_line(", ".join(names)[: most + 1])
    return text if len(text) <= most else f"{text[: most - 1]}…"


def counted(number: float, thing: str) -> str:
    """Return a number of things, of which one is no plural: 1 step, 1,000 steps."""
    text = f"{int(number):,}" if number == int(number) else f"{number:g}"
    return f"{text} {thing}{'' if number == 1 else 's'}"


def first_twice(items: Sequence[T]) -> T | None:
    """Return the first item that is there more than once, or None.

    >>> first_twice(["a", "b", "a"])
    'a'
    """
    return next((item for item in items if items.count(item) > 1), None)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, cut where it is long, or else its class."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def check_choice(name: str, value: object, known: Iterable[str]) -> None:
    """Raise ValueError for a value that is none of the known ones."""
    known = tuple(known)
    if not isinstance(value, str) or value not in known:
        raise _wrong(name, value, f"one of {', '.join(known)}")


# JAX and NumPy hold no whole number beyond it.
LARGEST = 2**63 - 1
# The least and the largest of float32's positive numbers.
_FLOAT32_TINY, _FLOAT32_MAX = (
    float(getattr(np.finfo(np.float32), name)) for name in ("tiny", "max")
)


def check_count(name: str, value: object, least: int = 1, most: float = LARGEST) -> None:
    """Raise ValueError for what is no whole number, or below the least, or above the most."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise _wrong(name, value, "a whole number")
    if value < least:
        raise _wrong(name, value, f"at least {least}")
    if int(value) > most:
        raise _wrong(name, value, f"at most {most}")


def check_positive(name: str, value: object, *, finite: bool = False) -> None:
    """Raise ValueError for what is no number above 0; infinity is one unless it must be finite."""
    number = _float32_number(name, value)
    if finite and number == math.inf:
        raise _wrong(name, value, "positive and finite")
    if not number > 0:
        raise _wrong(name, value, "positive")


def check_at_least(name: str, value: object, least: float) -> None:
    """Raise ValueError for what is no finite number from the least on."""
    if not least <= _float32_number(name, value) < math.inf:
        raise _wrong(
            name, value, f"at least {least}" + (" and finite" if value == math.inf else "")
        )


def check_finite(name: str, value: object) -> None:
    """Raise ValueError for what is no finite number."""
    if not math.isfinite(_number(name, value)):
        raise _wrong(name, value, "finite")


def check_between(name: str, value: object, low: float, high: float, ends: str = "[]") -> None:
    """Raise ValueError for what is no number between two others.

    Args:
        name: of the argument.
        value: of the argument.
        low: the lower end.
        high: the upper end.
        ends: which ends belong to it: "[]" both, "(]" the upper, "[)" the lower, "()" neither.
    """
    number = _float32_number(name, value)
    above = number >= low if ends[0] == "[" else number > low
    below = number <= high if ends[1] == "]" else number < high
    if not (above and below):
        lower = f"at least {low}" if ends[0] == "[" else f"above {low}"
        raise _wrong(name, value, f"{lower} and {'at most' if ends[1] == ']' else 'below'} {high}")


def check_seed(name: str, value: object) -> None:
    """Raise ValueError for what is no whole number of 32 bits."""
    check_count(name, value, 0, math.inf)
    if value >= 2**32:  # type: ignore[operator]
        raise _wrong(name, value, "at least 0 and below 2**32")


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise ValueError for seeds that are none, or of which one is there twice."""
    for seed in seeds:
        check_seed("seeds", seed)
    if (twice := first_twice(seeds)) is not None:
        raise ValueError(f"seeds has {twice} more than once; name each once")


def check_types(config: Any) -> None:
    """Raise ValueError for a field of a dataclass that is not of the type it is annotated with."""
    kind: Any = type(config)
    for name, hint in _hints(kind).items():
        value = getattr(config, name)
        check_type(name, value, hint)
        if hint is float:
            _float32_number(name, value)


def check_type(name: str, value: object, hint: Any) -> None:
    """Raise ValueError for a value that is not of a type, as a field is annotated with it.

    NumPy's numbers are numbers; a bool is none.
    """
    if not is_of(hint, value):
        raise _wrong(name, value, _in_words(hint))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


_TYPES: dict[Any, tuple[Any, str]] = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    bool: (bool | np.bool_, "true or false"),
    str: (str, "a text"),
    Path: (os.PathLike, "a path"),
}


def is_of(hint: Any, value: object) -> bool:
    """Tell whether a value is of a type, as a field is annotated with it; see `check_type`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(is_of(arg, value) for arg in args)
    if origin is typing.Literal:
        return isinstance(value, str) and value in args
    if origin is tuple:
        return isinstance(value, tuple) and all(is_of(args[0], item) for item in value)
    if hint is type(None):
        return value is None
    if hint in (int, float) and isinstance(value, bool):
        return False
    kind = _TYPES[hint][0] if hint in _TYPES else hint
    return not isinstance(kind, type | types.UnionType) or isinstance(value, kind)


def _in_words(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_in_words(arg) for arg in args)
    if origin is typing.Literal:
        return f"one of {', '.join(args)}"
    if origin is tuple:
        return f"a tuple, each of it {_in_words(args[0])}"
    if hint is type(None):
        return "None"
    return _TYPES[hint][1] if hint in _TYPES else f"a {getattr(hint, '__name__', hint)}"


def check_array(name: str, x: Any, ndim: int, *, whole: bool = False) -> AnyArray:
    """Return an argument as an array; neither copied nor converted if it is one of this machine.

    Args:
        name: of the argument.
        x: an array of NumPy or JAX of any real numbers, or lists of numbers.
        ndim: how many axes it must have.
        whole: only whole numbers will do.

    Raises:
        ValueError: it has other axes or rows of different lengths, or holds something else.
    """
    x = _numbers(name, x, "an array", whole=whole)
    if x.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {tuple(x.shape)}")
    return x


def check_classes(name: str, labels: Any, classes: int, ignored: int | None = None) -> None:
    """Raise ValueError for a label that is no class, where the labels are known: not in a jit.

    Args:
        name: of the argument.
        labels: whole numbers.
        classes: how many there are, counted from 0.
        ignored: a number that stands for no class.
    """
    if classes < 1:
        raise ValueError(f"{name} need classes, and the logits have none")
    if isinstance(labels, jax.core.Tracer):
        return
    known = np.asarray(labels)
    wrong = known[((known < 0) | (known >= classes)) & (known != ignored)]
    if wrong.size:
        raise ValueError(f"{name} must be from 0 to {classes - 1}, and one is {wrong[0]}")


def check_matrix(name: str, x: Any, *, rows: int = 0) -> Real[AnyArray, "n D"]:
    """Return vectors, one a row, as an array; neither copied nor converted if they are one.

    Args:
        name: of the argument.
        x: an array of NumPy or JAX of any real numbers, or lists of numbers.
        rows: how many there must be at least.

    Raises:
        ValueError: it is no matrix, holds something else than real numbers, or has too few rows.
    """
    x = _numbers(name, x, "a matrix [n, D]")
    if x.ndim != 2:
        raise ValueError(f"{name} must be a matrix [n, D], got shape {x.shape}")
    if len(x) < rows:
        raise ValueError(f"{name} must have at least {counted(rows, 'row')}, got shape {x.shape}")
    return x


def check_unmasked(name: str, x: object) -> None:
    """Raise ValueError for a masked array that has masked entries, which are no numbers."""
    if np.ma.is_masked(x):
        raise ValueError(f"{name} has masked entries; fill them, or leave their rows out")


def check_finite_rows(name: str, x: Real[np.ndarray, "n D"], first: int = 0) -> None:
    """Raise ValueError where a number of a matrix is not finite.

    Args:
        name: of the argument.
        x: the matrix, or rows of it.
        first: the number of the first row.
    """
    # One pass that does not copy: the sum is finite unless a value is not, or it overflows.
    with np.errstate(all="ignore"):
        if np.isfinite(x.sum()):
            return
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        rows = ", ".join(str(first + i) for i in bad[:5]) + (", …" if bad.size > 5 else "")
        raise ValueError(
            f"{name} must be finite; {f'row {rows} is' if bad.size == 1 else f'rows {rows} are'} "
            "not"
        )


def _numbers(name: str, x: Any, shape: str, *, whole: bool = False) -> AnyArray:
    """Return an argument as an array of real or whole numbers; a JAX array stays one."""
    check_unmasked(name, x)
    if not isinstance(x, jax.Array):
        try:
            x = np.asarray(x)
        except ValueError:
            raise ValueError(f"{name} must be {shape}; its rows are of different lengths") from None
        x = x.astype(x.dtype.newbyteorder("="), copy=False)  # JAX knows no other order
    kinds = (jnp.integer,) if whole else (jnp.floating, jnp.integer)
    if not any(jnp.issubdtype(x.dtype, kind) for kind in kinds):
        raise ValueError(f"{name} must be {'whole' if whole else 'real'} numbers, not {x.dtype}")
    return x


def _number(name: str, value: object) -> float:
    # NaN is left to the comparisons, none of which holds for it.
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise _wrong(name, value, "a number")
    if isinstance(value, numbers.Integral) and abs(int(value)) > LARGEST:
        raise _wrong(name, value, "a number of 64 bits")
    return float(value)


def _float32_number(name: str, value: object) -> float:
    """Return a number that float32 can hold: another would be 0 or infinite once it is compiled."""
    number = _number(name, value)
    if math.isfinite(number) and number != 0 and not _FLOAT32_TINY <= abs(number) <= _FLOAT32_MAX:
        raise _wrong(name, value, "a number that float32 holds")
    return number


def _wrong(name: str, value: object, wanted: str) -> ValueError:
    return ValueError(f"{name} is {quoted(value)}; it must be {wanted}")
