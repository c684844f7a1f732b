"""Folders of sentence-transformers, in its old layout and today's: its vectors, or refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from simcse_jax import SentenceEncoder
from simcse_jax.data.embedded import minilm_folder

torch = pytest.importorskip("torch")
st = pytest.importorskip("sentence_transformers")

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.* were cut to"),
]

TEXTS = [
    "A man plays a flute in the park while his dog sleeps beside him on the grass.",
    "dog",
    "Zürich: naïve cafés cost €5!",
]


@pytest.fixture
def folder(tmp_path):
    """The embedded model, in the layout of sentence-transformers 2."""
    shutil.copytree(minilm_folder(), tmp_path / "model")
    return tmp_path / "model"


def change(path, **changes):
    """Change keys of a JSON file, which is made where there is none; None removes a key."""
    raw = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({k: v for k, v in {**raw, **changes}.items() if v is not None}))


def compare(folder):
    ours = SentenceEncoder.from_pretrained(folder)
    theirs = st.SentenceTransformer(str(folder), device="cpu")
    assert ours.max_length == theirs.max_seq_length
    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5, rtol=0)
    normalised = theirs.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(ours.encode(TEXTS, normalize=True), normalised, atol=1e-5, rtol=0)
    return ours, theirs


def compare_saved(folder, tmp_path):
    """As it is, saved by us, and saved by sentence-transformers, which is today's layout."""
    ours, theirs = compare(folder)
    ours.save_pretrained(tmp_path / "ours")
    (tmp_path / "ours" / "simcse_jax.json").unlink()  # they read their own files, and we do now
    compare(tmp_path / "ours")
    theirs.save_pretrained(str(tmp_path / "theirs"))
    again, _ = compare(tmp_path / "theirs")
    own = {
        name: text for name, text in again.settings.prompts.items() if text
    }  # it adds empty ones
    expected = {name: text for name, text in ours.settings.prompts.items() if text}
    assert own == expected
    assert dataclasses.replace(again.settings, prompts=ours.settings.prompts) == ours.settings
    return ours


def test_the_maximal_length_of_the_tokenizer(folder, tmp_path):
    change(folder / "tokenizer_config.json", model_max_length=7)
    change(folder / "sentence_bert_config.json", max_seq_length=None)
    assert compare_saved(folder, tmp_path).max_length == 7


def test_no_maximal_length_is_the_position_table(folder, tmp_path):
    change(folder / "tokenizer_config.json", model_max_length=None)
    (folder / "sentence_bert_config.json").unlink()
    assert compare(folder)[0].max_length == 512


def test_the_maximal_length_in_the_file_of_another_architecture(folder, tmp_path):
    (folder / "sentence_bert_config.json").rename(folder / "sentence_distilbert_config.json")
    change(folder / "sentence_distilbert_config.json", max_seq_length=6)
    assert compare_saved(folder, tmp_path).max_length == 6


def test_a_default_prompt(folder, tmp_path):
    plain = SentenceEncoder.from_pretrained(folder).encode(TEXTS)
    change(
        folder / "config_sentence_transformers.json",
        prompts={"query": "query: ", "passage": ""},
        default_prompt_name="query",
    )
    assert np.abs(compare_saved(folder, tmp_path).encode(TEXTS) - plain).max() > 0.01


@pytest.mark.parametrize("normalize", [True, False])
def test_truncated_dimensions(folder, tmp_path, normalize):
    if not normalize:
        modules = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps(modules[:2]))
    change(folder / "config_sentence_transformers.json", truncate_dim=31)
    assert compare_saved(folder, tmp_path).dimension == 31


def test_today_s_layout_with_a_dense_module(tmp_path):
    modules = st.sentence_transformer.modules
    base = st.base.modules
    transformer = base.Transformer(str(minilm_folder()))
    transformer.max_seq_length = 11
    theirs = st.SentenceTransformer(
        modules=[
            transformer,
            modules.Pooling(384, "cls"),
            base.Dense(384, 40, activation_function=torch.nn.Identity()),
            base.Dense(40, 24, bias=False, activation_function=torch.nn.Identity()),
            base.Normalize(),
        ],
        prompts={"query": "a query: "},
        default_prompt_name="query",
        truncate_dim=20,
        device="cpu",
    )
    theirs.save_pretrained(str(tmp_path / "model"))
    ours = compare_saved(tmp_path / "model", tmp_path)
    assert ours.settings.pooling == "cls"
    assert (ours.max_length, ours.dimension, ours.settings.normalize) == (11, 20, True)


def test_lower_cased_before_the_tokenizer(folder):
    """The tokenizer keeps the case, and the module asks for lower case."""
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    change(folder / "tokenizer_config.json", do_lower_case=False)
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    compare(folder)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer_config.json", {"do_lower_case": False}),
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("1_Pooling/config.json", {"pooling_mode_lasttoken": True}),
        ("config.json", {"is_decoder": True}),
    ],
)
def test_what_changes_their_vectors_is_refused_here(folder, file, changes):
    change(folder / "sentence_bert_config.json", max_seq_length=8)
    before = st.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    change(folder / file, **changes)
    after = st.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert before.shape != after.shape or np.abs(before - after).max() > 0.01
    with pytest.raises(ValueError, match=file.rpartition("/")[2]):
        SentenceEncoder.from_pretrained(folder)
