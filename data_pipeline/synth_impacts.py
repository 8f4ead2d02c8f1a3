"""Struck and broken things: modal synthesis after van den Doel and Pai (1998), with contact noise.

Each family is a function rng -> (audio float32 [S] at any level, caption as a noun phrase).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_pipeline.synth_sources import (
    Array,
    above,
    below,
    curve,
    decay,
    impulses,
    log_uniform,
    modes,
    resonator,
    samples,
    scatter,
    shaped_noise,
    sine,
    unit,
)
from data_pipeline.synth_words import counted, grade, phrase, pick

Rng = np.random.Generator


BAR = np.array([1, 2.756, 5.404, 8.933, 13.34, 18.64, 24.8])


SIZES = ("huge|massive|very large", "large|big", "medium sized||", "small", "tiny|very small")


def contact(rng: Rng, seconds: float, cutoff: float) -> Array:
    """The noise of two surfaces meeting: a burst that is brighter for harder surfaces."""
    n = samples(seconds * 2)
    return unit(shaped_noise(rng, n, below(cutoff, 1.5) * above(80, 1.0)) * decay(n, seconds))


def struck(
    rng: Rng, pitch: float, ratios: Array, t60: float, damping: float, hardness: float, click: float, limit: float = 6.0
) -> Array:
    """One hit on a body.

    Args:
      pitch: Hz of ratio 1.
      t60: seconds of ring at the pitch; a mode at r times the pitch rings r^-damping as long.
      hardness: 0..1, how far up the hit excites modes.
      click: level of the contact noise.
      limit: longest duration in seconds.
    """
    ring = np.minimum(t60 * ratios**-damping, 1.3 * t60)
    reach = 600 * 2 ** (5 * hardness)
    excitation = 1 / (1 + (pitch * ratios / reach) ** 2)
    place = 0.25 + np.abs(np.sin(np.pi * rng.uniform(0.1, 0.5) * np.arange(1, len(ratios) + 1)))
    n = samples(min(limit, 1.1 * float(ring.max()) + 0.05))
    amplitudes = excitation * place * rng.uniform(0.4, 1.0, len(ratios))
    body = modes(n, pitch * ratios, ring, amplitudes / np.sqrt(np.sum(amplitudes**2)), rng.uniform(0, 0.5, len(ratios)))
    noise = contact(rng, rng.uniform(0.004, 0.03), min(18_000, 2.5 * reach))
    body[: len(noise)] += click * noise[: len(body)]
    return body * np.minimum(1, np.arange(n) / 24).astype(np.float32)


def hits(rng: Rng) -> tuple[list[tuple[float, float]], str]:
    """Times and strengths of one hit, a few, or a bounce; with the words for it."""
    kind = rng.choice(["single", "several", "bounce"], p=[0.55, 0.25, 0.2])
    if kind == "single":
        return [(0.0, 1.0)], pick(rng, "impact|hit|strike|knock")
    if kind == "several":
        number, gap = int(rng.integers(2, 6)), log_uniform(rng, 0.09, 0.6)
        pace = grade(rng, gap, 0.09, 0.6, ("rapid|quick|fast", "", "slow|"), logarithmic=True)
        plan = [(i * gap * rng.uniform(0.9, 1.1), rng.uniform(0.5, 1)) for i in range(number)]
        return plan, counted(number, f"{pace} hit", f"{pace} hits")
    gap, keep, plan, start, strength = rng.uniform(0.15, 0.45), rng.uniform(0.6, 0.8), [], 0.0, 1.0
    while gap > 0.02 and len(plan) < 12:
        plan.append((start, strength))
        start, gap, strength = start + gap, gap * keep, strength * rng.uniform(0.6, 0.85)
    return plan, pick(rng, "object dropping and bouncing|piece falling and bouncing to rest")


def perform(rng: Rng, plan: list[tuple[float, float]], hit: Callable[[float], Array], tail: float = 0.0) -> Array:
    """Plays `hit(strength)` at the times of the plan."""
    grains = [(start, strength * hit(strength)) for start, strength in plan]
    end = max(start + len(audio) / 48_000 for start, audio in grains)
    return scatter(samples(min(7.5, end + tail)), grains)


def describe(rng: Rng, event: str, size: str, sound: str, adjective: str, thing: str) -> str:
    """A phrase for one hit, several hits or a bounce; `adjective` and `thing` are "word|word" for the material."""
    material, thing = pick(rng, adjective), pick(rng, thing)
    if event.endswith("hits"):
        templates = (
            "{event} on a {size} {thing}, {sound}",
            "a {size} {thing} struck with {event}",
            "{sound} {material} impacts: {event} on a {size} {thing}",
        )
    else:
        templates = (
            "a {size} {material} {event}",
            "a {size} {material} {event} with a {sound} tone",
            "a {sound} {material} {event}",
            "a {size} {material} {event}, {sound}",
        )
    return phrase(rng, templates, event=event, material=material, thing=thing, sound=sound, size=size)


def wood_impact(rng: Rng) -> tuple[Array, str]:
    pitch, t60 = log_uniform(rng, 90, 1100), log_uniform(rng, 0.06, 0.45)
    hardness, hollow = rng.uniform(0.2, 0.9), rng.uniform() < 0.4
    ratios = BAR[:6] * rng.uniform(0.93, 1.07, 6)
    ratios = np.append(ratios, rng.uniform(1, 12, int(rng.integers(3, 9))))
    plan, event = hits(rng)
    box = log_uniform(rng, 90, 400)

    def hit(strength: float) -> Array:
        audio = struck(rng, pitch, ratios, t60, rng.uniform(0.6, 0.9), hardness * (0.6 + 0.4 * strength), 0.7)
        if hollow:
            audio = audio + 6 * resonator(audio, box, box / 9)
        return audio

    audio = perform(rng, plan, hit, 0.1)
    sound = grade(rng, hardness, 0.2, 0.9, ("dull|muffled|soft", "dry|woody", "sharp|bright|hard"))
    size = grade(rng, pitch, 90, 1100, SIZES, logarithmic=True)
    material = (
        ("hollow wooden", "wooden box|barrel|empty crate")
        if hollow
        else ("wooden|wood", "plank|table|wooden block|log")
    )
    return audio, describe(rng, event, size, sound, *material)


def metal_impact(rng: Rng) -> tuple[Array, str]:
    pitch, t60 = log_uniform(rng, 80, 1500), log_uniform(rng, 0.25, 5.0)
    hardness = rng.uniform(0.45, 1.0)
    number = int(rng.integers(14, 60))
    ratios = np.sort(np.append(1.0, 1 + rng.uniform(0, 1, number) ** 1.4 * min(60.0, 20_000 / pitch)))
    ratios = np.append(ratios, ratios[:8] * (1 + rng.uniform(0.0005, 0.006, 8)))
    plan, event = hits(rng)
    audio = perform(
        rng, plan, lambda s: struck(rng, pitch, ratios, t60, rng.uniform(0.2, 0.45), hardness * (0.7 + 0.3 * s), 0.5)
    )
    ring = grade(
        rng, t60, 0.25, 5, ("dead|short clanking", "clanging|clanky", "ringing|resonant", "long ringing|long resonant"),
        logarithmic=True,
    )  # fmt: skip
    size = grade(rng, pitch, 80, 1500, ("heavy|huge", "large|big", "|medium sized", "small|light"), logarithmic=True)
    material = ("metal|steel|iron", "metal plate|steel pipe|iron bar|metal sheet|anvil")
    return audio, describe(rng, event, size, ring, *material)


def stone_impact(rng: Rng) -> tuple[Array, str]:
    pitch, t60 = log_uniform(rng, 250, 2600), log_uniform(rng, 0.03, 0.14)
    crumble = rng.uniform() < 0.4
    ratios = np.append(1.0, rng.uniform(1, 8, int(rng.integers(6, 14))))
    plan, event = hits(rng)
    thump = log_uniform(rng, 45, 140)

    def hit(strength: float) -> Array:
        audio = struck(rng, pitch, ratios, t60, 0.4, 0.9, 1.2)
        n = samples(0.25)
        low = sine(thump * (1 + decay(n, 0.05)), n) * decay(n, 0.18, 0.002)
        return scatter(max(n, len(audio)), [(0, audio), (0, low * (500 / pitch))])

    audio = perform(rng, plan, hit, 0.7 if crumble else 0.1)
    if crumble:
        grit = impulses(rng, len(audio), 220, 1.1, curve(200, [(0, 0), (0.05, 1), (0.4, 0.25), (1, 0)]))
        grit = resonator(grit, log_uniform(rng, 2500, 7000), 1800) + resonator(grit, log_uniform(rng, 900, 2000), 500)
        audio = audio + rng.uniform(0.3, 0.7) * np.abs(audio).max() * unit(grit)
    size = grade(rng, pitch, 250, 2600, SIZES, logarithmic=True)
    sound = pick(rng, "gritty|dry|rough" if crumble else "hard|dry|clacking")
    text = describe(rng, event, size, sound, "stone|rock", "stone|rock|stone slab|brick")
    return audio, text + (pick(rng, " with crumbling debris| and falling gravel| with grit") if crumble else "")


def glass_impact(rng: Rng) -> tuple[Array, str]:
    pitch, t60 = log_uniform(rng, 700, 4200), log_uniform(rng, 0.12, 1.8)
    ratios = np.array([1, 2.32, 4.25, 6.63, 9.38, 12.2]) * rng.uniform(0.96, 1.04, 6)
    ratios = np.append(ratios, ratios[:3] * (1 + rng.uniform(0.001, 0.008, 3)))
    plan, event = hits(rng)
    audio = perform(rng, plan, lambda s: struck(rng, pitch, ratios, t60, 0.35, 0.8 + 0.2 * s, 0.15), 0.05)
    ring = grade(rng, t60, 0.12, 1.8, ("short|dull", "clinking|clear", "ringing|long ringing"), logarithmic=True)
    size = grade(rng, pitch, 700, 4200, ("large|big", "|medium sized", "small|tiny"), logarithmic=True)
    return audio, describe(
        rng, event, size, ring, "glass|crystal glass", "drinking glass|glass bottle|glass pane|glass jar"
    )


def glass_break(rng: Rng) -> tuple[Array, str]:
    spread, number = log_uniform(rng, 0.15, 0.9), int(rng.integers(25, 110))
    low = log_uniform(rng, 900, 3500)
    n = samples(spread * 3.5 + 0.3)
    grains = [(0.0, 2.5 * contact(rng, rng.uniform(0.03, 0.12), 16_000))]
    if rng.uniform() < 0.5:
        grains.append((0.0, 1.5 * contact(rng, 0.08, 400)))
    for start in rng.exponential(spread * 0.6, number) * (rng.uniform(0, 1, number) > 0.15):
        pitch = low * 2 ** rng.exponential(0.9)
        ratios = np.append(1.0, rng.uniform(1.2, 5, 3))
        ring = log_uniform(rng, 0.02, 0.3)
        shard = modes(samples(ring), pitch * ratios, ring * ratios**-0.3, rng.uniform(0.3, 1, 4), rng.uniform(0, 1, 4))
        grains.append((start, shard * float(rng.exponential(0.35)) * np.exp(-start / spread)))
    hiss = shaped_noise(rng, n, above(5000)) * decay(n, spread * 1.5, 0.002) * 0.25
    audio = scatter(n, [*grains, (0, hiss)])
    thing = grade(
        rng,
        low,
        900,
        3500,
        ("large window|big pane of glass", "bottle|drinking glass|jar", "small glass|light bulb|test tube"),
        logarithmic=True,
    )
    tail = grade(
        rng,
        spread,
        0.15,
        0.9,
        ("in a short burst|", "with falling shards|", "with shards scattering on the floor|with a long tinkling tail"),
        logarithmic=True,
    )
    return audio, phrase(
        rng,
        (
            "a {thing} breaking {tail}",
            "a {thing} shattering {tail}",
            "glass smashing, a {thing} {tail}",
            "a {thing} smashed to pieces {tail}",
        ),
        thing=thing,
        tail=tail,
    )


def bell(rng: Rng) -> tuple[Array, str]:
    pitch, t60 = log_uniform(rng, 120, 2400), rng.uniform(1.0, 6.0)
    t60 *= (400 / pitch) ** 0.25
    ratios = np.array([0.5, 1, 1.19, 1.5, 2, 2.51, 2.66, 3.01, 4.17, 5.43, 6.8, 8.2]) * rng.uniform(0.995, 1.005, 12)
    ratios = np.append(ratios, ratios[:6] * (1 + rng.uniform(0.0008, 0.004, 6)))
    ratios = np.append(ratios, rng.uniform(8, 30, 14))
    number = int(rng.choice([1, 1, 2, 3, 5]))
    gap = log_uniform(rng, 0.15, 1.4)
    hardness = rng.uniform(0.4, 0.9)
    plan = [(i * gap, rng.uniform(0.7, 1.0)) for i in range(number)]
    audio = perform(rng, plan, lambda s: struck(rng, pitch, ratios, t60, 0.55, hardness, 0.12))
    thing = grade(
        rng,
        pitch,
        120,
        2400,
        (
            "church bell|deep bell|large bronze bell",
            "bell|ship bell|school bell",
            "hand bell|small bell",
            "tiny bell|service bell|little chime",
        ),
        logarithmic=True,
    )
    tone = grade(rng, hardness, 0.4, 0.9, ("mellow|soft|warm", "|clear", "bright|sharp"))
    tolls = "once" if number == 1 else pick(rng, f"{counted(number, 'time', 'times')}|repeatedly")
    return audio, phrase(
        rng,
        (
            "a {tone} {thing} struck {tolls}",
            "a {thing} ringing {tolls} with a {tone} tone",
            "a {tone} {thing} rung {tolls}, dying away slowly",
        ),
        tone=tone or "clear",
        thing=thing,
        tolls=tolls,
    )


def coin(rng: Rng) -> tuple[Array, str]:
    pitch = log_uniform(rng, 2200, 6500)
    ratios = np.array([1, 1.02, 1.73, 2.31, 2.9, 3.6, 4.3]) * rng.uniform(0.97, 1.03, 7)
    kind = pick(rng, "drop|toss|jingle")
    t60 = log_uniform(rng, 0.08, 0.7)
    if kind == "drop":
        gap, keep, start, plan = rng.uniform(0.12, 0.35), rng.uniform(0.72, 0.88), 0.0, []
        while gap > 0.012 and len(plan) < 26:
            plan.append((start, 0.9 ** len(plan)))
            start, gap = start + gap, gap * keep
        act = pick(
            rng, "coin dropped and spinning to rest|coin falling and rattling on a table|coin bouncing on the floor"
        )
    elif kind == "toss":
        plan, act = [(0.0, 1.0)], pick(rng, "coin flicked with a ring|single coin struck|coin tossed with a ping")
    else:
        plan = [
            (float(x), rng.uniform(0.3, 1))
            for x in np.sort(rng.uniform(0, rng.uniform(0.3, 1.2), int(rng.integers(5, 20))))
        ]
        act = pick(rng, "handful of coins jingling|purse of coins shaken|pile of coins clinking")
    audio = perform(
        rng,
        plan,
        lambda s: struck(
            rng,
            pitch * rng.uniform(0.97, 1.03) * (2 ** rng.uniform(-0.3, 0.3) if kind == "jingle" else 1),
            ratios,
            t60,
            0.4,
            1.0,
            0.15,
            1.5,
        ),
    )
    tone = grade(rng, pitch, 2200, 6500, ("heavy|large", "|metal", "small|light|tiny"), logarithmic=True)
    return audio, phrase(
        rng,
        ("a {tone} {act}", "a {act}, {tone}", "a {tone} {act}, {ring}"),
        tone=tone if kind != "jingle" else "",
        act=act,
        ring=grade(rng, t60, 0.08, 0.7, ("dry", "bright", "ringing clearly"), logarithmic=True),
    )
