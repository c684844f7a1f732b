"""What happens to files: bytes, JSON and tensors that are no longer what they were."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

JSON_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, -1e-300),
    *(math.nan, math.inf, "", "x", "0", "nan", "\x00", "../x", [], [1], ["x"], [[[]]]),
    *({}, {"x": 1}, [None], "é" * 1000),
)


class Damage(NamedTuple):
    """A file's bytes after something happened to them.

    Attributes:
        about: what happened.
        content: the bytes.
        expected: "any" outcome is fair, or the file must read the "same" or be refused, or it must
            be "refused".
    """

    about: str
    content: bytes
    expected: str = "any"


def damage(content: bytes, random: Random, text: bool) -> Damage:
    """Do something to a file.

    Args:
        content: of the file.
        random: chooses what and where.
        text: whether it is text of lines in UTF-8, of which more is expected.
    """
    makers = [_truncated, _flipped, _overwritten, _without_a_piece, _doubled, _empty, _noise]
    if text:
        makers += [_lone_cr, _crlf, _with_mark, _utf16, _utf16_bare, _latin1, _control, _long_line]
        makers += [_nested, _separator, _blank_lines, _numbers, _escape, _quote, _zipped]
    return random.choice(makers)(content, random)


def _place(content: bytes, random: Random) -> int:
    return random.randrange(len(content) + 1)


def _truncated(content: bytes, random: Random) -> Damage:
    at = _place(content, random)
    return Damage(f"cut at byte {at} of {len(content)}", content[:at])


def _flipped(content: bytes, random: Random) -> Damage:
    changed = bytearray(content or b"x")
    places = [random.randrange(len(changed)) for _ in range(random.choice((1, 1, 1, 10)))]
    for place in places:
        changed[place] ^= 1 << random.randrange(8)
    return Damage(f"bits flipped at bytes {places}", bytes(changed))


def _overwritten(content: bytes, random: Random) -> Damage:
    at, length = _place(content, random), random.choice((1, 4, 64))
    new = random.choice((b"\x00" * length, b"\xff" * length, random.randbytes(length)))
    return Damage(
        f"{length} bytes overwritten at {at}", content[:at] + new + content[at + length :]
    )


def _without_a_piece(content: bytes, random: Random) -> Damage:
    first, last = sorted((_place(content, random), _place(content, random)))
    return Damage(f"bytes {first} to {last} removed", content[:first] + content[last:])


def _doubled(content: bytes, random: Random) -> Damage:
    first, last = sorted((_place(content, random), _place(content, random)))
    return Damage(f"bytes {first} to {last} doubled", content[:last] + content[first:])


def _empty(content: bytes, random: Random) -> Damage:
    new = random.choice((b"", b"\n", b" ", b"\n\n\n", b"\x00", b"\xef\xbb\xbf"))
    return Damage(f"nothing left but {new!r}", new)


def _noise(content: bytes, random: Random) -> Damage:
    return Damage("random bytes", random.randbytes(random.choice((1, 30, 1000))))


def _lone_cr(content: bytes, random: Random) -> Damage:
    return Damage("lines end with \\r", content.replace(b"\n", b"\r"), "same")


def _crlf(content: bytes, random: Random) -> Damage:
    return Damage("lines end with \\r\\n", content.replace(b"\n", b"\r\n"), "same")


def _with_mark(content: bytes, random: Random) -> Damage:
    return Damage("a byte order mark", b"\xef\xbb\xbf" + content, "same")


def _utf16(content: bytes, random: Random) -> Damage:
    return Damage("UTF-16", content.decode("utf-8", "replace").encode("utf-16"), "refused")


def _utf16_bare(content: bytes, random: Random) -> Damage:
    new = content.decode("utf-8", "replace").encode("utf-16-le")
    return Damage("UTF-16 without a mark", new, "refused")


def _latin1(content: bytes, random: Random) -> Damage:
    new = content.decode("utf-8", "replace").encode("latin-1", "replace")
    return Damage("Latin-1", new, "any" if _is_utf8(new) else "refused")


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _inserted(*pieces: bytes, about: str = "{new!r} at byte {at}") -> Callable[..., Damage]:
    """Return a damage that puts one of the pieces somewhere into a file."""

    def damage(content: bytes, random: Random) -> Damage:
        at = _place(content, random)
        new = random.choice(pieces)
        return Damage(about.format(new=new, at=at), content[:at] + new + content[at:])

    return damage


_control = _inserted(b"\x00", b"\x1b", b"\x07", b"\x0b", b"\x0c", b"\x1a", b"\x7f", b"\x85")
_separator = _inserted(
    *(c.encode() for c in ("\u2028", "\u0085", "\ufeff", "\u202e", "\ud7ff", "\U0010ffff"))
)
_long_line = _inserted(
    *(b"word " * 200_000, b"x" * 1_000_000, b"\t" * 100_000, b'"' * 100_000),
    about="a million bytes at {at}",
)
_escape = _inserted(*(rb"\ud83d", rb"\u0000", rb"\n", rb"\x", b"\\", b"&#0;", b"&x;", b"<!--"))
_quote = _inserted(b'"', b"'", b'""', b"\t", b",", b"{", b"]", b"<", b"&")


def _nested(content: bytes, random: Random) -> Damage:
    depth = random.choice((500, 5_000, 100_000))
    opening, closing = random.choice(((b"[", b"]"), (b'{"x":', b"}")))
    new = opening * depth + b"1" + closing * depth
    if random.random() < 0.5:
        return Damage(f"JSON {depth} deep in its place", new)
    lines = content.split(b"\n")
    lines[random.randrange(len(lines))] = new
    return Damage(f"a line of JSON {depth} deep", b"\n".join(lines))


def _blank_lines(content: bytes, random: Random) -> Damage:
    lines = content.split(b"\n")
    lines.insert(random.randrange(len(lines) + 1), random.choice((b"", b" ", b"\t", b"\t\t\t")))
    return Damage("a blank line", b"\n".join(lines))


def _numbers(content: bytes, random: Random) -> Damage:
    digits = [i for i, byte in enumerate(content) if 48 <= byte <= 57] or [0]
    at = random.choice(digits)
    new = random.choice(
        (b"nan", b"inf", b"-1", b"1e999", b"9" * 400, b"0x10", b"1_000", b"", b"1,5")
    )
    return Damage(f"{new[:20]!r} for a digit at {at}", content[:at] + new + content[at + 1 :])


def _zipped(content: bytes, random: Random) -> Damage:
    packed = gzip.compress(content, mtime=0)
    if random.random() < 0.5:
        packed = packed[: _place(packed, random)]
        return Damage("gzip, cut off", packed)
    return Damage("gzip", packed)


# ---------------------------------------------------------------------------------------------
# JSON
# ---------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """A change of a JSON value.

    Attributes:
        about: what was changed.
        value: the value now.
        retyped: whether a value was replaced by one of another type, None excepted, which is the
            same as nothing; whoever reads it must refuse it.
    """

    about: str
    value: Any
    retyped: bool = False


def change_json(value: Any, random: Random) -> Change:
    """Change something anywhere in a JSON value."""
    value = json.loads(json.dumps(value))
    nodes = list(_nodes(value))
    kind = random.choice(("replace", "replace", "replace", "delete", "rename", "add", "whole"))
    if kind == "whole" or not nodes:
        new = random.choice(JSON_VALUES)
        return Change(f"all of it is {_short(new)}", new, True)
    # Shallow places as often as the many deep ones of a tokenizer.
    depth = random.choice(sorted({len(path) for _, _, path in nodes}))
    parent, key, path = random.choice([node for node in nodes if len(node[2]) == depth])
    name = ".".join(map(str, path))
    if kind == "delete":
        del parent[key]
        return Change(f"{name} is gone", value)
    if kind == "rename" and isinstance(parent, dict):
        parent[f"{key}x"] = parent.pop(key)
        return Change(f"{name} is called {name}x", value)
    if kind == "add" and isinstance(parent, dict):
        parent["unheard_of"] = random.choice(JSON_VALUES)
        return Change(f"unheard_of is beside {name}", value)
    old, new = parent[key], random.choice(JSON_VALUES)
    parent[key] = new
    same = type(old) is type(new) or (type(old) is float and type(new) is int) or old is None
    return Change(f"{name} is {_short(new)}", value, not same and new is not None)


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Any, tuple[Any, ...]]]:
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in items:
        yield value, key, (*path, key)
        yield from _nodes(child, (*path, key))


def _short(value: Any) -> str:
    return repr(value)[:40]


# ---------------------------------------------------------------------------------------------
# Tensors
# ---------------------------------------------------------------------------------------------


def change_tensors(file: Path, random: Random) -> tuple[str, bool]:
    """Change a safetensors file so that it is still one.

    Returns:
        What was changed, and whether the numbers are now others, so that other vectors are fair.
    """
    tensors = load_file(file)
    name = random.choice(sorted(tensors))
    old = tensors[name]
    kind = random.choice(
        ("drop", "rename", "extra", "shape", "shape", "dtype", "dtype", "value", "value", "scale")
    )
    fair = False
    if kind == "drop":
        del tensors[name]
        about = f"no {name}"
    elif kind == "rename":
        new = random.choice((f"{name}x", name.replace("bert.", ""), f"model.{name}", name.upper()))
        tensors[new] = tensors.pop(name)
        about = f"{name} is called {new}"
    elif kind == "extra":
        tensors["unheard_of.weight"] = np.ones(random.choice(((), (3,), (2, 2), (0,))), np.float32)
        about = "unheard_of.weight beside the others"
    elif kind == "shape":
        shaped = [
            ("one row more", np.concatenate([old, old[:1]])),
            ("one row less", old[1:]),
            ("one dimension more", old[None]),
            ("one dimension less", old.reshape(-1)),
            ("no rows", old[:0]),
            ("a scalar", old.reshape(-1)[0]),
        ]
        if old.ndim == 2 and len(set(old.shape)) == 2:  # nobody can tell a square one's
            shaped.append(("its transpose", old.T))
        what, new = random.choice(shaped)
        tensors[name] = np.array(new, order="C")
        about = f"{name} is {what}"
    elif kind == "dtype":
        types = (np.float16, np.float64, np.int8, np.int32, np.int64, np.uint8, np.bool_)
        chosen = random.choice(types)
        with np.errstate(all="ignore"):
            tensors[name] = old.astype(chosen)
        about = f"{name} is {chosen.__name__}"
    elif kind == "value":
        value = random.choice((math.nan, math.inf, -math.inf))
        new = old.copy()
        new.reshape(-1)[random.randrange(new.size)] = value
        tensors[name] = new
        about = f"one number of {name} is {value}"
    else:
        factor = random.choice((0.0, 1e-30, 1e30, -1.0, 3e38))
        with np.errstate(all="ignore"):
            tensors[name] = old * np.float32(factor)
        about = f"{name} times {factor}"
        fair = True
    save_file({k: np.ascontiguousarray(v) if v.ndim else v for k, v in tensors.items()}, file)
    return about, fair
