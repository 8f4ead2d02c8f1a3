"""Procedural sound effects with captions: the embedded default data set of demo, tests and the shipped nano model.

Clip i of a seed is a pure function of (i, seed), so that a data set is two numbers and grows without changing what it
had. Families take turns in blocks, each block in its own order: every family appears in each `len(FAMILIES)`
consecutive clips that start at a multiple of that number. A clip is one family's sound (or a sound over a quieter
texture), placed in a space and at a level; its caption says what can be heard of all these choices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import MappingProxyType

import numpy as np
import scipy.signal

from data_pipeline import synth_impacts, synth_machines, synth_motion, synth_music, synth_nature, synth_voices
from data_pipeline.synth_sources import (
    RATE,
    Array,
    above,
    below,
    convolve,
    frame_times,
    log_uniform,
    loudness_unit,
    samples,
    shaped_noise,
    swell,
    tilt,
    unit,
)
from data_pipeline.synth_words import phrase, pick

SHORTEST, LONGEST = 0.3, 8.0

_RECIPES: MappingProxyType[str, Callable] = MappingProxyType({
    function.__name__: function
    for function in (
        synth_impacts.wood_impact, synth_impacts.metal_impact, synth_impacts.stone_impact, synth_impacts.glass_impact,
        synth_impacts.glass_break, synth_impacts.bell, synth_motion.footsteps, synth_motion.explosion,
        synth_motion.thunder, synth_impacts.coin, synth_nature.rain, synth_nature.wind, synth_nature.fire,
        synth_nature.water_drips, synth_nature.stream, synth_machines.engine, synth_machines.machine_hum,
        synth_nature.insects, synth_motion.door_creak, synth_voices.birds, synth_voices.babble,
        synth_voices.creature, synth_machines.alarm, synth_machines.laser, synth_motion.whoosh, synth_machines.ui_blip,
        synth_music.music,
    )
})  # fmt: skip
FAMILIES: tuple[str, ...] = tuple(_RECIPES)
BACKGROUNDS: tuple[str, ...] = ("rain", "wind", "fire", "stream", "machine_hum", "insects")
CONTINUOUS: tuple[str, ...] = (*BACKGROUNDS, "water_drips", "engine", "alarm", "music")


@dataclasses.dataclass(frozen=True)
class SynthClip:
    """A sound with its caption.

    Attributes:
      audio: float32 [S] at 48 kHz, peak between -20 and -1 dBFS, 0.3 to 8 s.
      caption: lower case.
      family: one of `FAMILIES` (of a layered scene: that of the foreground).
    """

    audio: np.ndarray
    caption: str
    family: str


def synthesise(index: int, seed: int) -> SynthClip:
    """Makes clip `index` of the endless data set `seed`.

    Args:
      index: 0 or more.
      seed: 0 or more.

    Raises:
      ValueError: a negative index or seed.
    """
    if index < 0 or seed < 0:
        raise ValueError(f"index and seed must be 0 or more, got index {index}, seed {seed}")
    rng = np.random.default_rng((seed, index))
    family = family_of(index, seed)
    audio, text = _RECIPES[family](rng)
    audio = _fit(audio)
    if rng.uniform() < 0.14:
        audio, text = _layer(rng, audio, text, family)
    audio, where = _place(rng, audio, family in CONTINUOUS)
    audio = _finish(rng, audio)
    opening = "" if text.startswith("the ") else pick(rng, "||the sound of")
    return SynthClip(audio, phrase(rng, ("{opening} {text} {where}",), opening=opening, text=text, where=where), family)


def family_of(index: int, seed: int) -> str:
    """The family of a clip: each block of `len(FAMILIES)` clips is a permutation of all of them."""
    block, place = divmod(index, len(FAMILIES))
    order = np.random.default_rng((seed, block, len(FAMILIES))).permutation(len(FAMILIES))
    return FAMILIES[order[place]]


def _fit(audio: Array) -> Array:
    """Unit peak, allowed duration, closed end, and no more than a moment of silence behind the last sound."""
    audio = unit(np.nan_to_num(audio[: samples(LONGEST)]))
    heard = np.flatnonzero(np.abs(audio) > 3e-4)
    end = (int(heard[-1]) if len(heard) else 0) + samples(0.03)
    audio = audio[:end] if end < len(audio) else audio.copy()
    ramp = min(samples(0.005), len(audio))
    audio[-ramp:] *= np.linspace(1, 0, ramp, dtype=np.float32)
    return np.pad(audio, (0, max(0, samples(SHORTEST) - len(audio))))


def _layer(rng: np.random.Generator, audio: Array, text: str, family: str) -> tuple[Array, str]:
    """Puts a sound over a quieter texture of another family, and starts it a little later."""
    others = [name for name in BACKGROUNDS if name != family]
    bed, bed_text = _RECIPES[others[int(rng.integers(len(others)))]](rng)
    bed = _fit(bed)
    if family in CONTINUOUS:
        audio = audio * swell(len(audio), rng.uniform(0.02, 0.6), rng.uniform(0.05, 0.6))
    lead = round(rng.uniform(0, 0.5) * max(0, len(bed) - len(audio)))
    n = len(bed) if rng.uniform() < 0.6 else min(len(bed), len(audio) + lead)
    total = np.zeros(n, np.float32)
    total[: len(bed)] = bed[:n] * 10 ** (rng.uniform(-20, -7) / 20)
    total[lead : lead + len(audio)] += audio[: n - lead]
    total[-samples(0.01) :] *= np.linspace(1, 0, samples(0.01), dtype=np.float32)
    joined = pick(rng, "{a} with {b} in the background|{a} over {b}|{a}, and {b} behind it")
    return total, joined.format(a=text, b=bed_text)


def _place(rng: np.random.Generator, audio: Array, continuous: bool) -> tuple[Array, str]:
    """Distance (air takes the treble) and reverberation, with words for them."""
    kind = rng.choice(["dry", "far", "room", "hall", "muffled"], p=[0.56, 0.11, 0.15, 0.1, 0.08])
    if kind == "dry":
        return audio, ""
    if kind == "muffled":
        sos = scipy.signal.butter(2, log_uniform(rng, 450, 1800), fs=RATE, output="sos")
        audio = scipy.signal.sosfilt(sos, audio).astype(np.float32)
        return audio, pick(rng, "behind a wall|muffled by a wall|from the next room")
    seconds = {"far": rng.uniform(0.4, 1.0), "room": rng.uniform(0.12, 0.4), "hall": rng.uniform(0.7, 1.8)}[kind]
    wet = {"far": rng.uniform(0.4, 0.9), "room": rng.uniform(0.25, 0.7), "hall": rng.uniform(0.25, 0.8)}[kind]
    if kind == "far":
        sos = scipy.signal.butter(1, log_uniform(rng, 900, 4000), fs=RATE, output="sos")
        audio = scipy.signal.sosfilt(sos, audio).astype(np.float32)
    if not continuous or rng.uniform() < 0.2:
        audio = np.pad(audio, (0, max(0, min(round(0.7 * seconds * RATE), samples(LONGEST) - len(audio)))))
    n = samples(seconds)
    late = shaped_noise(rng, n, np.exp(-6.9 * frame_times(n) / (seconds * below(5000, 0.5))) * above(150, 1))
    late[: round(0.002 * RATE)] = 0
    late /= np.sqrt(np.sum(late**2))
    words = {
        "far": "in the distance|far away|heard from afar",
        "room": "in a room|indoors|in a small room",
        "hall": "in a large hall|with long reverb|in a church|in a big empty space",
    }[kind]
    return audio + wet * convolve(audio, late), pick(rng, words)


def _finish(rng: np.random.Generator, audio: Array) -> Array:
    """Removes rumble, adds a noise floor to some, closes the ends and sets the level."""
    sos = scipy.signal.butter(2, 18, "highpass", fs=RATE, output="sos")
    audio = unit(scipy.signal.sosfilt(sos, audio).astype(np.float32))
    if rng.uniform() < 0.3:
        floor = loudness_unit(shaped_noise(rng, len(audio), tilt(rng.uniform(-6, 0)) * above(50, 1)))
        audio = audio + floor * np.float32(10 ** (rng.uniform(-75, -48) / 20))
    n = len(audio)
    for end, seconds in ((audio, 0.001), (audio[::-1], 0.008)):
        ramp = min(round(seconds * RATE), n)
        end[:ramp] *= np.linspace(0, 1, ramp, dtype=np.float32)
    peak = 10 ** ((-1 - 19 * rng.beta(1.1, 2.2)) / 20)
    return (unit(audio) * np.float32(peak)).astype(np.float32)
