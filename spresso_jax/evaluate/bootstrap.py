"""Bootstrap intervals: every figure in a table says how many clips it rests on and how far it can be trusted.

Clips are drawn, never rows: several measurements of one clip (seeds, noise levels) are dependent and must be averaged
per clip first. Intervals are percentile intervals, of the mean or of the median.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13 (percentile interval).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

DRAWS = 2000
LEVEL = 0.95
_CHUNK_VALUES = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A statistic over clips with its bootstrap interval.

    Attributes:
      mean: the statistic itself (nan when no clip is left).
      low, high: ends of the interval.
      count: clips that entered.
      left_out: clips without a finite value (for instance silent references under SI-SDR).
      median: median over the clips that entered.
    """

    mean: float
    low: float
    high: float
    count: int
    left_out: int = 0
    median: float = math.nan

    def to_json(self) -> dict:
        """Plain dictionary in which nan becomes None, because JSON has no nan."""
        return {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, facts: dict) -> Interval:
        """Inverse of `to_json`."""
        return cls(**{k: (math.nan if v is None else v) for k, v in facts.items()})

    @property
    def clearly_positive(self) -> bool:
        """True when the whole interval lies above zero."""
        return self.low > 0.0

    @property
    def clearly_negative(self) -> bool:
        """True when the whole interval lies below zero."""
        return self.high < 0.0


def mean_interval(values: np.ndarray, seed: int = 0, draws: int = DRAWS, level: float = LEVEL) -> Interval:
    """Mean of one value per clip with its percentile bootstrap interval.

    Args:
      values: [N] one value per clip; entries that are not finite are left out and counted.
      seed: seed of the draws; the same values and seed give the same interval.
      draws: number of bootstrap draws.
      level: coverage, between 0 and 1.

    Raises:
      ValueError: if `values` is not one-dimensional, or `draws` or `level` make no sense.
    """
    return _over_clips(np.mean, values, seed, draws, level)


def median_interval(values: np.ndarray, seed: int = 0, draws: int = DRAWS, level: float = LEVEL) -> Interval:
    """Median of one value per clip with its percentile bootstrap interval; the field `mean` holds the median as well.

    Args and errors as `mean_interval`. For figures with a few clips far away, where a mean says little.
    """
    return _over_clips(np.median, values, seed, draws, level)


def _over_clips(
    statistic: Callable[..., np.ndarray], values: np.ndarray, seed: int, draws: int, level: float
) -> Interval:
    """Percentile interval of a NumPy reduction of one value per clip."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1:
        raise ValueError(f"values must hold one number per clip, got shape {values.shape}: average over repeats first")
    _check(draws, level)
    kept = values[np.isfinite(values)]
    left_out = values.size - kept.size
    if kept.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0, left_out)
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK_VALUES // kept.size)
    drawn = np.concatenate(
        [
            statistic(kept[rng.integers(0, kept.size, (min(rows, draws - start), kept.size))], axis=1)
            for start in range(0, draws, rows)
        ]
    )
    low, high = np.quantile(drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    whole, middle = float(statistic(kept)), float(np.median(kept))
    return Interval(whole, float(low), float(high), int(kept.size), int(left_out), middle)


def paired_interval(
    first: np.ndarray, second: np.ndarray, seed: int = 0, draws: int = DRAWS, level: float = LEVEL
) -> Interval:
    """Mean of `first - second` over the same clips, with its interval; far narrower than two separate intervals.

    Args:
      first, second: [N] one value per clip, in the same order of clips. A clip that lacks either value is left out.

    Raises:
      ValueError: if the two do not describe the same number of clips.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"a paired interval needs the same clips on both sides, got {first.shape} and {second.shape}")
    return mean_interval(first - second, seed, draws, level)


def statistic_interval(
    statistic: Callable[..., float],
    count: int | tuple[int, int],
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
    *,
    centred: bool = False,
    paired: bool = False,
) -> Interval:
    """Interval of any statistic of a set of clips, or of two sets.

    Args:
      statistic: function of an integer array [N] of clip indices (with repetitions) to a number; of two such arrays when
        `count` is a pair or `paired` is set.
      count: number of clips, or of the clips of two independent sets.
      centred: move the draws so that their mean is the statistic itself. For statistics such as the Frechet distance whose
        bias depends on how many different clips there are: a draw holds fewer of them than the set, so that the plain
        percentiles can lie wholly above the statistic. The interval then says how far it scatters, not how far it is off.
      paired: the two sets hold the same clips, and every draw takes the same ones from both.

    Raises:
      ValueError: if a count is smaller than 1, or `draws` or `level` make no sense.
    """
    counts = count if isinstance(count, tuple) else (count,)
    if min(counts) < 1 or (paired and len(counts) > 1):
        raise ValueError(f"count must be at least 1, and one number for paired sets, got {count}")
    _check(draws, level)
    rng = np.random.default_rng(seed)
    repeat = 2 if paired else 1
    value = float(statistic(*[np.arange(n) for n in counts] * repeat))
    drawn = np.array([statistic(*[rng.integers(0, n, n) for n in counts] * repeat) for _ in range(draws)], np.float64)
    if centred:
        drawn += value - np.nanmean(drawn)
    low, high = percentiles(drawn, level)
    return Interval(value, low, high, min(counts))


def percentiles(drawn: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Ends of the percentile interval of draws [B]; draws that are nan are left out."""
    low, high = np.nanquantile(drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _check(draws: int, level: float) -> None:
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
