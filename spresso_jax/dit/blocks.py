"""Transformer blocks of the DiT: streams, joint blocks over two or three streams, and audio-only blocks.

A stream is one kind of token (audio, text, down) with its own weights. Modulated streams follow AdaLN-zero; the down
stream, which carries the compressed sound, is not modulated, because it does not depend on the noise level.
Source: Esser et al. 2024 (SD3), figure 2b; FLUX (single blocks); S-PRESSO 3.3 and figure 2 (third stream).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from spresso_jax.nn.attention import attention
from spresso_jax.nn.lora import LoraDense
from spresso_jax.nn.transformer import Mlp, Projections, gelu, layer_norm


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """`LN(x) (1 + scale) + shift` with one vector per sample: x [B, L, D], shift and scale [B, D]."""
    return layer_norm(x) * (1.0 + scale[:, None]) + shift[:, None]


class Modulation(nn.Module):
    """`count` vectors [B, D] from the activated conditioning vector y [B, D]; zero at first (AdaLN-zero)."""

    count: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, y: jax.Array) -> list[jax.Array]:
        zeros = nn.initializers.zeros_init()
        dense = LoraDense(self.count * y.shape[-1], kernel_init=zeros, dtype=self.dtype, name="linear")
        return jnp.split(dense(y), self.count, axis=-1)


class Stream(nn.Module):
    """One stream's half of a block: projections before the shared attention, residual updates after it.

    Modulation vectors come in SD3's order: shift, scale, gate for attention, then for the MLP. `last` streams give only
    keys and values: they need no queries, output projection or MLP, and two modulation vectors.
    """

    width: int
    heads: int
    mlp_ratio: float = 4.0
    modulated: bool = True
    last: bool = False
    qk_norm: bool = True
    lora_rank: int = 0
    lora_alpha: float = 0.0
    dtype: str = "float32"

    def setup(self) -> None:
        lora = dict(lora_rank=self.lora_rank, lora_alpha=self.lora_alpha, dtype=self.dtype)
        self.attention = Projections(self.width, self.heads, self.qk_norm, **lora)
        if not self.last:
            self.mlp = Mlp(self.width, int(self.width * self.mlp_ratio), **lora)
        if self.modulated:
            self.modulation = Modulation(2 if self.last else 6, self.dtype)

    def before(self, x: jax.Array, y: jax.Array | None, table: jax.Array | None) -> tuple:
        """x [B, L, D], y [B, D], rotary table -> (queries or None, keys, values, rest of the modulation)."""
        vectors = self.modulation(y) if self.modulated else None
        u = layer_norm(x) if vectors is None else modulate(x, vectors[0], vectors[1])
        q = None if self.last else self.attention.queries(u, table)
        return (q, *self.attention.keys_values(u, table), None if vectors is None else vectors[2:])

    def after(self, x: jax.Array, attended: jax.Array, vectors: list[jax.Array] | None) -> jax.Array:
        """Adds what was attended [B, L, H, head_dim], then the MLP, to x [B, L, D]."""
        if vectors is None:
            x = x + self.attention.project(attended)
            return x + self.mlp(layer_norm(x))
        gate, shift, scale, mlp_gate = vectors
        x = x + gate[:, None] * self.attention.project(attended)
        return x + mlp_gate[:, None] * self.mlp(modulate(x, shift, scale))


class JointBlock(nn.Module):
    """Streams of text, audio and (with a third stream) compressed sound that attend to one another.

    Attributes:
      third_stream: whether a `down` stream takes part.
      last: text and down give only keys and values, and leave the network here.
      text_last: same for the text alone; None means as `last` (False where text goes on into the single blocks).
      isolated: down queries see only down keys, so that the down stream depends on the compressed sound alone.
      down_bias_init: first value of a learned bias per head on the logits of down keys; None for no bias.
    """

    width: int
    heads: int
    mlp_ratio: float = 4.0
    third_stream: bool = False
    last: bool = False
    text_last: bool | None = None
    isolated: bool = False
    down_bias_init: float | None = None
    qk_norm: bool = True
    lora_rank: int = 0
    lora_alpha: float = 0.0
    dtype: str = "float32"
    attention_form: str | None = None

    def setup(self) -> None:
        common = dict(
            width=self.width, heads=self.heads, mlp_ratio=self.mlp_ratio, qk_norm=self.qk_norm, dtype=self.dtype
        )
        lora = dict(lora_rank=self.lora_rank, lora_alpha=self.lora_alpha)
        text_last = self.last if self.text_last is None else self.text_last
        self.text = Stream(**common, **lora, last=text_last)
        self.audio = Stream(**common, **lora)
        if self.third_stream:
            self.down = Stream(**common, modulated=False, last=self.last)
            if self.down_bias_init is not None:
                fill = nn.initializers.constant(self.down_bias_init)
                self.down_bias = self.param("down_bias", fill, (self.heads,))

    def __call__(self, carry: dict, y: jax.Array, tables: dict) -> tuple[dict, None]:
        """One block.

        Args:
          carry: {"text": [B, N, D], "audio": [B, L, D]} and, if the third stream is used, "down": [B, F, D].
          y: activated conditioning vector [B, D].
          tables: rotary tables by stream (None or absent: not rotated).

        Returns:
          (carry, None); streams that are `last` keep their input.
        """
        names = [name for name in ("text", "audio", "down") if name in carry]
        streams = {"text": self.text, "audio": self.audio}
        if "down" in carry:
            streams["down"] = self.down
        parts = {}
        for name in names:
            parts[name] = streams[name].before(carry[name], y if name != "down" else None, tables.get(name))
        bias = self._logit_bias(carry)
        k, v = (jnp.concatenate([parts[name][i] for name in names], axis=1) for i in (1, 2))
        asking = [name for name in names if parts[name][0] is not None and not (name == "down" and self.isolated)]
        lengths = [carry[name].shape[1] for name in asking]
        q = jnp.concatenate([parts[name][0] for name in asking], axis=1)
        attended = attention(q, k, v, logit_bias=bias, form=self.attention_form)
        out, start = dict(carry), 0
        for name, length in zip(asking, lengths, strict=True):
            out[name] = streams[name].after(carry[name], attended[:, start : start + length], parts[name][3])
            start += length
        if "down" in carry and self.isolated and not self.last:
            q, k, v, _ = parts["down"]
            out["down"] = self.down.after(carry["down"], attention(q, k, v, form=self.attention_form), None)
        return out, None

    def _logit_bias(self, carry: dict) -> jax.Array | None:
        if "down" not in carry or self.down_bias_init is None:
            return None
        others = carry["text"].shape[1] + carry["audio"].shape[1]
        down = jnp.broadcast_to(self.down_bias[:, None], (self.heads, carry["down"].shape[1]))
        return jnp.concatenate([jnp.zeros((self.heads, others)), down], axis=1)


class SingleBlock(nn.Module):
    """What the two kinds of blocks over one sequence are made with; not used by itself."""

    width: int
    heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = True
    lora_rank: int = 0
    lora_alpha: float = 0.0
    dtype: str = "float32"
    attention_form: str | None = None


class AudioBlock(SingleBlock):
    """Sequential AdaLN-zero block over one sequence: attention, then MLP.

    Source: Peebles and Xie 2023 (DiT), figure 3; S-PRESSO 3.3 ("standard transformer blocks" on audio only).
    """

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array, table: jax.Array | None) -> tuple[jax.Array, None]:
        """x [B, L, D], y [B, D] -> (x, None)."""
        stream = Stream(
            self.width, self.heads, self.mlp_ratio, qk_norm=self.qk_norm, lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha, dtype=self.dtype, name="audio",
        )
        q, k, v, vectors = stream.before(x, y, table)
        return stream.after(x, attention(q, k, v, form=self.attention_form), vectors), None


class ParallelBlock(SingleBlock):
    """FLUX's single block: attention and MLP side by side, one modulation, one gated residual.

    `x += gate * out([attn(q, k, v); gelu(fc1 u)])`, u = LN(x) (1 + scale) + shift.
    """

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array, table: jax.Array | None) -> tuple[jax.Array, None]:
        """x [B, L, D], y [B, D] -> (x, None)."""
        lora = dict(rank=self.lora_rank, alpha=self.lora_alpha, dtype=self.dtype)
        shift, scale, gate = Modulation(3, self.dtype, name="modulation")(y)
        u = modulate(x, shift, scale)
        heads = Projections(
            self.width, self.heads, self.qk_norm, self.lora_rank, self.lora_alpha, self.dtype, name="attention"
        )
        attended = attention(heads.queries(u, table), *heads.keys_values(u, table), form=self.attention_form)
        hidden = gelu(LoraDense(int(self.width * self.mlp_ratio), name="fc1", **lora)(u))
        both = jnp.concatenate([attended.reshape(x.shape).astype(hidden.dtype), hidden], axis=-1)
        return x + gate[:, None] * LoraDense(self.width, name="out", **lora)(both), None


class OutputLayer(nn.Module):
    """`Linear(LN(x) (1 + scale) + shift)`, zero at first; parameters modulation, linear. Split order: shift, scale."""

    channels: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """x [B, L, D], y [B, D] -> [B, L, channels]."""
        shift, scale = Modulation(2, self.dtype, name="modulation")(y)
        zeros = nn.initializers.zeros_init()
        return LoraDense(self.channels, kernel_init=zeros, dtype=self.dtype, name="linear")(modulate(x, shift, scale))
