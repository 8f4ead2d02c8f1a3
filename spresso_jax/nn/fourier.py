"""Fourier features of a scalar (the noise level): a fixed basis without parameters, or learned frequencies."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def fixed_basis(features: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and phases, both [features] float32, with the distributions of EDM2 but no randomness.

    EDM2 draws frequencies 2 pi N(0, 1) and phases 2 pi U(0, 1) once and freezes them. Here the frequencies are the
    quantiles of that normal distribution and the phases a golden-ratio sequence, so nothing has to be stored, frozen,
    or kept away from weight decay.
    """
    from statistics import NormalDist

    normal = NormalDist()
    frequencies = [2 * math.pi * normal.inv_cdf((i + 0.5) / features) for i in range(features)]
    phases = 2 * math.pi * np.mod(np.arange(features) * (math.sqrt(5.0) - 1.0) / 2.0, 1.0)
    return np.asarray(frequencies, np.float32), phases.astype(np.float32)


def fixed_features(x: jax.Array, features: int) -> jax.Array:
    """`sqrt(2) cos(f x + p)` of x [B] -> [B, features] float32, unit mean square (EDM2's MPFourier)."""
    frequencies, phases = fixed_basis(features)
    return math.sqrt(2.0) * jnp.cos(x.astype(jnp.float32)[:, None] * frequencies + phases)


class LearnedFeatures(nn.Module):
    """`[cos(2 pi w x), sin(2 pi w x)]` with learned w: x [B] -> [B, features] float32 (Stable Audio, Woosh)."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weights = self.param("frequencies", nn.initializers.normal(1.0), (self.features // 2,))
        angles = 2.0 * math.pi * x.astype(jnp.float32)[:, None] * weights
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
