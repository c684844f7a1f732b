"""SentenceEncoder: the same embeddings as sentence-transformers, whatever the batching."""

import dataclasses
import json
import os
import shutil
import warnings

import jax
import numpy as np
import pytest
import tokenizers
from safetensors import safe_open
from safetensors.numpy import load_file

from simcse_jax import SentenceEncoder, cosine_similarity
from simcse_jax.data.encode_batches import encode_batches, row_counts
from simcse_jax.data.packing import pack_rows
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.encoder import embed
from simcse_jax.hub import find_model
from simcse_jax.hub.settings import _read_own
from simcse_jax.models import SentenceModel, one_a_row
from simcse_jax.transforms import Whitening


@pytest.fixture(scope="module")
def minilm():
    return SentenceEncoder.from_pretrained("minilm")


@pytest.fixture(params=["tiny-bert", "tiny-roberta"])
def tiny(request, golden):
    return SentenceEncoder.from_pretrained(golden / request.param, pooling="mean")


TEXTS = ["a man plays a flute", "dog", "", "  ", "a loud cat eats food in the park", "dog"]


def a_sentence_a_row(encoder, sentences):
    ids = encoder.tokenizer(sentences, encoder.max_length)[0]
    mask = np.arange(max(map(len, ids)))[None] < np.array([len(i) for i in ids])[:, None]
    rows = np.zeros(mask.shape, np.int32)
    rows[mask] = np.concatenate(ids)
    return one_a_row(rows, mask)


def model_of(encoder):
    pooling = encoder.settings.pooling
    return SentenceModel(encoder.config, pooling, "pooler" if pooling == "pooler" else None)


def unpacked(encoder, sentences):
    """The plain way: a sentence a row, padded to the longest."""
    batch = a_sentence_a_row(encoder, sentences)
    plain = jax.jit(lambda params: embed(model_of(encoder), params, batch, len(sentences)))
    return plain(encoder.params)


TINY_POOLINGS = ("cls", "pooler", "mean", "max", "first-last", "layer-1")
RECORDED = [
    *((f"tiny-bert {pooling}", {"pooling": pooling}) for pooling in TINY_POOLINGS),
    *((f"tiny-roberta {pooling}", {"pooling": pooling}) for pooling in TINY_POOLINGS),
    ("minilm 2 layers mean", {"num_layers": 2}),
    ("minilm 2 layers mean bfloat16", {"num_layers": 2, "dtype": "bfloat16"}),
]


@pytest.mark.parametrize(("name", "options"), RECORDED, ids=[name for name, _ in RECORDED])
@pytest.mark.filterwarnings("ignore:[12] of 5 encoded sentences w(as|ere) cut")
def test_equals_what_was_recorded(golden, name, options):
    """The vectors of commit f1efc0f, whose encoder knew padded rows too."""
    with safe_open(golden / "encode.safetensors", "np") as file:
        sentences = json.loads(file.metadata()["sentences"])
        recorded = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert set(recorded) == {name for name, _ in RECORDED} | {"flow embeddings"}
    model = name.split()[0]
    folder = model if model == "minilm" else golden / model
    found = SentenceEncoder.from_pretrained(folder, **options).encode(sentences)
    if not name.endswith("bfloat16"):
        np.testing.assert_allclose(found, recorded[name], atol=1e-6, rtol=1e-6)
        return
    # Which way a sum is rounded is the processor's choice, so that no element has one right value
    # in bfloat16; how far the vectors lie from those of float32 is the type's. Most of that is the
    # weights' rounding, which all processors share, so that the recorded vectors are nearer. (Not
    # by --xla_allow_excess_precision=false, which rounds after each operation of a fusion too.)
    exact = recorded[name.removesuffix(" bfloat16")]
    of_the_type = recorded[name] - exact
    np.testing.assert_allclose(rms(found - exact), rms(of_the_type), rtol=0.25)
    assert rms(found - recorded[name]) < rms(of_the_type)
    assert abs(found - recorded[name]).max() < abs(of_the_type).max()


def rms(difference):
    return np.sqrt(np.mean(difference**2))


def test_a_key_switches_dropout_on_and_each_sentence_has_its_own(golden):
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    batch = a_sentence_a_row(encoder, ["dog", "dog", "cat"])
    run = jax.jit(lambda key: embed(model_of(encoder), encoder.params, batch, 3, key))
    first = np.asarray(run(jax.random.key(0)))
    assert not np.allclose(first[0], first[1])
    np.testing.assert_array_equal(first, run(jax.random.key(0)))
    assert not np.allclose(first, run(jax.random.key(1)))
    # The masks of `encode`, which folds in the numbers of chunk and batch, whatever the layout.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 0), 0)
    found = encoder.encode(["dog", "dog", "cat"], dropout_seed=5, normalize=False)
    np.testing.assert_allclose(found, run(key), atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_equals_sentence_transformers(golden, pooling):
    sentences = json.loads((golden / "minilm_sentences.json").read_text())
    expected = load_file(golden / "minilm.safetensors")[pooling]
    encoder = SentenceEncoder.from_pretrained("minilm", pooling=pooling, normalize=False)
    np.testing.assert_allclose(encoder.encode(sentences), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["cls", "pooler", "mean", "max", "first-last", "layer-1"])
def test_packing_changes_nothing(golden, pooling):
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling=pooling)
    np.testing.assert_allclose(encoder.encode(TEXTS), unpacked(encoder, TEXTS), atol=1e-6)


def test_neither_batch_size_nor_chunks_change_anything(tiny, monkeypatch):
    texts = [" ".join(["cat"] * (i % 17)) + " dog" * (i % 3) for i in range(150)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are cut; that is tested elsewhere
        expected = unpacked(tiny, texts)
        for size in (1, 7, 64, 500):
            np.testing.assert_allclose(tiny.encode(texts, batch_size=size), expected, atol=1e-6)
        monkeypatch.setattr("simcse_jax.encoder.CHUNK", 16)
        np.testing.assert_allclose(tiny.encode(texts), expected, atol=1e-6)


def test_eight_devices_give_the_same(golden):
    eight = SentenceEncoder.from_pretrained(
        golden / "tiny-bert", pooling="mean", devices=jax.devices()
    )
    one = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    assert len(jax.devices()) == 8
    np.testing.assert_allclose(eight.encode(TEXTS), one.encode(TEXTS), atol=1e-6)


def test_no_more_than_a_dozen_shapes(minilm):
    rng = np.random.default_rng(0)
    shapes = set()
    for n in (1, 5, 80, 700, 3000):
        lengths = np.minimum(rng.geometric(0.03, n) + 1, 512)
        ids = [np.zeros(i, np.int32) for i in lengths]
        seen = []
        for batch, order in encode_batches(ids, 512, 1024, 1):
            shapes.add(batch.input_ids.shape)
            seen += order
        assert sorted(seen) == list(range(n))
    assert len(shapes) <= 12


@pytest.mark.parametrize("size", [64, 10_000, 10**9])
def test_a_batch_is_never_larger_than_the_work(tiny, monkeypatch, size):
    """And the shapes are few: those of the usual batch, of four times it, sixteen times, …"""
    shapes = []

    def recorded(*args):
        for batch, order in encode_batches(*args):
            shapes.append(batch.input_ids.shape)
            yield batch, order

    monkeypatch.setattr("simcse_jax.encoder.encode_batches", recorded)
    tiny.encode(["a dog"], batch_size=size)
    assert shapes == [(1, 64)]
    for n in (100, 300, 1000):
        shapes.clear()
        texts = ["dog " * (i % 20) + f"{i}" for i in range(n)]
        tiny.encode(texts, batch_size=size, max_length=24)
        tokens = sum(min(len(i), 24) for i in tiny.tokenizer(texts)[0])
        assert sum(rows * length for rows, length in shapes) < 2 * tokens
        assert all(rows * length <= 4 * max(tokens, 1024) for rows, length in shapes)


def test_rows_are_packed_tightly():
    lengths = np.random.default_rng(0).integers(5, 40, 1000).tolist()
    rows = pack_rows(lengths, 64)
    assert sorted(i for row in rows for i in row) == list(range(1000))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 64
    assert sum(lengths) / (64 * len(rows)) > 0.95


def test_rows_are_split_into_few_batch_sizes():
    for rows in range(200):
        counts = row_counts(rows, 16, 1)
        assert sum(counts) >= rows
        assert sum(counts) < 2 * max(rows, 1)
        assert set(counts) <= {16, 4, 1}
        assert all(c % 8 == 0 for c in row_counts(rows, 32, 8))


def test_empty_list_and_blank_strings(tiny):
    assert tiny.encode([]).shape == (0, 32)
    vectors = tiny.encode(["", "   "])
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()


@pytest.mark.usefixtures("unchecked")
def test_what_is_not_a_list_of_strings(tiny):
    with pytest.raises(TypeError, match="sentence 1 is a int"):
        tiny.encode(["dog", 3])


@pytest.mark.parametrize("max_length", [0, 1, 25, -1])
def test_a_maximal_length_that_cannot_be_is_refused_before_loading(golden, max_length):
    with pytest.raises(ValueError, match=f"max_length is {max_length}; this model takes 2 to 24"):
        SentenceEncoder.from_pretrained(golden / "tiny-bert", max_length=max_length)


def test_a_token_that_the_model_lacks_is_refused(tiny):
    """JAX would take the last word's vector instead."""
    backend = tokenizers.Tokenizer.from_str(tiny.tokenizer.backend.to_str())
    backend.add_tokens(["zebra"])
    tokenizer = Tokenizer(backend)
    other = SentenceEncoder(tiny.config, tiny.params, tokenizer)
    np.testing.assert_array_equal(other.encode(["a dog"]), tiny.encode(["a dog"]))
    with pytest.raises(ValueError, match="'a zebra' has the token 64; the model knows 64"):
        other.encode(["a dog", "a zebra"])


def test_a_sentence_without_tokens_is_refused(tiny):
    """Its vector would be whatever was in memory."""
    raw = json.loads(tiny.tokenizer.backend.to_str())
    backend = tokenizers.Tokenizer.from_str(json.dumps(raw | {"post_processor": None}))
    other = SentenceEncoder(tiny.config, tiny.params, Tokenizer(backend))
    with pytest.raises(ValueError, match="'' has no tokens; the model's tokenizer adds no special"):
        other.encode(["a dog", ""])


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_what_is_no_file_is_not_waited_for(golden, tmp_path, name):
    folder = tmp_path / "m"
    for make in (os.mkfifo, os.mkdir):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(golden / "tiny-bert", folder)
        (folder / name).unlink()
        make(folder / name)
        with pytest.raises(OSError, match=f"{name} is a folder, a pipe or a device"):
            SentenceEncoder.from_pretrained(folder, pooling="mean")


def test_vectors_that_are_not_finite_are_refused(golden, tmp_path):
    """Of weights that are finite, and too large."""
    start = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    params = jax.tree.map(np.asarray, start.params)
    kernel = params["encoder"]["layer_0"]["attention"]["qkv"]["kernel"]
    params["encoder"]["layer_0"]["attention"]["qkv"]["kernel"] = np.full_like(kernel, 3e38)
    encoder = SentenceEncoder(start.config, params, start.tokenizer, start.settings)
    with pytest.raises(FloatingPointError, match="vector of 'a dog' holds NaN or infinite numbers"):
        encoder.encode(["a dog"])


def test_a_tokenizer_that_is_broken(golden, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(golden / "tiny-bert", folder)
    whole = (folder / "tokenizer.json").read_text()
    for broken in ("", "{", "[]", "{}", whole[:-20], whole.replace("WordPiece", "Word"), "\xff"):
        (folder / "tokenizer.json").write_text(broken)
        with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer: "):
            Tokenizer.from_folder(folder)
    raw = json.loads(whole)
    nested = {"type": "Sequence", "normalizers": [raw["normalizer"], ["x"]]}
    processors = {"type": "Sequence", "processors": [[["[SEP]", 5], ["[CLS]", 4]]]}
    for part, value in (
        *(("normalizer", ["x"]), ("normalizer", [[]]), ("decoder", ["x"])),
        *(("normalizer", nested), ("post_processor", processors)),
    ):
        (folder / "tokenizer.json").write_text(json.dumps(raw | {part: value}))
        with pytest.raises(ValueError, match=rf"json is not a tokenizer: its {part} is \["):
            Tokenizer.from_folder(folder)
    for vocabulary in ({}, raw["model"]["vocab"] | {"dog": 2**31}):
        raw["model"]["vocab"] = vocabulary
        (folder / "tokenizer.json").write_text(json.dumps(raw))
        with pytest.raises(ValueError, match="the model's tokenizer does not work: .*"):
            Tokenizer.from_folder(folder)(["a dog"])
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("[1]")
    with pytest.raises(ValueError, match="has no vocabulary that transformers reads"):
        Tokenizer.from_folder(folder)


def test_a_tokenizer_whose_two_files_disagree_is_refused(tmp_path):
    """Where they do, transformers follows tokenizer_config.json."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(find_model("minilm") / name, tmp_path)
    path = tmp_path / "tokenizer_config.json"
    said = json.loads(path.read_text())
    Tokenizer.from_folder(tmp_path)
    for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        path.write_text(json.dumps(said | {key: False}))
        with pytest.raises(ValueError, match=f"{key} is False, and tokenizer.json says"):
            Tokenizer.from_folder(tmp_path)


def test_too_long_is_cut_with_one_warning_or_refused(tiny):
    long = ["cat " * 50, "dog " * 60, "cat"]
    with pytest.warns(UserWarning, match="2 of 3 encoded sentences were cut to 24 tokens"):
        vectors = tiny.encode(long)
    assert np.isfinite(vectors).all()
    for encode in (tiny.encode_query, lambda x: tiny.similarity(x, ["a dog"])):
        with pytest.warns(UserWarning, match="encoded sentences were cut") as caught:
            encode(long)
        assert {warning.filename for warning in caught} == {__file__}
    with pytest.raises(ValueError, match="2 sentences are longer than 24 tokens"):
        tiny.encode(long, on_truncation="error")
    tiny.encode(long, max_length=8)  # asked for, so not warned of (warnings are errors here)


def test_the_longest_length_is_the_position_table(golden, tmp_path):
    whole = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    short = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean", max_length=8)
    short.save_pretrained(tmp_path / "short")
    assert SentenceEncoder.from_pretrained(tmp_path / "short").max_length == 8
    longest = SentenceEncoder.from_pretrained(tmp_path / "short", max_length="longest")
    assert longest.max_length == whole.max_length == 24
    sentence = ["cat dog " * 7]
    np.testing.assert_array_equal(longest.encode(sentence), whole.encode(sentence))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": 25}, "takes 2 to 24"),
        ({"max_length": 1}, "takes 2 to 24"),
        ({"batch_size": 0}, "at least 1"),
        ({"on_truncation": "shrug"}, "one of warn, error"),
        ({"batch_size": 2.5}, r"^batch_size is 2\.5; it must be a whole number$"),
        ({"batch_size": True}, "^batch_size is True; it must be a whole number$"),
        ({"max_length": True}, "^max_length is True; it must be a whole number$"),
        ({"max_length": "8"}, "^max_length is '8'; it must be a whole number$"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments(tiny, change, message):
    with pytest.raises(ValueError, match=message):
        tiny.encode(["dog"], **change)


def test_a_model_that_cannot_be_used_so(golden, tmp_path):
    with pytest.raises(ValueError, match="must be one of float32, bfloat16, int8"):
        SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean", dtype="float16")
    with pytest.raises(ValueError, match="is none of"):
        SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="avg")
    with pytest.raises(ValueError, match="needs layer 7 of 3"):
        SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="layer-7")
    shutil.copytree(golden / "tiny-bert", tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no tokenizer"):
        SentenceEncoder.from_pretrained(tmp_path / "m", pooling="mean")


def test_bfloat16_is_close(golden, minilm):
    sentences = json.loads((golden / "minilm_sentences.json").read_text())
    half = SentenceEncoder.from_pretrained("minilm", dtype="bfloat16").encode(sentences)
    full = minilm.encode(sentences)
    assert half.dtype == np.float32
    assert np.linalg.norm(half - full) / np.linalg.norm(full) < 1e-2


def test_normalize(golden):
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean", normalize=True)
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(TEXTS), axis=1), 1, atol=1e-6)
    raw = encoder.encode(TEXTS, normalize=False)
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1)


@pytest.mark.usefixtures("unchecked")
def test_similarity(minilm):
    first, second = ["a dog"], ["a puppy", "the stock market"]
    scores = minilm.similarity(first, second)
    assert scores.shape == (1, 2)
    assert scores[0, 0] > scores[0, 1]
    vectors = minilm.encode(first), minilm.encode(second)
    np.testing.assert_allclose(minilm.similarity(*vectors), scores, atol=1e-6)
    assert cosine_similarity(np.zeros((1, 2)), np.ones((1, 2))) == 0
    with pytest.raises(ValueError, match="cannot be compared"):
        cosine_similarity(np.zeros((1, 2)), np.ones((1, 3)))
    lists = [vector.tolist() for vector in vectors[1]]
    np.testing.assert_allclose(minilm.similarity(first, lists), scores, atol=1e-6)
    np.testing.assert_allclose(minilm.similarity("a dog", np.array(second)), scores, atol=1e-6)
    iterators = iter(first), (vector for vector in vectors[1])
    np.testing.assert_allclose(minilm.similarity(*iterators), scores, atol=1e-6)


def test_similarity_of_what_is_not_finite_is_refused(tiny):
    for value in (np.nan, np.inf):
        vectors = np.ones((3, 4), np.float32)
        vectors[1, 2] = value
        for pair in ((vectors, np.ones((2, 4), np.float32)), (np.ones((2, 4), "f4"), vectors)):
            with pytest.raises(ValueError, match="embeddings must be finite; row 1 is not"):
                tiny.similarity(*pair)


def test_a_model_that_is_compared_otherwise_says_so(golden):
    start = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    settings = dataclasses.replace(start.settings, similarity_fn_name="dot")
    encoder = SentenceEncoder(start.config, start.params, start.tokenizer, settings)
    with pytest.raises(ValueError, match="compared by 'dot'"):
        encoder.similarity(["a dog"], ["a cat"])


@pytest.mark.parametrize("pooling", ["cls", "pooler", "first-last"])
def test_saved_and_loaded(golden, tmp_path, pooling):
    encoder = SentenceEncoder.from_pretrained(
        golden / "tiny-bert", pooling=pooling, num_layers=2, normalize=True, max_length=12
    )
    encoder.save_pretrained(tmp_path / "model")
    again = SentenceEncoder.from_pretrained(tmp_path / "model")
    assert again.settings == encoder.settings
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


@pytest.mark.usefixtures("unchecked")
def test_a_number_of_layers_that_is_none_is_refused_before_loading(golden):
    for layers in (True, 1.0, 0, "1"):
        with pytest.raises(ValueError, match=f"^num_layers is {layers!r}; it must be "):
            SentenceEncoder.from_pretrained(golden / "tiny-bert", num_layers=layers)


def test_the_settings_of_a_folder_with_a_transform_are_read_once(tiny, tmp_path, monkeypatch):
    whitening = Whitening.fit(np.random.default_rng(0).normal(size=(50, 32)))
    tiny.with_transform(whitening).save_pretrained(tmp_path / "model")
    names = []
    monkeypatch.setattr(
        "simcse_jax.hub.settings._read_own", lambda f: names.append(f) or _read_own(f)
    )
    assert SentenceEncoder.from_pretrained(tmp_path / "model").transform is not None
    assert len(names) == 1


@pytest.mark.usefixtures("unchecked")
def test_arguments_that_are_no_texts_are_named(tiny):
    for options, message in (
        ({"prompt": 3}, "prompt is 3; it must be a text or None"),
        ({"prompt_name": [3]}, r"prompt_name is \[3\]; it must be a text or None"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny.encode(["a dog"], **options)
    masked = np.ma.array(["a dog", "a cat"], mask=[False, True])
    with pytest.raises(ValueError, match="sentences has masked entries"):
        tiny.encode(masked)
    vectors = tiny.encode(["a dog", "a cat"])
    with pytest.raises(ValueError, match="a has masked entries"):
        tiny.similarity(np.ma.array(vectors, mask=vectors > 0), vectors)
    assert tiny.similarity({"a dog": 1}.keys(), {"a dog"}).shape == (1, 1)


def test_a_home_folder_is_saved_to(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert tiny.save_pretrained("~/models/tiny") == tmp_path / "models" / "tiny"
    assert SentenceEncoder.from_pretrained("~/models/tiny").dimension == tiny.dimension
    assert not (tmp_path / "~").exists()
