"""The diffusion transformer D_theta: F(c_in x, c_noise, caption, compressed sound); knows nothing of diffusion.

Joint blocks see text, audio and, when present, the compressed sound as a third stream; later blocks see audio only.
Source: S-PRESSO 3.1 (6 joint and 6 audio-only blocks), 3.3 and figure 2 (third stream).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.dit.blocks import AudioBlock, JointBlock, OutputLayer, ParallelBlock
from spresso_jax.dit.conditioning import Caption, NoiseLevel, PooledCaption
from spresso_jax.dit.magnitude_blocks import (
    MagnitudeAudioBlock,
    MagnitudeCaption,
    MagnitudeJointBlock,
    MagnitudeNoiseLevel,
    MagnitudeOutput,
    MagnitudePooledCaption,
    embedding,
)
from spresso_jax.nn.lora import LoraDense
from spresso_jax.nn.magnitude import MagnitudeDense
from spresso_jax.nn.rope import rope_table
from spresso_jax.nn.transformer import stacked
from spresso_jax.shapes import pooled_length, pooled_positions


class Context(NamedTuple):
    """Everything that the network sees besides the noised latent and its noise level; constant while sampling.

    `down_keys_values` stands for `down` once `DiT.run_down` has been through it.
    """

    text: jax.Array
    pooled: jax.Array | None
    down: jax.Array | None
    downsample: int | None
    down_keys_values: dict[str, Any] | None = None


class DiT(nn.Module):
    """Diffusion transformer over latent frames.

    Attributes:
      width, heads, mlp_ratio: of every stream; head_dim = width / heads must be even.
      joint_blocks: blocks over text, audio (and down); the last one drops text and down.
      audio_blocks: blocks after them.
      latent_channels: C.
      patch: frames per audio token (1 in the paper); T must be a multiple.
      input_gain: the output adds a predicted gain for every channel times the input. A token of several frames has more
        channels than a small width can carry; this way each channel still reaches the output. Off in the paper.
      magnitude_input: the network also sees |x|, so that a narrow first layer can sum energies. Off in the paper.
      text_width, text_tokens, pooled_text_width: of the caption; a pooled width of 0 means no pooled text.
      third_stream: adds the `down` stream, whose parameter paths all contain "down".
      isolated: down queries see only down keys.
      down_bias_init: first value of a learned logit bias per head on down keys, or None.
      lora_rank, lora_alpha: adapters on q, k, v, out, fc1, fc2 of audio and text in all blocks; alpha 0 means rank.
      block_style: "adaln", or "mp" for EDM2's magnitude-preserving layers in all of the network but the u(sigma) head:
        no adapters, sequential blocks, fixed noise features; training applies `magnitude.project_kernels`.
      single_style: "sequential" or "parallel" blocks after the joint ones.
      single_text: text goes on through those blocks (at positions T + j), as in Woosh.
      registers: learned tokens before the audio, at position `register_position` (in frames).
      rope_theta, rope_dim, yarn_factor, yarn_length: rotary tables; rope_dim 0 rotates the whole head.
      noise_features, learned_noise_features: Fourier features of c_noise.
      uncertainty_hidden: hidden size of the u(sigma) head.
      precond: what the output means, "edm" or "flow" (diffusion/edm.py). It belongs to the weights and goes where they
        go; the network itself does not read it.
      remat: what the backward pass computes again, "none", "names" or "full" (nn/transformer.py, `stacked`).
      dtype: of products and residuals, "float32" or "bfloat16"; norms, softmax, rotations and u stay in float32.
      attention_form: see nn/attention.py; None chooses by backend.
    """

    width: int
    heads: int
    joint_blocks: int
    audio_blocks: int
    text_width: int
    text_tokens: int = 77
    latent_channels: int = 128
    mlp_ratio: float = 4.0
    patch: int = 1
    input_gain: bool = False
    magnitude_input: bool = False
    pooled_text_width: int = 0
    third_stream: bool = False
    isolated: bool = False
    down_bias_init: float | None = None
    lora_rank: int = 0
    lora_alpha: float = 0.0
    qk_norm: bool = True
    block_style: str = "adaln"
    single_style: str = "sequential"
    single_text: bool = False
    registers: int = 0
    register_position: int = 0
    rope_theta: float = 10_000.0
    rope_dim: int = 0
    yarn_factor: float = 0.0
    yarn_length: int = 0
    noise_features: int = 256
    learned_noise_features: bool = False
    uncertainty_hidden: int = 128
    precond: str = "edm"
    remat: str | bool = "none"
    dtype: str = "float32"
    attention_form: str | None = None

    def setup(self) -> None:
        if self.joint_blocks < 1:
            raise ValueError(f"joint_blocks must be at least 1, got {self.joint_blocks}: text enters there")
        if self.single_style not in ("sequential", "parallel"):
            raise ValueError(f"single_style must be sequential or parallel, got {self.single_style!r}")
        if self.precond not in ("edm", "flow"):
            raise ValueError(f"precond must be edm or flow, got {self.precond!r}")
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(f"width {self.width} over {self.heads} heads gives no even head size")
        mp = self._magnitude_preserving()
        hidden = int(self.width * self.mlp_ratio)
        constant = dict(constant=True) if mp else {}
        self.audio_in = (MagnitudeDense if mp else LoraDense)(self.width, dtype=self.dtype, **constant)
        self.caption = (MagnitudeCaption if mp else Caption)(self.text_tokens, hidden, self.width, self.dtype)
        basis = dict(features=self.noise_features, learned=self.learned_noise_features)
        if mp:
            self.noise_level = MagnitudeNoiseLevel(self.noise_features, self.width)
        else:
            self.noise_level = NoiseLevel(hidden=hidden, width=self.width, **basis)
        self.uncertainty_head = NoiseLevel(hidden=self.uncertainty_hidden, width=1, zero_last=True, **basis)
        if self.pooled_text_width:
            self.pooled_caption = MagnitudePooledCaption(self.width) if mp else PooledCaption(hidden, self.width)
        if self.registers:
            self.register = self.param("register", nn.initializers.normal(0.02), (self.registers, self.width))
        common = dict(
            width=self.width, heads=self.heads, mlp_ratio=self.mlp_ratio, qk_norm=self.qk_norm,
            lora_rank=self.lora_rank, lora_alpha=self.lora_alpha, dtype=self.dtype, attention_form=self.attention_form,
        )
        third = dict(third_stream=self.third_stream, isolated=self.isolated, down_bias_init=self.down_bias_init)
        joint = MagnitudeJointBlock if mp else JointBlock
        if self.joint_blocks > 1:
            methods = {"vectors": (False,), "isolated_down": (False,), "update": (True, False)}
            self.joint = stacked(joint, self.joint_blocks - 1, self.remat, 2, methods)(**common, **third)
        self.joint_last = joint(**common, **third, last=True, text_last=not self.single_text)
        if self.audio_blocks:
            sequential = MagnitudeAudioBlock if mp else AudioBlock
            block = sequential if self.single_style == "sequential" else ParallelBlock
            methods = {"vectors": (False,), "update": (True, False)}
            self.single = stacked(block, self.audio_blocks, self.remat, 2, methods)(**common)
        output = MagnitudeOutput if mp else OutputLayer
        self.output = output(self.latent_channels * self.patch * (2 if self.input_gain else 1), self.dtype)

    def _magnitude_preserving(self) -> bool:
        """Whether the style is "mp", after a look at the options that it does not have."""
        if self.block_style not in ("adaln", "mp"):
            raise ValueError(f"block_style must be adaln or mp, got {self.block_style!r}")
        if self.block_style == "adaln":
            return False
        if self.lora_rank:
            raise ValueError(
                f"lora_rank is {self.lora_rank}, but an adapter of a weight-normalised layer is ill-defined: set "
                "lora_rank=0 with block_style mp"
            )
        if self.single_style != "sequential" or self.learned_noise_features or not self.qk_norm:
            raise ValueError(
                "block_style mp has sequential blocks, fixed noise features and normalised queries and keys: leave "
                "single_style, learned_noise_features and qk_norm at their defaults"
            )
        return True

    def __call__(
        self,
        x: jax.Array,
        c_noise: jax.Array,
        text: jax.Array,
        text_mask: jax.Array,
        pooled_text: jax.Array | None = None,
        condition: jax.Array | None = None,
        downsample: int | None = None,
    ) -> jax.Array:
        """Raw network output F.

        Args:
          x: noised latent, already scaled by c_in, [B, T, C].
          c_noise: [B].
          text: [B, N, text_width] token states; text_mask: [B, N] bool. All False is the null caption.
          pooled_text: [B, pooled_text_width] or None; ignored for null captions.
          condition: projected compressed sound f_phi(z), [B, F, width], or None.
          downsample: frames per compressed frame (t), needed with `condition`.

        Returns:
          F [B, T, C] float32.

        Raises:
          ValueError: for shapes that do not fit the configuration, naming the argument.
        """
        if self.is_initializing():
            self.uncertainty(c_noise)
            if self.third_stream and condition is None:
                condition, downsample = jnp.zeros((x.shape[0], 1, self.width)), x.shape[1]
            if self.pooled_text_width and pooled_text is None:
                pooled_text = jnp.zeros((x.shape[0], self.pooled_text_width))
        return self.predict(x, c_noise, self.prepare(text, text_mask, pooled_text, condition, downsample))

    def uncertainty(self, c_noise: jax.Array) -> jax.Array:
        """Learned log-variance u(sigma) of the loss: c_noise [B] -> [B] float32, zero at first."""
        return self.uncertainty_head(c_noise)[:, 0]

    def prepare(
        self,
        text: jax.Array,
        text_mask: jax.Array,
        pooled_text: jax.Array | None = None,
        condition: jax.Array | None = None,
        downsample: int | None = None,
    ) -> Context:
        """The part of the network that does not depend on x or the noise level; arguments as in `__call__`."""
        pooled = None
        if pooled_text is not None and self.pooled_text_width:
            pooled = self.pooled_caption(pooled_text, text_mask)
        if condition is not None:
            if not self.third_stream:
                raise ValueError("condition was given, but the network has no third stream: set third_stream=True")
            if not downsample:
                raise ValueError("condition needs downsample, the number of latent frames per compressed frame")
            condition = condition.astype(self.dtype)
        return Context(self.caption(text, text_mask), pooled, condition, downsample)

    def run_down(self, context: Context, frames: int) -> Context:
        """The context after an isolated third stream has run through all joint blocks, for x of `frames` frames.

        It holds the stream's keys and values, {"joint": two arrays [L, B, F, H, head_dim], "joint_last": two [B, F, H,
        head_dim]}, instead of the stream. Without a third stream, or where it hears the audio, nothing changes.
        """
        if context.down is None or not self.isolated:
            return context
        down, table, keys_values = context.down, self._tables(frames, context)["down"], {}
        if self.joint_blocks > 1:
            down, keys_values["joint"] = self.joint.isolated_down(down, table)
        _, keys_values["joint_last"] = self.joint_last.isolated_down(down, table)
        return context._replace(down=None, down_keys_values=keys_values)

    def modulations(self, c_noise: jax.Array, context: Context) -> dict[str, Any]:
        """Modulation vectors of all blocks at many noise levels, one product a layer.

        Args:
          c_noise: [S].
          context: only its pooled text counts.

        Returns:
          {"joint": {"text", "audio": [S, L, P, 6 D]}, "joint_last": the same without L, "single": [S, L, P, ...],
          "output": [S, P, 2 D]}, L stacked blocks; P is 1 without pooled text, else the batch. Entry s of every array
          is what `predict_modulated` takes.
        """
        vectors = self._vectors(self._conditioning(self.noise_level(c_noise)[:, None], context.pooled))
        stacks = {name: jax.tree.map(lambda v: jnp.moveaxis(v, 0, 1), vectors[name])
                  for name in ("joint", "single") if name in vectors}  # fmt: skip
        return {**vectors, **stacks}
    def _conditioning(self, y: jax.Array, pooled: jax.Array | None) -> jax.Array:
        """Activated conditioning vector [..., D] of an embedded noise level and prepared pooled text, for all modulations."""
        if self.block_style == "mp":
            # A network with pooled text sees a missing one as zeros, like a dropped one.
            return embedding(y, jnp.zeros_like(y) if pooled is None and self.pooled_text_width else pooled)
        return nn.silu(y if pooled is None else y + pooled)

    def predict(self, x: jax.Array, c_noise: jax.Array, context: Context) -> jax.Array:
        """F [B, T, C] float32 from a prepared context; see `__call__`."""
        y = self._conditioning(self.noise_level(c_noise), context.pooled)
        if context.down_keys_values is not None:
            return self.predict_modulated(x, self._vectors(y), context)

        def block(name: str, carry: Any, tables: Any) -> tuple:
            return getattr(self, name)(carry, y, tables)

        return self._predict(x, context, block, lambda audio: self.output(audio, y))

    def predict_modulated(self, x: jax.Array, modulation: dict[str, Any], context: Context) -> jax.Array:
        """`predict` at a noise level whose modulation vectors are known: an entry of `modulations`."""
        down = context.down_keys_values or {}

        def block(name: str, carry: Any, tables: Any) -> tuple:
            given = {**modulation[name], "down": down[name]} if name in down else modulation[name]
            return getattr(self, name).update(carry, given, tables)

        return self._predict(x, context, block, lambda audio: self.output.update(audio, modulation["output"]))

    def _vectors(self, y: jax.Array) -> dict[str, Any]:
        vectors = {"joint_last": self.joint_last.vectors(None, y)[1], "output": self.output.vectors(y)}
        if self.joint_blocks > 1:
            vectors["joint"] = self.joint.vectors(None, y)[1]
        if self.audio_blocks:
            vectors["single"] = self.single.vectors(None, y)[1]
        return vectors

    def _predict(
        self,
        x: jax.Array,
        context: Context,
        block: Callable[[str, Any, Any], tuple],
        output: Callable[[jax.Array], jax.Array],
    ) -> jax.Array:
        """The network, its blocks run by `block(name, carry, tables) -> (carry, None)`, its last layer by `output`."""
        batch, frames, channels = x.shape
        if channels != self.latent_channels or frames % self.patch:
            raise ValueError(
                f"x has {frames} frames of {channels} channels: the network takes {self.latent_channels} channels and "
                f"a multiple of {self.patch} frames"
            )
        count = frames // self.patch
        grouped = x.reshape(batch, count, self.patch * channels)
        audio = self.audio_in(jnp.concatenate([grouped, jnp.abs(grouped)], axis=-1) if self.magnitude_input else grouped)
        if self.registers:
            register = jnp.broadcast_to(self.register.astype(audio.dtype), (batch, self.registers, self.width))
            audio = jnp.concatenate([register, audio], axis=1)
        tables = self._tables(frames, context)
        carry = {"text": context.text, "audio": audio}
        if context.down is not None:
            carry["down"] = context.down
        if self.joint_blocks > 1:
            carry, _ = block("joint", carry, tables)
        carry, _ = block("joint_last", carry, tables)
        audio, table, tokens = carry["audio"], tables["audio"], self.registers + count
        if self.audio_blocks:
            if self.single_text:
                audio = jnp.concatenate([audio, carry["text"]], axis=1)
                table = jnp.concatenate([table, self._table(frames + np.arange(self.text_tokens))])
            audio, _ = block("single", audio, table)
        out = output(audio[:, self.registers : tokens])
        out = out.astype(jnp.promote_types(out.dtype, jnp.float32))
        if self.input_gain:
            out, gain = jnp.split(out, 2, axis=-1)
            out = out + gain * grouped
        return out.reshape(batch, frames, channels)

    def _table(self, positions: np.ndarray | list[int]) -> jax.Array:
        dim = self.width // self.heads
        return jnp.asarray(
            rope_table(positions, dim, self.rope_theta, self.rope_dim or dim, self.yarn_factor, self.yarn_length)
        )

    def _tables(self, frames: int, context: Context) -> dict[str, jax.Array]:
        """Rotary tables in units of frames; text stays at position 0, which is the identity."""
        audio = np.arange(0, frames, self.patch) + self.patch // 2
        tables = {"audio": self._table(np.concatenate([np.full(self.registers, self.register_position), audio]))}
        if context.down is not None:
            expected = pooled_length(frames, context.downsample)
            if context.down.shape[1:] != (expected, self.width):
                raise ValueError(
                    f"condition has shape {context.down.shape}: {frames} frames pooled by {context.downsample} need "
                    f"[B, {expected}, {self.width}]"
                )
            tables["down"] = self._table(pooled_positions(frames, context.downsample))
        return tables


def init_down_from_audio(params: Mapping[str, Any]) -> dict[str, Any]:
    """DiT parameters whose down streams start as copies of the audio streams (without modulation or adapters).

    Source: S-PRESSO leaves the start open; copying follows FLUX Kontext, whose condition shares the image's weights.

    Raises:
      ValueError: if the parameters have no third stream.
    """

    def copied(down: Any, audio: Any) -> Any:
        return {k: copied(v, audio[k]) if isinstance(v, Mapping) else jnp.array(audio[k]) for k, v in down.items()}

    out = dict(params)
    for name in ("joint", "joint_last"):
        if name in params:
            if "down" not in params[name]:
                raise ValueError(f"parameters {name} have no down stream: build the DiT with third_stream=True")
            out[name] = {**params[name], "down": copied(params[name]["down"], params[name]["audio"])}
    return out
