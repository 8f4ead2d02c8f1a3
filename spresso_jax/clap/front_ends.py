"""Log-mel features as LAION-CLAP computes them, for clips of any length at 48 kHz.

Every choice is by the static number of samples, so the whole front end runs inside jit. A clip that is longer than the
model's window is cropped at a fixed place (LAION crops at random): an evaluation must not depend on chance.

Source: LAION-CLAP (arXiv:2211.06687) and its `clap-htsat` preprocessors. "rand_trunc" checkpoints use Slaney filters
with area normalisation, "fusion" checkpoints HTK filters without; the public ones set 50 Hz to 14 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from spresso_jax.audio.mel import mel_filters
from spresso_jax.audio.stft import stft
from spresso_jax.shapes import SAMPLE_RATE

FILTER_BANKS = {"slaney": True, "htk": False}
SHORT_CLIPS = ("repeatpad", "repeat", "pad")
POWER_FLOOR = 1e-10


@dataclass(frozen=True)
class FrontEnd:
    """Settings of the features; one STFT frame is `hop` samples, so `frames` columns come out whatever goes in.

    Attributes:
      mel_bins: number of mel bands.
      n_fft: frame length of the STFT in samples.
      hop: samples between frames.
      f_min: lowest edge of the filters in Hz.
      f_max: highest edge of the filters in Hz.
      filter_bank: "slaney" (area normalised, LAION's rand_trunc mode) or "htk" (unit peaks, its fusion mode).
      samples: length that every clip is brought to (LAION: 480 000, 10 s).
      short_clips: "repeatpad" tiles whole times, then zeros; "repeat" tiles and cuts; "pad" appends zeros.
      crop: first sample kept of a longer clip, or -1 for the centre.
      sample_rate: of the audio, Hz.
    """

    mel_bins: int = 64
    n_fft: int = 1024
    hop: int = 480
    f_min: float = 50.0
    f_max: float = 14_000.0
    filter_bank: str = "slaney"
    samples: int = 480_000
    short_clips: str = "repeatpad"
    crop: int = 0
    sample_rate: int = SAMPLE_RATE

    def __post_init__(self):
        if self.filter_bank not in FILTER_BANKS:
            raise ValueError(f"filter_bank must be one of {', '.join(FILTER_BANKS)}, got {self.filter_bank!r}")
        if self.short_clips not in SHORT_CLIPS:
            raise ValueError(f"short_clips must be one of {', '.join(SHORT_CLIPS)}, got {self.short_clips!r}")

    @property
    def frames(self) -> int:
        """Number of feature frames, samples // hop + 1 (centred frames)."""
        return self.samples // self.hop + 1


def fit_length(audio: Array | np.ndarray, front_end: FrontEnd) -> Array | np.ndarray:
    """Brings `[B, S]` audio to `[B, front_end.samples]` by cropping, tiling or padding with zeros.

    A NumPy array stays one, so that clips of many lengths compile nothing.

    Raises:
      ValueError: if the audio is empty, or the fixed crop does not fit into the clip.
    """
    target, samples = front_end.samples, audio.shape[1]
    tile, pad = (np.tile, np.pad) if isinstance(audio, np.ndarray) else (jnp.tile, jnp.pad)
    if samples == 0:
        raise ValueError("an empty clip has no CLAP features: give at least one sample")
    if samples > target:
        first = (samples - target) // 2 if front_end.crop < 0 else front_end.crop
        if first + target > samples:
            raise ValueError(f"crop {first} + {target} samples exceeds the clip of {samples}: choose a smaller crop")
        return audio[:, first : first + target]
    if front_end.short_clips == "repeat":
        return tile(audio, (1, -(-target // samples)))[:, :target]
    if front_end.short_clips == "repeatpad":
        audio = tile(audio, (1, target // samples))
    return pad(audio, ((0, 0), (0, target - audio.shape[1])))


def log_mel_features(audio: Array, front_end: FrontEnd) -> Array:
    """Log-mel features in dB: 10 log10(max(mel power, 1e-10)).

    Args:
      audio: `[B, S, 1]`, 48 kHz, -1..1, any length.
      front_end: the settings.

    Returns:
      float32 `[B, front_end.frames, mel_bins]`.

    Raises:
      ValueError: if the audio is not mono `[B, S, 1]` or is empty.

    Source: LAION-CLAP's feature extractor (Hann 1024, hop 480, centred frames, power 2, no top_db).
    """
    if audio.ndim != 3 or audio.shape[-1] != 1:
        raise ValueError(f"audio must be [B, S, 1] (mono), got shape {tuple(audio.shape)}")
    fitted = fit_length(audio[..., 0], front_end)
    spectrum = stft(fitted, front_end.n_fft, front_end.hop, padding="center")
    power = spectrum.real**2 + spectrum.imag**2
    filters = mel_filters(
        front_end.sample_rate,
        front_end.n_fft,
        front_end.mel_bins,
        front_end.f_min,
        front_end.f_max,
        front_end.filter_bank,
        FILTER_BANKS[front_end.filter_bank],
    )
    mel = jnp.matmul(power, filters, precision="highest")
    return 10.0 * jnp.log10(jnp.maximum(mel, POWER_FLOOR))


def sixteen_bits(audio: Array | np.ndarray) -> Array:
    """Audio clipped to -1..1 and truncated to 16 bits toward zero, as LAION's own wrapper does before the features.

    transformers does not do this; the difference is below the noise of any metric, but it is there.
    """
    return jnp.trunc(jnp.clip(audio, -1.0, 1.0) * 32767.0) / 32767.0
