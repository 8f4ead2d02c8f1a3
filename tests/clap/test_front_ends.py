"""Features of clips that are shorter or longer than the model's window."""

import dataclasses

import jax
import numpy as np
import pytest

from spresso_jax.clap.front_ends import FrontEnd, fit_length, log_mel_features, sixteen_bits

SECOND = FrontEnd(samples=48_000)


def noise(samples, batch=1):
    return 0.1 * np.random.default_rng(0).standard_normal((batch, samples, 1)).astype(np.float32)


def test_half_length_clip_is_repeated_exactly_twice():
    half = noise(24_000)
    twice = log_mel_features(np.concatenate([half, half], axis=1), SECOND)
    np.testing.assert_array_equal(log_mel_features(half, SECOND), twice)


def test_repeatpad_repeats_whole_times_then_pads_with_zeros():
    audio = noise(7_000)[..., 0]
    fitted = np.asarray(fit_length(audio, SECOND))
    np.testing.assert_array_equal(fitted[:, :42_000], np.tile(audio, (1, 6)))
    assert not fitted[:, 42_000:].any()


def test_repeat_cuts_the_last_repetition_and_pad_repeats_nothing():
    audio = noise(30_000)[..., 0]
    repeated = fit_length(audio, dataclasses.replace(SECOND, short_clips="repeat"))
    np.testing.assert_array_equal(repeated[:, 30_000:], audio[:, :18_000])
    padded = np.asarray(fit_length(audio, dataclasses.replace(SECOND, short_clips="pad")))
    np.testing.assert_array_equal(padded[:, :30_000], audio)
    assert not padded[:, 30_000:].any()


@pytest.mark.parametrize(("crop", "first"), [(0, 0), (-1, 1_000), (1_500, 1_500)])
def test_longer_clip_is_cropped_at_a_fixed_place(crop, first):
    audio = noise(50_000)[..., 0]
    fitted = fit_length(audio, dataclasses.replace(SECOND, crop=crop))
    np.testing.assert_array_equal(fitted, audio[:, first : first + 48_000])


def test_silence_has_the_floor_of_minus_100_decibels_and_a_finite_gradient():
    silence = np.zeros((1, 48_000, 1), np.float32)
    np.testing.assert_allclose(log_mel_features(silence, SECOND), -100.0)
    gradient = jax.grad(lambda audio: log_mel_features(audio, SECOND).sum())(silence)
    assert np.isfinite(gradient).all()


def test_frames_follow_the_samples_and_the_hop():
    features = log_mel_features(noise(10_000, batch=2), dataclasses.replace(SECOND, hop=960, mel_bins=32))
    assert features.shape == (2, 51, 32)
    assert FrontEnd().frames == 1001


def test_sixteen_bits_truncates_toward_zero_and_clips():
    np.testing.assert_allclose(sixteen_bits(np.array([1.5, -0.99999, 1e-5])), [1.0, -32766 / 32767, 0.0], rtol=1e-6)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="filter_bank"):
        FrontEnd(filter_bank="bark")
    with pytest.raises(ValueError, match="short_clips"):
        FrontEnd(short_clips="loop")
    with pytest.raises(ValueError, match="mono"):
        log_mel_features(np.zeros((1, 48_000, 2), np.float32), SECOND)
    with pytest.raises(ValueError, match="empty"):
        log_mel_features(np.zeros((1, 0, 1), np.float32), SECOND)
    with pytest.raises(ValueError, match="crop 5000"):
        fit_length(noise(50_000)[..., 0], dataclasses.replace(SECOND, crop=5_000))
