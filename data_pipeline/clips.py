"""Windows of fixed length out of longer or shorter sounds: crop policy, zero padding, number of valid samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_pipeline.audio_files import FRAME_SECONDS, SAMPLE_RATE, SILENCE, frame_levels

CLIP_SAMPLES = 5 * SAMPLE_RATE
CROPS = ("start", "random", "active", "salient")
ACTIVE_SECONDS = 1.0
SALIENT_LUFS = -40.0
SALIENT_DRAWS = 8
# Draws that follow the first one by this step (modulo 1) lie as far apart as any sequence's can.
_GOLDEN = (5.0**0.5 - 1.0) / 2.0


def random_start(length: int, samples: int, draw: float) -> int:
    """First sample of a window, uniform over all places where it fits; 0 for sounds no longer than the window.

    Args:
      length: samples of the sound.
      samples: samples of the window.
      draw: uniform in [0, 1).
    """
    return int(draw * (length - samples + 1)) if length > samples else 0


def active_start(audio: np.ndarray, samples: int, draw: float, sample_rate: int = SAMPLE_RATE) -> int:
    """First sample of a window with activity, uniform over those on a 20 ms grid that have enough of it.

    Enough is one second of 20 ms frames above -60 dBFS, or half of the window where that is shorter. Where no window
    has as much, the one with the most is taken (the first of equals).

    Args:
      audio: [S], int16 or float.
      samples: samples of the window.
      draw: uniform in [0, 1).
    """
    length = len(audio)
    if length <= samples:
        return 0
    frame = round(FRAME_SECONDS * sample_rate)
    counts = _activity(audio, samples, frame, sample_rate)
    enough = min(round(ACTIVE_SECONDS / FRAME_SECONDS), max(1, samples // frame // 2))
    places = np.flatnonzero(counts >= enough)
    place = places[int(draw * len(places))] if len(places) else int(np.argmax(counts))
    return min(int(place) * frame, length - samples)


def most_active_start(audio: np.ndarray, samples: int, sample_rate: int = SAMPLE_RATE) -> int:
    """First sample of the window (20 ms grid) with the most active frames; the first of equals."""
    if len(audio) <= samples:
        return 0
    frame = round(FRAME_SECONDS * sample_rate)
    place = int(np.argmax(_activity(audio, samples, frame, sample_rate)))
    return min(place * frame, len(audio) - samples)


def salient_start(
    window: Callable[[int], np.ndarray], length: int, samples: int, draw: float, loudness: Callable[[np.ndarray], float]
) -> int:
    """First sample of the first of up to eight random windows that is louder than -40 LUFS; else the last of them.

    Source: DAC's "salient excerpts" (arXiv:2306.06546; audiotools' `salient_excerpt`).

    Args:
      window: first sample -> the window that starts there, [samples], int16 or float.
      length: samples of the sound.
      samples: samples of the window.
      draw: uniform in [0, 1).
      loudness: float32 [samples] -> LUFS.
    """
    for attempt in range(SALIENT_DRAWS):
        start = random_start(length, samples, (draw + attempt * _GOLDEN) % 1.0)
        if length <= samples or loudness(pad_clip(window(start), samples)[0]) > SALIENT_LUFS:
            break
    return start


def pad_clip(audio: np.ndarray, samples: int) -> tuple[np.ndarray, int]:
    """Cuts or pads [S] with zeros at its end to `samples`; int16 is scaled to float32 in [-1, 1).

    Returns:
      float32 [samples] and the number of samples that are sound.
    """
    valid = min(len(audio), samples)
    clip = np.zeros(samples, np.float32)
    clip[:valid] = audio[:valid]
    if audio.dtype == np.int16:
        clip *= np.float32(2.0**-15)
    return clip, valid


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Rounds float [-1, 1] to int16 (clips, never wraps)."""
    return np.clip(np.rint(np.asarray(audio, np.float64) * 2**15), -(2**15), 2**15 - 1).astype(np.int16)


def _activity(audio: np.ndarray, samples: int, frame: int, sample_rate: int) -> np.ndarray:
    """Active frames in each window that starts on the frame grid; the last start is the one that still fits."""
    sound = audio.astype(np.float32) * np.float32(2.0**-15) if audio.dtype == np.int16 else audio
    active = frame_levels(sound, sample_rate) > SILENCE
    total = np.concatenate([[0], np.cumsum(active)])
    first = np.arange(-(-(len(audio) - samples) // frame) + 1)
    last = np.minimum(first + max(1, samples // frame), len(active))
    return total[last] - total[first]
