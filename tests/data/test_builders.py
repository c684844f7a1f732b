import functools
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from simcse_jax.data import builders
from simcse_jax.data.batches import TrainingBatches
from simcse_jax.data.senteval import read_sickr, read_sts, read_stsb
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.data.training_text import read_training_file
from simcse_jax.data.wikipedia import Article, Section

SENTENCES = [f"Sentence {i} of naïve “wiki” – 東京." for i in range(30)]
NLI = 'sent0,sent1,hard_neg\n"A, b.",C.,D.\nE.,,F.\n'


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "wiki1m_for_simcse.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    (folder / "nli_for_simcse.csv").write_text(NLI, encoding="utf-8")
    return folder


def configs(data_dir, name):
    return sorted(path.name for path in (data_dir / name).iterdir())


def test_sentences_from_a_folder(tmp_path, source, golden):
    text = builders.load("wiki1m_for_simcse", data_dir=tmp_path / "tfds", source=source)
    read = read_training_file(source / "wiki1m_for_simcse.txt")
    assert (text.kind, len(text)) == ("sentences", 30)
    assert text.columns == read.columns == (tuple(SENTENCES),)  # the file's order
    assert text.rows([7, 2]) == [(SENTENCES[7],), (SENTENCES[2],)]
    assert (text.fingerprint, text.description) == (read.fingerprint, read.description)
    assert list((tmp_path / "tfds").rglob("*.array_record*"))
    assert "tensorflow" not in sys.modules

    tokenizer = Tokenizer.from_folder(golden / "tiny-bert")
    batches = [TrainingBatches(t, tokenizer, 8).batch(5) for t in (text, read)]
    np.testing.assert_array_equal(batches[0].rows.input_ids, batches[1].rows.input_ids)


def test_triplets_from_a_file(tmp_path, source):
    file = source / "nli_for_simcse.csv"
    text = builders.load("nli_for_simcse", data_dir=tmp_path / "tfds", source=file)
    assert text.kind == "triplets"
    assert text.rows(range(2)) == [("A, b.", "C.", "D."), ("E.", " ", "F.")]
    assert text.fingerprint == read_training_file(file).fingerprint


def test_it_is_prepared_once_and_anew_when_the_source_changed(tmp_path, source, monkeypatch):
    data_dir = tmp_path / "tfds"
    load = functools.partial(builders.load, "wiki1m_for_simcse", data_dir=data_dir, source=source)
    first = load()
    with monkeypatch.context() as patch:
        patch.setattr(builders, "read_training_file", None)  # would fail if it were read again
        again = load()
    assert (again.columns, again.fingerprint) == (first.columns, first.fingerprint)
    assert again.description == first.description
    (source / "wiki1m_for_simcse.txt").write_text("Another.\n")
    assert load().columns == (("Another.",),)
    assert len(configs(data_dir, "wiki1m_for_simcse")) == 2


def test_the_published_files_are_downloaded(tmp_path, source, monkeypatch):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=source))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setattr(builders, "_ADDRESS", f"http://127.0.0.1:{server.server_port}/")
        wiki = builders.load("wiki1m_for_simcse", data_dir=tmp_path / "tfds")
        nli = builders.load("nli_for_simcse", data_dir=tmp_path / "tfds")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert wiki.columns == (tuple(SENTENCES),)
    assert nli.rows([0]) == [("A, b.", "C.", "D.")]
    assert configs(tmp_path / "tfds", "wiki1m_for_simcse") == ["published"]
    # From now on neither the network nor the download is needed.
    assert builders.load("nli_for_simcse", data_dir=tmp_path / "tfds").columns == nli.columns


def test_the_sts_suite(tmp_path, shared_data):
    data_dir, folder = tmp_path / "tfds", tmp_path / "senteval"
    whole = shared_data / "senteval"
    for file in (*whole.glob("STS/*/*"), *whole.glob("SICK/*")):
        copy = folder / file.relative_to(whole)
        copy.parent.mkdir(parents=True, exist_ok=True)
        # All 20,000 pairs would take a quarter of a minute.
        copy.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:40]))
    tasks = builders.load("senteval_sts", data_dir=data_dir, source=folder)
    expected = read_sts(folder)
    assert list(tasks) == list(expected)
    for name, task in expected.items():
        assert [subset.name for subset in tasks[name].subsets] == [s.name for s in task.subsets]
        for got, want in zip(tasks[name].subsets, task.subsets, strict=True):
            assert (got.sentences1, got.sentences2) == (want.sentences1, want.sentences2)
            np.testing.assert_array_equal(got.scores, want.scores)
    dev = builders.load("senteval_sts", data_dir=data_dir, split="dev")  # prepared before
    for name, want in (("STS-B", read_stsb(folder, "dev")), ("SICK-R", read_sickr(folder, "dev"))):
        assert dev[name].subsets[0].sentences1 == want.sentences1
        np.testing.assert_array_equal(dev[name].subsets[0].scores, want.scores)


def test_the_embedded_wikipedia(tmp_path, monkeypatch):
    def articles(*sentences):
        return lambda: [Article("T", (Section("", sentences[:1]), Section("H", sentences[1:])))]

    monkeypatch.setattr(builders.wikipedia, "embedded_wikipedia", articles("One.", "Two.", "3."))
    text = builders.load("embedded_wikipedia", data_dir=tmp_path)
    assert text.columns == (("One.", "Two.", "3."),)
    monkeypatch.setattr(builders.wikipedia, "embedded_wikipedia", articles("One.", "2."))
    assert builders.load("embedded_wikipedia", data_dir=tmp_path).columns == (("One.", "2."),)
    with pytest.raises(ValueError, match="read from gensim's wheel; leave the source out"):
        builders.load("embedded_wikipedia", data_dir=tmp_path, source=tmp_path)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_says_where_and_leaves_nothing_behind(tmp_path, source):
    load = functools.partial(builders.load, data_dir=tmp_path / "tfds")
    with pytest.raises(ValueError, match="no text 'wiki'; choose from wiki1m_for_simcse, "):
        load("wiki")
    with pytest.raises(FileNotFoundError, match="gone does not exist; give the file or folder"):
        load("nli_for_simcse", source=tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"lacks nli_for_simcse\.csv; give the folder"):
        load("nli_for_simcse", source=tmp_path)
    with pytest.raises(FileNotFoundError, match="senteval_sts is not prepared in"):
        load("senteval_sts")
    with pytest.raises(FileNotFoundError, match=r"lacks 50 of 50 files \(STS/STS12-en-test/"):
        load("senteval_sts", source=tmp_path)
    with pytest.raises(ValueError, match="senteval_sts has no split 'all'; it has train, dev"):
        load("senteval_sts", split="all")
    with pytest.raises(ValueError, match="nli_for_simcse has no split 'test'"):
        load("nli_for_simcse", split="test")
    with pytest.raises(ValueError, match="has sentences, but nli_for_simcse needs triplets"):
        load("nli_for_simcse", source=source / "wiki1m_for_simcse.txt")
    (source / "nli_for_simcse.csv").write_text("sent0,sent1,hard_neg\na,b\n")
    with pytest.raises(ValueError, match=r"nli_for_simcse\.csv, line 2: too few columns"):
        load("nli_for_simcse", source=source)
    assert not [path for path in (tmp_path / "tfds").rglob("*") if path.is_file()]
