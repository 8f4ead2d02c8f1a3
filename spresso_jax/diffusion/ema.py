"""Power-function averages of parameters and their reconstruction to other lengths after training.

The average at time t weighs the parameters of time tau by tau^gamma; sigma_rel is the standard deviation of that
profile relative to t. Keep snapshots in float32 or float16: coefficients are signed, and bfloat16 adds errors of 0.5 %.
Source: Karras et al. 2024 (EDM2), section 3, equations 4 to 10 and 121 to 123.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def exponent(sigma_rel: float) -> float:
    """Exponent gamma of a profile of relative length `sigma_rel` (0.05 -> 16.97, 0.10 -> 6.94).

    Raises:
      ValueError: if no profile has that length (it must lie in (0, 0.2886), the uniform average).
    """
    if not 0.0 < sigma_rel < 12**-0.5:
        raise ValueError(f"sigma_rel must lie between 0 and {12**-0.5:.4f}, got {sigma_rel}")
    r = float(sigma_rel) ** -2
    return float(np.roots([1.0, 7.0, 16.0 - r, 12.0 - r]).real.max())


def relative_length(gamma: float) -> float:
    """sigma_rel of a profile of exponent `gamma`: the inverse of `exponent`."""
    return float(np.sqrt((gamma + 1.0) / ((gamma + 2.0) ** 2 * (gamma + 3.0))))


def beta(time: Any, gamma: float, increment: Any = 1) -> Any:
    """Decay `(1 - increment / time)^(gamma + 1)` of the update that ends at `time`; 0 for the first.

    `time` counts from the start of the stage, in any unit, and includes this update (1 at the first, by default).
    """
    return (1.0 - increment / time) ** (gamma + 1.0)


def half_life_beta(samples: Any, half_life: float, batch: int, rampup_ratio: float | None = None) -> Any:
    """Decay of an ordinary exponential average with a half-life in samples, shortened early in training.

    Args:
      samples: samples seen, including those of this update.
      rampup_ratio: the half-life is at most this fraction of `samples`; None for no ramp.
    """
    if rampup_ratio is not None:
        half_life = jnp.minimum(half_life, samples * rampup_ratio)
    return 0.5 ** (batch / jnp.maximum(half_life, 1e-8))


def update(average: Any, params: Any, step: jax.Array, gamma: float) -> Any:
    """Average after the optimiser's update number `step` (1 for the first, which copies `params`).

    Call it once per optimiser step, not per micro-batch. Leaves keep the dtype of `average`.
    """
    decay = beta(jnp.asarray(step, jnp.float32), gamma)
    return lerp(average, params, decay)


def lerp(average: Any, params: Any, decay: jax.Array) -> Any:
    """`decay * average + (1 - decay) * params`, leaf by leaf."""
    return jax.tree.map(lambda a, p: (p + (a - p) * decay).astype(a.dtype), average, params)


def profile(times: np.ndarray, end: float, gamma: float) -> np.ndarray:
    """Weights, summing to 1, that an average ending at `end` gives to parameters at `times` (0 after the end)."""
    ratio = np.asarray(times, np.float64) / end
    weights = np.where(ratio <= 1.0, np.maximum(ratio, 0.0) ** gamma, 0.0)
    return weights / weights.sum()


def correlation(time_a: Any, gamma_a: Any, time_b: Any, gamma_b: Any) -> np.ndarray:
    """Inner product of two profiles, broadcast over the arguments, float64 (EDM2, equation 122)."""
    time_a, gamma_a, time_b, gamma_b = (np.asarray(v, np.float64) for v in (time_a, gamma_a, time_b, gamma_b))
    ratio = np.minimum(time_a, time_b) / np.maximum(time_a, time_b)
    later = np.where(time_a < time_b, gamma_b, gamma_a)
    return (gamma_a + 1.0) * (gamma_b + 1.0) * ratio**later / ((gamma_a + gamma_b + 1.0) * np.maximum(time_a, time_b))


def posthoc_coefficients(
    times: Sequence[float], gammas: Sequence[float], target_time: float, target_gamma: float
) -> np.ndarray:
    """Coefficients of the snapshots whose sum comes closest to the average of another length or an earlier time.

    Args:
      times, gammas: time and exponent of every snapshot, [N].
      target_time, target_gamma: of the wanted average.

    Returns:
      [N] float64, signed, summing to 1; 0 for snapshots later than `target_time`.

    Raises:
      ValueError: if no snapshot is early enough.
    """
    times, gammas = np.asarray(times, np.float64), np.asarray(gammas, np.float64)
    usable = times <= target_time
    if not usable.any():
        raise ValueError(f"no snapshot was taken at or before time {target_time}: the first is at {times.min()}")
    t, g = times[usable], gammas[usable]
    gram = correlation(t[:, None], g[:, None], t, g)
    solution = np.linalg.solve(gram, correlation(t, g, target_time, target_gamma))
    out = np.zeros_like(times)
    out[usable] = solution / solution.sum()
    return out


def reconstruct(snapshots: Sequence[Any], coefficients: np.ndarray) -> Any:
    """Weighted sum of parameter trees (numpy or JAX leaves) in float64 on the host; leaves keep the first one's dtype.

    Raises:
      ValueError: if the numbers of snapshots and coefficients differ.
    """
    if len(snapshots) != len(coefficients):
        raise ValueError(f"{len(snapshots)} snapshots but {len(coefficients)} coefficients")

    def total(*leaves: Any) -> np.ndarray:
        parts = (c * np.asarray(leaf, np.float64) for c, leaf in zip(coefficients, leaves, strict=True) if c)
        return np.asarray(sum(parts)).astype(leaves[0].dtype)

    return jax.tree.map(total, *snapshots)
