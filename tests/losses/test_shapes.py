"""The shapes that the losses' signatures promise: `conftest.py` has them checked at each call.

Here the losses run on host and device arrays of every shape that they take, and on wrong ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jaxtyping import TypeCheckError

from simcse_jax.losses import (
    cosine_regression,
    geometry,
    info_nce,
    masked_lm,
    nli_softmax,
    triplet,
)

B, D, K = 8, 5, 3
RANDOM = np.random.default_rng(0)
ANCHORS, POSITIVES, NEGATIVES = RANDOM.normal(size=(3, B, D)).astype(np.float32)
GROUPS = np.array([0, 1, 2, 0, 4, 5, 2, 7])
LABELS = RANDOM.integers(0, K, B)
KINDS = pytest.mark.parametrize("kind", [np.asarray, jnp.asarray], ids=["numpy", "jax"])


def test_a_wrong_shape_is_noticed():
    """By the annotations: the functions themselves do not look at what is wrong here."""
    with pytest.raises(TypeCheckError):
        geometry.alignment(ANCHORS, POSITIVES[1:])
    with pytest.raises(TypeCheckError):
        geometry.unit_rows(LABELS)
    with pytest.raises(TypeCheckError):
        cosine_regression.cosine_regression(ANCHORS, POSITIVES, LABELS)


@KINDS
@pytest.mark.parametrize("implementation", ["auto", "dense", "blockwise"])
def test_info_nce(implementation, kind):
    arrays = [kind(x) for x in (ANCHORS, POSITIVES, NEGATIVES)]
    options = {"group_ids": kind(GROUPS), "hard_negative_weight": 0.7, "symmetric": True}
    options["temperature"] = kind(np.float32(0.1))

    @jax.jit  # of no arguments, so that what is NumPy stays NumPy
    def both():
        loss = info_nce.info_nce_loss(
            *arrays, implementation=implementation, block_size=3, **options
        )
        return loss, info_nce.info_nce_reference(*arrays, **options).loss

    np.testing.assert_allclose(*both(), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("implementation", ["dense", "blockwise"])
def test_info_nce_gradients(implementation, dtype):
    loss = info_nce.info_nce_loss
    gradient = jax.jit(jax.grad(lambda *x: loss(*x, implementation=implementation, block_size=3)))
    assert gradient(*(jnp.asarray(x, dtype) for x in (ANCHORS, POSITIVES))).dtype == dtype


@pytest.mark.parametrize("implementation", ["dense", "blockwise", "ring"])
def test_info_nce_on_devices(implementation):

    def loss(*arrays):
        return info_nce.info_nce_loss(
            *arrays[:3],
            group_ids=arrays[3],
            implementation=implementation,
            axis_name="data",
            block_size=1,
        )

    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.shard_map(
        loss, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec()
    )
    arrays = (ANCHORS, POSITIVES, NEGATIVES, GROUPS)
    value, _ = jax.jit(jax.value_and_grad(spread, (0, 1, 2)))(*arrays)
    reference = jax.jit(lambda: info_nce.info_nce_reference(*arrays[:3], group_ids=GROUPS))()
    np.testing.assert_allclose(value, reference.loss, rtol=1e-5)


@KINDS
def test_geometry(kind):
    x, y = kind(ANCHORS), kind(POSITIVES)
    assert geometry.unit_rows(x).shape == (B, D)
    assert geometry.unit_rows(x[0]).shape == (D,)
    assert geometry.alignment(x, y).shape == geometry.uniformity(x).shape == ()


@KINDS
@pytest.mark.parametrize("score", ["cosine", "shifted"])
def test_cosine_regression(score, kind):
    similarities = kind(np.linspace(0, 1, B, dtype=np.float32))
    loss = cosine_regression.cosine_regression
    jax.value_and_grad(loss)(kind(ANCHORS), kind(POSITIVES), similarities, score=score)


@KINDS
def test_nli_softmax(kind):
    for name in nli_softmax.CONCATENATIONS:
        features = nli_softmax.pair_features(kind(ANCHORS), kind(POSITIVES), name)
        assert features.shape == (B, nli_softmax.feature_width(name) * D)
    logits = kind(RANDOM.normal(size=(B, K)).astype(np.float32))
    jax.value_and_grad(lambda x: nli_softmax.nli_softmax(x, kind(LABELS)).loss)(logits)


@KINDS
@pytest.mark.parametrize("distance", ["euclidean", "cosine", "manhattan"])
def test_triplet(distance, kind):
    arrays = [kind(x) for x in (ANCHORS, POSITIVES, NEGATIVES)]
    jax.value_and_grad(lambda *x: triplet.triplet_loss(*x, distance=distance).loss)(*arrays)


@KINDS
def test_masked_lm(kind):
    logits = kind(RANDOM.normal(size=(2, 4, 7)).astype(np.float32))
    labels = kind(np.array([[-100, 3, -100, 0], [-100] * 4]))
    jax.value_and_grad(masked_lm.masked_lm_loss)(logits, labels)
