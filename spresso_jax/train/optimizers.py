"""Optimisers and schedules as functions of plain config values."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[jax.Array], jax.Array]


def inverse_sqrt(learning_rate: float, ramp_steps: int, decay_steps: int) -> Schedule:
    """EDM2's schedule in steps: lr / sqrt(max(n / decay_steps, 1)) * min(n / ramp_steps, 1).

    `decay_steps` = 0 keeps the rate constant after the ramp. The rate of the first step is lr / ramp_steps rather than
    EDM2's 0, so that no step is idle.
    """

    def schedule(step: jax.Array) -> jax.Array:
        n = jnp.asarray(step, jnp.float32) + 1.0
        rate = jnp.asarray(learning_rate, jnp.float32)
        if ramp_steps > 0:
            rate = rate * jnp.minimum(n / ramp_steps, 1.0)
        if decay_steps > 0:
            rate = rate / jnp.sqrt(jnp.maximum(n / decay_steps, 1.0))
        return rate

    return schedule


def ramp_cosine(learning_rate: float, ramp_steps: int, total_steps: int, final_factor: float = 0.0) -> Schedule:
    """Linear ramp, then half a cosine down to `final_factor` of the rate at `total_steps`."""

    def schedule(step: jax.Array) -> jax.Array:
        n = jnp.asarray(step, jnp.float32) + 1.0
        ramp = jnp.minimum(n / max(ramp_steps, 1), 1.0)
        progress = jnp.clip((n - ramp_steps) / max(total_steps - ramp_steps, 1), 0.0, 1.0)
        return learning_rate * ramp * (final_factor + (1.0 - final_factor) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress)))

    return schedule


def exponential(learning_rate: float, decay: float) -> Schedule:
    """lr * decay^step, DAC's schedule (decay 0.999996)."""
    # The logarithm is taken in double precision: 0.999996 itself has lost three digits in float32.
    return lambda step: learning_rate * jnp.exp(jnp.asarray(step, jnp.float32) * math.log(decay))


def schedule_from(config, total_steps: int) -> Schedule:
    """Schedule named by `config.schedule`: 'inverse_sqrt', 'cosine' or 'exponential'.

    Raises:
      ValueError: if the name is unknown.
    """
    kind = config.schedule
    if kind == "inverse_sqrt":
        return inverse_sqrt(config.learning_rate, config.ramp_steps, config.decay_steps)
    if kind == "cosine":
        return ramp_cosine(config.learning_rate, config.ramp_steps, total_steps, config.final_factor)
    if kind == "exponential":
        return exponential(config.learning_rate, config.decay)
    raise ValueError(f"optimizer.schedule is {kind!r}; choose inverse_sqrt, cosine or exponential")


def adamw(
    schedule: Schedule,
    *,
    b1: float,
    b2: float,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    clip_value: float = 0.0,
    decay_matrices_only: bool = False,
) -> optax.GradientTransformation:
    """AdamW behind optional clipping by value, then by global norm (0 switches a clip off)."""
    mask = (lambda tree: jax.tree.map(lambda x: x.ndim >= 2, tree)) if decay_matrices_only else None
    chain = []
    if clip_value > 0:
        chain.append(optax.clip(clip_value))
    if clip_norm > 0:
        chain.append(optax.clip_by_global_norm(clip_norm))
    chain.append(optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask))
    return optax.chain(*chain)


def adamw_from(config, total_steps: int) -> optax.GradientTransformation:
    """AdamW described by one `optimizer` block of an experiment file."""
    return adamw(
        schedule_from(config, total_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        clip_value=config.clip_value,
        decay_matrices_only=config.decay_matrices_only,
    )
