"""SNR and energy ratio per frequency band on signals with known answers; medians over clips."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spresso_jax.evaluate import bands as b
from spresso_jax.evaluate.bootstrap import Interval, median_interval

SAMPLES = 9_600
COUNT = len(b.BAND_EDGES_HZ) - 1
CENTRES = [(low + high) / 2 for low, high in zip(b.BAND_EDGES_HZ, b.BAND_EDGES_HZ[1:], strict=False)]
RNG = np.random.default_rng(0)
NOISE = 0.1 * RNG.standard_normal(SAMPLES)


def cosine(hertz: float, amplitude: float = 1.0, samples: int = SAMPLES) -> np.ndarray:
    """A tone of a whole number of half periods between the clip's edges: one coefficient of the transform."""
    k = round(hertz * samples / 24_000)
    return amplitude * np.cos(np.pi * (np.arange(samples) + 0.5) * k / samples)


def profile_of(source: np.ndarray, decoded: np.ndarray) -> b.BandProfile:
    return b.band_profile(b.banded_source(source), decoded)


def test_tones_with_known_errors_have_exactly_their_ratios():
    levels = [0.3, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001]
    errors_db = [38.6, 20.0, 10.1, 0.0, -1.8, -20.0, -40.0]
    source = sum(cosine(f, a) for f, a in zip(CENTRES, levels, strict=True))
    # The error lies at another frequency of the same band, so energies add up.
    amplitudes = [a * 10 ** (-db / 20) for a, db in zip(levels, errors_db, strict=True)]
    error = sum(cosine(f + 250.0, a) for f, a in zip(CENTRES, amplitudes, strict=True))
    profile = profile_of(source, source + error)
    np.testing.assert_allclose(profile.snr, errors_db, atol=1e-8)
    expected = [10 * math.log10(1 + 10 ** (-db / 10)) for db in errors_db]
    np.testing.assert_allclose(profile.energy_ratio, expected, atol=1e-8)


@pytest.mark.parametrize(("hertz", "band"), [(0.0, 0), (997.5, 0), (1000.0, 1), (4000.0, 2), (8000.0, 3), (23997.5, 6)])
def test_a_band_has_its_lower_edge_and_not_its_upper_one(hertz, band):
    energies = b.band_energies(b.cosine_spectrum(cosine(hertz)))
    assert energies[band] == pytest.approx(np.sum(cosine(hertz) ** 2)) and np.sum(energies) == pytest.approx(
        energies[band]
    )


@pytest.mark.parametrize("phase", [0.0, 0.7, np.pi / 2])
def test_a_sine_that_fits_no_coefficient_stays_in_its_band(phase):
    tone = np.sin(2 * np.pi * 6_007.3 * np.arange(SAMPLES) / 48_000 + phase)
    energies = b.band_energies(b.cosine_spectrum(tone))
    assert energies[2] / np.sum(tone**2) == pytest.approx(1.0, abs=1e-3)


def test_a_jump_between_the_ends_of_a_clip_does_not_reach_high_bands():
    energies = b.band_energies(b.cosine_spectrum(np.linspace(-0.25, 0.25, 240_000)))
    assert (energies[1:] < b.energy_floor(240_000)[1:] / 1000).all()


def test_a_clip_cut_through_a_loud_low_tone_has_nothing_in_the_high_bands():
    tone = 0.5 * np.sin(2 * np.pi * 440.3 * np.arange(SAMPLES) / 48_000 + 0.3)
    high = b.band_energies(b.cosine_spectrum(tone))[2:]
    assert (high[:3] > b.energy_floor(SAMPLES)[2:5]).all()
    assert not b.banded_source(tone).sounding[2:].any() and b.banded_source(tone).sounding[0]


def test_an_attack_on_the_first_sample_counts_with_its_whole_energy():
    attack = NOISE * np.exp(-np.arange(SAMPLES) / 480.0)
    assert b.banded_source(attack).sounding.all()
    assert np.sum(b.banded_source(attack).energies) == pytest.approx(np.sum(attack**2))


def test_half_the_amplitude_is_six_decibels_down_in_every_band_and_an_error_of_the_same_size():
    profile = profile_of(NOISE, 0.5 * NOISE)
    np.testing.assert_allclose(profile.energy_ratio, -20 * math.log10(2.0), atol=1e-9)
    np.testing.assert_allclose(profile.snr, 20 * math.log10(2.0), atol=1e-9)


def test_a_perfect_copy_stops_at_the_limit_and_silence_at_the_other():
    copy, silence = profile_of(NOISE, NOISE.copy()), profile_of(NOISE, np.zeros(SAMPLES))
    assert (copy.snr == b.LIMIT_DB).all() and (copy.energy_ratio == 0.0).all()
    np.testing.assert_allclose(silence.snr, 0.0, atol=1e-9)
    assert (silence.energy_ratio == -b.LIMIT_DB).all()


def test_opposite_sign_keeps_the_energy_and_doubles_the_error():
    profile = profile_of(NOISE, -NOISE)
    np.testing.assert_allclose(profile.energy_ratio, 0.0, atol=1e-9)
    np.testing.assert_allclose(profile.snr, -20 * math.log10(2.0), atol=1e-9)


def test_bands_without_energy_in_the_source_are_left_out_whatever_is_decoded():
    source = cosine(500.0, 0.1) + cosine(14_000.0, 0.1)
    for decoded in (source, NOISE, np.zeros(SAMPLES)):
        profile = profile_of(source, decoded)
        for values in (profile.snr, profile.energy_ratio):
            assert np.isfinite(values).tolist() == [True, False, False, False, True, False, False]
    assert np.isnan(profile_of(np.zeros(SAMPLES), NOISE).snr).all()


@pytest.mark.parametrize("dither", [0.0, 1.0])
def test_rounding_to_sixteen_bits_is_no_energy_and_a_faint_tone_is(dither):
    step = 2.0**-15
    dithered = cosine(500.0, 0.5) / step + dither * (RNG.uniform(-0.5, 0.5, (2, SAMPLES)).sum(axis=0))
    source = np.round(dithered) * step
    assert np.isfinite(profile_of(source, source).snr).tolist() == [True] + [False] * 6
    audible = source + cosine(10_000.0, 3 * step)
    assert np.isfinite(profile_of(audible, audible).snr).tolist() == [True, False, False, True] + [False] * 3


def test_floor_is_ten_decibels_above_sixteen_bit_rounding_noise():
    power = np.sum(b.energy_floor(SAMPLES)) / SAMPLES
    assert 10 * math.log10(power) == pytest.approx(-101.1 + 10.0, abs=0.01)
    np.testing.assert_allclose(b.energy_floor(SAMPLES)[1] / b.energy_floor(SAMPLES)[0], 3.0)


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(1, 4_000), seed=st.integers(0, 2**32 - 1), level=st.floats(1e-6, 10.0), offset=st.floats(-1, 1)
)
def test_band_energies_add_up_to_the_energy_of_the_clip(samples, seed, level, offset):
    audio = level * np.random.default_rng(seed).standard_normal(samples) + offset
    total = np.sum(b.band_energies(b.cosine_spectrum(audio)))
    assert total == pytest.approx(np.sum(audio**2), rel=1e-10)


@settings(max_examples=30, deadline=None)
@given(gain=st.floats(0.01, 100.0), seed=st.integers(0, 2**32 - 1))
def test_both_measures_do_not_depend_on_the_common_level(gain, seed):
    error = 0.05 * np.random.default_rng(seed).standard_normal(SAMPLES)
    plain, louder = profile_of(NOISE, NOISE + error), profile_of(gain * NOISE, gain * (NOISE + error))
    np.testing.assert_allclose(louder.snr, plain.snr, atol=1e-8)
    np.testing.assert_allclose(louder.energy_ratio, plain.energy_ratio, atol=1e-8)


def test_single_precision_clips_are_measured_in_double():
    profile = profile_of(NOISE.astype(np.float32), (0.9 * NOISE).astype(np.float32))
    assert profile.snr.dtype == np.float64
    np.testing.assert_allclose(profile.snr, 20.0, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 2, 7, 48])
def test_very_short_clips_have_a_profile(samples):
    source = 0.1 * np.ones(samples)
    profile = profile_of(source, 0.5 * source)
    assert profile.snr[0] == pytest.approx(20 * math.log10(2.0)) and np.isnan(profile.snr[1:]).all()


def test_clips_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="the source's 5 samples"):
        profile_of(np.zeros(5), np.zeros(6))
    for audio in (np.zeros((1, 5)), np.zeros(0), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match="one clip"):
            b.cosine_spectrum(audio)


def test_scores_are_medians_over_the_clips_that_count():
    full = [profile_of(NOISE, gain * NOISE) for gain in (0.5, 0.9, 0.99)]
    low_only = [profile_of(cosine(500.0, 0.1), cosine(500.0, 0.1))]
    scores = b.band_scores({"one": full + low_only}, draws=200)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    first, last = (scores["figures"]["one"]["snr"][i] for i in (0, -1))
    # 6.02, 20, 40 and the copy's 100 in the lowest band, the first three elsewhere.
    assert first["mean"] == pytest.approx(30.0) and (first["count"], first["left_out"]) == (4, 0)
    assert last["mean"] == pytest.approx(20.0) and (last["count"], last["left_out"]) == (3, 1)
    assert last["low"] == pytest.approx(6.02, abs=0.01) and last["high"] == pytest.approx(40.0)
    assert scores["per_clip"]["one"]["snr"][3] == [100.0] + [None] * 6
    assert len(scores["per_clip"]["one"]["energy_ratio"]) == 4


def test_median_interval_covers_the_true_median_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        interval = median_interval(rng.standard_cauchy(61) + 3.0, seed=trial, draws=400)
        covered += interval.low <= 3.0 <= interval.high
    assert 0.89 <= covered / 300 <= 0.99


def test_median_interval_leaves_out_and_counts_what_is_not_finite():
    interval = median_interval(np.array([1.0, np.nan, 2.0, 1000.0]))
    assert (interval.mean, interval.median, interval.count, interval.left_out) == (2.0, 2.0, 3, 1)
    assert Interval.from_json(median_interval(np.array([np.nan])).to_json()).count == 0
    with pytest.raises(ValueError, match="one number per clip"):
        median_interval(np.zeros((2, 2)))


def test_the_published_profile_covers_the_same_range_as_the_bands():
    edges = [band.low_hz for band in b.DEMO_PAGE_PROFILE] + [b.DEMO_PAGE_PROFILE[-1].high_hz]
    assert [band.high_hz for band in b.DEMO_PAGE_PROFILE] == edges[1:] and set(b.BAND_EDGES_HZ) <= set(edges)
