"""Sentences and section triplets out of any MediaWiki dump.

SimCSE and BERT-flow train without labels on sentences of Wikipedia; Sentence-BERT (section 4.4)
learns from Wikipedia's sections that two sentences of one section are closer than sentences of
two. Both need the same thing: articles as sections of sentences.

    articles = list(read_articles("enwiki-latest-pages-articles.xml.bz2", progress=True))
    train, test = split_articles(articles, test_fraction=0.1, seed=0)
    triplets = section_triplets(train, seed=0)

`embedded_wikipedia()` gives about a hundred articles without any download.
"""

import bz2
import gzip
import hashlib
import json
import random
import re
import warnings
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from io import BufferedIOBase
from pathlib import Path

from tqdm import tqdm

from simcse_jax.checks import check_between, check_count, quoted
from simcse_jax.data.embedded import gensim_test_data
from simcse_jax.extras import needs
from simcse_jax.io import cache_folder, open_data, read_json_lines, write_text

with needs("data"):
    import mwparserfromhell
    import sentencex
    from mwparserfromhell.definitions import is_parsable, is_single
    from mwparserfromhell.nodes import (
        ExternalLink,
        Heading,
        HTMLEntity,
        Tag,
        Template,
        Text,
        Wikilink,
    )

# Part of the cache's name: raise it whenever the code below changes what a dump parses into.
PARSER_VERSION = 1

MIN_WORDS = 4
"""Shorter pieces are captions, list entries and other fragments, not sentences."""

MOST_OPEN = 500
"""A page with more open pieces of markup at one place is left out: the parser reads on to the end
of the page for each of them. Pages written by people have at most some hundred."""

MOST_BYTES = 2**26
"""A dump with more bytes in one element is refused: MediaWiki saves no text above two million, and
a small file may be decompressed to no end."""

SKIPPED_SECTIONS = frozenset(
    {
        "bibliography",
        "citations",
        "external links",
        "footnotes",
        "further reading",
        "gallery",
        "notes",
        "notes and references",
        "references",
        "references and notes",
        "see also",
        "sources",
        "works cited",
    }
)
"""Sections that list other texts instead of telling something (casefolded English headings)."""

_EMBEDDED_DUMP = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"


@dataclass(frozen=True)
class Section:
    """A heading of any level and the sentences up to the next heading; the lead's heading is ""."""

    heading: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Article:
    """A title and the sections, in reading order, that hold at least one sentence each."""

    title: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class SectionTriplet:
    """Two sentences of one section and one of another section of the same article."""

    anchor: str
    positive: str
    negative: str


# --- From a dump to wikitext -----------------------------------------------------------------


@dataclass(frozen=True)
class _Site:
    """What the head of a dump says about its wiki."""

    language: str
    namespaces: dict[str, int]  # casefolded prefix, without the colon -> namespace number

    def namespace(self, title: str) -> int:
        prefix, colon, _ = title.partition(":")
        return self.namespaces.get(prefix.strip().casefold(), 0) if colon else 0


# Every wiki understands the English names beside its own.
_CANONICAL_NAMESPACES = {"media": -2, "special": -1, "file": 6, "image": 6, "category": 14}


def read_articles(
    path: str | Path,
    *,
    progress: bool = False,
    skipped_sections: Collection[str] = SKIPPED_SECTIONS,
) -> Iterator[Article]:
    """Read the articles of a MediaWiki XML dump, one at a time.

    Pages outside namespace 0 and redirects are passed over, and with a warning those with more
    than `MOST_OPEN` pieces of markup that are opened and not closed; of several revisions the last
    one in the file counts. Memory is bounded by the largest page. Templates (but for a few that
    carry words), tables, references, files, categories and comments are dropped, and so is a
    sentence with a formula in it, for without it the sentence says nothing. A sentence is kept if
    it has at least `MIN_WORDS` words, has a letter, ends like a sentence and holds no leftover
    markup or book number; words are told apart by spaces, so the filter suits languages that write
    them.

    Args:
        path: a dump of any export version: plain, bz2 or gzip, told apart by its first bytes.
        progress: show a progress bar over the file's bytes.
        skipped_sections: casefolded headings; these sections and their subsections are dropped.

    Returns:
        An iterator over the articles that have a sentence left.

    Raises:
        OSError: there is no such file, or it is a folder, a pipe or may not be read.
        ValueError: while iterating; the file is cut off, not XML, not UTF-8 or not MediaWiki's, or
            has more than `MOST_BYTES` in one element.
    """
    path = Path(path)
    # A generator would only notice at the first `next`, far from the mistake.
    open_data(path).close()
    return _read_articles(path, progress, frozenset(skipped_sections))


def _read_articles(path: Path, progress: bool, skipped: frozenset[str]) -> Iterator[Article]:
    for site, title, wikitext in _wikitext_pages(path, progress):
        if _is_unclosed(wikitext):
            warnings.warn(
                f"{path}: the page {quoted(title)} is left out: more than {MOST_OPEN} pieces "
                "of its markup are opened and not closed",
                stacklevel=2,
            )
            continue
        sections = []
        for heading, paragraphs in _strip(wikitext, site, skipped):
            found = tuple(s for p in paragraphs for s in _split_paragraph(p, site.language))
            if found:
                sections.append(Section(heading, found))
        if sections:
            yield Article(title, tuple(sections))


def _wikitext_pages(path: Path, progress: bool) -> Iterator[tuple[_Site, str, str]]:
    with (
        open_data(path) as raw,
        _decompressed(raw) as stream,
        tqdm(
            desc=path.name,
            total=path.stat().st_size,
            unit="B",
            unit_scale=True,
            disable=not progress,
        ) as bar,
    ):
        bounded = _Bounded(stream)
        events = ET.iterparse(bounded, events=("start", "end"))
        root: ET.Element | None = None
        site = _Site("en", dict(_CANONICAL_NAMESPACES))
        text = ""
        try:
            for event, element in events:
                bounded.since = 0
                tag = element.tag.rpartition("}")[2]  # the namespace names the export version
                if root is None:
                    root = element
                    if tag != "mediawiki":
                        raise ValueError(f"its root element is <{tag}>, not <mediawiki>")
                    language = element.get("{http://www.w3.org/XML/1998/namespace}lang", "en")
                    site = _Site(language, dict(_CANONICAL_NAMESPACES))
                elif event == "start":
                    continue
                elif tag == "namespace":
                    number = int(element.get("key", "0"))
                    site.namespaces[(element.text or "").casefold()] = number
                elif tag == "revision":
                    # Only the text is kept, so that a page's whole history fits as well.
                    text = _revision_text(element)
                    element.clear()
                elif tag == "page":
                    title, number, redirect = _page_head(element, site)
                    if number == 0 and not redirect and not _REDIRECT.match(text):
                        yield site, title, text
                    text = ""
                    # The root would keep every page it has seen, if only as an empty element.
                    root.clear()
                    bar.update(raw.tell() - bar.n)
        except (ET.ParseError, EOFError, OSError, ValueError, zlib.error) as error:
            raise ValueError(f"{path}: {_what_is_wrong(error)}.") from error


class _Bounded:
    """A stream that raises ValueError once `MOST_BYTES` were read while `since` was not reset."""

    def __init__(self, stream: BufferedIOBase):
        self.stream = stream
        self.since = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self.stream.read(size)
        self.since += len(data)
        if self.since > MOST_BYTES:
            raise ValueError(f"one of its elements has more than {MOST_BYTES:,} bytes")
        return data


_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)


def _decompressed(raw: BufferedIOBase) -> BufferedIOBase:
    # Names lie (gensim's excerpt is called .bz2, not .xml.bz2), the first bytes do not.
    magic = raw.read(3)
    raw.seek(0)
    if magic == b"BZh":
        return bz2.open(raw)
    if magic[:2] == b"\x1f\x8b":
        return gzip.open(raw)
    return raw


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the compressed file is cut off"
    if isinstance(error, ET.ParseError):
        # expat's message holds line and column: "not well-formed (invalid token): line 3, column 9"
        return f"not well-formed UTF-8 XML ({error})"
    return f"not a readable MediaWiki dump ({error})"


def _local(element: ET.Element, name: str) -> ET.Element | None:
    return next((child for child in element if child.tag.rpartition("}")[2] == name), None)


def _revision_text(revision: ET.Element) -> str:
    model, text = _local(revision, "model"), _local(revision, "text")
    if model is not None and model.text != "wikitext":
        return ""  # Lua modules, JSON and the like may lie in any namespace
    return (text.text or "") if text is not None else ""


def _page_head(page: ET.Element, site: _Site) -> tuple[str, int, bool]:
    title, number = _local(page, "title"), _local(page, "ns")
    name = (title.text or "") if title is not None else ""
    # Dumps before export version 0.5 do not number the namespace of a page.
    namespace = int(number.text or 0) if number is not None else site.namespace(name)
    return name, namespace, _local(page, "redirect") is not None


# --- From wikitext to paragraphs -------------------------------------------------------------

# Private marks put into the text while the tree is walked; real text never holds them.
_LIST_ITEM = "\ue000"
_HOLE = "\ue001"

_PARAGRAPH = "\n\n"

# fmt: off
_INLINE_TAGS = frozenset({
    "abbr", "b", "bdi", "big", "cite", "code", "dfn", "em", "font", "i", "ins", "kbd",
    "mark", "nowiki", "noinclude", "onlyinclude", "q", "s", "samp", "small", "span",
    "strong", "sub", "tt", "u", "var",
})
# fmt: on
_BLOCK_TAGS = frozenset({"blockquote", "br", "center", "div", "hr", "ol", "p", "poem", "ul"})
_LIST_TAGS = frozenset({"dd", "dt", "li"})
_FORMULA_TAGS = frozenset({"ce", "chem", "hiero", "math"})
_FORMULA_TEMPLATES = frozenset({"bigmath", "frac", "math", "mvar", "sfrac", "sqrt", "val"})

_SUPERSCRIPTS = str.maketrans("0123456789+-−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻")

# Templates whose argument is part of the running text, and which argument that is (0 is the
# first). All others are boxes, notices and references, or need the wiki to be expanded.
_WORD_TEMPLATES = {
    "abbr": 0,
    "angbr": 0,
    "big": 0,
    "blockquote": 0,
    "ipa": 0,
    "lang": 1,
    "nihongo": 0,
    "nobold": 0,
    "nowrap": 0,
    "quote": 0,
    "sc": 0,
    "small": 0,
    "smallcaps": 0,
    "smaller": 0,
    "transl": -1,
    "vanchor": 0,
}
_SIGN_TEMPLATES = {
    "'": "'",
    "'s": "'s",
    "mdash": "—",
    "mdashb": "—",
    "nbsp": " ",
    "ndash": "–",
    "snd": " – ",
    "spaced ndash": " – ",
}
_RANGE_WORDS = frozenset({"-", "–", "&", "and", "by", "or", "to", "x"})


_MARKUP = re.compile(
    r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|\[(?=//|[a-z]+:)|\]|\n|<!--|-->|<(/?)([a-zA-Z]+)[^<>]*>?"
)
_CLOSES = {"}}": "{{", "]]": "[[", "|}": "{|", "]": "[", "-->": "<!--"}


# The parser's time grows with the square of the depth of a list.
_DEEP_LIST = re.compile(r"^[*#:;]{200}", re.MULTILINE)
# Each sign within a heading may be its end, for which the parser calls itself until the stack is
# full and the process dies.
_LONG_HEADING = re.compile(r"^=(?:[^=\n]*+=++){200}", re.MULTILINE)  # possessive: linear time


def _is_unclosed(wikitext: str) -> bool:
    """Tell whether more than `MOST_OPEN` pieces of markup are open at one place, in linear time.

    A closing sign closes the piece that was opened last if it is of its kind; others are text.
    """
    if _DEEP_LIST.search(wikitext) or _LONG_HEADING.search(wikitext):
        return True
    stack: list[str] = []
    # Where each kind is closed for the last time: a formula or comment hides what is in it if it
    # is closed at all.
    closed: dict[str, int] = {}
    for found in _MARKUP.finditer(wikitext):
        sign, closing, tag = found.group(0, 1, 2)
        last = stack[-1] if stack else ""
        if sign == "\n":
            while stack and stack[-1] == "[":  # an external link ends with its line
                stack.pop()
            continue
        kind = f"<{tag.casefold()}" if tag else _CLOSES.get(sign, sign)
        if last == "<!--" or (last[:1] == "<" and not is_parsable(last[1:])):
            if last not in closed:
                closed[last] = wikitext.rfind("-->" if last == "<!--" else f"</{last[1:]}")
            if kind != last and closed[last] > found.start():
                continue
        if closing or sign in _CLOSES:
            if kind == last or (sign, last) == ("]]", "["):
                stack.pop()
        elif not tag or not (sign.endswith("/>") or is_single(tag.casefold())):
            stack.append(kind)
            if len(stack) > MOST_OPEN:
                return True
    return False


def _strip(wikitext: str, site: _Site, skipped: frozenset[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield heading and paragraphs of every section but the skipped ones and those inside them."""
    heading, pieces, skip_level = "", list[str](), 7  # 7: below every heading, nothing is skipped
    for node in mwparserfromhell.parse(wikitext).nodes:
        if not isinstance(node, Heading):
            pieces.append(_text_of_node(node, site))
            continue
        if skip_level == 7:
            yield heading, _paragraphs("".join(pieces))
        heading, pieces = _one_line(_text_of(node.title, site)), []
        if node.level <= skip_level:
            skip_level = node.level if heading.casefold() in skipped else 7
    if skip_level == 7:
        yield heading, _paragraphs("".join(pieces))


def _text_of(wikicode: mwparserfromhell.wikicode.Wikicode | None, site: _Site) -> str:
    if wikicode is None:
        return ""
    return "".join(_text_of_node(node, site) for node in wikicode.nodes)


# Half of a character, as &#xd800; has it, which UTF-8 cannot hold.
_NO_CHARACTER = re.compile("[\ud800-\udfff]")


def _text_of_node(node: mwparserfromhell.nodes.Node, site: _Site) -> str:
    if isinstance(node, Text):
        return node.value
    if isinstance(node, HTMLEntity):
        return _NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", node.normalize())
    if isinstance(node, Wikilink):
        return _text_of_link(node, site)
    if isinstance(node, Tag):
        return _text_of_tag(node, site)
    if isinstance(node, Template):
        return _text_of_template(node, site)
    if isinstance(node, ExternalLink):
        return _text_of(node.title, site)  # a bare address has none
    if isinstance(node, Heading):  # inside another element: no section of the article
        return _PARAGRAPH + _text_of(node.title, site) + _PARAGRAPH
    return ""  # comments, template arguments


# [[fr:Titre]] puts a link into the margin; [[s:Title|text]] is a link in the text.
_INTERLANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*:\S")


def _text_of_link(link: Wikilink, site: _Site) -> str:
    title = str(link.title).strip()
    if site.namespace(title) in (-2, 6, 14):  # media, file, category: shown elsewhere or not at all
        return ""
    if link.text is not None:
        return _text_of(link.text, site)
    return "" if _INTERLANGUAGE.match(title) else title.removeprefix(":")


def _text_of_tag(tag: Tag, site: _Site) -> str:
    name = str(tag.tag).strip().casefold()
    if name in _LIST_TAGS:
        return _PARAGRAPH + _LIST_ITEM + _text_of(tag.contents, site)
    if name in _INLINE_TAGS:
        return _text_of(tag.contents, site)
    if name in _BLOCK_TAGS:
        return _PARAGRAPH + _text_of(tag.contents, site) + _PARAGRAPH
    if name == "sup":  # 10<sup>6</sup> must not become 106
        return _text_of(tag.contents, site).translate(_SUPERSCRIPTS)
    if name in _FORMULA_TAGS:
        return _HOLE
    if name == "table":
        return _PARAGRAPH
    return ""  # ref, gallery, timeline, source and other things that are not running text


def _text_of_template(template: Template, site: _Site) -> str:
    name = str(template.name).strip().casefold()
    if name in _FORMULA_TEMPLATES:
        return _HOLE
    if name in _SIGN_TEMPLATES:
        return _SIGN_TEMPLATES[name]
    values = [
        _text_of(parameter.value, site).strip()
        for parameter in template.params
        if not parameter.showkey
    ]
    if not values:
        return ""
    if name in ("convert", "cvt"):
        # {{convert|1300|mi|km}} reads "1300 mi", {{convert|5|to|8|km}} reads "5 to 8 km".
        end = 2
        while len(values) > end + 1 and values[end - 1] in _RANGE_WORDS:
            end += 2
        return " ".join(values[:end])
    if name == "chem":  # {{chem|H|2|O}}
        return "".join(values)
    if name == "as of":  # {{as of|2014|5|lc=y}} reads "as of 2014", the month being a number
        return f"{'as' if template.has('lc', ignore_empty=True) else 'As'} of {values[0]}"
    if name in _WORD_TEMPLATES:
        index = _WORD_TEMPLATES[name]
        return values[index] if index < len(values) else ""
    return ""


_SPACES = re.compile(r"\s+")
_MAGIC_WORD = re.compile(r"__[A-Z]+__")
_LEFT_QUOTES = re.compile(r"'{2,5}")
# What a dropped template or reference leaves behind: "( ; )", "(, from Greek; )", "word ,".
_EMPTY_BRACKETS = re.compile(r"\s*\([\s,;:–—-]*\)|\s*\[\s*\]")
_BRACKET_START = re.compile(r"\((?:\s*[,;:])*\s+")
# Only from the start of a run of signs, or a long one would be read again from each of its places.
_BRACKET_END = re.compile(r"(?<![\s,;:])[\s,;:]+\)")
_SPACE_BEFORE_STOP = re.compile(r"\s+([,;:.!?)])(?=[\s)\"'”’]|$)")


def _one_line(text: str) -> str:
    text = text.replace(_LIST_ITEM, "").replace(_HOLE, "")
    return _SPACES.sub(" ", _LEFT_QUOTES.sub("", text)).strip()


def _paragraphs(text: str) -> list[str]:
    """Split at empty lines; a list item ends with its line, other single newlines are spaces."""
    *lines, last = text.split("\n")
    text = "".join(line + (_PARAGRAPH if _LIST_ITEM in line else "\n") for line in lines) + last
    found = []
    for block in re.split(r"\n\s*\n", text):
        block = _LEFT_QUOTES.sub("", _MAGIC_WORD.sub("", block.replace(_LIST_ITEM, "")))
        block = _SPACES.sub(" ", block)
        block = _BRACKET_START.sub("(", _EMPTY_BRACKETS.sub("", block))
        block = _BRACKET_END.sub(")", block)
        block = _SPACE_BEFORE_STOP.sub(r"\1", block).strip()
        if block:
            found.append(block)
    return found


# --- From paragraphs to sentences ------------------------------------------------------------

_WORD = re.compile(r"\w+(?:[-'’.,]\w+)*")
_ENDS_LIKE_SENTENCE = re.compile(r"[.!?…。！？؟।][)\]\"'”’»]*$")
# Where the wikitext was broken the parser leaves its signs in the text; book and article numbers
# betray a reference written by hand.
_NO_PROSE = re.compile(
    r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}|\|-|</?\w+|https?://|"
    r"\b(?:align|class|colspan|rowspan|style|width)\s?=|\b(?:ISBN|ISSN|OCLC|doi:)|" + _HOLE
)


# sentencex is Wikimedia's own segmenter for its wikis: about 300 languages, one compiled wheel, no
# dependencies and no models. On these articles it and pysbd disagreed in 35 paragraphs of 1,500,
# with mistakes on both sides, and it was some 200 times faster (0.15 s for the whole excerpt);
# syntok cut sentences at semicolons. Its weak side: it does not split inside a long quotation.
def _split_paragraph(paragraph: str, language: str) -> Iterator[str]:
    for piece in sentencex.segment(language, paragraph):
        sentence = piece.strip()
        if (
            _ENDS_LIKE_SENTENCE.search(sentence)
            and not _NO_PROSE.search(sentence)
            and len(_WORD.findall(sentence)) >= MIN_WORDS
            and any(character.isalpha() for character in sentence)
        ):
            yield sentence


def sentences(articles: Iterable[Article]) -> list[str]:
    """Return the sentences of all articles in reading order; repeated ones are kept."""
    return [s for article in articles for section in article.sections for s in section.sentences]


# --- From articles to training data ----------------------------------------------------------


def split_articles(
    articles: Iterable[Article], test_fraction: float, seed: int
) -> tuple[list[Article], list[Article]]:
    """Split whole articles into train and test, each by a hash of its title.

    An article's side depends on its title and the seed alone, not on the order or on the other
    articles: no section lies on both sides, and a larger dump keeps the sides of a smaller one.
    The test side therefore holds the fraction only on average.

    Args:
        articles: what to split; both sides keep its order.
        test_fraction: the share of the test side, in [0, 1].
        seed: another seed gives another, independent split.

    Raises:
        ValueError: `test_fraction` lies outside [0, 1].
    """
    check_between("test_fraction", test_fraction, 0, 1)
    train: list[Article] = []
    test: list[Article] = []
    for article in articles:
        # blake2b and not hash(): Python's own hash of a string differs from run to run.
        digest = hashlib.blake2b(f"{seed}\n{article.title}".encode(), digest_size=8).digest()
        position = int.from_bytes(digest, "big") / 2**64  # uniform in [0, 1]
        (test if position < test_fraction else train).append(article)
    return train, test


def section_triplets(
    articles: Iterable[Article],
    *,
    seed: int,
    per_article: int | None = None,
    lead: bool = False,
) -> list[SectionTriplet]:
    """Draw triplets in the manner of Sentence-BERT, section 4.4 (Ein Dor et al., 2018).

    Anchor and positive are two sentences of one section, the negative is a sentence of another
    section of the same article. Every sentence that has a neighbour in its section and a negative
    outside is an anchor once; its positive is uniform over the rest of the section, its negative
    uniform over the sentences of all other sections that the anchor's section does not repeat.
    Hence as many triplets as there are such sentences, or the first `per_article` of each
    article's shuffled ones. Another seed gives other partners: call again for more.

    Args:
        articles: each draws from its own stream of `seed` and title, so its triplets do not
            depend on the other articles.
        seed: the same seed gives the same triplets.
        per_article: at most so many triplets of one article; None for every anchor.
        lead: whether the text before the first heading is a section like others. It sums up all
            of them, so as a rule it is no fair negative.

    Returns:
        The triplets, article by article in the given order, shuffled within each.

    Raises:
        ValueError: `per_article` is not positive.
    """
    if per_article is not None:
        check_count("per_article", per_article)
    triplets: list[SectionTriplet] = []
    for article in articles:
        # A sentence that a section repeats would otherwise be its own positive.
        sections = [
            tuple(dict.fromkeys(section.sentences))
            for section in article.sections
            if lead or section.heading
        ]
        outside = [_outside(sections, index) for index in range(len(sections))]
        anchors = [
            (index, place)
            for index, section in enumerate(sections)
            if len(section) > 1 and outside[index]
            for place in range(len(section))
        ]
        rng = random.Random(f"{seed}\n{article.title}")
        rng.shuffle(anchors)
        for index, place in anchors[:per_article]:
            section = sections[index]
            other = rng.randrange(len(section) - 1)
            other += other >= place  # steps over the anchor
            negative = rng.choice(outside[index])
            triplets.append(SectionTriplet(section[place], section[other], negative))
    return triplets


def _outside(sections: Sequence[tuple[str, ...]], index: int) -> list[str]:
    inside = set(sections[index])
    others = (section for place, section in enumerate(sections) if place != index)
    return [sentence for section in others for sentence in section if sentence not in inside]


# --- The excerpt inside gensim's wheel -------------------------------------------------------


def embedded_wikipedia(
    cache_dir: str | Path | None = None, *, progress: bool = False
) -> list[Article]:
    """Return the hundred or so articles of the English excerpt (2016) in gensim's wheel.

    Parsing takes some ten seconds, so the result is kept as JSON lines. The file's name holds a
    digest of the dump, of this module's `PARSER_VERSION` and of the parsers' versions, so that
    none of them can change without parsing anew.

    Args:
        cache_dir: where to keep it; by default `simcse_jax` in `$XDG_CACHE_HOME` or `~/.cache`.
        progress: show a progress bar while parsing.

    Raises:
        FileNotFoundError: gensim's wheel is not installed.
    """
    dump = gensim_test_data() / _EMBEDDED_DUMP
    cache = (cache_folder() if cache_dir is None else Path(cache_dir)) / _cache_name(dump)
    try:
        return _read_cache(cache)
    except (OSError, ValueError, TypeError):
        pass  # absent or damaged: a cache is parsed anew, never mended
    articles = list(read_articles(dump, progress=progress))
    try:
        _write_cache(cache, articles)
    except OSError as error:  # a read-only home must not stop anyone
        warnings.warn(f"{error}; it is parsed anew each time", stacklevel=2)
    return articles


def _cache_name(dump: Path) -> str:
    parsers = [f"{name} {version(name)}" for name in ("mwparserfromhell", "sentencex")]
    key = hashlib.blake2b("\n".join([str(PARSER_VERSION), *parsers]).encode(), digest_size=8)
    if not dump.is_file():
        raise FileNotFoundError(f"{dump} is missing; `pip install --no-deps gensim==4.4.0` has it.")
    key.update(dump.read_bytes())
    return f"wikipedia-{key.hexdigest()}.jsonl"


def _read_cache(path: Path) -> list[Article]:
    return [
        Article(title, tuple(Section(heading, tuple(texts)) for heading, texts in sections))
        for title, sections in read_json_lines(path)
    ]


def _write_cache(path: Path, articles: Iterable[Article]) -> None:
    lines = []
    for article in articles:
        sections = [[section.heading, section.sentences] for section in article.sections]
        lines.append(json.dumps([article.title, sections], ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))
