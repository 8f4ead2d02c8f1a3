"""The evaluation of systems on a set of clips: decode (kept on disk, resumable), measure, compare, write scores.json.

Protocol: mono clips at 48 kHz, cut to 5 s; every system gets the same clip and its output is cut or padded to the
clip's own length, so that zero padding never enters a measure. Audio is kept as 24-bit FLAC and always measured from
those files, hence a resumed evaluation gives the same numbers as one in a single go. Every option is in scores.json.

Source: S-PRESSO 4.3 (500 clips, cut or padded to 5 s, SI-SDR); the other measures are stated in their modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.evaluate import bands, bootstrap, reconstruction, retrieval
from spresso_jax.evaluate.bootstrap import mean_interval, median_interval
from spresso_jax.evaluate.conditioning_gain import paired_losses
from spresso_jax.evaluate.decoded import (
    FORMAT,
    WAVEFORM_KINDS,
    Clip,
    System,
    clips_fingerprint,
    decode_all,
    read_decoded,
    read_json,
    write_json,
)
from spresso_jax.evaluate.gain_tables import gain_markdown
from spresso_jax.evaluate.tables import Metric, markdown_table, paired_comparisons

SCORES = "scores.json"
TABLE = "table.md"


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
            "bands": bands.conventions(),
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
    per_clip, profiles = _reconstruction(out, clips, sources, systems, progress)
    durations = [clip.seconds for clip in clips]
    chance: dict[str, dict] = {}
    for space in spaces:
        of_sources = retrieval.embed_all(sources, space.embed)
        for done, system in enumerate(systems, start=1):
            decoded = [read_decoded(out, system.key, clips, i) for i in range(len(clips))]
            per_clip[system.key].update(_retrieval(space, of_sources, decoded, durations, options, chance, system))
            if progress:
                progress(f"retrieval, {space.label}", done, len(systems))

    drawn = (options.seed, options.bootstrap_draws, options.level)
    figures = {key: {name: mean_interval(v, *drawn) for name, v in values.items()} for key, values in per_clip.items()}
    medians = {
        system.key: {"si_sdr": median_interval(per_clip[system.key]["si_sdr"], *drawn).to_json()}
        for system in systems
        if system.kind in WAVEFORM_KINDS
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
        "medians": medians,
        "bands": bands.band_scores(profiles, *drawn),
        "per_clip": {key: {n: _listed(v) for n, v in row.items()} for key, row in per_clip.items()},
        "paired": paired_comparisons(systems, per_clip, metrics, *drawn),
        "paired_losses": paired_losses(models or {}),
        "models": {name: dict(facts) for name, facts in (models or {}).items()},
    }
    write_json(out / SCORES, scores)
    tables = [text for text in (markdown_table(scores), gain_markdown(scores)) if text]
    (out / TABLE).write_text("\n".join(tables), encoding="utf-8")
    return scores


def _reconstruction(
    out: Path,
    clips: Sequence[Clip],
    sources: Sequence[np.ndarray],
    systems: Sequence[System],
    progress: Callable[[str, int, int], None] | None,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, list[bands.BandProfile]]]:
    """SI-SDR, mel and log-spectral distance of every system but the source, bands of every one but the controls too;
    clip by clip, so that the source's spectra are computed once."""
    compared = [system for system in systems if system.kind != "source"]
    profiles: dict[str, list[bands.BandProfile]] = {s.key: [] for s in compared if s.kind != "control"}
    values = {s.key: {m.key: np.full(len(clips), np.nan) for m in RECONSTRUCTION_METRICS} for s in compared}
    for i, source in enumerate(sources):
        logs = reconstruction.log_mels(source)
        banded = bands.banded_source(source)
        for system in compared:
            decoded = read_decoded(out, system.key, clips, i)
            row = values[system.key]
            row["si_sdr"][i] = reconstruction.si_sdr(source, decoded)
            row["mel"][i] = reconstruction.multi_scale_mel_distance(source, decoded, reference_logs=logs)
            row["lsd"][i] = reconstruction.log_spectral_distance(source, decoded)
            if system.key in profiles:
                profiles[system.key].append(bands.band_profile(banded, decoded))
        if progress:
            progress("distances", i + 1, len(clips))
    return {system.key: values.get(system.key, {}) for system in systems}, profiles


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
    found = retrieval.retrieve(of_sources, of_decoded, durations, candidates=options.candidates, seed=options.seed)
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


def read_scores(out: str | Path) -> dict:
    """Contents of OUT/scores.json.

    Raises:
      ValueError: if there is none, or it is of another format.
    """
    path = Path(out) / SCORES
    if not path.is_file():
        raise ValueError(f"{path}: no such file: run `spresso evaluate ... --out {out}` first")
    scores = read_json(path)
    if scores.get("format") != FORMAT:
        raise ValueError(f"{path}: format {scores.get('format')!r} is not {FORMAT}: evaluate again")
    return scores


def _listed(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values]
