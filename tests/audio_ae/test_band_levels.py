import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spresso_jax.audio.stft import stft
from spresso_jax.audio_ae.band_levels import band_levels, level_edges, levels_of_bins
from spresso_jax.audio_ae.linear_start import mdct_basis, mdct_frames


@given(st.integers(1, 480), st.data())
def test_bands_cover_every_bin_above_the_kept_ones_and_widen(kept, data):
    bands = data.draw(st.integers(1, min(481 - kept, 64)))
    edges = level_edges(kept, bands)
    widths = np.diff(edges)
    assert edges[0] == kept and edges[-1] == 481 and len(widths) == bands and (widths >= 1).all()
    assert (np.diff(widths) >= -1).all()


def test_too_many_bands_are_refused():
    with pytest.raises(ValueError, match="cannot make"):
        level_edges(478, 4)


def test_a_level_is_the_rms_of_the_bands_mdct_coefficients():
    noise = 0.1 * jax.random.normal(jax.random.key(0), (1, 48_000 * 4))
    edges = level_edges(124, 4)
    levels = band_levels(stft(noise, 960, 480), edges)
    coefficients = mdct_frames(noise) @ mdct_basis(480)
    assert levels.shape == (1, 400, 4)
    for band, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        rms = float(jnp.sqrt(jnp.mean(jnp.square(coefficients[..., low:high]))))
        assert float(jnp.sqrt(jnp.mean(jnp.square(levels[..., band])))) == pytest.approx(rms, rel=0.05)


def test_bins_of_unit_noise_times_their_level_sound_as_loud_as_the_source():
    noise = 0.1 * jax.random.normal(jax.random.key(0), (1, 48_000))
    spectrum = stft(noise, 960, 480)
    edges = level_edges(124, 4)
    bins = levels_of_bins(band_levels(spectrum, edges), edges)
    assert bins.shape == (1, 100, 481 - 124)
    power = jnp.mean(jnp.square(jnp.abs(spectrum[..., 124:])))
    assert float(jnp.mean(jnp.square(bins)) / power) == pytest.approx(1.0, rel=1e-3)
