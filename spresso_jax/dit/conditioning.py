"""What the DiT is told besides the noised latent: the noise level, the caption and, optionally, a pooled caption."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from spresso_jax.nn.fourier import LearnedFeatures, fixed_features
from spresso_jax.nn.lora import LoraDense


class SiluMlp(nn.Module):
    """Dense, SiLU, Dense; parameters fc1, fc2."""

    hidden: int
    width: int
    dtype: str = "float32"
    zero_last: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        last = dict(kernel_init=nn.initializers.zeros_init()) if self.zero_last else {}
        x = nn.silu(LoraDense(self.hidden, dtype=self.dtype, name="fc1")(x))
        return LoraDense(self.width, dtype=self.dtype, name="fc2", **last)(x)


class NoiseLevel(nn.Module):
    """c_noise [B] -> Fourier features -> MLP -> [B, width] float32; `zero_last` starts the output at zero.

    Serves the modulation vector and, with its own weights and one output, the uncertainty u(sigma).
    """

    features: int
    hidden: int
    width: int
    learned: bool = False
    zero_last: bool = False

    @nn.compact
    def __call__(self, c_noise: jax.Array) -> jax.Array:
        if self.learned:
            basis = LearnedFeatures(self.features, name="basis")(c_noise)
        else:
            basis = fixed_features(c_noise, self.features)
        return SiluMlp(self.hidden, self.width, zero_last=self.zero_last, name="mlp")(basis)


def filled_caption(module: nn.Module, text: jax.Array, mask: jax.Array, pad_std: float) -> jax.Array:
    """Text [B, N, Dt] in which learned vectors, the parameter `pad` of `module`, stand where the mask [B, N] is False.

    Raises:
      ValueError: if N is not the number of tokens that the pads were made for.
    """
    tokens = module.tokens
    if text.shape[-2] != tokens or mask.shape[-1] != tokens:
        raise ValueError(
            f"text has {text.shape[-2]} positions and its mask {mask.shape[-1]}, the model was built for {tokens}: "
            "pad or cut the caption to that length"
        )
    pad = module.param("pad", nn.initializers.normal(pad_std), (tokens, text.shape[-1]))
    return jnp.where(mask[..., None].astype(bool), text, pad.astype(text.dtype))


class Caption(nn.Module):
    """Text tokens of constant length: padded positions hold learned vectors, so that no attention mask is needed.

    The null caption (mask False everywhere) is the sequence of all learned pads.
    Source: the published models of the same lab; S-PRESSO 3.3 only names token-level text.
    """

    tokens: int
    hidden: int
    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, text: jax.Array, mask: jax.Array) -> jax.Array:
        """text [B, N, Dt], mask [B, N] bool -> [B, N, width]; errors as `filled_caption`."""
        filled = filled_caption(self, text, mask, 0.02)
        return SiluMlp(self.hidden, self.width, dtype=self.dtype, name="mlp")(filled)


class PooledCaption(nn.Module):
    """Pooled text [B, E] -> [B, width], exactly zero for samples whose caption was dropped."""

    hidden: int
    width: int

    @nn.compact
    def __call__(self, pooled: jax.Array, mask: jax.Array) -> jax.Array:
        out = SiluMlp(self.hidden, self.width, name="mlp")(pooled)
        return jnp.where(mask.astype(bool).any(axis=-1, keepdims=True), out, 0.0)
