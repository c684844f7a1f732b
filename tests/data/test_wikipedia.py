"""MediaWiki dumps: what is kept, what is dropped, and every way in which a dump can be wrong."""

import bz2
import gzip
import os
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from simcse_jax.data import wikipedia
from simcse_jax.data.embedded import gensim_test_data
from simcse_jax.data.wikipedia import (
    Article,
    Section,
    SectionTriplet,
    embedded_wikipedia,
    read_articles,
    section_triplets,
    sentences,
    split_articles,
)

BULGARIAN = "bgwiki-latest-pages-articles-shortened.xml.bz2"


def _page(title: str, text: str, head: str = "<ns>0</ns>") -> str:
    return (
        f"<page><title>{title}</title>{head}<revision><model>wikitext</model>"
        f'<text xml:space="preserve">{escape(text)}</text></revision></page>'
    )


def _dump(*pages: str, version: str = "0.10") -> str:
    return (
        f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-{version}/" xml:lang="en">'
        '<siteinfo><namespaces><namespace key="0"/><namespace key="1">Talk</namespace>'
        '<namespace key="6">Datei</namespace></namespaces></siteinfo>'
        f"{''.join(pages)}</mediawiki>"
    )


def gzip_compress(data: bytes) -> bytes:
    """Compress without a timestamp: the bytes name tests, which all workers must call alike."""
    return gzip.compress(data, mtime=0)


def _read(tmp_path: Path, *pages: str) -> list[Article]:
    path = tmp_path / "dump.xml"
    path.write_text(_dump(*pages), encoding="utf-8")
    return list(read_articles(path))


def _sentences_of(tmp_path: Path, text: str) -> list[str]:
    return sentences(_read(tmp_path, _page("Title", text)))


# --- Pages -----------------------------------------------------------------------------------

CAT = "The cat sat on the mat. The dog lay on the rug.\n"


def test_pages_that_are_no_articles_are_passed_over(tmp_path):
    articles = _read(
        tmp_path,
        _page("Cat", CAT),
        _page("Talk:Cat", CAT, "<ns>1</ns>"),
        _page("Kitten", CAT, '<ns>0</ns><redirect title="Cat"/>'),
        _page("Pussy", "#REDIRECT [[Cat]]\n\n" + CAT),
        _page("Talk:Old", CAT, ""),  # before export version 0.5 the namespace is in the title only
        _page("Old", CAT, ""),
        _page("Empty", ""),
        _page("Module", CAT).replace(">wikitext<", ">Scribunto<"),
    )
    assert [article.title for article in articles] == ["Cat", "Old"]
    lead = Section("", ("The cat sat on the mat.", "The dog lay on the rug."))
    assert articles[0].sections == (lead,)


def test_the_last_revision_counts(tmp_path):
    old = "<revision><text>This is the older revision.</text></revision>"
    page = _page("Cat", CAT).replace("<revision>", old + "<revision>")
    assert sentences(_read(tmp_path, page))[0] == "The cat sat on the mat."


@pytest.mark.parametrize("version", ["0.3", "0.11"])
@pytest.mark.parametrize("compress", [bytes, bz2.compress, gzip_compress])
def test_versions_and_compressions(tmp_path, version, compress):
    path = tmp_path / "dump"  # the name says nothing: the first bytes do
    path.write_bytes(compress(_dump(_page("Cat", CAT), version=version).encode()))
    assert [article.title for article in read_articles(path)] == ["Cat"]


@pytest.mark.parametrize(
    "markup",
    [
        *("<b>", "{{", "[[", "{|\n", "<ref>", "{{{a|", "{{a|", "[[a|", "<p>x", "<b a='"),
        *(
            "[http://a ",
            "\n" + "*" * 300,
            "= a ",  # of which the parser dies
            "<!--",
            "<nowiki>",
            "<math>{{a|",
            "{{a|[[b|}}]]",
            "<math>x</math>{{n}",
        ),
    ],
)
def test_a_page_of_markup_that_is_never_closed_is_left_out_with_a_warning(tmp_path, markup):
    """The parser would take minutes for it."""
    pages = (_page("Hostile", markup * 20_000 + CAT), _page("Cat", CAT))
    with pytest.warns(UserWarning, match=r"dump\.xml: the page 'Hostile' is left out: more than"):
        articles = _read(tmp_path, *pages)
    assert [article.title for article in articles] == ["Cat"]


def test_a_small_file_that_is_decompressed_to_no_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia, "MOST_BYTES", 2**20)
    dump = _dump(_page("Cat", CAT), _page("Endless", "a" * 2**21), _page("Dog", CAT))
    (tmp_path / "dump").write_bytes(bz2.compress(dump.encode()))
    with pytest.raises(ValueError, match=r"dump: .*one of its elements has more than 1,048,576"):
        list(read_articles(tmp_path / "dump"))
    (tmp_path / "dump").write_text(_dump(*[_page("Cat", CAT * 200)] * 300))  # together they may
    assert len(list(read_articles(tmp_path / "dump"))) == 300


def test_a_heading_of_many_signs_is_looked_at_in_linear_time():
    assert not wikipedia._is_unclosed("== a " * 150)  # once two ways to read each "==": 2**150
    assert wikipedia._is_unclosed("== a " * 250)


def test_much_markup_that_is_closed_is_no_reason_to_leave_a_page_out(tmp_path):
    text = (
        "<!-- {{ [[ --> <br> <ref name=a/> <ref>x</ref> [http://a b] [http://c\n<nowiki>{{</nowiki>"
        "<math>{{a}_b</math> {{c|[[d]]}} {|\n|}\n''e''\n"
    )
    articles = _read(tmp_path, _page("Cat", text * (wikipedia.MOST_OPEN + 1) + "\n\n" + CAT))
    assert [article.title for article in articles] == ["Cat"]


def test_patterns_read_a_long_run_of_signs_once():
    """From each place of the run anew it would be 40,000 million steps."""
    signs = ",;" * 200_000
    assert wikipedia._paragraphs(f"a{signs}b") == [f"a{signs}b"]
    assert wikipedia._paragraphs(f"(a{signs})") == ["(a)"]
    items = wikipedia._LIST_ITEM * 200_000
    assert wikipedia._paragraphs(f"a\n{items}b\nc") == ["a b", "c"]
    assert wikipedia._paragraphs(items) == []


def test_progress_bar(tmp_path, capsys):
    path = tmp_path / "dump.xml"
    path.write_text(_dump(_page("Cat", CAT)))
    list(read_articles(path, progress=True))
    assert "dump.xml" in capsys.readouterr().err


# --- Markup ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("The '''cat''' sat on the ''mat''.", "The cat sat on the mat."),
        ("The [[cat]] sat on [[Mat (floor)|the mat]].", "The cat sat on the mat."),
        ("The cat[[File:A.jpg|thumb|The [[cat]] sleeps.]] sat there.", "The cat sat there."),
        ("The cat[[Datei:A.jpg|thumb|It sleeps.]] sat there.", "The cat sat there."),
        ("[[Category:Cats]]The cat sat there.[[fr:Chat]]", "The cat sat there."),
        ("See also [[:Category:Cats]] for more.", "See also Category:Cats for more."),
        ("The cat<ref name=a>Smith, p. 3.</ref> sat there.<ref name=a/>", "The cat sat there."),
        ("The cat<!-- a comment --> sat there &ndash; asleep.", "The cat sat there – asleep."),
        ("The cat {{citation needed|date=May 2015}} sat there.", "The cat sat there."),
        ("The cat ({{IPAc-en|k|æ|t}}; {{respell|KAT}}) sat there.", "The cat sat there."),
        ("The cat ({{lang-la|felis}}, a pet) sat there.", "The cat (a pet) sat there."),
        ("It ran {{convert|5|to|8|km|mi}} that day.", "It ran 5 to 8 km that day."),
        ("It ran {{convert|1300|mi|km}} that day.", "It ran 1300 mi that day."),
        ("{{As of|2014}}, the cat sat there.", "As of 2014, the cat sat there."),
        ("It sat, {{as of|2014|5|lc=y}}, there.", "It sat, as of 2014, there."),
        ("The word {{lang|fr|''chat''}} means cat.", "The word chat means cat."),
        ("It holds {{chem|H|2|O}} and 10<sup>6</sup> ions.", "It holds H2O and 10⁶ ions."),
        ("See [http://cat.org the cat site] or [http://x.y] there.", "See the cat site or there."),
        ("One line\nand the next.", "One line and the next."),
        ("__NOTOC__\nThe cat <small>sat</small> there.", "The cat sat there."),
        ("{| class=x\n| The cell is a table's.\n|}\nThe cat sat there.", "The cat sat there."),
        (
            "<gallery>\nA.jpg|The cat sat here.\n</gallery>\nThe cat sat there.",
            "The cat sat there.",
        ),
    ],
)
def test_markup_is_stripped(tmp_path, wikitext, expected):
    assert _sentences_of(tmp_path, wikitext) == [expected]


@pytest.mark.parametrize(
    "wikitext",
    [
        "Too short, this.",
        "No stop at the end of this line",
        "1 2 3 4 5.",
        "Let <math>x</math> be a real number.",
        "Let {{math|x}} be a real number.",
        "The broken <ref>reference never ends.",
        "Smith, Cats and their Mats, ISBN 0-14-022697-4.",
        'style="a"|The leftover of a table.',
    ],
)
def test_what_is_no_sentence_is_dropped(tmp_path, wikitext):
    text = f"{wikitext}\n\nThe cat sat on the mat."
    kept = _sentences_of(tmp_path, text)
    assert wikitext not in kept
    assert kept in (["The cat sat on the mat."], [])  # an open <ref> may swallow what follows


def test_paragraphs_and_list_items_stay_apart(tmp_path):
    text = "The lead has no stop\n\nThe cat sat there.\n* The first item is here.\n* Second\n"
    assert _sentences_of(tmp_path, text + "A new line. It goes on here.") == [
        "The cat sat there.",
        "The first item is here.",
        "It goes on here.",
    ]


def test_abbreviations_do_not_end_a_sentence(tmp_path):
    text = "Dr. Smith met J. R. R. Tolkien at 3 p.m. on May 5. They spoke, e.g., of cats."
    assert len(_sentences_of(tmp_path, text)) == 2


def test_sections_and_skipped_sections(tmp_path):
    text = (
        "The lead is here now.\n== Life ==\nHer life was long.\n"
        "=== ''Youth'' ===\nShe was young once.\n"
        "== See also ==\nThis list is dropped.\n=== More ===\nThis one is, too.\n"
        "== Empty ==\n{{main|Nothing}}\n== Death ==\nShe died at last.\n"
    )
    (article,) = _read(tmp_path, _page("Her", text))
    assert article.sections == (
        Section("", ("The lead is here now.",)),
        Section("Life", ("Her life was long.",)),
        Section("Youth", ("She was young once.",)),
        Section("Death", ("She died at last.",)),
    )
    (kept,) = read_articles(tmp_path / "dump.xml", skipped_sections=["death"])
    assert [section.heading for section in kept.sections][-2:] == ["See also", "More"]


# --- Bad input -------------------------------------------------------------------------------


def test_missing_file_is_told_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.xml"):
        read_articles(tmp_path / "none.xml")  # before the first article is asked for


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bz2.compress(_dump(_page("Cat", CAT)).encode())[:-20], r"the compressed file is cut off"),
        (gzip_compress(_dump(_page("Cat", CAT)).encode())[:-20], r"the compressed file is cut off"),
        (b"BZh9 is no bz2 file", r"not a readable MediaWiki dump"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xff\xff\xff\xff", r"not a readable MediaWiki"),
        (_dump(_page("Cat", CAT)).encode()[:-30], r"not well-formed.*line \d+, column \d+"),
        (b"", r"not well-formed.*no element found"),
        (b"<html><body>Not found</body></html>", r"root element is <html>, not <mediawiki>"),
        (_dump(_page("Caf\xe9", CAT)).encode("latin-1"), r"not well-formed UTF-8.*line 1, column"),
        (_dump(_page("Cat", CAT, "<ns>zero</ns>")).encode(), r"not a readable.*'zero'"),
    ],
)
def test_broken_dump(tmp_path, data, message):
    path = tmp_path / "broken.xml"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"broken\.xml: .*{message}.*\.$"):
        list(read_articles(path))


# --- Splits and triplets ---------------------------------------------------------------------


def _article(title: str, *lengths: int) -> Article:
    return Article(
        title,
        tuple(
            Section(f"Section {i}" if i else "", tuple(f"{title} {i} {j}." for j in range(length)))
            for i, length in enumerate(lengths)
        ),
    )


ARTICLES = [_article(f"Article {i}", 2, 3, 4, 1) for i in range(200)]


def test_split_depends_on_title_and_seed_alone():
    train, test = split_articles(ARTICLES, 0.25, seed=0)
    assert len(train) + len(test) == 200
    assert 30 <= len(test) <= 70
    assert [a for a in ARTICLES if a in test] == test  # the order is kept
    assert split_articles(reversed(ARTICLES), 0.25, seed=0)[1] == test[::-1]
    assert split_articles(ARTICLES[:50], 0.25, seed=0)[1] == [a for a in test if a in ARTICLES[:50]]
    assert split_articles(ARTICLES, 0.25, seed=1)[1] != test
    # A smaller test side is a part of a larger one.
    assert set(split_articles(ARTICLES, 0.1, seed=0)[1]) < set(test)
    assert split_articles(ARTICLES, 0.0, seed=0) == (ARTICLES, [])
    assert split_articles(ARTICLES, 1.0, seed=0) == ([], ARTICLES)


def test_split_is_the_same_in_another_process():
    code = (
        "from simcse_jax.data.wikipedia import Article, split_articles\n"
        "articles = [Article(f'Article {i}', ()) for i in range(30)]\n"
        "print([a.title for a in split_articles(articles, 0.3, 0)[1]])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True
    )
    expected = [a.title for a in split_articles(ARTICLES[:30], 0.3, 0)[1]]
    assert run.stdout.strip() == str(expected), run.stderr


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_split_fraction_outside_the_unit_interval(fraction):
    with pytest.raises(ValueError, match="test_fraction"):
        split_articles(ARTICLES, fraction, seed=0)


def test_triplets_keep_to_their_sections():
    triplets = section_triplets(ARTICLES, seed=0)
    # Sections of 3 and 4 sentences give an anchor each; the lead and the single one give none.
    assert len(triplets) == 7 * len(ARTICLES)
    assert len({triplet.anchor for triplet in triplets}) == len(triplets)
    place = {s: (a.title, x.heading) for a in ARTICLES for x in a.sections for s in x.sentences}
    for triplet in triplets:
        assert triplet.anchor != triplet.positive
        assert place[triplet.anchor] == place[triplet.positive]
        assert place[triplet.anchor][0] == place[triplet.negative][0]
        assert place[triplet.anchor][1] != place[triplet.negative][1] != ""
    # Every partner turns up: nothing is off by one.
    first = {t.positive for t in triplets if t.anchor.endswith(" 1 0.")}
    assert {s[-4:] for s in first} == {"1 1.", "1 2."}
    assert {t.negative[-4:-2] for t in triplets} == {"1 ", "2 ", "3 "}


def test_triplets_are_deterministic_and_local():
    triplets = section_triplets(ARTICLES, seed=0)
    assert section_triplets(ARTICLES, seed=0) == triplets
    assert section_triplets(ARTICLES, seed=1) != triplets
    assert section_triplets(ARTICLES[3:4], seed=0) == triplets[21:28]
    few = section_triplets(ARTICLES, seed=0, per_article=2)
    assert few == [triplets[7 * i + j] for i in range(len(ARTICLES)) for j in range(2)]
    assert len(section_triplets(ARTICLES, seed=0, lead=True)) == 9 * len(ARTICLES)
    with pytest.raises(ValueError, match="per_article"):
        section_triplets(ARTICLES, seed=0, per_article=0)


def test_repeated_sentences_make_no_degenerate_triplet():
    again = Article(
        "Again", (Section("One", ("A a.", "A a.", "B b.")), Section("Two", ("A a.", "C c.")))
    )
    assert set(section_triplets([again], seed=0)) == {
        SectionTriplet("A a.", "B b.", "C c."),
        SectionTriplet("B b.", "A a.", "C c."),
        SectionTriplet("A a.", "C c.", "B b."),
        SectionTriplet("C c.", "A a.", "B b."),
    }
    assert section_triplets([_article("Short", 3, 5)], seed=0) == []  # only one headed section


# --- The excerpt in gensim's wheel -----------------------------------------------------------


def test_cache_is_read_back_repaired_and_atomic(tmp_path, monkeypatch):
    (tmp_path / "wheel").mkdir()
    dump = tmp_path / "wheel" / wikipedia._EMBEDDED_DUMP
    dump.write_bytes(bz2.compress(_dump(_page("Café", CAT)).encode()))
    monkeypatch.setattr(wikipedia, "gensim_test_data", lambda: tmp_path / "wheel")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    articles = embedded_wikipedia()
    (cache,) = (tmp_path / "cache" / "simcse_jax").iterdir()  # nothing but the finished file

    with monkeypatch.context() as patch:
        patch.setattr(wikipedia, "read_articles", lambda *_, **__: pytest.fail("parsed again"))
        assert embedded_wikipedia() == articles
    cache.write_text('["Café", [["", [')
    assert embedded_wikipedia() == articles
    assert embedded_wikipedia(tmp_path / "elsewhere") == articles
    # Another parser version must not read this one's cache.
    monkeypatch.setattr(wikipedia, "PARSER_VERSION", -1)
    embedded_wikipedia()
    assert len(list(cache.parent.iterdir())) == 2


def test_cache_that_cannot_be_written_only_warns(tmp_path, monkeypatch):
    dump = tmp_path / wikipedia._EMBEDDED_DUMP
    dump.write_bytes(bz2.compress(_dump(_page("Cat", CAT)).encode()))
    monkeypatch.setattr(wikipedia, "gensim_test_data", lambda: tmp_path)
    with pytest.warns(UserWarning, match="cannot write .* it is parsed anew"):
        articles = embedded_wikipedia(dump / "a file is no folder")
    assert [article.title for article in articles] == ["Cat"]


def test_interrupted_write_leaves_nothing(tmp_path):
    def broken():
        yield ARTICLES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wikipedia._write_cache(tmp_path / "cache.jsonl", broken())
    assert list(tmp_path.iterdir()) == []


def test_first_articles_of_the_embedded_dump():
    articles = read_articles(gensim_test_data() / wikipedia._EMBEDDED_DUMP)
    anarchism, autism = next(articles), next(articles)
    articles.close()
    assert (anarchism.title, autism.title) == ("Anarchism", "Autism")
    assert sentences([anarchism])[0] == (
        "Anarchism is a political philosophy that advocates self-governed societies based on "
        "voluntary institutions."
    )
    assert len(anarchism.sections) > 10


@pytest.mark.slow
def test_the_whole_embedded_dump(tmp_path):
    articles = embedded_wikipedia(tmp_path)
    assert len(articles) == 104
    assert 1_400 < sum(len(article.sections) for article in articles) < 1_600
    found = sentences(articles)
    assert 18_000 < len(found) < 20_000
    assert not [
        s for s in found if any(sign in s for sign in ("[[", "{{", "''", "\ue000", "\ue001"))
    ]
    assert len(section_triplets(articles, seed=0)) > 15_000


def test_another_language_in_utf16():
    (article,) = read_articles(gensim_test_data() / BULGARIAN)
    assert article.title == "Григориански календар"
    assert [section.heading for section in article.sections] == [
        "",
        "Описание",
        "Григорианската промяна",
    ]
    # "г." (year) does not end a sentence: the dump's xml:lang reaches the splitter.
    assert "4 октомври 1582 г. в съответствие" in article.sections[0].sentences[1]
