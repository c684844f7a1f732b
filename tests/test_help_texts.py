"""What the command line's help says of a field."""

import dataclasses
import re
from pathlib import Path
from typing import Annotated, get_type_hints

import pytest
import tyro

from simcse_jax.cli import override
from simcse_jax.config import CONFIGS
from simcse_jax.help_texts import of_the_command_line, shown


@dataclasses.dataclass(frozen=True)
class Inner:
    """What lies within."""

    depth: int | None = None
    """How deep; a sentence
    'of two lines'; default: as deep as it goes."""


@dataclasses.dataclass
class Outer:
    """What is asked."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")]
    """Where it is read."""
    files: tuple[Path, ...] = ()
    """Files."""
    scale: bool | None = None
    """Scale; see max_steps; default: as the model says."""
    max_steps: int = 3
    """Steps."""
    secret: float = 1.0
    """Not told."""
    without_text: str = "x"
    inner: Annotated[Inner, tyro.conf.arg(name="")] = Inner(depth=7)


def help_of(kind, capsys, *args):
    with pytest.raises(SystemExit):
        tyro.cli(kind, prog="p", args=[*args, "--help"])
    return " ".join(re.sub(r"[│╭╰─╮╯]", " ", capsys.readouterr().out).split())


def test_a_field_is_told_in_whole_sentences(capsys):
    kind = shown(Outer, hidden=("secret",), options=("max_steps",))
    said = help_of(kind, capsys)
    assert "usage: p [-h] [OPTIONS] FILE" in said
    assert "--files PATH [PATH ...] Files. --" in said
    assert "--scale {True,False} Scale; see --max-steps; default: as the model says. --" in said
    assert "--max-steps INT Steps. (default: 3)" in said
    assert "--depth INT How deep; a sentence 'of two lines'; default: as deep as it goes." in said
    assert "--without-text TEXT (default: x)" in said
    assert "secret" not in said
    assert "None" not in said


def test_it_is_parsed_as_before():
    args = ["in.txt", "--files", "a", "b", "--scale", "False", "--depth", "2"]
    found = tyro.cli(shown(Outer), args=args)
    assert isinstance(found, Outer)
    assert isinstance(found.inner, Inner)
    files = (Path("a"), Path("b"))
    assert vars(found) | {"inner": None} == vars(Outer("in.txt", files, False)) | {"inner": None}
    assert found.inner.depth == 2
    assert tyro.cli(shown(Outer), args=["in.txt"]).inner.depth == 7
    assert tyro.cli(shown(Outer), args=["in.txt", "--depth", "None"]).inner.depth is None
    # The class itself is as it was.
    assert [field.type for field in dataclasses.fields(Outer)][1] == tuple[Path, ...]


def test_fields_are_called_as_they_are_typed():
    names = ("batch_size", "seed", "pooling")
    for text, expected in (
        ("batch_size is 0; mend batch_size.", "--batch-size is 0; mend --batch-size."),
        ("seed is -1, as the seed is", "--seed is -1, as the seed is"),
        ("settings: batch_size was 1; seed was 2", "settings: --batch-size was 1; --seed was 2"),
        ("a.csv has no column 'x'; it has seed, batch_size",) * 2,
        ("name one of those it has: batch_size, text",) * 2,
        ("seed, batch_size go together", "--seed, --batch-size go together"),
        ("a.json: pooling is 'x'; it", "a.json: --pooling is 'x'; it"),
    ):
        assert of_the_command_line(text, names) == expected
    for text in (
        *("runs/batch_size", "batch_size/a", "batch_size.json", "no column 'batch_size'"),
        *("in Python batch_size=3", "my_batch_size", "seeds is", "the seed is"),
    ):
        assert of_the_command_line(text, names) == text


def test_what_is_not_checked_is_parsed_whatever_it_is():
    @dataclasses.dataclass(frozen=True)
    class Checked:
        count: int = 1

        def __post_init__(self):
            if self.count < 1:
                raise ValueError("too few")

    assert tyro.cli(shown(Checked, checked=False), args=["--count", "0"]).count == 0
    with pytest.raises(SystemExit, match="2"):
        tyro.cli(shown(Checked), args=["--count", "0"])


@pytest.mark.parametrize("name", CONFIGS)
def test_what_everybody_sets_comes_first_and_every_option_has_a_text(name, capsys):
    with pytest.raises(SystemExit):
        override(CONFIGS[name], name, ["--help"])
    said = " ".join(re.sub(r"[│╭╰─╮╯]", " ", capsys.readouterr().out).split())
    places = [said.index(option) for option in ("--train-files", "--output-dir", "--model")]
    assert places == sorted(places)
    assert said.index("--model") < said.index("objective options")
    assert "{None}" not in said
    assert "(default: None)" not in said
    assert "(default: )" not in said
    for section in dataclasses.fields(CONFIGS[name]):
        kind = type(getattr(CONFIGS[name], section.name))
        for field, hint in get_type_hints(shown(kind), include_extras=True).items():
            texts = [getattr(mark, "help", None) for mark in getattr(hint, "__metadata__", ())]
            assert any(texts) == (field in {f.name for f in dataclasses.fields(kind)}), field
