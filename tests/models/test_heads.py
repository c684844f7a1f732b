"""What sits on top of the encoder, against torch (golden files) and against the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from simcse_jax import hub
from simcse_jax.models import (
    BertConfig,
    BertEncoder,
    MaskedLMHead,
    Projection,
    SoftmaxClassifier,
    one_a_row,
)
from simcse_jax.models.heads import init_classifier

CONFIG = BertConfig(vocab_size=11, hidden_size=8, num_attention_heads=2)
RANDOM = np.random.default_rng(0)


HEADS = {
    "tiny-bert": {"pooler", "mlm"},
    "tiny-roberta": {"pooler", "mlm"},
    "tiny-xlm-roberta": {"mlm"},
    "tiny-camembert": {"mlm"},
    "tiny-distilbert": {"mlm"},
    "tiny-mpnet": {"mlm"},
    "tiny-electra": set(),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_equal_torchs(golden, name):
    folder = golden / name
    config, params = hub.load_params(folder, hub.read_config(folder))
    torch = load_file(folder / "golden.safetensors")
    batch = one_a_row(torch["input_ids"], torch["attention_mask"])
    last = BertEncoder(config).apply({"params": params["encoder"]}, batch)[-1]
    assert params.keys() - {"encoder"} == torch.keys() & {"pooler", "mlm"} == HEADS[name]
    if "pooler" in params:
        pooled = Projection(config).apply({"params": params["pooler"]}, last[:, 0])
        np.testing.assert_allclose(pooled, torch["pooler"], atol=1e-5, rtol=0)
    if "mlm" in params:
        words = params["encoder"]["embeddings"]["word"]["embedding"]
        logits = MaskedLMHead(config).apply({"params": params["mlm"]}, last, words)
        ours = np.where(batch.attention_mask[..., None], logits, 0)
        np.testing.assert_allclose(ours, torch["mlm"], atol=1e-5, rtol=0)


def test_a_fresh_projection_is_small_and_its_compute_type_is_asked_for():
    x = jnp.asarray(RANDOM.normal(size=(3, 8)), jnp.float32)
    config = BertConfig(hidden_size=240)
    wide = Projection(config).init(jax.random.key(0), jnp.zeros((1, 240)))["params"]["dense"]
    assert abs(float(wide["kernel"].std()) - 0.02) < 1e-3
    assert not wide["bias"].any()
    params = Projection(CONFIG).init(jax.random.key(0), x)
    kernel = params["params"]["dense"]["kernel"]
    np.testing.assert_allclose(Projection(CONFIG).apply(params, x), np.tanh(x @ kernel), rtol=1e-5)
    assert Projection(CONFIG, jnp.bfloat16).apply(params, x).dtype == jnp.bfloat16


@pytest.mark.parametrize("use_bias", [True, False])
def test_the_classifier_is_linear_and_float32(use_bias):
    features = RANDOM.normal(size=(5, 12)).astype(np.float32)
    params = init_classifier(jax.random.key(1), 12, 3, use_bias)
    assert set(params) == ({"kernel", "bias"} if use_bias else {"kernel"})
    classifier = SoftmaxClassifier(3, use_bias)
    logits = classifier.apply({"params": params}, features)
    expected = features @ params["kernel"] + params.get("bias", 0)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    coarse = classifier.apply({"params": params}, jnp.asarray(features, jnp.bfloat16))
    assert coarse.dtype == jnp.float32
    np.testing.assert_allclose(coarse, expected, rtol=0.05, atol=0.05)


def test_the_classifiers_draws_are_those_of_every_run_until_now():
    """`U(-1/√F, 1/√F)`: the kernel from the first half of the key, the bias from the second."""
    key = jax.random.key(7)
    params = init_classifier(key, 96, 3, True)
    first, second = jax.random.split(key)
    limit = 96**-0.5
    kernel = jax.random.uniform(first, (96, 3), minval=-1, maxval=1) * limit
    bias = jax.random.uniform(second, (3,), minval=-1, maxval=1) * limit
    np.testing.assert_array_equal(params["kernel"], kernel)
    np.testing.assert_array_equal(params["bias"], bias)
    assert 0.9 * limit < np.abs(kernel).max() <= limit
    np.testing.assert_array_equal(init_classifier(key, 96, 3, False)["kernel"], kernel)


def test_linens_own_draws_have_the_same_shapes_and_limits():
    params = SoftmaxClassifier(3).init(jax.random.key(0), jnp.zeros((1, 96)))["params"]
    drawn = init_classifier(jax.random.key(0), 96, 3, True)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, drawn)
    assert 0.9 * 96**-0.5 < np.abs(params["kernel"]).max() <= 96**-0.5


def test_masked_lm_logits_are_float32_of_every_word():
    words = jnp.asarray(RANDOM.normal(size=(11, 8)), jnp.float32)
    hidden = jnp.asarray(RANDOM.normal(size=(2, 3, 8)), jnp.float32)
    params = MaskedLMHead(CONFIG).init(jax.random.key(0), hidden, words)
    for dtype in (jnp.float32, jnp.bfloat16):
        logits = MaskedLMHead(CONFIG, dtype).apply(params, hidden, words)
        assert (logits.shape, logits.dtype) == ((2, 3, 11), jnp.float32)
