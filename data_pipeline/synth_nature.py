"""Weather, fire, water and insects: filtered noise and grains that go on for seconds.

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
    frame_drift,
    harmonics,
    impulses,
    log_uniform,
    loudness_unit,
    peak,
    phase,
    resonator,
    samples,
    scatter,
    shaped_noise,
    sine,
    tilt,
    times,
    unit,
    wavetable,
)
from data_pipeline.synth_words import grade, phrase, pick

Rng = np.random.Generator


def texture_seconds(rng: Rng) -> float:
    """Durations of textures: many fill five seconds, the rest is spread over 1.5 to 8."""
    return 5.0 if rng.uniform() < 0.45 else float(rng.uniform(1.5, 8.0) if rng.uniform() < 0.7 else rng.uniform(1.5, 4))


def rain(rng: Rng) -> tuple[Array, str]:
    n = samples(texture_seconds(rng))
    surface = pick(rng, "roof|metal roof|leaves|pavement|window|umbrella")
    rate, amount = log_uniform(rng, 25, 1200), rng.uniform()
    centre, width, high = {
        "roof": (700, 500, 3000), "metal roof": (2600, 200, 6500), "leaves": (4500, 4000, 9000),
        "pavement": (3200, 2500, 8000), "window": (1700, 500, 5000), "umbrella": (1100, 900, 4000),
    }[surface]  # fmt: skip
    centre *= rng.uniform(0.75, 1.35)
    level = 1 + 0.25 * frame_drift(rng, n, rng.uniform(0.3, 2))
    bed = loudness_unit(
        shaped_noise(rng, n, level * tilt(rng.uniform(-3.5, 0.5)) * above(400, 1) * below(rng.uniform(9000, 20_000), 1))
    )
    drops = impulses(rng, n, rate, 0.8)
    close = (
        resonator(drops, centre, width)
        + 0.7 * resonator(drops, centre * 1.9, width * 1.5)
        + resonator(drops, high, 3000)
    )
    big = impulses(rng, n, rng.uniform(2, 14), 0.6)
    close = loudness_unit(close) + 0.4 * loudness_unit(resonator(big, centre * 0.7, width * 0.4))
    audio = bed * (0.15 + amount) + close * (1.1 - 0.7 * amount)
    force = grade(rng, amount + np.log(rate / 25) / 4, 0, 2, ("light|gentle|sparse", "steady|", "heavy|pouring|dense"))
    return audio, phrase(
        rng,
        (
            "{force} rain on a {surface}",
            "{force} rainfall, drops hitting a {surface}",
            "raindrops on a {surface}, {forced} rain",
            "{force} rain falling",
        ),
        force=force,
        forced=force or "steady",
        surface=surface,
    ).replace("a leaves", "leaves").replace("a pavement", "pavement")


def wind(rng: Rng) -> tuple[Array, str]:
    n = samples(texture_seconds(rng))
    strength, whistle, gust = rng.uniform(), rng.uniform() < 0.4, log_uniform(rng, 0.25, 2.0)
    move = frame_drift(rng, n, gust) * 0.7 + 0.3 * frame_drift(rng, n, 3 * gust)
    centre = (180 + 500 * strength) * 2 ** (rng.uniform(0.5, 1.3) * move)
    level = np.exp((0.4 + 1.0 * rng.uniform()) * move)
    gains = level * (band(centre, 1.1) + 0.25 * strength * below(60 + centre * 0.3) + 0.03 * strength * tilt(-3))
    if whistle:
        pitch = log_uniform(rng, 450, 2200)
        for ratio in (1, rng.uniform(1.3, 1.9)):
            tone = pitch * ratio * 2 ** (0.35 * move + 0.05 * frame_drift(rng, n, 6))
            gains = gains + rng.uniform(1.5, 5.0) * np.maximum(level - 0.6, 0) * peak(tone, tone * 0.04)
    audio = shaped_noise(rng, n, gains)
    force = grade(rng, strength, 0, 1, ("gentle|soft|light", "|steady|moderate", "strong|howling|fierce"))
    how = grade(
        rng,
        gust,
        0.25,
        2,
        ("with slow gusts|", "|with gusts", "with restless gusts|with rapid gusts"),
        logarithmic=True,
    )
    extra = (
        pick(rng, "whistling through a gap|whistling|moaning") if whistle else pick(rng, "blowing|rumbling|outdoors")
    )
    return audio, phrase(
        rng,
        ("{force} wind {extra} {how}", "a {force} wind {extra}", "{force} wind, {extra} {how}"),
        force=force,
        extra=extra,
        how=how,
    )


def fire(rng: Rng) -> tuple[Array, str]:
    n = samples(texture_seconds(rng))
    rate, roar = log_uniform(rng, 4, 90), rng.uniform(0.05, 1)
    snaps = impulses(rng, n, rate, 1.1, np.exp(1.2 * frame_drift(rng, n, 2)))
    crackle = sum(
        resonator(snaps, centre, centre * rng.uniform(0.3, 0.9)) * rng.uniform(0.5, 1)
        for centre in (900, 2600, 6500, 12_000)
    )
    pops = impulses(rng, n, rng.uniform(0.4, 3), 0.6)
    pops = resonator(pops, log_uniform(rng, 250, 900), 90)
    bed = shaped_noise(rng, n, (1 + 0.5 * frame_drift(rng, n, 7)) * (below(260, 1) + 0.03 * tilt(-2) * above(500, 1)))
    audio = np.tanh(2.5 * unit(crackle)) * 1.2 + 0.35 * unit(pops) + roar * 0.045 * loudness_unit(bed)
    busy = grade(rng, rate, 4, 90, ("sparse|occasional", "steady|", "busy|lively|intense"), logarithmic=True)
    size = grade(
        rng,
        roar,
        0.05,
        1,
        ("small campfire|fireplace|candle-like fire", "camp fire|log fire", "large roaring fire|bonfire|blaze"),
    )
    return audio, phrase(
        rng,
        (
            "a {size} with {busy} crackling",
            "{busy} crackling of a {size}",
            "a {size} burning, {busy} crackles and pops",
            "a {size} crackling",
        ),
        busy=busy,
        size=size,
    )


def bubble(rng: Rng, pitch: float, t60: float, rise: float) -> Array:
    """A bubble's ring, whose pitch rises as it nears the surface (van den Doel 2005)."""
    n = samples(t60)
    t = times(n)
    return sine(pitch * (1 + rise * t / t60)) * decay(n, t60, 0.0015)


def water_drips(rng: Rng) -> tuple[Array, str]:
    n = samples(texture_seconds(rng))
    rate, pitch, cave = log_uniform(rng, 0.6, 9), log_uniform(rng, 500, 2600), rng.uniform() < 0.45
    regular = rng.uniform() < 0.5
    total = n / 48_000
    gaps = rng.uniform(0.9, 1.1, 90) if regular else rng.exponential(1, 90)
    grains = []
    for start in np.cumsum(gaps) / rate - 0.5 / rate:
        if start > total - 0.1:
            break
        own = pitch * 2 ** rng.normal(0, 0.12 if regular else 0.45)
        drop = bubble(rng, own, rng.uniform(0.04, 0.16), rng.uniform(0.1, 1.2)) * rng.uniform(0.4, 1)
        grains.append((start + rng.uniform(0.004, 0.02), drop))
        tick = shaped_noise(rng, 480, above(2500, 1)) * decay(480, 0.006)
        grains.append((start, 0.25 * tick))
    if not grains:
        grains = [(0.1, bubble(rng, pitch, 0.12, 0.6))]
    audio = scatter(n, grains)
    if cave:
        for delay, level in ((0.043, 0.35), (0.101, 0.3), (0.177, 0.2), (0.29, 0.13)):
            shift = round(delay * rng.uniform(0.8, 1.25) * 48_000)
            audio[shift:] += level * audio[:-shift]
    pace = grade(rng, rate, 0.6, 9, ("slow|occasional", "steady|", "fast|rapid"), logarithmic=True)
    tone = grade(rng, pitch, 500, 2600, ("deep|low", "|clear", "high|bright|thin"), logarithmic=True)
    place = (
        pick(rng, "in a cave|in an echoing cellar|in a cavern")
        if cave
        else pick(rng, "into a sink|into a bucket|from a tap|")
    )
    return audio, phrase(
        rng,
        (
            "{pace} water drips {place}",
            "{tone} water drops falling {place}",
            "{pace} dripping water {place}, {tone} plinks",
            "a {pace} {tone} drip of water {place}",
        ),
        pace=pace,
        tone=tone or "clear",
        place=place,
    )


def stream(rng: Rng) -> tuple[Array, str]:
    n = samples(min(5.0, texture_seconds(rng)))
    flow, pitch = rng.uniform(), log_uniform(rng, 350, 1500)
    count = int((40 + 90 * (1 - abs(flow - 0.4))) * n / 48_000)
    pitches = pitch * 2 ** rng.normal(0, 0.65, count)
    grains = [
        (start, bubble(rng, own, min(0.14, 30 / own), rng.uniform(0, 0.7)) * level)
        for start, own, level in zip(
            rng.uniform(-0.02, n / 48_000, count), pitches, rng.exponential(0.4, count), strict=True
        )
    ]
    gains = (1 + 0.3 * frame_drift(rng, n, 5)) * (band(pitch * 1.2, 1.0) + flow * (tilt(-2.5) * above(300, 1)))
    audio = loudness_unit(scatter(n, grains)) * (1.1 - flow) + loudness_unit(shaped_noise(rng, n, gains)) * (
        0.12 + 1.1 * flow**2
    )
    size = grade(
        rng,
        flow,
        0,
        1,
        (
            "small trickling brook|trickle of water|gentle trickling creek",
            "babbling brook|stream|running stream",
            "rushing river|waterfall|torrent of water",
        ),
    )
    return audio, phrase(
        rng,
        (
            "a {size}",
            "the {tone} gurgle of a {size}",
            "a {size} flowing, {tone} and steady",
            "{tone} water of a {size}",
        ),
        size=size,
        tone=grade(rng, pitch, 350, 1500, ("deep|low", "smooth|full", "bright|light"), logarithmic=True),
    )


def insects(rng: Rng) -> tuple[Array, str]:
    n = samples(texture_seconds(rng))
    kind = pick(rng, "crickets|cricket|cicadas|fly|bees|mosquito")
    if kind in ("crickets", "cricket"):
        audio, rate = np.zeros(n, np.float32), log_uniform(rng, 0.9, 4.5)
        carrier = log_uniform(rng, 2800, 7200)
        for voice in range(1 if kind == "cricket" else int(rng.integers(3, 7))):
            own = carrier * (1 + 0.09 * rng.normal() * (voice > 0))
            chirp = phase(rate * rng.uniform(0.85, 1.15), n) + np.float32(rng.uniform())
            pulses, share = phase(rng.uniform(24, 60), n), rng.uniform(0.25, 0.6)
            syllable = np.minimum(1, (chirp - np.floor(chirp)) / share)
            gate = np.sin(np.pi * pulses) ** 2 * np.sin(np.pi * syllable)
            tone = sine(own * (1 + 0.006 * np.sin(2 * np.pi * pulses))) + 0.12 * sine(2 * own, n)
            audio += tone * gate * (1.0 if voice == 0 else rng.uniform(0.1, 0.7))
        word = grade(rng, rate, 0.9, 4.5, ("slow", "steady|", "rapid|fast"), logarithmic=True)
        act = pick(rng, "chirping at night|chirping|chirping in the grass")
    elif kind == "cicadas":
        carrier, rate = log_uniform(rng, 3500, 9500), log_uniform(rng, 60, 240)
        buzz = wavetable(phase(rate * (1 + 0.03 * drift(rng, n, 4))), np.array([1, 0.6, 0.4, 0.2]))
        move = np.exp(0.7 * frame_drift(rng, n, rng.uniform(0.4, 3)))
        noise = shaped_noise(rng, n, move * (band(carrier, 0.16) + 0.4 * band(carrier * 1.7, 0.14) + 0.02))
        audio = noise * (0.4 + np.maximum(buzz, 0))
        word, act = (
            grade(rng, carrier, 3500, 9500, ("low", "|loud", "shrill|high"), logarithmic=True),
            pick(rng, "buzzing in summer heat|droning"),
        )
    else:
        carrier = {"fly": (140, 240), "bees": (170, 280), "mosquito": (380, 750)}[kind]
        pitch, audio = log_uniform(rng, *carrier), np.zeros(n, np.float32)
        for _ in range(5 if kind == "bees" else 1):
            flight = drift(rng, n, rng.uniform(0.6, 2.5))
            speed = pitch * rng.uniform(0.9, 1.1) * (1 + 0.07 * flight + 0.02 * drift(rng, n, 14))
            amplitudes = harmonics(pitch * 1.3, 1.0)[:110]
            voice = wavetable(phase(speed), amplitudes * rng.uniform(0.3, 1, len(amplitudes)))
            audio += voice * np.exp(1.4 * flight) * (1 + 0.2 * drift(rng, n, 60))
        audio += 0.02 * shaped_noise(rng, n, above(1500, 1))
        word, act = (
            grade(rng, pitch, *carrier, ("low", "|steady", "high")),
            pick(rng, "buzzing around|flying past|humming close by"),
        )
    return audio, phrase(
        rng,
        ("{word} {kind} {act}", "the sound of {word} {kind} {act}", "{kind} {act}, {worded} and continuous"),
        word=word,
        kind=kind,
        act=act,
        worded=word or "even",
    )
