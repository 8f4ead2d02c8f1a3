"""Measures that compare a decoded clip with its own source, sample by sample or spectrum by spectrum.

Plain NumPy on one clip at a time: clips have many lengths, and a compiled function would be compiled for each of them.
All functions expect both signals at the same rate and cut to the clip's own length, without its zero padding.

Source: Le Roux et al., SDR - half-baked or well done? (SI-SDR); Kumar et al., DAC 3.4 and its code (mel scales);
Gray and Markel, Distance measures for speech processing (log-spectral distance).
"""

from __future__ import annotations

import math

import numpy as np

from spresso_jax.audio.mel import mel_filters
from spresso_jax.shapes import SAMPLE_RATE

DAC_MEL_SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))
SILENT_ESTIMATE_DB = -80.0
IDENTICAL_DB = 100.0
MAGNITUDE_FLOOR = 1e-5


def si_sdr(
    reference: np.ndarray, estimate: np.ndarray, *, zero_mean: bool = True, convention: str = "exact"
) -> np.ndarray:
    """Scale-invariant signal-to-distortion ratio in dB.

    With a = <e, r> / <r, r>: 10 log10(|a r|^2 / |a r - e|^2).

    Args:
      reference, estimate: [..., S] of the same shape.
      zero_mean: subtract each signal's mean first (a DC offset costs tens of dB otherwise).
      convention: "exact" has no epsilon: float64, levels normalised, a silent reference gives nan (leave it out and
        count it), a silent estimate SILENT_ESTIMATE_DB, and values stop at IDENTICAL_DB. "torchmetrics" and "auraloss"
        are those toolkits' formulas with their absolute epsilons, in the dtype of the input, for comparison with
        published numbers; quiet clips are distorted by them.

    Returns:
      [...] float64 dB.

    Raises:
      ValueError: if the shapes differ, the signals are empty, or the convention is unknown.
    """
    reference, estimate = np.asarray(reference), np.asarray(estimate)
    if reference.shape != estimate.shape or reference.size == 0:
        raise ValueError(f"reference and estimate must have one shape, got {reference.shape} and {estimate.shape}")
    if convention not in ("exact", "torchmetrics", "auraloss"):
        raise ValueError(f"convention must be 'exact', 'torchmetrics' or 'auraloss', got {convention!r}")
    if convention == "exact":
        return _exact_si_sdr(reference.astype(np.float64), estimate.astype(np.float64), zero_mean)
    if zero_mean:
        reference = reference - reference.mean(axis=-1, keepdims=True)
        estimate = estimate - estimate.mean(axis=-1, keepdims=True)
    epsilon = 1e-8 if convention == "auraloss" else np.finfo(reference.dtype).eps
    above = epsilon if convention == "torchmetrics" else 0.0
    product = np.sum(estimate * reference, axis=-1, keepdims=True)
    energy = np.sum(reference * reference, axis=-1, keepdims=True)
    target = (product + above) / (energy + epsilon) * reference
    ratio = (np.sum(target**2, axis=-1) + above) / (np.sum((target - estimate) ** 2, axis=-1) + epsilon)
    if convention == "auraloss":
        ratio = ratio + epsilon
    return (10.0 * np.log10(ratio)).astype(np.float64)


def _exact_si_sdr(reference: np.ndarray, estimate: np.ndarray, zero_mean: bool) -> np.ndarray:
    """SI-SDR of float64 signals by the rule for silence stated in `si_sdr`."""
    (r, silent_r), (e, silent_e) = (_at_unit_peak(signal, zero_mean) for signal in (reference, estimate))
    energy = np.sum(r * r, axis=-1, keepdims=True)
    target = np.sum(e * r, axis=-1, keepdims=True) / np.where(energy > 0.0, energy, 1.0) * r
    tiny = np.finfo(np.float64).tiny
    signal = np.maximum(np.sum(target**2, axis=-1), tiny)
    distortion = np.maximum(np.sum((target - e) ** 2, axis=-1), tiny)
    values = np.clip(10.0 * (np.log10(signal) - np.log10(distortion)), SILENT_ESTIMATE_DB, IDENTICAL_DB)
    return np.where(silent_r, math.nan, np.where(silent_e, SILENT_ESTIMATE_DB, values))


def _at_unit_peak(signal: np.ndarray, zero_mean: bool) -> tuple[np.ndarray, np.ndarray]:
    """The signal with peak 1, and whether it is silent: nothing is left of it but the rounding of its mean."""
    before = np.abs(signal).max(axis=-1, keepdims=True)
    if zero_mean:
        signal = signal - signal.mean(axis=-1, keepdims=True)
    peak = np.abs(signal).max(axis=-1, keepdims=True)
    silent = peak <= 1e-12 * before
    return signal / np.where(silent, 1.0, peak), silent[..., 0]


def magnitude_frames(audio: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """|STFT| of one signal [S], Hann window, centred with reflection: [S // hop + 1, n_fft // 2 + 1] float64.

    Signals shorter than half a window are reflected as often as needed.
    """
    audio = np.asarray(audio, np.float64)
    padded = np.pad(audio, n_fft // 2, mode="reflect" if audio.size > 1 else "edge")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_fft) / n_fft)
    return np.abs(np.fft.rfft(frames * window, axis=-1))


def log_mels(
    audio: np.ndarray,
    *,
    sample_rate: int = SAMPLE_RATE,
    scales: tuple[tuple[int, int], ...] = DAC_MEL_SCALES,
) -> list[np.ndarray]:
    """log10 mel magnitudes of one clip [S], clamped at 1e-5: [T, bands] a scale (window, bands), hop window / 4."""
    audio = np.asarray(audio, np.float64)
    logs = []
    for window, bands in scales:
        mel = magnitude_frames(audio, window, window // 4) @ mel_filters(sample_rate, window, bands).astype(np.float64)
        logs.append(np.log10(np.maximum(mel, MAGNITUDE_FLOOR)))
    return logs


def multi_scale_mel_distance(
    reference: np.ndarray,
    estimate: np.ndarray,
    *,
    scales: tuple[tuple[int, int], ...] = DAC_MEL_SCALES,
    reference_logs: list[np.ndarray] | None = None,
) -> float:
    """Sum over scales of the mean absolute difference of log10 mel magnitudes; needs no phase.

    Args:
      reference, estimate: [S] of the same length, 48 kHz.
      scales: (window, bands).
      reference_logs: `log_mels` of the reference with the same scales, when many estimates are compared with it.
    """
    reference, estimate = _pair(reference, estimate)
    first = log_mels(reference, scales=scales) if reference_logs is None else reference_logs
    second = log_mels(estimate, scales=scales)
    return float(sum(np.abs(a - b).mean() for a, b in zip(first, second, strict=True)))


def log_spectral_distance(
    reference: np.ndarray, estimate: np.ndarray, *, n_fft: int = 2048, hop: int = 512, floor_db: float = -80.0
) -> float:
    """Root mean square over frequency of the difference of the spectra in dB, averaged over frames.

    Args:
      reference, estimate: [S] of the same length.
      floor_db: both spectra are clamped this far below the loudest bin of the reference, so that digital silence
        does not count as infinitely far from a faint noise floor.

    Returns:
      Distance in dB; nan when the reference is silent.
    """
    reference, estimate = _pair(reference, estimate)
    spectra = [magnitude_frames(x, n_fft, hop) for x in (reference, estimate)]
    loudest = float(spectra[0].max())
    if loudest < 1e-9:
        return math.nan
    floor = loudest * 10.0 ** (floor_db / 20.0)
    first, second = (20.0 * np.log10(np.maximum(s, floor)) for s in spectra)
    return float(np.sqrt(np.mean((first - second) ** 2, axis=-1)).mean())


def _pair(reference: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reference, estimate = np.asarray(reference, np.float64), np.asarray(estimate, np.float64)
    if reference.ndim != 1 or reference.shape != estimate.shape or reference.size == 0:
        raise ValueError(
            f"reference and estimate must be one clip [S] each of the same length, got {reference.shape} and "
            f"{estimate.shape}"
        )
    return reference, estimate
