"""Learning-rate factor of the QINCo2 recipe as a pure function of the step."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def quarter_cosine(
    step: jax.Array, steps_per_epoch: float, ramp_epochs: float, cosine_epochs: float, floor: float
) -> jax.Array:
    """Factor on the peak learning rate: linear ramp, then a quarter period of a cosine (not the usual half), a floor.

    The reference updates with adamw(lr 8e-4, weight decay 0.1 on every trained tensor) after clipping each gradient
    entry to [-0.1, 0.1], ramps for 3 epochs, falls for 60 and runs 71; its floor is lr * 1e-3 = 8e-7.

    Args:
      step: number of updates made before this one (0 for the first).
      steps_per_epoch: updates per epoch.
      ramp_epochs: R.
      cosine_epochs: T; the cosine reaches zero at epoch R + T.
      floor: least factor.
    Returns: float32 of the shape of `step`.
    Source: QINCo2's released training schedule (t = epoch + (i + 1) / n).
    """
    epoch = (jnp.asarray(step, jnp.float32) + 1.0) / steps_per_epoch
    ramp = jnp.minimum(epoch / max(ramp_epochs, 1e-9), 1.0)
    fall = jnp.cos(jnp.clip((epoch - ramp_epochs) / cosine_epochs, 0.0, 1.0) * (math.pi / 2))
    return jnp.maximum(jnp.where(epoch < ramp_epochs, ramp, fall), floor)
