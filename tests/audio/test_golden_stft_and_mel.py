"""STFT, its inverse, and mel filters against torch, audiotools and librosa."""

import re

import numpy as np
import pytest
from golden_files import families

from spresso_jax.audio.mel import mel_filters
from spresso_jax.audio.stft import hann_window, istft, overlap_add, stft

pytestmark = pytest.mark.golden
STFT = families("audio_ae", "stft_istft")
MEL = families("audio_ae", "mel_filterbanks")


def spectrum_of(data: dict, key: str) -> np.ndarray:
    """Reference spectrum `[B, (1,) F, T]` as `[B, T, F]`."""
    value = data[f"{key}_real"] + 1j * data[f"{key}_imag"]
    value = value[:, 0] if value.ndim == 4 else value
    return value.transpose(0, 2, 1)


def close(ours, theirs, tolerance: float = 2e-5) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.skipif(not STFT, reason="no golden files of this family")
@pytest.mark.parametrize("path", STFT, ids=lambda p: p.stem)
def test_stft_and_inverse_equal_torch(path, capsys):
    data = dict(np.load(path))
    cases = sorted({key.split("/")[0] for key in data if re.match(r"\d+_\d+_\d+/", key)})
    assert cases
    for case in cases:
        n_fft, hop, _ = (int(number) for number in case.split("_"))
        x = data[f"{case}/x"]
        padded = np.pad(x, ((0, 0), (0, int(data[f"{case}/len_padded"]) - x.shape[1])))
        close(hann_window(n_fft), data[f"{case}/window"], 1e-6)
        for padding in ("same", "center"):
            theirs = spectrum_of(data, f"{case}/{padding}/stft")
            close(stft(padded, n_fft, hop, padding=padding), theirs)
            close(istft(theirs, n_fft, hop, padding=padding), data[f"{case}/{padding}/istft_of_stft"])
            random = spectrum_of(data, f"{case}/random_spec")
            close(istft(random, n_fft, hop, padding=padding), data[f"{case}/{padding}/istft_of_random"])
        frames = spectrum_of(data, f"{case}/random_spec").shape[1]
        squared = np.broadcast_to(hann_window(n_fft) ** 2, (1, frames, n_fft))
        close(overlap_add(squared, hop)[0], data[f"{case}/envelope_untrimmed"])
        if f"{case}/audiotools_match_stride_real" in data:
            close(stft(x, n_fft, hop, padding="stride_match"), spectrum_of(data, f"{case}/audiotools_match_stride"))
    with capsys.disabled():
        print(f"\n[golden] {path.name}: {len(cases)} cases")


@pytest.mark.skipif(not MEL, reason="no golden files of this family")
@pytest.mark.parametrize("path", MEL, ids=lambda p: p.stem)
def test_mel_filters_equal_librosa(path, capsys):
    data = np.load(path)
    rate = int(re.search(r"_(\d+)k", path.stem).group(1)) * 1000
    cases = [key for key in data.files if key.startswith("fb_")]
    assert cases
    for key in cases:
        window, bands = (int(number) for number in re.fullmatch(r"fb_w(\d+)_m(\d+)", key).groups())
        close(mel_filters(rate, window, bands).T, data[key], 2e-6)
    with capsys.disabled():
        print(f"\n[golden] {path.name}: {len(cases)} cases")
