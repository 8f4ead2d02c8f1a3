"""The RoBERTa text tower: post-norm transformer over byte-level BPE tokens.

Source: RoBERTa (arXiv:1907.11692) as LAION-CLAP and Woosh use it; the sizes of roberta-base are 12 layers, width
768, 12 heads, MLP 3072, 50 265 tokens, 514 positions, LayerNorm epsilon 1e-5 (Hugging Face's converted CLAP: 1e-12).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from spresso_jax.clap.attention import biased_attention

PAD_TOKEN = 1
# Positions of real tokens begin after the pad's own row, which is RoBERTa's inheritance from fairseq.
FIRST_POSITION = PAD_TOKEN + 1
POOLINGS = ("dense", "first", "mean")


def unit_length(vectors: Array) -> Array:
    """`[..., D]` divided by its length over the last axis, at least float32; zeros stay zeros."""
    vectors = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.sum(vectors * vectors, axis=-1, keepdims=True), 1e-24))


def token_positions(mask: Array, first: int = FIRST_POSITION) -> Array:
    """Row of the position table for every token: `first`, `first` + 1, ... for real ones; int32 `[B, N]`.

    Padding has the row before the first real one (1 in RoBERTa), or row 0; it is never attended to.

    Args:
      mask: bool `[B, N]`, True for real tokens.
      first: 2 for RoBERTa, 0 for BERT.
    """
    real = mask.astype(jnp.int32)
    return jnp.maximum(jnp.cumsum(real, axis=1) * real + first - 1, 0)


class TextBlock(nn.Module):
    """One post-norm layer: LayerNorm(x + attention(x)), then LayerNorm(x + MLP(x)), with the exact GELU."""

    width: int
    heads: int
    mlp_width: int
    norm_eps: float
    dtype: str = "float32"

    @nn.compact
    def __call__(self, states: Array, bias: Array) -> Array:
        """`[B, N, D]` states and a `[B, 1, 1, N]` additive key mask -> `[B, N, D]`."""

        def norm(name):
            return nn.LayerNorm(self.norm_eps, use_fast_variance=False, dtype=self.dtype, name=name)

        qkv = nn.Dense(3 * self.width, dtype=self.dtype, name="qkv")(states)
        mixed = nn.Dense(self.width, dtype=self.dtype, name="out")(biased_attention(qkv, self.heads, bias))
        states = norm("attention_norm")(states + mixed)
        hidden = nn.Dense(self.mlp_width, dtype=self.dtype, name="fc1")(states)
        hidden = nn.Dense(self.width, dtype=self.dtype, name="fc2")(jax.nn.gelu(hidden, approximate=False))
        return norm("mlp_norm")(states + hidden)


def text_tower_of(module: nn.Module, **others: Any) -> ClapTextTower:
    """The tower that a module's own fields `vocabulary`, `text_*` and `dtype` describe, for use in its `setup`.

    Args:
      module: has `text_width`, `text_layers`, `text_heads`, `text_mlp_width`, `text_positions` and `text_norm_eps`.
      others: fields of `ClapTextTower` that not every such module has.
    """
    return ClapTextTower(
        vocabulary=module.vocabulary,
        width=module.text_width,
        layers=module.text_layers,
        heads=module.text_heads,
        mlp_width=module.text_mlp_width,
        positions=module.text_positions,
        norm_eps=module.text_norm_eps,
        dtype=module.dtype,
        **others,
    )


class ClapTextTower(nn.Module):
    """Tokens -> token states and one pooled vector.

    Attributes:
      vocabulary: number of tokens.
      width: D.
      layers: number of blocks.
      heads: attention heads; must divide `width`.
      mlp_width: hidden width of the MLPs.
      positions: rows of the position table; captions may have up to positions - first_position tokens.
      norm_eps: epsilon of every LayerNorm.
      states_layer: which states are returned: -1 the last layer, -2 the one before it (Woosh's DiT reads that), ...
      pooling: of the last layer: "dense" is tanh(dense(first token)), "first" the first token (Woosh), "mean" the mean over
        real tokens brought to unit length (sentence encoders such as MiniLM).
      first_position: row of the position table for the first token; 2 in RoBERTa, 0 in BERT.
      dtype: "float32" or "bfloat16" for the products; parameters and norms stay float32.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    positions: int
    norm_eps: float = 1e-5
    states_layer: int = -1
    pooling: str = "dense"
    first_position: int = FIRST_POSITION
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Array, mask: Array) -> tuple[Array, Array]:
        """Runs the tower.

        Args:
          tokens: int32 `[B, N]`, the start token first.
          mask: bool `[B, N]`, True for real tokens (special tokens count); padding is never attended to.

        Returns:
          states `[B, N, D]` of `states_layer` (padded positions hold values too) and pooled `[B, D]`.

        Raises:
          ValueError: if N exceeds the position table, or `states_layer` or `pooling` is unknown.
        """
        length = tokens.shape[1]
        needed = length + self.first_position
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}")
        if needed > self.positions:
            raise ValueError(f"{length} tokens need {needed} positions, the tower has {self.positions}: cut captions")
        if not -self.layers <= self.states_layer <= -1:
            raise ValueError(f"states_layer must be -1 (last) to -{self.layers}, got {self.states_layer}")

        def table(rows, name):
            return nn.Embed(rows, self.width, embedding_init=nn.initializers.normal(0.02), dtype=self.dtype, name=name)

        embedded = table(self.vocabulary, "word_embedding")(tokens)
        embedded += table(self.positions, "position_embedding")(token_positions(mask, self.first_position))
        embedded += table(1, "type_embedding")(jnp.zeros_like(tokens))
        states = nn.LayerNorm(self.norm_eps, use_fast_variance=False, dtype=self.dtype, name="embedding_norm")(embedded)

        bias = jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min)[:, None, None, :]
        every = []
        for i in range(self.layers):
            states = TextBlock(
                self.width, self.heads, self.mlp_width, self.norm_eps, dtype=self.dtype, name=f"block_{i}"
            )(states, bias)
            every.append(states)
        return every[self.states_layer], self._pooled(states, mask)

    def _pooled(self, states: Array, mask: Array) -> Array:
        if self.pooling == "mean":
            weight = mask[..., None].astype(jnp.promote_types(states.dtype, jnp.float32))
            return unit_length((states * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1.0))
        if self.pooling == "dense":
            return jnp.tanh(nn.Dense(self.width, dtype=self.dtype, name="pooler")(states[:, 0]))
        return states[:, 0]
