"""A new method is one configuration: here one that the library has never seen."""

import dataclasses
import inspect
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_support import assert_same, make_batch, update

from simcse_jax.losses.geometry import alignment, uniformity
from simcse_jax.models import SentenceModel
from simcse_jax.objectives import AXIS, Objective, TokenObjective, sentence_keys


@dataclasses.dataclass(frozen=True)
class AlignAndSpread(TokenObjective):
    """Minimise alignment and uniformity themselves (Wang & Isola 2020, section 5)."""

    weight: float = 0.5
    """The weight of the uniformity."""
    views: ClassVar[int] = 2

    def build(self, model):
        encoder = SentenceModel(model.config, model.pooling, dtype=model.dtype)

        def embed(params, batch, keys):
            dropout, size = sentence_keys(keys("dropout"), batch.sentences), batch.sentences.size
            z = encoder.apply({"params": params}, batch.rows, dropout, num_sentences=size)
            return z.reshape(*batch.sentences.shape, -1)

        def loss(params, vectors, batch, keys):
            anchors, positives = jnp.unstack(vectors, axis=1)
            near, spread = alignment(anchors, positives, AXIS), uniformity(anchors, AXIS)
            return near + self.weight * spread, {"alignment": near, "uniformity": spread}

        return Objective(embed, loss)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_it_trains_on_several_devices_with_cached_gradients(tiny, parallel):
    assert len(inspect.getsource(AlignAndSpread).splitlines()) <= 30
    expected = update(tiny, AlignAndSpread(), make_batch(size=16), "mean")
    _, metrics = expected
    assert metrics.keys() == {"loss", "gradient_norm", "alignment", "uniformity"}
    total = metrics["alignment"] + 0.5 * metrics["uniformity"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)
    assert metrics["gradient_norm"] > 1e-2
    found = update(
        *(tiny, AlignAndSpread(), make_batch(size=16, shards=8), "mean"),
        chunks=2,
        devices=jax.devices()[:4],
        parallel=parallel,
    )
    assert_same(found, expected)
