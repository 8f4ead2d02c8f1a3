"""Random changes of sounds and captions that leave their meaning: pure functions of a key, for use inside the step.

A sound effect means the same at another level, a moment earlier or later, or through another microphone; it does not at
another pitch or speed, so those are left alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def repeat_sound(audio: Array, valid: Array, offset: Array | None = None) -> Array:
    """Repeats the sound of a clip up to the clip's end, where the loader put zeros.

    The length of a short sound tells what it is without any listening, and evaluation repeats short clips as well.

    Args:
      audio: `[B, S, 1]`, sound first, then zeros.
      valid: int `[B]`, samples of sound; 0 counts as 1.
      offset: int `[B]`, sample of the sound that comes first, or None for its beginning; it wraps around at the sound's end.

    Returns:
      `[B, S, 1]`.
    """
    samples = audio.shape[1]
    period = jnp.clip(valid, 1, samples)[:, None]
    index = jnp.arange(samples)[None] + (0 if offset is None else offset[:, None])
    return jnp.take_along_axis(audio, (index % period)[..., None], axis=1)


def shift_sound(key: Array, audio: Array, valid: Array) -> Array:
    """`repeat_sound` from a random sample of every sound on; one that fills its clip keeps its beginning.

    A sound of the clip's whole length was cropped at a random place already, and a wrap would put a cut into its middle.
    """
    samples = audio.shape[1]
    offset = jax.random.randint(key, valid.shape, 0, jnp.clip(valid, 1, samples))
    return repeat_sound(audio, valid, jnp.where(valid < samples, offset, 0))


def change_gain(key: Array, audio: Array, gain_db: float) -> Array:
    """A random gain for every clip, uniform in dB between -`gain_db` and `gain_db`: loudness does not say what a sound is."""
    gain = jax.random.uniform(key, (audio.shape[0], 1, 1), minval=-gain_db, maxval=gain_db)
    return audio * 10.0 ** (gain / 20.0)


def tilt_spectrum(key: Array, features: Array, tilt_db: float) -> Array:
    """Log-mel `[B, T, mel]` in dB through an equaliser that is straight over the bands, at most +-`tilt_db` at both ends."""
    slope = jax.random.uniform(key, (features.shape[0], 1, 1), minval=-tilt_db, maxval=tilt_db)
    return features + slope * jnp.linspace(-1.0, 1.0, features.shape[-1])


def mask_stripes(key: Array, features: Array, fill: Array, stripes: int, frames: int, bands: int) -> Array:
    """Hides stripes of time and of frequency.

    Args:
      key: of the draws.
      features: `[B, T, mel]`.
      fill: `[mel]`, what is put there: the mean of each band.
      stripes: of each kind for every clip.
      frames: a stripe of time is narrower than this, 0 hides none.
      bands: a stripe of frequency is narrower than this, 0 hides none.

    Returns:
      `[B, T, mel]`.

    Source: SpecAugment (arXiv:1904.08779) as HTSAT trains with it: 2 stripes of less than 64 frames and 8 bands.
    """
    batch, length, mel = features.shape
    time_key, band_key = jax.random.split(key)
    in_time = _stripes(time_key, batch, length, stripes, frames)[:, :, None]
    in_bands = _stripes(band_key, batch, mel, stripes, bands)[:, None, :]
    return jnp.where(in_time | in_bands, fill, features)


def _stripes(key: Array, batch: int, length: int, stripes: int, widest: int) -> Array:
    """bool `[B, length]`, True inside one of the stripes."""
    if not widest or not stripes:
        return jnp.zeros((batch, length), bool)
    width_key, start_key = jax.random.split(key)
    width = jax.random.randint(width_key, (batch, stripes, 1), 0, min(widest, length))
    start = jax.random.randint(start_key, (batch, stripes, 1), 0, length - width)
    place = jnp.arange(length)
    return ((place >= start) & (place < start + width)).any(axis=1)


def drop_tokens(key: Array, mask: Array, probability: float) -> Array:
    """Hides tokens of captions, each with `probability`, but never the first and the last one.

    Positions count what the mask shows, so this is the caption without those pieces. A caption keeps all of its pieces
    rather than none.

    Args:
      key: of the draws.
      mask: bool `[B, N]`, True for real tokens, special ones included.
      probability: of each piece between start and end.
    """
    place, count = jnp.arange(mask.shape[1]), mask.sum(axis=1, keepdims=True)
    special = (place == 0) | (place == count - 1)
    kept = mask & (special | ~jax.random.bernoulli(key, probability, mask.shape))
    return jnp.where(kept.sum(axis=1, keepdims=True) > 2, kept, mask)
