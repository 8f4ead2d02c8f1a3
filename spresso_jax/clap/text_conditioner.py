"""A text tower alone, in the place of a CLAP that has one: it reads captions for the DiT, and knows no sounds.

The DiT, the caches and the codec know of every text encoder one thing: `encode_text(tokens, mask)` gives token states
`[B, N, D]` and a pooled vector `[B, E]`. So RoBERTa, BERT and sentence encoders stand here with their own fields.

Source: TextConditionerA of Woosh (RoBERTa-large, the states before the last layer, no projection); MiniLM.
"""

from __future__ import annotations

import flax.linen as nn
from jax import Array

from spresso_jax.clap.text_tower import FIRST_POSITION, text_tower_of


class TextConditioner(nn.Module):
    """Captions as token states; every field is plain JSON.

    Attributes:
      vocabulary, text_width, text_layers, text_heads, text_mlp_width, text_positions, text_norm_eps: see `ClapTextTower`;
        `text_layers` counts the layers up to the states that are wanted.
      channels: width of the pooled vector; equals `text_width`.
      text_pooling, text_first_position: see `ClapTextTower`; "first" or "mean", because nothing is projected.
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
    text_pooling: str = "first"
    text_first_position: int = FIRST_POSITION
    dtype: str = "float32"

    def setup(self):
        if self.channels != self.text_width:
            raise ValueError(
                f"channels {self.channels} differs from text_width {self.text_width}: nothing is projected"
            )
        if self.text_pooling == "dense":
            raise ValueError("text_pooling must be 'first' or 'mean': a text tower alone has no pooling layer")
        self.text_tower = text_tower_of(self, pooling=self.text_pooling, first_position=self.text_first_position)

    def encode_text(self, tokens: Array, mask: Array) -> tuple[Array, Array]:
        """Tokens int32 `[B, N]` and mask bool `[B, N]` -> token states `[B, N, D]`, pooled vector `[B, D]`."""
        return self.text_tower(tokens, mask)

    def __call__(self, tokens: Array, mask: Array) -> tuple[Array, Array]:
        """As `encode_text`."""
        return self.encode_text(tokens, mask)
