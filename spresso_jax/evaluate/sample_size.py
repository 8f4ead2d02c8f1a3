"""Extrapolation of a score to infinitely many clips: as the toolkits do it, and with both sets reduced.

A Frechet distance of finite sets is too large by about c / n. The toolkits regress it on 1 / n over subsets of the
evaluation set, drawn WITH replacement: that converges to the score of the finite set itself, and the reference's part of
the bias stays. Drawing without replacement, equally many on both sides, removes most of both parts. Where evaluation
clips are reconstructions of the reference clips, the two errors are correlated, and the same clips must be drawn on both
sides.

Source: Chong and Forsyth, Effectively unbiased FID; Gui et al. (FAD-inf in fadtk); the two-sided form is our own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spresso_jax.evaluate.bootstrap import LEVEL, Interval, statistic_interval

TOOLKIT_STEPS = 25
TOOLKIT_LEAST = 500


@dataclass(frozen=True)
class Extrapolation:
    """A line score = intercept + slope / n.

    Attributes:
      intercept: the score at infinitely many clips.
      slope: c of the bias c / n.
      r2: share of the points' variance that the line explains.
      points: (n, score), one a step.
      interval: of the intercept, None when not asked for.
    """

    intercept: float
    slope: float
    r2: float
    points: tuple[tuple[int, float], ...]
    interval: Interval | None = None


def toolkit_extrapolation(
    count: int,
    score: Callable[[np.ndarray], float],
    *,
    steps: int = TOOLKIT_STEPS,
    least: int = TOOLKIT_LEAST,
    seed: int = 0,
    replace: bool = True,
) -> Extrapolation:
    """FAD-inf or KAD-inf as fadtk and kadtk compute it, number for number.

    Args:
      count: rows of the evaluation set.
      score: of the rows of these indices against the whole reference.
      steps: sizes n, evenly spaced from `least` to `count`, rounded down.
      seed: of NumPy's legacy generator, which the toolkits use.
      replace: False draws each row at most once (not what the toolkits do).

    Raises:
      ValueError: if `count` does not exceed `least`, or there are fewer than three steps.
    """
    _check_sizes(count, steps, least)
    generator = np.random.RandomState(seed)
    points = []
    for n in (int(n) for n in np.linspace(least, count, steps)):
        points.append((n, float(score(generator.choice(count, n, replace=replace)))))
    return _fitted(points)


def two_sided_extrapolation(
    reference_clips: int,
    evaluation_clips: int,
    score: Callable[[np.ndarray, np.ndarray], float],
    *,
    steps: int = 8,
    draws: int = 4,
    least: int | None = None,
    paired: bool = False,
    seed: int = 0,
    interval_draws: int = 0,
    level: float = LEVEL,
) -> Extrapolation:
    """Extrapolation with equally many clips of both sets, each at most once a draw.

    Args:
      reference_clips, evaluation_clips: clips on each side.
      score: (clip indices of the reference, of the evaluation) -> score.
      steps: sizes n, evenly spaced from `least` to the smaller set's number of clips.
      draws: draws a size, averaged; the whole of both sets is taken once.
      least: smallest n, a quarter of the smaller set when not given.
      paired: draw the same clips on both sides.
      interval_draws: bootstrap draws of clips, each of which repeats the whole extrapolation; 0 gives no interval. In a
        bootstrap set clips repeat and the curve ends at the score of the finite set, so the draws are moved to have the
        estimate as their mean: their spread is what they tell.
      level: coverage of the interval.

    Raises:
      ValueError: if the sizes make no sense, or paired sets have unequal numbers of clips.
    """
    if paired and reference_clips != evaluation_clips:
        raise ValueError(f"paired sets must have equally many clips, got {reference_clips} and {evaluation_clips}")
    most = min(reference_clips, evaluation_clips)
    least = max(2, most // 4) if least is None else least
    _check_sizes(most, steps, least)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    sizes = [int(n) for n in np.linspace(least, most, steps)]

    def line(first: np.ndarray, second: np.ndarray, generator: np.random.Generator) -> Extrapolation:
        points = []
        for n in sizes:
            whole = n == reference_clips == evaluation_clips
            scores = []
            for _ in range(1 if whole else draws):
                x = generator.permutation(reference_clips)[:n]
                y = x if paired else generator.permutation(evaluation_clips)[:n]
                scores.append(score(first[x], second[y]))
            points.append((n, float(np.mean(scores))))
        return _fitted(points)

    everything = (np.arange(reference_clips), np.arange(evaluation_clips))
    estimate = line(*everything, np.random.default_rng(seed))
    if interval_draws < 1:
        return estimate
    interval = statistic_interval(
        lambda x, y: line(x, y, np.random.default_rng(seed)).intercept,
        reference_clips if paired else (reference_clips, evaluation_clips),
        seed,
        interval_draws,
        level,
        centred=True,
        paired=paired,
    )
    return Extrapolation(estimate.intercept, estimate.slope, estimate.r2, estimate.points, interval)


def _fitted(points: list[tuple[int, float]]) -> Extrapolation:
    """Least squares over 1 / n."""
    inverse = 1.0 / np.array([n for n, _ in points], np.float64)
    scores = np.array([value for _, value in points], np.float64)
    slope, intercept = np.polyfit(inverse, scores, 1)
    variance = np.sum((scores - scores.mean()) ** 2)
    rest = np.sum((scores - slope * inverse - intercept) ** 2)
    r2 = 1.0 - rest / variance if variance > 0.0 else 1.0
    return Extrapolation(float(intercept), float(slope), float(r2), tuple(points))


def _check_sizes(count: int, steps: int, least: int) -> None:
    if steps < 3 or least < 2:
        raise ValueError(f"an extrapolation needs at least 3 steps and sets of at least 2, got {steps} and {least}")
    if count <= least:
        raise ValueError(
            f"the smallest of the sets is to hold {least}, so that the whole must hold more than {least}, got {count}: "
            "give more clips, or a smaller `least`"
        )
