"""Pictures: PNGs of the asked size, shared colour ranges, right frequencies, nothing global."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from spresso_jax.observe import pictures

RATE = 48_000


def tone(hertz: float, seconds: float = 0.3) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)


def pixels(png: bytes) -> np.ndarray:
    return imread(io.BytesIO(png), format="png")


def test_a_full_scale_sine_has_zero_decibels_at_its_frequency():
    spectrum = pictures.spectrogram_db(tone(3000.0))
    middle = spectrum[spectrum.shape[0] // 2]
    assert middle.max() == pytest.approx(0.0, abs=0.1)
    assert middle.argmax() * RATE / 2048 == pytest.approx(3000.0, abs=RATE / 2048)


@pytest.mark.parametrize("hertz", [50.0, 440.0, 10_000.0])
def test_log_axis_puts_a_tone_into_its_row(hertz):
    rows = pictures.log_frequency_rows(pictures.spectrogram_db(tone(hertz)), RATE, 200)
    found = rows[:, rows.shape[1] // 2].argmax()
    assert found / 200 == pytest.approx(np.log(hertz / 20.0) / np.log(24_000 / 20.0), abs=0.03)


def test_picture_has_the_asked_size_with_and_without_labels():
    for labels in (True, False):
        assert pixels(pictures.spectrogram_png(tone(800.0), width=200, height=90, labels=labels)).shape[:2] == (90, 200)


def test_one_colour_range_makes_a_quieter_clip_darker():
    levels = pictures.colour_range(tone(1000.0))
    loud, quiet = (
        pixels(pictures.spectrogram_png(gain * tone(1000.0), levels=levels, width=60, height=60, labels=False))
        for gain in (1.0, 0.2)
    )
    own = pixels(pictures.spectrogram_png(0.2 * tone(1000.0), width=60, height=60, labels=False))
    assert quiet[..., :3].sum() < loud[..., :3].sum()
    np.testing.assert_allclose(own, loud, atol=0.15)


def test_silence_and_single_samples_can_be_drawn():
    assert pictures.colour_range(np.zeros(100)) == (-100.0, -20.0)
    for audio in (np.zeros(4800), np.zeros(1), tone(100.0, 0.001)):
        assert pixels(pictures.spectrogram_png(audio, width=50, height=40)).shape[:2] == (40, 50)


def test_pictures_are_reproducible():
    assert pictures.spectrogram_png(tone(500.0)) == pictures.spectrogram_png(tone(500.0))


def test_loss_curves_take_dense_sparse_and_broken_curves():
    steps = np.arange(300)
    val = ([0, 100, 200], [2.0, float("nan"), 1.0])
    curves = {"train": (steps, 1.0 + np.exp(-steps / 50.0)), "val": val, "none": ([], [])}
    for palette in (pictures.LIGHT, pictures.DARK):
        png = pictures.loss_curves_png(curves, title="loss", y_label="mse", palette=palette)
        assert pixels(png).shape[:2] == (540, 840)
    np.testing.assert_allclose(pixels(png)[0, 0, :3], np.array([0x1F, 0x1F, 0x1E]) / 255, atol=0.01)


def test_band_curves_take_intervals_that_are_missing():
    points = [(0.1, 1.0, 0.9, 1.1), (1.0, 2.0, float("nan"), float("nan"))]
    png = pictures.band_curves_png({"own": points}, x_label="sigma")
    assert pixels(png).shape[2] == 4


def test_no_finite_value_and_bad_input_are_refused():
    with pytest.raises(ValueError, match="no curve"):
        pictures.loss_curves_png({"loss": ([1], [float("nan")])}, title="run")
    with pytest.raises(ValueError, match="one channel"):
        pictures.spectrogram_db(np.zeros((2, 100)))
    with pytest.raises(ValueError, match="rise"):
        pictures.spectrogram_png(tone(100.0), levels=(0.0, 0.0))
