"""A text tower alone, in the place of a CLAP that has one: it reads captions for the DiT, and knows no sounds.

Source: TextConditionerA of Woosh (RoBERTa-large, the states before the last layer, no projection).
"""

from __future__ import annotations

import flax.linen as nn
from jax import Array

from spresso_jax.clap.text_tower import ClapTextTower


class TextConditioner(nn.Module):
    """Captions as token states; every field is plain JSON.

    Attributes:
      vocabulary, text_width, text_layers, text_heads, text_mlp_width, text_positions, text_norm_eps: see `ClapTextTower`;
        `text_layers` counts the layers up to the states that are wanted.
      channels: width of the pooled vector; equals `text_width`.
      dtype: "float32" or "bfloat16" for the products.
    """

    vocabulary: int
    text_width: int
    text_layers: int
    text_heads: int
    text_mlp_width: int
    text_positions: int
    channels: int
    text_norm_eps: float = 1e-5
    dtype: str = "float32"

    def setup(self):
        if self.channels != self.text_width:
            raise ValueError(f"channels {self.channels} differs from text_width {self.text_width}: nothing is projected")
        self.text_tower = ClapTextTower(
            vocabulary=self.vocabulary,
            width=self.text_width,
            layers=self.text_layers,
            heads=self.text_heads,
            mlp_width=self.text_mlp_width,
            positions=self.text_positions,
            norm_eps=self.text_norm_eps,
            pooler=False,
            dtype=self.dtype,
        )

    def encode_text(self, tokens: Array, mask: Array) -> tuple[Array, Array]:
        """Tokens int32 `[B, N]` and mask bool `[B, N]` -> token states `[B, N, D]`, the first of them `[B, D]`."""
        return self.text_tower(tokens, mask)

    def __call__(self, tokens: Array, mask: Array) -> tuple[Array, Array]:
        """As `encode_text`."""
        return self.encode_text(tokens, mask)
