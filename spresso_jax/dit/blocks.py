"""Transformer blocks of the DiT: streams, joint blocks over two or three streams, and audio-only blocks.

A stream is one kind of token (audio, text, down) with its own weights. Modulated streams follow AdaLN-zero; the down
stream, which carries the compressed sound, is not modulated, because it does not depend on the noise level.
Source: Esser et al. 2024 (SD3), figure 2b; FLUX (single blocks); S-PRESSO 3.3 and figure 2 (third stream).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from spresso_jax.nn.attention import attention
from spresso_jax.nn.lora import LoraDense
from spresso_jax.nn.transformer import MLP_HIDDEN, Mlp, Projections, gelu, layer_norm


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """`LN(x) (1 + scale) + shift` with one vector per sample: x [B, L, D], shift and scale [B, D]."""
    return layer_norm(x) * (1.0 + scale[:, None]) + shift[:, None]


class Modulation(nn.Module):
    """`count` vectors side by side, [..., count D], from the activated conditioning vector y [..., D].

    Zero at first (AdaLN-zero). They depend on nothing but y, so a sampler computes them once for all noise levels.
    """

    count: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, y: jax.Array) -> jax.Array:
        zeros = nn.initializers.zeros_init()
        return LoraDense(self.count * y.shape[-1], kernel_init=zeros, dtype=self.dtype, name="linear")(y)


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

    def vectors(self, y: jax.Array) -> jax.Array:
        """y [..., D] -> modulation vectors [..., 6 D], or [..., 2 D] of a `last` stream."""
        return self.modulation(y)

    def before(self, x: jax.Array, vectors: jax.Array | None, table: jax.Array | None) -> tuple:
        """x [B, L, D], modulation vectors [B or 1, 6 D], rotary table -> (queries or None, keys, values)."""
        if vectors is None:
            u = layer_norm(x)
        else:
            u = modulate(x, *jnp.split(vectors, 2 if self.last else 6, axis=-1)[:2])
        q = None if self.last else self.attention.queries(u, table)
        return (q, *self.attention.keys_values(u, table))

    def after(self, x: jax.Array, attended: jax.Array, vectors: jax.Array | None) -> jax.Array:
        """Adds what was attended [B, L, H, head_dim], then the MLP, to x [B, L, D]."""
        if vectors is None:
            x = x + self.attention.project(attended)
            return x + self.mlp(layer_norm(x))
        _, _, gate, shift, scale, mlp_gate = jnp.split(vectors, 6, axis=-1)
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
        return self.update(carry, self.vectors(None, y)[1], tables)

    def vectors(self, carry: None, y: jax.Array) -> tuple[None, dict[str, jax.Array]]:
        """y [..., D] -> (carry, modulation vectors of text and audio by stream)."""
        return carry, {"text": self.text.vectors(y), "audio": self.audio.vectors(y)}

    def isolated_down(self, down: jax.Array, table: jax.Array | None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """What an isolated third stream [B, F, D] becomes, and the keys and values [B, F, H, head_dim] it gives."""
        q, k, v = self.down.before(down, None, table)
        if not self.last:
            down = self.down.after(down, attention(q, k, v, form=self.attention_form), None)
        return down, (k, v)

    def update(self, carry: dict, given: dict, tables: dict) -> tuple[dict, None]:
        """The block, given what depends on y alone.

        Args:
          carry, tables: as in `__call__`.
          given: modulation vectors [B or 1, ...] by stream as `vectors` returns them; optionally "down", the keys and
            values that `isolated_down` returned, which then stand for a stream that is absent from the carry.
        """
        streams = {"text": self.text, "audio": self.audio}
        out, parts = dict(carry), {}
        for name, stream in streams.items():
            parts[name] = stream.before(carry[name], given[name], tables.get(name))
        if "down" in given:
            parts["down"] = (None, *given["down"])
        elif "down" in carry and self.isolated:
            out["down"], keys_values = self.isolated_down(carry["down"], tables.get("down"))
            parts["down"] = (None, *keys_values)
        elif "down" in carry:
            streams["down"] = self.down
            parts["down"] = self.down.before(carry["down"], None, tables.get("down"))
        k, v = (jnp.concatenate([part[i] for part in parts.values()], axis=1) for i in (1, 2))
        asking = [name for name, part in parts.items() if part[0] is not None]
        q = jnp.concatenate([parts[name][0] for name in asking], axis=1)
        attended = attention(q, k, v, logit_bias=self._logit_bias(parts), form=self.attention_form)
        start = 0
        for name in asking:
            length = carry[name].shape[1]
            out[name] = streams[name].after(carry[name], attended[:, start : start + length], given.get(name))
            start += length
        return out, None

    def _logit_bias(self, parts: dict[str, tuple]) -> jax.Array | None:
        if "down" not in parts or self.down_bias_init is None:
            return None
        lengths = {name: part[1].shape[1] for name, part in parts.items()}
        others = lengths["text"] + lengths["audio"]
        down = jnp.broadcast_to(self.down_bias[:, None], (self.heads, lengths["down"]))
        return jnp.concatenate([jnp.zeros((self.heads, others)), down], axis=1)


class SingleBlock(nn.Module):
    """What the two kinds of blocks over one sequence share; not used by itself."""

    width: int
    heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = True
    lora_rank: int = 0
    lora_alpha: float = 0.0
    dtype: str = "float32"
    attention_form: str | None = None

    def __call__(self, x: jax.Array, y: jax.Array, table: jax.Array | None) -> tuple[jax.Array, None]:
        """x [B, L, D], y [B, D] -> (x, None)."""
        return self.update(x, self.vectors(None, y)[1], table)


class AudioBlock(SingleBlock):
    """Sequential AdaLN-zero block over one sequence: attention, then MLP.

    Source: Peebles and Xie 2023 (DiT), figure 3; S-PRESSO 3.3 ("standard transformer blocks" on audio only).
    """

    def setup(self) -> None:
        self.audio = Stream(
            self.width, self.heads, self.mlp_ratio, qk_norm=self.qk_norm, lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha, dtype=self.dtype,
        )  # fmt: skip

    def vectors(self, carry: None, y: jax.Array) -> tuple[None, jax.Array]:
        """y [..., D] -> (carry, modulation vectors [..., 6 D])."""
        return carry, self.audio.vectors(y)

    def update(self, x: jax.Array, vectors: jax.Array, table: jax.Array | None) -> tuple[jax.Array, None]:
        """The block, given its modulation vectors [B or 1, 6 D]."""
        q, k, v = self.audio.before(x, vectors, table)
        return self.audio.after(x, attention(q, k, v, form=self.attention_form), vectors), None


class ParallelBlock(SingleBlock):
    """FLUX's single block: attention and MLP side by side, one modulation, one gated residual.

    `x += gate * out([attn(q, k, v); gelu(fc1 u)])`, u = LN(x) (1 + scale) + shift.
    """

    def setup(self) -> None:
        lora = dict(rank=self.lora_rank, alpha=self.lora_alpha, dtype=self.dtype)
        self.modulation = Modulation(3, self.dtype)
        self.attention = Projections(
            self.width, self.heads, self.qk_norm, self.lora_rank, self.lora_alpha, self.dtype
        )
        self.fc1 = LoraDense(int(self.width * self.mlp_ratio), **lora)
        self.out = LoraDense(self.width, **lora)

    def vectors(self, carry: None, y: jax.Array) -> tuple[None, jax.Array]:
        """y [..., D] -> (carry, modulation vectors [..., 3 D])."""
        return carry, self.modulation(y)

    def update(self, x: jax.Array, vectors: jax.Array, table: jax.Array | None) -> tuple[jax.Array, None]:
        """The block, given its modulation vectors [B or 1, 3 D]."""
        shift, scale, gate = jnp.split(vectors, 3, axis=-1)
        u = modulate(x, shift, scale)
        attended = attention(
            self.attention.queries(u, table), *self.attention.keys_values(u, table), form=self.attention_form
        )
        hidden = gelu(checkpoint_name(self.fc1(u), MLP_HIDDEN))
        both = jnp.concatenate([attended.reshape(x.shape).astype(hidden.dtype), hidden], axis=-1)
        return x + gate[:, None] * self.out(both), None


class OutputLayer(nn.Module):
    """`Linear(LN(x) (1 + scale) + shift)`, zero at first; parameters modulation, linear. Split order: shift, scale."""

    channels: int
    dtype: str = "float32"

    def setup(self) -> None:
        self.modulation = Modulation(2, self.dtype)
        self.linear = LoraDense(self.channels, kernel_init=nn.initializers.zeros_init(), dtype=self.dtype)

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """x [B, L, D], y [B, D] -> [B, L, channels]."""
        return self.update(x, self.vectors(y))

    def vectors(self, y: jax.Array) -> jax.Array:
        """y [..., D] -> modulation vectors [..., 2 D]."""
        return self.modulation(y)

    def update(self, x: jax.Array, vectors: jax.Array) -> jax.Array:
        """The layer, given its modulation vectors [B or 1, 2 D]."""
        return self.linear(modulate(x, *jnp.split(vectors, 2, axis=-1)))
