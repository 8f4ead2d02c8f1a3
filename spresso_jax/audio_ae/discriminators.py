"""DAC's discriminators: multi-period, multi-resolution complex STFT in five bands, and the optional multi-scale one.

Every sub-discriminator returns its feature maps, the score last. Layouts: `[B * period, T, C]` for the multi-period
one (the period is folded into the batch, so its (5, 1) convolutions are 1-D), `[B, T, F, C]` for spectra, `[B, S,
C]` for the rest.

Source: DAC (arXiv:2306.06546) and its 44.1 kHz training configuration; S-PRESSO 4.2.1 takes "the discriminators of
DAC".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from spresso_jax.audio.stft import stft
from spresso_jax.audio_ae.folded_convolution import fold_of, folded_convolution

PERIODS = (2, 3, 5, 7, 11)
FFT_SIZES = (2048, 1024, 512)
BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
PERIOD_CHANNELS = (32, 128, 512, 1024, 1024)
RATE_CHANNELS = (16, 64, 256, 1024, 1024, 1024)
_RATE_LAYERS = ((15, 1, 1), (41, 4, 4), (41, 4, 16), (41, 4, 64), (41, 4, 256), (5, 1, 1))  # size, stride, groups
_SLOPE = 0.1


def _leaky(x: Array) -> Array:
    return jnp.maximum(x, _SLOPE * x)


class WeightNormConv(nn.Module):
    """Zero-padded convolution, strided along its last axis, with weight g v / |v|, the norm per output channel.

    Starts like torch: v and bias uniform(+-1/sqrt(fan_in)), g = |v|. Parameters: `kernel` (v, `[*size, C_in / groups,
    C_out]`), `scale` (g, `[C_out]`), `bias`.

    Attributes:
      features: C_out.
      size: kernel size of each axis.
      stride: along the last axis.
      groups: feature groups.
      dtype: of the products.
    """

    features: int
    size: Sequence[int]
    stride: int = 1
    groups: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (*self.size, x.shape[-1] // self.groups, self.features)
        bound = 1.0 / math.sqrt(math.prod(shape[:-1]))

        def uniform(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        kernel = self.param("kernel", uniform, shape)
        norm = jnp.sqrt(jnp.sum(kernel * kernel, axis=tuple(range(kernel.ndim - 1))))
        scale = self.param("scale", lambda key: norm)
        bias = self.param("bias", uniform, (self.features,))
        weight = (kernel * (scale / norm)).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.groups == 1:
            fold = fold_of(self.size[-1], self.stride, x.shape[-1], self.features, len(self.size))
            y = folded_convolution(x, weight, self.stride, fold)
        else:
            y = lax.conv_general_dilated(
                x,
                weight,
                (self.stride,),
                [(self.size[0] // 2,) * 2],
                dimension_numbers=("NHC", "HIO", "NHC"),
                feature_group_count=self.groups,
            )
        return y + bias.astype(self.dtype)


def level_audio(audio: Array) -> Array:
    """Removes the mean and scales the peak to 0.8 (`[B, S]`): the discriminators are blind to level. Differentiable."""
    audio = audio - audio.mean(axis=-1, keepdims=True)
    return audio * (0.8 / (jnp.abs(audio).max(axis=-1, keepdims=True) + 1e-9))


class PeriodDiscriminator(nn.Module):
    """MPD of one period: levelled audio `[B, S]` -> 6 maps `[B * period, T, C]`.

    Attributes:
      period: samples.
      channels: of the five layers.
      dtype: of the products.
    """

    period: int
    channels: Sequence[int] = PERIOD_CHANNELS
    dtype: str = "float32"

    @nn.compact
    def __call__(self, audio: Array) -> list[Array]:
        batch, samples = audio.shape
        # the reference pads a whole period when the length is already a multiple
        audio = jnp.pad(audio, ((0, 0), (0, self.period - samples % self.period)), mode="reflect")
        x = audio.reshape(batch, -1, self.period).transpose(0, 2, 1).reshape(batch * self.period, -1, 1)
        maps = []
        for i, features in enumerate(self.channels):
            stride = 3 if i + 1 < len(self.channels) else 1
            x = _leaky(WeightNormConv(features, (5,), stride, dtype=self.dtype, name=f"layer_{i}")(x))
            maps.append(x)
        maps.append(WeightNormConv(1, (3,), dtype=self.dtype, name="score")(x))
        return [m.astype(jnp.float32) for m in maps]


def band_edges(n_fft: int, bands: Sequence[float] = BANDS) -> list[tuple[int, int]]:
    """First and past-the-last bin of each band: integer parts of the fractions of n_fft / 2 + 1 bins."""
    bins = [int(fraction * (n_fft // 2 + 1)) for fraction in bands]
    return list(zip(bins[:-1], bins[1:], strict=True))


class SpectrumDiscriminator(nn.Module):
    """MRD of one FFT size: levelled audio `[B, S]` -> 26 maps `[B, T, F, C]`, band by band, then the score.

    Attributes:
      n_fft: window; the hop is a quarter of it.
      channels: width of all layers.
      bands: edges as fractions of the spectrum.
      dtype: of the products (the STFT is float32).
    """

    n_fft: int
    channels: int = 32
    bands: Sequence[float] = BANDS
    dtype: str = "float32"

    @nn.compact
    def __call__(self, audio: Array) -> list[Array]:
        spectrum = stft(audio, self.n_fft, self.n_fft // 4, padding="stride_match")
        image = jnp.stack([spectrum.real, spectrum.imag], axis=-1)
        maps, ends = [], []
        layers = (((3, 9), 1), ((3, 9), 2), ((3, 9), 2), ((3, 9), 2), ((3, 3), 1))
        for band, (low, high) in enumerate(band_edges(self.n_fft, self.bands)):
            x = image[:, :, low:high]
            for i, (size, stride) in enumerate(layers):
                name = f"band_{band}_layer_{i}"
                x = _leaky(WeightNormConv(self.channels, size, stride, dtype=self.dtype, name=name)(x))
                maps.append(x)
            ends.append(x)
        x = jnp.concatenate(ends, axis=2)
        maps.append(WeightNormConv(1, (3, 3), dtype=self.dtype, name="score")(x))
        return [m.astype(jnp.float32) for m in maps]


@lru_cache(maxsize=8)
def _decimation_kernel(rate: int, zeros: int = 24, rolloff: float = 0.945) -> tuple[np.ndarray, int]:
    """Windowed sinc low-pass for decimation by `rate` and its padding, as julius 0.2 designs it."""
    width = math.ceil(zeros * rate / rolloff)
    position = np.clip(np.arange(-width, width + rate) / rate * rolloff, -zeros, zeros)
    kernel = np.sinc(position) * np.cos(position * np.pi / zeros / 2.0) ** 2
    kernel = (kernel / kernel.sum()).astype(np.float32)
    kernel.setflags(write=False)
    return kernel, width


def decimate(audio: Array, rate: int) -> Array:
    """Low-pass and keep every `rate`-th sample: `[B, S]` -> `[B, S // rate]`."""
    if rate == 1:
        return audio
    kernel, width = _decimation_kernel(rate)
    padded = jnp.pad(audio, ((0, 0), (width, width + rate)), mode="edge")
    numbers = ("NHC", "HIO", "NHC")
    y = lax.conv_general_dilated(
        padded[..., None], kernel[:, None, None], (rate,), "VALID", dimension_numbers=numbers, precision="highest"
    )
    return y[:, : audio.shape[-1] // rate, 0]


class RateDiscriminator(nn.Module):
    """MSD at sample rate / `rate`: levelled audio `[B, S]` -> 7 maps `[B, S', C]`. DAC's final models do not use it.

    Attributes:
      rate: decimation factor.
      channels: of the six layers.
      dtype: of the products.
    """

    rate: int = 1
    channels: Sequence[int] = RATE_CHANNELS
    dtype: str = "float32"

    @nn.compact
    def __call__(self, audio: Array) -> list[Array]:
        x = decimate(audio, self.rate)[..., None]
        maps = []
        for i, (features, (size, stride, groups)) in enumerate(zip(self.channels, _RATE_LAYERS, strict=True)):
            groups = math.gcd(math.gcd(groups, x.shape[-1]), features)
            layer = WeightNormConv(features, (size,), stride, groups, self.dtype, name=f"layer_{i}")
            x = _leaky(layer(x))
            maps.append(x)
        maps.append(WeightNormConv(1, (3,), dtype=self.dtype, name="score")(x))
        return [m.astype(jnp.float32) for m in maps]


class Discriminator(nn.Module):
    """All sub-discriminators of DAC over audio `[B, S, 1]`; real and fake may be concatenated along the batch.

    Attributes:
      width_factor: multiplies every channel count; 1/8 keeps the topology at a cost that a CPU can bear.
      periods: of the MPDs.
      fft_sizes: of the MRDs.
      msd_rates: decimation factors of the MSDs; empty in DAC's final models.
      period_channels: of an MPD at width factor 1.
      spectrum_channels: of an MRD at width factor 1.
      rate_channels: of an MSD at width factor 1.
      bands: edges of the MRDs' bands.
      dtype: of the products, "float32" or "bfloat16".

    Returns (of `__call__`): one list of maps a sub-discriminator (periods, FFT sizes, rates), float32, the score last.
    """

    width_factor: float = 1.0
    periods: Sequence[int] = PERIODS
    fft_sizes: Sequence[int] = FFT_SIZES
    msd_rates: Sequence[int] = ()
    period_channels: Sequence[int] = PERIOD_CHANNELS
    spectrum_channels: int = 32
    rate_channels: Sequence[int] = RATE_CHANNELS
    bands: Sequence[float] = BANDS
    dtype: str = "float32"

    @nn.compact
    def __call__(self, audio: Array) -> list[list[Array]]:
        if audio.ndim != 3 or audio.shape[-1] != 1:
            raise ValueError(f"audio must be [B, S, 1], got {audio.shape}")
        x = level_audio(audio[..., 0].astype(jnp.float32))
        outputs = []
        for period in self.periods:
            channels = self._scaled(self.period_channels)
            outputs.append(PeriodDiscriminator(period, channels, self.dtype, name=f"period_{period}")(x))
        for size in self.fft_sizes:
            channels = self._scaled((self.spectrum_channels,))[0]
            outputs.append(SpectrumDiscriminator(size, channels, self.bands, self.dtype, name=f"spectrum_{size}")(x))
        for rate in self.msd_rates:
            channels = self._scaled(self.rate_channels)
            outputs.append(RateDiscriminator(rate, channels, self.dtype, name=f"rate_{rate}")(x))
        return outputs

    def _scaled(self, channels: Sequence[int]) -> tuple[int, ...]:
        return tuple(max(1, round(c * self.width_factor)) for c in channels)
