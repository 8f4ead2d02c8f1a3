"""score ~ condition + (1 | listener) + (1 | item) by restricted maximum likelihood, for a complete table.

Every listener rates every condition of every item, so the design is balanced, and REML has a closed form: the variance
components follow from the mean squares of the analysis of variance, with a component that would be negative set to zero
and its sum of squares pooled into the residual (Searle, Casella and McCulloch, Variance Components, 1992, chapter 4).
Nothing is searched for, so nothing can fail to converge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MixedModel:
    """A fitted model.

    Attributes:
      means: [C] estimated mean of each condition.
      mean_half_widths: [C] half 95 % intervals for a new listener and a new item (Satterthwaite degrees of freedom).
      difference_half_width: half 95 % interval of any difference of two conditions (exact t).
      degrees_of_freedom: of the residual.
      variances: of listener, item and residual.
    """

    means: np.ndarray
    mean_half_widths: np.ndarray
    difference_half_width: float
    degrees_of_freedom: int
    variances: dict[str, float]


def fit_mixed_model(scores: np.ndarray, level: float = 0.95) -> MixedModel:
    """Fits the additive model to [L, I, C].

    Raises:
      ValueError: if the table has no two listeners, items or conditions, or is not finite.
    """
    from scipy.stats import t

    scores = np.asarray(scores, np.float64)
    if scores.ndim != 3 or min(scores.shape) < 2:
        raise ValueError(f"the mixed model needs two listeners, items and conditions at least, got {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("the mixed model needs a complete table of finite scores")
    listeners, items, conditions = scores.shape
    grand = scores.mean()
    effects = {"listener": scores.mean(axis=(1, 2)) - grand, "item": scores.mean(axis=(0, 2)) - grand}
    per_level = {"listener": items * conditions, "item": listeners * conditions}
    means = scores.mean(axis=(0, 1))
    residual = scores - means - effects["listener"][:, None, None] - effects["item"][None, :, None]
    squares, freedom = float(np.sum(residual**2)), scores.size - conditions - (listeners - 1) - (items - 1)
    own_freedom = {name: effect.size - 1 for name, effect in effects.items()}
    mean_squares = {n: per_level[n] * float(np.sum(effect**2)) / own_freedom[n] for n, effect in effects.items()}
    kept = sorted(effects, key=mean_squares.get)
    for name in list(kept):
        # The smaller one first: pooling it can only lower the residual, so the larger one is judged afterwards.
        if mean_squares[name] < squares / freedom:
            squares += mean_squares[name] * own_freedom[name]
            freedom += own_freedom[name]
            kept.remove(name)
    error = squares / freedom
    variances = {name: (mean_squares[name] - error) / per_level[name] if name in kept else 0.0 for name in effects}

    # Variance of a condition's mean as a sum of mean squares: those of the kept effects, and the rest of the residual.
    parts = [(mean_squares[name] / scores.size, own_freedom[name]) for name in kept]
    parts.append(((conditions - len(kept)) * error / scores.size, freedom))
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / count for part, count in parts)
    half = (1.0 + level) / 2.0
    mean_width = float(t.ppf(half, variance**2 / spread) * np.sqrt(variance)) if spread > 0.0 else 0.0
    difference = float(t.ppf(half, freedom) * np.sqrt(2.0 * error / (listeners * items)))
    return MixedModel(means, np.full(conditions, mean_width), difference, freedom, {**variances, "residual": error})
