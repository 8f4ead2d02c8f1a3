import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.audio import mel
from spresso_jax.audio.mel import hz_to_mel, log_mel, magnitude_spectrum, mel_filters, mel_to_hz


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("normalise", [True, False])
def test_filters_equal_librosa(scale, normalise):
    librosa_filters = pytest.importorskip("librosa.filters")
    for rate, n_fft, bands, low, high in [(48000, 1024, 64, 50.0, 14000.0), (16000, 512, 64, 125.0, 7500.0)]:
        ours = mel_filters(rate, n_fft, bands, low, high, scale, normalise)
        norm = "slaney" if normalise else None
        htk = scale == "htk"
        theirs = librosa_filters.mel(sr=rate, n_fft=n_fft, n_mels=bands, fmin=low, fmax=high, htk=htk, norm=norm)
        np.testing.assert_allclose(ours.T, theirs, atol=2e-6 * theirs.max())


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_mel_scales_invert(scale):
    frequency = np.linspace(0.0, 24000.0, 97)
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(frequency, scale=scale), scale=scale), frequency, atol=1e-6)


def test_small_windows_by_matrix_product_equal_the_fft(monkeypatch):
    x = jax.random.normal(jax.random.key(0), (1, 2000))
    by_product = magnitude_spectrum(x, 128, 32)
    monkeypatch.setattr(mel, "LARGEST_MATMUL_WINDOW", 0)
    np.testing.assert_allclose(by_product, magnitude_spectrum(x, 128, 32), atol=2e-5)


def test_the_gradient_of_silence_is_finite():
    for window in (64, 512):
        loss = lambda x, window=window: log_mel(x, 48000, window, window // 4, 10).sum()  # noqa: E731
        gradient = jax.grad(loss)(jnp.zeros((1, 2000)))
        assert np.isfinite(gradient).all()


def test_wrong_edges_and_scales_are_named():
    with pytest.raises(ValueError, match="f_min"):
        mel_filters(16000, 512, 40, 5000.0, 9000.0)
    with pytest.raises(ValueError, match="scale"):
        mel_filters(16000, 512, 40, 0.0, None, "bark")
