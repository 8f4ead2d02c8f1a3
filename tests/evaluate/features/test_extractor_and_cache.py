"""Rows do not depend on batches or neighbours, and the cache never serves a row that was made from something else."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.evaluate.features.cache import PART_CLIPS, cached_rows
from spresso_jax.evaluate.features.extractor import Extractor, FeatureError, sliding_windows

WINDOW, HOP = 400, 300


def cut(clip):
    count = max((clip.size - WINDOW) // HOP + 1, 1)
    return sliding_windows(clip, WINDOW, HOP, count), clip.size < WINDOW


def toy(**changes):
    fields = dict(
        name="toy", sample_rate=8_000, dimension=3, window=WINDOW, cut=cut,
        network=lambda params, windows: jnp.abs(windows @ params), params=np.eye(WINDOW, 3, dtype=np.float32),
        settings={"hop": HOP}, weights="0" * 64, licence="none", batch=4,
    )  # fmt: skip
    return Extractor(**(fields | changes))


def some_clips(lengths=(399, 400, 701, 2000, 1)):
    rng = np.random.default_rng(0)
    return [rng.uniform(-1, 1, length).astype(np.float32) for length in lengths]


def test_rows_belong_to_their_clip_whatever_the_batch_and_the_neighbours():
    clips, told = some_clips(), []
    rows = toy().embed(clips, 8_000, lambda *what: told.append(what))
    assert rows.counts.tolist() == [1, 1, 2, 6, 1] and rows.clips.tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 3, 3, 4]
    assert rows.padded.tolist() == [True, False, False, False, True]
    assert rows.values.dtype == np.float32 and told[-1] == ("toy", 5, 5) and [done for _, done, _ in told] == [3, 3, 5]
    np.testing.assert_array_equal(rows.values[2:4], np.abs(clips[2][[[0, 1, 2], [300, 301, 302]]]))
    turned = toy(batch=3).embed(clips[::-1], 8_000)
    np.testing.assert_array_equal(turned.values[turned.clips == 1], rows.values[rows.clips == 3])
    np.testing.assert_allclose(rows.clip_means()[3], rows.values[4:10].mean(axis=0), rtol=1e-6)


def test_a_set_compiles_one_program_and_is_resampled_to_the_networks_rate():
    extractor, tone = toy(), np.sin(np.arange(9_600) * 0.01).astype(np.float32)
    rows = extractor.embed([tone, tone[:5_000], tone[:100]], 48_000)
    assert extractor._compiled._cache_size() == 1
    assert rows.counts.tolist() == [(1_600 - WINDOW) // HOP + 1, (833 - WINDOW) // HOP + 1, 1]


def test_useless_clips_are_refused_with_their_index():
    good = np.ones(500, np.float32)
    for bad in (np.zeros(0), np.full(10, np.nan), np.ones((2, 500))):
        for run in (lambda clips: toy().embed(clips, 8_000), lambda clips: cached_rows("unused", toy(), clips, 8_000)):
            with pytest.raises(FeatureError, match="clip 1 must be one channel"):
                run([good, bad])
    with pytest.raises(FeatureError, match="no clips"):
        toy().embed([])
    with pytest.raises(FeatureError, match="clip 0"):
        toy(params=np.full((WINDOW, 3), np.inf, np.float32)).embed([good], 8_000)


def test_the_fingerprint_changes_with_what_changes_a_row_and_with_nothing_else():
    same = [toy(), toy(batch=9), toy(licence="other")]
    assert len({extractor.fingerprint for extractor in same}) == 1
    changed = [toy(), toy(weights="1" * 64), toy(settings={"hop": 1}), toy(name="toy2"), toy(sample_rate=16_000)]
    assert len({extractor.fingerprint for extractor in changed}) == len(changed)
    assert toy().label == f"toy@{toy().fingerprint[:8]}" and toy().to_json()["fingerprint"] == toy().fingerprint


def counting():
    calls = []

    def counted(clip):
        calls.append(clip.size)
        return cut(clip)

    return dataclasses.replace(toy(), cut=counted), calls


def test_the_cache_gives_what_embedding_gives_and_knows_changed_clips(tmp_path):
    clips, (extractor, calls), told = some_clips(), counting(), []
    clips.append(clips[0].copy())
    fresh = toy().embed(clips, 8_000)
    for expected in (5, 0):  # the repeated clip is embedded once
        calls.clear()
        rows = cached_rows(tmp_path, extractor, clips, 8_000, lambda *what: told.append(what))
        for name in ("values", "clips", "padded"):
            np.testing.assert_array_equal(getattr(rows, name), getattr(fresh, name))
        assert len(calls) == expected and told[-1] == ("toy", 6, 6)
    calls.clear()
    clips[3] = clips[3].copy()
    clips[3][1999] = np.nextafter(clips[3][1999], 2, dtype=np.float32)
    cached_rows(tmp_path, extractor, clips, 8_000)
    assert calls == [2000]
    cached_rows(tmp_path, extractor, clips[:1], 16_000)
    assert len(calls) == 2, "the same samples at another rate are another sound"
    cached_rows(tmp_path, dataclasses.replace(extractor, weights="1" * 64), clips[:1], 8_000)
    assert len(calls) == 3, "other weights give other rows"


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    clips, (extractor, calls) = some_clips([500 + i for i in range(PART_CLIPS + 5)]), counting()

    def dies(clip):
        if clip.size == clips[PART_CLIPS + 2].size:
            raise KeyboardInterrupt
        return extractor.cut(clip)

    with pytest.raises(KeyboardInterrupt):
        cached_rows(tmp_path, dataclasses.replace(extractor, cut=dies), clips, 8_000)
    calls.clear()
    rows = cached_rows(tmp_path, extractor, clips, 8_000)
    assert len(calls) == 5 and not list(tmp_path.rglob("*.partial"))
    np.testing.assert_array_equal(rows.values, toy().embed(clips, 8_000).values)


def test_a_damaged_part_is_named(tmp_path):
    clips = some_clips()
    cached_rows(tmp_path, toy(), clips, 8_000)
    (part,) = tmp_path.rglob("*.safetensors")
    whole = part.read_bytes()
    for damaged in (whole[:-7], b"\xff" * 64, b"", whole.replace(b'"counts"', b'"kounts"')):
        part.write_bytes(damaged)
        with pytest.raises(FeatureError, match=f"{part.name}.*delete it"):
            cached_rows(tmp_path, toy(), clips, 8_000)
    cached_rows(tmp_path / "other", toy(dimension=3), clips, 8_000)
    part.write_bytes(whole)
    with pytest.raises(FeatureError, match="does not hold rows"):
        (tmp_path / part.parent.name).rename(tmp_path / f"toy-{toy(dimension=4).fingerprint}")
        cached_rows(tmp_path, toy(dimension=4), clips, 8_000)
