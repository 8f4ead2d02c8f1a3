"""Previews of the diffusion stages: a few clips sampled in few steps and decoded to sound, beside their sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.audio_ae.autoencoder import AudioAutoencoder, decode_frames, encode_hops
from spresso_jax.audio_ae.statistics import standardise, unstandardise
from spresso_jax.diffusion import edm
from spresso_jax.diffusion.sampler import heun, sigma_grid
from spresso_jax.stages.denoising import Network
from spresso_jax.train.stage import Batch, Tree

CLIPS, STEPS = 2, 16
NETWORK = "audio_ae"


@dataclass(frozen=True)
class Listener:
    """The frozen AudioAE of an upstream model, to hear latents with.

    Attributes:
      autoencoder: the module.
      mean, std, sigma_data: latent statistics.
      params: frozen leaves, to be put into `Stage.upstream` under "audio_ae".
    """

    autoencoder: AudioAutoencoder
    mean: np.ndarray
    std: np.ndarray
    sigma_data: float
    params: Any

    @classmethod
    def of_model(cls, upstream: Any) -> Listener:
        """From a model folder with an AudioAE and its latent statistics."""
        network, facts = upstream.networks[NETWORK], upstream.facts["latent_statistics"]
        return cls(
            AudioAutoencoder(**network.config),
            np.asarray(facts["mean"], np.float32),
            np.asarray(facts["std"], np.float32),
            float(facts["sigma_data"]),
            network.params,
        )

    def latent(self, audio: jax.Array) -> jax.Array:
        """Standardised latent x0 [B, S / 480, C] of audio [B, S, 1] in whole hops."""
        return standardise(encode_hops(self.autoencoder, self.params, audio), self.mean, self.std, self.sigma_data)

    def preview(
        self, networks: Tree, condition: Callable[[Batch], Network], batch: Batch, key: jax.Array, precond: str
    ) -> dict[str, jax.Array]:
        """{"source_i", "decoded_i": [S]} of the first clips: AudioAE's own decoding, and a sample under the condition.

        Args:
          networks: every leaf.
          condition: rows of a batch -> network `(x_in, c_noise) -> F`.
          batch: cached latents.
          key: of the initial noise.
          precond: of the DiT.
        """
        rows = {name: value[:CLIPS] for name, value in batch.items()}
        network = condition(rows)
        noise = jax.random.normal(key, rows["latent"].shape)
        sampled = heun(
            lambda x, sigma: edm.denoise(network, x, sigma, self.sigma_data, precond=precond),
            noise,
            sigma_grid(STEPS, sigma_data=self.sigma_data),
        )
        latents = unstandardise(jnp.concatenate([rows["latent"], sampled]), self.mean, self.std, self.sigma_data)
        audio = decode_frames(self.autoencoder, networks[NETWORK], latents)[..., 0]
        count = rows["latent"].shape[0]
        return {f"source_{i}": audio[i] for i in range(count)} | {
            f"decoded_{i}": audio[count + i] for i in range(count)
        }
