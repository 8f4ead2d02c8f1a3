"""Procedural sounds: pure, varied, well-formed, and described by their captions."""

import re

import numpy as np
import pytest

from data_pipeline import synth
from data_pipeline.synth_sources import RATE, impulses, modes, shape_spectrum, shaped_noise, swell
from data_pipeline.synth_words import counted, grade, phrase

SEED = 11
COUNT = 2 * len(synth.FAMILIES)


@pytest.fixture(scope="module")
def clips():
    return [synth.synthesise(index, SEED) for index in range(COUNT)]


def test_a_clip_is_a_pure_function_of_index_and_seed(clips):
    for index in (0, 5, 17):
        again = synth.synthesise(index, SEED)
        np.testing.assert_array_equal(again.audio, clips[index].audio)
        assert (again.caption, again.family) == (clips[index].caption, clips[index].family)
    other = synth.synthesise(5, SEED + 1).audio
    assert len(other) != len(clips[5].audio) or not np.allclose(other, clips[5].audio)


def test_every_family_appears_once_in_each_block(clips):
    assert len(synth.FAMILIES) >= 16 and len(set(synth.FAMILIES)) == len(synth.FAMILIES)
    for block in range(2):
        first = block * len(synth.FAMILIES)
        assert sorted(c.family for c in clips[first : first + len(synth.FAMILIES)]) == sorted(synth.FAMILIES)
    assert [c.family for c in clips] == [synth.family_of(index, SEED) for index in range(COUNT)]


def test_audio_is_mono_float32_within_level_and_duration(clips):
    for clip in clips:
        peak = float(np.abs(clip.audio).max())
        assert clip.audio.dtype == np.float32 and clip.audio.ndim == 1, clip.family
        assert np.isfinite(clip.audio).all(), clip.family
        assert -20.1 < 20 * np.log10(peak) <= -0.9, clip.family
        assert 0.3 <= len(clip.audio) / RATE <= 8.0, clip.family


def test_no_clip_has_an_offset_or_starts_or_ends_with_a_step(clips):
    for clip in clips:
        rms = float(np.sqrt(np.mean(clip.audio**2)))
        assert abs(float(clip.audio.mean())) < 0.03 * rms, clip.family
        assert max(abs(clip.audio[0]), abs(clip.audio[-1])) < 0.01 * np.abs(clip.audio).max(), clip.family


def test_no_clip_is_clipped_flat(clips):
    for clip in clips:
        peak = np.abs(clip.audio).max()
        run = np.diff(np.flatnonzero(np.diff(np.r_[0, np.abs(clip.audio) >= 0.9999 * peak, 0])))[::2]
        assert run.max() < 0.01 * RATE, clip.family


def test_durations_levels_and_bands_are_spread(clips):
    seconds = np.array([len(c.audio) / RATE for c in clips])
    peaks = np.array([20 * np.log10(np.abs(c.audio).max()) for c in clips])
    assert (seconds < 1.5).mean() > 0.15 and (seconds > 4).mean() > 0.2
    assert np.ptp(peaks) > 10
    high = [np.mean(log_mel(c.audio)[1][-4:] > -75) for c in clips]
    assert np.mean(np.array(high) > 0) > 0.3


def log_mel(audio):
    """Spread, maximum and mean in dB over time of 40 bands, even in log frequency from 60 Hz to 22 kHz; peak 0 dB."""
    padded = np.pad(audio, (0, max(0, 2048 - len(audio))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2048)[::1024] * np.hanning(2048)
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = np.geomspace(60, 22_000, 41) * 2048 / RATE
    bands = np.stack(
        [power[:, int(a) : max(int(b), int(a) + 1)].mean(1) for a, b in zip(edges, edges[1:], strict=False)], 1
    )
    decibels = 10 * np.log10(bands / bands.max() + 1e-9)
    return decibels.std(0), decibels.max(0), decibels.mean(0)


def test_no_two_clips_sound_alike(clips):
    features = np.stack([np.concatenate(log_mel(c.audio)) for c in clips])
    distance = np.abs(features[:, None] - features[None]).mean(-1)
    np.fill_diagonal(distance, np.inf)
    closest = np.unravel_index(distance.argmin(), distance.shape)
    assert distance.min() > 0.4, f"{[clips[i].caption for i in closest]} differ by {distance.min():.2f} dB"


def test_clips_of_a_family_are_closer_than_clips_of_different_families(clips):
    features = np.stack([np.concatenate(log_mel(c.audio)) for c in clips])
    distance = np.abs(features[:, None] - features[None]).mean(-1)
    same = np.array([[a.family == b.family for a in clips] for b in clips]) & ~np.eye(COUNT, dtype=bool)
    assert np.median(distance[same]) < 0.85 * np.median(distance[~same & ~np.eye(COUNT, dtype=bool)])


def test_captions_are_tidy_lower_case_and_varied(clips):
    for clip in clips:
        text = clip.caption
        assert text == text.lower() and text == text.strip() and 2 <= len(text.split()) <= 40, text
        assert not re.search(r"\s\s|\s,|,,|[{}|]|[,.]$|\ba [aeio]|\ba a\b|the sound of the", text), text
    assert len({c.caption for c in clips}) > 0.9 * COUNT
    assert len({word for c in clips for word in re.findall(r"[a-z]+", c.caption)}) > 130


KEYWORDS = {
    "wood_impact": "wood|plank|table|log|box|barrel|crate", "metal_impact": "metal|steel|iron|anvil",
    "stone_impact": "stone|rock|brick", "glass_impact": "glass", "glass_break": "break|shatter|smash",
    "bell": "bell|chime",
    "footsteps": "step", "explosion": "explosion|blast|bomb|detonation", "thunder": "thunder", "coin": "coin",
    "rain": "rain", "wind": "wind", "fire": "fire|blaze", "water_drips": "water|drip",
    "stream": "stream|brook|water|river|creek", "engine": "engine|motor",
    "machine_hum": "fan|transformer|refrigerator|vacuum|server|drill", "insects": "cricket|cicada|fly|bee|mosquito",
    "door_creak": "creak", "birds": "songbird|crow|owl|parakeet", "babble": "voice|man|child|robot|people|speech",
    "creature": "creature|goblin|imp|beast|animal|monster|dragon",
    "alarm": "siren|alarm|klaxon|horn|buzzer|beep|detector",
    "laser": "laser|blaster|zap|energy|plasma|sweep", "whoosh": "whoosh|swish|swoosh|swing",
    "ui_blip": "blip|beep|sound|jingle", "music": "melody|loop|music",
}  # fmt: skip


def test_captions_name_what_is_heard(clips):
    assert sorted(KEYWORDS) == sorted(synth.FAMILIES)
    for clip in clips:
        assert re.search(KEYWORDS[clip.family], clip.caption), f"{clip.family}: {clip.caption}"


def test_light_and_heavy_footsteps_differ_in_words_within_a_family():
    captions = set()
    for index in range(len(synth.FAMILIES) * 8):
        if synth.family_of(index, SEED) == "footsteps":
            captions.add(synth.synthesise(index, SEED).caption)
    surfaces = {
        s for s in ("concrete", "gravel", "wood", "grass", "snow", "metal", "puddle", "leaves") if s in str(captions)
    }
    assert len(captions) == 8 and len(surfaces) >= 3


@pytest.mark.parametrize("index, seed", [(-1, 0), (0, -1)])
def test_a_negative_index_or_seed_is_refused(index, seed):
    with pytest.raises(ValueError, match="index"):
        synth.synthesise(index, seed)


def test_modes_equal_the_sum_of_decaying_sines():
    t = np.arange(3000) / RATE
    expected = sum(
        a * np.exp(-6.908 * t / d) * np.sin(2 * np.pi * f * t) for f, d, a in ((440, 0.1, 1), (3000, 0.02, 0.5))
    )
    actual = modes(3000, np.array([440, 3000, 30_000]), np.array([0.1, 0.02, 1]), np.array([1, 0.5, 9]))
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_shaped_noise_has_unit_rms_and_follows_its_gains():
    rng = np.random.default_rng(0)
    assert abs(np.std(shaped_noise(rng, 48_000)) - 1) < 0.02
    level = np.linspace(0, 1, 48_000 // 512 + 2)[:, None]
    audio = shaped_noise(rng, 48_000, level)
    assert np.std(audio[:8000]) < 0.2 * np.std(audio[-8000:])


def test_spectrum_shaping_with_unit_gain_changes_nothing():
    audio = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    np.testing.assert_allclose(shape_spectrum(audio, np.ones((1, 513), np.float32)), audio, atol=1e-5)


def test_impulses_follow_their_density():
    train = impulses(np.random.default_rng(0), 48_000, 2000, density=np.array([1.0, 0.0]))
    assert np.count_nonzero(train[:24_000]) > 1500 and np.count_nonzero(train[24_000:]) < 20


def test_a_swell_fits_a_short_sound():
    ramp = swell(100, 1.0, 1.0)
    assert ramp[0] == 0 and ramp.max() > 0.95 and ramp[-1] < 0.05


def test_phrases_are_tidied():
    rng = np.random.default_rng(0)
    assert phrase(rng, ("a {size}  Owl , {tone}",), size="", tone="") == "an owl"
    assert phrase(rng, ("a {style} unit",), style="8-bit") == "an 8-bit unit"
    assert grade(rng, 0.9, 0, 1, ("low", "high")) == "high" and grade(rng, 9, 0, 1, ("low", "high")) == "high"
    assert counted(1, "hit", "hits") == "one hit" and counted(99, "hit", "hits") == "many hits"
