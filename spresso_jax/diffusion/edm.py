"""Preconditioning, noise levels and the uncertainty-weighted loss; knows no network.

A network is a function `(x_in [B, T, C], c_noise [B]) -> F [B, T, C]`. Noise is added as x = x0 + sigma * noise;
everything here is computed in float32 whatever the network's dtype.

`precond` says what F means. "edm" is EDM's own. "flow" is for a network that was trained by flow matching to give the
velocity x0 / s - noise (s = sigma_data) at (1 - t) x0 / s + t noise: that mixture is x / (s + sigma) at t = sigma /
(s + sigma), sample by sample, so such a network is a denoiser of EDM's x as it stands.
Source: Karras et al. 2022 (EDM), table 1; Karras et al. 2024 (EDM2), equations 14 to 22; Lipman et al. 2023 (flow
matching, straight paths).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Network = Callable[[jax.Array, jax.Array], jax.Array]

PRECONDS = ("edm", "flow")


class Preconditioning(NamedTuple):
    """Coefficients of D(x) = c_skip x + c_out F(c_in x, c_noise), each of the shape of sigma."""

    c_skip: jax.Array
    c_out: jax.Array
    c_in: jax.Array
    c_noise: jax.Array


class Loss(NamedTuple):
    """Training loss and what to log: `raw` is lambda * MSE per sample.

    A network that returns zero has a raw loss of 1 with "edm" and 2 kappa, between 1 and 2, with "flow" (`regression`).
    """

    loss: jax.Array
    raw: jax.Array
    sigma: jax.Array


def _wide(x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def precondition(sigma: jax.Array, sigma_data: float, precond: str = "edm") -> Preconditioning:
    """Coefficients at noise levels `sigma` (any shape, positive) for data of standard deviation `sigma_data`.

    Source: EDM, table 1 (last column); the same in EDM2. Flow: x_t + t v, the estimate of x0 / s at x_t = x / (s + sigma).

    Raises:
      ValueError: if `precond` is unknown.
    """
    sigma = _wide(sigma)
    if _is_flow(precond):
        total = sigma_data + sigma
        return Preconditioning(sigma_data / total, sigma_data * sigma / total, 1.0 / total, sigma / total)
    variance = jnp.square(sigma) + sigma_data**2
    root = jnp.sqrt(variance)
    return Preconditioning(sigma_data**2 / variance, sigma * sigma_data / root, 1.0 / root, jnp.log(sigma) / 4.0)


def weight(sigma: jax.Array, sigma_data: float) -> jax.Array:
    """lambda(sigma) = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 = 1 / c_out^2."""
    sigma = _wide(sigma)
    return (jnp.square(sigma) + sigma_data**2) / jnp.square(sigma * sigma_data)


def regression(
    x0: jax.Array, noise: jax.Array, sigma: jax.Array, sigma_data: float, precond: str = "edm"
) -> tuple[jax.Array, jax.Array]:
    """What F should be, and how its squared error counts: the F* of `D = x0`, and kappa = lambda c_out^2.

    EDM: `F* = x0 sigma / (s r) - noise s / r`, r = sqrt(sigma^2 + s^2), kappa = 1. Flow: `F* = x0 / s - noise`, kappa =
    (sigma^2 + s^2) / (sigma + s)^2, between 1/2 (at sigma = s) and 1; flow matching itself counts every error as 1.

    Args:
      x0: [B, T, C]; noise: the same; sigma: [B].

    Returns:
      (F* [B, T, C], kappa [B]).
    """
    if _is_flow(precond):
        kappa = (jnp.square(sigma) + sigma_data**2) / jnp.square(sigma + sigma_data)
        return x0 / sigma_data - noise, kappa
    root = jnp.sqrt(jnp.square(sigma) + sigma_data**2)
    target = x0 * _per_sample(sigma / (sigma_data * root), x0) - noise * _per_sample(sigma_data / root, x0)
    return target, jnp.ones_like(sigma)


def denoise(
    network: Network, x: jax.Array, sigma: jax.Array, sigma_data: float, *, precond: str = "edm"
) -> jax.Array:
    """Denoised estimate D(x, sigma) of x [B, T, C]; sigma is a scalar or [B].

    Returns:
      [B, T, C], float32 (float64 if `x` is).
    """
    x = _wide(x)
    c = precondition(jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1]), sigma_data, precond)
    c_skip, c_out, c_in = (_per_sample(value, x) for value in c[:3])
    return c_skip * x + c_out * network(c_in * x, c.c_noise).astype(x.dtype)


def sample_sigma(
    key: jax.Array, shape: tuple[int, ...], p_mean: float, p_std: float, sigma_data: float
) -> jax.Array:
    """Log-normal noise levels, `ln sigma ~ N(ln sigma_data + p_mean, p_std^2)`, float32.

    `p_mean` is relative to ln sigma_data, so that it means the same for data of any scale. EDM2's latent setting,
    P_mean = -0.4 at sigma_data 0.5, is p_mean = -0.4 - ln 0.5 = 0.2931.
    """
    return sigma_data * jnp.exp(p_mean + p_std * jax.random.normal(key, shape, jnp.float32))


def relative_p_mean(p_mean: float, sigma_data: float) -> float:
    """`p_mean` of `sample_sigma` for an absolute mean of ln sigma quoted at `sigma_data`."""
    return p_mean - math.log(sigma_data)


def loss_at(
    network: Network,
    x0: jax.Array,
    noise: jax.Array,
    sigma: jax.Array,
    *,
    sigma_data: float,
    precond: str = "edm",
    uncertainty: Callable[[jax.Array], jax.Array] | None = None,
    frame_weights: jax.Array | None = None,
) -> Loss:
    """Loss at given noise levels: mean over elements of `lambda exp(-u) (D - x0)^2 + u`.

    Evaluated between F and its target as `kappa (F - F*)^2` (`regression`): the same number, without dividing by a tiny
    c_out^2 and without cancellation at small sigma.

    Args:
      network: (x_in, c_noise) -> F.
      x0: clean latents [B, T, C] of standard deviation `sigma_data`.
      noise: unit noise [B, T, C].
      sigma: [B].
      precond: "edm" or "flow"; `raw` is lambda * MSE with both.
      uncertainty: c_noise [B] -> [B], learned log-variance of F's error (EDM2, equation 21); u is that plus ln kappa
        (0 with "edm"). None means u = 0.
      frame_weights: [B, T], non-negative weights of the frames, or None.

    Returns:
      Loss with `loss` scalar, `raw` [B] (weighted mean over each sample; 0 where all weights are 0), `sigma` [B].
    """
    x0, noise, sigma = _wide(x0), _wide(noise), _wide(sigma)
    target, kappa = regression(x0, noise, sigma, sigma_data, precond)
    c = precondition(sigma, sigma_data, precond)
    output = network((x0 + _per_sample(sigma, x0) * noise) * _per_sample(c.c_in, x0), c.c_noise)
    error = jnp.mean(jnp.square(output.astype(x0.dtype) - target), axis=-1)
    share = jnp.ones_like(error) if frame_weights is None else frame_weights.astype(x0.dtype)
    total = jnp.sum(share, axis=1)
    raw = kappa * (jnp.sum(error * share, axis=1) / jnp.maximum(total, jnp.finfo(x0.dtype).tiny))
    u = jnp.zeros_like(sigma) if uncertainty is None else uncertainty(c.c_noise).astype(x0.dtype) + jnp.log(kappa)
    per_sample = raw * jnp.exp(-u) + u
    mean = jnp.sum(per_sample * total) / jnp.maximum(jnp.sum(total), jnp.finfo(x0.dtype).tiny)
    return Loss(mean, jax.lax.stop_gradient(raw), sigma)


def loss(
    network: Network,
    key: jax.Array,
    x0: jax.Array,
    *,
    p_mean: float,
    p_std: float,
    sigma_data: float,
    precond: str = "edm",
    uncertainty: Callable[[jax.Array], jax.Array] | None = None,
    frame_weights: jax.Array | None = None,
) -> Loss:
    """Loss with one noise level and fresh noise per sample; arguments as in `loss_at` and `sample_sigma`."""
    sigma_key, noise_key = jax.random.split(key)
    sigma = sample_sigma(sigma_key, x0.shape[:1], p_mean, p_std, sigma_data)
    noise = jax.random.normal(noise_key, x0.shape, jnp.float32)
    return loss_at(
        network, x0, noise, sigma, sigma_data=sigma_data, precond=precond, uncertainty=uncertainty,
        frame_weights=frame_weights,
    )  # fmt: skip


def _is_flow(precond: str) -> bool:
    if precond not in PRECONDS:
        raise ValueError(f"precond must be {' or '.join(PRECONDS)}, got {precond!r}")
    return precond == "flow"


def _per_sample(value: jax.Array, x: jax.Array) -> jax.Array:
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim))
