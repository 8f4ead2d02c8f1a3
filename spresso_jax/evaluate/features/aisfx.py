"""aisfx: a CNN trained on commercial sound-effect libraries, the one embedding here that hears up to 22 kHz.

The package has two front ends. The one on Essentia is the one the network was trained with, and is what this file
computes; the one on librosa hands the network its spectrogram transposed. The Essentia path keeps the level of the
audio (its loader's replay gain and pre-amplification cancel), the librosa path divides by the peak: `level` has both.

Source: Ma and Lerch, ISMIR 2022 (package aisfx 0.1.2, weights CC BY 4.0); Essentia's FrameCutter, Windowing and MelBands.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from spresso_jax.audio.mel import mel_filters
from spresso_jax.audio.stft import stft
from spresso_jax.checkpoints.fingerprint import file_sha256
from spresso_jax.evaluate.features.extractor import Extractor, FeatureError, sliding_windows
from spresso_jax.evaluate.features.packages import WeightsPackage
from spresso_jax.interop.aisfx import LICENCE, read_aisfx

PACKAGE = WeightsPackage("aisfx", "0.1.2", "aisfx/models/checkpoint.pth")
SAMPLE_RATE = 44_100
N_FFT, HOP = 2048, 1024
MEL_BANDS = 96
BLOCK_FRAMES, BLOCK_HOP = 100, 50
WINDOW = (BLOCK_FRAMES - 1) * HOP + N_FFT
SCALE, LARGEST = 1e4, 9.457798957824707
DIMENSION = 512
LEVELS = ("file", "peak")


@lru_cache(maxsize=1)
def mel_bank() -> np.ndarray:
    """96 HTK triangles from 0 to 22 050 Hz, straight in mel, the weights of each adding up to 1; float32 `[1025, 96]`."""
    bank = mel_filters(SAMPLE_RATE, N_FFT, MEL_BANDS, 0.0, SAMPLE_RATE / 2, "htk", False, "mel").astype(np.float64)
    bank = (bank / bank.sum(axis=0)).astype(np.float32)
    bank.setflags(write=False)
    return bank


def log_mel_frames(audio: Array) -> Array:
    """log10(1 + 10^4 mel power) / 9.4578: `[B, S]` at 44.1 kHz -> `[B, 1 + (S - 2048) // 1024, 96]`; symmetric Hann."""
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(N_FFT) / (N_FFT - 1))
    spectrum = stft(audio, N_FFT, HOP, window=window, padding="none")
    power = spectrum.real**2 + spectrum.imag**2
    return jnp.log10(1.0 + SCALE * jnp.matmul(power, mel_bank(), precision="highest")) / LARGEST


def cut_blocks(clip: np.ndarray, level: str = "file") -> tuple[np.ndarray, bool]:
    """Windows of 100 frames every 50: `[S]` at 44.1 kHz -> (`[R, WINDOW]`, whether the clip was padded to give one).

    The first frame is centred on the first sample; there are ceil(S / 1024) + 1 frames; an incomplete last block is
    dropped (the package's default). A clip of less than one block is filled up with zeros, where the package stops with
    an assertion below 51 frames.
    """
    frames = -(-clip.size // HOP) + 1
    count = (frames - BLOCK_FRAMES) // BLOCK_HOP + 1 if frames >= BLOCK_FRAMES else 0
    if level == "peak":
        clip = clip / max(float(np.abs(clip).max()), 1e-9)
    centred = np.concatenate([np.zeros(N_FFT // 2, np.float32), np.clip(clip, -1.0, 1.0)])
    return sliding_windows(centred, WINDOW, BLOCK_HOP * HOP, max(count, 1)), count == 0


def cnn9(params: Any, features: Array) -> Array:
    """Eight 3x3 convolutions in four blocks, pooled after the first three: `[B, 100, 96]` -> `[B, 512]`.

    The mean over frequency, then the maximum over time.
    """
    hidden = features[..., None]
    for place, layer in enumerate(params):
        hidden = lax.conv_general_dilated(
            hidden, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        hidden = jax.nn.relu(hidden + layer["bias"])
        if place in (1, 3, 5):
            hidden = lax.reduce_window(hidden, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return hidden.mean(axis=2).max(axis=1)


def aisfx_extractor(folder: str | Path | None = None, level: str = "file", batch: int = 8) -> Extractor:
    """The embedding of the installed package, or of the package unpacked in `folder`.

    Args:
      folder: where the package lies, when it is not installed.
      level: "file" as it is, "peak" divides every clip by its largest magnitude.
      batch: windows a call.

    Raises:
      FeatureError: for an unknown level, or if the package is missing.
      ValueError: if its checkpoint is damaged or holds another network.
    """
    if level not in LEVELS:
        raise FeatureError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    path = PACKAGE.find(folder)
    return Extractor(
        name="aisfx",
        sample_rate=SAMPLE_RATE,
        dimension=DIMENSION,
        window=WINDOW,
        cut=lambda clip: cut_blocks(clip, level),
        network=lambda params, windows: cnn9(params, log_mel_frames(windows)),
        params=read_aisfx(path),
        settings={"front_end": "essentia", "level": level, "block_frames": BLOCK_FRAMES, "hop_frames": BLOCK_HOP},
        weights=file_sha256(path),
        licence=LICENCE,
        batch=batch,
    )
