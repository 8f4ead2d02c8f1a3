"""The anchors meet the Recommendation's mask and stay in time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spresso_jax.evaluate.mushra.anchor import ANCHORS, MASK, RIPPLE_DB, anchor_filter, low_pass_anchor


@pytest.mark.parametrize("passband", ANCHORS.values())
def test_the_filter_meets_the_mask(passband):
    hertz = np.fft.rfftfreq(2**17, 1.0 / 48_000)
    level = 20.0 * np.log10(np.abs(np.fft.rfft(anchor_filter(passband), 2**17)) + 1e-12)
    assert np.abs(level[hertz <= passband]).max() <= RIPPLE_DB
    for above, attenuation in MASK:
        assert level[hertz >= passband + above].max() <= -attenuation


@given(samples=st.integers(500, 4000), where=st.floats(0.0, 1.0), passband=st.sampled_from(list(ANCHORS.values())))
def test_an_impulse_stays_in_its_place(samples, where, passband):
    at = 250 + round(where * (samples - 500))
    impulse = np.zeros(samples)
    impulse[at] = 1.0
    heard = low_pass_anchor(impulse, passband)
    assert heard.shape == impulse.shape
    assert np.argmax(np.abs(heard)) == at
    reach = min(at, samples - 1 - at)
    around = heard[at - reach : at + reach + 1]
    np.testing.assert_allclose(around, around[::-1], atol=1e-12)


def test_what_lies_below_passes_as_it_is_and_what_lies_above_is_gone():
    t = np.arange(24_000) / 48_000
    low, high = np.sin(2 * np.pi * 1000.0 * t), np.sin(2 * np.pi * 6000.0 * t)
    inside = slice(300, -300)
    np.testing.assert_allclose(low_pass_anchor(low + high)[inside], low[inside], atol=0.02)


@pytest.mark.parametrize("passband", [0.0, -1.0, 23_900.0])
def test_an_impossible_passband_is_refused(passband):
    with pytest.raises(ValueError, match="passband must lie below 23500 Hz"):
        anchor_filter(passband)
