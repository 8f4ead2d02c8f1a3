"""Level of sounds: BS.1770 integrated loudness, rms and peak (numpy, for reports), and the same loudness in jnp.

Source: ITU-R BS.1770-4; the K-weighting as biquads at any sample rate (shelf 4 dB at 1500 Hz, Q 0.71; high-pass at
38 Hz, Q 0.5) follows audiotools and pyloudnorm, which DAC's training uses.
"""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import Array

from spresso_jax.shapes import SAMPLE_RATE

FLOOR_LUFS = -70.0
BLOCK_SECONDS = 0.4
STEP_SECONDS = 0.1
SHORTEST_SECONDS = 0.5
_TAIL = 8192  # samples after which the high-pass has died away (1e-17), so that nothing wraps around


@lru_cache(maxsize=8)
def k_weighting(sample_rate: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """The two biquads of the K-weighting as (b, a) pairs, a[0] = 1."""
    gain, w = 10.0 ** (4.0 / 40.0), 2.0 * np.pi * 1500.0 / sample_rate
    cosine, root = np.cos(w), 2.0 * np.sqrt(gain) * np.sin(w) / (2.0 * np.sqrt(0.5))
    up, down = gain + 1.0, gain - 1.0
    b = gain * np.array([up + down * cosine + root, -2.0 * (down + up * cosine), up + down * cosine - root])
    a = np.array([up - down * cosine + root, 2.0 * (down - up * cosine), up - down * cosine - root])
    w = 2.0 * np.pi * 38.0 / sample_rate
    cosine, alpha = np.cos(w), np.sin(w) / (2.0 * 0.5)
    b_high = np.array([(1.0 + cosine) / 2.0, -(1.0 + cosine), (1.0 + cosine) / 2.0])
    a_high = np.array([1.0 + alpha, -2.0 * cosine, 1.0 - alpha])
    return (b / a[0], a / a[0]), (b_high / a_high[0], a_high / a_high[0])


def integrated_loudness(audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> float:
    """Gated loudness of one mono sound `[S]` in LUFS, not below -70. Shorter than 0.5 s is padded with zeros.

    Raises:
      ValueError: for another shape or an empty signal.
    """
    from scipy.signal import lfilter  # slow to import, and only reports need it

    audio = np.asarray(audio, np.float64)
    if audio.ndim != 1 or not audio.size:
        raise ValueError(f"audio must be one channel [S] with at least one sample, got {audio.shape}")
    audio = np.pad(audio, (0, max(0, int(SHORTEST_SECONDS * sample_rate) - audio.size)))
    for b, a in k_weighting(sample_rate):
        audio = lfilter(b, a, audio)
    block, step = int(BLOCK_SECONDS * sample_rate), int(STEP_SECONDS * sample_rate)
    blocks = max(1, -(-(audio.size - block) // step) + 1)
    audio = np.pad(audio, (0, max(0, (blocks - 1) * step + block - audio.size)))
    energy = np.array([np.mean(audio[i * step : i * step + block] ** 2) for i in range(blocks)])
    return float(_gated(energy[None], np)[0])


def loudness_of_batch(audio: Array, sample_rate: int = SAMPLE_RATE) -> Array:
    """Gated loudness of `[B, S]` in LUFS `[B]`, traceable: the same K-weighting, applied in the frequency domain."""
    audio = jnp.asarray(audio, jnp.float32)
    audio = jnp.pad(audio, ((0, 0), (0, max(0, int(SHORTEST_SECONDS * sample_rate) - audio.shape[1]))))
    samples = audio.shape[1]
    size = samples + _TAIL
    weighted = jnp.fft.rfft(audio, size) * _frequency_response(sample_rate, size)
    audio = jnp.fft.irfft(weighted, size)[:, :samples]
    block, step = int(BLOCK_SECONDS * sample_rate), int(STEP_SECONDS * sample_rate)
    blocks = max(1, -(-(samples - block) // step) + 1)
    audio = jnp.pad(audio, ((0, 0), (0, max(0, (blocks - 1) * step + block - samples))))
    energy = jnp.stack([jnp.mean(jnp.square(audio[:, i * step : i * step + block]), -1) for i in range(blocks)], -1)
    return _gated(energy, jnp)


def _frequency_response(sample_rate: int, size: int) -> np.ndarray:
    delay = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    response = np.ones(delay.shape, np.complex128)
    for b, a in k_weighting(sample_rate):
        response *= (b[0] + b[1] * delay + b[2] * delay**2) / (a[0] + a[1] * delay + a[2] * delay**2)
    return response.astype(np.complex64)


def _gated(energy, np_or_jnp):
    """Loudness of block energies `[B, N]` after the absolute (-70 LUFS) and the relative (-10 LU) gate."""
    xp = np_or_jnp

    def lufs(power):
        return -0.691 + 10.0 * xp.log10(xp.maximum(power, 1e-20))

    def mean_of(mask):
        return xp.sum(xp.where(mask, energy, 0.0), -1) / xp.maximum(xp.sum(mask, -1), 1)

    loud = lufs(energy) > FLOOR_LUFS
    relative = lufs(mean_of(loud))[:, None] - 10.0
    return xp.maximum(lufs(mean_of(loud & (lufs(energy) > relative))), FLOOR_LUFS)


def rms_db(audio: np.ndarray) -> float:
    """Root-mean-square level in dB relative to full scale (-200 for silence)."""
    return float(10.0 * np.log10(max(np.mean(np.square(np.asarray(audio, np.float64))), 1e-20)))


def peak(audio: np.ndarray) -> float:
    """Largest absolute sample (0 for an empty array)."""
    audio = np.asarray(audio)
    return float(np.abs(audio).max()) if audio.size else 0.0
