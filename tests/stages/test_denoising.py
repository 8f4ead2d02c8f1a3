"""What the diffusion stages share: the loss by noise level."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spresso_jax.stages import denoising


def test_a_network_that_returns_zero_scores_one_in_every_bin_of_the_noise_level():
    batch = {
        "latent": 0.5 * jax.random.normal(jax.random.key(0), (64, 100, 128)), "weight": jnp.ones((64, 100)),
    }  # fmt: skip
    zero = {"own": lambda x, c_noise: jnp.zeros_like(x), "half": lambda x, c_noise: 0.5 * x}
    metrics = denoising.validation_losses(zero, jax.random.key(1), batch, ConfigDict(dict(sigma_data=0.5)), "edm")
    bins = {name: float(value) for name, value in metrics.items() if name.startswith("raw_bin_")}
    assert len(bins) == len(denoising.VALIDATION_SIGMAS)
    np.testing.assert_allclose([*bins.values(), float(metrics["raw"])], 1.0, atol=0.02)
    assert abs(float(metrics["half_gain_bin_6.0"])) > 0.1
