"""The diffusion autoencoder as one thing: g_psi, f_phi and the DiT conditioned on what they make of a sound.

Source: S-PRESSO 3.3 (steps 1 and 3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from spresso_jax.diffusion import edm
from spresso_jax.diffusion_autoencoder.encoder import LatentEncoder, Projector
from spresso_jax.dit.model import DiT

Params = Mapping[str, Any]
Network = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class DiffusionAutoencoder:
    """Latent encoder, projector and DiT; parameters are {"latent_encoder": ..., "projector": ..., "dit": ...}."""

    latent_encoder: LatentEncoder
    projector: Projector
    dit: DiT

    @property
    def downsample(self) -> int:
        """Latent frames per compressed frame (t)."""
        return self.latent_encoder.downsample

    def init(self, key: jax.Array, frames: int) -> dict[str, Any]:
        """Fresh parameters of the three networks, for clips of `frames` latent frames."""
        keys = jax.random.split(key, 3)
        x0 = jnp.zeros((1, frames, self.dit.latent_channels))
        z = jnp.zeros((1, 1, self.latent_encoder.embedding_channels))
        text, mask = null_caption(self.dit, 1)
        return {
            "latent_encoder": self.latent_encoder.init(keys[0], x0)["params"],
            "projector": self.projector.init(keys[1], z)["params"],
            "dit": self.dit.init(keys[2], x0, jnp.zeros((1,)), text, mask)["params"],
        }

    def encode(self, params: Params, x0: jax.Array) -> jax.Array:
        """Standardised latent x0 [B, T, C] -> embedding z [B, F, embedding_channels]."""
        return self.latent_encoder.apply({"params": params["latent_encoder"]}, x0)

    def conditioned_network(
        self,
        params: Params,
        z: jax.Array | None,
        text: jax.Array | None = None,
        text_mask: jax.Array | None = None,
        pooled_text: jax.Array | None = None,
        batch: int | None = None,
    ) -> Network:
        """`(x_in, c_noise) -> F` for edm.loss or a sampler; what does not depend on x is computed here, once.

        Args:
          params: needs "projector" and "dit".
          z: embedding [B, F, embedding_channels] (continuous or quantized), or None for the text-to-audio model.
          text, text_mask, pooled_text: caption as in DiT; None means the null caption.
          batch: B, only needed when both z and text are None.

        Raises:
          ValueError: if the batch size cannot be told from the arguments.
        """
        if text is None or text_mask is None:
            size = z.shape[0] if z is not None else batch
            if size is None:
                raise ValueError("conditioned_network needs z, text or batch to know the batch size")
            text, text_mask = null_caption(self.dit, size)
        condition = None if z is None else self.projector.apply({"params": params["projector"]}, z)
        variables = {"params": params["dit"]}
        context = self.dit.apply(
            variables, text, text_mask, pooled_text, condition, None if z is None else self.downsample, method="prepare"
        )
        return lambda x, c_noise: self.dit.apply(variables, x, c_noise, context, method="predict")

    def uncertainty(self, params: Params) -> Callable[[jax.Array], jax.Array]:
        """`c_noise [B] -> u [B]` for edm.loss."""
        return lambda c_noise: self.dit.apply({"params": params["dit"]}, c_noise, method="uncertainty")

    def conditioned_denoiser(
        self, params: Params, z: jax.Array | None, sigma_data: float, **caption: Any
    ) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """`(x [B, T, C], sigma) -> denoised` for a sampler; keywords as in `conditioned_network`."""
        network = self.conditioned_network(params, z, **caption)
        return lambda x, sigma: edm.denoise(network, x, sigma, sigma_data, precond=self.dit.precond)


def null_caption(dit: DiT, batch: int) -> tuple[jax.Array, jax.Array]:
    """Text [B, N, text_width] and mask [B, N] of the null caption: zeros, all masked."""
    shape = (batch, dit.text_tokens)
    return jnp.zeros((*shape, dit.text_width)), jnp.zeros(shape, bool)


def mix_quantized(key: jax.Array, z: jax.Array, z_q: jax.Array, keep: float = 0.1) -> jax.Array:
    """Quantized embedding, except that each sample keeps its continuous one with probability `keep`.

    Both are constants for the gradient: g_psi and the quantizer are frozen in step 3, so no straight-through is needed.
    Source: S-PRESSO 3.3, step 3 (0.1 of the samples).

    Args:
      z, z_q: [B, F, 64].
    """
    kept = jax.random.bernoulli(key, keep, (z.shape[0], 1, 1))
    return jax.lax.stop_gradient(jnp.where(kept, z, z_q))
