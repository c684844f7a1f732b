"""From a pure step to a compiled one on every device of every process.

One mesh axis, ``data``. The state is replicated, the batch's rows are spread, and the step is
written for the global batch, so that the compiler puts the collectives in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key

from simcse_jax.training.step import AXIS, Step

CompiledStep = Callable[[Any, Any, Key[Array, ""]], tuple[Any, Any]]


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh with the one axis ``data``, over the devices of all processes or those given."""
    if devices is None:
        devices = jax.devices()
    # Auto, because Linen's nn.Embed cannot be used under explicit axes.
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The whole tree on every device of the mesh; every process passes the same values.

    The arrays are new ones, so that a step which donates them leaves the caller's alone.
    """
    sharding = NamedSharding(mesh, PartitionSpec())

    def put(x: Any) -> Array:
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        # Through the host: several processes cannot put each other's device arrays.
        return jax.device_put(np.array(x), sharding)

    return jax.tree.map(put, tree)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Spread a batch's rows over the devices, in order.

    Args:
        batch: arrays whose first axis is the batch: on one process the whole of it, on several
            the rows of this process, as many on each.
        mesh: of `make_mesh`.

    Raises:
        ValueError: this process' rows cannot be divided among its devices.
    """
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    local = len(mesh.local_devices)

    def put(x: Any) -> Array:
        x = np.asarray(x)
        if x.ndim == 0 or x.shape[0] % local:
            rows = x.shape[0] if x.ndim else "no"
            raise ValueError(
                f"a batch of {rows} rows cannot be divided among {local} devices; choose a batch "
                f"size that is a multiple of {local}"
            )
        return jax.make_array_from_process_local_data(sharding, x)

    return jax.tree.map(put, batch)


def compile_step(step: Step, mesh: Mesh) -> CompiledStep:
    """Jit a pure step: state replicated and donated, batch spread, metrics replicated.

    Args:
        step: ``(state, batch, key) -> (state, metrics)``, written for the global batch.
        mesh: of `make_mesh`.

    Returns:
        The same function; it takes batches of the host (see `shard_batch`) and a state and a key
        from `replicate`, and consumes the state.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    spread = NamedSharding(mesh, PartitionSpec(AXIS))
    compiled = jax.jit(
        step,
        in_shardings=(everywhere, spread, everywhere),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )

    def run(state: Any, batch: Any, key: Key[Array, ""]) -> tuple[Any, Any]:
        return compiled(state, shard_batch(batch, mesh), key)

    return run
