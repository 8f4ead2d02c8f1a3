"""Building blocks of procedural sound: noise shaped in time and frequency, modes, wavetables, grains, envelopes.

All audio is mono float32 at 48 kHz. Time-varying spectra use one frame grid: 1024-point frames every 512 samples with
a sine window, which is power complementary, so that independent noise frames add to noise of constant power.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import scipy.fft
import scipy.signal

RATE = 48_000
FRAME = 1024
STEP = FRAME // 2

Array = np.ndarray


def samples(seconds: float) -> int:
    """Samples of a duration, at least 16."""
    return max(16, round(seconds * RATE))


def times(n: int) -> Array:
    """Seconds of n samples, float32 [n]."""
    return (np.arange(n) / RATE).astype(np.float32)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A draw that is uniform in the logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


# Spectra on the frame grid -------------------------------------------------------------------------------------------


def frame_count(n: int) -> int:
    """Frames that cover n samples."""
    return n // STEP + 2


def frame_times(n: int) -> Array:
    """Seconds of the frame centres, [T, 1], ready to broadcast against `bins`."""
    return (np.arange(frame_count(n), dtype=np.float32) * STEP / RATE)[:, None]


def bins() -> Array:
    """Frequencies of a frame's bins in Hz, [1, 513]; the first one is half a bin, to allow logarithms."""
    frequencies = np.arange(FRAME // 2 + 1, dtype=np.float32) * (RATE / FRAME)
    frequencies[0] = RATE / FRAME / 2
    return frequencies[None]


def tilt(decibels_per_octave: float, pivot: float = 1000.0) -> Array:
    """Gain that falls or rises by so many decibels an octave, 1 at the pivot, [1, 513]."""
    return (bins() / pivot) ** (decibels_per_octave / 6.02)


def band(centre: Array | float, octaves: Array | float) -> Array:
    """Gain of a bell around a centre in Hz; `octaves` is its standard deviation. Both may be [T, 1]."""
    return np.exp(-0.5 * (np.log2(bins() / np.float32(centre)) / np.float32(octaves)) ** 2)


def below(cutoff: Array | float, order: float = 2.0) -> Array:
    """Low-pass gain (Butterworth magnitude) with a cutoff in Hz, which may be [T, 1]."""
    return 1 / np.sqrt(1 + np.minimum(bins() / np.float32(cutoff), 1e4) ** (2 * order))


def above(cutoff: Array | float, order: float = 2.0) -> Array:
    """High-pass gain (Butterworth magnitude) with a cutoff in Hz, which may be [T, 1]."""
    return 1 / np.sqrt(1 + np.minimum(np.float32(cutoff) / bins(), 1e4) ** (2 * order))


def peak(centre: Array | float, width: Array | float) -> Array:
    """Resonance gain 1 / sqrt(1 + ((f - centre) / (width / 2))^2): a formant of `width` Hz at -3 dB."""
    return 1 / np.sqrt(1 + ((bins() - np.float32(centre)) / (np.float32(width) / 2)) ** 2)


def sine_window() -> Array:
    return np.sin(np.pi * (np.arange(FRAME) + 0.5) / FRAME).astype(np.float32)


def overlap_add(frames: Array, n: int) -> Array:
    """Adds frames [T, 1024] that lie 512 apart; the first is centred on sample 0."""
    total = frames[:-1, STEP:] + frames[1:, :STEP]
    return total.reshape(-1)[:n]


def shaped_noise(rng: np.random.Generator, n: int, gains: Array | float = 1.0) -> Array:
    """Gaussian noise with gains over time and frequency: [T, 513], [1, 513] or [T, 1]; unit gain is unit RMS."""
    shape = (frame_count(n), FRAME // 2 + 1)
    spectrum = rng.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    spectrum *= gains
    frames = scipy.fft.irfft(spectrum, axis=1) * (sine_window() * np.float32(np.sqrt(FRAME / 2)))
    return overlap_add(frames, n)


def shape_spectrum(audio: Array, gains: Array) -> Array:
    """Audio with its spectrum multiplied by gains [T, 513] or [1, 513] (short-time Fourier filtering)."""
    n = len(audio)
    count = frame_count(n)
    padded = np.zeros((count + 1) * STEP, np.float32)
    padded[STEP : STEP + n] = audio
    blocks = padded.reshape(-1, STEP)
    frames = np.concatenate([blocks[:-1], blocks[1:]], axis=1) * sine_window()
    spectrum = scipy.fft.rfft(frames, axis=1) * gains
    return overlap_add(scipy.fft.irfft(spectrum, axis=1) * sine_window(), n).astype(np.float32)


# Controls ------------------------------------------------------------------------------------------------------------


def drift(rng: np.random.Generator, n: int, rate: float, step: int = 1) -> Array:
    """Smooth random control in [-1, 1] with `rate` new values a second, every `step` samples, float32 [n]."""
    where = np.arange(n, dtype=np.float32) * np.float32(step * rate / RATE) + np.float32(rng.uniform())
    values = rng.uniform(-1, 1, int(where[-1]) + 2 if n else 2).astype(np.float32)
    index = where.astype(np.int32)
    fraction = where - index
    fraction *= fraction * (3 - 2 * fraction)
    return values[index] + (values[index + 1] - values[index]) * fraction


def frame_drift(rng: np.random.Generator, n: int, rate: float) -> Array:
    """`drift` on the frame grid of n samples, [T, 1]."""
    return drift(rng, frame_count(n), rate, STEP)[:, None]


def curve(n: int, points: Sequence[tuple[float, float]]) -> Array:
    """Piecewise linear control through (place in 0..1, value), float32 [n]."""
    places, values = zip(*points, strict=True)
    return np.interp(np.linspace(0, 1, n, dtype=np.float32), places, values).astype(np.float32)


def frame_curve(n: int, points: Sequence[tuple[float, float]]) -> Array:
    """`curve` on the frame grid of n samples, [T, 1]."""
    return curve(frame_count(n), points)[:, None]


def decay(n: int, t60: float, attack: float = 0.0005) -> Array:
    """Exponential decay by 60 dB in `t60` seconds after a short rise of `attack` seconds."""
    t = times(n)
    return np.exp(t * np.float32(-6.908 / t60)) * np.minimum(1, t / np.float32(max(attack, 1e-5)))


def swell(n: int, attack: float, release: float) -> Array:
    """Raised-cosine rise and fall of so many seconds, 1 between; both shrink to fit a short sound."""
    total = n / RATE
    shrink = min(1.0, total / max(attack + release, 1e-6))
    t = times(n)
    ramp = np.minimum(t / max(attack * shrink, 1e-4), (total - t) / max(release * shrink, 1e-4))
    return (0.5 - 0.5 * np.cos(np.pi * np.clip(ramp, 0, 1))).astype(np.float32)


# Oscillators and modes -----------------------------------------------------------------------------------------------


def phase(frequency: Array | float, n: int | None = None) -> Array:
    """Running phase in cycles, modulo 1, of a frequency in Hz ([n], or a number and n); summed in float64."""
    if n is not None:
        frequency = np.broadcast_to(frequency, (n,))
    cycles = np.cumsum(frequency, dtype=np.float64) / RATE
    return (cycles - np.floor(cycles)).astype(np.float32)


def sine(frequency: Array | float, n: int | None = None) -> Array:
    return np.sin(2 * np.float32(np.pi) * phase(frequency, n))


def wavetable(cycles: Array, amplitudes: Array, phases: Array | float = 0.0) -> Array:
    """A periodic wave read at phases in cycles (any real), from amplitudes of harmonics 1, 2, ...; unit peak."""
    size = 4096
    spectrum = np.zeros(size // 2 + 1, np.complex64)
    amplitudes = np.asarray(amplitudes)[: size // 4]
    spectrum[1 : len(amplitudes) + 1] = amplitudes * np.exp(
        1j * (np.broadcast_to(phases, amplitudes.shape) - np.pi / 2)
    )
    table = scipy.fft.irfft(spectrum)
    table = np.append(table, table[0]) / max(np.abs(table).max(), 1e-9)
    where = (cycles - np.floor(cycles)) * size
    index = np.minimum(where.astype(np.int32), size - 1)
    return (table[index] + (where - index) * (table[index + 1] - table[index])).astype(np.float32)


def harmonics(highest: float, power: float = 1.0, odd: bool = False, limit: float = 21_000.0) -> Array:
    """Amplitudes k^-power of the harmonics that stay below `limit` for fundamentals up to `highest` Hz."""
    number = np.arange(1, max(2, int(limit / max(highest, 20.0)) + 1))
    return number**-power * ((number % 2 == 1) if odd else 1.0)


def modes(n: int, frequencies: Array, t60: Array, amplitudes: Array, phases: Array | float = 0.0) -> Array:
    """Sum of decaying sinusoids, float32 [n].

    A mode z^t with t = block * i + j is z^(block i) z^j, so that the whole bank is one matrix product.

    Args:
      n: samples.
      frequencies: [K] in Hz; those above 22 kHz are left out.
      t60: [K] seconds to fall by 60 dB (inf for a steady tone).
      amplitudes: [K].
      phases: radians; 0 starts every sinusoid at zero, without a click.
    """
    frequencies, t60, amplitudes, phases = np.broadcast_arrays(frequencies, t60, amplitudes, phases)
    keep = frequencies < 22_000
    frequencies, t60, amplitudes, phases = (x[keep] for x in (frequencies, t60, amplitudes, phases))
    rate = (-6.908 / np.maximum(t60, 1e-4) + 2j * np.pi * frequencies) / RATE
    block = int(np.ceil(np.sqrt(n)))
    count = -(-n // block)
    outer = (-1j * amplitudes * np.exp(1j * phases) * np.exp(np.arange(count)[:, None] * block * rate)).astype(
        np.complex64
    )
    inner = np.exp(np.arange(block) * rate[:, None]).astype(np.complex64)
    return (outer.real @ inner.real - outer.imag @ inner.imag).reshape(-1)[:n]


def resonator(audio: Array, centre: float, width: float) -> Array:
    """Second-order resonance at `centre` Hz, `width` Hz wide, with gain about 1 at its top."""
    radius = np.exp(-np.pi * width / RATE)
    angle = 2 * np.pi * min(centre, 22_000) / RATE
    denominator = [1, -2 * radius * np.cos(angle), radius**2]
    numerator = [1 - radius, 0, -(1 - radius)]
    # In float32 the tails between sparse impulses become denormal numbers, which are many times slower.
    return scipy.signal.lfilter(numerator, denominator, audio.astype(np.float64)).astype(np.float32)


# Grains --------------------------------------------------------------------------------------------------------------


def scatter(n: int, grains: Iterable[tuple[float, Array]]) -> Array:
    """Adds grains (start in seconds, audio) into n samples; what sticks out is cut."""
    total = np.zeros(n, np.float32)
    for start, audio in grains:
        first = max(0, round(start * RATE))
        room = n - first
        if room > 0:
            total[first : first + len(audio)] += audio[:room]
    return total


def impulses(rng: np.random.Generator, n: int, rate: float, spread: float = 1.0, density: Array | None = None) -> Array:
    """Random signed impulses, `rate` a second, log-normal in size (`spread` = standard deviation in nepers).

    Args:
      density: optional [T] or [T, 1] weights over the duration (more impulses where it is high).
    """
    count = max(1, rng.poisson(rate * n / RATE))
    where = rng.uniform(0, 1, count)
    if density is not None:
        total = np.cumsum(np.maximum(density.reshape(-1), 0) + 1e-6)
        where = np.interp(where * total[-1], np.append(0, total), np.linspace(0, 1, len(total) + 1))
    size = np.exp(spread * rng.standard_normal(count)) * rng.choice([-1.0, 1.0], count)
    index = np.minimum((where * n).astype(np.int64), n - 1)
    return np.bincount(index, weights=size, minlength=n).astype(np.float32)


def convolve(audio: Array, response: Array) -> Array:
    """Audio convolved with an impulse response, as long as the audio."""
    size = scipy.fft.next_fast_len(len(audio) + len(response) - 1, real=True)
    spectrum = scipy.fft.rfft(audio.astype(np.float32), size) * scipy.fft.rfft(response.astype(np.float32), size)
    return scipy.fft.irfft(spectrum, size)[: len(audio)].astype(np.float32)


def unit(audio: Array) -> Array:
    """Audio scaled to a peak of 1 (silence stays silence)."""
    return audio / np.float32(max(float(np.abs(audio).max()), 1e-9))


def loudness_unit(audio: Array) -> Array:
    """Audio scaled to an RMS of 1 (silence stays silence)."""
    return audio / np.float32(max(float(np.sqrt(np.mean(audio**2))), 1e-9))
