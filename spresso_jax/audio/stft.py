"""Short-time Fourier transform and its least-squares inverse, by reshaped blocks and shifted adds.

A frame of `n_fft` samples every `hop` samples is a row of neighbouring blocks of gcd(n_fft, hop) samples, so framing
is a reshape and a few slices, and overlap-add is a few shifted sums: no gather and no scatter on any backend.
Everything here is float32 whatever the precision of the networks around it, because a bfloat16 phase has 8 bits.

Source: Vocos (arXiv:2306.00814) for 'same' padding; torch.stft for 'center'; audiotools' stride-matched STFT, which
DAC's discriminator uses (arXiv:2306.06546), for 'stride_match'.
"""

from __future__ import annotations

import math
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

PADDINGS = ("same", "center", "stride_match", "none")


@lru_cache(maxsize=64)
def hann_window(length: int) -> np.ndarray:
    """Periodic Hann window, w[n] = 0.5 - 0.5 cos(2 pi n / length), float32 `[length]` (read-only)."""
    window = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / length)).astype(np.float32)
    window.setflags(write=False)
    return window


def padding_of(samples: int, n_fft: int, hop: int, padding: str) -> tuple[int, int]:
    """Reflected samples that `padding` puts before and after a signal of `samples` samples.

    'same' gives samples / hop frames (hop must divide samples); 'center' gives samples // hop + 1; 'stride_match' gives
    ceil(samples / hop); 'none' frames the signal as it is.

    Raises:
      ValueError: for an unknown padding, or a signal too short to be reflected.
    """
    if padding == "same":
        left = right = (n_fft - hop) // 2
    elif padding == "center":
        left = right = n_fft // 2
    elif padding == "stride_match":
        left = (n_fft - hop) // 2
        right = left + (-samples) % hop
    elif padding == "none":
        left = right = 0
    else:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
    if max(left, right) >= samples:
        raise ValueError(f"{samples} samples are too few for n_fft {n_fft}, padding {padding!r}: pad the audio first")
    return left, right


def frame(signal: Array, length: int, hop: int) -> Array:
    """Cuts `[B, S]` into overlapping frames `[B, T, length]`, T = (S - length) // hop + 1.

    Raises:
      ValueError: if the signal is shorter than one frame.
    """
    batch, samples = signal.shape
    if samples < length:
        raise ValueError(f"{samples} samples are fewer than one frame of {length}")
    frames = (samples - length) // hop + 1
    block = math.gcd(length, hop)
    stride, parts = hop // block, length // block
    blocks = signal[:, : ((frames - 1) * stride + parts) * block].reshape(batch, -1, block)
    last = (frames - 1) * stride + 1
    return jnp.concatenate([blocks[:, j : j + last : stride] for j in range(parts)], axis=-1)


def overlap_add(frames: Array, hop: int) -> Array:
    """Sums overlapping frames `[B, T, length]` into `[B, (T - 1) * hop + length]`."""
    batch, count, length = frames.shape
    block = math.gcd(length, hop)
    stride, parts = hop // block, length // block
    last = (count - 1) * stride
    pieces = frames.reshape(batch, count, parts, block)
    zero = jnp.zeros((), frames.dtype)
    shifted = [
        lax.pad(pieces[:, :, j], zero, ((0, 0, 0), (j, parts - 1 - j, stride - 1), (0, 0, 0))) for j in range(parts)
    ]
    return sum(shifted[1:], shifted[0]).reshape(batch, (last + parts) * block)


def _window(window: str | np.ndarray, n_fft: int) -> np.ndarray:
    if isinstance(window, str):
        if window != "hann":
            raise ValueError(f"window must be 'hann' or an array of {n_fft} values, got {window!r}")
        return hann_window(n_fft)
    window = np.asarray(window, np.float32)
    if window.shape != (n_fft,):
        raise ValueError(f"the window has shape {window.shape}, but n_fft is {n_fft}: pad it with zeros on both sides")
    return window


def windowed_frames(
    audio: Array, n_fft: int, hop: int, *, window: str | np.ndarray = "hann", padding: str = "same"
) -> Array:
    """Padded, framed and windowed audio: `[B, S]` -> float32 `[B, T, n_fft]` (what `stft` transforms)."""
    audio = jnp.asarray(audio, jnp.float32)
    left, right = padding_of(audio.shape[-1], n_fft, hop, padding)
    if left or right:
        audio = jnp.pad(audio, ((0, 0), (left, right)), mode="reflect")
    return frame(audio, n_fft, hop) * _window(window, n_fft)


def stft(audio: Array, n_fft: int, hop: int, *, window: str | np.ndarray = "hann", padding: str = "same") -> Array:
    """One-sided unnormalised STFT.

    Args:
      audio: `[B, S]`.
      n_fft: frame length in samples; any length, it need not be a multiple of the hop.
      hop: samples between frames.
      window: 'hann' (periodic) or an array of n_fft values.
      padding: 'same', 'center', 'stride_match' or 'none', see `padding_of`; all reflect.

    Returns:
      complex64 `[B, T, n_fft // 2 + 1]`.

    Raises:
      ValueError: for an unknown padding or window, or audio too short for one frame or its reflection.
    """
    return jnp.fft.rfft(windowed_frames(audio, n_fft, hop, window=window, padding=padding), axis=-1)


def synthesise_frames(
    frames: Array, hop: int, *, window: str | np.ndarray = "hann", padding: str = "same"
) -> Array:
    """Least-squares overlap-add of time-domain frames: window, add, divide by the added squared window, trim.

    Args:
      frames: `[B, T, n_fft]`, not yet windowed.
      hop: samples between frames.
      window: 'hann' or an array of n_fft values.
      padding: 'same' trims (n_fft - hop) / 2 at both ends and gives T * hop samples; 'center' trims n_fft / 2 and gives
        (T - 1) * hop.

    Returns:
      float32 `[B, S]`.

    Raises:
      ValueError: for a padding that has no inverse here, or fewer than two frames with 'center'.
    """
    n_fft = frames.shape[-1]
    if padding not in ("same", "center"):
        raise ValueError(f"the inverse knows the paddings 'same' and 'center', got {padding!r}")
    trim = (n_fft - hop) // 2 if padding == "same" else n_fft // 2
    if padding == "center" and frames.shape[1] < 2:
        raise ValueError("'center' padding needs at least two frames to give any audio")
    values = _window(window, n_fft)
    audio = overlap_add(frames.astype(jnp.float32) * values, hop)
    squared = jnp.broadcast_to(values * values, (1, frames.shape[1], n_fft))
    envelope = overlap_add(squared, hop)
    end = audio.shape[-1] - trim
    return audio[:, trim:end] / envelope[:, trim:end]


def istft(
    spectrum: Array, n_fft: int, hop: int, *, window: str | np.ndarray = "hann", padding: str = "same"
) -> Array:
    """Inverse of `stft` in the least-squares sense (with 50% overlap Hann^2 does not add to 1: the division matters).

    Imaginary parts of the DC and Nyquist bins are ignored on every backend.

    Args:
      spectrum: complex `[B, T, n_fft // 2 + 1]`.
      n_fft: frame length.
      hop: samples between frames.
      window: 'hann' or an array of n_fft values.
      padding: 'same' gives T * hop samples, 'center' (T - 1) * hop.

    Returns:
      float32 `[B, S]`.
    """
    return synthesise_frames(inverse_real_fft(spectrum, n_fft), hop, window=window, padding=padding)


def inverse_real_fft(spectrum: Array, n_fft: int) -> Array:
    """irfft of `[..., n_fft // 2 + 1]` to float32 `[..., n_fft]`, imaginary DC and Nyquist set to zero first."""
    free = np.ones(n_fft // 2 + 1, np.float32)
    free[0] = 0.0
    if n_fft % 2 == 0:
        free[-1] = 0.0
    spectrum = lax.complex(spectrum.real.astype(jnp.float32), spectrum.imag.astype(jnp.float32) * free)
    return jnp.fft.irfft(spectrum, n=n_fft, axis=-1)
