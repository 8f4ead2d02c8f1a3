"""CLAP: sounds and captions as unit vectors of one space.

Source: LAION-CLAP (arXiv:2211.06687). The public small model (`clap-htsat-unfused`) has audio width 96, depths 2, 2, 6,
2, heads 4, 8, 16, 32, image 256, 64 mel bins, RoBERTa-base as text tower and 512 channels.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from spresso_jax.clap.contrastive import INITIAL_LOG_SCALE
from spresso_jax.clap.front_ends import FrontEnd, log_mel_features
from spresso_jax.clap.htsat import ClapAudioTower
from spresso_jax.clap.text_tower import text_tower_of, unit_length


class ClapOutput(NamedTuple):
    """Embeddings `[B, E]` of unit length and the two positive factors on their cosines."""

    audio: Array
    text: Array
    audio_scale: Array
    text_scale: Array


class Projection(nn.Module):
    """Linear, ReLU, linear, then division by the length (at least float32)."""

    channels: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, pooled: Array) -> Array:
        """`[B, D]` -> `[B, channels]` of unit length."""
        hidden = jax.nn.relu(nn.Dense(self.channels, dtype=self.dtype, name="fc1")(pooled))
        return unit_length(nn.Dense(self.channels, dtype=self.dtype, name="fc2")(hidden))


class Clap(nn.Module):
    """Both towers, their projections and the logit scales; every field is plain JSON.

    Attributes:
      audio_width, audio_depths, audio_heads, image_size, window, patch, input_norm: see `ClapAudioTower`.
      mel_bins, n_fft, hop, f_min, f_max, filter_bank, samples, short_clips, crop: see `FrontEnd`.
      vocabulary, text_width, text_layers, text_heads, text_mlp_width, text_positions, text_norm_eps, text_states_layer:
        see `ClapTextTower`.
      channels: E, width of the joint space.
      dtype: "float32" or "bfloat16" for the products inside the towers.
    """

    audio_width: int
    audio_depths: list[int]
    audio_heads: list[int]
    image_size: int
    mel_bins: int
    samples: int
    hop: int
    vocabulary: int
    text_width: int
    text_layers: int
    text_heads: int
    text_mlp_width: int
    text_positions: int
    channels: int
    n_fft: int = 1024
    f_min: float = 50.0
    f_max: float = 14_000.0
    filter_bank: str = "slaney"
    short_clips: str = "repeatpad"
    crop: int = 0
    window: int = 8
    patch: int = 4
    audio_mlp_ratio: float = 4.0
    input_norm: str = "batch"
    text_norm_eps: float = 1e-5
    text_states_layer: int = -1
    dtype: str = "float32"

    def setup(self):
        """Builds the parts; both methods use them, so they cannot be made in a compact method."""
        self.audio_tower = ClapAudioTower(
            width=self.audio_width,
            depths=self.audio_depths,
            heads=self.audio_heads,
            image_size=self.image_size,
            mel_bins=self.mel_bins,
            window=self.window,
            patch=self.patch,
            mlp_ratio=self.audio_mlp_ratio,
            input_norm=self.input_norm,
            dtype=self.dtype,
        )
        self.text_tower = text_tower_of(self, states_layer=self.text_states_layer)
        self.audio_projection = Projection(self.channels, dtype=self.dtype)
        self.text_projection = Projection(self.channels, dtype=self.dtype)
        log_scale = nn.initializers.constant(INITIAL_LOG_SCALE)
        self.audio_log_scale = self.param("audio_log_scale", log_scale, ())
        self.text_log_scale = self.param("text_log_scale", log_scale, ())

    def front_end(self) -> FrontEnd:
        """The settings of the audio features; needs no parameters."""
        return FrontEnd(
            mel_bins=self.mel_bins,
            n_fft=self.n_fft,
            hop=self.hop,
            f_min=self.f_min,
            f_max=self.f_max,
            filter_bank=self.filter_bank,
            samples=self.samples,
            short_clips=self.short_clips,
            crop=self.crop,
        )

    def encode_features(self, features: Array) -> Array:
        """Log-mel features `[B, T, mel_bins]` -> unit embeddings `[B, E]`."""
        return self.audio_projection(self.audio_tower(features)[1])

    def encode_audio(self, audio: Array) -> Array:
        """Audio `[B, S, 1]`, 48 kHz, any length -> unit embeddings `[B, E]` (front end included)."""
        return self.encode_features(log_mel_features(audio, self.front_end()))

    def encode_text(self, tokens: Array, mask: Array) -> tuple[Array, Array]:
        """Tokens int32 `[B, N]` and mask bool `[B, N]` -> token states `[B, N, Dt]`, unit embeddings `[B, E]`."""
        states, pooled = self.text_tower(tokens, mask)
        return states, self.text_projection(pooled)

    def __call__(self, audio: Array, tokens: Array, mask: Array) -> ClapOutput:
        """Both embeddings and both scales; `contrastive_loss(out.audio, out.text, out.audio_scale)` trains it."""
        return ClapOutput(
            audio=self.encode_audio(audio),
            text=self.encode_text(tokens, mask)[1],
            audio_scale=jnp.exp(self.audio_log_scale),
            text_scale=jnp.exp(self.text_log_scale),
        )
