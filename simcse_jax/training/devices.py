"""From the pure step of one device to a compiled one on every device of every process.

One mesh axis, ``data``. State, key and metrics are on every device; the batch is cut along its
first axis. `jax.shard_map` maps the step by default and `jax.pmap` for who asks; the numbers are
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key

from simcse_jax.checks import counted
from simcse_jax.data.batches import split_shards
from simcse_jax.objectives.objective import AXIS
from simcse_jax.training.step import Step

CompiledStep = Callable[[Any, Any, Key[Array, ""]], tuple[Any, Any]]
Parallel = Literal["shard_map", "pmap"]
_EVERYWHERE, _SPREAD = PartitionSpec(), PartitionSpec(AXIS)


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Make the mesh with the one axis ``data`` over all processes' devices, or those given."""
    if devices is None:
        devices = jax.devices()
    # Auto, because Linen's nn.Embed cannot be used under explicit axes.
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put the whole tree on every device of the mesh; every process passes the same values.

    The arrays are new ones, so that a step which donates them leaves the caller's alone.
    """
    sharding = NamedSharding(mesh, _EVERYWHERE)

    def put(x: Any) -> Array:
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        # Through the host: several processes cannot put each other's device arrays.
        return jax.device_put(np.array(x), sharding)

    return jax.tree.map(put, tree)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Spread a batch over the devices, in order.

    Args:
        batch: arrays whose first axis is the batch: on one process the whole of it, on several
            the share of this process, as large on each.
        mesh: of `make_mesh`.

    Raises:
        ValueError: this process' share cannot be divided among its devices.
    """
    check_share(batch, mesh)
    sharding = NamedSharding(mesh, _SPREAD)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def check_share(batch: Any, mesh: Mesh) -> None:
    """Raise ValueError where this process' share of a batch does not divide by its devices."""
    local = len(mesh.local_devices)
    for x in jax.tree.leaves(batch):
        if np.ndim(x) == 0 or np.shape(x)[0] % local:
            rows = counted(np.shape(x)[0], "row") if np.ndim(x) else "no rows"
            raise ValueError(
                f"a batch of {rows} cannot be divided among {local} devices; choose a batch "
                f"size that is a multiple of {local}"
            )


def map_step(step: Step, mesh: Mesh) -> Step:
    """Map a device's step over the mesh with `jax.shard_map`: a step of the global batch."""
    return jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(_EVERYWHERE, _SPREAD, _EVERYWHERE),
        out_specs=(_EVERYWHERE, _EVERYWHERE),
        # The step averages the gradients itself, so that it runs under pmap as it stands.
        check_vma=False,
    )


def compile_step(step: Step, mesh: Mesh, parallel: Parallel = "shard_map") -> CompiledStep:
    """Map a device's step over the mesh and compile it.

    Args:
        step: see `simcse_jax.training.make_step`.
        mesh: of `make_mesh`.
        parallel: what maps it: ``"shard_map"``, or ``"pmap"`` over the same devices.

    Returns:
        The step of the global batch; it takes batches of the host (see `shard_batch`) and a state
        and a key from `replicate`, and consumes the state.
    """
    if parallel == "pmap":
        return _pmap_step(step, mesh)
    everywhere, spread = NamedSharding(mesh, _EVERYWHERE), NamedSharding(mesh, _SPREAD)
    compiled = jax.jit(
        map_step(step, mesh),
        in_shardings=(everywhere, spread, everywhere),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )

    def run(state: Any, batch: Any, key: Key[Array, ""]) -> tuple[Any, Any]:
        return compiled(state, shard_batch(batch, mesh), key)

    return run


def _pmap_step(step: Step, mesh: Mesh) -> CompiledStep:
    devices, everywhere = list(mesh.devices.flat), NamedSharding(mesh, _EVERYWHERE)
    axes: Any = {"in_axes": (None, 0, None), "out_axes": (None, None)}
    mapped = jax.pmap(step, AXIS, devices=devices, donate_argnums=0, **axes)

    def replicated(x: Array) -> Array:
        # Of several processes, pmap returns to each what lies on its own devices.
        pieces = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, everywhere, pieces)

    def run(state: Any, batch: Any, key: Key[Array, ""]) -> tuple[Any, Any]:
        check_share(batch, mesh)
        shares = split_shards(batch, len(mesh.local_devices))
        return jax.tree.map(replicated, mapped(state, shares, key))

    return run
