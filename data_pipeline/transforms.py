"""Seeded random draws and the decoding of records: the steps between a shuffled index and one example.

Draws come before the split over hosts and depend on the position in the global stream only, so that augmentation is
the same on any number of hosts; decoding comes after it, so that each host reads only its own records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np

from data_pipeline.clips import active_start, most_active_start, pad_clip, random_start, salient_start
from data_pipeline.records import Record, ShardError, ShardReader

Tokenize = Callable[[str], tuple[np.ndarray, np.ndarray]]
Loudness = Callable[[np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Draws:
    """One element of the stream before it is read: which record, and its random numbers in [0, 1)."""

    source: int
    index: int
    crop: float
    gain: float
    caption: float


class Draw(grain.transforms.RandomMap):
    """Record index -> `Draws` of one source."""

    def __init__(self, source: int):
        self._source = source

    def random_map(self, element: int, rng: np.random.Generator) -> Draws:
        crop, gain, caption = rng.random(3)
        return Draws(self._source, int(element), float(crop), float(gain), float(caption))


class DecodeClip(grain.transforms.Map):
    """`Draws` -> {"audio" [S, 1] float32, "valid" int32} and, with a tokenizer, {"tokens" [N], "text_mask" [N]}."""

    def __init__(
        self,
        readers: Sequence[ShardReader],
        samples: int,
        crop: str,
        gain_db: float,
        tokenize: Tokenize | None,
        loudness: Loudness | None,
    ):
        self._readers, self._samples, self._crop, self._gain_db = readers, samples, crop, gain_db
        self._tokenize, self._loudness = tokenize, loudness

    def map(self, element: Draws) -> dict:
        record = self._readers[element.source][element.index]
        audio, valid = decode_clip(record, self._samples, self._crop, element.crop, self._loudness)
        if self._gain_db:
            audio *= gain_factor(audio, (2 * element.gain - 1) * self._gain_db)
        example = {"audio": audio[:, None], "valid": np.int32(valid)}
        if self._tokenize:
            captions = record.meta.get("caption") or [""]
            tokens, mask = self._tokenize(captions[int(element.caption * len(captions))])
            example["tokens"], example["text_mask"] = np.asarray(tokens, np.int32), np.asarray(mask, bool)
        return example


class DecodeArrays(grain.transforms.Map):
    """`Draws` -> the named arrays of a cached record; time arrays cropped alike, float16 as float32, "valid" frames."""

    def __init__(
        self,
        readers: Sequence[ShardReader],
        crop_frames: Mapping[str, int] | None,
        keys: Sequence[str] | None,
        choose: Sequence[str],
    ):
        self._readers, self._crop, self._keys, self._choose = readers, dict(crop_frames or {}), keys, set(choose)

    def map(self, element: Draws) -> dict:
        record = self._readers[element.source][element.index]
        start, frames, valid = self._window(record, element.crop)
        example = {}
        for name in self._keys or record.names:
            if name == "valid":
                continue
            if name in self._crop:
                array = _padded(record.window(name, start, start + frames), frames)
            elif name in self._choose:
                alternatives = record.shape(name)[0]
                pick = int(element.caption * alternatives)
                array = record.window(name, pick, pick + 1)[0]
            else:
                array = record.array(name)
            example[name] = array.astype(np.float32) if array.dtype == np.float16 else np.array(array)
        if valid is not None:
            example["valid"] = np.int32(valid)
        return example

    def _window(self, record: Record, draw: float) -> tuple[int, int, int | None]:
        """First frame, length of the window, and how many of its frames are sound."""
        known = int(record.array("valid")) if "valid" in record.names else None
        if not self._crop:
            return 0, 0, known
        lengths = {record.shape(name)[0] for name in self._crop}
        if len(lengths) > 1:
            shapes = ", ".join(f"{name} {record.shape(name)[0]}" for name in self._crop)
            raise ShardError(f"{record.where}: arrays to crop alike differ in length ({shapes}): crop only one of them")
        (length,) = lengths
        (frames,) = set(self._crop.values())
        sound = length if known is None else min(known, length)
        # Frames that are only padding are no place to start: crops stay within the sound where it is long enough.
        start = random_start(max(sound, min(length, frames)), frames, draw)
        return start, frames, max(0, min(sound - start, frames))


def decode_clip(
    record: Record, samples: int, crop: str, draw: float = 0.0, loudness: Loudness | None = None
) -> tuple[np.ndarray, int]:
    """A window of a sound record.

    Args:
      record: with an int16 array "audio".
      samples: length of the window.
      crop: "start", "random" (uniform), "active" (uniform over windows with activity), "salient" (over loud windows), or
        "most_active".
      draw: uniform in [0, 1), for the random policies.
      loudness: float32 [samples] -> LUFS, for "salient".

    Returns:
      float32 [samples], zeros after the sound's end, and the number of samples that are sound.
    """
    length = record.shape("audio")[0]
    if crop in ("active", "most_active") and length > samples:
        whole = record.array("audio")
        start = active_start(whole, samples, draw) if crop == "active" else most_active_start(whole, samples)
        return pad_clip(whole[start : start + samples], samples)
    if crop == "salient":
        start = salient_start(lambda i: record.window("audio", i, i + samples), length, samples, draw, loudness)
    else:
        start = random_start(length, samples, draw) if crop == "random" else 0
    return pad_clip(record.window("audio", start, start + samples), samples)


def gain_factor(audio: np.ndarray, gain_db: float) -> np.float32:
    """Linear factor for a gain; a raised sound stays under -1 dBFS peak, and is not lowered to get there."""
    factor = 10.0 ** (gain_db / 20)
    if factor > 1:
        peak = float(np.abs(audio).max())
        factor = min(factor, max(1.0, 10.0 ** (-1 / 20) / peak)) if peak > 0 else 1.0
    return np.float32(factor)


def _padded(array: np.ndarray, frames: int) -> np.ndarray:
    if len(array) == frames:
        return array
    return np.concatenate([array, np.zeros((frames - len(array), *array.shape[1:]), array.dtype)])
