"""Deterministic and stochastic samplers over a fixed grid of noise levels; know no network.

A denoiser is a function `(x, sigma scalar) -> denoised`, of the shape of x. What it needs at each noise level and not from
x can be computed before: `entries` are arrays whose row i belongs to sigma_i, and the denoiser is then called with that
row as its third argument. Grids are computed in float64 on the host and cast once; the state stays in float32 (float64 if
the noise is), never in bfloat16, where the last steps vanish.
Source: Karras et al. 2022 (EDM), algorithms 1 and 2; Lu et al. 2022, DPM-Solver++ (2M), algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Denoiser = Callable[..., jax.Array]
FreshNoise = Callable[[jax.Array], jax.Array]


class Churn(NamedTuple):
    """Noise that Heun's method adds back at each step (EDM, algorithm 2); `amount` 0 is deterministic."""

    amount: float = 0.0
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    noise_scale: float = 1.0


def sigma_grid(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, sigma_data: float = 0.5
) -> np.ndarray:
    """Noise levels sigma_0 > ... > sigma_{steps - 1} > 0, float64 [steps + 1].

    The bounds are those for data of standard deviation 0.5 (EDM's defaults, equation 5) and scale with `sigma_data`.

    Raises:
      ValueError: if steps < 2 (the formula divides by steps - 1), or the bounds are not 0 < sigma_min < sigma_max.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps}: for one step, denoise at sigma_max directly")
    if not 0.0 < sigma_min < sigma_max:
        raise ValueError(f"need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    ramp = np.arange(steps, dtype=np.float64) / (steps - 1)
    low, high = sigma_min ** (1.0 / rho), sigma_max ** (1.0 / rho)
    return np.append((high + ramp * (low - high)) ** rho * (sigma_data / 0.5), 0.0)


def evaluations(steps: int, method: str = "heun") -> int:
    """Number of network evaluations of a sampler: 2 steps - 1 for Heun, steps otherwise."""
    return 2 * steps - 1 if method == "heun" else steps


def fresh_noise(keys: jax.Array, shape: tuple[int, ...]) -> FreshNoise:
    """Noise of step i as a pure function of the key and i: step index -> [shape], float32.

    `keys` is one key, or one per sample ([B]); then a sample's noise does not depend on its neighbours in the batch.
    """
    if keys.ndim:
        return lambda i: jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape[1:]))(keys)
    return lambda i: jax.random.normal(jax.random.fold_in(keys, i), shape)


def _start(noise: jax.Array, sigmas: np.ndarray) -> tuple[jax.Array, np.ndarray]:
    sigmas = np.asarray(sigmas, np.float64)
    if sigmas.ndim != 1 or len(sigmas) < 3 or sigmas[-1] != 0.0 or np.any(np.diff(sigmas) >= 0):
        raise ValueError("sigmas must fall strictly to 0 over at least two steps: make them with sigma_grid")
    return noise.astype(jnp.promote_types(noise.dtype, jnp.float32)), sigmas


def _at_level(denoiser: Denoiser, entries: Any) -> Callable[[jax.Array, jax.Array, jax.Array | int], jax.Array]:
    """`(x, sigma, index of sigma) -> denoised`."""
    if entries is None:
        return lambda x, sigma, index: denoiser(x, sigma)

    def denoise(x: jax.Array, sigma: jax.Array, index: jax.Array | int) -> jax.Array:
        row = jax.tree.map(lambda v: jax.lax.dynamic_index_in_dim(v, index, keepdims=False), entries)
        return denoiser(x, sigma, row)

    return denoise


def heun(
    denoiser: Denoiser,
    noise: jax.Array,
    sigmas: np.ndarray,
    churn: Churn | None = None,
    fresh: FreshNoise | None = None,
    entries: Any = None,
) -> jax.Array:
    """Heun's second-order method: 2 N - 1 evaluations, the last step is Euler's and returns D(x, sigma_{N-1}).

    Args:
      denoiser: (x, sigma) -> denoised.
      noise: unit noise, scaled by sigma_0 here.
      sigmas: [N + 1] from `sigma_grid`.
      churn: adds noise back before each step; needs `fresh`.
      fresh: step index -> unit noise of the shape of x, see `fresh_noise`.
      entries: tree of arrays [N, ...], what the denoiser is given at each of the N levels; None for nothing.

    Raises:
      ValueError: for a grid that does not fall to 0, churn without a source of noise, or churn with entries.
    """
    noise, sigmas = _start(noise, sigmas)
    steps = len(sigmas) - 1
    churn = churn or Churn()
    if churn.amount > 0 and entries is not None:
        raise ValueError("churn raises the noise levels, so entries of the grid's levels do not fit: leave one out")
    denoise = _at_level(denoiser, entries)
    if churn.amount > 0 and fresh is None:
        raise ValueError("churn needs fresh noise: pass fresh=fresh_noise(key, shape)")
    active = (churn.amount > 0) & (sigmas[:-1] >= churn.sigma_min) & (sigmas[:-1] <= churn.sigma_max)
    gamma = np.where(active, min(churn.amount / steps, math.sqrt(2.0) - 1.0), 0.0)
    raised = sigmas[:-1] * (1.0 + gamma)
    added = np.sqrt(np.maximum(raised**2 - sigmas[:-1] ** 2, 0.0)) * churn.noise_scale

    def slope(x: jax.Array, sigma: jax.Array, index: jax.Array) -> jax.Array:
        return (x - denoise(x, sigma, index).astype(x.dtype)) / sigma

    def churned(x: jax.Array, index: jax.Array, extra: jax.Array) -> jax.Array:
        return x if churn.amount <= 0 else x + extra * fresh(index).astype(x.dtype)

    def step(x: jax.Array, row: tuple) -> tuple[jax.Array, None]:
        index, sigma, following, extra = row
        x = churned(x, index, extra)
        first = slope(x, sigma, index)
        second = slope(x + (following - sigma) * first, following, index + 1)
        return x + (following - sigma) * (0.5 * first + 0.5 * second), None

    columns = (jnp.asarray(c, noise.dtype) for c in (raised[:-1], sigmas[1:-1], added[:-1]))
    x, _ = jax.lax.scan(step, noise * sigmas[0], (jnp.arange(steps - 1), *columns))
    x = churned(x, jnp.asarray(steps - 1), jnp.asarray(added[-1], x.dtype))
    return denoise(x, jnp.asarray(raised[-1], x.dtype), steps - 1).astype(x.dtype)


def euler(denoiser: Denoiser, noise: jax.Array, sigmas: np.ndarray, entries: Any = None) -> jax.Array:
    """Euler's method (DDIM in sigma): N evaluations; arguments as in `heun`."""
    noise, sigmas = _start(noise, sigmas)
    denoise, last = _at_level(denoiser, entries), len(sigmas) - 2

    def step(x: jax.Array, row: tuple) -> tuple[jax.Array, None]:
        index, sigma, ratio = row
        denoised = denoise(x, sigma, index).astype(x.dtype)
        return denoised + ratio * (x - denoised), None

    columns = (jnp.asarray(c, noise.dtype) for c in (sigmas[:-2], sigmas[1:-1] / sigmas[:-2]))
    x, _ = jax.lax.scan(step, noise * sigmas[0], (jnp.arange(last), *columns))
    return denoise(x, jnp.asarray(sigmas[-2], x.dtype), last).astype(x.dtype)


def dpm_solver_pp_2m(denoiser: Denoiser, noise: jax.Array, sigmas: np.ndarray, entries: Any = None) -> jax.Array:
    """DPM-Solver++(2M), a second-order multistep method: N evaluations; arguments as in `heun`.

    With t = -ln sigma and h its increment, `x <- (sigma' / sigma) x + (1 - sigma' / sigma) D*`, where D* extrapolates
    the last two denoised estimates; the first step has only one, and the last step, to sigma 0, returns D.
    """
    noise, sigmas = _start(noise, sigmas)
    denoise, last = _at_level(denoiser, entries), len(sigmas) - 2
    increments = np.diff(-np.log(sigmas[:-1]))
    extrapolation = np.zeros_like(increments)
    extrapolation[1:] = increments[1:] / (2.0 * increments[:-1])
    ratios = sigmas[1:-1] / sigmas[:-2]

    def step(carry: tuple, row: tuple) -> tuple[tuple, None]:
        x, previous = carry
        index, sigma, ratio, ahead = row
        denoised = denoise(x, sigma, index).astype(x.dtype)
        target = denoised + ahead * (denoised - previous)
        return (target + ratio * (x - target), denoised), None

    columns = (jnp.asarray(c, noise.dtype) for c in (sigmas[:-2], ratios, extrapolation))
    x = noise * sigmas[0]
    (x, _), _ = jax.lax.scan(step, (x, jnp.zeros_like(x)), (jnp.arange(last), *columns))
    return denoise(x, jnp.asarray(sigmas[-2], x.dtype), last).astype(x.dtype)
