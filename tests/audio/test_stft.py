import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.audio.stft import frame, istft, overlap_add, padding_of, stft


@pytest.mark.parametrize(("length", "hop"), [(960, 480), (1024, 320), (400, 160), (12, 5)])
def test_frames_are_the_slices_that_numpy_cuts_for_any_hop(length, hop):
    x = np.random.default_rng(0).standard_normal((2, length + 7 * hop + 3)).astype(np.float32)
    expected = np.stack([x[:, k * hop : k * hop + length] for k in range(8)], axis=1)
    np.testing.assert_array_equal(frame(x, length, hop), expected)


@pytest.mark.parametrize(("length", "hop"), [(960, 480), (1024, 320), (12, 5)])
def test_overlap_add_is_the_transpose_of_framing(length, hop):
    x = jax.random.normal(jax.random.key(0), (1, length + 4 * hop))
    frames = jax.random.normal(jax.random.key(1), (1, 5, length))
    _, transpose = jax.vjp(lambda s: frame(s, length, hop), x)
    np.testing.assert_allclose(overlap_add(frames, hop), transpose(frames)[0], atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "center"])
@pytest.mark.parametrize(("n_fft", "hop"), [(960, 480), (960, 240), (512, 128)])
def test_the_inverse_gives_the_signal_back(n_fft, hop, padding):
    x = jax.random.normal(jax.random.key(0), (2, 10 * hop))
    np.testing.assert_allclose(istft(stft(x, n_fft, hop, padding=padding), n_fft, hop, padding=padding), x, atol=2e-5)


def test_imaginary_dc_and_nyquist_do_not_change_the_audio():
    spectrum = stft(jax.random.normal(jax.random.key(0), (1, 4800)), 960, 480)
    moved = spectrum.at[..., 0].add(3j).at[..., -1].add(-2j)
    np.testing.assert_array_equal(istft(moved, 960, 480), istft(spectrum, 960, 480))


def test_a_window_of_ones_with_no_padding_is_a_plain_fft():
    x = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    spectrum = stft(x, 32, 32, window=np.ones(32), padding="none")
    np.testing.assert_allclose(spectrum[0], np.fft.rfft(x.reshape(2, 32)), atol=1e-4)


def test_wrong_settings_are_named():
    x = jnp.zeros((1, 960))
    with pytest.raises(ValueError, match="padding must be one of"):
        stft(x, 960, 480, padding="valid")
    with pytest.raises(ValueError, match="window"):
        stft(x, 960, 480, window=np.ones(10))
    with pytest.raises(ValueError, match="too few"):
        padding_of(100, 960, 480, "same")
