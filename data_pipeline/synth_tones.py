"""Things with a voice or a circuit: birds, creatures, babble, alarms, lasers, whooshes, blips and music.

Each family is a function rng -> (audio float32 [S] at any level, caption as a noun phrase).
"""

from __future__ import annotations

import numpy as np

from data_pipeline.synth_sources import (
    Array,
    above,
    band,
    below,
    curve,
    decay,
    drift,
    frame_count,
    frame_curve,
    harmonics,
    log_uniform,
    modes,
    peak,
    phase,
    samples,
    scatter,
    shape_spectrum,
    shaped_noise,
    sine,
    swell,
    times,
    unit,
    wavetable,
)
from data_pipeline.synth_words import counted, grade, phrase, pick

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
        motif.append(unit(voice) * swell(n, rng.uniform(0.005, 0.3 * length), rng.uniform(0.01, 0.5 * length)))
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
        if kind < 0.75:
            length = rng.uniform(0.03, 0.1)
            first, last = round(start * 48_000), round((start + length) * 48_000)
            dip = 1 - swell(max(16, min(last, n) - first), 0.02, 0.02) * rng.uniform(0.75, 1.0)
            gate[first : first + len(dip)] *= dip[: n - first]
            if kind < 0.55:
                m = samples(length if kind < 0.35 else 0.02)
                burst = unit(shaped_noise(rng, m, band(rng.choice([2200, 3800, 6500, 9000]), 0.45)))
                hiss.append((start, burst * swell(m, 0.01 if kind < 0.35 else 0.001, 0.015) * rng.uniform(0.1, 0.35)))
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
    return audio.astype(np.float32), text


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
