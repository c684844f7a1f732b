"""Inputs, options, and the equation written a second time in numpy, for all of InfoNCE's tests."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from scipy.special import logsumexp

from simcse_jax.losses.info_nce import info_nce, info_nce_reference

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
        rows = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in rows]
    groups = np.arange(len(rows[0])) if group_ids is None else np.asarray(group_ids)

    def one_way(queries, keys, hard):
        losses, correct = [], []
        for i, query in enumerate(queries):
            positive = query @ keys[i] / temperature
            negative = [
                query @ keys[j] / temperature
                for j in range(len(keys))
                if j != i and groups[j] != groups[i]
            ]
            if hard is not None:
                extra = hard @ query / temperature  # [B], or [B K]
                extra[i] += hard_negative_weight
                negative.extend(extra.ravel())
            losses.append(logsumexp([positive, *negative]) - positive)
            correct.append(positive > max(negative, default=-np.inf))
        return np.mean(losses), np.mean(correct)

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
    """((loss, accuracy), gradients) of all arrays, by `info_nce`."""
    return _value_and_grad(info_nce, arrays, options)


def reference_value_and_grad(*arrays, **options):
    """The same by the equation as written."""
    return _value_and_grad(info_nce_reference, arrays, options)


def _value_and_grad(function, arrays, options):
    def loss(*arrays):
        result = function(*arrays, **options)
        return result.loss, result.accuracy

    return jax.jit(jax.value_and_grad(loss, range(len(arrays)), has_aux=True))(*arrays)


@contextlib.contextmanager
def cold_in_float64(name):
    """At τ = 0.001 float32 logits near 1000 step by 6e-5: gradients are compared in float64."""
    with jax.enable_x64(name == "cold"):
        yield jnp.float64 if name == "cold" else jnp.float32


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
