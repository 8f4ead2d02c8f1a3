"""Records of the measures that live in an embedding: FAD, its extrapolations, KAD, and the similarity of paired clips.

Each function leaves out clips whose embedding is not finite and says which, draws and permutes whole clips, and writes
down all that could change its number.

Source: S-PRESSO 4.3; `frechet_distance`, `kernel_distance` and `sample_size` name theirs.
"""

from __future__ import annotations

import numpy as np

from spresso_jax.evaluate import kernel_resampling
from spresso_jax.evaluate.bootstrap import DRAWS, LEVEL, mean_interval, statistic_interval
from spresso_jax.evaluate.embedded_set import EmbeddedSet, usable
from spresso_jax.evaluate.frechet_distance import frechet_distance, frechet_parts, gaussian
from spresso_jax.evaluate.kernel_distance import SCALE, Kernel, kernel_means, median_distance
from spresso_jax.evaluate.sample_size import (
    TOOLKIT_LEAST,
    TOOLKIT_STEPS,
    toolkit_extrapolation,
    two_sided_extrapolation,
)
from spresso_jax.evaluate.score import EmbeddingSource, Score

FRECHET_DRAWS = 100
BANDWIDTHS_FROM = ("reference", "evaluation")


def fad_score(
    reference: EmbeddedSet,
    evaluation: EmbeddedSet,
    source: EmbeddingSource,
    *,
    paired: bool = False,
    draws: int = FRECHET_DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Score:
    """FAD of the sets as they are, biased upward by their finite size.

    Args:
      reference, evaluation: two clips at least, as many rows as there are.
      source: of the embeddings.
      paired: the evaluation's clips are made from the reference's, in the same order; draws then take the same clips from both.
      draws: of the clip bootstrap, 0 for no interval. Each costs one FAD.

    Raises:
      ValueError: as `usable`.
    """
    reference, evaluation, exclusions = usable(reference, evaluation, paired)
    parts = frechet_parts(reference.rows, evaluation.rows)
    low = high = np.nan
    if draws:
        interval = statistic_interval(
            lambda x, y: _frechet_of_clips(reference, evaluation, x, y),
            reference.clips if paired else (reference.clips, evaluation.clips),
            seed,
            draws,
            level,
            centred=True,
            paired=paired,
        )
        low, high = max(0.0, interval.low), interval.high
    return Score(
        metric="FAD",
        value=parts.distance,
        low=low,
        high=high,
        embedding=source,
        options={
            "estimator": "plug-in Gaussians, covariance by 1 / (n - 1), nuclear norm, float64, nothing added to the diagonal",
            "paired_draws": paired,
            "bootstrap": _bootstrap_options(draws, level, seed, "percentile, moved to the value: spread, not bias"),
        },
        counts=_counts(reference, evaluation),
        exclusions=exclusions,
        details={
            "mean_term": parts.mean_term,
            "trace_reference": parts.trace_reference,
            "trace_evaluation": parts.trace_evaluation,
            "trace_root": parts.trace_root,
        },
        notes=_few_rows(reference, evaluation),
    )


def fad_inf_score(
    reference: EmbeddedSet,
    evaluation: EmbeddedSet,
    source: EmbeddingSource,
    *,
    paired: bool = False,
    steps: int = TOOLKIT_STEPS,
    least: int = TOOLKIT_LEAST,
    seed: int = 0,
) -> Score:
    """FAD-inf as fadtk and kadtk compute it: rows, with replacement, of the evaluation alone; to compare with their numbers.

    Args:
      paired: a clip without a finite embedding leaves both sides. The draws do not change.

    Raises:
      ValueError: as `usable`, or if the evaluation has no more than `least` rows.
    """
    reference, evaluation, exclusions = usable(reference, evaluation, paired)
    whole = gaussian(reference.rows, "reference")
    line = toolkit_extrapolation(
        len(evaluation.rows),
        lambda rows: frechet_distance(whole, gaussian(evaluation.rows, "evaluation", rows)),
        steps=steps,
        least=least,
        seed=seed,
    )
    return Score(
        metric="FAD-inf",
        value=line.intercept,
        embedding=source,
        options={
            "estimator": "line over 1 / n, toolkits' form",
            "drawn": "rows of the evaluation, with replacement, NumPy's legacy generator",
            "steps": steps,
            "least": least,
            "seed": seed,
        },
        counts=_counts(reference, evaluation),
        exclusions=exclusions,
        details={"slope": line.slope, "r2": line.r2},
        notes=[
            "bias of the reference set, and of the finite evaluation set that rows are drawn from, remains",
            *_few_rows(reference, evaluation),
        ],
    )


def fad_two_sided_score(
    reference: EmbeddedSet,
    evaluation: EmbeddedSet,
    source: EmbeddingSource,
    *,
    paired: bool = False,
    steps: int = 8,
    draws: int = 4,
    least: int | None = None,
    interval_draws: int = 0,
    level: float = LEVEL,
    seed: int = 0,
) -> Score:
    """FAD at infinitely many clips, estimated with both sets reduced alike; `two_sided_extrapolation` explains the arguments.

    Raises:
      ValueError: as `usable` and `two_sided_extrapolation`.
    """
    reference, evaluation, exclusions = usable(reference, evaluation, paired)
    line = two_sided_extrapolation(
        reference.clips,
        evaluation.clips,
        lambda x, y: _frechet_of_clips(reference, evaluation, x, y),
        steps=steps,
        draws=draws,
        least=least,
        paired=paired,
        seed=seed,
        interval_draws=interval_draws,
        level=level,
    )
    interval = line.interval
    return Score(
        metric="FAD-inf-two-sided",
        value=line.intercept,
        low=np.nan if interval is None else interval.low,
        high=np.nan if interval is None else interval.high,
        embedding=source,
        options={
            "estimator": "line over 1 / n, both sets reduced",
            "drawn": "clips without replacement, "
            + ("the same on both sides" if paired else "independent on both sides"),
            "sizes": [n for n, _ in line.points],
            "draws": draws,
            "seed": seed,
            "bootstrap": _bootstrap_options(
                interval_draws, level, seed, "percentile, moved to the value: spread, not bias"
            ),
        },
        counts=_counts(reference, evaluation),
        exclusions=exclusions,
        details={"slope": line.slope, "r2": line.r2, "at_most_clips": line.points[-1][1]},
        notes=_few_rows(reference, evaluation),
    )


def kad_scores(
    reference: EmbeddedSet,
    evaluation: EmbeddedSet,
    source: EmbeddingSource,
    *,
    paired: bool = False,
    scale: float = SCALE,
    bandwidth_from: str = "reference",
    bandwidth: float | None = None,
    kind: str = "gaussian",
    precision: str = "float64",
    draws: int = kernel_resampling.BOOTSTRAP_DRAWS,
    permutations: int = kernel_resampling.PERMUTATIONS,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Score]:
    """KAD as the toolkit defines it and, for paired sets, the paired statistic beside it.

    Args:
      paired: the evaluation's clips are made from the reference's, in the same order.
      scale: 100 in kadtk since 1.0.0, 1000 before.
      bandwidth_from: whose median distance is the bandwidth: "reference" (as kadtk's documentation says), or "evaluation" (as its
        code does), with which every system is measured by another yardstick.
      bandwidth: a fixed one instead.
      kind, precision: see `Kernel`.
      draws: of the clip bootstrap, 0 for none. Costs as much as the distance itself in an embedding of twice so many
        dimensions: take fewer for tens of thousands of rows.
      permutations: of the test "differs from the reference", 0 for none; of the same cost.

    Raises:
      ValueError: as `usable` and `Kernel`, or for an unknown `bandwidth_from`.
    """
    if bandwidth_from not in BANDWIDTHS_FROM:
        raise ValueError(f"bandwidth_from must be one of {BANDWIDTHS_FROM}, got {bandwidth_from!r}")
    reference, evaluation, exclusions = usable(reference, evaluation, paired)
    chosen, squares = {"from": "fixed", "value": bandwidth}, {}
    if bandwidth is None:
        side = reference if bandwidth_from == "reference" else evaluation
        median = median_distance(side.rows, seed=seed, role=bandwidth_from)
        squares[f"{bandwidth_from}_squares"] = median.squares
        pairs = "all" if median.pairs is None else {"random": median.pairs, "seed": median.seed}
        chosen = {"from": bandwidth_from, "statistic": "lower median, float32", "value": median.value, "pairs": pairs}
    kernel = Kernel(chosen["value"], kind, precision)
    means = kernel_means(reference.rows, evaluation.rows, kernel, paired=paired, **squares)
    options = {
        "scale": scale,
        "kernel": kind,
        "bandwidth": chosen,
        "precision": precision,
        "bootstrap": _bootstrap_options(draws, level, seed, "percentile, pairs of copies left out, bandwidth held"),
        "permutation": {"permutations": 0},
    }
    details: dict[str, float] = {}
    if permutations:
        test = kernel_resampling.permutation_test(
            reference, evaluation, paired=paired, kind=kind, permutations=permutations, seed=seed
        )
        how = "x_i and y_i of a clip swapped" if paired else "clips dealt anew to the sides"
        options["permutation"] = {"permutations": permutations, "seed": seed, "how": how, "bandwidth": test.bandwidth}
        details["p_value"] = test.p_value
    scores = []
    for metric, value, estimator in (
        ("KAD", means.unbiased, "diagonals of the two sets left out (the toolkit's)"),
        ("KAD-paired", means.paired, "all three diagonals left out"),
    ):
        if metric == "KAD-paired" and not paired:
            continue
        low = high = np.nan
        if draws:
            low, high = kernel_resampling.bootstrap_interval(
                reference,
                evaluation,
                kernel,
                paired=paired,
                own_partners=metric == "KAD",
                draws=draws,
                level=level,
                seed=seed,
            )
        notes = []
        if metric == "KAD" and paired:
            notes.append("paired sets: lowered by the terms k(x_i, y_i); KAD-paired is without them")
        if kind != "gaussian" or bandwidth is not None or scale != SCALE:
            notes.append("not kadtk's default kernel, bandwidth or scale")
        scores.append(
            Score(
                metric=metric,
                value=scale * value,
                low=scale * low,
                high=scale * high,
                embedding=source,
                options={"estimator": estimator, **options},
                counts=_counts(reference, evaluation),
                exclusions=exclusions,
                details={**details, "biased": scale * means.biased},
                notes=notes,
            )
        )
    return scores


def similarity_score(
    reference: EmbeddedSet,
    evaluation: EmbeddedSet,
    source: EmbeddingSource,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[Score, dict[str, float]]:
    """Mean cosine of each clip with its own source, with the floor that unrelated pairs of the same sets reach.

    Several rows of a clip are compared one by one and averaged per clip.

    Returns:
      (record, clip name -> cosine).

    Raises:
      ValueError: as `usable`.
    """
    reference, evaluation, exclusions = usable(reference, evaluation, paired=True)
    norms = [np.linalg.norm(side.rows.astype(np.float64), axis=1) for side in (reference, evaluation)]
    if any(np.any(norm == 0.0) for norm in norms):
        bad = next(int(np.flatnonzero(norm == 0.0)[0]) for norm in norms if np.any(norm == 0.0))
        name = reference.names[reference.clip_of_row[bad]]
        raise ValueError(f"clip {name!r} has an embedding of zeros, which has no direction: leave it out and count it")
    x, y = (side.rows / norm[:, None] for side, norm in zip((reference, evaluation), norms, strict=True))
    by_clip = [np.add.reduceat(rows, reference.starts[:-1]) / reference.counts[:, None] for rows in (x, y)]
    cosines = np.add.reduceat(np.sum(x * y, axis=1), reference.starts[:-1]) / reference.counts
    # Mean over all ordered pairs of different clips, exactly: the sum over all pairs less that over equal ones.
    related = np.sum(by_clip[0] * by_clip[1], axis=1)
    clips = reference.clips
    floor = (by_clip[0].sum(axis=0) @ by_clip[1].sum(axis=0) - related.sum()) / (clips * (clips - 1))
    interval = mean_interval(cosines, seed, draws, level)
    score = Score(
        metric="similarity",
        value=interval.mean,
        low=interval.low,
        high=interval.high,
        embedding=source,
        options={
            "statistic": "mean over clips of the cosine with the own source",
            "rows": "one by one, averaged per clip",
            "floor": "all pairs of different clips",
            "bootstrap": _bootstrap_options(draws, level, seed, "percentile"),
        },
        counts=_counts(reference, evaluation),
        exclusions=exclusions,
        details={"median": interval.median, "floor": float(floor)},
    )
    return score, dict(zip(reference.names, cosines.tolist(), strict=True))


def _frechet_of_clips(reference: EmbeddedSet, evaluation: EmbeddedSet, x: np.ndarray, y: np.ndarray) -> float:
    """FAD of the clips of these indices, repetitions included."""
    return frechet_distance(
        gaussian(reference.rows, "reference", reference.row_indices(x)),
        gaussian(evaluation.rows, "evaluation", evaluation.row_indices(y)),
    )


def _counts(reference: EmbeddedSet, evaluation: EmbeddedSet) -> dict[str, int]:
    return {
        "reference_clips": reference.clips,
        "reference_rows": len(reference.rows),
        "evaluation_clips": evaluation.clips,
        "evaluation_rows": len(evaluation.rows),
        "dimensions": reference.width,
    }


def _few_rows(*sets: EmbeddedSet) -> list[str]:
    return [
        f"{side.role}: {len(side.rows)} rows in {side.width} dimensions: the covariance is singular and the bias large; compare "
        "only sets of equal size"
        for side in sets
        if len(side.rows) <= side.width
    ]


def _bootstrap_options(draws: int, level: float, seed: int, kind: str) -> dict:
    return {"draws": draws, "level": level, "seed": seed, "unit": "clip", "kind": kind} if draws else {"draws": 0}
