"""A case: something done to the library, and how what comes of it is judged.

Every case ends as one of three. *Right*: it went through, and its own check finds nothing wrong
with the result. *Clear error*: an exception that a caller can expect (`CLEAR`), of one line, that
the library raised itself or that names the file it is about. *Anything else*: every other
exception, a wrong result, a file of the user's that is gone; and, seen from outside by `workers`,
a hang and a crash.
"""

from __future__ import annotations

import ast
import functools
import linecache
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, NamedTuple

import simcse_jax

RIGHT, CLEAR, ELSE = "right", "clear error", "anything else"
VERDICTS = (RIGHT, CLEAR, ELSE)

EXPECTED = (ValueError, TypeError, OSError, FloatingPointError)
"""What a user may cause, by the library's own rule."""

LIBRARY = str(Path(simcse_jax.__file__).parent)
LONGEST_MESSAGE = 2000


class Case(NamedTuple):
    """Something to do.

    Attributes:
        about: one line that says what is done.
        run: does it.
        check: says what is wrong with the result; None where nothing is.
        after: says what is wrong afterwards, whether it went through or not.
        files: whether it is about files, so that an error must be the library's own or name one.
    """

    about: str
    run: Callable[[], Any]
    check: Callable[[Any], str | None]
    after: Callable[[], str | None] = lambda: None
    files: bool = True


Family = Callable[[Random, Path], Case]
"""Makes a case, given all chance that there is, and an empty folder for its files."""


class Outcome(NamedTuple):
    """What came of a case.

    Attributes:
        verdict: one of `VERDICTS`.
        about: what was done.
        detail: the exception and its message, or what is wrong with the result.
        where: the library's innermost line in the traceback.
    """

    verdict: str
    about: str = ""
    detail: str = ""
    where: str = ""


def judge(case: Case) -> Outcome:
    """Run a case and say how it ended."""
    try:
        result = run(case)
    except (Exception, SystemExit) as error:
        verdict = CLEAR if (reason := unclear(error, case.files)) is None else ELSE
        detail = described(error) + (f" [{reason}]" if reason else "")
        outcome = Outcome(verdict, case.about, detail, where(error))
    else:
        wrong = case.check(result)
        outcome = Outcome(RIGHT if wrong is None else ELSE, case.about, wrong or "")
    if outcome.verdict != ELSE and (wrong := case.after()) is not None:
        detail = f"{wrong}, after: {outcome.detail or 'it went through'}"
        outcome = Outcome(ELSE, case.about, detail, outcome.where)
    return outcome


def run(case: Case) -> Any:
    """Run a case, and once more where CPython confuses two threads that read source code.

    It is python/cpython#106905, and comes where a command is parsed while threads of an earlier
    case are still at work; nothing has been done by then.
    """
    try:
        return case.run()
    except SystemError as error:
        if "AST constructor recursion depth mismatch" not in str(error):
            raise
        return case.run()


def described(error: BaseException) -> str:
    """Return the class of an exception and the beginning of its message."""
    return f"{type(error).__name__}: {str(error)[:400]}"


def unclear(error: BaseException, files: bool) -> str | None:
    """Say why an exception is not a clear error; None where it is one."""
    text = str(error).strip()
    if not isinstance(error, EXPECTED):
        return "not an error that a caller expects"
    if "\n" in text:
        return "several lines"
    if not 10 <= len(text) <= LONGEST_MESSAGE:
        return "no sentence"
    if files and not (raised_by_library(error) or names_a_file(error)):
        return "does not say which file"
    return None


def names_a_file(error: BaseException) -> bool:
    """Tell whether a message has a path in it."""
    return getattr(error, "filename", None) is not None or os.sep in str(error)


def raised_by_library(error: BaseException) -> bool:
    """Tell whether a ``raise`` of the library's own made this exception."""
    last = innermost(error.__traceback__, lambda frame: True)
    return last is not None and in_library(last) and is_raise(*position(last))


def where(error: BaseException) -> str:
    """Return the library's innermost line in a traceback, as ``file:line``."""
    last = innermost(error.__traceback__, in_library)
    if last is None:
        return ""
    file, line = position(last)
    return f"{os.path.relpath(file, os.path.dirname(LIBRARY))}:{line}"


def innermost(
    trace: TracebackType | None, wanted: Callable[[TracebackType], bool]
) -> TracebackType | None:
    """Return the last entry of a traceback that is wanted."""
    found = None
    while trace is not None:
        if wanted(trace):
            found = trace
        trace = trace.tb_next
    return found


def in_library(trace: TracebackType) -> bool:
    return trace.tb_frame.f_code.co_filename.startswith(LIBRARY)


def position(trace: TracebackType) -> tuple[str, int]:
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno


def is_raise(file: str, line: int) -> bool:
    """Tell whether a line of a source file belongs to a ``raise`` statement."""
    return any(first <= line <= last for first, last in raises(file))


@functools.cache
def raises(file: str) -> list[tuple[int, int]]:
    tree = ast.parse("".join(linecache.getlines(file)))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return [(node.lineno, node.end_lineno or node.lineno) for node in found]


def show(case: Case) -> None:
    """Run a case and print its traceback, for who looks into one."""
    print(case.about)
    try:
        print("result:", case.run())
    except BaseException:
        traceback.print_exc()
