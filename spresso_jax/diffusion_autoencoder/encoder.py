"""The latent encoder g_psi (latents to a slow embedding) and the projector f_phi (embedding to the DiT's width)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.nn.lora import LoraDense
from spresso_jax.nn.rope import rope_table
from spresso_jax.nn.transformer import PreNormBlock, layer_norm, stacked
from spresso_jax.shapes import pooled_length


def pool(x: jax.Array, downsample: int) -> jax.Array:
    """Mean over windows of `downsample` frames, tail dropped: [B, T, C] -> [B, T // t, C].

    Source: S-PRESSO 3.3 (average pooling with kernel and stride t).

    Raises:
      ValueError: if not even one window fits.
    """
    count = pooled_length(x.shape[1], downsample)
    windows = x[:, : count * downsample].reshape(x.shape[0], count, downsample, x.shape[2])
    return jnp.mean(windows, axis=2)


def mostly_sound(weight: jax.Array | np.ndarray, downsample: int) -> jax.Array | np.ndarray:
    """Which pooling windows hold more sound than padding: weight [..., T] gives bool [..., T // t].

    A sound too short for that has the windows that hold most of it; silence all through has none.
    """
    count = pooled_length(weight.shape[-1], downsample)
    frames = weight[..., : count * downsample].astype("float32")
    share = frames.reshape(*weight.shape[:-1], count, downsample).mean(-1)
    most = share.max(-1, keepdims=True)
    return (share > 0.5) | ((most <= 0.5) & (share == most) & (share > 0))


class LatentEncoder(nn.Module):
    """g_psi: un-modulated transformer over clean latents, linear to 64 channels, average pooling by t.

    The linear layer and the pooling commute, so the order that the paper leaves open does not matter. With `patch` > 1
    the transformer runs on groups of frames, and the linear layer gives every frame of a group its own channels, so
    that pooling windows stay exact to the frame.

    Attributes:
      width, heads, depth, mlp_ratio: of the transformer (depth 6, 10, 12, 12 at 25, 11, 5, 1 Hz in S-PRESSO 4.2.2).
      downsample: t, latent frames per compressed frame.
      embedding_channels: channels of z.
      latent_channels: channels of x0.
      patch: frames per token; T must be a multiple.
      magnitude_input: the network also sees |x0|, so that a narrow first layer can sum energies. Off in the paper.
      final_norm: LayerNorm before the linear layer.
      remat: as in the DiT.
    """

    width: int
    heads: int
    depth: int
    downsample: int
    embedding_channels: int = 64
    latent_channels: int = 128
    mlp_ratio: float = 4.0
    patch: int = 1
    magnitude_input: bool = False
    final_norm: bool = True
    rope_theta: float = 10_000.0
    remat: str | bool = "none"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x0: jax.Array) -> jax.Array:
        """Standardised latent x0 [B, T, C] -> embedding z [B, T // t, embedding_channels] float32.

        Raises:
          ValueError: if T is shorter than one window or not a multiple of `patch`, or C is wrong.
        """
        batch, frames, channels = x0.shape
        if channels != self.latent_channels or frames % self.patch:
            raise ValueError(
                f"x0 has {frames} frames of {channels} channels: the encoder takes {self.latent_channels} channels and "
                f"a multiple of {self.patch} frames"
            )
        count = frames // self.patch
        x = x0.reshape(batch, count, self.patch * channels)
        x = jnp.concatenate([x, jnp.abs(x)], axis=-1) if self.magnitude_input else x
        x = LoraDense(self.width, dtype=self.dtype, name="audio_in")(x)
        if self.depth:
            positions = np.arange(0, frames, self.patch) + self.patch // 2
            table = jnp.asarray(rope_table(positions, self.width // self.heads, self.rope_theta))
            blocks = stacked(PreNormBlock, self.depth, self.remat)
            x, _ = blocks(self.width, self.heads, self.mlp_ratio, dtype=self.dtype, name="blocks")(x, table)
        x = layer_norm(x) if self.final_norm else x
        x = x if self.patch > 1 else pool(x, self.downsample)
        z = LoraDense(self.patch * self.embedding_channels, name="to_embedding")(x)
        return z if self.patch == 1 else pool(z.reshape(batch, frames, self.embedding_channels), self.downsample)


class Projector(nn.Module):
    """f_phi: embedding z [B, F, 64] -> [B, F, width] for the third stream; linear, no bias."""

    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        return LoraDense(self.width, use_bias=False, dtype=self.dtype, name="linear")(z)
