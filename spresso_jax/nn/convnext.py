"""ConvNeXt backbone over time, as in Vocos: width `dim` at constant length, `blocks` residual blocks.

The blocks are a Python loop, not a scan: on two CPU cores a scan of 8 blocks saved 0.3 s of 1.4 s compile time and
cost a quarter of every training step (dim 192), and separate blocks map one to one onto published weights.

Source: Vocos (arXiv:2306.00814), backbone; ConvNeXt (arXiv:2201.03545).
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

KERNEL = 7
_weights = nn.initializers.normal(0.02)


def depthwise_convolution(x: Array, kernel: Array, bias: Array) -> Array:
    """Zero-padded depthwise convolution over time as shifted multiply-adds.

    On the CPU backend this is 30 to 100 times faster than a grouped convolution, and on a GPU it fuses.

    Args:
      x: `[B, T, D]`.
      kernel: `[K, D]`, K odd.
      bias: `[D]`.

    Returns:
      `[B, T, D]`.
    """
    length, half = x.shape[1], kernel.shape[0] // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
    taps = [lax.slice_in_dim(padded, j, j + length, axis=1) * kernel[j] for j in range(kernel.shape[0])]
    return sum(taps[1:], taps[0]) + bias


def exact_gelu(x: Array) -> Array:
    """x times the normal distribution function, by erf as torch does; by erfc, as in `jax.nn`, it takes twice as long."""
    return 0.5 * x * (1.0 + lax.erf(x * math.sqrt(0.5)))


def layer_norm(name: str, dtype: str = "float32") -> nn.LayerNorm:
    """LayerNorm with the reference's epsilon (1e-6) and the exact variance."""
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm, two-layer MLP with exact GELU, layer scale, residual: `[B, T, D]` -> same.

    Attributes:
      dim: width D.
      intermediate: hidden width of the MLP.
      layer_scale: start value of the per-channel scale of the residual branch (1 / number of blocks in Vocos).
      dtype: of the products ("float32" or "bfloat16"); parameters stay float32.
    """

    dim: int
    intermediate: int
    layer_scale: float
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("depthwise_kernel", _weights, (KERNEL, self.dim), jnp.float32)
        bias = self.param("depthwise_bias", nn.initializers.zeros, (self.dim,), jnp.float32)
        scale = self.param("scale", nn.initializers.constant(self.layer_scale), (self.dim,), jnp.float32)
        kernel, bias, scale = (p.astype(self.dtype) for p in (kernel, bias, scale))
        y = depthwise_convolution(x, kernel, bias)
        y = layer_norm("norm", self.dtype)(y)
        y = nn.Dense(self.intermediate, kernel_init=_weights, dtype=self.dtype, name="expand")(y)
        y = exact_gelu(y)
        y = nn.Dense(self.dim, kernel_init=_weights, dtype=self.dtype, name="contract")(y)
        return x + scale * y


class ConvNeXtBackbone(nn.Module):
    """Embedding convolution, LayerNorm, ConvNeXt blocks, LayerNorm: `[B, T, C_in]` -> `[B, T, D]`.

    Receptive field: 1 + 6 * (blocks + 1) frames; convolutions pad with zeros, so T never changes.

    Attributes:
      dim: width D.
      intermediate: hidden width of the blocks.
      blocks: number of blocks; their parameters lie under `block_0`, `block_1`, ...
      dtype: of the products.
      remat: recompute each block in the backward pass instead of storing its activations.
    """

    dim: int
    intermediate: int
    blocks: int
    dtype: str = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.Conv(self.dim, (KERNEL,), kernel_init=_weights, dtype=self.dtype, name="embed")(x.astype(self.dtype))
        h = layer_norm("norm", self.dtype)(h)
        block = nn.remat(ConvNeXtBlock, prevent_cse=True) if self.remat else ConvNeXtBlock
        for i in range(self.blocks):
            h = block(self.dim, self.intermediate, 1.0 / self.blocks, self.dtype, name=f"block_{i}")(h)
        return layer_norm("final_norm", self.dtype)(h)
