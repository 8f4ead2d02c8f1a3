"""Clips, systems, and what systems made of clips: 24-bit FLAC files under OUT/audio that a resumed evaluation reuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spresso_jax.shapes import CLIP_SAMPLES, SAMPLE_RATE

FORMAT = 1
# Kinds of systems that aim at the source's waveform; the others draw a sound like it, or are no reconstruction at all.
WAVEFORM_KINDS = ("linear", "audio_ae", "folder")


# A shorter output is filled up with zeros; one that lacks more than a codec's frame (0.1 s) is counted.
TOLERATED_SAMPLES = SAMPLE_RATE // 10


@dataclass(frozen=True)
class Decoded:
    """How many outputs were changed to fit their file.

    Attributes:
      clipped: went beyond full scale.
      short: lacked more than TOLERATED_SAMPLES at the end and were filled up with zeros.
    """

    clipped: int
    short: int


@dataclass(frozen=True)
class Clip:
    """One source.

    Attributes:
      name: unique, readable.
      audio: [S] float32 at 48 kHz, its own length (at most 5 s in the paper's protocol), not padded.
      caption: may be empty.
    """

    name: str
    audio: np.ndarray
    caption: str = ""

    @property
    def seconds(self) -> float:
        """Duration of the clip itself."""
        return self.audio.size / SAMPLE_RATE


@dataclass(frozen=True)
class System:
    """What produces one column.

    Attributes:
      key: name of its folder, unique.
      label: column title.
      kind: source, linear, audio_ae, continuous, discrete, folder or control.
      produce: (clips, their indices) -> one [S] array per clip, any length.
      fingerprint: text that changes when the output would; decoded files are redone when it differs.
      model: name of the model folder, empty for systems without one.
      kbps, frame_rate, codebooks: of the code, None where there is none.
      batch: clips per call.
    """

    key: str
    label: str
    kind: str
    produce: Callable[[Sequence[Clip], Sequence[int]], Sequence[np.ndarray]]
    fingerprint: str
    model: str = ""
    kbps: float | None = None
    frame_rate: float | None = None
    codebooks: int | None = None
    batch: int = 8

    def facts(self) -> dict:
        """What scores.json says about the system."""
        return {k: v for k, v in self.__dict__.items() if k not in ("produce", "batch")}


def decode_all(
    clips: Sequence[Clip], system: System, out: Path, progress: Callable[[str, int, int], None] | None = None
) -> Decoded:
    """Writes the system's output for every clip to OUT/audio/KEY; what is there already, from the same inputs, stays.

    Raises:
      ValueError: for an output that is not finite or has several channels, with the clip's name.
    """
    folder = out / "audio" / system.key
    folder.mkdir(parents=True, exist_ok=True)
    made_from = folder / "made_from.json"
    stamp = {"format": FORMAT, "system": system.fingerprint, "clips": clips_fingerprint(clips)}
    known = read_json(made_from) if made_from.is_file() else {}
    clipped: dict[str, float] = known.get("peaks_above_one", {})
    short: dict[str, int] = known.get("missing_samples", {})
    if {k: known.get(k) for k in stamp} != stamp:
        for stale in folder.glob("*.flac"):
            stale.unlink()
        clipped, short = {}, {}
        write_json(made_from, {**stamp, "peaks_above_one": clipped, "missing_samples": short})
    missing = [i for i in range(len(clips)) if not audio_path(out, system.key, clips, i).is_file()]
    for start in range(0, len(missing), system.batch):
        rows = missing[start : start + system.batch]
        produced = system.produce([clips[i] for i in rows], rows)
        for i, audio in zip(rows, produced, strict=True):
            audio = np.asarray(audio, np.float32)
            if audio.ndim != 1:
                raise ValueError(f"{system.label} gave {audio.shape} for clip {clips[i].name!r}, not one channel")
            if (lacking := clips[i].audio.size - audio.size) > TOLERATED_SAMPLES:
                short[clips[i].name] = lacking
            audio = fit_length(audio, clips[i].audio.size)
            if not np.isfinite(audio).all():
                raise ValueError(f"{system.label} gave samples that are not finite for clip {clips[i].name!r}")
            peak = float(np.abs(audio).max())
            if peak > 1.0:
                clipped[clips[i].name] = peak
            _write_flac(audio_path(out, system.key, clips, i), audio)
        write_json(made_from, {**stamp, "peaks_above_one": clipped, "missing_samples": short})
        if progress:
            progress(system.label, len(clips) - len(missing) + start + len(rows), len(clips))
    return Decoded(len(clipped), len(short))


def fit_length(audio: np.ndarray, samples: int) -> np.ndarray:
    """Cuts or zero-pads [S] to `samples`."""
    return audio[:samples] if audio.size >= samples else np.pad(audio, (0, samples - audio.size))


def audio_path(out: Path, key: str, clips: Sequence[Clip] | Sequence[str], index: int) -> Path:
    """File of one system's output for one clip."""
    name = clips[index].name if isinstance(clips[index], Clip) else clips[index]
    readable = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:60]
    return out / "audio" / key / f"{index:04d}-{readable}.flac"


def read_decoded(out: Path, key: str, names: Sequence[Clip] | Sequence[str], index: int) -> np.ndarray:
    """[S] float32 at 48 kHz from OUT/audio."""
    import soundfile

    audio, _ = soundfile.read(audio_path(out, key, names, index), dtype="float32")
    return audio


def clips_fingerprint(clips: Sequence[Clip]) -> str:
    """Hash of names and samples, in order."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(clip.name.encode() + b"\0" + np.ascontiguousarray(clip.audio, np.float32).tobytes())
    return digest.hexdigest()[:16]


def cut(audio: np.ndarray, samples: int = CLIP_SAMPLES) -> np.ndarray:
    """The first `samples` samples of [S], with zeros at the end taken off."""
    audio = np.asarray(audio, np.float32)[:samples]
    sounding = np.flatnonzero(audio)
    return audio[: int(sounding[-1]) + 1] if sounding.size else audio[:1]


def _write_flac(path: Path, audio: np.ndarray) -> None:
    import soundfile

    partial = path.with_name(f".{path.name}.partial")
    soundfile.write(partial, np.clip(audio, -1.0, 1.0), SAMPLE_RATE, format="FLAC", subtype="PCM_24")
    partial.replace(path)


def write_json(path: Path, content: Mapping) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}): delete it and evaluate again") from error
