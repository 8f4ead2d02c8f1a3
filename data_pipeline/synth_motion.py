"""Steps, creaks, swings and blasts: sounds of something that moves or bursts.

Each family is a function rng -> (audio float32 [S] at any level, caption as a noun phrase).
"""

from __future__ import annotations

import numpy as np

from data_pipeline.synth_impacts import BAR, contact, perform, struck
from data_pipeline.synth_sources import (
    Array,
    above,
    band,
    below,
    convolve,
    curve,
    decay,
    drift,
    frame_curve,
    frame_drift,
    frame_times,
    impulses,
    log_uniform,
    modes,
    peak,
    phase,
    resonator,
    samples,
    scatter,
    shaped_noise,
    sine,
    swell,
    tilt,
    times,
    unit,
    wavetable,
)
from data_pipeline.synth_words import counted, grade, phrase, pick

Rng = np.random.Generator


def footsteps(rng: Rng) -> tuple[Array, str]:
    surface = pick(rng, "concrete|gravel|wooden floor|grass|snow|metal grating|puddles|dry leaves")
    pace, weight = log_uniform(rng, 1.1, 3.6), rng.uniform()
    number = int(rng.integers(2, 12))
    board = log_uniform(rng, 110, 320)
    grate = np.sort(np.append(1.0, rng.uniform(1, 14, 14)))
    step_noise = {"concrete": (2500, 0.05), "gravel": (4200, 0.22), "grass": (6000, 0.2), "snow": (3000, 0.3)}

    def step(strength: float) -> Array:
        n = samples(0.4)
        heel = rng.uniform(55, 75) + 40 * (1 - weight)
        thud = sine(heel * (1 + 0.8 * decay(n, 0.06)), n) * decay(n, 0.16, 0.003) * (0.25 + 0.6 * weight)
        toe = rng.uniform(0.05, 0.11) * (2 / pace) ** 0.5
        parts = [(0.0, thud)]
        if surface == "wooden floor":
            parts += [(d, g * struck(rng, board, BAR[:6], 0.26, 0.6, 0.5, 0.2)) for d, g in ((0, 1), (toe, 0.5))]
        elif surface == "metal grating":
            parts += [
                (d, g * struck(rng, 2.2 * board, grate, 0.7, 0.3, 0.7, 0.4, 0.7)) for d, g in ((0, 0.8), (toe, 0.5))
            ]
        elif surface == "concrete":
            parts += [
                (d, g * contact(rng, rng.uniform(0.04, 0.09), rng.uniform(2500, 6000))) for d, g in ((0, 1), (toe, 0.6))
            ]
        elif surface == "puddles":
            splash = shaped_noise(rng, n, band(1800, 1.3)) * curve(n, [(0, 0), (0.06, 1), (0.25, 0.4), (1, 0)]) * 0.4
            drops = impulses(rng, n, 120, 0.8, curve(64, [(0, 1), (1, 0)]))
            parts += [(0.0, splash), (0.05, 3 * (resonator(drops, 900, 60) + resonator(drops, 2100, 120)))]
        else:
            centre, length = step_noise.get(surface, (5500, 0.28))
            m = samples(length * (1.6 / pace) ** 0.5 + 0.1)
            grit = {"gravel": 700, "snow": 2500, "grass": 4000}.get(surface, 450)
            bursts = impulses(rng, m, grit, 0.9, curve(64, [(0, 0.6), (0.1, 1), (0.35, 0.4), (0.5, 0.9), (1, 0)]))
            crunch = resonator(bursts, centre, centre * 0.9) + resonator(bursts, centre * 0.4, centre * 0.3)
            parts.append((0.0, unit(crunch) * swell(m, 0.02, 0.1)))
        return scatter(samples(0.85 if surface == "metal grating" else 0.55), parts)

    plan = [(max(0.0, i / pace + rng.normal(0, 0.015)), rng.uniform(0.65, 1)) for i in range(number)]
    plan = [(t, s) for t, s in plan if t < 6]
    audio = perform(rng, plan, step)
    gait = grade(
        rng,
        pace,
        1.1,
        3.6,
        ("slow|unhurried", "walking|steady", "quick|hurried", "running|fast running"),
        logarithmic=True,
    )
    body = grade(rng, weight, 0, 1, ("light|soft", "", "heavy"))
    return audio, phrase(
        rng,
        (
            "{body} {gait} footsteps on {surface}",
            "someone with {body} {gait} steps on {surface}",
            "{gait} footsteps across {surface}",
            "footsteps on {surface}, {gait} and {weighted}",
        ),
        body=body,
        gait=gait,
        surface=surface,
        weighted=body or "even",
    )


def door_creak(rng: Rng) -> tuple[Array, str]:
    n = samples(rng.uniform(0.5, 3.2))
    slow, pitch = log_uniform(rng, 12, 110), log_uniform(rng, 350, 1300)
    speed = slow * np.exp(1.0 * drift(rng, n, rng.uniform(1, 4)) + 0.25 * drift(rng, n, 13))
    cycle = phase(speed)
    slips = np.flatnonzero(np.diff(cycle) < 0)
    train = np.zeros(n, np.float32)
    train[slips] = rng.uniform(0.4, 1, len(slips))
    frequencies = pitch * np.append(1.0, rng.uniform(0.4, 12, 16))
    body = modes(
        4800, frequencies, rng.uniform(0.02, 0.09, 17), rng.uniform(0.2, 1, 17) * (frequencies / pitch) ** -0.4
    )
    squeak = wavetable(cycle * 8, np.array([1, 0.7, 0.5, 0.4, 0.3])) * rng.uniform(0, 0.5)
    rub = shaped_noise(rng, n, band(pitch * 2, 1.2)) * 0.03
    audio = (unit(convolve(train, body)) + 0.25 * squeak + rub) * curve(n, [(0, 0.3), (0.15, 1), (0.7, 0.8), (1, 0.2)])
    audio = audio * swell(n, 0.05, 0.1)
    thing = pick(rng, "wooden door|old door|rusty hinge|floor board|gate")
    pace = grade(rng, slow, 12, 110, ("slow|slowly clicking", "|long", "squealing|fast"), logarithmic=True)
    tone = grade(rng, pitch, 350, 1300, ("low|groaning", "|dry", "high pitched|squeaky"), logarithmic=True)
    if rng.uniform() < 0.3:
        m = samples(0.35)
        slam = sine(70 * (1 + decay(m, 0.08)), m) * decay(m, 0.3, 0.002) + unit(
            shaped_noise(rng, m, below(1500))
        ) * decay(m, 0.12)
        return scatter(n + m, [(0, audio), ((n - 1) / 48_000, 1.3 * slam)]), phrase(
            rng,
            ("a {thing} creaking and closing with a thud", "a {tone} creak of a {thing}, then a slam"),
            thing=thing,
            tone=tone,
        )
    return audio, phrase(
        rng,
        (
            "a {tone} creaking {thing}",
            "a {pace} {tone} creak of a {thing}",
            "a {thing} creaking, {toned}",
            "a {pace} creak from a {thing}",
        ),
        tone=tone,
        thing=thing,
        pace=pace,
        toned=tone or "dry",
    )


def whoosh(rng: Rng) -> tuple[Array, str]:
    number = int(rng.choice([1, 1, 1, 2, 3]))
    seconds, top = log_uniform(rng, 0.25, 2.0), log_uniform(rng, 350, 5000)
    width, tonal = rng.uniform(0.5, 1.5), rng.uniform() < 0.25

    def swing() -> Array:
        n = samples(seconds)
        middle = rng.uniform(0.35, 0.7)
        rise = frame_curve(n, [(0, 0), (middle, 1), (1, 0)])
        centre = top * 2 ** (2.2 * (rise - 1) - 0.8 * frame_curve(n, [(0, 0), (1, 1)]))
        gains = rise**2 * (band(centre, width) + 0.1 * band(centre * 3.2, 0.6))
        if tonal:
            gains = gains + rise**2 * 3 * peak(centre * 1.3, 60)
        edge = curve(n, [(0, 0), (0.06, 1), (0.9, 1), (1, 0)])
        return shaped_noise(rng, n, gains) * edge

    gap = seconds * rng.uniform(0.8, 1.5)
    audio = scatter(
        samples((number - 1) * gap + seconds), [(i * gap, swing() * rng.uniform(0.6, 1)) for i in range(number)]
    )
    pace = grade(rng, seconds, 0.25, 2, ("quick|fast|sharp", "|smooth", "slow|long"), logarithmic=True)
    tone = grade(rng, top, 350, 5000, ("deep|low|heavy", "|airy", "bright|thin|light"), logarithmic=True)
    what = pick(rng, "sword swing|blade swish" if tonal else "whoosh|swish|swoosh|air whoosh passing by")
    return audio, phrase(
        rng,
        ("a {pace} {tone} {what} {many}", "a {tone} {what}, {paced}, {many}", "a {pace} {what} {many}"),
        pace=pace,
        tone=tone,
        what=what,
        paced=pace or "even",
        many="once" if number == 1 else f"repeated {counted(number, 'time', 'times')}",
    )


def blast(rng: Rng, n: int, size: float, bright: float, t60: float) -> Array:
    """Noise whose cutoff falls while it decays, over a falling sub tone, driven into saturation."""
    t = frame_times(n)
    cutoff = 90 + 160 * (1 - size) + bright * np.exp(-t / (0.1 + 0.25 * size))
    roar = shaped_noise(rng, n, below(cutoff, 1.0) * tilt(-0.5) * np.exp(-6.9 * t / t60))
    s = times(n)
    sub = sine(28 + 90 * np.exp(-s / (0.06 + 0.2 * size))) * decay(n, 0.6 * t60, 0.003)
    roar *= np.minimum(1, s / 0.004) * (1 + 1.5 * np.exp(-s / 0.05))
    return np.tanh(1.6 * (unit(roar) + 0.5 * sub))


def explosion(rng: Rng) -> tuple[Array, str]:
    size, debris = rng.uniform(), rng.uniform() < 0.5
    bright, t60 = log_uniform(rng, 1200, 18_000), 0.5 + 3.5 * size + rng.uniform(0, 1)
    n = samples(min(6.0, 1.1 * t60 + 0.3))
    audio = blast(rng, n, size, bright, t60)
    if debris:
        grit = impulses(rng, n, 60, 1.2, curve(200, [(0, 0), (0.1, 0.6), (0.3, 1), (0.8, 0.1), (1, 0)]))
        grit = sum(resonator(grit, log_uniform(rng, 500, 6000), 400) for _ in range(3))
        audio = audio + rng.uniform(0.15, 0.4) * unit(grit)
    big = grade(rng, size, 0, 1, ("small|short", "|medium sized", "large|huge|massive"))
    colour = grade(rng, bright, 1200, 18_000, ("muffled|deep|dull", "", "sharp|bright|crackling"), logarithmic=True)
    tail = (
        pick(rng, "with falling debris|showering debris")
        if debris
        else grade(rng, t60, 0.5, 5, ("|with a short tail", "with a long rumbling tail|"))
    )
    return audio, phrase(
        rng,
        (
            "a {big} {colour} explosion {tail}",
            "a {colour} blast, {bigness} {tail}",
            "a {big} bomb going off {tail}",
            "a {big} {colour} detonation {tail}",
        ),
        big=big,
        colour=colour,
        tail=tail,
        bigness=big or "loud",
    )


def thunder(rng: Rng) -> tuple[Array, str]:
    near = rng.uniform()
    seconds = rng.uniform(2.5, 7.0)
    n = samples(seconds)
    t = frame_times(n)
    rumble = frame_curve(n, [(0, 0.05), (rng.uniform(0.05, 0.2), 1), (rng.uniform(0.35, 0.6), 0.5), (1, 0)]) ** 1.5
    rumble = rumble * (0.55 + 0.45 * frame_drift(n=n, rng=rng, rate=rng.uniform(3, 9)))
    cutoff = 90 + (300 + 1500 * near) * np.exp(-t / seconds * 3)
    audio = unit(shaped_noise(rng, n, rumble * below(cutoff, 1.5) * above(25, 1.0)))
    if near > 0.4:
        cracks = []
        for start in np.sort(rng.uniform(0, 0.5, int(rng.integers(2, 8)))):
            m = samples(rng.uniform(0.1, 0.5))
            burst = shaped_noise(rng, m, tilt(-3) * below(14_000)) * decay(m, m / 48_000)
            cracks.append((start, unit(burst) * rng.uniform(0.4, 1.2) * near))
        audio = np.tanh(audio + scatter(n, cracks))
    audio = audio * (1 + 0.2 * drift(rng, n, 20))
    where = grade(rng, near, 0, 1, ("distant|far away|low", "|rolling", "close|nearby|violent"))
    length = grade(rng, seconds, 2.5, 7, ("short|", "|rolling", "long|long rolling"))
    sound = pick(rng, "clap|crack|crash") if near > 0.6 else pick(rng, "rumble|roll")
    return audio, phrase(
        rng,
        (
            "a {where} {sound} of thunder",
            "{length} {where} thunder",
            "a {length} thunder {sound}, {wherever}",
            "a {where} thunderstorm {sound}",
        ),
        where=where,
        sound=sound,
        length=length,
        wherever=where or "overhead",
    )
