"""What is measured on one clip alone: SI-SDR, mel and log-spectral distance, bands, and the log-mel shape.

Every clip's measures are kept in OUT/measures under the hashes of the two files that they were measured on, so that an
evaluation that was killed goes on where it was, and a file that changed is measured again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spresso_jax.evaluate import bands, reconstruction, retrieval
from spresso_jax.evaluate.decoded import Clip, System, audio_path, read_decoded, read_json, write_json
from spresso_jax.evaluate.worker_pool import in_order

# Raised when a measure changes, so that older ones are not taken for it.
VERSION = 1
# Fewer are measured sooner than processes start.
LEAST_TASKS = 100
DELAY_CLIPS = 64


@dataclass(frozen=True)
class ClipMeasures:
    """Measures of one system's output for one clip; those against the source are nan for the source itself.

    Attributes:
      si_sdr, mel, lsd: as in `reconstruction`.
      silent: nothing is left of the output but a constant.
      snr, energy_ratio: [bands], empty where bands are not measured.
      shape: [128] of `retrieval.spectral_shape`, nan for a silent clip.
    """

    si_sdr: float
    mel: float
    lsd: float
    silent: bool
    snr: np.ndarray
    energy_ratio: np.ndarray
    shape: np.ndarray

    def to_json(self) -> dict:
        """Plain lists in which nan is None."""
        return {
            name: value if isinstance(value, bool) else _plain(np.asarray(value)) for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, facts: Mapping) -> ClipMeasures:
        """Inverse of `to_json`."""
        numbers = {name: np.array(value, np.float64) for name, value in facts.items() if name != "silent"}
        scalars = {name: float(numbers.pop(name)) for name in ("si_sdr", "mel", "lsd")}
        return cls(silent=facts["silent"], **scalars, **numbers)


@dataclass(frozen=True)
class ClipTask:
    """One clip and the systems to measure on it.

    Attributes:
      source: its file.
      decoded: key of a system -> file.
      banded: keys whose bands are measured.
      delays: key -> samples by which the system is late, taken off before SI-SDR.
      kept: file of earlier measures.
    """

    source: Path
    decoded: Mapping[str, Path]
    banded: frozenset[str]
    delays: Mapping[str, int]
    kept: Path


def measure_clips(
    out: Path,
    clips: Sequence[Clip],
    systems: Sequence[System],
    *,
    delays: Mapping[str, int] | None = None,
    workers: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, list[ClipMeasures]]:
    """Measures of every system on every clip, the source included; what OUT/measures has is not measured again.

    Args:
      out: whose OUT/audio holds all decoded files.
      systems: the source first. Controls have no bands.
      delays: key -> samples.
      workers: processes.
      progress: called with (what, done, total).
    """
    folder = out / "measures"
    folder.mkdir(parents=True, exist_ok=True)
    compared = [system for system in systems if system.kind != "source"]
    tasks = []
    for i in range(len(clips)):
        source = audio_path(out, "source", clips, i)
        tasks.append(
            ClipTask(
                source=source,
                decoded={system.key: audio_path(out, system.key, clips, i) for system in compared},
                banded=frozenset(system.key for system in compared if system.kind != "control"),
                delays={system.key: (delays or {}).get(system.key, 0) for system in compared},
                kept=folder / f"{source.stem}.json",
            )
        )
    measures: dict[str, list[ClipMeasures]] = {system.key: [] for system in systems}
    workers = workers if len(tasks) * len(compared) >= LEAST_TASKS else 1
    for done, result in enumerate(in_order(measure_clip, tasks, workers), start=1):
        for key, facts in result.items():
            measures[key].append(ClipMeasures.from_json(facts))
        if progress:
            progress("distances of clips", done, len(clips))
    return measures


def measure_clip(task: ClipTask) -> dict[str, dict]:
    """Measures as JSON of "source" and of every system of a task, new or kept."""
    known = _kept(task.kept)
    reference = hashlib.sha256(task.source.read_bytes()).hexdigest()
    stamps = {"source": [VERSION, reference]}
    for key, path in task.decoded.items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        stamps[key] = [VERSION, reference, digest, task.delays[key], key in task.banded]
    missing = [key for key, stamp in stamps.items() if known.get(key, {}).get("made_from") != stamp]
    if missing:
        source = _read(task.source)
        logs = reconstruction.log_mels(source) if set(missing) - {"source"} else []
        banded = bands.banded_source(source) if task.banded.intersection(missing) else None
        for key in missing:
            if key == "source":
                made = _of_source(source)
            else:
                decoded = _read(task.decoded[key])
                profile = banded if key in task.banded else None
                made = _of_decoded(source, decoded, logs, profile, task.delays[key])
            known[key] = {"made_from": stamps[key], "measures": made.to_json()}
        write_json(task.kept, known)
    return {key: known[key]["measures"] for key in stamps}


def constant_delays(
    out: Path, clips: Sequence[Clip], systems: Sequence[System], max_delay: int, kinds: Sequence[str]
) -> dict[str, int]:
    """The one delay of each system of these kinds, from up to DELAY_CLIPS clips; clips too short to tell are passed over.

    Args:
      max_delay: samples searched either way; 0 finds nothing and costs nothing.
    """
    if not max_delay:
        return {}
    long_enough = [i for i, clip in enumerate(clips) if clip.audio.size > 2 * max_delay][:DELAY_CLIPS]
    if not long_enough:
        raise ValueError(f"no clip is longer than twice the delay searched ({max_delay} samples): search a smaller one")
    sources = [read_decoded(out, "source", clips, i) for i in long_enough]
    return {
        system.key: reconstruction.constant_delay(
            sources, [read_decoded(out, system.key, clips, i) for i in long_enough], max_delay
        )
        for system in systems
        if system.kind in kinds
    }


def _of_source(source: np.ndarray) -> ClipMeasures:
    nan, none = math.nan, np.zeros(0)
    return ClipMeasures(nan, nan, nan, bool(reconstruction.is_silent(source)), none, none, _shape(source))


def _of_decoded(
    source: np.ndarray, decoded: np.ndarray, logs: list[np.ndarray], banded: bands.BandedSource | None, delay: int
) -> ClipMeasures:
    delay = delay if source.size > 2 * abs(delay) else 0
    none = np.zeros(0)
    profile = bands.BandProfile(none, none) if banded is None else bands.band_profile(banded, decoded)
    return ClipMeasures(
        si_sdr=float(reconstruction.si_sdr(*reconstruction.without_delay(source, decoded, delay))),
        mel=reconstruction.multi_scale_mel_distance(source, decoded, reference_logs=logs),
        lsd=reconstruction.log_spectral_distance(source, decoded),
        silent=bool(reconstruction.is_silent(decoded)),
        snr=profile.snr,
        energy_ratio=profile.energy_ratio,
        shape=_shape(decoded),
    )


def _shape(audio: np.ndarray) -> np.ndarray:
    part = retrieval.prepare(audio)
    return np.full(2 * retrieval.MEL_BANDS, math.nan) if part is None else retrieval.spectral_shape(part)


def _read(path: Path) -> np.ndarray:
    import soundfile

    return soundfile.read(path, dtype="float32")[0]


def _kept(path: Path) -> dict:
    """Earlier measures of a clip, of any shape that JSON has; what does not fit is measured again."""
    try:
        known = read_json(path) if path.is_file() else {}
    except ValueError:
        return {}
    return {k: v for k, v in known.items() if isinstance(v, dict)} if isinstance(known, dict) else {}


def _plain(values: np.ndarray) -> float | list | None:
    listed = values.tolist()
    if values.ndim:
        return [x if math.isfinite(x) else None for x in listed]
    return listed if math.isfinite(listed) else None
