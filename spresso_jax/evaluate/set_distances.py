"""Distances between the sets of all systems and the references, in every embedding, for each test set and for all clips.

The rows of a system are embedded once (`features/cache.py` keeps them); the distances of a pair of sets are kept in
OUT/distances under a hash of the rows and of everything that changes the result.

Clips are zero-padded to 5.000 s before they are embedded, as the paper's are: the padding is then part of what is
compared. The log-mel shape looks at the sounding part alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.checkpoints.fingerprint import json_sha256
from spresso_jax.evaluate import distribution_scores as scores_of
from spresso_jax.evaluate.bootstrap import DRAWS, LEVEL
from spresso_jax.evaluate.clip_records import with_audio
from spresso_jax.evaluate.decoded import Clip, System, fit_length, read_decoded, read_json, write_json
from spresso_jax.evaluate.embedded_set import EmbeddedSet
from spresso_jax.evaluate.features.cache import cached_rows
from spresso_jax.evaluate.features.extractor import Extractor
from spresso_jax.evaluate.retrieval import (
    ACTIVE_DB,
    ALIGNED_RMS,
    MEL_BANDS,
    MEL_FFT,
    MEL_HOP,
    MEL_RANGE,
    SHAPE_FLOOR_DB,
)
from spresso_jax.evaluate.score import EmbeddingSource, Score
from spresso_jax.evaluate.worker_pool import in_order
from spresso_jax.shapes import CLIP_SAMPLES

VERSION = 1
# Fewer rows are compared sooner than processes start.
LEAST_ROWS = 4000
_SHAPE = {"n_fft": MEL_FFT, "hop": MEL_HOP, "bands": MEL_BANDS, "range_hz": list(MEL_RANGE), "active_db": ACTIVE_DB,
          "rms": ALIGNED_RMS, "floor_db": SHAPE_FLOOR_DB, "statistic": "mean and deviation over time"}  # fmt: skip
SHAPE_SOURCE = EmbeddingSource("mel-shape", "log-mel statistics, no network", json_sha256(_SHAPE)[:16])
SHAPE_AUDIO = {"part": "sounding part of the clip, levels aligned", "padded_to_seconds": None, **_SHAPE}
NO_DIRECTION = "embedding of zeros"


@dataclass(frozen=True)
class DistanceOptions:
    """Draws of the distances: each moves an interval or a p value, none a distance.

    Attributes:
      fad_draws: bootstrap draws of FAD; each costs one FAD.
      kad_draws, permutations: of KAD.
      fad_inf: also estimate FAD at infinitely many clips, both ways (tens of FADs each).
      bandwidth_from: of KAD, "reference" or "evaluation" (kadtk's code).
    """

    fad_draws: int = 40
    kad_draws: int = 200
    permutations: int = 199
    fad_inf: bool = False
    bandwidth_from: str = "reference"


@dataclass(frozen=True)
class Embedded:
    """All systems' clips in one embedding.

    Attributes:
      source: of the embedding.
      rows: key of a system ("source" among them) -> rows [R, D], those of a clip together.
      counts: key -> [C] rows of each clip.
      similarity: the embedding's cosines mean something.
      audio: what was embedded, recorded with every score.
    """

    source: EmbeddingSource
    rows: Mapping[str, np.ndarray]
    counts: Mapping[str, np.ndarray]
    similarity: bool
    audio: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DistanceTask:
    """One system, test set and embedding."""

    reference: EmbeddedSet
    evaluation: EmbeddedSet
    source: EmbeddingSource
    similarity: bool
    audio: Mapping[str, Any]
    options: DistanceOptions
    similarity_draws: int
    level: float
    seed: int
    kept: Path | None


def embed_systems(
    extractor: Extractor,
    source: EmbeddingSource,
    clips: Sequence[Clip],
    systems: Sequence[System],
    out: Path,
    cache: Path,
    *,
    padded: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> Embedded:
    """Rows of every system's decoded clips.

    Args:
      padded: zero-pad every clip to 5.000 s first; False embeds its own length.
    """
    rows, counts, short = {}, {}, 0

    def told(system: System) -> Callable[[str, int, int], None] | None:
        return progress and (lambda name, done, total: progress(f"{source.name}, {system.label}", done, total))

    for system in systems:
        audio = [read_decoded(out, system.key, clips, i) for i in range(len(clips))]
        if padded:
            audio = [a if a.size >= CLIP_SAMPLES else fit_length(a, CLIP_SAMPLES) for a in audio]
        found = cached_rows(cache, extractor, audio, progress=told(system))
        rows[system.key], counts[system.key] = found.values, found.counts
        short = int(found.padded.sum())
    facts = {
        "part": "zero-padded to 5 s" if padded else "the clip's own length",
        "padded_to_seconds": CLIP_SAMPLES / 48_000 if padded else None,
        "clips_shorter_than_a_window": short,
        "embedding": extractor.to_json(),
    }
    return Embedded(source, rows, counts, True, facts)


def shape_space(shapes: Mapping[str, np.ndarray]) -> Embedded:
    """The log-mel shapes, key -> [C, 128] with nan for silent clips, as an embedding that needs no network."""
    ones = {key: np.ones(len(rows), np.int64) for key, rows in shapes.items()}
    return Embedded(SHAPE_SOURCE, shapes, ones, False, SHAPE_AUDIO)


def distance_records(
    spaces: Sequence[Embedded],
    systems: Sequence[System],
    names: Sequence[str],
    parts: Mapping[str, np.ndarray],
    *,
    options: DistanceOptions | None = None,
    similarity_draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
    kept: Path | None = None,
    workers: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[dict]:
    """FAD, KAD (toolkit and paired) and similarity of every system but the source, as {"system", "set", **score}.

    Args:
      spaces: embeddings.
      systems: the source among them.
      names: of all clips.
      parts: name of a set, or "union" -> indices of its clips.
      kept: folder of distances measured earlier.
    """
    options = options or DistanceOptions()
    compared = [system.key for system in systems if system.kind != "source"]
    places = [(space, key, part) for space in spaces for key in compared for part in parts]

    def tasks() -> Iterator[DistanceTask]:
        for space in spaces:
            of_space = (space.source, space.similarity, space.audio, options, similarity_draws, level, seed, kept)
            reference = EmbeddedSet.of(space.rows["source"], names, space.counts["source"], "reference")
            for key in compared:
                evaluation = EmbeddedSet.of(space.rows[key], names, space.counts[key], "evaluation")
                for clips in parts.values():
                    yield DistanceTask(reference.kept(clips), evaluation.kept(clips), *of_space)

    if kept:
        kept.mkdir(parents=True, exist_ok=True)
    records = []
    rows = sum(len(space.rows["source"]) for space, _, _ in places)
    for done, found in enumerate(in_order(distances, tasks(), workers if rows >= LEAST_ROWS else 1), start=1):
        _, key, part = places[done - 1]
        records += [{"system": key, "set": part, **facts} for facts in found]
        if progress:
            progress("distances of sets", done, len(places))
    return records


def distances(task: DistanceTask) -> list[dict]:
    """Scores of one task as JSON, new or kept; one that cannot be measured is nan and says why."""
    path = None if task.kept is None else task.kept / f"{_hash(task)}.json"
    if path is not None and path.is_file():
        return [Score.from_json(facts).to_json() for facts in read_json(path)["scores"]]
    chosen, common = task.options, {"paired": True, "seed": task.seed, "level": task.level}
    sides = (task.reference, task.evaluation, task.source)
    found = _attempt(("FAD",), task.source, lambda: scores_of.fad_score(*sides, draws=chosen.fad_draws, **common))
    if chosen.fad_inf:
        inf = {"paired": True, "seed": task.seed}
        found += _attempt(("FAD-inf",), task.source, lambda: scores_of.fad_inf_score(*sides, **inf))
        found += _attempt(("FAD-inf-two-sided",), task.source, lambda: scores_of.fad_two_sided_score(*sides, **inf))
    found += _attempt(
        ("KAD", "KAD-paired"),
        task.source,
        lambda: scores_of.kad_scores(
            *sides,
            bandwidth_from=chosen.bandwidth_from,
            draws=chosen.kad_draws,
            permutations=chosen.permutations,
            **common,
        ),
    )
    if task.similarity:
        found += _attempt(("similarity",), task.source, lambda: _similarity(task))
    facts = [with_audio(score, dict(task.audio)).to_json() for score in found]
    if path is not None:
        write_json(path, {"scores": facts})
    return facts


def _similarity(task: DistanceTask) -> Score:
    """Similarity without the clips that have no direction in the embedding; these are counted."""
    sides, gone = [], set()
    for side in (task.reference, task.evaluation):
        zero = np.logical_or.reduceat(~side.rows.any(axis=1), side.starts[:-1])
        gone |= set(np.flatnonzero(zero).tolist())
    left = np.array([i for i in range(task.reference.clips) if i not in gone], np.int64)
    if len(left) < 2:
        raise ValueError(f"{len(gone)} of {task.reference.clips} clips have an embedding of zeros, without a direction")
    sides = [side.kept(left) if gone else side for side in (task.reference, task.evaluation)]
    score, _ = scores_of.similarity_score(
        *sides, task.source, draws=task.similarity_draws, level=task.level, seed=task.seed
    )
    if not gone:
        return score
    names = [task.reference.names[i] for i in sorted(gone)]
    return dataclasses.replace(score, exclusions={**score.exclusions, NO_DIRECTION: names})


def _attempt(
    metrics: Sequence[str], source: EmbeddingSource, measure: Callable[[], Score | list[Score]]
) -> list[Score]:
    try:
        found = measure()
    except ValueError as error:
        return [Score(metric, math.nan, embedding=source, notes=[f"not measured: {error}"]) for metric in metrics]
    return found if isinstance(found, list) else [found]


def _hash(task: DistanceTask) -> str:
    """Of the rows and of all that changes the scores."""
    facts = {
        "version": VERSION,
        "source": vars(task.source),
        "similarity": task.similarity,
        "audio": dict(task.audio),
        "options": vars(task.options),
        "draws": [task.similarity_draws, task.level, task.seed],
    }
    digest = hashlib.sha256(json_sha256(facts).encode())
    for side in (task.reference, task.evaluation):
        digest.update(json_sha256([list(side.names), side.starts.tolist(), str(side.rows.dtype)]).encode())
        digest.update(np.ascontiguousarray(side.rows).tobytes())
    return digest.hexdigest()[:32]
