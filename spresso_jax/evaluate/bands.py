"""Signal-to-noise ratio and energy ratio per frequency band of a decoded clip against its source.

One number such as SI-SDR is decided by the loud low bands. Per band it can be seen up to which frequency a codec keeps
the waveform, and whether what it puts above is as loud as what was there. No gain and no time lag is corrected: a codec
that returns the clip too quietly is to show it.

Bands are split by one orthonormal cosine transform (DCT-II) of the whole clip, which is the Fourier transform of the
clip followed by its mirror image. Why not a plain Fourier transform of the clip: it takes the clip as periodic, and the
jump from its last sample to its first leaks into every band (a jump of 0.5 in a 5 s clip puts -65 dB of full scale into
4-8 kHz; since a good codec copies the jump, empty bands would look well coded). A mirrored clip has no jump, only kinks,
which leak far less. Why not an STFT: its bands depend on a window length, and its frames either weigh the ends of
the clip down, where sound effects have their attacks, or pad them. This transform weighs every sample alike, band
energies add up to the clip's energy exactly, and it needs no choice.

A band counts for a clip only where the source has something in it: more than `FLOOR_ABOVE_PCM_16_DB` over the rounding
noise of 16-bit audio, of which each band holds the part that its width has of 0-24 kHz. That noise is what a 16-bit
file, or one that was low-passed by a lossy codec or by its sampling rate, holds in a band without sound (with
triangular dither it is 4.8 dB more); how well it is reproduced says nothing. The source has to pass this once more with
its ends faded: many recorded effects begin or end inside a loud low tone, and the kink there is no sound of the band.

Source: orthonormality of the DCT-II, Rao and Yip, Discrete Cosine Transform, chapter 2; rounding noise of power
step^2 / 12, Widrow and Kollar, Quantization Noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft

from spresso_jax.evaluate.bootstrap import DRAWS, LEVEL, median_interval
from spresso_jax.shapes import SAMPLE_RATE

BAND_EDGES_HZ = (0, 1_000, 4_000, 8_000, 12_000, 16_000, 20_000, 24_000)
PCM_16_NOISE_POWER = (2.0**-15) ** 2 / 12.0
FLOOR_ABOVE_PCM_16_DB = 10.0
FADE_SECONDS = 0.005
LIMIT_DB = 100.0
MEASURES = {"snr": "SNR", "energy_ratio": "energy, decoded over source"}


@dataclass(frozen=True)
class PublishedBand:
    """One band of the profile that the paper's authors' AudioAE has on their own clips, in dB."""

    low_hz: int
    high_hz: int
    snr: float
    energy_ratio: float


# Measured for this project on the 11 AudioAE reconstructions, and their 5 s sources, of the paper's public demo page.
DEMO_PAGE_CLIPS = 11
DEMO_PAGE_PROFILE = (
    PublishedBand(0, 1_000, 38.6, 0.0),
    PublishedBand(1_000, 4_000, 38.0, 0.0),
    PublishedBand(4_000, 8_000, 10.1, -0.1),
    PublishedBand(8_000, 12_000, -0.2, -1.3),
    PublishedBand(12_000, 16_000, -1.8, -1.7),
    PublishedBand(16_000, 20_000, -2.9, -0.3),
    PublishedBand(20_000, 22_000, -2.3, -1.5),
    PublishedBand(22_000, 24_000, -2.2, -1.3),
)


@dataclass(frozen=True)
class BandedSource:
    """A source ready to be compared with many decoded clips.

    Attributes:
      spectrum: [S] float64, `cosine_spectrum` of the clip.
      energies: [bands] float64, sums of squared samples.
      sounding: [bands] bool, the bands that count.
    """

    spectrum: np.ndarray
    energies: np.ndarray
    sounding: np.ndarray


@dataclass(frozen=True)
class BandProfile:
    """What one decoded clip has in each band; nan where the source is below the floor.

    Attributes:
      snr: [bands] float64, 10 log10(energy of the source / energy of source - decoded), dB within +-`LIMIT_DB`.
      energy_ratio: [bands] float64, 10 log10(energy of the decoded clip / energy of the source), likewise.
    """

    snr: np.ndarray
    energy_ratio: np.ndarray


def cosine_spectrum(audio: np.ndarray) -> np.ndarray:
    """Orthonormal DCT-II of one clip: [S] -> [S] float64; coefficient k belongs to k * 24000 / S Hz.

    Raises:
      ValueError: if the clip is empty, has more than one axis, or holds samples that are not finite.
    """
    audio = np.asarray(audio, np.float64)
    if audio.ndim != 1 or audio.size == 0 or not np.isfinite(audio).all():
        raise ValueError(f"bands need one clip [S] of finite samples, got shape {audio.shape}")
    return scipy.fft.dct(audio, type=2, norm="ortho")


def band_energies(spectrum: np.ndarray, edges_hz: Sequence[float] = BAND_EDGES_HZ) -> np.ndarray:
    """Energy (sum of squared samples) in each band, lower edge included, upper edge not: [S] -> [bands] float64.

    Args:
      spectrum: from `cosine_spectrum`, of a clip at 48 kHz.
      edges_hz: rising; from 0 to 24000 the energies add up to the clip's own.
    """
    starts = [math.ceil(edge * spectrum.size / (SAMPLE_RATE / 2)) for edge in edges_hz]
    return np.array([np.sum(spectrum[a:b] ** 2) for a, b in zip(starts, starts[1:], strict=False)], np.float64)


def energy_floor(samples: int, edges_hz: Sequence[float] = BAND_EDGES_HZ) -> np.ndarray:
    """Energy up to which a band of a clip of `samples` samples counts as empty: [bands] float64."""
    share = np.diff(np.asarray(edges_hz, np.float64)) / (SAMPLE_RATE / 2)
    return samples * share * PCM_16_NOISE_POWER * 10.0 ** (FLOOR_ABOVE_PCM_16_DB / 10.0)


def banded_source(audio: np.ndarray) -> BandedSource:
    """Spectrum, band energies and the bands that count, of one clip [S] at 48 kHz and full scale 1, without padding.

    Raises:
      ValueError: from `cosine_spectrum`.
    """
    spectrum = cosine_spectrum(audio)
    energies, floor = band_energies(spectrum), energy_floor(spectrum.size)
    ramp = min(round(FADE_SECONDS * SAMPLE_RATE), spectrum.size // 2)
    fade = np.ones(spectrum.size)
    fade[:ramp] = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / max(ramp, 1)) ** 2
    faded = band_energies(cosine_spectrum(np.asarray(audio, np.float64) * fade * fade[::-1]))
    return BandedSource(spectrum, energies, (energies > floor) & (faded > floor))


def band_profile(source: BandedSource, decoded: np.ndarray) -> BandProfile:
    """Both measures of one clip in every band of `BAND_EDGES_HZ`.

    Args:
      source: from `banded_source`.
      decoded: [S] of the source's length, 48 kHz, full scale 1.

    Raises:
      ValueError: if the two differ in length, or from `cosine_spectrum`.
    """
    spectrum = cosine_spectrum(decoded)
    if spectrum.shape != source.spectrum.shape:
        raise ValueError(f"decoded clip must have the source's {source.spectrum.size} samples, got {spectrum.size}")
    error = band_energies(source.spectrum - spectrum)
    return BandProfile(
        snr=np.where(source.sounding, _decibels(source.energies, error), math.nan),
        energy_ratio=np.where(source.sounding, _decibels(band_energies(spectrum), source.energies), math.nan),
    )


def _decibels(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """10 log10(above / below), limited on both sides, so that copies and silence stay finite and count."""
    tiny = np.finfo(np.float64).tiny
    return np.clip(10.0 * (np.log10(np.maximum(above, tiny)) - np.log10(np.maximum(below, tiny))), -LIMIT_DB, LIMIT_DB)


def conventions() -> dict:
    """What scores.json says about the bands."""
    return {
        "edges_hz": list(BAND_EDGES_HZ),
        "transform": "DCT-II of the whole clip",
        "gain_aligned": False,
        "floor": f"{FLOOR_ABOVE_PCM_16_DB:g} dB above the rounding noise of 16-bit audio in the band",
        "faded_seconds_for_floor": FADE_SECONDS,
        "limit_db": LIMIT_DB,
        "over_clips": "median",
    }


def band_scores(
    profiles: Mapping[str, Sequence[BandProfile]], seed: int = 0, draws: int = DRAWS, level: float = LEVEL
) -> dict:
    """Medians over clips with bootstrap intervals, and the values of every clip, as plain JSON.

    Args:
      profiles: key of a system -> one profile a clip.
      seed, draws, level: of the bootstrap.

    Returns:
      {"edges_hz": [8], "figures": key -> measure -> [7] intervals whose `mean` is the median and whose `count` is the
      number of clips with energy in the band, "per_clip": key -> measure -> [clips][7] dB or None}.
    """
    figures: dict[str, dict] = {}
    per_clip: dict[str, dict] = {}
    for key, own in profiles.items():
        values = {name: np.stack([getattr(profile, name) for profile in own]) for name in MEASURES}
        figures[key] = {
            name: [median_interval(column, seed, draws, level).to_json() for column in table.T]
            for name, table in values.items()
        }
        per_clip[key] = {
            name: [[float(f"{v:.6g}") if math.isfinite(v) else None for v in row] for row in table]
            for name, table in values.items()
        }
    return {"edges_hz": list(BAND_EDGES_HZ), "figures": figures, "per_clip": per_clip}
