"""Rotary position embedding with interleaved pairs, as in FLUX, and its decimation for pooled sequences.

Angles are built in float64 on the host and stored in float32: in bfloat16, positions above 256 collapse.
Source: RoFormer (Su et al.); FLUX pairing (dimensions 2j, 2j + 1), theta 10,000; YaRN (Peng et al., section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.shapes import pooled_length


def frequencies(dim: int, theta: float = 10_000.0, yarn_factor: float = 0.0, yarn_length: int = 0) -> np.ndarray:
    """Angular frequencies `theta ** (-2 j / dim)` of the dim / 2 pairs, float64.

    Args:
      dim: number of dimensions that the table covers; even.
      theta: base.
      yarn_factor: 0 for the plain table; otherwise slow frequencies are divided by this (YaRN), fast ones are kept,
        with a linear ramp between the pairs that turn 32 times and once over `yarn_length` positions.
      yarn_length: length of the training sequences that the ramp refers to.

    Raises:
      ValueError: if `dim` is odd, or YaRN is asked for without a length.
    """
    if dim % 2:
        raise ValueError(f"rotary dimension must be even, got {dim}")
    omega = theta ** (-2.0 * np.arange(dim // 2, dtype=np.float64) / dim)
    if not yarn_factor:
        return omega
    if yarn_length < 1:
        raise ValueError(f"yarn_length must be at least 1 when yarn_factor is set, got {yarn_length}")

    def pair_turning(times: float) -> float:
        return dim * math.log(yarn_length / (times * 2.0 * math.pi)) / (2.0 * math.log(theta))

    low = max(math.floor(pair_turning(32.0)), 0)
    high = min(math.ceil(pair_turning(1.0)), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 1e-3), 0.0, 1.0)
    return omega * (1.0 - ramp) + omega / yarn_factor * ramp


def rope_table(
    positions: Sequence[float] | np.ndarray,
    dim: int,
    theta: float = 10_000.0,
    rotated: int | None = None,
    yarn_factor: float = 0.0,
    yarn_length: int = 0,
) -> np.ndarray:
    """Table of cosines and sines at `positions`: [..., L, rotated / 2, 2] float32, for positions [..., L].

    `rotated` keeps only the first dimensions of a table built for `dim` (the others are left alone by `rotate`).
    """
    omega = frequencies(dim, theta, yarn_factor, yarn_length)[: (dim if rotated is None else rotated) // 2]
    angles = np.asarray(positions, dtype=np.float64)[..., None] * omega
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


def multi_axis_table(ids: np.ndarray, axes_dim: Sequence[int], theta: float = 10_000.0) -> np.ndarray:
    """FLUX table of several position axes: ids [..., L, A] -> [..., L, sum(axes_dim) / 2, 2] float32."""
    return np.concatenate([rope_table(ids[..., i], dim, theta) for i, dim in enumerate(axes_dim)], axis=-2)


def decimate(table: np.ndarray | jax.Array, frames: int, downsample: int) -> np.ndarray | jax.Array:
    """Rows of a table over `frames` positions at the window centres `i * t + t // 2`, tail dropped.

    Source: S-PRESSO 3.3 ("selecting the central position of each temporal window").

    Raises:
      ValueError: if not even one window fits.
    """
    count = pooled_length(frames, downsample)
    return table[..., downsample // 2 :: downsample, :, :][..., :count, :, :]


def rotate(x: jax.Array, table: jax.Array | np.ndarray | None) -> jax.Array:
    """Rotates the leading dimensions of every head: `(a, b) -> (a cos - b sin, a sin + b cos)`.

    Args:
      x: [B, L, H, head_dim].
      table: [L, R / 2, 2] or [B, L, R / 2, 2] with R <= head_dim; None leaves `x` alone (position 0).

    Returns:
      Same shape and dtype as `x`; computed in float32 or wider.
    """
    if table is None:
        return x
    wide = jnp.promote_types(x.dtype, jnp.float32)
    cos, sin = (jnp.asarray(table, wide)[..., None, :, i] for i in (0, 1))
    rotated = 2 * cos.shape[-1]
    pairs = x[..., :rotated].astype(wide).reshape(*x.shape[:-1], rotated // 2, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(*x.shape[:-1], rotated)
    turned = turned.astype(x.dtype)
    return turned if rotated == x.shape[-1] else jnp.concatenate([turned, x[..., rotated:]], axis=-1)
