"""A transform inside a model: applied by encode, saved in the folder, read from others' folders."""

import json
import logging
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from simcse_jax import SentenceEncoder
from simcse_jax.transforms import Affine, Flow, FlowConfig, Standardization, Whitening

TEXTS = ["a dog eats", "the cat sat", "a bird", "two dogs eat the bird", "the cat sat", ""]


@pytest.fixture(scope="module")
def raw(golden):
    return SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean", normalize=False)


@pytest.fixture(scope="module")
def whitening(raw):
    return Whitening.fit(raw.encode(TEXTS), k=3)


def tiny_flow(dim):
    x = np.random.default_rng(0).normal(size=(8, dim)).astype(np.float32)
    return Flow.fit(x, FlowConfig(levels=1, depth=1, width=4), epochs=0)


def test_it_is_applied_to_the_pooled_embeddings(raw, whitening, monkeypatch):
    encoder = raw.with_transform(whitening)
    assert encoder.dimension == 3
    vectors = encoder.encode(TEXTS)
    np.testing.assert_allclose(vectors, whitening(raw.encode(TEXTS)), atol=1e-5)
    unit = encoder.encode(TEXTS, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    monkeypatch.setattr("simcse_jax.encoder.CHUNK", 2)
    np.testing.assert_allclose(encoder.encode(TEXTS), vectors, atol=1e-5)
    assert encoder.with_transform(None).encode([]).shape == (0, raw.dimension)
    assert encoder.encode([]).shape == (0, 3)


@pytest.mark.parametrize("kind", ["whitening", "flow"])
def test_saved_and_loaded(raw, whitening, kind, tmp_path, caplog):
    transform = whitening if kind == "whitening" else tiny_flow(raw.dimension)
    encoder = raw.with_transform(transform)
    with caplog.at_level(logging.WARNING):
        encoder.save_pretrained(tmp_path / "model")
    loaded = SentenceEncoder.from_pretrained(tmp_path / "model")
    assert type(loaded.transform) is type(transform)
    np.testing.assert_array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    kinds = [m["type"].rsplit(".", 1)[-1] for m in modules]
    if kind == "whitening":
        assert kinds == ["Transformer", "Pooling", "Dense"]
        assert not caplog.records
    else:
        assert kinds == ["Transformer", "Pooling", "Flow"]
        assert "sentence-transformers has no module" in caplog.text


def test_without_our_own_files_the_dense_module_is_the_transform(raw, whitening, tmp_path):
    encoder = raw.with_transform(whitening)
    encoder.save_pretrained(tmp_path)
    (tmp_path / "simcse_jax.json").unlink()
    shutil.rmtree(tmp_path / "transform")
    loaded = SentenceEncoder.from_pretrained(tmp_path)
    assert type(loaded.transform) is Affine
    np.testing.assert_allclose(loaded.encode(TEXTS), encoder.encode(TEXTS), atol=1e-4)


def add_dense(folder, config, *, last=True):
    path = folder / "9_Dense"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    dim = json.loads((folder / "config.json").read_text())["hidden_size"]
    save_file({"linear.weight": np.eye(dim, dtype=np.float32)}, path / "model.safetensors")
    modules = json.loads((folder / "modules.json").read_text())
    module = {
        "idx": 9,
        "name": "9",
        "path": path.name,
        "type": "sentence_transformers.models.Dense",
    }
    modules.insert(len(modules) if last else 1, module)
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize(
    ("config", "last", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.ReLU"}, True, "this one has ReLU"),
        (
            {"activation_function": "torch.nn.Identity", "use_residual": True},
            True,
            "and a residual$",
        ),
        ({"activation_function": "torch.nn.Identity"}, False, "the modules are Transformer, Dense"),
    ],
)
def test_dense_modules_that_are_refused(raw, tmp_path, config, last, message):
    raw.save_pretrained(tmp_path)
    (tmp_path / "simcse_jax.json").unlink()
    add_dense(tmp_path, config, last=last)
    with pytest.raises(ValueError, match=message):
        SentenceEncoder.from_pretrained(tmp_path)


def test_a_dense_module_without_bias(raw, tmp_path):
    raw.save_pretrained(tmp_path)
    (tmp_path / "simcse_jax.json").unlink()
    add_dense(tmp_path, {"activation_function": "torch.nn.modules.linear.Identity"})
    loaded = SentenceEncoder.from_pretrained(tmp_path)
    np.testing.assert_allclose(loaded.encode(TEXTS), raw.encode(TEXTS), atol=1e-6)


def test_another_use_than_it_was_fitted_for_is_refused(raw, whitening, tmp_path):
    with pytest.raises(ValueError, match="takes 5 dimensions, the encoder gives"):
        raw.with_transform(Standardization.fit(np.eye(5)))
    raw.with_transform(whitening).save_pretrained(tmp_path)
    SentenceEncoder.from_pretrained(tmp_path, pooling="mean")
    with pytest.raises(ValueError, match="whitening that was fitted with pooling mean"):
        SentenceEncoder.from_pretrained(tmp_path, pooling="cls")
    with pytest.raises(ValueError, match="num_layers 1 needs a fit of its own"):
        SentenceEncoder.from_pretrained(tmp_path, num_layers=1)


def test_dropout_on(raw):
    first = raw.encode(TEXTS, dropout_seed=0)
    np.testing.assert_array_equal(first, raw.encode(TEXTS, dropout_seed=0))
    assert not np.allclose(first, raw.encode(TEXTS, dropout_seed=1), atol=1e-3)
    # "the cat sat" stands there twice: two masks.
    assert not np.allclose(first[1], first[4], atol=1e-3)
    many = np.mean([raw.encode(TEXTS, dropout_seed=s) for s in range(40)], axis=0)
    distance = np.linalg.norm(many - raw.encode(TEXTS)) / np.linalg.norm(many)
    assert distance < np.linalg.norm(first - raw.encode(TEXTS)) / np.linalg.norm(first)
