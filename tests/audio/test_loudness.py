import numpy as np
import pytest

from spresso_jax.audio.loudness import integrated_loudness, loudness_of_batch, peak, rms_db


def tone(seconds: float, amplitude: float = 1.0, frequency: float = 997.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(int(48000 * seconds)) / 48000)


def test_a_full_scale_tone_has_the_loudness_that_bs1770_states():
    assert abs(integrated_loudness(tone(3.0)) + 3.01) < 0.1


def test_the_gate_ignores_silence_around_a_sound():
    sound = np.concatenate([np.zeros(96000), tone(4.0, 0.1), np.zeros(96000)])
    assert abs(integrated_loudness(sound) - integrated_loudness(tone(4.0, 0.1))) < 0.5


def test_silence_is_floored():
    assert integrated_loudness(np.zeros(100)) == -70.0
    assert loudness_of_batch(np.zeros((1, 100)))[0] == -70.0


def test_the_traceable_form_agrees_with_the_recursive_filters():
    generator = np.random.default_rng(0)
    for sound in (tone(0.3, 0.2), tone(1.03, 0.5, 60.0), 0.1 * generator.standard_normal(30000)):
        assert abs(float(loudness_of_batch(sound[None])[0]) - integrated_loudness(sound)) < 2e-3


def test_levels():
    assert abs(rms_db(tone(1.0)) + 3.01) < 0.01
    assert peak(np.array([0.5, -0.7])) == 0.7
    assert rms_db(np.zeros(10)) == -200.0
    with pytest.raises(ValueError, match="one channel"):
        integrated_loudness(np.zeros((2, 10)))
