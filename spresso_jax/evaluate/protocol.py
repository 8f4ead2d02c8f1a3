"""The evaluation of systems on a set of clips: decode (kept on disk, resumable), measure, compare, write scores.json.

Protocol: mono clips at 48 kHz, cut to 5 s; every system gets the same clip and its output is cut or padded to the
clip's own length, so that zero padding never enters a measure. Audio is kept as 24-bit FLAC and always measured from
those files, hence a resumed evaluation gives the same numbers as one in a single go. Every option is in scores.json.

Source: S-PRESSO 4.3 (500 clips, cut or padded to 5 s, SI-SDR); the other measures are stated in their modules.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.evaluate import bootstrap, reconstruction, retrieval
from spresso_jax.evaluate.bootstrap import Interval, mean_interval, paired_interval
from spresso_jax.shapes import CLIP_SAMPLES, SAMPLE_RATE

FORMAT = 1
SCORES = "scores.json"
TABLE = "table.md"


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


@dataclass(frozen=True)
class Metric:
    """Name, unit and direction of one figure."""

    key: str
    label: str
    unit: str
    better: str
    digits: int = 2


RECONSTRUCTION_METRICS = (
    Metric("si_sdr", "SI-SDR", "dB", "higher", 1),
    Metric("mel", "mel distance", "", "lower", 2),
    Metric("lsd", "log-spectral distance", "dB", "lower", 1),
)


@dataclass(frozen=True)
class Space:
    """An embedding in which clips are retrieved, for instance the audio tower of a CLAP.

    Attributes:
      key, label: "mel_shape", "log-mel shape".
      embed: [S] prepared clip -> [D].
      similarity: also report the mean cosine of each clip with its own source.
    """

    key: str
    label: str
    embed: retrieval.Embedding
    similarity: bool = False


MEL_SPACE = Space("mel_shape", "log-mel shape", retrieval.spectral_shape)


@dataclass(frozen=True)
class Options:
    """Everything that changes a number, recorded in scores.json."""

    seed: int = 0
    candidates: int = retrieval.CANDIDATES
    bootstrap_draws: int = bootstrap.DRAWS
    level: float = bootstrap.LEVEL
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict:
        """Options and the fixed conventions of the measures."""
        return {
            "seed": self.seed,
            "bootstrap": {"draws": self.bootstrap_draws, "level": self.level, "unit": "clip", "kind": "percentile"},
            "si_sdr": {
                "zero_mean": True,
                "epsilon": 0.0,
                "silent_reference": "left out and counted",
                "silent_estimate_db": reconstruction.SILENT_ESTIMATE_DB,
                "ceiling_db": reconstruction.IDENTICAL_DB,
            },
            "mel": {
                "scales": [list(scale) for scale in reconstruction.DAC_MEL_SCALES],
                "floor": reconstruction.MAGNITUDE_FLOOR,
            },
            "lsd": {"n_fft": 2048, "hop": 512, "floor_db_below_loudest": 80},
            "retrieval": {
                "candidates": self.candidates,
                "chosen_by": "nearest log duration",
                "active_db": retrieval.ACTIVE_DB,
                "aligned_rms": retrieval.ALIGNED_RMS,
                "envelope_removed": True,
            },
            "measured_on": "the clip's own length, padding excluded; audio from 24-bit FLAC",
            **self.extra,
        }


def controls(clips: Sequence[Clip], frame_rates: Sequence[float], seed: int = 0) -> list[System]:
    """Shuffled pairs, and envelope noise once for every frame rate."""
    order = retrieval.shuffled(len(clips), seed)
    systems = [
        System(
            key="control-shuffled",
            label="control: another clip",
            kind="control",
            produce=lambda batch, indices: [clips[order[i]].audio for i in indices],
            fingerprint=f"shuffled {seed}",
        )
    ]
    for rate in sorted(set(frame_rates), reverse=True):
        systems.append(
            System(
                key=f"control-noise-{rate:.3g}hz",
                label=f"control: envelope noise {rate:.3g} Hz",
                kind="control",
                produce=lambda batch, indices, rate=rate: [
                    retrieval.envelope_noise(clip.audio, rate, seed * 1_000_003 + i)
                    for clip, i in zip(batch, indices, strict=True)
                ],
                fingerprint=f"envelope noise {rate} {seed}",
                frame_rate=rate,
            )
        )
    return systems


def source_system() -> System:
    """The first column: the sources themselves."""
    return System("source", "source", "source", lambda batch, indices: [c.audio for c in batch], "source", batch=64)


def check_clips(clips: Sequence[Clip]) -> None:
    """Refuses sets on which nothing can be measured.

    Raises:
      ValueError: fewer than two clips, equal names, more than one channel, or samples that are not finite.
    """
    if len(clips) < 2:
        raise ValueError(f"an evaluation needs at least 2 clips, got {len(clips)}: give a folder with more sounds")
    names = [clip.name for clip in clips]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise ValueError(f"two clips are called {twice!r}: rename one of them")
    for clip in clips:
        if clip.audio.ndim != 1 or clip.audio.size == 0 or not np.isfinite(clip.audio).all():
            raise ValueError(f"clip {clip.name!r} must be one channel of finite samples, got shape {clip.audio.shape}")


def decode_all(
    clips: Sequence[Clip], system: System, out: Path, progress: Callable[[str, int, int], None] | None = None
) -> int:
    """Writes the system's output for every clip to OUT/audio/KEY; what is there already, from the same inputs, stays.

    Returns:
      Number of clips whose output went beyond full scale and was clipped in the file.
    """
    folder = out / "audio" / system.key
    folder.mkdir(parents=True, exist_ok=True)
    made_from = folder / "made_from.json"
    stamp = {"format": FORMAT, "system": system.fingerprint, "clips": clips_fingerprint(clips)}
    known = _read_json(made_from) if made_from.is_file() else {}
    clipped: dict[str, float] = known.get("peaks_above_one", {})
    if {k: known.get(k) for k in stamp} != stamp:
        for stale in folder.glob("*.flac"):
            stale.unlink()
        clipped = {}
        _write_json(made_from, {**stamp, "peaks_above_one": clipped})
    missing = [i for i in range(len(clips)) if not audio_path(out, system.key, clips, i).is_file()]
    for start in range(0, len(missing), system.batch):
        rows = missing[start : start + system.batch]
        produced = system.produce([clips[i] for i in rows], rows)
        for i, audio in zip(rows, produced, strict=True):
            audio = fit_length(np.asarray(audio, np.float32), clips[i].audio.size)
            if not np.isfinite(audio).all():
                raise ValueError(f"{system.label} gave samples that are not finite for clip {clips[i].name!r}")
            peak = float(np.abs(audio).max())
            if peak > 1.0:
                clipped[clips[i].name] = peak
            _write_flac(audio_path(out, system.key, clips, i), audio)
        _write_json(made_from, {**stamp, "peaks_above_one": clipped})
        if progress:
            progress(system.label, len(clips) - len(missing) + start + len(rows), len(clips))
    return len(clipped)


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


def evaluate(
    clips: Sequence[Clip],
    systems: Sequence[System],
    out: str | Path,
    *,
    options: Options | None = None,
    spaces: Sequence[Space] = (MEL_SPACE,),
    models: Mapping[str, Mapping] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict:
    """Decodes, measures and writes OUT/scores.json and OUT/table.md.

    Args:
      clips: at least two.
      systems: the source first; controls last.
      out: folder for audio, scores and report.
      options: recorded with the scores.
      spaces: embeddings for the retrieval.
      models: facts about each model folder (operating point, conditioning gain, ...), copied into the scores.
      progress: called with (what, done, total).

    Returns:
      The contents of scores.json.

    Raises:
      ValueError: from `check_clips`, or when two systems share a key.
    """
    out, options = Path(out), options or Options()
    check_clips(clips)
    keys = [system.key for system in systems]
    if len(set(keys)) < len(keys):
        raise ValueError(f"two systems share a key in {keys}: give the model folders different names")
    if keys[:1] != ["source"]:
        systems = [source_system(), *systems]
    clipped = {system.key: decode_all(clips, system, out, progress) for system in systems}

    metrics = list(RECONSTRUCTION_METRICS)
    for space in spaces:
        metrics.append(Metric(f"recall_{space.key}", f"recall@1, {space.label}", "", "higher", 3))
        metrics.append(Metric(f"rank_{space.key}", f"mean rank, {space.label}", "", "lower", 1))
        if space.similarity:
            metrics.append(Metric(f"similarity_{space.key}", f"similarity, {space.label}", "", "higher", 3))
    sources = [read_decoded(out, "source", clips, i) for i in range(len(clips))]
    per_clip = _reconstruction(out, clips, sources, systems, progress)
    durations = [clip.seconds for clip in clips]
    chance: dict[str, dict] = {}
    for space in spaces:
        of_sources = retrieval.embed_all(sources, space.embed)
        for done, system in enumerate(systems, start=1):
            decoded = [read_decoded(out, system.key, clips, i) for i in range(len(clips))]
            per_clip[system.key].update(_retrieval(space, of_sources, decoded, durations, options, chance, system))
            if progress:
                progress(f"retrieval, {space.label}", done, len(systems))

    figures = {
        key: {
            name: mean_interval(v, options.seed, options.bootstrap_draws, options.level) for name, v in values.items()
        }
        for key, values in per_clip.items()
    }
    scores = {
        "format": FORMAT,
        "options": {**options.to_json(), "number_of_clips": len(clips)},
        "clips": [{"name": c.name, "seconds": c.seconds, "caption": c.caption} for c in clips],
        "clips_fingerprint": clips_fingerprint(clips),
        "systems": [{**system.facts(), "clipped": clipped[system.key]} for system in systems],
        "metrics": [asdict(metric) for metric in metrics],
        "chance": chance,
        "figures": {key: {n: v.to_json() for n, v in row.items()} for key, row in figures.items()},
        "per_clip": {key: {n: _listed(v) for n, v in row.items()} for key, row in per_clip.items()},
        "paired": paired_comparisons(systems, per_clip, metrics, options),
        "models": {name: dict(facts) for name, facts in (models or {}).items()},
    }
    _write_json(out / SCORES, scores)
    (out / TABLE).write_text(markdown_table(scores), encoding="utf-8")
    return scores


def _reconstruction(
    out: Path,
    clips: Sequence[Clip],
    sources: Sequence[np.ndarray],
    systems: Sequence[System],
    progress: Callable[[str, int, int], None] | None,
) -> dict[str, dict[str, np.ndarray]]:
    """SI-SDR, mel and log-spectral distance of every system but the source; clip by clip, so that the source's mel
    spectra are computed once."""
    compared = [system for system in systems if system.kind != "source"]
    values = {s.key: {m.key: np.full(len(clips), np.nan) for m in RECONSTRUCTION_METRICS} for s in compared}
    for i, source in enumerate(sources):
        logs = reconstruction.log_mels(source)
        for system in compared:
            decoded = read_decoded(out, system.key, clips, i)
            row = values[system.key]
            row["si_sdr"][i] = reconstruction.si_sdr(source, decoded)
            row["mel"][i] = reconstruction.multi_scale_mel_distance(source, decoded, reference_logs=logs)
            row["lsd"][i] = reconstruction.log_spectral_distance(source, decoded)
        if progress:
            progress("distances", i + 1, len(clips))
    return {system.key: values.get(system.key, {}) for system in systems}


def _retrieval(
    space: Space,
    of_sources: np.ndarray,
    decoded: Sequence[np.ndarray],
    durations: Sequence[float],
    options: Options,
    chance: dict[str, dict],
    system: System,
) -> dict[str, np.ndarray]:
    try:
        of_decoded = retrieval.embed_all(decoded, space.embed)
    except ValueError:  # a system that gives silence for every clip retrieves nothing, and that is its score
        of_decoded = np.full_like(of_sources, np.nan)
    found = retrieval.retrieve(
        of_sources, of_decoded, durations, candidates=options.candidates, seed=options.seed
    )
    chance.setdefault(
        space.key,
        {
            "recall": found.chance_recall,
            "rank": found.chance_rank,
            "candidates": found.candidates,
            "widest_duration_ratio": found.widest_duration_ratio,
        },
    )
    values = {f"recall_{space.key}": found.hits, f"rank_{space.key}": found.ranks}
    if space.similarity and system.kind != "source":
        norms = np.linalg.norm(of_sources, axis=1) * np.linalg.norm(of_decoded, axis=1)
        values[f"similarity_{space.key}"] = np.sum(of_sources * of_decoded, axis=1) / np.maximum(norms, 1e-12)
    return values


def paired_comparisons(
    systems: Sequence[System],
    per_clip: Mapping[str, Mapping[str, np.ndarray]],
    metrics: Sequence[Metric],
    options: Options,
) -> list[dict]:
    """Paired intervals of what the project wants to know: more bits against fewer, and one model against another.

    Pairs: neighbouring numbers of codebooks of one model; the same number of codebooks (and continuous z) in two
    models; continuous z against the most codebooks. `improvement` is positive when `first` is better.
    """
    pairs: list[tuple[System, System, str]] = []
    coded = [s for s in systems if s.kind in ("continuous", "discrete")]
    for model in dict.fromkeys(s.model for s in coded):
        own = sorted((s for s in coded if s.model == model and s.kind == "discrete"), key=lambda s: s.codebooks or 0)
        pairs += [(more, fewer, "more bits") for fewer, more in zip(own, own[1:], strict=False)]
        continuous = [s for s in coded if s.model == model and s.kind == "continuous"]
        if own and continuous:
            pairs.append((continuous[0], own[-1], "continuous"))
    for index, first in enumerate(coded):
        for second in coded[index + 1 :]:
            if first.model != second.model and (first.kind, first.codebooks) == (second.kind, second.codebooks):
                pairs.append((second, first, "model"))
    rows = []
    for first, second, why in pairs:
        for metric in metrics:
            a, b = per_clip[first.key].get(metric.key), per_clip[second.key].get(metric.key)
            if a is None or b is None:
                continue
            sign = 1.0 if metric.better == "higher" else -1.0
            interval = paired_interval(sign * a, sign * b, options.seed, options.bootstrap_draws, options.level)
            rows.append(
                {
                    "first": first.key,
                    "second": second.key,
                    "why": why,
                    "metric": metric.key,
                    "improvement": interval.to_json(),
                }
            )
    return rows


def markdown_table(scores: Mapping) -> str:
    """The figures as a Markdown table: mean, 95 % interval and the number of clips."""
    metrics = scores["metrics"]
    arrows = {"higher": "↑", "lower": "↓"}
    head = ["system", "kbps"] + [
        f"{m['label']}{' (' + m['unit'] + ')' if m['unit'] else ''} {arrows[m['better']]}" for m in metrics
    ]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for system in scores["systems"]:
        cells = [system["label"], "" if system["kbps"] is None else f"{system['kbps']:.3g}"]
        for metric in metrics:
            facts = scores["figures"][system["key"]].get(metric["key"])
            cells.append("" if facts is None else format_interval(Interval.from_json(facts), metric["digits"]))
        lines.append("| " + " | ".join(cells) + " |")
    count, level = scores["options"]["number_of_clips"], scores["options"]["bootstrap"]["level"]
    notes = [f"{count} clips; mean with {level:.0%} bootstrap interval over clips."]
    for key, chance in scores["chance"].items():
        notes.append(
            f"Retrieval in {key}: {chance['candidates']} candidates of like duration "
            f"(ratio at most {chance['widest_duration_ratio']:.2f}), chance recall {chance['recall']:.3f}, "
            f"chance rank {chance['rank']:.1f}."
        )
    worst = max((f["left_out"] for row in scores["figures"].values() for f in row.values()), default=0)
    if worst:
        notes.append(f"Up to {worst} clips left out of a figure (silent sources).")
    return "\n".join(lines) + "\n\n" + " ".join(notes) + "\n"


def format_interval(interval: Interval, digits: int) -> str:
    """'12.3 [11.9, 12.8]', or a dash when no clip is left."""
    if interval.count == 0 or not math.isfinite(interval.mean):
        return "–"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def read_scores(out: str | Path) -> dict:
    """Contents of OUT/scores.json.

    Raises:
      ValueError: if there is none, or it is of another format.
    """
    path = Path(out) / SCORES
    if not path.is_file():
        raise ValueError(f"{path}: no such file: run `spresso evaluate ... --out {out}` first")
    scores = _read_json(path)
    if scores.get("format") != FORMAT:
        raise ValueError(f"{path}: format {scores.get('format')!r} is not {FORMAT}: evaluate again")
    return scores


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


def _listed(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values]


def _write_flac(path: Path, audio: np.ndarray) -> None:
    import soundfile

    partial = path.with_name(f".{path.name}.partial")
    soundfile.write(partial, np.clip(audio, -1.0, 1.0), SAMPLE_RATE, format="FLAC", subtype="PCM_24")
    partial.replace(path)


def _write_json(path: Path, content: Mapping) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}): delete it and evaluate again") from error
