"""Low-pass anchors of BS.1534-3: linear-phase filters whose delay is taken out, so that nothing moves in time.

webMUSHRA makes its own anchors, 103.5 samples early (evaluation.md 7.1); these are written as ordinary stimuli instead.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from spresso_jax.shapes import SAMPLE_RATE

# Name of the condition -> end of its passband in Hz. The names are those that webMUSHRA gives to its own anchors.
ANCHORS = {"anchor35": 3500.0, "anchor70": 7000.0}
# The mask: at most this ripple below the passband's end, at least these attenuations this far above it.
RIPPLE_DB = 0.1
MASK = ((500.0, 25.0), (1000.0, 50.0))

_TAPS = 401
_ATTENUATION_DB = 60.0
_TRANSITION_HZ = 500.0


@lru_cache(maxsize=4)
def anchor_filter(passband: float, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Symmetric low-pass [401] with a gain of 1 at 0 Hz: Kaiser window, 60 dB, falling within 500 Hz above `passband`.

    Raises:
      ValueError: if the passband does not leave room below half the sample rate.
    """
    from scipy.signal import firwin, kaiser_beta

    if not 0.0 < passband < sample_rate / 2.0 - _TRANSITION_HZ:
        raise ValueError(
            f"an anchor's passband must lie below {sample_rate / 2 - _TRANSITION_HZ:g} Hz, got {passband:g}"
        )
    window = ("kaiser", kaiser_beta(_ATTENUATION_DB))
    return firwin(_TAPS, passband + _TRANSITION_HZ / 2.0, window=window, fs=sample_rate)


def low_pass_anchor(audio: np.ndarray, passband: float = ANCHORS["anchor35"]) -> np.ndarray:
    """Low-passed copy of [S] at 48 kHz, float64, of the same length and without any delay."""
    from scipy.signal import fftconvolve

    return fftconvolve(np.asarray(audio, np.float64), anchor_filter(passband), mode="same")
