"""Mel filter banks (Slaney and HTK scales) and log-mel spectra, equal to librosa's without importing it.

Source: Slaney, Auditory Toolbox (1998); HTK book; librosa.filters.mel 0.11. DAC and most audio networks use the Slaney
scale with area normalisation.
"""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import Array

from spresso_jax.audio.stft import hann_window, stft, windowed_frames

# Below this window a discrete Fourier transform written as one matrix product beats FFT calls, forward and backward.
LARGEST_MATMUL_WINDOW = 128
_LINEAR_STEP = 200.0 / 3.0  # Hz a mel below 1 kHz on the Slaney scale
_LOG_STEP = np.log(6.4) / 27.0  # 27 mels from 1 kHz to 6.4 kHz


def hz_to_mel(frequency: np.ndarray | float, *, scale: str = "slaney") -> np.ndarray:
    """Frequency in Hz -> mel, on the 'slaney' or 'htk' scale.

    Raises:
      ValueError: for another scale.
    """
    frequency = np.asarray(frequency, np.float64)
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + frequency / 700.0)
    if scale != "slaney":
        raise ValueError(f"scale must be 'slaney' or 'htk', got {scale!r}")
    above = 15.0 + np.log(np.maximum(frequency, 1000.0) / 1000.0) / _LOG_STEP
    return np.where(frequency < 1000.0, frequency / _LINEAR_STEP, above)


def mel_to_hz(mel: np.ndarray | float, *, scale: str = "slaney") -> np.ndarray:
    """Inverse of `hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    if scale != "slaney":
        raise ValueError(f"scale must be 'slaney' or 'htk', got {scale!r}")
    return np.where(mel < 15.0, mel * _LINEAR_STEP, 1000.0 * np.exp(_LOG_STEP * (np.maximum(mel, 15.0) - 15.0)))


@lru_cache(maxsize=64)
def mel_filters(
    sample_rate: int,
    n_fft: int,
    bands: int,
    f_min: float = 0.0,
    f_max: float | None = None,
    scale: str = "slaney",
    normalise: bool = True,
    triangles: str = "hz",
) -> np.ndarray:
    """Triangular mel filters as float32 `[n_fft // 2 + 1, bands]` (read-only): multiply magnitudes from the left.

    Args:
      sample_rate: Hz.
      n_fft: frame length.
      bands: number of filters; narrow ones may be empty, which is kept for parity with librosa.
      f_min: lowest edge in Hz.
      f_max: highest edge in Hz, half the sample rate when None.
      scale: 'slaney' or 'htk'.
      normalise: True divides each triangle by half its width in Hz ("slaney" area normalisation).
      triangles: 'hz' for sides that are straight in Hz (librosa), 'mel' for sides straight in mel (VGGish, Essentia).

    Raises:
      ValueError: if the edges are not 0 <= f_min < f_max <= sample_rate / 2, or the scale or the triangles are unknown.
    """
    if triangles not in ("hz", "mel"):
        raise ValueError(f"triangles must be 'hz' or 'mel', got {triangles!r}")
    top = sample_rate / 2.0 if f_max is None else float(f_max)
    if not 0.0 <= f_min < top <= sample_rate / 2.0:
        raise ValueError(f"need 0 <= f_min < f_max <= {sample_rate / 2}, got f_min {f_min} and f_max {top}")
    bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    mels = np.linspace(hz_to_mel(f_min, scale=scale), hz_to_mel(top, scale=scale), bands + 2)
    edges = mel_to_hz(mels, scale=scale)
    at, corners = (bins, edges) if triangles == "hz" else (hz_to_mel(bins, scale=scale), mels)
    width = np.diff(corners)
    rising = (at[:, None] - corners[None, :-2]) / width[None, :-1]
    falling = (corners[None, 2:] - at[:, None]) / width[None, 1:]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if normalise:
        filters = filters * (2.0 / (edges[2:] - edges[:-2]))[None, :]
    filters = filters.astype(np.float32)
    filters.setflags(write=False)
    return filters


@lru_cache(maxsize=16)
def windowed_dft(n_fft: int) -> np.ndarray:
    """Hann window and one-sided DFT as one matrix, float32 `[n_fft, 2 * (n_fft // 2 + 1)]`: real, then imaginary."""
    angle = -2.0 * np.pi * np.outer(np.arange(n_fft), np.arange(n_fft // 2 + 1)) / n_fft
    matrix = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * hann_window(n_fft).astype(np.float64)[:, None]
    matrix = matrix.astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def magnitude_spectrum(audio: Array, n_fft: int, hop: int, *, padding: str = "center") -> Array:
    """|STFT| with a Hann window: `[B, S]` -> float32 `[B, T, n_fft // 2 + 1]`, with gradient zero where it is zero.

    Windows up to `LARGEST_MATMUL_WINDOW` go through one matrix product instead of an FFT (faster, measured on CPU; on a
    GPU such products are cheap).
    """
    if n_fft <= LARGEST_MATMUL_WINDOW:
        rectangle = np.ones(n_fft, np.float32)
        frames = windowed_frames(audio, n_fft, hop, window=rectangle, padding=padding)
        parts = jnp.matmul(frames, windowed_dft(n_fft), precision="highest")
        real, imaginary = jnp.split(parts, 2, axis=-1)
    else:
        spectrum = stft(audio, n_fft, hop, padding=padding)
        real, imaginary = spectrum.real, spectrum.imag
    return safe_magnitude(real, imaginary)


def safe_magnitude(real: Array, imaginary: Array) -> Array:
    """sqrt(real^2 + imaginary^2) whose gradient at 0 is 0 instead of NaN."""
    power = real * real + imaginary * imaginary
    positive = power > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, power, 1.0)), 0.0)


def mel_spectrum(
    audio: Array,
    sample_rate: int,
    n_fft: int,
    hop: int,
    bands: int,
    *,
    f_min: float = 0.0,
    f_max: float | None = None,
    scale: str = "slaney",
    normalise: bool = True,
    power: float = 1.0,
    padding: str = "center",
) -> Array:
    """Mel spectrum of `[B, S]` audio: float32 `[B, T, bands]`; `power` is the exponent of the magnitudes."""
    magnitude = magnitude_spectrum(audio, n_fft, hop, padding=padding)
    if power != 1.0:
        magnitude = magnitude * magnitude if power == 2.0 else magnitude**power
    filters = mel_filters(sample_rate, n_fft, bands, f_min, f_max, scale, normalise)
    return jnp.matmul(magnitude, filters, precision="highest")


def log_mel(
    audio: Array, sample_rate: int, n_fft: int, hop: int, bands: int, *, floor: float = 1e-5, **settings
) -> Array:
    """log10 of the mel spectrum, clamped from below at `floor`; `settings` are those of `mel_spectrum`.

    Returns:
      float32 `[B, T, bands]`.
    """
    mel = mel_spectrum(audio, sample_rate, n_fft, hop, bands, **settings)
    return jnp.log10(jnp.maximum(mel, floor))
