"""Engines, motors, alarms, lasers and interface blips: cyclic and swept oscillators.

Each family is a function rng -> (audio float32 [S] at any level, caption as a noun phrase).
"""

from __future__ import annotations

import numpy as np

from data_pipeline.synth_nature import texture_seconds
from data_pipeline.synth_sources import (
    Array,
    above,
    band,
    below,
    curve,
    decay,
    drift,
    harmonics,
    log_uniform,
    loudness_unit,
    modes,
    peak,
    phase,
    samples,
    scatter,
    shape_spectrum,
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


def engine(rng: Rng) -> tuple[Array, str]:
    n = samples(texture_seconds(rng))
    cylinders = int(rng.choice([1, 2, 4, 6, 8]))
    idle = log_uniform(rng, 600, 1500) * (1.4 if cylinders <= 2 else 1)
    kind = pick(rng, "idle|idle|rev|accelerate|slow")
    top = idle * rng.uniform(2.2, 5)
    shape = {
        "idle": [(0, idle), (1, idle)],
        "rev": [(0, idle), (0.15, idle), (0.3, top), (0.5, idle * 1.1), (0.65, top * 0.9), (0.9, idle), (1, idle)],
        "accelerate": [(0, idle), (0.2, idle * 1.2), (0.9, top), (1, top)],
        "slow": [(0, top), (0.8, idle * 1.1), (1, idle)],
    }[kind]
    speed = curve(n, shape) * (1 + 0.02 * drift(rng, n, 7) + 0.01 * drift(rng, n, 31))
    cycle = phase(speed / 120)
    firing = cylinders
    number = np.arange(1, 150)
    amplitudes = (
        rng.uniform(0.1, 1, 149) * number ** -rng.uniform(0.35, 0.85) * np.where(number % firing == 0, 3.5, 0.45)
    )
    rough = wavetable(cycle, amplitudes, rng.uniform(0, 2 * np.pi, 149))
    beat = 0.5 + 0.5 * wavetable(cycle * cylinders, np.array([1, 0.5, 0.25]))
    hiss = shaped_noise(rng, n, tilt(-3) * above(150, 1)) * (0.3 + beat) * rng.uniform(0.05, 0.35)
    load = (speed / idle) ** 0.5
    pipe = rng.uniform(60, 160)
    gains = below(log_uniform(rng, 1200, 9000), 0.8) * (
        0.6 + sum(peak(pipe * k, pipe * 0.5) for k in (1, 2.1, 3.3, 5.6))
    )
    audio = np.tanh(1.5 * shape_spectrum((rough + hiss) * load, gains))
    size = {
        1: "small single cylinder|moped|lawn mower",
        2: "motorcycle|twin cylinder",
        4: "car|four cylinder",
        6: "truck|six cylinder",
        8: "large v8|big diesel",
    }[cylinders]
    act = {
        "idle": "idling|running steadily|ticking over",
        "rev": "revving|being revved twice",
        "accelerate": "accelerating|speeding up",
        "slow": "slowing down|winding down",
    }[kind]
    pitch = grade(rng, idle, 600, 2100, ("low rumbling|slow", "|steady", "fast|high pitched"), logarithmic=True)
    return audio, phrase(
        rng,
        ("a {size} engine {act}", "a {pitch} {size} motor {act}", "a {size} engine {act} with a {tone} sound"),
        size=pick(rng, size),
        act=pick(rng, act),
        pitch=pitch,
        tone=pitch or "rough",
    )


def machine_hum(rng: Rng) -> tuple[Array, str]:
    n = samples(texture_seconds(rng))
    kind = pick(rng, "fan|transformer|refrigerator|vacuum cleaner|server room|electric drill")
    t = times(n)
    if kind in ("transformer", "refrigerator"):
        mains = float(rng.choice([50, 60])) * (1 if kind == "refrigerator" else 2)
        number = np.arange(1, 26)
        tone = modes(
            n, mains * number, np.inf, number ** -rng.uniform(0.6, 1.8) * rng.uniform(0.1, 1, 25), rng.uniform(0, 6, 25)
        )
        air = shaped_noise(rng, n, tilt(-4)) * (0.6 if kind == "refrigerator" else 0.05)
        audio = loudness_unit(tone) + 0.5 * air
        pitch = mains
    elif kind in ("fan", "server room"):
        pitch = log_uniform(rng, 35, 240)
        blade = wavetable(phase(pitch * (1 + 0.01 * drift(rng, n, 2))), harmonics(pitch, 1.6)[:20])
        air = shaped_noise(rng, n, tilt(rng.uniform(-5, -2)) * below(rng.uniform(3000, 14_000), 1) * above(60, 1))
        audio = loudness_unit(air) * (1 + 0.4 * blade) + rng.uniform(0.1, 0.9) * blade
        if kind == "server room":
            whines = pitch * rng.uniform(5, 40, 5)
            audio += 0.5 * modes(n, whines, np.inf, rng.uniform(0.1, 0.5, 5))
    else:
        pitch = log_uniform(rng, 110, 420)
        end = [(0, 0.35), (0.12, 1), (0.85, 1), (1, 0.4)] if rng.uniform() < 0.5 else [(0, 1), (1, 1)]
        speed = (
            pitch
            * curve(n, end)
            * (1 + 0.015 * drift(rng, n, 6) + (0.1 * drift(rng, n, 1.2) if "drill" in kind else 0))
        )
        whine = wavetable(
            phase(speed), harmonics(pitch, 0.8)[:60] * rng.uniform(0.1, 1, len(harmonics(pitch, 0.8)[:60]))
        )
        gear = sine(speed * rng.uniform(7, 15)) * 0.15
        air = loudness_unit(shaped_noise(rng, n, tilt(-2) * band(rng.uniform(900, 2600), 1.3)))
        audio = whine + gear + air * (0.4 if "vacuum" in kind else 0.12)
    audio = audio * (1 + rng.uniform(0, 0.15) * np.sin(2 * np.pi * rng.uniform(0.3, 3) * t))
    tone = grade(rng, pitch, 35, 420, ("low|deep", "steady|droning", "high|whining"), logarithmic=True)
    return audio, phrase(
        rng,
        (
            "a {tone} {kind} hum",
            "the {tone} hum of a {kind}",
            "a {kind} running with a {tone} sound",
            "{tone} machine noise of a {kind}",
        ),
        tone=tone,
        kind=kind,
    )


def alarm(rng: Rng) -> tuple[Array, str]:
    kind = pick(rng, "siren|siren|beeps|beeps|buzzer|smoke|klaxon")
    n = samples(5.0 if rng.uniform() < 0.4 else rng.uniform(1.2, 6))
    t = times(n)
    bright = rng.uniform(0.5, 2.5)
    if kind == "siren":
        style, pitch, rate = (
            pick(rng, "wailing|yelping|two-tone"),
            log_uniform(rng, 450, 900),
            log_uniform(rng, 0.2, 0.6),
        )
        rate *= {"wailing": 1, "yelping": 10, "two-tone": 2.5}[style]
        cycle = t * rate % 1
        sweep = (
            (cycle > 0.5) * 0.45
            if style == "two-tone"
            else (1 - np.cos(2 * np.pi * cycle)) * 0.5 * rng.uniform(0.7, 1.4)
        )
        audio = wavetable(phase(pitch * 2**sweep), harmonics(pitch * 2.7, 0.4 + bright)[:30])
        text = phrase(
            rng,
            ("a {style} siren", "an emergency siren, {style}", "a {pitch} {style} siren {rate}"),
            style=style,
            pitch=grade(rng, pitch, 450, 900, ("low", "", "high")),
            rate=grade(rng, rate, 0.2, 6, ("rising and falling slowly", "", "pulsing fast"), logarithmic=True),
        )
    elif kind == "klaxon":
        pitch = log_uniform(rng, 180, 420)
        rate = rng.uniform(0.6, 1.6)
        gate = np.clip(8 * np.sin(2 * np.pi * rate * t), 0, 1)
        audio = np.tanh(2 * wavetable(phase(pitch * (0.8 + 0.2 * gate)), harmonics(pitch, 0.7)[:40])) * gate
        text = phrase(
            rng,
            ("a {pitch} klaxon alarm honking", "a {pitch} submarine klaxon", "a warning horn, {pitched} and repeated"),
            pitch=grade(rng, pitch, 180, 420, ("low", "", "high")),
            pitched=grade(rng, pitch, 180, 420, ("low", "harsh", "high")),
        )
    elif kind == "buzzer":
        pitch = log_uniform(rng, 70, 320)
        audio = wavetable(phase(pitch, n), harmonics(pitch, 0.5, odd=True)[:90])
        n = min(n, samples(rng.uniform(0.3, 2.0)))
        audio = audio[:n] * swell(n, 0.005, 0.01)
        text = phrase(
            rng,
            ("a {pitch} harsh buzzer", "a {length} wrong answer buzzer", "a {pitch} electric buzzer, {length}"),
            pitch=grade(rng, pitch, 70, 320, ("low", "", "high"), logarithmic=True),
            length=grade(rng, n / 48_000, 0.3, 2, ("short", "brief", "long")),
        )
    else:
        pitch = log_uniform(rng, 2700, 3500) if kind == "smoke" else log_uniform(rng, 600, 2600)
        rate = rng.uniform(0.6, 1.2) if kind == "smoke" else log_uniform(rng, 0.8, 4)
        group, on = (3, 0.45) if kind == "smoke" else (int(rng.integers(1, 5)), rng.uniform(0.2, 0.6))
        cycle = t * rate % 1
        beat = cycle * (group + (group > 1))
        gate = (beat < group) * np.clip(np.minimum(beat % 1, on - beat % 1) * 400 / (rate * (group + 1)), 0, 1)
        audio = wavetable(phase(pitch, n), harmonics(pitch, 0.3 + bright, odd=True)[:12]) * gate
        text = phrase(
            rng,
            ("a smoke detector beeping", "a piercing smoke alarm", "a shrill fire alarm beeping in threes")
            if kind == "smoke"
            else (
                "a {pitch} digital alarm, {group} repeated {rate}",
                "an alarm clock with {group} {rate}",
                "{pitch} electronic beeps repeating {rate}",
            ),
            pitch=grade(rng, pitch, 600, 2600, ("low", "", "high pitched"), logarithmic=True),
            group=counted(group, "beep", "beeps"),
            rate=grade(rng, rate, 0.8, 4, ("slowly", "steadily", "quickly"), logarithmic=True),
        )
    return audio * swell(n, 0.004, 0.006), text


def laser(rng: Rng) -> tuple[Array, str]:
    kind = pick(rng, "shot|shot|shot|burst|beam|charge")
    length, high = log_uniform(rng, 0.08, 0.7), log_uniform(rng, 1800, 14_000)
    low, rich = log_uniform(rng, 60, 500), rng.uniform(0.4, 2.5)
    wobble, fall = rng.uniform(0, 0.5), rng.uniform(2, 9)

    def zap(seconds: float) -> Array:
        n = samples(seconds)
        t = times(n) / seconds
        sweep = low + (high - low) * np.exp(-fall * t)
        if kind == "charge":
            sweep = sweep[::-1]
        modulator = np.sin(2 * np.pi * phase(sweep * 0.25 + 40))
        cycle = phase(sweep * (1 + wobble * modulator)) + 0
        body = wavetable(cycle, harmonics(high * 1.2, rich, limit=20_000)) + 0.6 * wavetable(
            phase(sweep * 0.501), harmonics(high, 1.0)[:8]
        )
        noise = unit(shaped_noise(rng, n, above(3000, 1))) * np.exp(-40 * t) * 0.5
        shape = (
            t**1.5 * swell(n, 0.01, 0.02)
            if kind == "charge"
            else np.exp(-rng.uniform(2.5, 5) * t) * swell(n, 0.001, 0.3 * seconds)
        )
        return (body + noise) * shape

    if kind == "beam":
        n = samples(rng.uniform(0.8, 3))
        pitch = log_uniform(rng, 90, 600)
        speed = pitch * (1 + 0.02 * drift(rng, n, 8))
        audio = wavetable(
            phase(speed * (1 + wobble * np.sin(2 * np.pi * phase(speed * 2.01)))), harmonics(pitch * 2, 0.8)[:40]
        )
        audio = (audio + 0.2 * shaped_noise(rng, n, band(5000, 0.8))) * (
            1 + 0.4 * np.sin(2 * np.pi * rng.uniform(9, 40) * times(n))
        )
        audio = audio * swell(n, 0.02, 0.15)
        return audio, phrase(
            rng,
            ("a {tone} humming energy beam", "a continuous {tone} laser beam", "a {tone} plasma beam firing"),
            tone=grade(rng, pitch, 90, 600, ("low", "buzzing", "high"), logarithmic=True),
        )
    if kind == "charge":
        length *= 3
        audio = zap(length)
        return audio, phrase(
            rng,
            (
                "a {tone} energy weapon charging up",
                "a laser charging up {pace}",
                "a {tone} power-up sweep rising {pace}",
            ),
            tone=grade(rng, rich, 0.4, 2.5, ("harsh", "", "smooth")),
            pace=grade(rng, length, 0.24, 2.1, ("quickly", "", "slowly"), logarithmic=True),
        )
    number = int(rng.integers(3, 9)) if kind == "burst" else 1
    gap = length * rng.uniform(0.4, 1.3) + 0.03
    shots = [(i * gap, zap(length * rng.uniform(0.95, 1.05))) for i in range(number)]
    audio = scatter(samples(min(6.0, (number - 1) * gap + length * 1.1)), shots)
    tone = grade(rng, high, 1800, 14_000, ("low|dull", "|bright", "high pitched|piercing"), logarithmic=True)
    many = f"{counted(number, 'shot', 'shots')}"
    return audio, phrase(
        rng,
        ("a {tone} laser gun firing {many}", "{many} of a {tone} sci-fi blaster", "a {tone} zap, {length}, {many}"),
        tone=tone,
        many=many,
        length=grade(rng, length, 0.08, 0.7, ("very short", "short", "long"), logarithmic=True),
    )


def ui_blip(rng: Rng) -> tuple[Array, str]:
    kind = pick(rng, "confirm|error|pickup|click|notification|power up")
    pitch, step = log_uniform(rng, 300, 1800), log_uniform(rng, 0.05, 0.16)
    chips = rng.uniform() < 0.45
    intervals = {
        "confirm": [0, 7], "error": [0, -3, -6], "pickup": [0, 5, 9, 12], "click": [0],
        "notification": [0, 4, 7], "power up": [0, 2, 4, 5, 7, 9, 11, 12],
    }[kind]  # fmt: skip
    intervals = [x + int(rng.integers(-1, 2)) * (i > 0) for i, x in enumerate(intervals)]
    ring, index, ratio = rng.uniform(0.08, 0.6), rng.uniform(0, 3), float(rng.choice([1, 2, 3.5, 7]))

    def note(semitones: float) -> Array:
        own = pitch * 2 ** (semitones / 12)
        seconds = 0.04 if kind == "click" else step * 1.05 if chips and rng.uniform() < 0.7 else ring
        n = samples(seconds)
        if chips:
            return wavetable(phase(own, n), harmonics(own, 1.0, odd=True)) * swell(n, 0.001, 0.01)
        tone = np.sin(2 * np.pi * phase(own, n) + index * decay(n, ring * 0.6) * sine(own * ratio, n))
        return tone * decay(n, seconds, 0.002) * swell(n, 0, 0.01)

    notes = [(i * step, note(x)) for i, x in enumerate(intervals)]
    audio = scatter(samples(max(0.3, len(notes) * step + ring)), notes)
    style = (
        pick(rng, "8-bit|retro|chiptune")
        if chips
        else grade(rng, index, 0, 3, ("soft|pure", "|digital", "metallic|glassy"))
    )
    tone = grade(rng, pitch, 300, 1800, ("low", "", "high|high pitched"), logarithmic=True)
    return audio, phrase(
        rng,
        (
            "a {tone} {style} {kind} sound",
            "a {style} interface {kind} blip",
            "a {tone} {style} game {kind} beep",
            "a {style} {kind} jingle of {many}",
        ),
        tone=tone,
        style=style,
        kind=kind,
        many=counted(len(notes), "note", "notes"),
    )
