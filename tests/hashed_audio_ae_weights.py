"""Closed-form weights of the full-size golden discriminator, and its maps in the reference's layout."""

from __future__ import annotations

import numpy as np


def _mix(x: np.ndarray) -> np.ndarray:
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def hashed_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Tensors of a torch state dict, each from a hash of its place in the sorted names and of `seed`."""
    state = {}
    for i, key in enumerate(sorted(shapes)):
        shape = shapes[key]
        base = np.uint32((0x9E3779B9 * (i + 1) + 0x85EBCA6B * seed) & 0xFFFFFFFF)
        h = _mix(_mix(np.arange(int(np.prod(shape)), dtype=np.uint32) + base))
        u = ((h >> np.uint32(8)).astype(np.float64) * 2.0**-23 - 1.0).reshape(shape)
        if key.endswith("weight_v"):
            u = u * np.sqrt(3.0 / np.prod(shape[1:]))
        elif key.endswith("weight_g"):
            u = 1.0 + 0.25 * u
        else:
            u = 0.1 * u
        state[key] = u.astype(np.float32)
    return state


def torch_layout(value: np.ndarray, family: str, batch: int) -> np.ndarray:
    """One of our maps in torch's layout."""
    if family == "period":
        folded = value.reshape(batch, -1, *value.shape[1:])
        return folded.transpose(0, 3, 2, 1)
    return np.moveaxis(value, -1, 1)
