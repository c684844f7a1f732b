"""Encoder, pooling and head in one: what `encode` and training share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from simcse_jax import hub
from simcse_jax.models import BertEncoder, Projection, SentenceModel, one_a_row, pool

SENTENCES = 4


@pytest.fixture
def tiny(golden):
    folder = golden / "tiny-bert"
    config, params = hub.load_params(folder, hub.read_config(folder), num_layers=2)
    torch = load_file(folder / "golden.safetensors")
    return config, params, one_a_row(torch["input_ids"], torch["attention_mask"])


@pytest.mark.parametrize("dropout", [False, True], ids=["no dropout", "dropout"])
@pytest.mark.parametrize(
    ("pooling", "projection"),
    [
        ("cls", None),
        ("pooler", "pooler"),
        ("cls", "head"),
        ("mean", None),
        ("mean", "head"),
        ("first-last", None),
        ("max", None),
    ],
)
def test_it_is_encoder_pooling_and_projection(tiny, pooling, projection, dropout):
    config, loaded, batch = tiny
    keys = jax.random.split(jax.random.key(0), SENTENCES) if dropout else None
    params = {"encoder": loaded["encoder"]}
    if projection is not None:
        params[projection] = loaded["pooler"]
    model = SentenceModel(config, pooling, projection)
    found = model.apply({"params": params}, batch, keys, num_sentences=SENTENCES)

    states = BertEncoder(config).apply({"params": loaded["encoder"]}, batch, keys)
    wanted = pool(states, batch, pooling, SENTENCES)
    if projection is not None:
        wanted = Projection(config).apply({"params": loaded["pooler"]}, wanted)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), batch, num_sentences=SENTENCES)["params"]
    )
    assert shapes.keys() == params.keys()
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(jnp.shape, params)


def test_compute_types_of_encoder_and_projection(tiny):
    config, loaded, batch = tiny
    params = {"encoder": loaded["encoder"], "head": loaded["pooler"]}

    def embed(pooling, *dtypes):
        model = SentenceModel(config, pooling, "head", *dtypes)
        return model.apply({"params": params}, batch, num_sentences=SENTENCES)

    for pooling in ("cls", "mean"):
        full = embed(pooling)
        half = embed(pooling, jnp.bfloat16)
        both = embed(pooling, jnp.bfloat16, jnp.bfloat16)
        for coarse in (half, both):
            assert coarse.dtype == jnp.float32
            assert np.linalg.norm(coarse - full) / np.linalg.norm(full) < 2e-2
        assert np.abs(half - both).max() > 0
        # What bfloat16 gives is exact in float32, and back.
        np.testing.assert_array_equal(both, both.astype(jnp.bfloat16).astype(jnp.float32))
