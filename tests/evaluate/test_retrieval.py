"""Retrieval: sure of itself on copies, at chance on its controls, blind to level, padding and envelope."""

import numpy as np
import pytest

from spresso_jax.evaluate import retrieval as q

RATE = 48_000


def coloured(seed: int, seconds: float = 0.4) -> np.ndarray:
    """Noise with a random spectrum and a random envelope."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * RATE)
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    bands = np.exp(2.0 * rng.standard_normal(12))
    spectrum *= np.interp(np.linspace(0, 11, spectrum.size), np.arange(12), bands)
    envelope = np.interp(np.linspace(0, 5, samples), np.arange(6), 0.05 + rng.random(6))
    sound = np.fft.irfft(spectrum, samples) * envelope
    return 0.5 * sound / np.abs(sound).max()


CLIPS = [coloured(seed, 0.3 + 0.01 * seed) for seed in range(24)]
DURATIONS = [clip.size / RATE for clip in CLIPS]
SOURCES = q.embed_all(CLIPS)


def test_copies_find_their_sources_at_any_level():
    found = q.retrieve(SOURCES, q.embed_all([0.01 * clip for clip in CLIPS]), DURATIONS, candidates=6)
    assert found.recall_at_1.mean == 1.0 and found.mean_rank.mean == 1.0
    assert found.times_chance == pytest.approx(6.0)
    assert found.chance_rank == 3.5


def test_padding_does_not_change_the_statistic_much():
    padded = [np.concatenate([np.zeros(9600), clip, np.zeros(30_000)]) for clip in CLIPS]
    found = q.retrieve(SOURCES, q.embed_all(padded), DURATIONS, candidates=6)
    assert found.recall_at_1.mean == 1.0


def test_shuffled_pairs_are_no_better_than_chance():
    order = q.shuffled(len(CLIPS))
    found = q.retrieve(SOURCES, SOURCES[order], DURATIONS, candidates=6)
    assert not np.any(order == np.arange(len(CLIPS)))
    assert found.recall_at_1.mean <= 2 * found.chance_recall
    assert found.mean_rank.mean > 2.5


def test_envelope_noise_stays_at_chance_though_it_carries_the_envelope():
    noise = [q.envelope_noise(clip, 100.0 / 9.0, 1000 + seed) for seed, clip in enumerate(CLIPS)]
    correlation = np.corrcoef(np.abs(noise[0]).reshape(-1, 480).mean(1), np.abs(CLIPS[0]).reshape(-1, 480).mean(1))
    found = q.retrieve(SOURCES, q.embed_all(noise), DURATIONS, candidates=6)
    assert correlation[0, 1] > 0.5
    assert found.recall_at_1.mean <= 2 * found.chance_recall


def test_envelope_does_not_enter_the_statistic():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(24_000)
    shaped = noise * np.linspace(0.2, 1.0, noise.size)
    assert np.abs(q.spectral_shape(noise) - q.spectral_shape(shaped)).max() < 1.0
    assert np.abs(q.spectral_shape(noise, envelope=True) - q.spectral_shape(shaped, envelope=True)).max() > 2.0


def test_candidates_are_those_of_nearest_duration_and_begin_with_the_own_source():
    table = q.like_durations([1.0, 1.1, 5.0, 4.9, 0.9, 5.1], 3)
    assert table[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert set(table[0]) == {0, 1, 4} and set(table[2]) == {2, 3, 5}


def test_silent_sources_are_left_out_and_silent_decoded_clips_come_last():
    clips = list(CLIPS)
    clips[3] = np.zeros(9600)
    decoded = SOURCES.copy()
    decoded[5] = np.nan
    found = q.retrieve(q.embed_all(clips), decoded, DURATIONS, candidates=5)
    assert np.isnan(found.ranks[3]) and found.recall_at_1.left_out == 1
    assert found.ranks[5] == 5 and found.hits[5] == 0


def test_ties_share_the_hit():
    sources = np.zeros((4, 2))
    sources[:, 1] = [0.0, 0.0, 1.0, 2.0]
    found = q.retrieve(sources, sources, [1.0] * 4, candidates=4)
    assert found.hits[0] == 0.5 and found.ranks[0] == 1.5


def test_small_sets_get_fewer_candidates():
    assert q.retrieve(SOURCES, SOURCES, DURATIONS, candidates=24).candidates == 6


def test_any_embedding_can_be_passed():
    rows = q.embed_all(CLIPS[:4], lambda audio: np.array([audio.std(), audio.size]))
    assert rows.shape == (4, 2)
    np.testing.assert_allclose(rows[:, 0], q.ALIGNED_RMS, rtol=1e-2)


def test_active_region_cuts_silence_and_knows_silence():
    sound = np.concatenate([np.zeros(4800), np.ones(960), np.zeros(4800)])
    assert q.active_region(sound) == (4800, 5760)
    assert q.active_region(np.zeros(100)) == (0, 0) and q.prepare(np.zeros(100)) is None


def test_arguments_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="silent"):
        q.embed_all([np.zeros(100)])
    with pytest.raises(ValueError, match="at least 2"):
        q.like_durations([1.0], 4)
    with pytest.raises(ValueError, match="positive"):
        q.like_durations([1.0, 0.0], 2)
    with pytest.raises(ValueError, match="decoded"):
        q.retrieve(SOURCES, SOURCES[:3], DURATIONS)
    with pytest.raises(ValueError, match="frame rate"):
        q.envelope_noise(CLIPS[0], 0.0, 0)
