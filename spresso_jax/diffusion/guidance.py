"""Text dropout for training, and guidance towards a condition for sampling.

Source: Ho and Salimans 2022 (classifier-free); Karras et al. 2024, "Guiding a diffusion model with a bad version of
itself" (autoguidance); Kynkaanniemi et al. 2024 (guidance in an interval of noise levels).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# (x, sigma, and what the sampler's `entries` hold at sigma, if anything) -> denoised.
Denoiser = Callable[..., jax.Array]


def drop_text(key: jax.Array, text_mask: jax.Array, rate: float) -> jax.Array:
    """Replaces whole captions by the null caption, each sample with probability `rate`.

    The null caption is a mask that is False everywhere: the DiT then sees only its learned padding, and no pooled text.
    S-PRESSO uses rate 0.8 in steps 1 and 3 (section 3.3); it is not element-wise dropout.

    Args:
      text_mask: [B, N] bool.

    Returns:
      [B, N] bool.
    """
    kept = jax.random.bernoulli(key, 1.0 - rate, (text_mask.shape[0], 1))
    return jnp.logical_and(text_mask, kept)


def guide(conditional: jax.Array, reference: jax.Array, scale: float | jax.Array) -> jax.Array:
    """`reference + scale (conditional - reference)`; scale 1 is the conditional estimate, above 1 extrapolates."""
    return reference + scale * (conditional - reference)


def guided(
    denoiser: Denoiser, reference: Denoiser, scale: float | jax.Array, interval: tuple | None = None
) -> Denoiser:
    """Denoiser guided away from a reference: the same network without caption, or a weaker one (autoguidance).

    Args:
      scale: 1 returns `denoiser` itself, so that nothing is evaluated twice; a traced one is never taken for 1.
      interval: guide only where sigma lies in [low, high]; None means everywhere.
    """
    if isinstance(scale, (int, float)) and scale == 1.0:
        return denoiser

    def combined(x: jax.Array, sigma: jax.Array, *entry: Any) -> jax.Array:
        return guide(denoiser(x, sigma, *entry), reference(x, sigma, *entry), _scale_at(sigma, scale, interval))

    return combined


def classifier_free(doubled: Denoiser, scale: float | jax.Array, interval: tuple | None = None) -> Denoiser:
    """Guided denoiser from one over [2 B, T, C], first half conditional, second half null: one call a step."""

    def combined(x: jax.Array, sigma: jax.Array, *entry: Any) -> jax.Array:
        conditional, reference = jnp.split(doubled(jnp.concatenate([x, x]), sigma, *entry), 2)
        return guide(conditional, reference, _scale_at(sigma, scale, interval))

    return combined


def _scale_at(sigma: jax.Array, scale: float | jax.Array, interval: tuple | None) -> jax.Array | float:
    if interval is None:
        return scale
    return jnp.where((sigma >= interval[0]) & (sigma <= interval[1]), scale, 1.0)
