"""SI-SDR, mel distance and log-spectral distance on signals with known answers."""

import math

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spresso_jax.audio.mel import log_mel
from spresso_jax.evaluate import reconstruction as r

RNG = np.random.default_rng(0)
SIGNAL = RNG.standard_normal(9600) * 0.1
NOISE = RNG.standard_normal(9600)


def with_noise(db: float) -> np.ndarray:
    orthogonal = NOISE - NOISE.mean()
    centred = SIGNAL - SIGNAL.mean()
    orthogonal = orthogonal - np.dot(orthogonal, centred) / np.dot(centred, centred) * centred
    scale = np.linalg.norm(centred) / np.linalg.norm(orthogonal) * 10 ** (-db / 20)
    return SIGNAL + scale * orthogonal


@pytest.mark.parametrize("db", [-20.0, 0.0, 13.0, 40.0])
def test_si_sdr_is_the_ratio_of_orthogonal_noise(db):
    assert r.si_sdr(SIGNAL, with_noise(db)) == pytest.approx(db, abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(gain=st.floats(1e-6, 1e3), offset=st.floats(-2.0, 2.0), level=st.floats(1e-7, 1e2))
def test_si_sdr_does_not_depend_on_gain_offset_or_level(gain, offset, level):
    value = r.si_sdr(level * SIGNAL, level * gain * with_noise(12.0) + level * offset)
    assert value == pytest.approx(12.0, abs=1e-4)


def test_si_sdr_rules_for_silence_and_identity():
    silent = np.zeros(100)
    sound = RNG.standard_normal(100)
    assert math.isnan(r.si_sdr(silent, sound)) and math.isnan(r.si_sdr(silent, silent))
    assert r.si_sdr(sound, silent) == r.SILENT_ESTIMATE_DB
    assert r.si_sdr(sound, 0.3 * sound) == r.IDENTICAL_DB
    assert math.isnan(r.si_sdr(np.full(100, 0.5), sound))


def test_si_sdr_takes_batches():
    rows = r.si_sdr(np.stack([SIGNAL, SIGNAL]), np.stack([with_noise(3.0), with_noise(9.0)]))
    np.testing.assert_allclose(rows, [3.0, 9.0], atol=1e-8)


def test_si_sdr_refuses_other_shapes_and_unknown_conventions():
    with pytest.raises(ValueError, match="shape"):
        r.si_sdr(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="convention"):
        r.si_sdr(np.zeros(3), np.zeros(3), convention="other")


def test_magnitude_frames_equal_librosa():
    expected = np.abs(librosa.stft(SIGNAL, n_fft=512, hop_length=128, pad_mode="reflect")).T
    np.testing.assert_allclose(r.magnitude_frames(SIGNAL, 512, 128), expected, atol=1e-9)


@pytest.mark.parametrize(("window", "bands"), [(2048, 320), (256, 40)])
def test_mel_distance_of_one_scale_equals_the_training_front_end(window, bands):
    first, second = (
        np.asarray(log_mel(x[None].astype(np.float32), 48_000, window, window // 4, bands))[0]
        for x in (SIGNAL, with_noise(6.0))
    )
    ours = r.multi_scale_mel_distance(SIGNAL, with_noise(6.0), scales=((window, bands),))
    assert ours == pytest.approx(float(np.abs(first - second).mean()), rel=1e-3)


def test_mel_distance_is_zero_for_equal_clips_and_grows_with_noise():
    assert r.multi_scale_mel_distance(SIGNAL, SIGNAL) == 0.0
    assert r.multi_scale_mel_distance(SIGNAL, with_noise(0.0)) > r.multi_scale_mel_distance(SIGNAL, with_noise(20.0))


def test_log_spectral_distance_of_a_gain_is_the_gain_in_db():
    assert r.log_spectral_distance(SIGNAL, 0.5 * SIGNAL) == pytest.approx(20 * math.log10(2.0), rel=1e-2)


def test_log_spectral_distance_of_a_silent_reference_is_nan():
    assert math.isnan(r.log_spectral_distance(np.zeros(4800), SIGNAL[:4800]))


@pytest.mark.parametrize("samples", [1, 7, 480])
def test_very_short_clips_have_finite_distances(samples):
    first, second = RNG.standard_normal(samples), RNG.standard_normal(samples)
    assert math.isfinite(r.multi_scale_mel_distance(first, second))
    assert math.isfinite(r.log_spectral_distance(first, second))


def test_distances_refuse_batches_and_other_lengths():
    for measure in (r.multi_scale_mel_distance, r.log_spectral_distance):
        with pytest.raises(ValueError, match="one clip"):
            measure(np.zeros((1, 5)), np.zeros((1, 5)))
        with pytest.raises(ValueError, match="length"):
            measure(np.zeros(5), np.zeros(6))


def test_score_counts_silent_clips_and_excludes_silent_references():
    references = [SIGNAL, SIGNAL, np.zeros(9600), np.full(9600, 0.1)]
    estimates = [with_noise(10.0), np.zeros(9600), SIGNAL, np.zeros(9600)]
    score, values = r.si_sdr_score(references, estimates, ["a", "b", "c", "d"])
    assert score.exclusions == {"silent reference": ("c", "d")}
    assert score.counts == {"clips": 2, "silent_estimates": 1}
    assert values[:2] == pytest.approx([10.0, r.SILENT_ESTIMATE_DB]) and np.isnan(values[2:]).all()
    assert score.value == pytest.approx((10.0 + r.SILENT_ESTIMATE_DB) / 2) and score.label == "SI-SDR"


@pytest.mark.parametrize("delay", [-37, 0, 5, 480])
def test_constant_delay_of_a_system_is_found_removed_and_recorded(delay):
    references = [RNG.standard_normal(4800) for _ in range(3)]
    late = [np.roll(x, delay) + 0.1 * RNG.standard_normal(4800) for x in references]
    score, values = r.si_sdr_score([*references, np.zeros(4800)], [*late, SIGNAL[:4800]], list("abcd"), max_delay=500)
    assert score.options["delay"] == {"searched_samples": 500, "removed_samples": delay, "per": "system"}
    assert values[:3] == pytest.approx([20.0] * 3, abs=0.6)
    unaligned, _ = r.si_sdr_score(references, late, list("abc"))
    assert delay == 0 or unaligned.value < -15.0


@pytest.mark.parametrize(("change", "message"), [
    ({"names": ["a"]}, "1 names for 2 clips"),
    ({"estimates": [SIGNAL]}, "as many estimates"),
    ({"estimates": [SIGNAL, SIGNAL[:-1]]}, "clip 1: .*same length"),
    ({"estimates": [SIGNAL, np.full(9600, np.nan)]}, "'b': the estimate .*not finite"),
    ({"max_delay": 4800}, "max_delay"),
    ({"references": [np.zeros(9600)] * 2}, "every reference is silent"),
])
def test_clips_that_cannot_be_compared_are_refused(change, message):
    arguments = {"references": [SIGNAL, SIGNAL], "estimates": [SIGNAL, SIGNAL], "names": ["a", "b"], **change}
    with pytest.raises(ValueError, match=message):
        r.si_sdr_score(**arguments)
