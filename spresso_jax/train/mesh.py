"""The device mesh, and where each leaf and each batch lives on it. One device is a mesh of one."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

# Smaller leaves stay whole on every device: gathering them costs more than it saves.
SMALLEST_SHARDED_BYTES = 1 << 20

# (path pattern, trailing dimensions). A leading axis of stacked layers stays unsharded. First match wins; a leaf with no
# match is split over fsdp along its largest dimension that divides.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(qkv|q|k|v|fc1|pwconv1|in_proj)/(mp_)?kernel$", ("fsdp", "tensor")),
    (r"(out|proj|fc2|pwconv2|out_proj)/(mp_)?kernel$", ("tensor", "fsdp")),
)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Mesh with axes data, fsdp and tensor; `data` = -1 takes the devices that the other two leave.

    Raises:
      ValueError: if the product does not equal the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    if data == -1:
        if len(devices) % (fsdp * tensor):
            raise ValueError(f"mesh: fsdp {fsdp} x tensor {tensor} does not divide {len(devices)} devices")
        data = len(devices) // (fsdp * tensor)
    if data * fsdp * tensor != len(devices):
        raise ValueError(f"mesh: data {data} x fsdp {fsdp} x tensor {tensor} is not {len(devices)} devices")
    grid = np.asarray(devices).reshape(data, fsdp, tensor)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def leaf_spec(path: str, shape: tuple[int, ...], itemsize: int, sizes: Mapping[str, int]) -> PartitionSpec:
    """Partition of one leaf: the first rule that matches its path, else the largest dimension over fsdp."""
    if int(np.prod(shape, dtype=np.int64)) * itemsize < SMALLEST_SHARDED_BYTES or not shape:
        return PartitionSpec()
    for pattern, trailing in RULES:
        if re.search(pattern, path) and len(shape) >= len(trailing):
            axes: list[str | None] = [None] * (len(shape) - len(trailing)) + list(trailing)
            fitted = [
                axis if axis and size % sizes[axis] == 0 else None for axis, size in zip(axes, shape, strict=True)
            ]
            return PartitionSpec(*fitted)
    axes = [None] * len(shape)
    for index in sorted(range(len(shape)), key=lambda i: -shape[i]):
        if shape[index] % sizes["fsdp"] == 0:
            axes[index] = "fsdp"
            break
    return PartitionSpec(*axes)


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """NamedSharding for every leaf of a (possibly abstract) tree; covers optimiser moments, whose paths end alike."""
    sizes = dict(mesh.shape)

    def place(path: tuple, leaf: Any) -> NamedSharding:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return NamedSharding(mesh, PartitionSpec())
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, leaf_spec(name, tuple(leaf.shape), np.dtype(leaf.dtype).itemsize, sizes))

    return jax.tree.map_with_path(place, tree)


def on_host(leaf: jax.Array) -> np.ndarray:
    """The whole of a leaf as NumPy; every process must ask when it is split over processes."""
    if getattr(leaf, "is_fully_addressable", True) or leaf.is_fully_replicated:
        return np.asarray(jax.device_get(leaf))
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(leaf, tiled=True))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over data and fsdp together."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def within(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`function`, to be jitted, traced with `mesh` in force: parts of it that ask for it work on every device alone."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Global arrays from this process's rows.

    Raises:
      ValueError: if the rows do not divide over the mesh's data and fsdp axes.
    """
    sharding = batch_sharding(mesh)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    for name, rows in batch.items():
        if rows.shape[0] * jax.process_count() % parts:
            raise ValueError(f"batch of {rows.shape[0]} rows ({name}) does not divide over {parts} devices")
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
