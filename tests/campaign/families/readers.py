"""Every reader, given files that are not what they should be."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from pyarrow import parquet

from simcse_jax.config import load_config
from simcse_jax.data.lee import lee_background, read_lee
from simcse_jax.data.nli import read_nli
from simcse_jax.data.pairs import read_pairs
from simcse_jax.data.senteval import read_sickr, read_sts, read_stsb
from simcse_jax.data.tables import read_table
from simcse_jax.data.training_text import (
    ColumnChoice,
    read_labelled_nli,
    read_sentences,
    read_training_file,
)
from simcse_jax.data.transfer import read_transfer
from simcse_jax.data.wikipedia import read_articles
from simcse_jax.io import read_json, read_json_lines, read_lines
from tests.campaign.cases import Case
from tests.campaign.mutate import damage
from tests.tiny_data import LABELS, SENTENCES

Files = dict[str, bytes]


class Reader(NamedTuple):
    """A reader and whole files for it.

    Attributes:
        name: of the reader.
        files: path in the folder to content.
        read: the reader, from the folder.
        rows: what it found, as rows that can be compared.
        text: whether its files are UTF-8 text of lines.
    """

    name: str
    files: Callable[[], Files]
    read: Callable[[Path], Any]
    rows: Callable[[Any], list[Any]]
    text: bool = True


def make(base: Path, random: Random, folder: Path) -> Case:
    """Damage one of a reader's files."""
    if random.random() < 0.2:
        return markup(random, folder)
    reader = random.choice(READERS)
    files = reader.files()
    name = random.choice(sorted(files))
    place = folder / "data"
    for path, content in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    file = place / name
    if random.random() < 0.1:
        about, expected = entry(file, random), "refused"
    else:
        change = damage(files[name], random, reader.text)
        file.write_bytes(change.content)
        about, expected = change.about, change.expected
        if change.content == files[name]:
            expected = "same"
    whole = folder / "whole"
    for path, content in files.items():
        (whole / path).parent.mkdir(parents=True, exist_ok=True)
        (whole / path).write_bytes(content)

    def read() -> Any:
        return reader.rows(reader.read(place))  # a cell is looked at when it is asked for

    def check(rows: Any) -> str | None:
        if (problem := strange(rows)) is not None:
            return f"silently wrong: {problem}"
        # A file that this reader passes over, or one that it understands all the same.
        if expected == "any" or rows == reader.rows(reader.read(whole)):
            return None
        return f"silently wrong: read as {repr(rows)[:200]}"

    return Case(f"{reader.name}, {name}: {about}", read, check)


def entry(file: Path, random: Random) -> str:
    """Put something else where a file was."""
    file.unlink()
    kind = random.choice(("gone", "a folder", "a dangling link", "a FIFO", "a link to itself"))
    if kind == "a folder":
        file.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(file)
    elif kind != "gone":
        file.symlink_to("nowhere" if kind == "a dangling link" else file.name)
    return f"it is {kind}"


def table_texts(table: Any) -> list[tuple[str, ...]]:
    """Return the texts of a table as those do who read one: each cell is looked at then."""
    columns = range(len(table.names))
    return [tuple(table.text(row, i) for i in columns) for row in range(len(table.rows))]


def strange(value: Any) -> str | None:
    """Find what no reader may return: numbers that are none, half characters, NUL bytes.

    A line end may stand in a quoted cell, or in JSON.
    """
    if isinstance(value, str):
        if "\x00" in value:
            return f"a NUL within {value[:60]!r}"
        if any("\ud800" <= c <= "\udfff" for c in value):
            return f"half a character within {value[:60]!r}"
    elif isinstance(value, float | np.floating):
        if not math.isfinite(value):
            return f"the number {value}"
    elif isinstance(value, dict):
        return strange(list(value.values()))
    elif isinstance(value, list | tuple | np.ndarray):
        return next(filter(None, map(strange, value)), None)
    return None


# ---------------------------------------------------------------------------------------------
# Whole files
# ---------------------------------------------------------------------------------------------


def lines(rows: Iterable[str]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


def pairs(count: int = 8) -> list[tuple[str, str, str]]:
    return [
        (f"{i % 5}.{i % 10}", SENTENCES[i], f"{SENTENCES[i + 9]} für “{i}”") for i in range(count)
    ]


def stsb() -> Files:
    rows = ["\t".join(("g", "f", "2015", str(i), *pair)) for i, pair in enumerate(pairs())]
    return {f"STS/STSBenchmark/sts-{split}.csv": lines(rows) for split in ("train", "dev", "test")}


def sick() -> Files:
    head = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
    rows = [f"{i}\t{a}\t{b}\t{score}\tNEUTRAL" for i, (score, a, b) in enumerate(pairs())]
    names = ("SICK_train", "SICK_trial", "SICK_test_annotated")
    return {f"SICK/{name}.txt": lines([head, *rows]) for name in names}


def sts() -> Files:
    files = stsb() | sick()
    subsets = {"STS13": ("FNWN", "headlines", "OnWN")}
    for task, names in subsets.items():
        for name in names:
            place = f"STS/{task}-en-test/STS"
            files[f"{place}.input.{name}.txt"] = lines(f"{a}\t{b}" for _, a, b in pairs())
            files[f"{place}.gs.{name}.txt"] = lines(score for score, _, _ in pairs())
    return files


def transfer() -> Files:
    files = {
        path: lines(SENTENCES[:6])
        for path in ("MR/rt-polarity.pos", "MR/rt-polarity.neg", "SUBJ/subj.objective")
    }
    files["SUBJ/subj.subjective"] = lines(SENTENCES[6:12])
    for split in ("train", "dev", "test"):
        files[f"SST/binary/sentiment-{split}"] = lines(
            f"{s} é\t{i % 2}" for i, s in enumerate(SENTENCES[:6])
        )
    for name in ("train_5500", "TREC_10"):
        files[f"TREC/{name}.label"] = lines(f"HUM:ind {s} ?" for s in SENTENCES[:6])
    for split in ("train", "test"):
        head = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
        rows = (f"{i % 2}\t{i}\t{i}\t{a} é\t{b}" for i, (_, a, b) in enumerate(pairs()))
        files[f"MRPC/msr_paraphrase_{split}.txt"] = lines([head, *rows])
    return files


def nli_rows() -> list[tuple[str, str, str]]:
    return [(SENTENCES[i // 3], f"{SENTENCES[i + 20]} ü", LABELS[i % 3]) for i in range(12)]


def table(suffix: str, names: tuple[str, ...], rows: list[tuple[str, ...]]) -> bytes:
    if suffix == "jsonl":
        return lines(
            json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=i % 2 == 0)
            for i, row in enumerate(rows)
        )
    if suffix == "parquet":
        packed = io.BytesIO()
        columns = zip(*rows, strict=True)
        # With checksums: without them nobody could tell that a letter was changed.
        parquet.write_table(
            pyarrow.table(dict(zip(names, columns, strict=True))), packed, write_page_checksum=True
        )
        return packed.getvalue()
    if suffix == "tsv":
        return lines("\t".join(row) for row in (names, *rows))
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([names, *rows])
    return file.getvalue().encode()


def triplets(suffix: str) -> Files:
    rows = [(SENTENCES[i], f'{SENTENCES[i + 1]}, "ä"', SENTENCES[i + 2]) for i in range(8)]
    return {f"t.{suffix}": table(suffix, ("sent0", "sent1", "hard_neg"), rows)}


def nli(suffix: str) -> Files:
    return {f"n.{suffix}": table(suffix, ("premise", "hypothesis", "label"), nli_rows())}


def nli_split() -> Files:
    columns = zip(*nli_rows(), strict=True)
    return {
        f"snli/{name}.dev": lines(column)
        for name, column in zip(("s1", "s2", "labels"), columns, strict=True)
    }


def text() -> Files:
    return {"t.txt": lines([*SENTENCES[:8], "", "Zürich, 2021: naïve cafés — or so."])}


PAGE = """  <page>
    <title>{title}</title>
    <ns>0</ns>
    <revision><model>wikitext</model><text>{text}</text></revision>
  </page>
"""
WIKITEXT = (
    "'''The flute''' is a [[musical instrument|instrument]] of the woodwind family.{{ref|x}} "
    "It is played by many people in the whole world.\n\n== History ==\n"
    "The oldest flutes were found in caves in the south of Germany. They are 40,000 years old "
    "and made of bone.\n* A list item that ends like a sentence.\n"
    '{| class="wikitable"\n|-\n| a\n|}\n'
)


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def dump(*texts: str) -> bytes:
    pages = "".join(
        PAGE.format(title=f"Flute {i}", text=escaped(text)) for i, text in enumerate(texts)
    )
    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="en">\n'
    return f"{head}{pages}</mediawiki>\n".encode()


def wikipedia(pack: Callable[[bytes], bytes] = bytes) -> Files:
    return {"dump.xml": pack(dump(WIKITEXT, WIKITEXT.replace("flute", "piano") + "Größe ist so."))}


def lee_pairs() -> Files:
    documents = [f"{SENTENCES[i]} and more of it" for i in range(50)]
    values = np.triu(np.round(np.random.default_rng(0).random((50, 50)), 3), 1) + np.eye(50)
    rows = (" ".join(f"{x:.3f}" for x in row) for row in values)
    return {"lee.cor": lines(documents), "similarities0-1.txt": lines(rows)}


def lee_texts() -> Files:
    return {
        "lee_background.cor": lines(
            f"{s} number {i}" for i, s in zip(range(300), itertools.cycle(SENTENCES), strict=False)
        )
    }


def json_file() -> Files:
    return {"x.json": json.dumps({"a": [1, 2.5, "ü"], "b": {"c": None}}, indent=1).encode()}


def configuration() -> Files:
    from simcse_jax.config import CONFIGS, to_json

    return {"c.json": json.dumps(to_json(CONFIGS["unsup_simcse"]), indent=1).encode()}


# ---------------------------------------------------------------------------------------------
# Readers
# ---------------------------------------------------------------------------------------------


def pair_rows(found: Any) -> list[Any]:
    return list(zip(found.sentences1, found.sentences2, found.scores.tolist(), strict=True))


def training_rows(found: Any) -> list[Any]:
    return found.rows(range(len(found)))


def transfer_rows(found: Any) -> list[Any]:
    return [
        row
        for task in found.values()
        for split in task.splits.values()
        for row in zip(*split.columns, split.labels.tolist(), strict=True)
    ]


def read_dump(folder: Path) -> list[Any]:
    return list(read_articles(folder / "dump.xml"))


def article_rows(found: Any) -> list[Any]:
    return [
        sentence
        for article in found
        for section in article.sections
        for sentence in section.sentences
    ]


BY_NAME = ColumnChoice(("hard_neg", "sent0"))
SCORED = ("one", "two", "score")
TRANSFER = ("MR", "SUBJ", "SST2", "TREC", "MRPC")

READERS = [
    Reader("read_stsb", stsb, lambda f: read_stsb(f, "dev"), pair_rows),
    Reader("read_sickr", sick, lambda f: read_sickr(f, "test"), pair_rows),
    Reader(
        "read_sts",
        sts,
        lambda f: read_sts(f, ("STS13", "STS-B", "SICK-R")),
        lambda found: [r for t in found.values() for s in t.subsets for r in pair_rows(s)],
    ),
    *(
        # Latin-1 takes any bytes, so nothing is expected of a file in another encoding.
        Reader(
            f"read_transfer {task}",
            transfer,
            lambda f, task=task: read_transfer(f, (task,)),
            transfer_rows,
            text=task in ("SST2", "MRPC"),
        )
        for task in TRANSFER
    ),
    *(
        Reader(
            f"read_training_file {suffix}",
            lambda suffix=suffix: triplets(suffix),
            lambda f, suffix=suffix: read_training_file(f / f"t.{suffix}"),
            training_rows,
        )
        for suffix in ("csv", "tsv", "jsonl")
    ),
    *(
        Reader(
            f"read_training_file {suffix}, by name",
            lambda suffix=suffix: triplets(suffix),
            lambda f, suffix=suffix: read_training_file(f / f"t.{suffix}", choice=BY_NAME),
            training_rows,
            text=suffix != "parquet",
        )
        for suffix in ("csv", "tsv", "jsonl", "parquet")
    ),
    Reader(
        "read_pairs parquet",
        lambda: {"p.parquet": table("parquet", SCORED, [(a, b, x) for x, a, b in pairs()])},
        lambda f: read_pairs(f / "p.parquet", SCORED),
        pair_rows,
        text=False,
    ),
    Reader(
        "read_training_file txt", text, lambda f: read_training_file(f / "t.txt"), training_rows
    ),
    *(
        Reader(
            f"{read.__name__} {suffix}",
            lambda suffix=suffix: nli(suffix),
            lambda f, suffix=suffix, read=read: read(f / f"n.{suffix}"),
            rows,
        )
        for suffix in ("csv", "tsv", "jsonl")
        for read, rows in (
            (read_nli, lambda found: [(e.premise, e.hypothesis, e.label) for e in found.examples]),
            (read_labelled_nli, training_rows),
            (read_training_file, training_rows),
            (read_sentences, list),
            (read_table, table_texts),
        )
    ),
    Reader(
        "read_nli split",
        nli_split,
        lambda f: read_nli(f / "snli"),
        lambda found: [(e.premise, e.hypothesis, e.label) for e in found.examples],
    ),
    Reader("read_lines", text, lambda f: read_lines(f / "t.txt"), list),
    Reader("read_json", json_file, lambda f: read_json(f / "x.json"), lambda found: [repr(found)]),
    Reader(
        "read_json_lines",
        lambda: nli("jsonl"),
        lambda f: read_json_lines(f / "n.jsonl"),
        lambda found: [repr(row) for row in found],
    ),
    Reader(
        "load_config",
        configuration,
        lambda f: load_config(f / "c.json"),
        lambda found: [repr(found)],
    ),
    Reader(
        "read_lee",
        lee_pairs,
        read_lee,
        lambda found: [*found.documents, found.similarities.tolist()],
    ),
    Reader("lee_background", lee_texts, lee_background, list),
    Reader("read_articles", wikipedia, read_dump, article_rows),
    *(
        Reader(f"read_articles {name}", partial(wikipedia, pack), read_dump, article_rows, False)
        for name, pack in (("bz2", bz2.compress), ("gzip", gzip.compress))
    ),
]


# ---------------------------------------------------------------------------------------------
# Wikipedia's markup
# ---------------------------------------------------------------------------------------------

MARKUP = (
    *("[[", "]]", "{{", "}}", "|", "'''", "''", "<b>", "</b>", "<i>", "<div>", "</div>", "<ref>"),
    *(
        "</ref>",
        "<ref name=x/>",
        "{|",
        "|}",
        "|-",
        "\n== H ==\n",
        "\n=== ",
        " ===\n",
        "\n* ",
        "\n# ",
    ),
    *("\n: ", "[http://x.org ", "]", "<nowiki>", "</nowiki>", "<math>", "</math>", "<!--", "-->"),
    *("&amp;", "&#x10ffff;", "&#xd800;", "&lt;", "[[File:a.jpg|thumb|", "{{convert|1|km}}", "\n\n"),
    *(
        "<sup>2</sup>",
        "<gallery>",
        "</gallery>",
        "__TOC__",
        "\n{{lang|en|",
        "{{{1|",
        "}}}",
        "<",
        ">",
    ),
    *("<br/>", "\n----\n", "\t", "\u200b", "\ue000", "\ue001", "\u2028", "=", "==", "\n"),
)
PROSE = ("The man plays the flute in a park.", "It is loud music, and so on", "word", ". A", "1.5")


def markup(random: Random, folder: Path) -> Case:
    """Wikitext that no one would write, nested and mixed; it must end, with sentences in it."""
    kind = random.choice(("soup", "soup", "nested", "repeated", "unclosed"))
    if kind == "soup":
        count = random.choice((10, 100, 1000, 5000))
        text = "".join(random.choice(random.choice((MARKUP, PROSE))) for _ in range(count))
        about = f"a soup of {count} marks"
    elif kind == "nested":
        opening, closing = random.choice(
            (
                ("<b>", "</b>"),
                ("[[a|", "]]"),
                ("{{a|", "}}"),
                ("<div>", "</div>"),
                ("<ref>", "</ref>"),
                ("{|\n|\n", "\n|}\n"),
                ("''", "''"),
                ("{{{a|", "}}}"),
                ("[http://x.org ", "]"),
                ("\n* <i>", "</i>"),
            )
        )
        depth = random.choice((10, 100, 1000, 20_000))
        text = opening * depth + random.choice(PROSE) + closing * depth
        about = f"{opening!r} nested {depth} deep"
    else:
        mark = random.choice(MARKUP)
        count = random.choice((100, 10_000, 100_000))
        text = (mark + (" a " if kind == "repeated" else "")) * count
        about = f"{mark!r} {count} times, {kind}"
    text = "".join(c for c in text if c in "\n\t" or ord(c) >= 32)
    text = f"The man plays the flute in a park.\n\n{text}\n\nThe dog eats the food in the park."
    (folder / "dump.xml").write_bytes(dump(text))

    def check(found: list[str]) -> str | None:
        if (problem := strange(found)) is not None:
            return f"silently wrong: {problem}"
        left = next((s for s in found for m in ("[[", "{{", "<ref", "{|") if m in s), None)
        return None if left is None else f"silently wrong: markup is left in {left[:80]!r}"

    return Case(
        f"wikitext: {about}", lambda: article_rows(read_articles(folder / "dump.xml")), check
    )
