"""Self-attention with an additive bias, the form that both CLAP towers need."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def biased_attention(qkv: Array, heads: int, bias: Array | float = 0.0, *, head_major_merge: bool = False) -> Array:
    """Multi-head self-attention from stacked projections.

    The heads-first layout with two products is the fast form on the CPU backend, and XLA fuses it well elsewhere.
    The softmax is at least float32 whatever the inputs are.

    Args:
      qkv: `[..., L, 3 D]`, queries, keys and values side by side, each head-major.
      heads: number of heads H; D must divide by it.
      bias: added to the scaled scores, broadcastable to `[..., H, L, L]` (a mask is a large negative bias).
      head_major_merge: True reads the `[H, L, D / H]` results in memory order as `[L, D]`: the slip of Woosh's audio tower,
        which its weights were trained with.

    Returns:
      `[..., L, D]`, heads concatenated.

    Raises:
      ValueError: if the width does not divide by the heads.
    """
    *batch, length, stacked = qkv.shape
    width = stacked // 3
    if width % heads:
        raise ValueError(f"attention width {width} does not divide by {heads} heads")
    size = width // heads
    query, key, value = jnp.moveaxis(qkv.reshape(*batch, length, 3, heads, size), (-3, -2), (0, -3))
    scores = jnp.einsum("...qd,...kd->...qk", query * size**-0.5, key)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32)) + bias
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    mixed = jnp.einsum("...qk,...kd->...qd", weights, value)
    if not head_major_merge:
        mixed = jnp.moveaxis(mixed, -3, -2)
    return mixed.reshape(*batch, length, width)
