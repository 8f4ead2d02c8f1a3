import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spresso_jax.audio_ae.linear_start import (
    compand,
    expand,
    linear_codec_decode,
    linear_codec_encode,
    mdct_basis,
    mdct_frames,
    pad_to_frames,
)


def decaying_sound(seconds: float = 1.0) -> np.ndarray:
    """Broadband noise with a spectrum falling 12 dB an octave above 2 kHz and an exponential decay, `[1, S, 1]`."""
    generator = np.random.default_rng(0)
    samples = int(48000 * seconds)
    frequency = np.fft.rfftfreq(samples, 1 / 48000)
    spectrum = np.fft.rfft(generator.standard_normal(samples)) / (1.0 + (frequency / 2000.0) ** 2)
    sound = np.fft.irfft(spectrum, samples) * np.exp(-3.0 * np.arange(samples) / samples)
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)[None, :, None]


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    r, e = np.ravel(reference), np.ravel(estimate)
    target = (r @ e) / (r @ r) * r
    return 10 * np.log10((target @ target) / np.sum((e - target) ** 2))


@pytest.mark.parametrize("padding", ["same", "center"])
def test_all_coefficients_reconstruct_exactly_up_to_the_ends(padding):
    audio = jax.random.normal(jax.random.key(0), (2, 5003, 1))
    latent = linear_codec_encode(audio, 480, padding=padding)
    np.testing.assert_allclose(linear_codec_decode(latent, 5003, padding=padding), audio, atol=2e-5)


def test_the_lowest_128_coefficients_keep_what_lies_under_6400_hz():
    audio = decaying_sound()
    decoded = np.asarray(linear_codec_decode(linear_codec_encode(audio)))
    assert si_sdr(audio, decoded) > 15.0
    frequency = np.fft.rfftfreq(audio.shape[1], 1 / 48000)
    original, coded = (np.fft.rfft(x[0, :, 0]) for x in (audio, decoded))
    low, high = frequency < 6000.0, frequency > 7000.0
    assert np.linalg.norm((coded - original)[low]) < 0.03 * np.linalg.norm(original[low])
    assert np.linalg.norm(coded[high]) < 0.05 * np.linalg.norm(original[high])


def test_coefficients_equal_the_textbook_mdct():
    audio = jax.random.normal(jax.random.key(0), (1, 1920, 1))
    latent = expand(linear_codec_encode(audio, 480))
    signal = np.concatenate([-audio[0, :240, 0][::-1], audio[0, :, 0], audio[0, -240:, 0][::-1]])
    n, k = np.arange(960), np.arange(480)
    window = np.sin(np.pi * (n + 0.5) / 960)
    cosine = np.cos(np.pi / 480 * (n[None] + 0.5 + 240) * (k[:, None] + 0.5)) * np.sqrt(2 / 480)
    for t in range(4):
        np.testing.assert_allclose(latent[0, t], cosine @ (window * signal[480 * t : 480 * t + 960]), atol=1e-4)


def test_frames_lie_where_the_same_padded_stft_puts_them():
    audio = jnp.arange(1440.0)[None]
    frames = mdct_frames(audio)
    assert frames.shape == (1, 3, 960)
    np.testing.assert_array_equal(frames[0, 1, :10], jnp.arange(240.0, 250.0))


@settings(max_examples=20, deadline=None)
@given(st.floats(-10.0, 10.0, width=32))
def test_companding_inverts(value):
    assert abs(float(expand(compand(jnp.float32(value)))) - value) <= 1e-5 * abs(value) + 1e-9


def test_companding_has_finite_slopes_at_zero():
    assert np.isfinite(jax.grad(compand)(0.0)) and np.isfinite(jax.grad(expand)(0.0))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 2000))
def test_padding_fills_the_last_hop_with_zeros(samples):
    padded = pad_to_frames(jnp.ones((1, samples, 1)))
    assert padded.shape[1] % 480 == 0 and 0 <= padded.shape[1] - samples < 480
    assert float(padded.sum()) == samples


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="1 to 480"):
        mdct_basis(481)
    with pytest.raises(ValueError, match="whole hops"):
        mdct_frames(jnp.zeros((1, 500)))
    with pytest.raises(ValueError, match="padding"):
        mdct_frames(jnp.zeros((1, 480)), "valid")
    with pytest.raises(ValueError, match="empty"):
        linear_codec_encode(jnp.zeros((1, 0, 1)))
