"""Losses of AudioAE: DAC's multi-scale mel and least-squares adversarial terms, and a waveform error for linear starts.

All float32, whatever the precision of the networks. "Maps" are what `Discriminator` returns: one list of feature maps a
sub-discriminator, the score last. Real and fake go in separately or as the two halves of one batch (`split_maps`).

Source: DAC (arXiv:2306.06546) 3.4 and its 44.1 kHz configuration: L_G = 15 L_mel + 2 L_feat + 1 L_gen.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from spresso_jax.audio.mel import log_mel, magnitude_spectrum
from spresso_jax.shapes import SAMPLE_RATE

MEL_SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))
STFT_WINDOWS = (2048, 512)
Maps = Sequence[Sequence[Array]]


def multi_scale_log_mel(
    audio: Array, sample_rate: int = SAMPLE_RATE, scales: Sequence[tuple[int, int]] = MEL_SCALES
) -> list[Array]:
    """log10 mel spectra of `[B, S, 1]` audio at every (window, bands) scale, hop window / 4, centred, floor 1e-5.

    Returns:
      One float32 `[B, T, bands]` a scale. Those of the real audio are computed once a step and given to
      `multi_scale_mel_loss`.
    """
    return [log_mel(audio[..., 0], sample_rate, window, window // 4, bands) for window, bands in scales]


def multi_scale_mel_loss(
    fake: Array,
    real: Array | None = None,
    *,
    real_log_mel: Sequence[Array] | None = None,
    sample_rate: int = SAMPLE_RATE,
    scales: Sequence[tuple[int, int]] = MEL_SCALES,
) -> Array:
    """Sum over scales of the mean absolute difference of log10 mel spectra.

    Args:
      fake: `[B, S, 1]`, S > half the largest window.
      real: the same shape; not needed when `real_log_mel` is given.
      real_log_mel: `multi_scale_log_mel(real, ...)` with the same settings.
      sample_rate: Hz.
      scales: (window, bands) pairs.

    Raises:
      ValueError: if neither real audio nor its log-mels are given.
    """
    if real_log_mel is None:
        if real is None:
            raise ValueError("give the real audio or its multi_scale_log_mel")
        real_log_mel = multi_scale_log_mel(real, sample_rate, scales)
    fakes = multi_scale_log_mel(fake, sample_rate, scales)
    return sum(jnp.abs(f - lax.stop_gradient(r)).mean() for f, r in zip(fakes, real_log_mel, strict=True))


def multi_scale_stft_loss(fake: Array, real: Array, windows: Sequence[int] = STFT_WINDOWS) -> Array:
    """DAC's logged spectral distance: L1 of log10 power plus L1 of magnitude, summed over windows (hop window / 4)."""
    total = jnp.zeros((), jnp.float32)
    for window in windows:
        a, b = (magnitude_spectrum(x[..., 0], window, window // 4) for x in (fake, real))
        floor = 1e-5
        log_a, log_b = (2.0 * jnp.log10(jnp.maximum(m, floor)) for m in (a, b))
        total += jnp.abs(log_a - log_b).mean() + jnp.abs(a - b).mean()
    return total


def discriminator_loss(real: Maps, fake: Maps) -> Array:
    """L_D = sum_i mean(D_i(fake)^2) + mean((1 - D_i(real))^2); the caller stops the gradient into the generator."""
    pairs = zip(real, fake, strict=True)
    return sum(jnp.square(f[-1]).mean() + jnp.square(1.0 - r[-1]).mean() for r, f in pairs)


def adversarial_loss(fake: Maps) -> Array:
    """L_gen = sum_i mean((1 - D_i(fake))^2)."""
    return sum(jnp.square(1.0 - maps[-1]).mean() for maps in fake)


def feature_matching_loss(real: Maps, fake: Maps) -> Array:
    """L_feat = plain sum over all maps but the scores of mean |f(fake) - stop(f(real))|."""
    total = jnp.zeros((), jnp.float32)
    for real_maps, fake_maps in zip(real, fake, strict=True):
        for r, f in zip(real_maps[:-1], fake_maps[:-1], strict=True):
            total += jnp.abs(f - lax.stop_gradient(r)).mean()
    return total


def split_maps(maps: Maps) -> tuple[Maps, Maps]:
    """Maps of a batch `concatenate([real, fake])` -> (maps of real, maps of fake).

    The batch axis leads every map (with the period folded in behind the batch), so both are halves.
    """
    halves = [[jnp.split(m, 2, axis=0) for m in sub] for sub in maps]
    return [[h[0] for h in sub] for sub in halves], [[h[1] for h in sub] for sub in halves]


def waveform_error_db(fake: Array, real: Array, floor: float = 1e-4) -> Array:
    """Mean over clips of the error's energy relative to the clip's, in dB: `[B, S, 1]` -> scalar in [-80, ...).

    0 is silence, -80 (where it stops) a perfect copy; a clip at x dB of SNR scores -x. Not among DAC's losses: presets with
    the linear start use it so that waveform fidelity is not traded away, least of all on clips that the linear codec keeps
    almost whole, which a relative error that is linear in amplitude hardly weighs. `floor` (rms) keeps silent clips harmless.
    """
    error = jnp.square(fake.astype(jnp.float32) - real.astype(jnp.float32)).mean(axis=(1, 2))
    level = jnp.square(real.astype(jnp.float32)).mean(axis=(1, 2)) + floor**2
    return 10.0 * jnp.log10(error / level + 1e-8).mean()
