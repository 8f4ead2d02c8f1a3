"""Measures that compare a decoded clip with its own source, sample by sample or spectrum by spectrum.

Plain NumPy on one clip at a time: clips have many lengths, and a compiled function would be compiled for each of them.
All functions expect both signals at the same rate and cut to the clip's own length, without its zero padding.

Source: Le Roux et al., SDR - half-baked or well done? (SI-SDR); Kumar et al., DAC 3.4 and its code (mel scales);
Gray and Markel, Distance measures for speech processing (log-spectral distance).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import signal as scipy_signal

from spresso_jax.audio.mel import mel_filters
from spresso_jax.evaluate import bootstrap
from spresso_jax.evaluate.score import Score
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


def is_silent(signal: np.ndarray, *, zero_mean: bool = True) -> np.ndarray:
    """[...] True where nothing is left of [..., S] but a constant (`zero_mean`) or zeros: the rule of `si_sdr`."""
    return _at_unit_peak(np.asarray(signal, np.float64), zero_mean)[1]


def constant_delay(references: Sequence[np.ndarray], estimates: Sequence[np.ndarray], max_delay: int) -> int:
    """The one delay of a system: where the squared cosine of estimate and reference is largest on average over clips.

    One delay for all clips, because a codec's is constant; a search for each clip would flatter noise.

    Args:
      references, estimates: clips [S_i] in pairs of equal length; silent ones say nothing.
      max_delay: samples searched either way.

    Returns:
      Samples by which the estimates are late (negative: early); the smallest of equally good ones, 0 when all are silent.

    Raises:
      ValueError: if the pairs do not fit, or `max_delay` is negative or not below half of the shortest clip.
    """
    _check_pairs(references, estimates, max_delay)
    agreement = np.zeros(2 * max_delay + 1)
    for reference, estimate in zip(references, estimates, strict=True):
        (r, silent_r), (e, silent_e) = (_at_unit_peak(np.asarray(x, np.float64), True) for x in (reference, estimate))
        if silent_r or silent_e:
            continue
        correlation = scipy_signal.correlate(e, r, method="fft")[r.size - 1 - max_delay : r.size + max_delay]
        agreement += correlation**2 / (np.sum(r * r) * np.sum(e * e))
    lags = np.arange(-max_delay, max_delay + 1)
    best = np.flatnonzero(agreement >= agreement.max() * (1.0 - 1e-12))
    return int(lags[best[np.argmin(np.abs(lags[best]))]])


def without_delay(reference: np.ndarray, estimate: np.ndarray, delay: int) -> tuple[np.ndarray, np.ndarray]:
    """The parts of two clips [S] that overlap once the estimate, late by `delay` samples, is moved back."""
    stop = reference.shape[-1] - abs(delay)
    return reference[max(-delay, 0) :][:stop], estimate[max(delay, 0) :][:stop]


def si_sdr_score(
    references: Sequence[np.ndarray],
    estimates: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    zero_mean: bool = True,
    max_delay: int = 0,
    draws: int = bootstrap.DRAWS,
    level: float = bootstrap.LEVEL,
    seed: int = 0,
) -> tuple[Score, np.ndarray]:
    """Mean SI-SDR over clips as a record, and the value of every clip.

    Rules: a silent reference leaves the clip out, counted; a silent estimate counts as SILENT_ESTIMATE_DB, counted as well; an
    optional constant delay is found once for the whole system and recorded.

    Args:
      references, estimates: clips [S_i] at one rate, in pairs of equal length.
      names: of the clips.
      max_delay: samples searched either way; 0 compares the clips as they are.

    Returns:
      (record, [N] dB with nan where the clip was left out).

    Raises:
      ValueError: if the pairs do not fit, a sample is not finite, or every reference is silent.
    """
    _check_pairs(references, estimates, max_delay)
    if len(names) != len(references):
        raise ValueError(f"{len(names)} names for {len(references)} clips")
    for name, reference, estimate in zip(names, references, estimates, strict=True):
        for role, x in (("reference", reference), ("estimate", estimate)):
            if not np.isfinite(x).all():
                raise ValueError(f"clip {name!r}: the {role} has samples that are not finite")
    delay = constant_delay(references, estimates, max_delay) if max_delay else 0
    values, silent_references, silent_estimates = np.full(len(names), np.nan), [], []
    for i, (reference, estimate) in enumerate(zip(references, estimates, strict=True)):
        reference, estimate = without_delay(np.asarray(reference), np.asarray(estimate), delay)
        values[i] = si_sdr(reference, estimate, zero_mean=zero_mean)
        if is_silent(reference, zero_mean=zero_mean):
            silent_references.append(names[i])
        elif is_silent(estimate, zero_mean=zero_mean):
            silent_estimates.append(names[i])
    if len(silent_references) == len(names):
        raise ValueError("every reference is silent: SI-SDR has nothing to compare with")
    score = si_sdr_record(
        values,
        names,
        silent_estimates,
        zero_mean=zero_mean,
        max_delay=max_delay,
        delay=delay,
        draws=draws,
        level=level,
        seed=seed,
    )
    return score, values


def si_sdr_record(
    values: np.ndarray,
    names: Sequence[str],
    silent_estimates: Sequence[str] = (),
    *,
    zero_mean: bool = True,
    max_delay: int = 0,
    delay: int = 0,
    draws: int = bootstrap.DRAWS,
    level: float = bootstrap.LEVEL,
    seed: int = 0,
) -> Score:
    """The record of SI-SDR values that were measured clip by clip.

    Args:
      values: [N] dB of `si_sdr`, nan where the reference is silent.
      names: N clip names.
      silent_estimates: clips that count as SILENT_ESTIMATE_DB.
      max_delay, delay: samples searched and removed.
    """
    interval = bootstrap.mean_interval(values, seed, draws, level)
    silent = len(silent_estimates)
    return Score(
        metric="SI-SDR",
        value=interval.mean,
        low=interval.low,
        high=interval.high,
        options={
            "statistic": "mean over clips",
            "zero_mean": zero_mean,
            "epsilon": 0.0,
            "silent_reference": "left out",
            "silent_estimate_db": SILENT_ESTIMATE_DB,
            "ceiling_db": IDENTICAL_DB,
            "delay": {"searched_samples": max_delay, "removed_samples": delay, "per": "system"},
            "bootstrap": {"draws": draws, "level": level, "seed": seed, "unit": "clip", "kind": "percentile"},
        },
        counts={"clips": interval.count, "silent_estimates": silent},
        exclusions={"silent reference": [n for n, v in zip(names, values, strict=True) if not math.isfinite(v)]},
        details={"median": interval.median},
        notes=[f"{silent} silent estimates count as {SILENT_ESTIMATE_DB:g} dB"] if silent else [],
    )


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


def _check_pairs(references: Sequence[np.ndarray], estimates: Sequence[np.ndarray], max_delay: int) -> None:
    if len(references) != len(estimates) or not len(references):
        raise ValueError(f"need as many estimates as references, got {len(estimates)} and {len(references)}")
    for i, (reference, estimate) in enumerate(zip(references, estimates, strict=True)):
        if np.ndim(reference) != 1 or np.shape(reference) != np.shape(estimate) or np.size(reference) == 0:
            raise ValueError(
                f"clip {i}: reference and estimate must be [S] of the same length, got {np.shape(reference)} and "
                f"{np.shape(estimate)}"
            )
    shortest = min(len(reference) for reference in references)
    if max_delay < 0 or (max_delay and 2 * max_delay >= shortest):
        raise ValueError(
            f"max_delay must lie between 0 and half of the shortest clip ({shortest} samples), got {max_delay}"
        )
