"""New rows for codewords that are no longer chosen."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from spresso_jax.quantizer.qinco import Params, Qinco

DRAWS = ("residuals", "noise")
MOMENTUM = 0.1
PRESELECTION_NOISE = 0.1 / 4


def residual_moments(running: tuple[jax.Array, jax.Array] | None, residuals: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Running mean and unbiased standard deviation of each step's residuals, with momentum 0.1.

    Args:
      running: (mean [M, D], std [M, D]) so far, or None.
      residuals: [M, N, D] standardised, of one batch.
    Source: QINCo2's running residual statistics. The reference takes them over all incoming beams and from its first
      step on; here they are those of the chosen codes, from the first batch given.
    """
    here = (jnp.mean(residuals, axis=1), jnp.std(residuals, axis=1, ddof=1))
    if running is None:
        return here
    return tuple((1 - MOMENTUM) * old + MOMENTUM * new for old, new in zip(running, here, strict=True))


def _replace(quantizer, params, dead, fresh, preselection):
    """Params with the rows `dead` [M, K] taken from `fresh` [M, K, D] in codeword units."""
    params = {**params, "first_codebook": jnp.where(dead[0][:, None], fresh[0], params["first_codebook"])}
    if quantizer.codebooks == 1:
        return params
    steps, later = dict(params["steps"]), dead[1:, :, None]
    steps["codebook"] = jnp.where(later, fresh[1:], steps["codebook"])
    if quantizer.preselect > 0:
        steps["preselection"] = jnp.where(later, preselection[1:], steps["preselection"])
    return {**params, "steps": steps}


@partial(jax.jit, static_argnums=0)
def revive(
    quantizer: Qinco, params: Params, usage_counts: jax.Array, residual_rows: jax.Array, key: jax.Array
) -> tuple[Params, jax.Array]:
    """Replaces codewords that were never chosen by residuals that really occurred.

    The reference draws independent noise per coordinate, which lies far from correlated data and is not chosen again.
    Every process must pass the summed counts, the same rows and the same key.

    Optimiser moments stay. Those of a row that was not chosen for long have decayed (its gradients are zero): the first
    steps of a revived row are up to three times longer than those of a fresh Adam.

    Args:
      quantizer: the sizes.
      params: the quantizer's tree.
      usage_counts: [M, K], summed over the interval and over all processes.
      residual_rows: [M, N, D] standardised, of `Qinco.residuals` on recent vectors; N may be below K.
      key: random key.
    Returns: (params, dead [M, K] bool, the replaced rows).
    Source: QINCo2's reset of unused codewords, drawn from data instead.
    """
    dead = usage_counts == 0
    codewords = quantizer.codewords
    keys = jax.random.split(key, quantizer.codebooks)

    def draw(step_key, residuals):
        # Cycled permutation: distinct rows as long as there are enough of them.
        order = jax.random.permutation(step_key, residuals.shape[0])
        return residuals[order[jnp.arange(codewords) % residuals.shape[0]]]

    fresh = jax.vmap(draw)(keys, residual_rows)
    gain = jnp.full(quantizer.codebooks, quantizer.codeword_gain).at[0].set(1.0)[:, None, None]
    return _replace(quantizer, params, dead, fresh / gain, fresh), dead


@partial(jax.jit, static_argnums=0)
def revive_from_noise(
    quantizer: Qinco, params: Params, usage_counts: jax.Array, moments: tuple[jax.Array, jax.Array], key: jax.Array
) -> tuple[Params, jax.Array]:
    """The reference's reset: uniform noise, standardised by its own mean and deviation, at the residuals' moments.

    Args:
      quantizer, params, usage_counts, key: as in `revive`.
      moments: (mean [M, D], std [M, D]) of `residual_moments`.
    Returns: as `revive`.
    Source: QINCo2's reset of unused codewords; its pre-selection rows get (0.1 / 4) std of the new rows as noise.
    """
    dead = usage_counts == 0
    key_rows, key_noise = jax.random.split(key)
    drawn = jax.random.uniform(key_rows, (*usage_counts.shape, quantizer.dimension))
    drawn = (drawn - jnp.mean(drawn, axis=(1, 2), keepdims=True)) / jnp.std(drawn, axis=(1, 2), keepdims=True)
    mean, std = (moment[:, None] for moment in moments)
    fresh = drawn * std + mean
    spread = PRESELECTION_NOISE * jnp.std(fresh, axis=(1, 2), keepdims=True)
    noisy = fresh + spread * jax.random.normal(key_noise, fresh.shape)
    return _replace(quantizer, params, dead, fresh, noisy), dead
