"""Reconstruction diversity: how far several decodes of one code lie apart, by frame rate, with its two yardsticks.

Every clip is decoded several times with other seeds. Its diversity is the mean distance between the pairs of its
decodes. Zero says that the decoder always gives the same sound; the distance between decodes of different clips says
that the code has told it nothing. The distance of the decodes from their own source stands beside it: a decoder can
be diverse because it is free, or because it is bad.

Source: S-PRESSO 5, "Reconstruction diversity", which states more diversity at low frame rates and gives no figure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.evaluate.bootstrap import DRAWS, LEVEL, Interval, mean_interval, paired_interval, statistic_interval
from spresso_jax.evaluate.decoded import Clip, System, clips_fingerprint, decode_all, read_decoded
from spresso_jax.evaluate.reconstruction import log_mels

LEAST_DRAWS = 2
MEL = "mel distance"
_SEED_STEP = 1_000_003
Progress = Callable[[str, int, int], None]
# Decodes of one clip and one more: [K, S] arrays -> rows that `distance` compares.
Represent = Callable[[Sequence[np.ndarray]], Sequence[Any]]


@dataclass(frozen=True)
class Measure:
    """A distance between two sounds.

    Attributes:
      name: as printed, with its embedding: "cosine distance[aisfx]".
      represent: sounds [S] -> what is compared, one each.
      distance: of two of these; nan where a sound has none (silence in an embedding).
      facts: what a record says of it.
    """

    name: str
    represent: Represent
    distance: Callable[[Any, Any], float]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """One operating point with its draws.

    Attributes:
      key, label, kind, frame_rate, kbps, codebooks: of the point, as `decoded.System`.
      draws: the same point with K seeds.
    """

    key: str
    label: str
    kind: str
    frame_rate: float
    kbps: float | None
    codebooks: int | None
    draws: tuple[System, ...]


@dataclass(frozen=True)
class Diversity:
    """One operating point in one measure; every interval is over clips.

    Attributes:
      within: mean distance between the decodes of one clip.
      between: mean distance between decodes of different clips.
      to_source: mean distance between a decode and its source.
      share: within over between, 0 for no freedom and 1 for no information.
      per_clip: the values of `within`, [N].
    """

    point: Drawn
    measure: str
    within: Interval
    between: Interval
    to_source: Interval
    share: Interval
    per_clip: np.ndarray


def mel_measure() -> Measure:
    """Multi-scale log-mel distance, as `reconstruction.multi_scale_mel_distance`; of two lengths, over the shorter one."""

    def distance(first: list[np.ndarray], second: list[np.ndarray]) -> float:
        frames = [min(len(a), len(b)) for a, b in zip(first, second, strict=True)]
        scales = zip(frames, first, second, strict=True)
        return float(sum(np.abs(a[:n] - b[:n]).mean() for n, a, b in scales))

    return Measure(
        MEL, lambda sounds: [log_mels(sound) for sound in sounds], distance, {"different_lengths": "shorter"}
    )


def embedding_measure(name: str, embed: Represent, facts: Mapping[str, Any] | None = None) -> Measure:
    """One minus the cosine of two embeddings.

    Args:
      name: of the embedding.
      embed: sounds [S] -> one vector [D] each.
      facts: of the embedding.
    """

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        norm = float(np.linalg.norm(first) * np.linalg.norm(second))
        return 1.0 - float(np.dot(first, second)) / norm if norm > 0.0 and math.isfinite(norm) else math.nan

    return Measure(f"cosine distance[{name}]", embed, distance, facts or {})


def drawn_points(make_systems: Callable[[int], Sequence[System]], draws: int, seed: int = 0) -> list[Drawn]:
    """The operating points of a model, each with `draws` seeds.

    Args:
      make_systems: seed -> systems, as `systems.codec_systems` gives them.
      draws: K.
      seed: of the first draw; the others are far enough away that clips share none.

    Raises:
      ValueError: for fewer than two draws.
    """
    if draws < LEAST_DRAWS:
        raise ValueError(f"diversity is a distance between draws: at least {LEAST_DRAWS} are needed, got {draws}")
    columns = [make_systems(seed + _SEED_STEP * draw) for draw in range(draws)]
    points = []
    for systems in zip(*columns, strict=True):
        first = systems[0]
        own = tuple(replace(system, key=f"{system.key}.draw{draw}") for draw, system in enumerate(systems))
        points.append(Drawn(first.key, first.label, first.kind, first.frame_rate, first.kbps, first.codebooks, own))
    return points


def measure_diversity(
    clips: Sequence[Clip],
    points: Sequence[Drawn],
    measures: Sequence[Measure],
    out: Path,
    *,
    partners: int = 4,
    seed: int = 0,
    bootstrap_draws: int = DRAWS,
    level: float = LEVEL,
    progress: Progress | None = None,
) -> list[Diversity]:
    """Decodes (or finds) every draw of every clip in OUT/audio and measures it.

    Args:
      clips: at least two.
      points: operating points with their draws.
      measures: distances.
      out: folder for the decoded sounds; a stopped run goes on.
      partners: other clips, drawn with `seed`, that the first decode of a clip is compared with; all there are if fewer.
      seed: of partners and bootstrap.
      bootstrap_draws, level: of the intervals.
      progress: called with (what, done, total).

    Returns:
      One entry for every point and measure, points in the given order.

    Raises:
      ValueError: fewer than two clips, two with one name, or two points with one key.
    """
    if len(clips) < 2:
        raise ValueError(
            f"diversity is compared with the distance between clips: at least 2 are needed, got {len(clips)}"
        )
    for what, names in (
        ("clips", [clip.name for clip in clips]),
        ("operating points", [point.key for point in points]),
    ):
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two {what} are called {twice!r}: give one of them")
    for point in points:
        for system in point.draws:
            decode_all(clips, system, out, progress)
    others = _partners(len(clips), min(partners, len(clips) - 1), seed)
    found = []
    for point in points:
        values = {measure.name: np.full((3, len(clips)), np.nan) for measure in measures}
        for i, clip in enumerate(clips):
            decoded = [read_decoded(out, system.key, clips, i) for system in point.draws]
            strangers = [read_decoded(out, point.draws[0].key, clips, j) for j in others[i]]
            for measure in measures:
                values[measure.name][:, i] = _of_clip(measure, clip.audio, decoded, strangers)
            if progress:
                progress(f"distances, {point.label}", i + 1, len(clips))
        for measure in measures:
            found.append(_diversity(point, measure.name, values[measure.name], (seed, bootstrap_draws, level)))
    return found


def neighbours(found: Sequence[Diversity], seed: int = 0, level: float = LEVEL) -> list[dict[str, Any]]:
    """Each frame rate of continuous embeddings against the next higher one, paired by clip: what the paper says rises.

    Returns:
      Dictionaries of measure, lower, higher (Hz) and difference (an `Interval`, positive where the lower rate is more diverse).
    """
    pairs = []
    for name in dict.fromkeys(d.measure for d in found):
        line = sorted((d for d in found if d.measure == name and d.point.kind == "continuous"), key=_rate)
        for low, high in itertools.pairwise(line):
            if low.point.frame_rate < high.point.frame_rate:
                difference = paired_interval(low.per_clip, high.per_clip, seed, level=level)
                pairs.append(
                    {"measure": name, "lower": _rate(low), "higher": _rate(high), "difference": difference}
                )  # fmt: skip
    return pairs


def record(
    clips: Sequence[Clip], found: Sequence[Diversity], measures: Sequence[Measure], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything in plain JSON types."""
    rows = []
    for d in found:
        facts = {k: v for k, v in asdict(d.point).items() if k != "draws"} | {"draws": len(d.point.draws)}
        figures = {name: getattr(d, name).to_json() for name in ("within", "between", "to_source", "share")}
        per_clip = [float(f"{v:.6g}") if math.isfinite(v) else None for v in d.per_clip]
        rows.append({**facts, "measure": d.measure, **figures, "within_per_clip": per_clip})
    told = [{**pair, "difference": pair["difference"].to_json()} for pair in neighbours(found)]
    return {
        "format": 1,
        "clips": [{"name": clip.name, "seconds": clip.seconds} for clip in clips],
        "clips_fingerprint": clips_fingerprint(clips),
        "measures": {measure.name: dict(measure.facts) for measure in measures},
        "options": dict(options),
        "rows": rows,
        "lower_against_higher_frame_rate": told,
    }


def _of_clip(
    measure: Measure, source: np.ndarray, decoded: Sequence[np.ndarray], strangers: Sequence[np.ndarray]
) -> tuple[float, float, float]:
    """Distances (within, between, to the source) of one clip, each a mean over its pairs."""
    seen = measure.represent([*decoded, source, *strangers])
    own, original, foreign = seen[: len(decoded)], seen[len(decoded)], seen[len(decoded) + 1 :]
    within = [measure.distance(a, b) for a, b in itertools.combinations(own, 2)]
    between = [measure.distance(own[0], other) for other in foreign]
    to_source = [measure.distance(a, original) for a in own]
    return tuple(float(np.mean(values)) for values in (within, between, to_source))


def _diversity(point: Drawn, name: str, values: np.ndarray, drawn: tuple[int, int, float]) -> Diversity:
    within, between, to_source = (mean_interval(row, *drawn) for row in values)
    usable = values[:2, np.isfinite(values[:2]).all(axis=0)]
    share = Interval(math.nan, math.nan, math.nan, 0, values.shape[1])
    if usable.shape[1] and usable[1].mean() > 0.0:

        def ratio(rows: np.ndarray) -> float:
            below = usable[1, rows].mean()
            return usable[0, rows].mean() / below if below > 0.0 else math.nan

        share = replace(statistic_interval(ratio, usable.shape[1], *drawn), left_out=values.shape[1] - usable.shape[1])
    return Diversity(point, name, within, between, to_source, share, values[0])


def _partners(count: int, partners: int, seed: int) -> list[np.ndarray]:
    """For every clip the indices of other ones, none twice."""
    rng = np.random.default_rng(seed)
    return [np.delete(np.arange(count), i)[rng.permutation(count - 1)[:partners]] for i in range(count)]


def _rate(d: Diversity) -> float:
    return d.point.frame_rate
