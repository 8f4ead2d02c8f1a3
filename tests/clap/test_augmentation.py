"""Augmentation of sounds and captions: what it changes, what it must leave, and that equal keys give equal changes."""

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.clap.augmentation import (
    change_gain,
    drop_tokens,
    mask_stripes,
    repeat_sound,
    shift_sound,
    tilt_spectrum,
)
from spresso_jax.clap.text_tower import ClapTextTower

KEY = jax.random.key(1)


def padded(*lengths, samples=12):
    rows = [np.pad(np.arange(1.0, n + 1.0), (0, samples - n)) for n in lengths]
    return jnp.asarray(np.stack(rows)[..., None], jnp.float32), jnp.asarray(lengths)


def test_short_sounds_are_repeated_to_the_windows_end_and_silence_stays():
    audio, valid = padded(5, 12, 0)
    repeated = np.asarray(repeat_sound(audio, valid))[..., 0]
    np.testing.assert_array_equal(repeated[0], [1, 2, 3, 4, 5] * 2 + [1, 2])
    np.testing.assert_array_equal(repeated[1:], np.asarray(audio)[1:, :, 0])


def test_a_shift_turns_short_sounds_and_leaves_whole_windows():
    audio, valid = padded(5, 5, 5, 5, 12)
    shifted = np.asarray(shift_sound(KEY, audio, valid))[..., 0]
    np.testing.assert_array_equal(shifted[4], np.arange(1.0, 13.0))
    assert len({row[0] for row in shifted[:4]}) > 1
    for row in shifted[:4]:
        np.testing.assert_array_equal(np.diff(row) % 5, 1)
    np.testing.assert_array_equal(shifted, np.asarray(shift_sound(KEY, audio, valid))[..., 0])


def test_gain_and_tilt_stay_within_their_decibels():
    audio = jnp.ones((64, 3, 1))
    gains = 20.0 * np.log10(np.asarray(change_gain(KEY, audio, 6.0))[:, :, 0])
    assert 3.0 < np.abs(gains).max() <= 6.0001 and np.ptp(gains, axis=1).max() < 1e-4
    tilted = np.asarray(tilt_spectrum(KEY, jnp.zeros((64, 2, 9)), 4.0))
    assert 2.0 < np.abs(tilted).max() <= 4.0 and np.abs(tilted[..., 4]).max() < 1e-6
    np.testing.assert_allclose(tilted[..., 0], -tilted[..., -1], atol=1e-6)


def test_stripes_hide_whole_frames_and_bands_and_nothing_else():
    features = jnp.ones((32, 40, 16))
    hidden = np.asarray(mask_stripes(KEY, features, jnp.zeros(16), 2, 10, 4)) == 0.0
    frames, bands = hidden.all(axis=2), hidden.all(axis=1)
    np.testing.assert_array_equal(hidden, frames[:, :, None] | bands[:, None, :])
    assert 0 < frames.sum(axis=1).max() <= 18 and 0 < bands.sum(axis=1).max() <= 6
    np.testing.assert_array_equal(mask_stripes(KEY, features, jnp.zeros(16), 2, 0, 0), features)


def test_a_dropped_token_is_a_caption_without_it():
    mask = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]], bool)
    kept = np.asarray([drop_tokens(key, mask, 0.6) for key in jax.random.split(KEY, 200)])
    assert not (kept & ~mask).any() and kept[:, 0, [0, 4]].all() and kept[:, 1:].sum(axis=2).min() == 2
    assert kept[:, 0].sum(axis=1).min() == 3 and kept[:, 2].all(axis=0)[:3].all() and kept[:, 0].sum(axis=1).max() == 5
    tower = ClapTextTower(vocabulary=20, width=8, layers=1, heads=2, mlp_width=8, positions=9)
    tokens = np.array([[0, 5, 6, 7, 2]], np.int32)
    variables = tower.init(jax.random.key(0), tokens, tokens >= 0)
    _, hidden = tower.apply(variables, tokens, np.array([[1, 1, 0, 1, 1]], bool))
    _, written = tower.apply(variables, tokens[:, [0, 1, 3, 4]], np.ones((1, 4), bool))
    np.testing.assert_allclose(hidden, written, atol=1e-6)
