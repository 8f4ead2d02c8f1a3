"""Birds, creatures and speech-like babble: glottal pulses and formants, or whistled contours.

Each family is a function rng -> (audio float32 [S] at any level, caption as a noun phrase).
"""

from __future__ import annotations

import numpy as np

from data_pipeline.synth_sources import (
    Array,
    above,
    band,
    curve,
    drift,
    frame_count,
    frame_curve,
    harmonics,
    log_uniform,
    peak,
    phase,
    samples,
    scatter,
    shape_spectrum,
    shaped_noise,
    swell,
    unit,
    wavetable,
)
from data_pipeline.synth_words import grade, phrase, pick

Rng = np.random.Generator


# First four formants in Hz of an adult male voice (Peterson and Barney 1952, and a fourth), for a e i o u and schwa.
VOWELS = np.array([
    [730, 1090, 2440, 3400], [530, 1840, 2480, 3500], [270, 2290, 3010, 3600],
    [570, 840, 2410, 3300], [300, 870, 2240, 3200], [500, 1500, 2500, 3500],
])  # fmt: skip


def birds(rng: Rng) -> tuple[Array, str]:
    kind = pick(rng, "songbird|songbird|songbird|crow|owl|parakeet")
    if kind == "owl":
        pitch, rate, lengths = log_uniform(rng, 280, 520), rng.uniform(1.2, 2.2), (0.15, 0.6)
    elif kind == "crow":
        pitch, rate, lengths = log_uniform(rng, 350, 700), rng.uniform(1.2, 2.5), (0.2, 0.4)
    else:
        pitch, rate, lengths = log_uniform(rng, 1900, 6000), log_uniform(rng, 2.5, 14), (0.03, 0.3)
    motif = []
    for _ in range(int(rng.integers(1, 5))):
        length = min(log_uniform(rng, *lengths), 0.9 / rate)
        n = samples(length)
        place = curve(n, [(0, 0), (1, 1)])
        glide, wave, fast = rng.uniform(-0.7, 0.7), rng.uniform(0, 0.35), rng.uniform(0, 45)
        if kind in ("owl", "crow"):
            glide, wave = rng.uniform(-0.25, 0.05), 0.03
        contour = 2 ** (
            glide * place + wave * np.sin(2 * np.pi * (fast * length * place + rng.uniform())) + rng.normal(0, 0.2)
        )
        cycle = phase(np.minimum(pitch * contour, 10_000))
        if kind == "crow":
            voice = wavetable(cycle, harmonics(pitch * 1.3, 0.5)[:40]) * (1 + 0.7 * drift(rng, n, 90))
            voice = shape_spectrum(voice + 0.3 * shaped_noise(rng, n), peak(1500, 500) + 0.6 * peak(3200, 900) + 0.02)
        else:
            brightness = {"owl": 0.05, "parakeet": 0.5}.get(kind, rng.uniform(0, 0.25))
            voice = wavetable(cycle, np.array([1, brightness, brightness**2]))
        motif.append(unit(voice) * swell(n, rng.uniform(0.1, 0.45) * length, rng.uniform(0.15, 0.6) * length))
    number = int(rng.integers(2, 5)) if kind in ("owl", "crow") else int(rng.integers(3, 26))
    gap, grains, start = rng.uniform(1.2, 3), [], 0.0
    for i in range(number):
        grains.append((start, motif[i % len(motif)] * rng.uniform(0.6, 1)))
        start += (gap if (i + 1) % (2 * len(motif)) == 0 else rng.uniform(0.95, 1.05)) / rate
        if start > 6:
            break
    n = samples(min(7.5, max(s + len(g) / 48_000 for s, g in grains) + 0.05))
    audio = scatter(n, grains)
    pace = grade(rng, rate, 1.2, 14, ("slow|calm", "|lively", "rapid|fast trilling"), logarithmic=True)
    tone = grade(rng, pitch, 280, 6000, ("low", "|clear", "high pitched|bright"), logarithmic=True)
    act = {"owl": "hooting", "crow": "cawing|calling harshly", "parakeet": "chirping|squeaking"}.get(
        kind, "chirping|singing|tweeting"
    )
    return audio, phrase(
        rng,
        (
            "a {kind} {act}",
            "a {pace} {tone} call of a {kind}",
            "a {kind} {act} with {tone} notes",
            "{pace} {act} of a {kind}",
        ),
        kind=kind,
        act=pick(rng, act),
        pace=pace,
        tone=tone or "clear",
    )


def voiced(rng: Rng, pitch: Array, formants: Array, widths: Array, slope: float, breath: float) -> Array:
    """A glottal pulse train and breath noise through moving formants.

    Args:
      pitch: [n] Hz.
      formants: [T, K] Hz on the frame grid.
      widths: [K] Hz.
      slope: power of the falling harmonics of the source.
      breath: level of noise against the pulses.
    """
    n = len(pitch)
    number = harmonics(float(pitch.max()), slope)
    source = wavetable(phase(pitch), number, 0.5 * np.pi)
    source = source + breath * shaped_noise(rng, n, above(800, 1)) * (0.4 + 0.6 * np.maximum(source, 0))
    gains = sum(peak(formants[:, k : k + 1], widths[k]) * (0.75**k) for k in range(formants.shape[1]))
    return shape_spectrum(source, gains + 0.004)


def babble(rng: Rng) -> tuple[Array, str]:
    who = pick(rng, "man|woman|child|robot|crowd")
    speed, seconds = log_uniform(rng, 2.6, 6.5), rng.uniform(0.9, 5.0)
    n = samples(seconds)
    audio = np.zeros(n, np.float32)
    for _ in range(4 if who == "crowd" else 1):
        kind = pick(rng, "man|woman") if who == "crowd" else who
        pitch = {"man": (85, 150), "woman": (165, 250), "child": (260, 380), "robot": (70, 160)}[kind]
        scale = {"man": 1.0, "woman": 1.16, "child": 1.38, "robot": 1.0}[kind] * rng.uniform(0.94, 1.06)
        audio += speak(rng, n, log_uniform(rng, *pitch), scale, speed * rng.uniform(0.9, 1.1), kind == "robot")
    pace = grade(
        rng, speed, 2.6, 6.5, ("slowly|calmly", "|at a steady pace", "quickly|hurriedly|rapidly"), logarithmic=True
    )
    act = pick(rng, "talking gibberish|mumbling|babbling|speaking nonsense words")
    if who == "crowd":
        return audio, phrase(
            rng,
            ("several people {act} {pace} at once", "a small crowd of voices {act} {pace}", "overlapping voices {act}"),
            act=act,
            pace=pace,
        )
    return audio, phrase(
        rng,
        ("a {who} {act} {pace}", "a {who}'s voice {act} {pace}", "speech-like sounds of a {who} {act} {pace}"),
        who=who,
        act=act,
        pace=pace,
    )


def speak(rng: Rng, n: int, pitch: float, scale: float, speed: float, monotone: bool) -> Array:
    """Syllables of vowels between consonants: closures, bursts and hisses, under a falling intonation."""
    seconds = n / 48_000
    bounds = np.cumsum(rng.uniform(0.7, 1.4, int(seconds * speed * 1.5) + 2)) / speed
    bounds = np.append(0.0, bounds[bounds < seconds - 0.06])
    grid = np.arange(frame_count(n)) * 512 / 48_000
    vowels = (
        VOWELS[rng.integers(0, len(VOWELS), len(bounds) + 1)] * scale * rng.uniform(0.95, 1.05, (len(bounds) + 1, 1))
    )
    middles = np.append(bounds + 0.4 / speed, seconds)
    formants = np.stack([np.interp(grid, middles, vowels[:, k]) for k in range(4)], axis=1)
    tune = curve(n, [(0, 1.12), (0.6, 1.0), (1, 0.82)]) * (1 + 0.12 * drift(rng, n, speed) + 0.012 * drift(rng, n, 40))
    pitches = np.full(n, pitch, np.float32) if monotone else pitch * tune
    voice = unit(voiced(rng, pitches, formants, np.array([80, 110, 160, 250]) * scale, 0.9 if monotone else 1.25, 0.06))
    gate, hiss = np.ones(n, np.float32), []
    for start in bounds:
        kind = rng.uniform()
        length = rng.uniform(0.15, 0.4) if kind > 0.92 else rng.uniform(0.04, 0.14) * (4 / speed) ** 0.5
        first = round(start * 48_000)
        dip = 1 - swell(samples(length), 0.035, 0.035) * rng.uniform(0.6, 1.0)
        gate[first : first + len(dip)] *= dip[: n - first]
        if kind < 0.55:
            m = samples(length if kind < 0.3 else 0.02)
            burst = unit(shaped_noise(rng, m, band(rng.choice([2200, 3800, 6500, 9000]), 0.45)))
            hiss.append((start, burst * swell(m, 0.015 if kind < 0.3 else 0.001, 0.015) * rng.uniform(0.1, 0.4)))
    stress = 0.65 + 0.35 * drift(rng, n, speed)
    return (voice * gate * stress + scatter(n, hiss)) * swell(n, 0.03, 0.12)


def creature(rng: Rng) -> tuple[Array, str]:
    seconds, size = log_uniform(rng, 0.4, 3.2), rng.uniform()
    n = samples(seconds)
    pitch = 42 * 2 ** (3.6 * (1 - size)) * rng.uniform(0.85, 1.2)
    shape = pick(rng, "rise|fall|arch|flat")
    bend = {
        "rise": [(0, 0.8), (1, 1.35)], "fall": [(0, 1.3), (1, 0.7)],
        "arch": [(0, 0.75), (0.4, 1.3), (1, 0.65)], "flat": [(0, 1), (1, 0.95)],
    }[shape]  # fmt: skip
    rough, breath = rng.uniform(0.1, 1.0), rng.uniform(0.1, 0.8)
    tune = pitch * curve(n, bend) * (1 + 0.09 * rough * drift(rng, n, 35) + 0.05 * drift(rng, n, 6))
    scale = 0.55 + 1.1 * (1 - size)
    start, middle, end = (VOWELS[rng.integers(0, 6)] * scale for _ in range(3))
    place = frame_curve(n, [(0, 0), (1, 1)])
    formants = np.where(place < 0.5, start + (middle - start) * 2 * place, middle + (end - middle) * (2 * place - 1))
    flutter = phase(rng.uniform(18, 38) * (1 + 0.2 * drift(rng, n, 5)))
    voice = voiced(rng, tune, formants, np.array([110, 150, 220, 300]), 0.85, breath)
    audio = unit(voice) * (1 - 0.8 * rough * np.abs(np.sin(np.pi * flutter)))
    audio = np.tanh((1 + 3 * rough) * audio) * swell(n, 0.12 * seconds, 0.35 * seconds)
    beast = grade(
        rng,
        size,
        0,
        1,
        ("small creature|goblin|imp", "creature|beast|wild animal", "large monster|huge beast|giant monster|dragon"),
    )
    sound = grade(rng, rough, 0.1, 1, ("moan|howl|cry", "growl|snarl", "rough growl|gurgling growl|roar"))
    length = grade(rng, seconds, 0.4, 3.2, ("short", "|", "long|drawn-out"), logarithmic=True)
    return audio, phrase(
        rng,
        ("a {length} {sound} of a {beast}", "a {beast} making a {length} {sound}", "a {pitch} {sound} from a {beast}"),
        length=length,
        sound=sound,
        beast=beast,
        pitch=grade(rng, size, 0, 1, ("high", "", "deep|low")),
    )
