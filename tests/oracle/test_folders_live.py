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
    pytest.mark.filterwarnings("ignore:.* w(as|ere) cut to"),
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
    expected = theirs.encode(TEXTS)
    # Of the largest number: a LayerNorm makes it 8, and float32's rounding grows with it.
    scale = np.abs(expected).max()
    np.testing.assert_allclose(ours.encode(TEXTS), expected, atol=1e-5 * scale, rtol=0)
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


MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def built(*after, pooling="mean", start=None):
    """A model of sentence-transformers: the embedded encoder, a pooling, and modules after it."""
    modules, base = st.sentence_transformer.modules, st.base.modules
    torch.manual_seed(0)
    transformer = start or base.Transformer(str(minilm_folder()))
    pool = modules.Pooling(384, pooling)
    return st.SentenceTransformer(modules=[transformer, pool, *after], device="cpu")


@pytest.mark.parametrize("pooling", [*MODES, ("cls", "mean"), ("lasttoken", "max", "cls"), MODES])
def test_every_pooling_and_their_concatenations(pooling, tmp_path):
    built(pooling=pooling).save_pretrained(str(tmp_path / "model"))
    compare_saved(tmp_path / "model", tmp_path)


def dense(inputs, outputs, activation, **options):
    module = st.base.modules.Dense(inputs, outputs, activation_function=activation, **options)
    with torch.no_grad():
        module.linear.weight.mul_(3)  # out of the range where tanh is nearly the identity
    return module


def layer_norm(dim):
    module = st.sentence_transformer.modules.LayerNorm(dim)
    with torch.no_grad():
        module.norm.weight.add_(torch.randn(dim))
        module.norm.bias.add_(torch.randn(dim))
    return module


ENDS = {
    "Dense Tanh": lambda: [dense(384, 30, torch.nn.Tanh())],
    "Dense Tanh, Normalize": lambda: [dense(384, 30, torch.nn.Tanh()), normalize()],
    "Normalize, Dense": lambda: [normalize(), dense(384, 30, torch.nn.Identity(), bias=False)],
    "Dense, Normalize, Dense Tanh, Normalize": lambda: [
        dense(384, 30, torch.nn.Identity()),
        normalize(),
        dense(30, 20, torch.nn.Tanh()),
        normalize(),
    ],
    "LayerNorm": lambda: [layer_norm(384)],
    "Dense, LayerNorm, Dense, Dense Tanh": lambda: [
        dense(384, 40, torch.nn.Identity()),
        layer_norm(40),
        dense(40, 20, torch.nn.Identity()),
        dense(20, 10, torch.nn.Tanh()),
    ],
    "Normalize, Normalize": lambda: [normalize(), normalize()],
    "Normalize, Dropout": lambda: [normalize(), st.sentence_transformer.modules.Dropout(0.3)],
    "Dropout, Dense": lambda: [
        st.sentence_transformer.modules.Dropout(0.3),
        dense(384, 8, torch.nn.Identity()),
    ],
}


def normalize():
    return st.base.modules.Normalize()


@pytest.mark.parametrize("end", ENDS)
def test_modules_after_the_pooling_in_any_order(end, tmp_path):
    built(*ENDS[end]()).save_pretrained(str(tmp_path / "model"))
    compare_saved(tmp_path / "model", tmp_path)


@pytest.mark.parametrize("pooling", ["first-last", "embedding-last", "last-2", "layer-3"])
def test_weighted_layers(pooling, tmp_path):
    """As we write them; sentence-transformers reads and writes them, and we read its folder."""
    ours = SentenceEncoder.from_pretrained("minilm", pooling=pooling)
    ours.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "simcse_jax.json").unlink()
    assert compare_saved(tmp_path / "model", tmp_path).settings.pooling == pooling


def test_other_weights_of_layers_are_refused(tmp_path):
    ours = SentenceEncoder.from_pretrained("minilm", pooling="first-last")
    ours.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "simcse_jax.json").unlink()
    from safetensors.numpy import load_file, save_file

    file = tmp_path / "model" / "1_WeightedLayerPooling" / "model.safetensors"
    weights = load_file(file)["layer_weights"]
    weights[2] = 0.5
    save_file({"layer_weights": weights}, file)
    with pytest.raises(ValueError, match="only the mean of one layer"):
        SentenceEncoder.from_pretrained(tmp_path / "model")


def test_the_encoder_in_a_folder_of_its_own(folder, tmp_path):
    """As sentence-transformers 0 and 1 wrote it."""
    inner = folder / "0_Transformer"
    inner.mkdir()
    keep = {"modules.json", "config_sentence_transformers.json"}
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in keep:
            path.rename(inner / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    compare_saved(folder, tmp_path)


@pytest.mark.parametrize(
    "prompts",
    [
        {"query": "a query: ", "document": "a document: "},
        {"query": "a query: ", "passage": "a passage: "},
        {"corpus": "a corpus: "},
        {"other": "something: "},
    ],
    ids=lambda prompts: "-".join(prompts),
)
@pytest.mark.parametrize("default", [False, True])
def test_the_options_of_encode(folder, prompts, default):
    change(
        folder / "config_sentence_transformers.json",
        prompts=prompts,
        default_prompt_name=next(iter(prompts)) if default else None,
    )
    ours, theirs = compare(folder)

    def same(name="encode", text=TEXTS, **options):
        expected = getattr(theirs, name)(text, **options)
        found = getattr(ours, name)(text, **options)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)

    same("encode_query")
    same("encode_document")
    same(text=TEXTS[0])
    same(prompt="an instruction: ")
    same(prompt="")
    same("encode_query", prompt="an instruction: ", prompt_name=next(iter(prompts)))
    for name in prompts:
        same(prompt_name=name, normalize_embeddings=True, show_progress_bar=False)
    same(truncate_dim=17)
    same(truncate_dim=17, normalize_embeddings=True, convert_to_numpy=True)
