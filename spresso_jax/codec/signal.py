"""Sounds at the codec's border: checked shapes, 48 kHz, exact lengths, mid and side."""

from __future__ import annotations

import numpy as np

from data_pipeline.audio_files import resample
from spresso_jax.codec.bitstream import MAX_CHANNELS, samples_at_48_khz
from spresso_jax.shapes import SAMPLE_RATE

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000


def check_rate(sample_rate: int) -> None:
    """Raises ValueError for a sample rate that no sound file has."""
    if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
        raise ValueError(f"sample_rate must be within {LOWEST_RATE}..{HIGHEST_RATE} Hz, got {sample_rate}")


def checked(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """[S] or [S, C] -> float32 [S, C].

    Raises:
      ValueError: for another shape, more than 8 channels, no samples, samples that are not finite, or a senseless rate.
    """
    audio = np.asarray(audio, np.float32)
    audio = audio[:, None] if audio.ndim == 1 else audio
    if audio.ndim != 2 or not audio.size or audio.shape[1] > MAX_CHANNELS:
        raise ValueError(
            f"audio must be [samples] or [samples, channels] with 1 to {MAX_CHANNELS} channels, got shape {audio.shape}"
        )
    if not np.isfinite(audio).all():
        raise ValueError("audio holds NaN or infinite samples")
    check_rate(sample_rate)
    return audio


def fitted(audio: np.ndarray, samples: int) -> np.ndarray:
    """[S, C] cut (a view), or followed by zeros, to exactly `samples` rows."""
    if len(audio) >= samples:
        return audio[:samples]
    return np.pad(audio, ((0, samples - len(audio)), (0, 0)))


def to_coded_channels(audio: np.ndarray, sample_rate: int, mid_side: bool) -> np.ndarray:
    """[S, C] at any rate -> [C, S'] at 48 kHz, the channels as they are coded.

    Raises:
      ValueError: if one channel is to become mid and side.
    """
    if mid_side:
        if audio.shape[1] < 2:
            raise ValueError("mid and side need at least two channels, the sound has one")
        mid, side = (audio[:, 0] + audio[:, 1]) / 2, (audio[:, 0] - audio[:, 1]) / 2
        audio = np.concatenate([np.stack([mid, side], axis=1), audio[:, 2:]], axis=1)
    return fitted(resample(audio, sample_rate, SAMPLE_RATE), samples_at_48_khz(len(audio), sample_rate)).T


def from_coded_channels(channels: list[np.ndarray], mid_side: bool, samples: int, sample_rate: int) -> np.ndarray:
    """Channels [S'] at 48 kHz as they were coded -> [samples, C] at `sample_rate`."""
    audio = channels[0][:, None] if len(channels) == 1 else np.stack(channels, axis=1)
    if mid_side:
        pair = np.stack([audio[:, 0] + audio[:, 1], audio[:, 0] - audio[:, 1]], axis=1)
        audio = np.concatenate([pair, audio[:, 2:]], axis=1)
    return fitted(resample(audio, SAMPLE_RATE, sample_rate), samples)
