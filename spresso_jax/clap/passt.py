"""PaSST, the audio tower of Woosh-CLAP: a vision transformer over 16 x 16 patches of a log-mel spectrogram at 32 kHz.

Source: PaSST (arXiv:2110.05069) in inference, without patchout, as Woosh's release uses it ("passt_no": stride 16, 12
layers of width 768, 12 heads).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from spresso_jax.audio.mel import mel_filters
from spresso_jax.audio.resampling import resample
from spresso_jax.audio.stft import stft
from spresso_jax.clap.attention import biased_attention
from spresso_jax.shapes import CLIP_SAMPLES, SAMPLE_RATE

TOWER_RATE = 32_000
CHUNK_SAMPLES = 5 * TOWER_RATE
LONGEST_SECONDS = 60
N_FFT, WINDOW, HOP = 1024, 800, 320
MEL_BANDS, MEL_TOP_HZ, MEL_FLOOR = 128, 15_000.0, 1e-5
PRE_EMPHASIS = 0.97
NORM_EPS = 1e-6
MLP_RATIO = 4


@dataclass(frozen=True)
class PasstFrontEnd:
    """How a clip at 48 kHz is brought to the tower's length, in the words of `clap.front_ends.FrontEnd`.

    Attributes:
      samples: 5 s at 48 kHz.
      short_clips: "pad" appends zeros.
      crop: first sample kept of a longer clip.
      sample_rate: of the audio, Hz.
    """

    samples: int = CLIP_SAMPLES
    short_clips: str = "pad"
    crop: int = 0
    sample_rate: int = SAMPLE_RATE


def log_mel(audio: Array) -> Array:
    """Audio `[B, S]` at 32 kHz -> float32 `[B, 1 + (S - 1) // 320, 128]`, scaled log-mel of the pre-emphasised signal.

    Source: PaSST's AugmentMelSTFT in evaluation; the upper edge is 16 kHz minus half of its augmentation's range.
    """
    emphasised = audio[:, 1:] - PRE_EMPHASIS * audio[:, :-1]
    symmetric = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(WINDOW) / (WINDOW - 1))
    spectrum = stft(emphasised, N_FFT, HOP, window=np.pad(symmetric, (N_FFT - WINDOW) // 2), padding="center")
    power = spectrum.real**2 + spectrum.imag**2
    filters = mel_filters(TOWER_RATE, N_FFT, MEL_BANDS, 0.0, MEL_TOP_HZ, "htk", False, "mel")
    mel = jnp.matmul(power, filters, precision="highest")
    return (jnp.log(mel + MEL_FLOOR) + 4.5) / 5.0


class PasstBlock(nn.Module):
    """Pre-norm self-attention and a GELU MLP, both residual."""

    heads: int
    head_major_merge: bool
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """`[B, N, D]` -> the same shape."""
        width = tokens.shape[-1]

        def norm(name):
            return nn.LayerNorm(NORM_EPS, use_fast_variance=False, dtype=self.dtype, name=name)

        qkv = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(norm("attention_norm")(tokens))
        mixed = biased_attention(qkv, self.heads, head_major_merge=self.head_major_merge)
        tokens = tokens + nn.Dense(width, dtype=self.dtype, name="out")(mixed)
        hidden = nn.Dense(MLP_RATIO * width, dtype=self.dtype, name="fc1")(norm("mlp_norm")(tokens))
        return tokens + nn.Dense(width, dtype=self.dtype, name="fc2")(jax.nn.gelu(hidden, approximate=False))


class PasstTower(nn.Module):
    """Log-mel spectrogram -> one vector.

    Attributes:
      width: D of every token.
      layers: number of blocks.
      heads: attention heads; must divide `width`.
      patch: side of the square patches, in bands and in frames.
      time_positions: rows of the table of time positions; a shorter clip takes its start.
      head_major_merge: see `biased_attention`; False is stock PaSST.
      dtype: "float32" or "bfloat16" for the products; parameters and norms stay float32.
    """

    width: int
    layers: int
    heads: int
    patch: int = 16
    time_positions: int = 62
    head_major_merge: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """`[B, T, 128]` from `log_mel` -> `[B, D]`, the mean of the class and distillation tokens.

        Raises:
          ValueError: if there are more patches in time than positions.
        """
        patch = (self.patch, self.patch)
        image = features.swapaxes(1, 2)[..., None]
        patches = nn.Conv(self.width, patch, patch, padding="VALID", dtype=self.dtype, name="patch_embedding")(image)
        batch, bands, columns, width = patches.shape
        if columns > self.time_positions:
            raise ValueError(f"{columns} patches in time, the tower has {self.time_positions} positions: cut the audio")
        small = nn.initializers.normal(0.02)
        time = self.param("time_position", small, (self.time_positions, width))
        frequency = self.param("frequency_position", small, (bands, width))
        patches = patches + time[:columns] + frequency[:, None]
        start = self.param("start_tokens", small, (2, width)) + self.param("start_positions", small, (2, width))
        start = jnp.broadcast_to(start, (batch, 2, width)).astype(patches.dtype)
        tokens = jnp.concatenate([start, patches.reshape(batch, bands * columns, width)], axis=1)
        for i in range(self.layers):
            tokens = PasstBlock(self.heads, self.head_major_merge, dtype=self.dtype, name=f"block_{i}")(tokens)
        tokens = nn.LayerNorm(NORM_EPS, use_fast_variance=False, dtype=self.dtype, name="norm")(tokens)
        return tokens[:, :2].mean(axis=1)


def chunks_of(samples: int) -> tuple[int, int]:
    """(chunks of 5 s, divisor of the sum of their features) of a clip of `samples` at 32 kHz.

    An overhang of at most 5 % of a chunk is dropped, yet counted in the divisor; a single chunk is not divided. Both as in
    the reference: 10.2 s are two chunks, divided by three.
    """
    chunks = max(1, math.ceil(round(10 * samples / CHUNK_SAMPLES) / 10))
    return chunks, 1 if chunks == 1 else math.ceil(samples / CHUNK_SAMPLES)


def cut_chunks(audio: Array) -> Array:
    """Audio `[B, S]` at 32 kHz -> `[chunks * B, 160 000]`, chunk-major; the last one is padded with zeros.

    Raises:
      ValueError: if the audio is empty, or not shorter than a minute, which the reference cannot read.
    """
    batch, samples = audio.shape
    if not 0 < samples < LONGEST_SECONDS * TOWER_RATE:
        raise ValueError(f"a clip of {samples / TOWER_RATE:g} s: this tower takes more than 0 and less than 60 s")
    chunks, _ = chunks_of(samples)
    fitted = jnp.pad(audio, ((0, 0), (0, max(0, chunks * CHUNK_SAMPLES - samples))))[:, : chunks * CHUNK_SAMPLES]
    return fitted.reshape(batch, chunks, CHUNK_SAMPLES).swapaxes(0, 1).reshape(chunks * batch, CHUNK_SAMPLES)


def to_tower_rate(audio: Array) -> Array:
    """Mono audio `[B, S, 1]` at 48 kHz -> `[B, S']` at 32 kHz.

    Raises:
      ValueError: if it is not mono.
    """
    if audio.ndim != 3 or audio.shape[-1] != 1:
        raise ValueError(f"audio must be [B, S, 1] (mono), got shape {tuple(audio.shape)}")
    return resample(audio[..., 0], SAMPLE_RATE, TOWER_RATE)
