"""Model folders: the table of names, what is refused, and what is written."""

import json
import re
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from simcse_jax import hub
from simcse_jax.data.tokenizer import Tokenizer

MODELS = ("tiny-bert", "tiny-roberta")


@pytest.fixture(params=MODELS)
def folder(request, golden, tmp_path):
    """A copy of a tiny model folder, to be spoilt."""
    shutil.copytree(golden / request.param, tmp_path / "model")
    return tmp_path / "model"


def change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    save_file(tensors, path, {"format": "pt"})


def load(folder, **kwargs):
    return hub.load_params(folder, hub.read_config(folder), **kwargs)


def assert_same(a, b):
    a, b = hub.to_torch_names(*a), hub.to_torch_names(*b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_the_prefix_and_the_old_names_make_no_difference(folder):
    expected = load(folder)
    prefix = expected[0].model_type + "."

    def rename(tensors):
        new = {}
        for name, tensor in tensors.items():
            name = name.removeprefix(prefix)
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            new[name.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
        new["embeddings.position_ids"] = np.arange(24)[None]
        return new

    change_weights(folder, rename)
    assert_same(load(folder), expected)


def test_half_precision_weights_are_widened(folder):
    for dtype in (np.float16, ml_dtypes.bfloat16):
        expected = load(folder)[1]["encoder"]["embeddings"]["word"]["embedding"].astype(dtype)
        change_weights(folder, lambda t, d=dtype: {k: v.astype(d) for k, v in t.items()})
        word = load(folder)[1]["encoder"]["embeddings"]["word"]["embedding"]
        assert word.dtype == np.float32
        np.testing.assert_array_equal(word, expected.astype(np.float32))


def test_shards_are_joined(folder):
    expected = load(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, chosen in parts.items():
        save_file({n: tensors[n] for n in chosen}, folder / file)
    index = {"weight_map": {n: file for file, chosen in parts.items() for n in chosen}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same(load(folder), expected)


def test_the_first_layers_are_kept(folder):
    config, params = load(folder, num_layers=2)
    assert config.num_hidden_layers == 2
    assert {k for k in params["encoder"] if k.startswith("layer")} == {"layer_0", "layer_1"}
    for wrong in (0, 4):
        with pytest.raises(ValueError, match="layers 1 to 3"):
            load(folder, num_layers=wrong)


@pytest.mark.parametrize(("head", "names"), [("pooler", "pooler."), ("mlm", ("cls.", "lm_head."))])
def test_heads_are_optional(folder, head, names, caplog):
    change_weights(
        folder,
        lambda t: {
            k: v for k, v in t.items() if not re.sub(r"^(ro)?berta?\.", "", k).startswith(names)
        },
    )
    with caplog.at_level("INFO"):
        _, params = load(folder)
    assert head not in params
    assert f"has no {head}" in caplog.text


def test_a_part_of_a_head_is_left_over(folder):
    change_weights(folder, lambda t: {k: v for k, v in t.items() if "pooler.dense.bias" not in k})
    with pytest.raises(ValueError, match=r"pooler\.dense\.weight, which no part"):
        load(folder)


def test_a_missing_tensor_is_named(folder):
    name = "encoder.layer.1.attention.self.key.bias"
    change_weights(folder, lambda t: {k: v for k, v in t.items() if name not in k})
    with pytest.raises(ValueError, match=f"lacks tensor {name}"):
        load(folder)


def test_a_left_over_tensor_is_named(folder):
    change_weights(folder, lambda t: t | {"classifier.weight": np.zeros((2, 32), np.float32)})
    with pytest.raises(ValueError, match=r"has tensor classifier\.weight"):
        load(folder)


def test_a_layer_beyond_the_config_is_left_over(folder):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"encoder\.layer\.2"):
        load(folder)


def test_a_wrong_shape_is_named(folder):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"vocab_size": 65}))
    with pytest.raises(ValueError, match=r"word/embedding has shape \(64, 32\)"):
        load(folder)


def test_a_truncated_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load(folder)


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights"):
        load(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(FileNotFoundError, match="only pickled weights .*save_pretrained"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "t5"}, "only 'bert' and 'roberta'"),
        ({"position_embedding_type": "relative_key"}, "only 'absolute'"),
        ({"hidden_act": "cube"}, "hidden_act"),
    ],
)
def test_a_config_that_is_not_ours(folder, change, message):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | change))
    with pytest.raises(ValueError, match=message):
        hub.read_config(folder)


def test_a_config_that_is_broken_or_absent(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        hub.read_config(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="is this a model folder"):
        hub.read_config(folder)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "no-such-model-anywhere"])
def test_a_model_that_is_nowhere(name):
    with pytest.raises(FileNotFoundError, match=r"does not exist|neither a local folder"):
        hub.find_model(name)


def test_minilm_says_how_it_is_used():
    settings = hub.read_settings(hub.find_model("minilm"))
    assert settings == hub.EncoderSettings("mean", normalize=True, max_length=256)


def test_newer_and_unknown_pooling_files(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"embedding_dimension": 4, "pooling_mode": "cls"}')
    assert hub._read_pooling(path) == "cls"
    path.write_text('{"pooling_mode": ["cls", "mean"]}')
    with pytest.raises(ValueError, match="is not one of cls, mean, max"):
        hub._read_pooling(path)
    path.write_text('{"pooling_mode_weightedmean_tokens": true}')
    with pytest.raises(ValueError, match="weightedmean"):
        hub._read_pooling(path)


def test_a_module_without_counterpart(tmp_path):
    modules = [{"path": "", "type": "sentence_transformers.models.LSTM"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
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
    with pytest.raises(ValueError, match="needs the parameters of a pooler"):
        hub.save_model(
            tmp_path / "x",
            config,
            params,
            hub.EncoderSettings("pooler"),
            Tokenizer.from_folder(folder),
        )
