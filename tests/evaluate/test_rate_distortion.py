"""Covariance that is added up, and the Gaussian distortion-rate function against closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spresso_jax.evaluate.rate_distortion import Moments, gaussian_distortion


def test_moments_of_blocks_are_those_of_the_whole_even_far_from_zero():
    rows = np.random.default_rng(0).normal(size=(501, 4)) * [1, 2, 3, 0.1] + 1e6
    moments = Moments(4)
    for block in (rows[:7], rows[7:7], rows[7:400], rows[400:]):
        moments.add(block)
    assert moments.rows == 501
    np.testing.assert_allclose(moments.mean(), rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance(), np.cov(rows.T, ddof=0), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bits", [0, 0.5, 3, 40])
@pytest.mark.parametrize("dimension", [1, 8])
def test_white_source_has_its_closed_form(bits, dimension):
    expected = dimension * 2.5 * 2 ** (-2 * bits / dimension)
    assert gaussian_distortion(np.full(dimension, 2.5), bits) == pytest.approx(expected, rel=1e-12)


def test_two_coordinates_by_hand():
    # Up to one bit only the larger variance is coded: half a bit a factor of two, 4 -> 1; then both share.
    assert gaussian_distortion([4.0, 1.0], 0.5) == pytest.approx(2.0 + 1.0)
    assert gaussian_distortion([4.0, 1.0], 1.0) == pytest.approx(2.0)
    assert gaussian_distortion([1.0, 4.0, 0.0], 3.0) == pytest.approx(2 * 0.25)
    assert gaussian_distortion([0.0, -1e-18], 3.0) == 0.0
    with pytest.raises(ValueError, match="negative"):
        gaussian_distortion([1.0], -1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12), st.floats(0, 60))
def test_water_level_is_the_one_that_spends_the_bits(variances, bits):
    """Bisection of the level, which the closed form must meet; the curve falls and is convex."""
    variances = np.array(variances)
    low, high = -200.0, np.log2(variances.max())
    for _ in range(200):
        level = (low + high) / 2
        spent = 0.5 * np.maximum(np.log2(variances) - level, 0).sum()
        low, high = (level, high) if spent > bits else (low, level)
    expected = np.minimum(variances, 2.0**high).sum()
    found = [gaussian_distortion(variances, rate) for rate in (bits, bits + 0.5, bits + 1)]
    assert found[0] == pytest.approx(expected, rel=1e-9)
    assert found[0] >= found[1] >= found[2]
    assert found[0] - found[1] >= (found[1] - found[2]) * (1 - 1e-9)
