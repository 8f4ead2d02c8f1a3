"""Transformer parts without noise modulation: norms, GELU, MLP, attention projections and a pre-norm block.

The un-modulated block is the one of the latent encoder g_psi (S-PRESSO 3.3); the DiT's streams use the same parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from spresso_jax.nn import attention as attention_module
from spresso_jax.nn.attention import attention
from spresso_jax.nn.lora import LoraDense
from spresso_jax.nn.rope import rotate

EPSILON = 1e-6

# What "names" keeps of a block: results that cost most to make again for what they weigh.
MLP_HIDDEN = "mlp_hidden"
KEPT_NAMES = (attention_module.NAME, MLP_HIDDEN)


def layer_norm(x: jax.Array) -> jax.Array:
    """LayerNorm over the last axis without gain or offset, epsilon 1e-6, in float32 or wider (and returned so)."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + EPSILON)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """GELU in its tanh form, `x / 2 (1 + tanh u) = x sigmoid(2 u)`, u = sqrt(2 / pi) (x + 0.044715 x^3).

    The gradient is written out: the automatic one takes an eighth of an MLP's backward pass on the CPU backend.
    """
    return x * _gelu_gate(x)


def _gelu_gate(x: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x))


def _gelu_backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    gate = _gelu_gate(x)
    slope = 2.0 * math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * x * x)
    return (cotangent * (gate + x * gate * (1.0 - gate) * slope),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


def stacked(
    block: type[nn.Module],
    length: int,
    remat: str | bool = "none",
    inputs: int = 1,
    methods: Mapping[str, tuple[bool, ...]] | None = None,
) -> Any:
    """`length` copies of a block `(carry, *inputs) -> (carry, None)` as one module, parameters stacked on axis 0.

    A scan, so that the block is compiled once; on the CPU backend the scan is unrolled, because gradients through XLA's
    loop cost a fifth more processor time there (three blocks of width 256), at the same compile time.

    Args:
      block: module class.
      remat: what the backward pass computes again: "none" of the block, "names" (all but what attention gave and the MLP's
        hidden layer, which are kept) or "full"; False and True stand for the first and the last.
      inputs: number of arguments after the carry, the same for every copy.
      methods: other methods `(carry, *arguments) -> (carry, outputs)` that run over the copies: name -> for each
        argument whether every copy has its own, on axis 0. They are never recomputed; outputs are stacked on axis 0.

    Raises:
      ValueError: if `remat` is none of these.
    """
    kind = {False: "none", True: "full"}.get(remat, remat)
    if kind not in ("none", "names", "full"):
        raise ValueError(f"remat must be none, names or full, got {remat!r}")
    policy = jax.checkpoint_policies.save_only_these_names(*KEPT_NAMES) if kind == "names" else None
    body = block if kind == "none" else nn.remat(block, prevent_cse=False, policy=policy)

    def options(own: tuple[bool, ...], unrolled: bool) -> dict[str, Any]:
        return dict(
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=tuple(0 if each else nn.broadcast for each in own),
            length=length,
            unroll=length if jax.default_backend() == "cpu" and unrolled else 1,
        )

    others = {name: options(own, unrolled=True) for name, own in (methods or {}).items()}
    return nn.scan(body, methods={"__call__": options((False,) * inputs, unrolled=kind == "none"), **others})


class HeadNorm(nn.Module):
    """RMSNorm over the head dimension with a learned gain (QK normalisation); x [B, L, H, head_dim]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + EPSILON)
        return (wide * scale).astype(x.dtype)


class Projections(nn.Module):
    """Queries, keys and values of one token stream, and the way back: parameters q, k, v, q_norm, k_norm, out.

    Attributes:
      width, heads: head_dim = width / heads.
      qk_norm: RMSNorm on queries and keys before the rotation.
      lora_rank, lora_alpha: adapters on q, k, v and out.

    Raises:
      ValueError: if `heads` does not divide `width`.
    """

    width: int
    heads: int
    qk_norm: bool = True
    lora_rank: int = 0
    lora_alpha: float = 0.0
    dtype: str = "float32"

    def setup(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        dense = dict(features=self.width, rank=self.lora_rank, alpha=self.lora_alpha, dtype=self.dtype)
        self.q, self.k, self.v, self.out = (LoraDense(**dense) for _ in range(4))
        if self.qk_norm:
            self.q_norm, self.k_norm = HeadNorm(), HeadNorm()

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, self.width // self.heads)

    def queries(self, x: jax.Array, table: jax.Array | None = None) -> jax.Array:
        """x [B, L, D] -> normalised and rotated queries [B, L, H, head_dim]."""
        q = self._split(self.q(x))
        return rotate(self.q_norm(q) if self.qk_norm else q, table)

    def keys_values(self, x: jax.Array, table: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """x [B, L, D] -> normalised and rotated keys, and values, both [B, L, H, head_dim]."""
        k = self._split(self.k(x))
        return rotate(self.k_norm(k) if self.qk_norm else k, table), self._split(self.v(x))

    def project(self, attended: jax.Array) -> jax.Array:
        """Attended values [B, L, H, head_dim] -> [B, L, D]."""
        return self.out(attended.reshape(*attended.shape[:-2], self.width))


class Mlp(nn.Module):
    """Dense, GELU (tanh form), Dense: [B, L, D] -> [B, L, width]; parameters fc1, fc2."""

    width: int
    hidden: int
    lora_rank: int = 0
    lora_alpha: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        lora = dict(rank=self.lora_rank, alpha=self.lora_alpha, dtype=self.dtype)
        hidden = checkpoint_name(LoraDense(self.hidden, name="fc1", **lora)(x), MLP_HIDDEN)
        return LoraDense(self.width, name="fc2", **lora)(gelu(hidden))


class PreNormBlock(nn.Module):
    """`x += Attn(LN x); x += MLP(LN x)`: full attention, QK-RMSNorm, rotary positions, no modulation.

    Source: S-PRESSO 3.3 (the encoder repeats the DiT's blocks without conditioning).
    """

    width: int
    heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, table: jax.Array | None) -> tuple[jax.Array, None]:
        """x [B, L, D], table as in `rotate` -> (x [B, L, D], None), the pair that nn.scan expects."""
        heads = Projections(self.width, self.heads, self.qk_norm, dtype=self.dtype, name="attention")
        u = layer_norm(x)
        attended = attention(heads.queries(u, table), *heads.keys_values(u, table))
        x = x + heads.project(attended)
        mlp = Mlp(self.width, int(self.width * self.mlp_ratio), dtype=self.dtype, name="mlp")
        return x + mlp(layer_norm(x)), None
