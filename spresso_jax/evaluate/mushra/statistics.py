"""Statistics of a listening test: post-screening, summaries with intervals, rank tests, mixed model.

Source: ITU-R BS.1534-3 as told in evaluation.md 7.3 and 7.4. Ratings of one listener depend on each other, so intervals
and tests use listener means; the interval over raw ratings is too narrow and is given under its own name only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from spresso_jax.evaluate.mushra.mixed_model import fit_mixed_model
from spresso_jax.evaluate.mushra.results import REFERENCE, Ratings, is_anchor

LEVEL = 0.95
SCREENING_SCORE = 90.0
SCREENING_SHARE = 0.15
ITEM_SHARE = 0.25


@dataclass(frozen=True)
class Screening:
    """Who is left out, and why.

    Attributes:
      anchor: the anchor that the second rule used (the middle one if there is one), or None.
      by_reference: listeners who rated the hidden reference below 90 in more than 15 % of the items.
      by_anchor: listeners who rated the anchor above 90 in more than 15 % of the items.
      exempt_items: items whose anchor more than 25 % of the listeners rated above 90; the second rule ignores them.
      kept: everyone else.
    """

    anchor: str | None
    by_reference: tuple[str, ...]
    by_anchor: tuple[str, ...]
    exempt_items: tuple[str, ...]
    kept: tuple[str, ...]


def screen(ratings: Ratings) -> Screening:
    """Post-screening of BS.1534-3, on all listeners that completed the test."""
    anchor = next((c for c in ratings.conditions if is_anchor(c)), None)
    low = _of(ratings, REFERENCE) < SCREENING_SCORE
    by_reference = low.mean(axis=1) > SCREENING_SHARE
    by_anchor = np.zeros(len(ratings.listeners), bool)
    exempt = np.zeros(len(ratings.items), bool)
    if anchor is not None:
        high = _of(ratings, anchor) > SCREENING_SCORE
        exempt = high.mean(axis=0) > ITEM_SHARE
        if not exempt.all():
            by_anchor = high[:, ~exempt].mean(axis=1) > SCREENING_SHARE

    def named(names: Sequence[str], mask: np.ndarray) -> tuple[str, ...]:
        return tuple(name for name, hit in zip(names, mask, strict=True) if hit)

    return Screening(
        anchor,
        named(ratings.listeners, by_reference),
        named(ratings.listeners, by_anchor),
        named(ratings.items, exempt),
        named(ratings.listeners, ~(by_reference | by_anchor)),
    )


def summary(scores: np.ndarray) -> dict[str, Any]:
    """Figures of one condition.

    Args:
      scores: [L, I], or [L, 1] for one item.

    Returns:
      n, mean, sd and `ci95_t_ratings` (half-width) of all ratings as if they were independent;
      `ci95_t_listener_means`, the half-width to quote; median, q1, q3. None where two values would be needed.
    """
    q1, median, q3 = np.quantile(scores, [0.25, 0.5, 0.75])
    return {
        "n": int(scores.size),
        "mean": float(scores.mean()),
        "sd": float(scores.std(ddof=1)) if scores.size > 1 else None,
        "ci95_t_ratings": half_width(scores.ravel()),
        "ci95_t_listener_means": half_width(scores.mean(axis=1)),
        "median": float(median),
        "q1": float(q1),
        "q3": float(q3),
    }


def half_width(values: np.ndarray, level: float = LEVEL) -> float | None:
    """Half of the t interval of the mean of [N]; None for a single value."""
    from scipy.stats import t

    if values.size < 2:
        return None
    return float(t.ppf((1.0 + level) / 2.0, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size))


def analyse(ratings: Ratings) -> dict[str, Any]:
    """All figures of one set of listeners, as JSON: summaries, per item, rank tests, mixed model."""
    per_condition = {c: summary(_of(ratings, c)) for c in ratings.conditions}
    per_item = {
        item: {c: summary(_of(ratings, c)[:, [i]]) for c in ratings.conditions} for i, item in enumerate(ratings.items)
    }
    means = {c: _of(ratings, c).mean(axis=1) for c in ratings.conditions}
    return {
        "listeners": len(ratings.listeners),
        "conditions": per_condition,
        "listener_means": {c: values.tolist() for c, values in means.items()},
        "items": per_item,
        "friedman": friedman({c: means[c] for c in ratings.systems}),
        "pairs": paired_tests({c: means[c] for c in ratings.systems}),
        "mixed_model": mixed_model(ratings),
    }


def friedman(means: Mapping[str, np.ndarray]) -> dict[str, float] | None:
    """Friedman's test over the systems' listener means; None for fewer than three systems or two listeners."""
    from scipy.stats import friedmanchisquare

    values = list(means.values())
    if len(values) < 3 or values[0].size < 2 or all(np.ptp(row) == 0.0 for row in np.stack(values, axis=1)):
        return None
    result = friedmanchisquare(*values)
    return {"chi2": float(result.statistic), "p": float(result.pvalue)}


def paired_tests(means: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Wilcoxon's signed-rank test of every pair of systems on listener means, with Holm's correction.

    Zero differences are dropped; `wilcoxon_p` is the normal approximation with correction for ties and without
    correction for continuity, which always exists and is what Holm's step uses; `wilcoxon_p_exact` is None where there
    are ties or zeros. Differences are taken as floating point gives them, as a call of SciPy would: two that differ in
    the last bit alone are no tie, which moves p by less than 1e-6. `mean_difference` has its own paired t interval.
    Empty for fewer than two listeners.
    """
    rows = []
    for first, second in combinations(means, 2):
        difference = means[first] - means[second]
        if difference.size < 2:
            return []
        rows.append({"first": first, "second": second, **_paired(difference)})
    for row, corrected in zip(rows, holm([row["wilcoxon_p"] for row in rows]), strict=True):
        row["holm"] = corrected
    return rows


def _paired(difference: np.ndarray) -> dict[str, Any]:
    from scipy.stats import ttest_1samp, wilcoxon

    row = {
        "mean_difference": float(difference.mean()),
        "ci95_t": half_width(difference),
        "wilcoxon_W": 0.0,
        "wilcoxon_p": 1.0,
        "wilcoxon_p_exact": None,
        "paired_t": None,
        "paired_t_p": None,
    }
    sizes = np.abs(difference)
    if sizes.any():
        options = {"zero_method": "wilcox", "correction": False}
        approximate = wilcoxon(difference, method="approx", **options)
        row |= {"wilcoxon_W": float(approximate.statistic), "wilcoxon_p": float(approximate.pvalue)}
        if sizes.all() and np.unique(sizes).size == sizes.size:
            row["wilcoxon_p_exact"] = float(wilcoxon(difference, method="exact", **options).pvalue)
    if np.ptp(difference) > 0.0:
        student = ttest_1samp(difference, 0.0)
        row |= {"paired_t": float(student.statistic), "paired_t_p": float(student.pvalue)}
    return row


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, (len(p_values) - rank) * p_values[index])
        corrected[index] = min(1.0, highest)
    return corrected.tolist()


def mixed_model(ratings: Ratings) -> dict[str, Any] | None:
    """score ~ condition + (1 | listener) + (1 | item) over the systems, as JSON; None for fewer than two on an axis.

    The hidden reference and the anchors stay out: they sit at the ends of the scale, where ratings hardly vary, and would
    make the one residual variance of the model too small for the systems between them.
    """
    scores = ratings.scores[:, :, [ratings.conditions.index(name) for name in ratings.systems]]
    if min(scores.shape) < 2:
        return None
    fitted = fit_mixed_model(scores)
    means = dict(zip(ratings.systems, fitted.means.tolist(), strict=True))
    return {
        "formula": "score ~ condition + (1 | listener) + (1 | item)",
        "estimation": "REML, balanced",
        "conditions": {
            c: {"mean": means[c], "ci95": float(width)}
            for c, width in zip(ratings.systems, fitted.mean_half_widths, strict=True)
        },
        "differences": [
            {"first": a, "second": b, "difference": means[a] - means[b], "ci95": fitted.difference_half_width}
            for a, b in combinations(ratings.systems, 2)
        ],
        "degrees_of_freedom": fitted.degrees_of_freedom,
        "variances": fitted.variances,
    }


def score(ratings: Ratings) -> dict[str, Any]:
    """The whole record: what was read, post-screening, figures without and with it (`all`, `kept`).

    `kept` is None when no listener passes the screening.
    """
    screening = screen(ratings)
    untouched = int((ratings.scores == 100.0).all(axis=2).sum())
    return {
        "test_id": ratings.test_id,
        "listeners": list(ratings.listeners),
        "items": list(ratings.items),
        "conditions": list(ratings.conditions),
        "systems": list(ratings.systems),
        "read": {**ratings.counts, "incomplete_listeners_left_out": list(ratings.left_out)},
        "pages": {
            "rated": int(ratings.seconds.size),
            "all_sliders_at_100": untouched,
            "median_seconds": float(np.median(ratings.seconds)),
        },
        "screening": {
            "rule": (
                f"out: hidden reference below {SCREENING_SCORE:g} in more than {SCREENING_SHARE:.0%} of the items, or "
                f"anchor above {SCREENING_SCORE:g} in more than {SCREENING_SHARE:.0%} of the items (items where more than "
                f"{ITEM_SHARE:.0%} of the listeners do so do not count)"
            ),
            **{name: list(v) if isinstance(v, tuple) else v for name, v in asdict(screening).items()},
        },
        "all": analyse(ratings),
        "kept": analyse(ratings.of(screening.kept)) if screening.kept else None,
    }


def _of(ratings: Ratings, condition: str) -> np.ndarray:
    return ratings.scores[:, :, ratings.conditions.index(condition)]
