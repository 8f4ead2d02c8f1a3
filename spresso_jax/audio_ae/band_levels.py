"""Levels of the bands that the linear codec drops: what a few latent channels can say about 6 to 24 kHz.

A frame has 480 coefficients and a latent 128 numbers, so most of the spectrum cannot be kept as a waveform. It can be
described: the ear hears the upper bands by their level and texture (which is how MPEG's perceptual noise substitution and
spectral band replication code them). Bands widen geometrically, as hearing does.
"""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import Array

from spresso_jax.shapes import N_FFT

# Energy of the Hann window: noise whose MDCT coefficients have variance 1 has STFT bins of this power.
_WINDOW_ENERGY = 3.0 * N_FFT / 8.0


def level_edges(kept: int, bands: int, n_fft: int = N_FFT) -> tuple[int, ...]:
    """`bands` + 1 bin numbers from `kept` to past the Nyquist bin, every band wider than the one below.

    Raises:
      ValueError: if there are fewer bins than bands.
    """
    end = n_fft // 2 + 1
    if not 1 <= bands <= end - kept or kept < 1:
        raise ValueError(f"{end - kept} bins above bin {kept} cannot make {bands} bands")
    edges = np.round(np.geomspace(kept, end, bands + 1)).astype(int)
    for i in range(1, bands):  # rounding must leave a bin to each
        edges[i] = min(max(edges[i], edges[i - 1] + 1), end - (bands - i))
    return tuple(int(edge) for edge in edges)


@lru_cache(maxsize=8)
def _membership(edges: tuple[int, ...]) -> np.ndarray:
    """1 where a bin (rows, from the first edge on) lies in a band (columns): float32, read-only."""
    bins = np.arange(edges[0], edges[-1])[:, None]
    member = ((bins >= np.array(edges[:-1])) & (bins < np.array(edges[1:]))).astype(np.float32)
    member.setflags(write=False)
    return member


def band_levels(spectrum: Array, edges: tuple[int, ...]) -> Array:
    """Root mean square of each band, in units of an MDCT coefficient.

    Args:
      spectrum: `[B, T, F]` complex, STFT under a Hann window.
      edges: of `level_edges`.

    Returns:
      float32 `[B, T, bands]`.
    """
    bins = spectrum[..., edges[0] : edges[-1]]
    member = _membership(edges)
    power = jnp.matmul(bins.real**2 + bins.imag**2, member / member.sum(0), precision="highest")
    return jnp.sqrt(power / _WINDOW_ENERGY)


def levels_of_bins(levels: Array, edges: tuple[int, ...]) -> Array:
    """The magnitude that a bin has on average where its band has that level: `[B, T, bands]` -> `[B, T, bins]`."""
    return jnp.matmul(levels, _membership(edges).T * np.float32(np.sqrt(_WINDOW_ENERGY)), precision="highest")
