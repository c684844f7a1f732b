"""Whether cuDNN's attention can be had on some devices, and computes what ours does."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from simcse_jax.checks import first_line
from simcse_jax.models import BertConfig
from simcse_jax.models.batch import same_segment
from simcse_jax.models.fused_attention import Fused, Implementation, fused_attention

TRIAL_LENGTHS = (128, 512)
# Of values around 1, a few of bfloat16's steps (2^-8), as in JAX's own tests; another mask is 1.
TOLERANCE = 0.02


def check_cudnn(config: BertConfig, dtype: Any, devices: Sequence[jax.Device]) -> None:
    """Raise ValueError where cuDNN's attention cannot be had, or is not what ours is.

    Args:
        config: the architecture.
        dtype: the compute type.
        devices: that encode.
    """
    if dtype != jnp.bfloat16:
        raise ValueError(
            f"attention is 'cudnn' and dtype {jnp.dtype(dtype).name!r}; cuDNN's attention needs "
            "dtype 'bfloat16'"
        )
    if config.relative_attention_num_buckets:
        raise ValueError(
            "attention is 'cudnn'; it must be 'dense' for a model with relative positions"
        )
    for device in devices:
        if not has_cudnn_attention(device):
            raise ValueError(
                f"attention is 'cudnn'; it must be 'dense' on {device.device_kind}: cuDNN's needs "
                "an NVIDIA GPU of compute capability 8.0 or later"
            )
    heads = config.num_attention_heads
    try:
        off = trial(heads, config.hidden_size // heads, tuple(devices))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"attention is 'cudnn', which cannot be had here: {first_line(error).rstrip('.')}; "
            "update JAX's packages for CUDA, or leave it at 'dense'"
        ) from error
    if not off < TOLERANCE:  # NaN too
        raise ValueError(
            f"attention is 'cudnn', whose results are {off:.2g} off on {devices[0].device_kind}; "
            "leave it at 'dense'"
        )


def has_cudnn_attention(device: Any) -> bool:
    """Tell whether a device is a GPU of CUDA's that can do it: Ampere, or later."""
    if "cuda" not in device.client.platform_version:
        return False
    return tuple(map(int, device.compute_capability.split("."))) >= (8, 0)


@functools.lru_cache
def trial(heads: int, size: int, devices: tuple[jax.Device, ...]) -> float:
    """Return by how much cuDNN's attention differs from JAX's own in float32, at most.

    Of random rows, spread over the devices as rows are in encoding: differences of values around
    1, relative to the value where that is above 1.

    Args:
        heads: the number of heads.
        size: the size of each.
        devices: that compute it.
    """
    sharding = NamedSharding(Mesh(np.asarray(devices), ("data",)), PartitionSpec("data"))
    rng, off = np.random.default_rng(0), []
    for length in TRIAL_LENGTHS:
        segments = trial_segments(2 * len(devices), length)
        shape = (3, *segments.shape, heads, size)
        arrays = rng.standard_normal(shape, np.float32).astype(jnp.bfloat16)
        off.append(difference(*jax.device_put((*arrays, segments), sharding)))
    return float(np.max(off))  # NaN if one is


def difference(query: Array, key: Array, value: Array, segments: Array) -> np.floating:
    """Return by how much cuDNN's attention differs on these arrays, see `trial`."""

    def attend(implementation: Implementation, *arrays: Array) -> np.ndarray:
        def compute(query: Array, key: Array, value: Array, segments: Array) -> Array:
            return fused_attention(query, key, value, Fused(implementation, same_segment(segments)))

        return np.asarray(jax.jit(compute)(*arrays, segments), np.float32)

    found = attend("cudnn", query, key, value)
    expected = attend("xla", *(x.astype(jnp.float32) for x in (query, key, value)))
    return np.max(np.abs(found - expected) / np.maximum(1, np.abs(expected)))


def trial_segments(rows: int, length: int) -> Int[np.ndarray, "R L"]:
    """Return segments of two kinds of rows in turns: sentences and padding, and padding alone."""
    segments = np.zeros((rows, length), np.int32)
    cuts = (0, 1, length // 8, length // 2, length - 7)
    for number, (start, end) in enumerate(itertools.pairwise(cuts), 1):
        segments[::2, start:end] = number
    return segments
