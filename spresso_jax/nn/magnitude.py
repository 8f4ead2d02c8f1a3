"""Magnitude-preserving primitives of EDM2, the optional alternative to AdaLN blocks.

Every operation keeps the root mean square of unit-variance inputs; weights are normalised on the fly and, after each
optimiser update, projected back (`project_kernels`). Weight decay must be 0 with them.
Source: Karras et al. 2024 (EDM2), section 2 and appendix B; all norms in float32 or wider.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-4
KERNEL = "mp_kernel"


def normalize(x: jax.Array, axes: int | Sequence[int]) -> jax.Array:
    """`x / (1e-4 + rms(x))` over `axes`; the epsilon is added to the root, not to the square."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.mean(jnp.square(wide), axis=axes, keepdims=True)
    # The double `where` keeps the gradient finite at zero, where the square root has none.
    rms = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return (wide / (EPSILON + rms)).astype(x.dtype)


def silu(x: jax.Array) -> jax.Array:
    """SiLU divided by its root mean square on unit normal input, 0.596."""
    return jax.nn.silu(x) / 0.596


def weighted_sum(a: jax.Array, b: jax.Array, t: float) -> jax.Array:
    """`((1 - t) a + t b) / sqrt((1 - t)^2 + t^2)`: t = 0.3 in residual branches, 0.5 for embeddings."""
    return ((1.0 - t) * a + t * b) / math.sqrt((1.0 - t) ** 2 + t**2)


def concatenate(a: jax.Array, b: jax.Array, t: float, axis: int = -1) -> jax.Array:
    """Concatenation in which `b` contributes the share t of the magnitude, whatever the sizes."""
    size_a, size_b = a.shape[axis], b.shape[axis]
    total = math.sqrt((size_a + size_b) / ((1.0 - t) ** 2 + t**2))
    return jnp.concatenate([a * (total * (1.0 - t) / math.sqrt(size_a)), b * (total * t / math.sqrt(size_b))], axis)


def fourier(x: jax.Array, frequencies: jax.Array, phases: jax.Array) -> jax.Array:
    """`sqrt(2) cos(f x + p)`: x [B] -> [B, len(frequencies)]."""
    return math.sqrt(2.0) * jnp.cos(x[:, None] * frequencies + phases)


def linear(x: jax.Array, kernel: jax.Array, gain: jax.Array | float = 1.0) -> jax.Array:
    """`x @ (gain * normalised kernel / sqrt(fan_in))`, kernel [in, out], normalised per output; no bias."""
    return x @ (normalize(kernel, 0) * (gain / math.sqrt(kernel.shape[0]))).astype(x.dtype)


def project(kernel: jax.Array) -> jax.Array:
    """Forced weight normalisation: the kernel [..., in, out] to put back after an optimiser update."""
    return normalize(kernel, -2)


def project_kernels(params: Mapping[str, Any]) -> dict[str, Any]:
    """Forced weight normalisation of a whole tree: every leaf called `mp_kernel` is projected, others are kept.

    Source: EDM2, appendix B (`normalize` of the weights before each training step).
    """

    def projected(path: tuple, leaf: jax.Array) -> jax.Array:
        return project(leaf) if path[-1].key == KERNEL else leaf

    return jax.tree_util.tree_map_with_path(projected, dict(params))


class MagnitudeDense(nn.Module):
    """`linear` as a layer: parameter `mp_kernel` [in, features] from N(0, 1), no bias.

    Attributes:
      features: output size.
      gained: the output is scaled by a learned scalar `gain`, zero at first.
      constant: a channel of ones is appended to the input; at the first layer of a network it stands for all biases.
      dtype: of the product; parameters, and the normalisation of the kernel, stay float32.
    """

    features: int
    gained: bool = False
    constant: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., in] -> [..., features]."""
        lead = x.shape[:-1]
        x = x.astype(self.dtype).reshape(-1, x.shape[-1])
        if self.constant:
            x = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=-1)
        kernel = self.param(KERNEL, nn.initializers.normal(1.0), (x.shape[-1], self.features))
        gain = self.param("gain", nn.initializers.zeros_init(), ()) if self.gained else 1.0
        return linear(x, kernel, gain).reshape(*lead, self.features)


def attention_operands(*operands: jax.Array) -> list[jax.Array]:
    """Queries, keys and values [B, L, H, head_dim] normalised per head (cosine attention)."""
    return [normalize(operand, -1) for operand in operands]
