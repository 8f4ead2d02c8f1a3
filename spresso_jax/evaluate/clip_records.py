"""Records of the measures that compare a clip with its own source, for any part of the clips."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spresso_jax.evaluate import bootstrap
from spresso_jax.evaluate.clip_measures import ClipMeasures
from spresso_jax.evaluate.reconstruction import DAC_MEL_SCALES, MAGNITUDE_FLOOR, si_sdr_record
from spresso_jax.evaluate.score import Score

LENGTH = "the clip's own length, padding excluded"
LSD_OPTIONS = {"n_fft": 2048, "hop": 512, "floor_db_below_loudest": 80}
MEL_OPTIONS = {"scales": [list(scale) for scale in DAC_MEL_SCALES], "floor": MAGNITUDE_FLOOR}


def clip_records(
    measures: Sequence[ClipMeasures],
    names: Sequence[str],
    *,
    max_delay: int = 0,
    delay: int = 0,
    seed: int = 0,
    draws: int = bootstrap.DRAWS,
    level: float = bootstrap.LEVEL,
) -> list[Score]:
    """SI-SDR, mel distance and log-spectral distance over these clips, every clip left out by name.

    Args:
      measures: N, of one system.
      names: N clip names.
      max_delay, delay: samples searched and removed before SI-SDR.
    """
    # A clip without a reference to compare with is left out of SI-SDR; it is not a silent estimate as well.
    silent = [n for n, m in zip(names, measures, strict=True) if m.silent and math.isfinite(m.si_sdr)]
    si_sdr = si_sdr_record(
        np.array([m.si_sdr for m in measures]),
        names,
        silent,
        max_delay=max_delay,
        delay=delay,
        draws=draws,
        level=level,
        seed=seed,
    )
    si_sdr = with_audio(si_sdr, LENGTH)
    scores = [si_sdr]
    for metric, attribute, options in (
        ("mel distance", "mel", MEL_OPTIONS),
        ("log-spectral distance", "lsd", LSD_OPTIONS),
    ):
        values = np.array([getattr(m, attribute) for m in measures])
        interval = bootstrap.mean_interval(values, seed, draws, level)
        drawn = {"draws": draws, "level": level, "seed": seed, "unit": "clip", "kind": "percentile"}
        scores.append(
            Score(
                metric=metric,
                value=interval.mean,
                low=interval.low,
                high=interval.high,
                options={"statistic": "mean over clips", **options, "audio": LENGTH, "bootstrap": drawn},
                counts={"clips": interval.count},
                exclusions={
                    "silent reference": [n for n, v in zip(names, values, strict=True) if not math.isfinite(v)]
                },
                details={"median": interval.median},
            )
        )
    return scores


def with_audio(score: Score, audio: str | dict) -> Score:
    """The score with what its audio was among its options."""
    import dataclasses

    return dataclasses.replace(score, options={**score.options, "audio": audio})
