"""Windows: how many, where, what fills their ends, and that joining them is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.codec.windows import Windows, bucket, join, map_chunks, start_noise


@pytest.mark.parametrize(
    ("downsample", "tokens", "overlap", "encode_stride"),
    [(4, 125, 25, 500), (9, 55, 11, 495), (20, 25, 5, 500), (100, 5, 1, 500), (200, 2, 0, 400), (500, 1, 0, 500)],
)
def test_five_second_windows_overlap_by_about_one_second(downsample, tokens, overlap, encode_stride):
    windows = Windows(downsample)
    assert (windows.tokens, windows.overlap, windows.encode_stride) == (tokens, overlap, encode_stride)


def test_an_overlap_of_more_than_half_a_clip_is_refused():
    with pytest.raises(ValueError, match="overlap"):
        Windows(100, 3)


@pytest.mark.parametrize("downsample", [1, 4, 7, 9, 20, 33, 100, 128, 250, 500])
@pytest.mark.parametrize("frames", [1, 499, 500, 501, 900, 1000, 5001])
def test_windows_cover_every_frame_and_none_is_superfluous(downsample, frames):
    windows = Windows(downsample)
    count = windows.count(frames)
    assert windows.frames(count) >= frames
    assert count == 1 or windows.frames(count - 1) < frames
    codes = windows.encode_count(frames) * windows.tokens
    assert codes >= -(-frames // downsample) > codes - windows.tokens
    assert windows.encode_frames(frames) >= frames


@pytest.mark.parametrize("downsample", [4, 9, 100, 200, 500])
def test_at_most_two_windows_meet_and_their_weights_add_to_one(downsample):
    windows = Windows(downsample)
    total = np.zeros(windows.frames(5))
    for index in range(5):
        total[index * windows.stride : index * windows.stride + 500] += windows.fade()
    inner = total[500 - windows.stride : len(total) - (500 - windows.stride)]
    np.testing.assert_allclose(inner, 1.0, atol=1e-6)


def test_tokens_beyond_the_end_are_those_of_silence_at_the_same_place():
    windows = Windows(100)
    z, silence = np.arange(7.0)[:, None], -np.arange(1.0, 6.0)[:, None]
    conditions = windows.conditions(z, silence, 2)[..., 0]
    np.testing.assert_array_equal(conditions, [[0, 1, 2, 3, 4], [4, 5, 6, -4, -5]])


def test_buckets_are_powers_of_two():
    assert [bucket(count) for count in (1, 2, 3, 4, 5, 9)] == [1, 2, 4, 4, 8, 16]


def test_a_longer_sound_begins_with_the_noise_of_a_shorter_one():
    windows, key = Windows(9), jax.random.key(3)
    short, long = (np.asarray(start_noise(key, windows, count, 8)) for count in (1, 4))
    assert short.shape == (1, 500, 8) and long.shape == (1, windows.frames(4), 8)
    np.testing.assert_array_equal(short, long[:, :500])
    assert abs(long.std() - 1.0) < 0.02 and abs(np.corrcoef(long[0, :500, 0], long[0, 500:1000, 0])[0, 1]) < 0.2


@pytest.mark.parametrize(("used", "size", "batch"), [(1, 1, 1), (2, 2, 1), (3, 4, 1), (3, 4, 4), (5, 8, 2)])
def test_joining_pointwise_estimates_gives_the_estimate_of_the_whole(used, size, batch):
    windows = Windows(9)
    x = jax.random.normal(jax.random.key(0), (1, windows.frames(size), 3))
    joined = join(lambda noised, indices: jnp.tanh(noised), x, jnp.asarray(used), windows, size, batch)
    covered = windows.frames(used)
    np.testing.assert_allclose(joined[:, :covered], np.tanh(x[:, :covered]), atol=1e-6)
    assert size == 1 or not np.any(joined[:, covered:])


def test_estimates_cross_fade_from_one_window_to_the_next():
    windows = Windows(100)
    x = jnp.zeros((1, windows.frames(2), 1))
    joined = join(lambda noised, i: noised + i[:, None, None], x, jnp.asarray(2), windows, 2, 1)[0, :, 0]
    assert np.all(joined[:400] == 0) and np.all(joined[500:] == 1)
    np.testing.assert_allclose(joined[400:500], (np.arange(100) + 0.5) / 100, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 499, 500, 501, 560, 1000, 1777])
def test_chunks_with_a_halo_equal_the_whole(frames):
    kernel, shapes = np.hanning(9)[1:-1], set()

    def smooth(x):
        shapes.add(x.shape)
        pairs = x[0, :, 0].reshape(-1, 2).sum(1)
        return np.convolve(pairs, kernel, mode="same")[None, :, None]

    x = np.random.default_rng(0).normal(size=(2 * frames, 1))
    chunked = map_chunks(smooth, x, 2, 1, halo=4)
    padded = np.pad(x, ((0, 2 * max(0, (500 if frames <= 500 else 508) - frames)), (0, 0)))
    assert len(shapes) == 1 and chunked.shape == (frames, 1)
    np.testing.assert_allclose(chunked, smooth(padded[None])[0, :frames], atol=1e-12)
