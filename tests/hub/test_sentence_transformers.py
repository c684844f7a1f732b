"""How a folder is used: what is read of it, and what is written."""

import pytest
from hub_support import assert_same, load

from simcse_jax import hub
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.io import write_json


def test_minilm_says_how_it_is_used():
    settings = hub.read_settings(hub.find_model("minilm"))
    assert settings == hub.EncoderSettings("mean", normalize=True, max_length=256)


def test_newer_and_unknown_pooling_files(tmp_path):
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [{"path": p, "type": f"sentence_transformers.models.{t}"} for p, t in modules]
    write_json(tmp_path / "modules.json", modules)
    path = tmp_path / "1_Pooling" / "config.json"
    write_json(path, {"embedding_dimension": 4, "pooling_mode": "cls"})
    assert hub.read_settings(tmp_path).pooling == "cls"
    write_json(path, {"pooling_mode": ["cls", "mean"]})
    with pytest.raises(ValueError, match="is not one of cls, mean, max"):
        hub.read_settings(tmp_path)
    write_json(path, {"pooling_mode_weightedmean_tokens": True})
    with pytest.raises(ValueError, match="weightedmean"):
        hub.read_settings(tmp_path)


def test_a_module_without_counterpart(tmp_path):
    modules = [{"path": "", "type": "sentence_transformers.models.LSTM"}]
    write_json(tmp_path / "modules.json", modules)
    with pytest.raises(ValueError, match="module LSTM has no counterpart"):
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
