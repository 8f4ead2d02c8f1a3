"""Magnitude-preserving parts of the DiT (`block_style="mp"`): blocks, conditioning and output layer.

EDM2's design on our streams: no bias, no LayerNorm, no shift and no gate. Tokens are normalised at the entry of a block,
the noise level scales what attention and MLP see by `1 + gain W y`, residuals are weighted sums, and queries, keys and
values are normalised per head (cosine attention).
Source: Karras et al. 2024 (EDM2), section 2 and appendix B; streams as in S-PRESSO 3.3 and figure 2.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from spresso_jax.dit.blocks import AudioBlock, JointBlock
from spresso_jax.dit.conditioning import filled_caption
from spresso_jax.nn import magnitude
from spresso_jax.nn.fourier import fixed_features
from spresso_jax.nn.magnitude import MagnitudeDense
from spresso_jax.nn.rope import rotate
from spresso_jax.nn.transformer import MLP_HIDDEN

RESIDUAL_SHARE = 0.3
EMBEDDING_SHARE = 0.5
LARGEST_ACTIVATION = 256.0


class MagnitudeStream(nn.Module):
    """One stream's half of a block; the counterpart of `blocks.Stream`, with the same two calls.

    `last` streams give only keys and values. The modulation has one scalar gain, zero at first.
    """

    width: int
    heads: int
    mlp_ratio: float = 4.0
    modulated: bool = True
    last: bool = False
    dtype: str = "float32"

    def setup(self) -> None:
        self.k, self.v = (MagnitudeDense(self.width, dtype=self.dtype) for _ in range(2))
        if not self.last:
            self.q, self.out, self.fc2 = (MagnitudeDense(self.width, dtype=self.dtype) for _ in range(3))
            self.fc1 = MagnitudeDense(int(self.width * self.mlp_ratio), dtype=self.dtype)
        if self.modulated:
            self.modulation = MagnitudeDense((1 if self.last else 2) * self.width, gained=True, dtype=self.dtype)

    def vectors(self, y: jax.Array) -> jax.Array:
        """y [..., D] -> scales [..., 2 D] of what attention and MLP see, or [..., D] of a `last` stream; 1 at first."""
        return 1.0 + self.modulation(y)

    def before(self, x: jax.Array, vectors: jax.Array | None, table: jax.Array | None) -> tuple:
        """x [B, L, D], scales [B or 1, 2 D], rotary table -> (queries or None, keys, values)."""
        u = magnitude.normalize(x, -1)
        u = u if vectors is None else u * vectors[:, None, : self.width]
        layers = (self.k, self.v) if self.last else (self.k, self.v, self.q)
        shape = (*x.shape[:-1], self.heads, self.width // self.heads)
        k, v, *q = magnitude.attention_operands(*(layer(u).reshape(shape) for layer in layers))
        # The rotation comes after the normalisation: it keeps norms.
        return rotate(q[0], table) if q else None, rotate(k, table), v

    def after(self, x: jax.Array, attended: jax.Array, vectors: jax.Array | None) -> jax.Array:
        """Adds what was attended [B, L, H, head_dim], then the MLP, to the normalised x [B, L, D]."""
        x = magnitude.normalize(x, -1)
        x = magnitude.weighted_sum(x, self.out(attended.reshape(x.shape)), RESIDUAL_SHARE)
        hidden = checkpoint_name(self.fc1(x if vectors is None else x * vectors[:, None, self.width :]), MLP_HIDDEN)
        x = magnitude.weighted_sum(x, self.fc2(magnitude.silu(hidden)), RESIDUAL_SHARE)
        return jnp.clip(x, -LARGEST_ACTIVATION, LARGEST_ACTIVATION)


class MagnitudeJointBlock(JointBlock):
    """`blocks.JointBlock` with magnitude-preserving streams: same carry, same tables, same options but for adapters."""

    def setup(self) -> None:
        common = dict(width=self.width, heads=self.heads, mlp_ratio=self.mlp_ratio, dtype=self.dtype)
        self.text = MagnitudeStream(**common, last=self.last if self.text_last is None else self.text_last)
        self.audio = MagnitudeStream(**common)
        if self.third_stream:
            self.down = MagnitudeStream(**common, modulated=False, last=self.last)
            if self.down_bias_init is not None:
                fill = nn.initializers.constant(self.down_bias_init)
                self.down_bias = self.param("down_bias", fill, (self.heads,))


class MagnitudeAudioBlock(AudioBlock):
    """`blocks.AudioBlock` with a magnitude-preserving stream."""

    def setup(self) -> None:
        self.audio = MagnitudeStream(self.width, self.heads, self.mlp_ratio, dtype=self.dtype)


class MagnitudeOutput(nn.Module):
    """Linear layer behind one scalar gain, zero at first; not modulated, as in EDM2. The calls of `blocks.OutputLayer`."""

    channels: int
    dtype: str = "float32"

    def setup(self) -> None:
        self.linear = MagnitudeDense(self.channels, gained=True, dtype=self.dtype)

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """x [B, L, D] -> [B, L, channels]."""
        return self.linear(x)

    def vectors(self, y: jax.Array) -> jax.Array:
        """No vectors: y [..., D] -> [..., 0]."""
        return y[..., :0]

    def update(self, x: jax.Array, vectors: jax.Array) -> jax.Array:
        """The layer itself."""
        return self.linear(x)


class MagnitudeNoiseLevel(nn.Module):
    """c_noise [B] -> fixed Fourier features -> linear: [B, width] float32."""

    features: int
    width: int

    @nn.compact
    def __call__(self, c_noise: jax.Array) -> jax.Array:
        return MagnitudeDense(self.width, name="linear")(fixed_features(c_noise, self.features))


class MagnitudePooledCaption(nn.Module):
    """Pooled text [B, E] -> normalised, linear: [B, width], exactly zero for samples whose caption was dropped."""

    width: int

    @nn.compact
    def __call__(self, pooled: jax.Array, mask: jax.Array) -> jax.Array:
        out = MagnitudeDense(self.width, name="linear")(magnitude.normalize(pooled, -1))
        return jnp.where(mask.astype(bool).any(axis=-1, keepdims=True), out, 0.0)


class MagnitudeCaption(nn.Module):
    """Text tokens of constant length with learned padding, as `conditioning.Caption`; each token is normalised."""

    tokens: int
    hidden: int
    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, text: jax.Array, mask: jax.Array) -> jax.Array:
        """text [B, N, Dt], mask [B, N] bool -> [B, N, width]; errors as `filled_caption`."""
        filled = magnitude.normalize(filled_caption(self, text, mask, 1.0), -1)
        hidden = MagnitudeDense(self.hidden, constant=True, dtype=self.dtype, name="fc1")(filled)
        return MagnitudeDense(self.width, dtype=self.dtype, name="fc2")(magnitude.silu(hidden))


def embedding(noise_level: jax.Array, pooled: jax.Array | None) -> jax.Array:
    """Conditioning vector [B, D] of the modulations from the embedded noise level and, optionally, the pooled text."""
    both = noise_level if pooled is None else magnitude.weighted_sum(noise_level, pooled, EMBEDDING_SHARE)
    return magnitude.silu(both)
