"""Resampling inside a compiled function: a windowed sinc, applied as one strided convolution.

For embeddings whose definition includes it; files are resampled by `data_pipeline.audio_files`.

Source: torchaudio's `resample` with its Kaiser window (width 6, rolloff 0.99, beta 14.77), which Woosh uses.
"""

from __future__ import annotations

import math
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

ZERO_CROSSINGS = 6
ROLLOFF = 0.99
KAISER_BETA = 14.769656459379492


@lru_cache(maxsize=8)
def kaiser_sinc(up: int, down: int) -> np.ndarray:
    """Filters of a change of rate by up / down (lowest terms), float32 `[taps, up]`: column p gives samples n up + p."""
    edge = min(up, down) * ROLLOFF
    reach = math.ceil(ZERO_CROSSINGS * down / edge)
    tap = np.arange(-reach, reach + down) / down
    time = np.clip((tap[:, None] - np.arange(up) / up) * edge, -ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = np.i0(KAISER_BETA * np.sqrt(1.0 - (time / ZERO_CROSSINGS) ** 2)) / np.i0(KAISER_BETA)
    filters = (np.sinc(time) * window * edge / down).astype(np.float32)
    filters.setflags(write=False)
    return filters


def resample(audio: Array, rate: int, new_rate: int) -> Array:
    """Audio `[B, S]` at `rate` Hz -> `[B, ceil(S new_rate / rate)]` at `new_rate` Hz.

    Raises:
      ValueError: if a rate is not positive.
    """
    if rate <= 0 or new_rate <= 0:
        raise ValueError(f"rates must be positive, got {rate} and {new_rate} Hz")
    if rate == new_rate:
        return audio
    common = math.gcd(rate, new_rate)
    up, down = new_rate // common, rate // common
    filters = kaiser_sinc(up, down)
    reach = (len(filters) - down) // 2
    batch, samples = audio.shape
    phases = lax.conv_general_dilated(
        audio[..., None],
        jnp.asarray(filters, audio.dtype)[:, None],
        (down,),
        [(reach, reach + down)],
        dimension_numbers=("NWC", "WIO", "NWC"),
        precision="highest",
    )
    return phases.reshape(batch, -1)[:, : -(-samples * up // down)]
