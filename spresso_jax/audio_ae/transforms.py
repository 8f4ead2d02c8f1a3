"""DAC's training transforms as pure functions: loudness to -16 LUFS, peak guard, one random phase for all bins.

Source: DAC (arXiv:2306.06546), training configuration: VolumeNorm, RescaleAudio, ShiftPhase. They are for training
only; the codec itself keeps the level of its input.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from spresso_jax.audio.loudness import loudness_of_batch
from spresso_jax.audio.stft import hann_window, inverse_real_fft, overlap_add, stft
from spresso_jax.shapes import SAMPLE_RATE

TARGET_LUFS = -16.0
PHASE_WINDOW, PHASE_HOP = 2048, 512


def normalise_loudness(audio: Array, target: float = TARGET_LUFS, sample_rate: int = SAMPLE_RATE) -> Array:
    """Scales each sound of `[B, S, 1]` to `target` LUFS (silence, floored at -70 LUFS, gets at most 54 dB)."""
    gain = 10.0 ** ((target - loudness_of_batch(audio[..., 0], sample_rate)) / 20.0)
    return audio * gain[:, None, None]


def limit_peak(audio: Array, largest: float = 1.0) -> Array:
    """Scales sounds of `[B, S, 1]` down to a peak of `largest`, only where they exceed it."""
    return audio * (largest / jnp.maximum(jnp.abs(audio).max(axis=(1, 2), keepdims=True), largest))


def shift_phase(audio: Array, phase: Array, window: int = PHASE_WINDOW, hop: int = PHASE_HOP) -> Array:
    """Adds `phase[b]` (radians) to all STFT bins of sound b and inverts: `[B, S, 1]` -> `[B, S, 1]`, S > window / 2."""
    samples = audio.shape[1]
    spectrum = stft(audio[..., 0], window, hop, padding="center")
    turned = spectrum * jnp.exp(1j * jnp.asarray(phase, jnp.float32))[:, None, None]
    hann = hann_window(window)
    frames = inverse_real_fft(turned, window) * hann
    squared = jnp.broadcast_to(hann * hann, (1, frames.shape[1], window))
    # the last frame reaches past (T - 1) * hop, so the trimmed length is that of the input
    keep = slice(window // 2, window // 2 + samples)
    return (overlap_add(frames, hop)[:, keep] / jnp.maximum(overlap_add(squared, hop)[:, keep], 1e-8))[..., None]


def training_transform(
    key: Array, audio: Array, loudness: bool = True, phase: bool = True, sample_rate: int = SAMPLE_RATE
) -> Array:
    """What DAC's training does to a batch `[B, S, 1]`: each part can be left out.

    Args:
      key: of the phases.
      audio: the batch.
      loudness: every sound to -16 LUFS, then down to a peak of at most 1.
      phase: one random phase in (-pi, pi) a sound.
      sample_rate: Hz.
    """
    if loudness:
        audio = limit_peak(normalise_loudness(audio, sample_rate=sample_rate))
    if phase:
        audio = shift_phase(audio, jax.random.uniform(key, (audio.shape[0],), jnp.float32, -np.pi, np.pi))
    return audio
