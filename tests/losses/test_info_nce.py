"""Every implementation against the equation written a second time in numpy, and against dense."""

import contextlib
import doctest
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from scipy.special import logsumexp

from simcse_jax.losses import info_nce as module
from simcse_jax.losses import masked_lm
from simcse_jax.losses.info_nce import info_nce, info_nce_loss
from simcse_jax.losses.masked_lm import masked_lm_loss

DUPLICATES = jnp.array([0, 1, 2, 0, 4, 5, 2, 7, 0, 9, 10, 11, 12, 13, 4, 15])
OPTIONS = {
    "plain": {},
    "dot": {"similarity": "dot", "temperature": 1.0},
    "symmetric": {"symmetric": True},
    "groups": {"group_ids": DUPLICATES},
    "all": {"symmetric": True, "group_ids": DUPLICATES, "hard_negative_weight": 0.7},
    "weighted": {"hard_negative_weight": 1.5},
    "cold": {"temperature": 0.001},
}


def embeddings(count=3, batch=16, dim=6, dtype=jnp.float32, seed=0):
    """Random rows; positives lie near their anchors, so that probabilities are not all alike."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(batch, dim))
    return tuple(jnp.asarray(base + 0.8 * rng.normal(size=base.shape), dtype) for _ in range(count))


def numpy_info_nce(anchors, positives, negatives=None, *, temperature=0.05, similarity="cosine",
                   hard_negative_weight=0.0, symmetric=False, group_ids=None):  # fmt: skip
    """One row at a time, in float64, from the paper."""
    rows = [np.asarray(x, np.float64) for x in (anchors, positives, negatives) if x is not None]
    if similarity == "cosine":
        rows = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows]
    groups = np.arange(len(rows[0])) if group_ids is None else np.asarray(group_ids)

    def one_way(queries, keys, negatives):
        losses, hits = [], []
        for i, query in enumerate(queries):
            own = query @ keys[i] / temperature
            rest = [
                query @ keys[j] / temperature
                for j in range(len(keys))
                if j != i and groups[j] != groups[i]
            ]
            if negatives is not None:
                extra = negatives @ query / temperature
                extra[i] += hard_negative_weight
                rest.extend(extra)
            losses.append(logsumexp([own, *rest]) - own)
            hits.append(own > max(rest, default=-np.inf))
        return np.mean(losses), np.mean(hits)

    result = one_way(rows[0], rows[1], rows[2] if len(rows) == 3 else None)
    if symmetric:
        result = np.mean([result, one_way(rows[1], rows[0], None)], axis=0)
    return result


def close(actual, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=rtol, atol=atol
        ),
        actual,
        expected,
    )


def value_and_grad(*arrays, **options):
    """((loss, accuracy), gradients) of all arrays."""

    def loss(*arrays):
        result = info_nce(*arrays, **options)
        return result.loss, result.accuracy

    return jax.jit(jax.value_and_grad(loss, range(len(arrays)), has_aux=True))(*arrays)


@contextlib.contextmanager
def cold_in_float64(name):
    """At τ = 0.001 float32 logits near 1000 step by 6e-5: gradients are compared in float64."""
    with jax.enable_x64(name == "cold"):
        yield jnp.float64 if name == "cold" else jnp.float32


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


@pytest.mark.parametrize("count", [2, 3], ids=["pairs", "triplets"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("block_size", [5, 16])
def test_blockwise_gradients(name, count, block_size):
    with cold_in_float64(name) as dtype:
        arrays = embeddings(count, dtype=dtype)
        dense = value_and_grad(*arrays, implementation="dense", **OPTIONS[name])
        blocks = value_and_grad(
            *arrays, implementation="blockwise", block_size=block_size, **OPTIONS[name]
        )
        close(blocks, dense, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("batch", [1, 3, 33])
@pytest.mark.parametrize("count", [2, 3], ids=["pairs", "triplets"])
def test_any_batch_size(batch, count):
    arrays = embeddings(count, batch=batch)
    dense = value_and_grad(*arrays, implementation="dense")
    close(value_and_grad(*arrays, implementation="blockwise", block_size=4), dense)


def test_default_blocks_are_ragged_too():
    arrays = embeddings(2, batch=700, dim=16)
    dense = value_and_grad(*arrays, implementation="dense")
    close(value_and_grad(*arrays, implementation="blockwise", block_size=256), dense)
    close(value_and_grad(*arrays, implementation="auto"), dense)


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


@pytest.mark.parametrize("implementation", ["dense", "blockwise"])
def test_closed_forms(implementation):
    loss = functools.partial(info_nce, implementation=implementation)
    # A collapsed encoder: every candidate is as likely, and none stands out.
    same = jnp.ones((12, 5))
    result = loss(same, same)
    close(result.loss, math.log(12))
    assert result.accuracy == 0
    close(loss(same, same, same).loss, math.log(24))
    # α = 3: the own negative counts three times.
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


def test_small_losses_do_not_cancel():
    """log(1 + 7 e^{-40}) is 3e-17, far below the rounding of the logits."""
    result = info_nce(jnp.eye(8), jnp.eye(8), temperature=0.025, implementation="blockwise")
    close(result.loss, 7 * math.exp(-40), rtol=1e-5, atol=0)


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


def test_vmap_and_upstream_gradient():
    arrays = tuple(x.reshape(2, 8, 6) for x in embeddings(3))
    loss = functools.partial(info_nce_loss, implementation="blockwise", block_size=3)
    total = jax.jit(jax.grad(lambda *x: (2.5 * jax.vmap(loss)(*x)).sum()))(*arrays)
    dense = jax.jit(jax.grad(functools.partial(info_nce_loss, implementation="dense")))
    close(total, jnp.stack([2.5 * dense(*(x[i] for x in arrays)) for i in range(2)]))


def test_blockwise_memory_is_linear():
    """Twice the batch takes about twice the temporaries, four times in the dense form."""

    def temporaries(batch, implementation):
        shape = jax.ShapeDtypeStruct((batch, 8), jnp.float32)
        loss = functools.partial(info_nce_loss, implementation=implementation, block_size=128)
        compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(shape, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(4096, "blockwise") < 2.5 * temporaries(2048, "blockwise")
    assert temporaries(4096, "dense") > 3.5 * temporaries(2048, "dense")
    assert temporaries(4096, "blockwise") < temporaries(4096, "dense") / 8


# -------------------------------------------------------------------------------- devices


def mesh(devices):
    return jax.make_mesh(
        (devices,),
        ("data",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )


def sharded(devices, options, check_vma=True):
    """`info_nce` of the global batch by `jax.shard_map`; group ids are split like the rows."""
    options = dict(options)
    group_ids = options.pop("group_ids", None)
    rows = PartitionSpec("data")

    def loss(group_ids, *arrays):
        return info_nce(*arrays, group_ids=group_ids, axis_name="data", **options)

    def call(*arrays):
        mapped = jax.shard_map(
            loss,
            mesh=mesh(devices),
            in_specs=(rows,) * (1 + len(arrays)),
            out_specs=PartitionSpec(),
            check_vma=check_vma,
        )
        result = mapped(group_ids, *arrays)
        return result.loss, result.accuracy

    return call


@pytest.mark.parametrize("implementation", ["dense", "blockwise", "ring"])
@pytest.mark.parametrize(
    ("devices", "check_vma"), [(1, True), (2, True), (4, True), (8, True), (8, False)]
)
def test_gradient_outside_of_shard_map(implementation, devices, check_vma):
    arrays, name = embeddings(3), "all"
    expected = value_and_grad(*arrays, implementation="dense", **OPTIONS[name])
    call = sharded(
        devices,
        {"implementation": implementation, "block_size": 3, **OPTIONS[name]},
        check_vma,
    )
    actual = jax.jit(jax.value_and_grad(call, range(3), has_aux=True))(*arrays)
    close(actual, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("count", [2, 3], ids=["pairs", "triplets"])
def test_ring_options(name, count):
    with cold_in_float64(name) as dtype:
        arrays = embeddings(count, dtype=dtype)
        expected = value_and_grad(*arrays, implementation="dense", **OPTIONS[name])
        call = sharded(4, {"implementation": "ring", **OPTIONS[name]})
        actual = jax.jit(jax.value_and_grad(call, range(count), has_aux=True))(*arrays)
        close(actual, expected, rtol=1e-5, atol=2e-6)


def test_ring_bfloat16():
    low = tuple(x.astype(jnp.bfloat16) for x in embeddings(3, batch=64, dim=32))
    expected = value_and_grad(*low, implementation="dense")
    call = sharded(8, {"implementation": "ring"})
    actual = jax.jit(jax.value_and_grad(call, range(3), has_aux=True))(*low)
    assert all(g.dtype == jnp.bfloat16 for g in actual[1])
    close(actual[0], expected[0])
    close(actual[1], expected[1], rtol=0.05, atol=0.002)


def test_ring_never_gathers():
    arrays = embeddings(2)
    for implementation, gathers in (("ring", False), ("blockwise", True)):
        call = sharded(8, {"implementation": implementation})
        step = jax.grad(lambda *arrays, call=call: call(*arrays)[0])
        text = str(jax.make_jaxpr(step)(*arrays))
        assert ("all_gather" in text) == gathers
        assert ("ppermute" in text) != gathers


def encoder_loss(parameters, implementation, sentences, axis_name):
    """A stand-in for an encoder: one matrix, and a learnt temperature, shared by all devices."""
    matrix, temperature = parameters
    anchors, positives, negatives = (jnp.tanh(x @ matrix) for x in sentences)
    return info_nce_loss(
        anchors, positives, negatives, temperature=jnp.exp(temperature), symmetric=True,
        hard_negative_weight=0.5, implementation=implementation, axis_name=axis_name,
    )  # fmt: skip


def encoder_setting():
    matrix = jax.random.normal(jax.random.key(0), (6, 5))
    parameters = (matrix, jnp.log(0.3))
    sentences = embeddings(3)
    expected = jax.value_and_grad(encoder_loss)(parameters, "dense", sentences, None)
    return parameters, sentences, expected


@pytest.mark.parametrize("implementation", ["dense", "blockwise", "ring"])
@pytest.mark.parametrize(("devices", "check_vma"), [(2, True), (8, True), (8, False)])
def test_gradient_inside_of_shard_map(implementation, devices, check_vma):
    """Checked: summed already. Unchecked: the mean over devices is the gradient."""
    parameters, sentences, expected = encoder_setting()

    def step(parameters, sentences):
        value, gradients = jax.value_and_grad(encoder_loss)(
            parameters, implementation, sentences, "data"
        )
        return value, gradients if check_vma else jax.lax.pmean(gradients, "data")

    mapped = jax.shard_map(
        step,
        mesh=mesh(devices),
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
        check_vma=check_vma,
    )
    close(jax.jit(mapped)(parameters, sentences), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("implementation", ["dense", "blockwise", "ring"])
def test_gradient_inside_of_pmap(implementation):
    parameters, sentences, expected = encoder_setting()

    def step(parameters, sentences):
        value, gradients = jax.value_and_grad(encoder_loss)(
            parameters, implementation, sentences, "data"
        )
        return value, jax.lax.pmean(gradients, "data")

    split = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), sentences)
    actual = jax.pmap(step, axis_name="data", in_axes=(None, 0))(parameters, split)
    for device in range(8):
        close(jax.tree.map(lambda x, i=device: x[i], actual), expected, rtol=1e-5, atol=2e-6)


# ---------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positives": jnp.ones((3, 6))}, r"positives \(3, 6\) .* anchors \(16, 6\)"),
        ({"hard_negatives": jnp.ones((16, 5))}, r"hard_negatives \(16, 5\) .* anchors \(16, 6\)"),
        ({"anchors": jnp.ones(6)}, r"anchors must be a non-empty \[B, D\] array, not \(6,\)"),
        ({"anchors": jnp.ones((0, 6))}, "non-empty"),
        ({"positives": jnp.ones((16, 6), int)}, "positives must be floating-point, not int32"),
        ({"group_ids": jnp.zeros(4, int)}, r"group_ids \(4,\)"),
        ({"group_ids": jnp.zeros(16)}, "group_ids must be integers, not float32"),
        ({"temperature": 0.0}, "temperature must be positive, not 0.0"),
        ({"temperature": float("nan")}, "temperature must be positive, not nan"),
        ({"similarity": "euclidean"}, "similarity must be one of cosine, dot, not 'euclidean'"),
        ({"implementation": "fast"}, "implementation must be one of auto, dense, .*'fast'"),
        ({"implementation": "ring"}, "'ring' needs axis_name"),
        ({"block_size": 0}, "block_size must be at least 1, not 0"),
    ],
)
def test_errors_name_what_is_wrong(change, message):
    anchors, positives = embeddings(2)
    with pytest.raises(ValueError, match=message):
        info_nce(**{"anchors": anchors, "positives": positives, **change})


@pytest.mark.parametrize("documented", [module, masked_lm])
def test_examples(documented):
    results = doctest.testmod(documented, extraglobs={"jnp": jnp})
    assert results.attempted > 0
    assert results.failed == 0


# ------------------------------------------------------------------------------- masked LM


def test_masked_lm():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 7)).astype(np.float32)
    labels = np.full((3, 4), -100)
    labels[0, 1], labels[2, 0], labels[2, 3] = 5, 0, 6
    rows = [(0, 1, 5), (2, 0, 0), (2, 3, 6)]
    expected = np.mean([logsumexp(logits[b, p]) - logits[b, p, v] for b, p, v in rows])
    close(masked_lm_loss(jnp.asarray(logits), jnp.asarray(labels)), expected)
    gradient = jax.grad(masked_lm_loss)(jnp.asarray(logits), jnp.asarray(labels))
    assert not gradient[1].any()
    close(gradient.sum(axis=-1), np.zeros((3, 4)))
    low = masked_lm_loss(jnp.asarray(logits, jnp.bfloat16), jnp.asarray(labels))
    assert low.dtype == jnp.float32


def test_masked_lm_without_masks():
    logits, labels = jnp.ones((2, 3, 5)), jnp.full((2, 3), -100)
    value, gradient = jax.value_and_grad(masked_lm_loss)(logits, labels)
    assert value == 0
    assert not gradient.any()


def test_masked_lm_across_devices():
    """Devices with more masked positions weigh more, as in the global batch."""
    logits = jax.random.normal(jax.random.key(0), (8, 3, 5))
    labels = jnp.where(jnp.arange(24).reshape(8, 3) % 5 < 2, 3, -100)
    mapped = jax.shard_map(
        functools.partial(masked_lm_loss, axis_name="data"),
        mesh=mesh(8),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec(),
    )
    expected = jax.value_and_grad(masked_lm_loss)(logits, labels)
    close(jax.jit(jax.value_and_grad(mapped))(logits, labels), expected)


def test_masked_lm_names_both_shapes():
    with pytest.raises(ValueError, match=r"labels \(2, 4\) .* logits \(2, 3, 5\)"):
        masked_lm_loss(jnp.ones((2, 3, 5)), jnp.ones((2, 4), int))
