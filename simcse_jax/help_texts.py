"""How the command line shows the fields of a dataclass: whole sentences, plain values, defaults."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import tyro

_WORDS: dict[Any, str] = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


def shown(
    section: type,
    hidden: Iterable[str] = (),
    options: Iterable[str] = (),
    *,
    checked: bool = True,
) -> type:
    """Return a dataclass that is parsed as another is, and reads well in the help.

    The text of a field is what stands below it in the source, in one paragraph. ``None`` is neither
    offered as a value nor printed as a default, for which the text has words.

    Args:
        section: the dataclass; those among its fields that are annotated for tyro are shown
            likewise.
        hidden: the fields that the help leaves out.
        options: the names of fields of Python's that texts are to call as the command line does.
        checked: whether what is parsed is checked as the other is; where it is not, tyro has no
            errors to put into words of its own.
    """
    hints = get_type_hints(section, include_extras=True)
    texts = _texts(section)
    fields: list[Any] = []
    for field in dataclasses.fields(section):
        hint = hints[field.name]
        kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        value = dataclasses.field(
            default=field.default,
            default_factory=field.default_factory,
            init=field.init,
            kw_only=field.kw_only,
        )
        if marks and isinstance(kind, type) and dataclasses.is_dataclass(kind):
            kind = shown(kind, hidden, options)
            own = {} if field.default is dataclasses.MISSING else vars(field.default)
            value = dataclasses.field(default=kind(**own))
        elif field.name in hidden:
            marks.append(tyro.conf.Suppress)
        else:
            text = of_the_command_line(texts.get(field.name, ""), options)
            marks.append(_argument(text, kind, field.default, marks))
        for mark in marks:
            kind = Annotated[kind, mark]
        fields.append((field.name, kind, value))
    namespace: dict[str, Any] = {"__doc__": section.__doc__}
    if not checked:
        namespace["__post_init__"] = lambda self: None
    return dataclasses.make_dataclass(
        section.__name__,
        fields,
        bases=(section,),
        namespace=namespace,
        frozen=section.__dataclass_params__.frozen,  # type: ignore[attr-defined]
    )


def of_the_command_line(text: str, options: Iterable[str]) -> str:
    """Call fields as the command line does where a text names them: ``--batch-size``.

    A name of one word may be no field's there: it is one where a sentence or a part of one begins
    with "seed is", "seed was", "seeds has", or the text with "seed, ". Neither paths nor what is
    quoted or followed by "=" are changed.
    """
    said, has, columns = re.split(r"(it has:? |$)", text, maxsplit=1)
    if has:  # what follows are names of columns, which may be those of fields
        return of_the_command_line(said, options) + has + columns
    for name in options:
        option = f"--{name.replace('_', '-')}"
        if "_" in name:
            text = re.sub(rf"(?<![\w/.'\"-]){name}(?![\w/'\"=-]|\.\w)", option, text)
        else:
            text = re.sub(rf"(^|(?<=: )|(?<=; )){name}(?= (is|was|has) )", option, text)
            text = re.sub(rf"^{name}(?=, )", option, text)
    return text


def _argument(text: str, kind: Any, default: Any, marks: Iterable[Any]) -> Any:
    said = default is None or default == () or "default:" in text.lower()
    own = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), None)
    return tyro.conf.arg(
        help=text or None, metavar=own or _metavar(kind), help_behavior_hint="" if said else None
    )


def _metavar(kind: Any) -> str | None:
    """Return what stands for a value in the help; None for what tyro says of it."""
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [one for one in get_args(kind) if one is not type(None)]
        words = ["{True,False}" if one is bool else _metavar(one) for one in kinds]
        return " or ".join(word for word in words if word) if all(words) else None
    if get_origin(kind) is tuple and get_args(kind)[1:] == (...,):
        word = _WORDS.get(get_args(kind)[0])
        return word and f"{word} [{word} ...]"
    return _WORDS.get(kind)


def _texts(section: type) -> dict[str, str]:
    """Return the strings below the fields of a class and of those that it extends."""
    found: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        if not dataclasses.is_dataclass(kind):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(kind))
            (tree,) = ast.parse(source).body
        except (OSError, TypeError, SyntaxError):  # made without a file, or indented otherwise
            continue
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[field.target.id] = " ".join(after.value.value.split())
    return found
