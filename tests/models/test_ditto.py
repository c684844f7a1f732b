"""Ditto's weights against attention computed in float64 from the parameters, and its pooling."""

import jax
import numpy as np
import pytest
from ditto_by_hand import weights_by_hand
from safetensors.numpy import load_file

from simcse_jax import SentenceEncoder, hub
from simcse_jax.hub import sentence_transformers
from simcse_jax.io import read_json
from simcse_jax.models import BertEncoder, SentenceModel, one_a_row
from simcse_jax.models.ditto import diagonal_attention

TEXTS = ["a dog eats", "the cat sat", "a bird", "two dogs eat the bird", "dog"]


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-roberta", "tiny-mpnet", "tiny-electra"])
def test_the_pooling_by_hand(golden, name):
    config, params = hub.load_params(golden / name, hub.read_config(golden / name))
    file = load_file(golden / name / "golden.safetensors")
    ids, mask = file["input_ids"], file["attention_mask"]
    batch, encoder = one_a_row(ids, mask), params["encoder"]
    states = BertEncoder(config).apply({"params": encoder}, batch)
    for layer, head in ((1, 1), (config.num_hidden_layers, config.num_attention_heads)):
        model = SentenceModel(config, f"ditto-{layer}-{head}")
        found = model.apply({"params": {"encoder": encoder}}, batch, num_sentences=len(ids))
        wanted, weights = [], []
        for i, length in enumerate(mask.sum(1)):
            alone = [np.asarray(state[i, :length], np.float64) for state in states]
            weights.append(weights_by_hand(config, encoder, alone[layer - 1], layer, head))
            wanted.append(np.average((alone[0] + alone[-1]) / 2, 0, weights=weights[-1]))
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        ours = diagonal_attention(
            config, {"params": encoder}, states[layer - 1], batch, layer, head
        )
        np.testing.assert_allclose(ours[mask > 0], np.concatenate(weights), atol=1e-5)
        # They are no plain mean, so that there is something to compare.
        assert np.concatenate(weights).std() > 1e-3


def test_packed_rows_int8_and_gradients(golden):
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="ditto-2-1")
    found = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(found, alone, atol=1e-6)
    coarse = SentenceEncoder.from_pretrained(
        golden / "tiny-bert", pooling="ditto-2-1", dtype="int8"
    ).encode(TEXTS)
    assert 0 < np.abs(coarse - found).max() < 0.1 * np.abs(found).max()

    model = SentenceModel(encoder.config, "ditto-2-1")
    file = load_file(golden / "tiny-bert" / "golden.safetensors")
    batch = one_a_row(file["input_ids"], file["attention_mask"])

    def total(params):
        return model.apply({"params": params}, batch, num_sentences=len(file["input_ids"])).sum()

    gradient = jax.grad(total)({"encoder": encoder.params["encoder"]})
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_it_is_saved_for_us_and_refused_by_sentence_transformers(golden, tmp_path, caplog):
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="ditto-1-2")
    encoder.save_pretrained(tmp_path / "model")
    assert "sentence-transformers has no module for the pooling ditto-1-2" in caplog.text
    again = SentenceEncoder.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    kinds = [module["type"] for module in read_json(tmp_path / "model" / "modules.json")]
    assert "simcse_jax.models.Ditto" in kinds
    assert not any(kind.endswith("Pooling") for kind in kinds[1:] if "Weighted" not in kind)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "no module for the pooling ditto-1-2: it refuses the folder" in card
    assert "chen2023ditto" in card
    with pytest.raises(ValueError, match=r"simcse_jax\.models\.Ditto"):
        sentence_transformers.read_settings(tmp_path / "model")


def test_what_a_model_does_not_have_is_refused(golden):
    with pytest.raises(ValueError, match="pooling 'ditto-1-10' needs head 10 of"):
        SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="ditto-1-10")
    with pytest.raises(ValueError, match="pooling 'ditto-9-1' needs layer 9 of"):
        SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="ditto-9-1")
