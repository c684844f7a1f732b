"""How a folder is used: what is read of it, and what is written."""

import dataclasses
import shutil
import warnings

import jax
import numpy as np
import pytest
from hub_support import (
    assert_same,
    change_json,
    change_weights,
    load,
    make_dense,
    make_modules,
    make_pooled,
)

from simcse_jax import SentenceEncoder, hub
from simcse_jax.config import CONFIGS, replace
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.io import read_json, write_json
from simcse_jax.trainer import load_model, trained_encoder


def test_minilm_says_how_it_is_used():
    settings = hub.read_settings(hub.find_model("minilm"))
    assert settings == hub.EncoderSettings("mean", normalize=True, max_length=256)


def test_newer_and_unknown_pooling_files(tmp_path):
    make_modules(tmp_path, "Transformer", "Pooling")
    path = tmp_path / "1_Pooling" / "config.json"
    write_json(path, {"embedding_dimension": 4, "pooling_mode": "cls"})
    assert hub.read_settings(tmp_path).pooling == "cls"
    write_json(path, {"pooling_mode": ["cls", "mean"]})
    assert hub.read_settings(tmp_path).pooling == "cls+mean"
    write_json(path, {"pooling_mode_weightedmean_tokens": True})
    assert hub.read_settings(tmp_path).pooling == "weighted-mean"
    for unknown in ({"pooling_mode": "attention"}, {"pooling_mode": []}, {"pooling_mode": [1]}, {}):
        write_json(path, unknown)
        with pytest.raises(ValueError, match="is none of cls, max, mean"):
            hub.read_settings(tmp_path)


def test_a_module_without_counterpart(tmp_path):
    modules = [{"path": "", "type": "sentence_transformers.models.LSTM"}]
    write_json(tmp_path / "modules.json", modules)
    with pytest.raises(ValueError, match="the modules are LSTM; what is read"):
        hub.read_settings(tmp_path)
    modules[0]["type"] += "word " * 1000
    write_json(tmp_path / "modules.json", modules)
    with pytest.raises(ValueError, match=r"the modules are LSTMword word .*…; what is read"):
        hub.read_settings(tmp_path)


def test_saved_and_loaded(folder, tmp_path):
    config, params = load(folder)
    settings = hub.EncoderSettings("pooler", normalize=True, max_length=12)
    out = tmp_path / "deep" / "saved"
    for _ in range(2):  # the second time it replaces the first
        hub.save_model(out, config, params, settings, Tokenizer.from_folder(folder), folder)
    assert hub.read_settings(out) == settings
    assert_same(load(out), (config, params))
    assert {p.name for p in out.parent.iterdir()} == {"saved"}


def test_nothing_is_left_where_saving_fails(folder, tmp_path):
    config, params = load(folder)
    tokenizer = Tokenizer.from_folder(folder)
    (tmp_path / "file").write_text("in the way")
    settings = hub.EncoderSettings()
    with pytest.raises(NotADirectoryError, match="is a file"):
        hub.save_model(tmp_path / "file", config, params, settings, tokenizer)
    with pytest.raises(OSError, match="cannot write"):
        hub.save_model(tmp_path / "file" / "model", config, params, settings, tokenizer)

    good = tmp_path / "good"
    hub.save_model(good, config, params, settings, tokenizer)
    broken = {"encoder": {}}
    with pytest.raises(KeyError):
        hub.save_model(good, config, broken, settings, tokenizer)
    assert_same(load(good), (config, params))
    assert {p.name for p in tmp_path.iterdir()} == {"file", "good", "model"}


def test_a_pooler_that_is_not_there_cannot_be_saved(folder, tmp_path):
    config, params = load(folder)
    del params["pooler"]
    with pytest.raises(ValueError, match="needs a pooler, and this model has none"):
        hub.save_model(
            tmp_path / "x",
            config,
            params,
            hub.EncoderSettings("pooler"),
            Tokenizer.from_folder(folder),
        )


# ---------------------------------------------------------------------------------------------
# What other folders say is honoured or refused
# ---------------------------------------------------------------------------------------------


@pytest.fixture
def pooled(golden, tmp_path):
    return make_pooled(golden / "tiny-bert", tmp_path / "model")


TEXTS = ["a dog eats the cat", "a bird", "two dogs eat the bird and the cat"]


def test_the_maximal_length_is_the_module_s_or_the_tokenizer_s(pooled):
    tokenizer = pooled / "tokenizer_config.json"
    for said, expected in ((9, 9), (512, 24), (int(1e30), 24), (1e30, 24), (None, 24)):
        change_json(tokenizer, model_max_length=said)
        assert SentenceEncoder.from_pretrained(pooled).max_length == expected
    change_json(tokenizer, model_max_length=9)
    change_json(pooled / "sentence_roberta_config.json", max_seq_length=7)
    assert SentenceEncoder.from_pretrained(pooled).max_length == 7
    change_json(pooled / "sentence_bert_config.json", max_seq_length=8, do_lower_case=True)
    assert hub.read_settings(pooled).max_length == 8
    assert hub.read_settings(pooled).do_lower_case
    (pooled / "modules.json").unlink()
    assert SentenceEncoder.from_pretrained(pooled, pooling="mean").max_length == 9


def test_the_default_prompt_comes_before_every_sentence(pooled, tmp_path):
    plain = SentenceEncoder.from_pretrained(pooled)
    prompts = {"query": "the dog ", "document": None}
    path = pooled / "config_sentence_transformers.json"
    change_json(path, prompts=prompts, default_prompt_name="query")
    encoder = SentenceEncoder.from_pretrained(pooled)
    expected = plain.encode(["the dog " + text for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-6)
    encoder.save_pretrained(tmp_path / "saved")
    assert SentenceEncoder.from_pretrained(tmp_path / "saved").settings == encoder.settings
    (tmp_path / "saved" / "simcse_jax.json").unlink()
    assert hub.read_settings(tmp_path / "saved").prompt == "the dog "
    change_json(path, default_prompt_name="passage")
    with pytest.raises(ValueError, match=r"transformers\.json: default_prompt_name is 'passage'"):
        hub.read_settings(pooled)


def test_truncated_after_normalising_as_sentence_transformers_does(pooled, tmp_path):
    make_modules(pooled, "Transformer", "Pooling", "Normalize")
    whole = SentenceEncoder.from_pretrained(pooled)
    change_json(pooled / "config_sentence_transformers.json", truncate_dim=5)
    encoder = SentenceEncoder.from_pretrained(pooled)
    assert encoder.dimension == 5
    vectors = encoder.encode(TEXTS)
    np.testing.assert_array_equal(vectors, whole.encode(TEXTS)[:, :5])
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(TEXTS, normalize=True), vectors / norms, atol=1e-6)
    raw = whole.encode(TEXTS, normalize=False)
    np.testing.assert_array_equal(encoder.encode(TEXTS, normalize=False), raw[:, :5])
    encoder.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(
        SentenceEncoder.from_pretrained(tmp_path / "saved").encode(TEXTS), vectors
    )
    (tmp_path / "saved" / "simcse_jax.json").unlink()
    assert hub.read_settings(tmp_path / "saved").truncate_dim == 5
    np.testing.assert_array_equal(encoder.with_transform(None).encode(TEXTS), whole.encode(TEXTS))


def test_today_s_layout(pooled):
    base = "sentence_transformers.base.modules"
    pooling = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
    types = [f"{base}.transformer.Transformer", pooling, f"{base}.normalize.Normalize"]
    places = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": place, "type": kind}
        for i, (place, kind) in enumerate(zip(places, types, strict=True))
    ]
    write_json(pooled / "modules.json", modules)
    text = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    change_json(
        pooled / "sentence_bert_config.json",
        transformer_task="feature-extraction",
        modality_config=text,
        module_output_name="token_embeddings",
    )
    said = {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}
    write_json(pooled / "1_Pooling" / "config.json", said)
    named = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    write_json(pooled / "2_Normalize" / "config.json", named)
    change_json(pooled / "tokenizer_config.json", model_max_length=11)
    change_json(
        pooled / "config_sentence_transformers.json",
        model_type="SentenceTransformer",
        __version__={"sentence_transformers": "6.2.0"},
        prompts={"query": "", "document": ""},
        default_prompt_name=None,
        similarity_fn_name="cosine",
    )
    expected = hub.EncoderSettings("cls", True, 11, prompts={"query": "", "document": ""})
    assert hub.read_settings(pooled) == expected


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("sentence_bert_config.json", {"max_seq_length": -1}, "max_seq_length is -1"),
        ("sentence_bert_config.json", {"max_seq_length": "9"}, "max_seq_length is '9'"),
        ("sentence_bert_config.json", {"do_lower_case": "yes"}, "do_lower_case is 'yes'"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task is"),
        ("sentence_bert_config.json", {"module_output_name": "scores"}, "module_output_name is"),
        ("sentence_bert_config.json", {"modality_config": {"message": {}}}, "modality_config is"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {}}}, "processing_kwargs is"),
        ("sentence_bert_config.json", {"query_length": 4}, "query_length is 4"),
        ("sentence_bert_config.json", {"model_args": {"dtype": "bfloat16"}}, "model_args is"),
        ("sentence_bert_config.json", {"layers": 3}, "'layers' is not known"),
        ("tokenizer_config.json", {"model_max_length": 0}, "model_max_length is 0"),
        ("tokenizer_config.json", {"truncation_side": "left"}, "only 'right' is read"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt is False"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": 1}, "pooling_mode_cls_token is 1"),
        ("1_Pooling/config.json", {"weights": [1]}, "'weights' is not known"),
        ("2_Normalize/config.json", {"module_input_name": "token_embeddings"}, "module_input_name"),
        ("config_sentence_transformers.json", {"model_type": "CrossEncoder"}, "model_type is"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim is 0"),
        ("config_sentence_transformers.json", {"prompts": ["a"]}, "prompts is"),
        ("config_sentence_transformers.json", {"prompts": {"a": 3}}, "a is 3"),
        ("config_sentence_transformers.json", {"quantize": "int8"}, "'quantize' is not known"),
    ],
)
def test_what_would_change_the_vectors_is_refused(pooled, file, change, message):
    make_modules(pooled, "Transformer", "Pooling", "Normalize")
    hub.read_settings(pooled)
    change_json(pooled / file, **change)
    with pytest.raises(ValueError, match=rf"{file}: .*{message}"):
        hub.read_settings(pooled)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ({"kwargs": ["task"]}, "kwargs is"),
        ({"device": "cpu"}, "'device' is not known"),
        ({"path": "../elsewhere"}, "leads out of the folder"),
        ({"path": 3}, "path is 3"),
        ({"type": "mine.Pooling"}, "is not sentence-transformers' own"),
        ({"type": ["Pooling"]}, "type is"),
    ],
)
def test_a_module_that_is_refused(pooled, module, message):
    modules = read_json(pooled / "modules.json")
    write_json(pooled / "modules.json", [modules[0], modules[1] | module])
    with pytest.raises(ValueError, match=rf"modules\.json: .*{message}"):
        hub.read_settings(pooled)


@pytest.mark.parametrize(
    "kinds",
    [
        ("Pooling", "Transformer"),
        ("Transformer", "Normalize", "Pooling"),
        ("Transformer", "Pooling", "Pooling"),
        ("Transformer", "Pooling", "WeightedLayerPooling"),
        ("Transformer", "Dense", "Pooling"),
        ("Transformer",),
    ],
)
def test_modules_in_another_order_are_refused(pooled, kinds):
    shutil.copytree(pooled / "1_Pooling", pooled / "2_Pooling")
    make_modules(pooled, *kinds)
    with pytest.raises(ValueError, match=f"the modules are {', '.join(kinds)}; what is read is"):
        hub.read_settings(pooled)


FILES = (
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "1_Pooling/config.json",
    "2_Normalize/config.json",
    "config_sentence_transformers.json",
    "simcse_jax.json",
)


@pytest.mark.parametrize("file", FILES)
def test_json_of_another_type_is_refused(pooled, file):
    make_modules(pooled, "Transformer", "Pooling", "Normalize")
    for value in ("text", 3, None, [[]], {} if file == "modules.json" else []):
        write_json(pooled / file, value)
        with pytest.raises(ValueError, match=file):
            hub.read_settings(pooled)


@pytest.mark.parametrize("file", FILES)
def test_a_link_that_leads_nowhere_is_not_taken_for_no_file(pooled, file):
    make_modules(pooled, "Transformer", "Pooling", "Normalize")
    (pooled / file).unlink(missing_ok=True)
    (pooled / file).parent.mkdir(exist_ok=True)
    (pooled / file).symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=f"{file} does not exist"):
        hub.read_settings(pooled)


def test_a_list_of_files_that_is_none(pooled):
    for files in (-0.0, {}, ["config.json", 1e308]):
        write_json(pooled / "simcse_jax.json", {"files": files})
        with pytest.raises(ValueError, match=r"simcse_jax\.json: files is .*; it must list names"):
            hub.read_transform(pooled)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": 3}, "pooling is 3"),
        ({"pooling": "avg"}, "is none of"),
        ({"max_length": 1}, "max_length is 1"),
        ({"max_length": True}, "max_length is True"),
        ({"normalize": 1}, "normalize is 1"),
        ({"prompts": {"a": 3}}, "prompts is"),
        ({"default_prompt_name": "a"}, "default_prompt_name is 'a'"),
        ({"truncate_dim": -1}, "truncate_dim is -1"),
        ({"temperature": 3}, "'temperature' is not known"),
    ],
)
def test_our_own_file_is_checked_too(tmp_path, change, message):
    whole = dataclasses.asdict(hub.EncoderSettings()) | {"files": []}
    write_json(tmp_path / "simcse_jax.json", whole | change)
    with pytest.raises(ValueError, match=rf"simcse_jax\.json: .*{message}"):
        hub.read_settings(tmp_path)


def test_our_own_file_says_everything(tmp_path):
    """A key that is gone is not taken for its default."""
    whole = dataclasses.asdict(hub.EncoderSettings()) | {"files": []}
    path = tmp_path / "simcse_jax.json"
    for name in whole.keys() - {"files"}:
        write_json(path, {key: value for key, value in whole.items() if key != name})
        with pytest.raises(ValueError, match=rf"simcse_jax\.json: '{name}' is missing"):
            hub.read_settings(tmp_path)
    write_json(path, {})
    with pytest.raises(ValueError, match="is missing"):
        hub.read_settings(tmp_path)


DIM = 32
EYE = np.eye(DIM, dtype=np.float32)
BIAS = np.ones(DIM, np.float32)


def test_dense_modules_are_one_map(pooled):
    make_modules(pooled, "Transformer", "Pooling", "Dense", "Dense")
    make_dense(pooled, "2_Dense", 2 * EYE[:7], BIAS[:7])
    make_dense(pooled, "3_Dense", 3 * EYE[:5, :7])
    encoder = SentenceEncoder.from_pretrained(pooled)
    expected = 6 * encoder.with_transform(None).encode(TEXTS)[:, :5] + 3
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("weight", "bias", "said", "message"),
    [
        (EYE, None, {"bias": True}, "bias is True; .* has the tensors .*linear.weight"),
        (EYE, BIAS, {"bias": False}, "bias is False"),
        (EYE, BIAS[:3], {}, r"linear.bias has shape \(3,\)"),
        (EYE, None, {"in_features": 31}, "in_features and out_features are 31 and 32"),
        (EYE, None, {"out_features": 64}, "in_features and out_features are 32 and 64"),
        (EYE[0], None, {"out_features": 1}, "linear.weight has shape"),
        (EYE[:, :5], None, {}, "of 5 dimensions; its encoder gives 32"),
        (EYE * np.nan, None, {}, "tensor linear.weight holds NaN"),
        (EYE.astype(int), None, {}, "tensor linear.weight is of int64"),
        (EYE, BIAS * np.inf, {}, "tensor linear.bias holds NaN or infinite"),
        (EYE, None, {"activation_function": "mine.Identity"}, r"this one has mine\.Identity"),
        (EYE, None, {"module_input_name": "token_embeddings"}, "module_input_name is"),
        (EYE, None, {"scale": 3}, "'scale' is not known"),
        (EYE, None, {"in_features": "32"}, "in_features is '32'"),
    ],
)
def test_a_dense_module_that_is_not_as_it_says(pooled, weight, bias, said, message):
    make_modules(pooled, "Transformer", "Pooling", "Dense")
    make_dense(pooled, "2_Dense", weight, bias, said)
    with pytest.raises(ValueError, match=message):
        SentenceEncoder.from_pretrained(pooled)


def test_two_dense_modules_that_do_not_meet(pooled):
    make_modules(pooled, "Transformer", "Pooling", "Dense", "Dense")
    make_dense(pooled, "2_Dense", EYE[:7])
    make_dense(pooled, "3_Dense", EYE[:5])
    with pytest.raises(ValueError, match=r"3_Dense/config\.json: it takes 32 dim.* gives 7"):
        SentenceEncoder.from_pretrained(pooled)


# ---------------------------------------------------------------------------------------------
# Folders that do not say how to pool
# ---------------------------------------------------------------------------------------------


def test_a_folder_that_does_not_say_how_to_pool_is_warned_of_once(folder):
    with pytest.warns(UserWarning, match="does not say how to pool") as record:
        assert hub.read_settings(folder).pooling == "mean"
    assert len(record) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SentenceEncoder.from_pretrained(folder)
        SentenceEncoder.from_pretrained(folder, pooling="cls")


def test_a_folder_that_has_changed_is_looked_at_again(folder):
    with pytest.warns(UserWarning, match="does not say how to pool"):
        hub.read_settings(folder)
    change_json(folder / "config.json", architectures=["BertForCL"])
    with pytest.raises(ValueError, match="SimCSE's own code"):
        hub.read_settings(folder)


@pytest.mark.parametrize("sign", ["architecture", "tensors"])
def test_a_model_of_simcse_s_own_code_is_recognised(golden, tmp_path, sign):
    """The mean is not its vector, and whether the MLP belongs to it only its makers know."""
    folder = tmp_path / "model"
    shutil.copytree(golden / "tiny-bert", folder)
    if sign == "architecture":
        change_json(folder / "config.json", architectures=["BertForCL"])
    else:
        change_weights(
            folder, lambda t: {k.replace("bert.pooler.", "mlp."): v for k, v in t.items()}
        )
    expected = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="pooler")
    with pytest.raises(ValueError, match="SimCSE's own code.*'cls' for unsupervised.*'pooler'"):
        SentenceEncoder.from_pretrained(folder)
    supervised = SentenceEncoder.from_pretrained(folder, pooling="pooler")
    np.testing.assert_array_equal(supervised.encode(TEXTS), expected.encode(TEXTS))


# ---------------------------------------------------------------------------------------------
# Training from a folder
# ---------------------------------------------------------------------------------------------


def test_what_is_trained_keeps_the_start_s_settings(pooled, tmp_path):
    """All but the pooling, which is the configuration's."""
    make_modules(pooled, "Transformer", "Pooling", "Normalize")
    change_json(pooled / "sentence_bert_config.json", max_seq_length=16, do_lower_case=True)
    prompts = {"query": "the dog "}
    change_json(
        pooled / "config_sentence_transformers.json", prompts=prompts, default_prompt_name="query"
    )
    config = replace(CONFIGS["unsup_simcse"], model=str(pooled), pooling="cls", max_length=8)
    model = load_model(config)
    params = config.objective.init(model, jax.random.key(0))
    trained = trained_encoder(config, model, params)
    start = hub.read_settings(pooled)
    assert (start.normalize, start.max_length, start.do_lower_case) == (True, 16, True)
    assert trained.settings == dataclasses.replace(start, pooling="cls")
    trained.save_pretrained(tmp_path / "saved")
    assert hub.read_settings(tmp_path / "saved") == trained.settings


@pytest.mark.parametrize("kinds", [("Normalize", "Dropout"), ("Dropout", "Normalize")])
def test_dropout_stands_in_nothing_s_way(pooled, kinds):
    make_modules(pooled, "Transformer", "Pooling", *kinds)
    assert hub.read_settings(pooled).normalize
    assert hub.read_transform(pooled) is None
