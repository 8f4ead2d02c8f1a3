"""Short loops of a lead instrument, with or without drums.

Each family is a function rng -> (audio float32 [S] at any level, caption as a noun phrase).
"""

from __future__ import annotations

import numpy as np

from data_pipeline.synth_sources import (
    Array,
    above,
    band,
    below,
    decay,
    drift,
    frame_curve,
    harmonics,
    log_uniform,
    modes,
    phase,
    samples,
    scatter,
    shape_spectrum,
    shaped_noise,
    sine,
    swell,
    unit,
    wavetable,
)
from data_pipeline.synth_words import grade, phrase, pick

Rng = np.random.Generator


SCALES = {
    "major": [0, 2, 4, 7, 9, 12],
    "minor": [0, 3, 5, 7, 10, 12],
    "dark": [0, 1, 3, 6, 7, 12],
    "dreamy": [0, 2, 4, 6, 9, 11],
}


LEADS = "plucked string|electric piano|chiptune|music box|synth bass|organ"


def music(rng: Rng) -> tuple[Array, str]:
    tempo, mood, lead = rng.uniform(70, 170), str(rng.choice(list(SCALES))), pick(rng, LEADS)
    step = 60 / tempo / (2 if tempo > 110 else 4)
    root = log_uniform(rng, 130, 420) * {"synth bass": 0.4, "music box": 2.5}.get(lead, 1)
    pattern = rng.uniform(size=int(rng.choice([6, 8, 8, 16]))) < rng.uniform(0.4, 0.9)
    pattern[0] = True
    melody = rng.choice(SCALES[mood], len(pattern)) + rng.choice([0, 0, 12], len(pattern))
    drums = rng.uniform() < 0.45
    seconds = 5.0 if rng.uniform() < 0.5 else rng.uniform(2, 7.5)
    sustain = rng.uniform(0.25, 1.2)
    notes, kit, grains = {}, drum_kit(rng), []
    for i in range(int(seconds / step)):
        place = i % len(pattern)
        if pattern[place]:
            if place not in notes:
                notes[place] = instrument(rng, lead, root * 2 ** (melody[place] / 12), sustain)
            grains.append((i * step, notes[place] * rng.uniform(0.7, 1)))
        if drums:
            grains.append((i * step, kit["hat"] * rng.uniform(0.1, 0.25)))
            if i % 4 == 0:
                grains.append((i * step, kit["snare" if i % 8 == 4 else "kick"] * 0.8))
    n = samples(seconds)
    audio = scatter(n, grains) * swell(n, 0.002, 0.08)
    pace = grade(rng, tempo, 70, 170, ("slow|calm", "|mid-tempo", "fast|upbeat|driving"))
    beat = pick(rng, "with drums|with a drum beat") if drums else pick(rng, "without drums||solo")
    return audio, phrase(
        rng,
        (
            "a {pace} {mood} {lead} melody {beat}",
            "a {pace} {lead} loop in a {mood} mood {beat}",
            "{mood} music played by a {lead}, {paced}, {beat}",
        ),
        pace=pace,
        mood=mood,
        lead=lead,
        beat=beat,
        paced=pace or "steady",
    ).rstrip(" ,")


def instrument(rng: Rng, name: str, pitch: float, sustain: float) -> Array:
    """One note of an instrument, unit peak."""
    n = samples(sustain)
    number = np.arange(1, max(2, min(40, int(20_000 / pitch))) + 1)
    if name == "plucked string":
        position = np.abs(np.sin(np.pi * number * 0.19)) + 0.02
        stretched = pitch * number * np.sqrt(1 + 2e-4 * number**2)
        tone = modes(n, stretched, 2.2 * sustain / (1 + 0.12 * number), position / number**0.9)
    elif name == "music box":
        tone = modes(
            n,
            pitch * np.array([1, 2.0, 3.01, 6.2]),
            sustain * np.array([1.5, 1, 0.7, 0.2]),
            np.array([1, 0.25, 0.2, 0.2]),
        )
    elif name == "electric piano":
        tone = np.sin(
            2 * np.pi * phase(pitch, n)
            + 1.4 * decay(n, 0.8) * sine(pitch * 1.0, n)
            + 0.5 * decay(n, 0.15) * sine(14 * pitch, n)
        )
        tone = tone * decay(n, 2 * sustain, 0.003)
    elif name == "organ":
        tone = modes(n, pitch * np.array([0.5, 1, 2, 3, 4, 6]), np.inf, np.array([0.6, 1, 0.7, 0.4, 0.3, 0.15]))
    elif name == "chiptune":
        tone = wavetable(phase(pitch, n), harmonics(pitch, 1.0, odd=True)) * decay(n, 3 * sustain, 0.002)
    else:
        tone = wavetable(phase(pitch * (1 + 0.002 * drift(rng, n, 4))), harmonics(pitch, 1.0))
        tone = shape_spectrum(tone, below(pitch * (2 + 10 * frame_curve(n, [(0, 1), (0.3, 0.2), (1, 0)])), 2))
    return unit(tone) * swell(n, 0.004, min(0.12, 0.4 * sustain))


def drum_kit(rng: Rng) -> dict[str, Array]:
    """A kick, a snare and a hat of random tuning, unit peak."""
    n, m = samples(0.28), samples(rng.uniform(0.03, 0.12))
    kick = sine(rng.uniform(42, 60) + rng.uniform(90, 200) * decay(n, 0.12), n) * decay(n, 0.4, 0.001)
    snare = unit(shaped_noise(rng, n, band(3500, 1.5))) * decay(n, 0.22, 0.001) + 0.6 * sine(
        190 + 60 * decay(n, 0.05), n
    ) * decay(n, 0.14)
    hat = unit(shaped_noise(rng, m, above(7000))) * decay(m, m / 48_000, 0.0005)
    return {"kick": unit(kick) * swell(n, 0, 0.02), "snare": unit(snare) * swell(n, 0, 0.02), "hat": hat}
