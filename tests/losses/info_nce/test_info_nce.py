"""`info_nce` as it is called: its contract, whatever the implementation."""

import doctest
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from info_nce_support import OPTIONS, close, embeddings, numpy_info_nce, value_and_grad

from simcse_jax.losses.info_nce import api, info_nce, info_nce_loss, info_nce_reference


@pytest.mark.parametrize("count", [2, 3], ids=["pairs", "triplets"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("implementation", ["dense", "blockwise"])
def test_equation(implementation, name, count):
    arrays = embeddings(count)
    block = {"block_size": 5} if implementation == "blockwise" else {}
    result = info_nce(*arrays, implementation=implementation, **block, **OPTIONS[name])
    loss, accuracy = numpy_info_nce(*arrays, **OPTIONS[name])
    close(result.loss, loss, rtol=2e-5)
    assert result.accuracy == accuracy
    assert result.loss.dtype == jnp.float32
    assert result.loss.shape == ()


@pytest.mark.parametrize("name", ["plain", "dot", "all", "weighted"])
@pytest.mark.parametrize("implementation", ["reference", "dense", "blockwise"])
def test_several_hard_negatives(implementation, name):
    anchors, positives, *hard = embeddings(5)
    stacked = jnp.stack(hard, axis=1)  # [B 3 D]
    block = {"block_size": 5} if implementation == "blockwise" else {}
    call = functools.partial(info_nce, implementation=implementation, **block)
    if implementation == "reference":
        call = info_nce_reference
    result = call(anchors, positives, stacked, **OPTIONS[name])
    loss, accuracy = numpy_info_nce(anchors, positives, stacked, **OPTIONS[name])
    close(result.loss, loss, rtol=2e-5)
    assert result.accuracy == accuracy
    one = call(anchors, positives, hard[0], **OPTIONS[name])
    assert call(anchors, positives, hard[0][:, None], **OPTIONS[name]) == one
    assert one.loss < result.loss


@pytest.mark.parametrize("implementation", ["dense", "blockwise"])
@pytest.mark.parametrize("name", ["plain", "dot", "all"])
def test_finite_differences(implementation, name):
    """Gradients of every input and of the temperature, in float64."""
    with jax.enable_x64(True):
        arrays = embeddings(3, batch=16, dim=3, dtype=jnp.float64)
        options = {k: v for k, v in OPTIONS[name].items() if k != "temperature"}

        @jax.jit
        def loss(temperature, *arrays):
            return info_nce_loss(
                *arrays,
                temperature=temperature,
                implementation=implementation,
                block_size=6,
                **options,
            )

        point = (jnp.asarray(0.5), *arrays)
        assert loss(*point).dtype == jnp.float64
        gradients = jax.jit(jax.grad(loss, range(4)))(*point)
        rng = np.random.default_rng(1)
        for _ in range(3):
            step = [jnp.asarray(rng.normal(size=x.shape)) for x in point]
            ends = [
                loss(*(x + e * s for x, s in zip(point, step, strict=True))) for e in (1e-6, -1e-6)
            ]
            slope = sum(jnp.vdot(g, s) for g, s in zip(gradients, step, strict=True))
            close((ends[0] - ends[1]) / 2e-6, slope, rtol=1e-7)


def test_bfloat16_accumulates_in_float32():
    arrays = embeddings(3, batch=64, dim=32)
    low = tuple(x.astype(jnp.bfloat16) for x in arrays)
    dense = value_and_grad(*low, implementation="dense")
    blocks = value_and_grad(*low, implementation="blockwise", block_size=24)
    assert blocks[0][0].dtype == jnp.float32
    assert all(g.dtype == jnp.bfloat16 for g in blocks[1])
    close(blocks[0], dense[0], rtol=1e-5)
    exact = value_and_grad(*(x.astype(jnp.float32) for x in low), implementation="dense")
    for gradients in (dense[1], blocks[1]):
        for g, reference in zip(gradients, exact[1], strict=True):
            error = jnp.linalg.norm(g.astype(jnp.float32) - reference) / jnp.linalg.norm(reference)
            assert error < 0.02


@pytest.mark.parametrize("implementation", ["reference", "dense", "blockwise"])
def test_closed_forms(implementation):
    loss = functools.partial(info_nce, implementation=implementation)
    if implementation == "reference":
        loss = info_nce_reference
    # A collapsed encoder: every candidate is as likely, and none stands out.
    same = jnp.ones((12, 5))
    result = loss(same, same)
    close(result.loss, math.log(12))
    assert result.accuracy == 0
    close(loss(same, same, same).loss, math.log(24))
    # α = 3: an anchor's own hard negative counts three times.
    close(loss(same, same, same, hard_negative_weight=math.log(3)).loss, math.log(26))
    # Orthogonal rows: log(1 + (N - 1) e^{-1/τ}).
    eye = jnp.eye(8)
    result = loss(eye, eye, temperature=0.5)
    close(result.loss, math.log1p(7 * math.exp(-2)))
    assert result.accuracy == 1
    # All rows are duplicates of each other: nothing is left to tell apart.
    assert loss(eye, eye, group_ids=jnp.zeros(8, int)).loss == 0
    # Alone in its batch.
    assert loss(eye[:1], eye[:1]).loss == 0


@pytest.mark.parametrize("implementation", ["dense", "blockwise"])
def test_extremes_stay_finite(implementation):
    """Logits of ±20,000 under the dot product, a temperature of 0.001, and a zero row."""
    anchors, positives = embeddings(2)
    for temperature, sign in ((0.001, 1), (0.001, -1)):
        (loss, _), gradients = value_and_grad(
            anchors, sign * anchors * 3, similarity="dot", temperature=temperature,
            implementation=implementation,
        )  # fmt: skip
        assert jnp.isfinite(loss)
        assert all(jnp.isfinite(g).all() for g in gradients)
    (loss, _), gradients = value_and_grad(
        anchors.at[0].set(0), positives, implementation=implementation
    )
    assert jnp.isfinite(loss)
    assert all(jnp.isfinite(g).all() for g in gradients)
    assert jnp.isnan(info_nce_loss(anchors.at[3, 2].set(jnp.nan), positives))


def test_cosine_ignores_length():
    anchors, positives = embeddings(2)
    close(info_nce(3 * anchors, 0.1 * positives), info_nce(anchors, positives))


def test_numpy_arrays_give_the_same_bits():
    arrays = embeddings(3)
    options = {"group_ids": np.asarray(OPTIONS["groups"]["group_ids"])}
    found = info_nce(*map(np.asarray, arrays), **options)
    assert found == info_nce(*arrays, **OPTIONS["groups"])


def test_lists_and_other_numbers_are_float32():
    whole = np.arange(1, 13).reshape(4, 3)
    wanted = info_nce(jnp.asarray(whole, jnp.float32), jnp.asarray(whole[::-1], jnp.float32))
    for convert in (np.asarray, np.ndarray.tolist, np.float64, jnp.asarray, np.asfortranarray):
        assert info_nce(convert(whole), convert(whole[::-1])) == wanted


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positives": jnp.ones((3, 6))}, r"positives \(3, 6\) .* anchors \(16, 6\)"),
        ({"hard_negatives": jnp.ones((16, 5))}, r"hard_negatives \(16, 5\) .* anchors \(16, 6\)"),
        ({"anchors": jnp.ones(6)}, r"anchors must be a matrix \[n, D\], got shape \(6,\)"),
        ({"anchors": jnp.ones((0, 6))}, "non-empty"),
        ({"positives": jnp.ones((16, 6), complex)}, "positives must be real numbers, not complex"),
        (
            {"positives": [[1.0, 2.0], [3.0]]},
            r"positives must be a matrix \[n, D\]; its rows are of",
        ),
        ({"anchors": "abc"}, "anchors must be real numbers, not <U3"),
        ({"group_ids": jnp.zeros(4, int)}, r"group_ids \(4,\)"),
        ({"group_ids": jnp.zeros(16)}, "group_ids must be integers, not float32"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be positive"),
        ({"temperature": float("nan")}, "temperature is nan; it must be positive"),
        ({"similarity": "euclidean"}, "similarity is 'euclidean'; it must be one of cosine, dot"),
        ({"implementation": "fast"}, "implementation is 'fast'; it must be one of auto, dense"),
        ({"implementation": "ring"}, "'ring' needs axis_name"),
        ({"block_size": 0}, "block_size is 0; it must be at least 1"),
    ],
)
def test_errors_name_what_is_wrong(change, message):
    anchors, positives = embeddings(2)
    with pytest.raises(ValueError, match=message):
        info_nce(**{"anchors": anchors, "positives": positives, **change})


def test_doctests():
    results = doctest.testmod(api, extraglobs={"jnp": jnp})
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.usefixtures("unchecked")
def test_the_reference_refuses_rows_that_do_not_fit():
    with pytest.raises(ValueError, match="anchors must be a non-empty"):
        info_nce_reference(jnp.zeros((0, 2)), jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"positives \(2, 2\) must have the shape of anchors"):
        info_nce_reference(jnp.ones((3, 2)), jnp.ones((2, 2)))
