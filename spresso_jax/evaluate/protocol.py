"""The evaluation of systems on sets of clips: decode (kept on disk, resumable), measure, compare, write scores.json.

Protocol: mono clips at 48 kHz, cut to 5 s; every system gets the same clip and its output is cut or padded to the
clip's own length. Measures that compare a clip with its source use that length, so that zero padding never enters them;
embeddings are of clips padded to 5.000 s, as the paper's. Audio is kept as 24-bit FLAC and always measured from those
files, and so are rows and measures under hashes of what they were made from, hence a resumed evaluation gives the same
numbers as one in a single go. Every option is in scores.json.

Source: S-PRESSO 4.3 (500 clips a set, cut or padded to 5 s, SI-SDR); the other measures are stated in their modules.
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
from spresso_jax.evaluate.clip_measures import ClipMeasures, constant_delays, measure_clips
from spresso_jax.evaluate.clip_records import LENGTH, LSD_OPTIONS, MEL_OPTIONS, clip_records
from spresso_jax.evaluate.conditioning_gain import paired_losses
from spresso_jax.evaluate.controls import controls, low_pass_control, source_system
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
from spresso_jax.evaluate.features.extractor import Extractor
from spresso_jax.evaluate.gain_tables import gain_markdown
from spresso_jax.evaluate.record_tables import markdown_records, record_tables
from spresso_jax.evaluate.score import EmbeddingSource
from spresso_jax.evaluate.set_distances import DistanceOptions, distance_records, embed_systems, shape_space
from spresso_jax.evaluate.tables import Metric, markdown_table, paired_comparisons
from spresso_jax.evaluate.test_sets import UNION, ClipSet

__all__ = ["controls", "evaluate", "low_pass_control", "read_scores", "source_system"]

SCORES = "scores.json"
TABLE = "table.md"
TEX = "table.tex"
PLOTS = "plots"


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
    """Everything that changes a number, recorded in scores.json.

    Attributes:
      seed: of the choice of clips and of all draws.
      candidates: of the retrieval.
      bootstrap_draws, level: of intervals of means over clips.
      extra: further entries of the record.
      max_delay: samples searched for a constant delay of decoded folders, taken off before SI-SDR.
      padded: embeddings are of clips zero-padded to 5 s.
      distances: of the measures that compare sets.
    """

    seed: int = 0
    candidates: int = retrieval.CANDIDATES
    bootstrap_draws: int = bootstrap.DRAWS
    level: float = bootstrap.LEVEL
    extra: Mapping[str, Any] = field(default_factory=dict)
    max_delay: int = 0
    padded: bool = True
    distances: DistanceOptions = DistanceOptions()

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
                "searched_delay_samples": self.max_delay,
            },
            "mel": MEL_OPTIONS,
            "lsd": LSD_OPTIONS,
            "distances": {"embedded": "clips zero-padded to 5 s" if self.padded else LENGTH, **asdict(self.distances)},
            "bands": bands.conventions(),
            "retrieval": {
                "candidates": self.candidates,
                "chosen_by": "nearest log duration",
                "active_db": retrieval.ACTIVE_DB,
                "aligned_rms": retrieval.ALIGNED_RMS,
                "envelope_removed": True,
            },
            "measured_on": f"{LENGTH}; audio from 24-bit FLAC",
            **self.extra,
        }


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
    sets: Sequence[ClipSet] = (),
    embeddings: Sequence[tuple[Extractor, EmbeddingSource]] = (),
    cache: str | Path | None = None,
    workers: int = 1,
) -> dict:
    """Decodes, measures and writes OUT/scores.json, OUT/table.md, OUT/table.tex and OUT/plots.

    Args:
      clips: at least two; of several sets, one set after the other (`test_sets.joined`).
      systems: the source first; controls last.
      out: folder for audio, scores and report.
      options: recorded with the scores.
      spaces: embeddings for the retrieval.
      models: facts about each model folder (operating point, conditioning gain, ...), copied into the scores.
      progress: called with (what, done, total).
      sets: the test sets that the clips are of; one without a name when not given.
      embeddings: extractors for distances of sets and similarity; the log-mel shape is always among them.
      cache: folder of embedded rows, OUT/features when not given.
      workers: processes for measures without a network.

    Returns:
      The contents of scores.json.

    Raises:
      ValueError: from `check_clips`, when two systems share a key or two embeddings a name, or when the sets are not of
        these clips.
    """
    out, options = Path(out), options or Options()
    check_clips(clips)
    keys = [system.key for system in systems]
    if len(set(keys)) < len(keys):
        raise ValueError(f"two systems share a key in {keys}: give the model folders different names")
    named = [source.name for _, source in embeddings]
    if len(set(named)) < len(named):
        raise ValueError(
            f"two embeddings share a name in {named}: evaluate them one at a time, each with its own --out"
        )
    if keys[:1] != ["source"]:
        systems = [source_system(), *systems]
    sets = list(sets) or [ClipSet("clips", tuple(clips), listed=len(clips), asked=len(clips))]
    parts = _parts(sets, clips)
    decoded = {system.key: decode_all(clips, system, out, progress) for system in systems}

    metrics = list(RECONSTRUCTION_METRICS)
    for space in spaces:
        metrics.append(Metric(f"recall_{space.key}", f"recall@1, {space.label}", "", "higher", 3))
        metrics.append(Metric(f"rank_{space.key}", f"mean rank, {space.label}", "", "lower", 1))
        if space.similarity:
            metrics.append(Metric(f"similarity_{space.key}", f"similarity, {space.label}", "", "higher", 3))
    delays = constant_delays(out, clips, systems, options.max_delay, ("folder",))
    measures = measure_clips(out, clips, systems, delays=delays, workers=workers, progress=progress)
    shapes = {key: np.stack([m.shape for m in row]) for key, row in measures.items()}
    per_clip = {
        s.key: {} if s.kind == "source" else {
            m.key: np.array([getattr(clip, m.key) for clip in measures[s.key]]) for m in RECONSTRUCTION_METRICS
        }
        for s in systems
    }  # fmt: skip
    durations = [clip.seconds for clip in clips]
    chance: dict[str, dict] = {}
    for space in spaces:
        of_sources = None
        for done, system in enumerate(systems, start=1):
            rows = (
                shapes[system.key] if space.embed is retrieval.spectral_shape else _embedded(space, out, system, clips)
            )
            of_sources = rows if of_sources is None else of_sources
            if not np.isfinite(of_sources).all(axis=1).any():
                raise ValueError("every clip is silent: nothing can be retrieved")
            per_clip[system.key].update(_retrieval(space, of_sources, rows, durations, options, chance, system))
            if progress:
                progress(f"retrieval, {space.label}", done, len(systems))

    drawn = (options.seed, options.bootstrap_draws, options.level)
    figures = {key: {name: mean_interval(v, *drawn) for name, v in values.items()} for key, values in per_clip.items()}
    medians = {
        system.key: {"si_sdr": median_interval(per_clip[system.key]["si_sdr"], *drawn).to_json()}
        for system in systems
        if system.kind in WAVEFORM_KINDS
    }
    profiles = {
        s.key: [bands.BandProfile(m.snr, m.energy_ratio) for m in measures[s.key]]
        for s in systems
        if s.kind not in ("source", "control")
    }
    records = _clip_records(measures, systems, clips, parts, delays, options)
    if len(systems) > 1:
        kept = Path(cache) if cache else out / "features"
        embedded = [
            embed_systems(extractor, source, clips, systems, out, kept, padded=options.padded, progress=progress)
            for extractor, source in embeddings
        ]
        records += distance_records(
            [*embedded, shape_space(shapes)],
            systems,
            [clip.name for clip in clips],
            parts,
            options=options.distances,
            similarity_draws=options.bootstrap_draws,
            level=options.level,
            seed=options.seed,
            kept=out / "distances",
            workers=workers,
            progress=progress,
        )
    set_of_clip = [part.name for part in sets for _ in part.clips]
    scores = {
        "format": FORMAT,
        "options": {**options.to_json(), "number_of_clips": len(clips)},
        "sets": [part.to_json() for part in sets],
        "clips": [
            {"name": c.name, "seconds": c.seconds, "caption": c.caption, "set": part}
            for c, part in zip(clips, set_of_clip, strict=True)
        ],
        "clips_fingerprint": clips_fingerprint(clips),
        "systems": [
            {
                **s.facts(),
                "clipped": decoded[s.key].clipped,
                "short": decoded[s.key].short,
                "delay": delays.get(s.key, 0),
            }
            for s in systems
        ],
        "metrics": [asdict(metric) for metric in metrics],
        "chance": chance,
        "figures": {key: {n: v.to_json() for n, v in row.items()} for key, row in figures.items()},
        "medians": medians,
        "bands": bands.band_scores(profiles, *drawn),
        "per_clip": {key: {n: _listed(v) for n, v in row.items()} for key, row in per_clip.items()},
        "paired": paired_comparisons(systems, per_clip, metrics, *drawn),
        "paired_losses": paired_losses(models or {}),
        "models": {name: dict(facts) for name, facts in (models or {}).items()},
        "records": records,
    }
    write_json(out / SCORES, scores)
    write_tables(out, scores)
    return scores


def write_tables(out: Path, scores: Mapping) -> None:
    """Writes OUT/table.md, OUT/table.tex and OUT/plots from scores."""
    texts = [text for text in (markdown_table(scores), markdown_records(scores), gain_markdown(scores)) if text]
    (out / TABLE).write_text("\n".join(texts), encoding="utf-8")
    if record_tables(scores):
        from spresso_jax.evaluate.latex_tables import latex_document
        from spresso_jax.evaluate.score_plots import write_plots

        (out / TEX).write_text(latex_document(scores), encoding="utf-8")
        write_plots(scores, out / PLOTS)


def _parts(sets: Sequence[ClipSet], clips: Sequence[Clip]) -> dict[str, np.ndarray]:
    """Name of a set -> indices of its clips, "union" last; of a single set the union alone, which it is."""
    sizes = [len(part.clips) for part in sets]
    if sum(sizes) != len(clips):
        raise ValueError(f"the sets hold {sum(sizes)} clips, {len(clips)} were given: join them with test_sets.joined")
    everything = {UNION: np.arange(len(clips))}
    if len(sets) == 1:
        return everything
    return {part.name: r for part, r in zip(sets, np.split(everything[UNION], np.cumsum(sizes)[:-1]), strict=True)} | (
        everything
    )


def _clip_records(
    measures: Mapping[str, Sequence[ClipMeasures]],
    systems: Sequence[System],
    clips: Sequence[Clip],
    parts: Mapping[str, np.ndarray],
    delays: Mapping[str, int],
    options: Options,
) -> list[dict]:
    drawn = {"seed": options.seed, "draws": options.bootstrap_draws, "level": options.level}
    records = []
    for system in systems:
        if system.kind == "source":
            continue
        searched = {"max_delay": options.max_delay if system.key in delays else 0, "delay": delays.get(system.key, 0)}
        for part, indices in parts.items():
            chosen = [measures[system.key][i] for i in indices]
            for score in clip_records(chosen, [clips[i].name for i in indices], **searched, **drawn):
                records.append({"system": system.key, "set": part, **score.to_json()})
    return records


def _embedded(space: Space, out: Path, system: System, clips: Sequence[Clip]) -> np.ndarray:
    """[C, D] rows of one system in a space that needs the audio; nan where it is silent."""
    audio = [read_decoded(out, system.key, clips, i) for i in range(len(clips))]
    try:
        return retrieval.embed_all(audio, space.embed)
    except ValueError:  # a system that gives silence for every clip retrieves nothing, and that is its score
        return np.full((len(clips), 1), np.nan)


def _retrieval(
    space: Space,
    of_sources: np.ndarray,
    of_decoded: np.ndarray,
    durations: Sequence[float],
    options: Options,
    chance: dict[str, dict],
    system: System,
) -> dict[str, np.ndarray]:
    if of_decoded.shape != of_sources.shape:
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
