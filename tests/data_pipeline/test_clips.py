"""Windows: where they start, how they are padded."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import clips


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.floats(0, 1, exclude_max=True))
def test_a_random_window_fits_and_every_place_can_be_drawn(length, samples, draw):
    start = clips.random_start(length, samples, draw)
    assert start == 0 if length <= samples else 0 <= start <= length - samples
    assert clips.random_start(11, 10, 0.999) == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30_000), st.integers(1, 30_000), st.floats(0, 1, exclude_max=True), st.integers(0, 99))
def test_an_active_window_fits(length, samples, draw, seed):
    audio = (np.random.default_rng(seed).normal(size=length) * 1000).astype(np.int16)
    for start in (clips.active_start(audio, samples, draw), clips.most_active_start(audio, samples)):
        assert 0 <= start <= max(0, length - samples)


def test_an_active_window_holds_a_second_of_activity_where_there_is_one():
    audio = np.zeros(20 * 48_000, np.int16)
    audio[14 * 48_000 : 16 * 48_000] = 3000 * np.sin(np.arange(2 * 48_000))
    starts = {clips.active_start(audio, 5 * 48_000, draw) for draw in np.linspace(0, 0.999, 20)}
    assert len(starts) > 10
    for start in starts:
        assert np.abs(audio[start : start + 5 * 48_000]).astype(bool).sum() > 0.97 * 48_000
    assert 11 * 48_000 <= clips.most_active_start(audio, 5 * 48_000) <= 14 * 48_000


def test_a_salient_window_is_loud_where_a_few_draws_find_one():
    audio = np.zeros(10 * 48_000, np.int16)
    audio[4 * 48_000 : 8 * 48_000] = 3000 * np.sin(0.05 * np.arange(4 * 48_000))
    read = lambda start: audio[start : start + 18_240]  # noqa: E731
    level = lambda x: 20 * np.log10(np.sqrt(np.mean(x**2)) + 1e-9)  # noqa: E731
    draws = np.linspace(0, 0.999, 50)
    starts = [clips.salient_start(read, len(audio), 18_240, draw, level) for draw in draws]
    assert all(level(clips.pad_clip(read(start), 18_240)[0]) > clips.SALIENT_LUFS for start in starts)
    assert len(set(starts)) > 20
    silent = np.zeros(48_000, np.int16)
    tried = []
    start = clips.salient_start(lambda i: tried.append(i) or silent[i : i + 10], len(silent), 10, 0.3, level)
    assert len(set(tried)) == clips.SALIENT_DRAWS and start == tried[-1]
    assert clips.salient_start(read, 100, 200, 0.5, level) == 0


def test_with_less_than_a_second_of_activity_the_most_active_window_is_taken():
    audio = np.zeros(10 * 48_000, np.int16)
    audio[8 * 48_000 : 8 * 48_000 + 9_600] = 5000
    start = clips.active_start(audio, 2 * 48_000, 0.5)
    assert start <= 8 * 48_000 and start + 2 * 48_000 >= 8 * 48_000 + 9_600


def test_padding_is_exactly_zero_and_counted():
    clip, valid = clips.pad_clip(np.full(10, -(2**15), np.int16), 16)
    assert valid == 10 and clip.dtype == np.float32
    assert (clip[:10] == -1).all() and (clip[10:] == 0).all()
    assert clips.pad_clip(np.ones(20, np.float32), 16)[1] == 16


def test_int16_rounds_and_never_wraps():
    assert clips.to_int16(np.array([-2.0, -1.0, 0.0, 0.5])).tolist() == [-32768, -32768, 0, 16384]
    assert clips.to_int16(np.array([1.0, 3.2])).tolist() == [32767, 32767]
