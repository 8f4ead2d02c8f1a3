"""The CLAP of Woosh: PaSST and RoBERTa-large, one linear layer behind each; a class of its own beside `Clap`.

Source: Woosh-CLAP of SonyResearch/Woosh's release v1.0.0 (reference woosh_import.md, section B).
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from spresso_jax.clap.contrastive import INITIAL_LOG_SCALE
from spresso_jax.clap.model import ClapOutput, unit_length
from spresso_jax.clap.passt import PasstFrontEnd, PasstTower, chunks_of, cut_chunks, log_mel, to_tower_rate
from spresso_jax.clap.text_tower import text_tower_of


class PasstClap(nn.Module):
    """Both towers and their linear heads; every field is plain JSON.

    Attributes:
      audio_width, audio_layers, audio_heads, patch, time_positions, head_major_merge: see `PasstTower`.
      vocabulary, text_width, text_layers, text_heads, text_mlp_width, text_positions, text_norm_eps, text_states_layer:
        see `ClapTextTower`.
      channels: E, width of the joint space.
      samples: at 48 kHz, the length that clips are compared at.
      dtype: "float32" or "bfloat16" for the products inside the towers.
    """

    audio_width: int
    audio_layers: int
    audio_heads: int
    vocabulary: int
    text_width: int
    text_layers: int
    text_heads: int
    text_mlp_width: int
    text_positions: int
    channels: int
    patch: int = 16
    time_positions: int = 62
    head_major_merge: bool = True
    text_norm_eps: float = 1e-5
    text_states_layer: int = -2
    samples: int = PasstFrontEnd.samples
    dtype: str = "float32"

    def setup(self):
        self.audio_tower = PasstTower(
            width=self.audio_width,
            layers=self.audio_layers,
            heads=self.audio_heads,
            patch=self.patch,
            time_positions=self.time_positions,
            head_major_merge=self.head_major_merge,
            dtype=self.dtype,
        )
        self.text_tower = text_tower_of(self, states_layer=self.text_states_layer, pooling="first")
        self.audio_projection = nn.Dense(self.channels, dtype=self.dtype)
        self.text_projection = nn.Dense(self.channels, dtype=self.dtype)

    def front_end(self) -> PasstFrontEnd:
        """How clips are brought to the tower's length; needs no parameters."""
        return PasstFrontEnd(samples=self.samples)

    def encode_tower_rate(self, audio: Array) -> Array:
        """Audio `[B, S]` at 32 kHz, shorter than a minute -> unit embeddings `[B, E]`; features are averaged over 5 s."""
        chunks, divisor = chunks_of(audio.shape[1])
        features = self.audio_tower(log_mel(cut_chunks(audio)))
        features = features.reshape(chunks, audio.shape[0], -1).sum(axis=0) / divisor
        return unit_length(self.audio_projection(features))

    def encode_audio(self, audio: Array) -> Array:
        """Audio `[B, S, 1]`, 48 kHz -> unit embeddings `[B, E]` (resampling and front end included)."""
        return self.encode_tower_rate(to_tower_rate(audio))

    def encode_text(self, tokens: Array, mask: Array) -> tuple[Array, Array]:
        """Tokens int32 `[B, N]` and mask bool `[B, N]` -> token states `[B, N, Dt]`, unit embeddings `[B, E]`."""
        states, pooled = self.text_tower(tokens, mask)
        return states, unit_length(self.text_projection(pooled))

    def __call__(self, audio: Array, tokens: Array, mask: Array) -> ClapOutput:
        """Both embeddings; the scale is the usual starting value, because the published files hold none."""
        scale = jnp.exp(jnp.float32(INITIAL_LOG_SCALE))
        audio_embedding = self.encode_audio(audio)
        return ClapOutput(audio_embedding, self.encode_text(tokens, mask)[1], scale, scale)
