"""AudioAE: a Vocos-style autoencoder at 48 kHz, 100 latent frames of 128 channels a second.

Source: S-PRESSO 3.1 and 4.2.1 (n_fft 960, hop 480, C = 128, a Vocos decoder that predicts complex STFT coefficients
and an encoder that mirrors it); Vocos (arXiv:2306.00814). What neither fixes is a field here and a line in the
experiments.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from spresso_jax.audio.mel import safe_magnitude
from spresso_jax.audio.stft import inverse_real_fft, stft, synthesise_frames
from spresso_jax.audio_ae.band_levels import band_levels, level_edges, levels_of_bins
from spresso_jax.audio_ae.linear_start import (
    COMPAND_EXPONENT,
    compand,
    expand,
    mdct_basis,
    mdct_frames,
    mdct_synthesis,
    pad_to_frames,
)
from spresso_jax.nn.convnext import ConvNeXtBackbone
from spresso_jax.shapes import HOP, LATENT_CHANNELS, N_FFT

LOG_FLOOR = 1e-5
LARGEST_LOG_MAGNITUDE = math.log(100.0)
CHOICES = {
    "encoder_input": ("log_phase", "compressed", "complex"),
    "padding": ("same", "center"),
    "bottleneck": ("none", "noise", "tanh", "layernorm", "kl"),
    "head": ("magnitude_phase", "complex", "circle"),
    "linear_start_path": ("frozen", "trained"),
}


def uniform_fan_in(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Uniform(+-1/sqrt(fan_in)) for a kernel whose last axis is the output (torch's default for linear layers)."""
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / math.sqrt(math.prod(shape[:-1]))


def _uniform_bias(fan_in: int):
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -1.0, 1.0) / math.sqrt(fan_in)


def spectrum_features(spectrum: Array, kind: str, exponent: float = 0.3) -> Array:
    """Real features of a complex spectrum `[B, T, F]`.

    'log_phase' gives [log max(|S|, 1e-5), cos, sin] (`[B, T, 3F]`, phase (1, 0) where S = 0); 'compressed' gives
    S |S|^(exponent - 1) and 'complex' S itself, as real then imaginary parts (`[B, T, 2F]`).

    Raises:
      ValueError: for an unknown kind.
    """
    real, imaginary = spectrum.real, spectrum.imag
    if kind == "complex":
        return jnp.concatenate([real, imaginary], axis=-1)
    magnitude = safe_magnitude(real, imaginary)
    if kind == "compressed":
        scale = jnp.maximum(magnitude, 1e-8) ** (exponent - 1.0)
        return jnp.concatenate([real * scale, imaginary * scale], axis=-1)
    if kind != "log_phase":
        raise ValueError(f"encoder_input must be one of {', '.join(CHOICES['encoder_input'])}, got {kind!r}")
    silent = magnitude == 0.0
    inverse = 1.0 / jnp.where(silent, 1.0, magnitude)
    log_magnitude = jnp.log(jnp.maximum(magnitude, LOG_FLOOR))
    return jnp.concatenate([log_magnitude, jnp.where(silent, 1.0, real * inverse), imaginary * inverse], axis=-1)


def spectrum_of_head(output: Array, kind: str, gain: Array | None = None) -> Array:
    """Complex spectrum from the outputs of the last layer.

    Args:
      output: `[B, T, 2F]`, or `[B, T, 3F]` for 'circle'.
      kind: 'magnitude_phase' (Vocos: min(exp(m), 100) e^{ip}), 'complex' (gain * (re + i im)) or 'circle' (Woosh:
        softplus(m) (a + ib) / clipped |a + ib|).
      gain: `[F]`, for 'complex' only.

    Returns:
      complex64 `[B, T, F]`.
    """
    output = output.astype(jnp.float32)
    if kind == "circle":
        m, a, b = jnp.split(output, 3, axis=-1)
        scale = jax.nn.softplus(m) * lax.rsqrt(jnp.clip(a * a + b * b, 1e-8, 1e3))
        return lax.complex(scale * a, scale * b)
    first, second = jnp.split(output, 2, axis=-1)
    if kind == "complex":
        return lax.complex(gain * first, gain * second)
    # min inside exp: the same values and gradients as clipping exp at 100, without 0 * inf in the backward pass
    magnitude = jnp.exp(jnp.minimum(first, LARGEST_LOG_MAGNITUDE))
    return lax.complex(magnitude * jnp.cos(second), magnitude * jnp.sin(second))


class AudioAutoencoder(nn.Module):
    """Audio `[B, S, 1]` -> latent `[B, T, C]` -> audio; T = S / 480 ('same') for whole hops.

    Attributes:
      dim: backbone width.
      intermediate: hidden width of the ConvNeXt blocks (3 * dim in Vocos).
      encoder_blocks: ConvNeXt blocks of the encoder.
      decoder_blocks: ConvNeXt blocks of the decoder.
      latent_channels: C.
      encoder_input: 'log_phase', 'compressed' or 'complex', see `spectrum_features`.
      compress_exponent: of 'compressed'.
      padding: 'same' (240,000 samples -> 500 frames) or 'center' (501; for published Vocos and Woosh weights).
      bottleneck: 'none', 'noise' (adds `noise_scale` * batch std), 'tanh', 'layernorm' (no affine) or 'kl'.
      noise_scale: of 'noise'.
      head: 'magnitude_phase', 'complex' or 'circle', see `spectrum_of_head`.
      projection_kernel: frames seen by the encoder's last layer (1; 3 in Woosh).
      linear_start: learn beside the linear codec of `linear_start.py`, the last layers of both networks starting at
        zero: before training the network equals that codec exactly. Needs head 'complex'.
      linear_start_path: 'frozen', or 'trained' (its two matrices become parameters).
      linear_path_gain: of the linear codec within the sum, unless a call gives another; training can anneal it away.
      compand_exponent: of the linear codec's latents.
      level_channels: beside a linear start, how many of the latent channels (the last ones) do not hold coefficients but
        start as the levels of as many bands above the kept ones (`band_levels.py`), companded alike. The networks then
        code those bands alone: the encoder scales the levels, the decoder fills the bins above the kept band with what
        it makes, times the level of their band. The kept band stays that of the linear codec, silence stays silent, and
        a hiss at 10 kHz is heard however little lies below. 0: the networks add to every channel and every bin.
      remat: recompute blocks in the backward pass.
      dtype: of the backbones' products, "float32" or "bfloat16"; spectra are always float32.
    """

    dim: int
    intermediate: int
    encoder_blocks: int
    decoder_blocks: int
    latent_channels: int = LATENT_CHANNELS
    encoder_input: str = "log_phase"
    compress_exponent: float = 0.3
    padding: str = "same"
    bottleneck: str = "none"
    noise_scale: float = 0.1
    head: str = "magnitude_phase"
    projection_kernel: int = 1
    linear_start: bool = False
    linear_start_path: str = "frozen"
    linear_path_gain: float = 1.0
    compand_exponent: float = COMPAND_EXPONENT
    level_channels: int = 0
    remat: bool = False
    dtype: str = "float32"

    def setup(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.linear_start and self.head != "complex":
            raise ValueError(f"linear_start needs head 'complex' (zero outputs must be silence), got {self.head!r}")
        if self.linear_start and self.bottleneck in ("tanh", "layernorm"):
            raise ValueError(f"linear_start cannot pass the bottleneck {self.bottleneck!r}: use none, noise or kl")
        if self.level_channels and not (self.linear_start and 0 < self.level_channels < self.latent_channels):
            raise ValueError(
                f"level_channels must be 0, or 1 to {self.latent_channels - 1} beside linear_start, got {self.level_channels}"
            )
        if self.level_channels and self.linear_path_gain != 1.0:
            raise ValueError("level_channels needs linear_path_gain 1: its networks code only what the linear codec drops")
        self.kept = self.latent_channels - self.level_channels
        self.edges = level_edges(self.kept, self.level_channels) if self.level_channels else ()
        self.encoder_backbone = ConvNeXtBackbone(
            self.dim, self.intermediate, self.encoder_blocks, self.dtype, self.remat
        )
        self.decoder_backbone = ConvNeXtBackbone(
            self.dim, self.intermediate, self.decoder_blocks, self.dtype, self.remat
        )
        self.projection = self._last_layer(self.level_channels or self.latent_channels, self.projection_kernel)
        if self.bottleneck == "kl":
            self.log_variance = nn.Dense(
                self.latent_channels, kernel_init=nn.initializers.zeros, bias_init=nn.initializers.constant(-6.0)
            )
        bins = N_FFT // 2 + 1 - (self.kept if self.level_channels else 0)
        self.head_out = self._last_layer((3 if self.head == "circle" else 2) * bins, 1)
        if self.head == "complex":
            self.head_gain = self.param("head_gain", nn.initializers.ones, (bins,), jnp.float32)
        if self.linear_start and self.linear_start_path == "trained":
            shape = (N_FFT, self.kept)
            start = lambda key, shape: jnp.asarray(mdct_basis(shape[1]))  # noqa: E731
            self.analysis = self.param("linear_analysis", start, shape)
            self.synthesis = self.param("linear_synthesis", start, shape)

    def _last_layer(self, features: int, kernel: int) -> nn.Conv:
        zeros = nn.initializers.zeros
        return nn.Conv(
            features,
            (kernel,),
            kernel_init=zeros if self.linear_start else uniform_fan_in,
            bias_init=zeros if self.linear_start else _uniform_bias(self.dim * kernel),
            dtype=jnp.float32,
        )

    def _path_gain(self, given: Array | None) -> Array | float:
        return self.linear_path_gain if given is None else given

    def _matrices(self) -> tuple[Array, Array]:
        if self.linear_start_path == "trained":
            return self.analysis, self.synthesis
        return (mdct_basis(self.kept),) * 2

    def __call__(self, audio: Array, key: Array | None = None, path_gain: Array | None = None) -> Array:
        """Reconstruction of `[B, S, 1]` audio, S a multiple of 480; `key` and `path_gain` as in `encode`."""
        return self.decode(self.encode(audio, key, path_gain), path_gain)

    def encode_moments(self, audio: Array, path_gain: Array | None = None) -> tuple[Array, Array | None]:
        """Mean and log-variance of the latent, `[B, T, C]` each; the log-variance is None without a 'kl' bottleneck.

        Args:
          audio: `[B, S, 1]`, S a multiple of 480 (see `pad_to_frames`).
          path_gain: instead of `linear_path_gain`.

        Raises:
          ValueError: for another shape.
        """
        if audio.ndim != 3 or audio.shape[-1] != 1 or audio.shape[1] % HOP or not audio.shape[1]:
            raise ValueError(f"audio must be [B, S, 1], S a multiple of {HOP}, got {audio.shape}: use pad_to_frames")
        spectrum = stft(audio[..., 0], N_FFT, HOP, padding=self.padding)
        features = spectrum_features(spectrum, self.encoder_input, self.compress_exponent)
        hidden = self.encoder_backbone(features).astype(jnp.float32)
        latent = self.projection(hidden)
        if self.linear_start:
            frames = mdct_frames(audio[..., 0], self.padding)
            coefficients = jnp.matmul(frames, self._matrices()[0], precision="highest")
            if self.level_channels:
                levels = band_levels(spectrum, self.edges)
                coefficients = jnp.concatenate([coefficients, levels], axis=-1)
            linear = self._path_gain(path_gain) * compand(coefficients, self.compand_exponent)
            if self.level_channels:
                unchanged = jnp.zeros((*latent.shape[:2], self.kept), latent.dtype)
                latent = linear * (1.0 + jnp.concatenate([unchanged, latent], axis=-1))
            else:
                latent = linear + latent
        if self.bottleneck == "tanh":
            latent = jnp.tanh(latent)
        elif self.bottleneck == "layernorm":
            latent = latent - latent.mean(-1, keepdims=True)
            latent = latent * lax.rsqrt((latent * latent).mean(-1, keepdims=True) + 1e-6)
        return latent, self.log_variance(hidden) if self.bottleneck == "kl" else None

    def encode(self, audio: Array, key: Array | None = None, path_gain: Array | None = None) -> Array:
        """Audio `[B, S, 1]` -> latent `[B, T, C]`.

        A `key` turns the noise of 'noise' and 'kl' on (training); `path_gain` stands for `linear_path_gain`.
        """
        latent, log_variance = self.encode_moments(audio, path_gain)
        if key is None or self.bottleneck not in ("noise", "kl"):
            return latent
        noise = jax.random.normal(key, latent.shape, latent.dtype)
        if log_variance is not None:
            return latent + jnp.exp(0.5 * log_variance) * noise
        return latent + self.noise_scale * lax.stop_gradient(latent.std((0, 1))) * noise

    def decode(self, latent: Array, path_gain: Array | None = None) -> Array:
        """Latent `[B, T, C]` -> float32 audio `[B, T * 480, 1]` ((T - 1) * 480 with 'center' padding)."""
        output = self.head_out(self.decoder_backbone(latent).astype(jnp.float32))
        gain = self.head_gain if self.head == "complex" else None
        spectrum = spectrum_of_head(output, self.head, gain)
        if self.linear_start:
            coefficients, levels = jnp.split(expand(latent.astype(jnp.float32), self.compand_exponent), [self.kept], -1)
            if self.level_channels:
                spectrum *= levels_of_bins(levels, self.edges)
                spectrum = jnp.pad(spectrum, ((0, 0), (0, 0), (self.kept, 0)))
        audio = synthesise_frames(inverse_real_fft(spectrum, N_FFT), HOP, padding=self.padding)
        if self.linear_start:
            linear = jnp.matmul(coefficients, self._matrices()[1].T, precision="highest")
            audio = audio + self._path_gain(path_gain) * mdct_synthesis(linear, self.padding)
        return audio[..., None]


def encode_hops(module: AudioAutoencoder, params: dict, audio: Array) -> Array:
    """Latent [B, S / 480, C] of `[B, S, 1]` audio in whole hops; 'center' padding makes one frame more, which is dropped."""
    return module.apply({"params": params}, audio, method="encode")[:, : audio.shape[1] // HOP]


def decode_frames(module: AudioAutoencoder, params: dict, latent: Array) -> Array:
    """Audio [B, T * 480, 1] of a latent [B, T, C]; 'center' padding needs one frame more, a copy of the last."""
    if module.padding == "center":
        latent = jnp.concatenate([latent, latent[:, -1:]], axis=1)
    return module.apply({"params": params}, latent, method="decode")


def encode_any_length(module: AudioAutoencoder, params: dict, audio: Array) -> Array:
    """Latent of `[B, S, 1]` audio, any S >= 1: zeros fill the last hop, T = max(1, ceil(S / 480)) (one more: 'center').
    """
    if module.padding == "center" and audio.shape[1] <= N_FFT // 2:
        audio = jnp.pad(audio, ((0, 0), (0, N_FFT - audio.shape[1]), (0, 0)))
    return module.apply({"params": params}, pad_to_frames(audio), method="encode")


def decode_to_length(module: AudioAutoencoder, params: dict, latent: Array, samples: int) -> Array:
    """Audio `[B, samples, 1]` of a latent that `encode_any_length` made from `samples` samples.

    Raises:
      ValueError: if the latent is too short for that many samples.
    """
    audio = module.apply({"params": params}, latent, method="decode")
    if not 1 <= samples <= audio.shape[1]:
        raise ValueError(f"{latent.shape[1]} latent frames hold 1 to {audio.shape[1]} samples, asked for {samples}")
    return audio[:, :samples]
