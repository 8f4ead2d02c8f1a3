"""Batches: pure in (seed, step), whole over hosts, right in shape, range and shares."""

import threading
import time

import numpy as np
import pytest

from data_pipeline import records
from data_pipeline.loader import (
    Source,
    array_batches,
    audio_batches,
    captions_of,
    count_records,
    ordered_clips,
    vector_batches,
)
from data_pipeline.transforms import gain_factor

SAMPLES = 12_000


def take(batches, count):
    with batches:
        return [next(batches) for _ in range(count)]


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def tokenize(caption):
    ids = np.zeros(6, np.int32)
    codes = [ord(letter) for letter in caption[-6:]]
    ids[: len(codes)] = codes
    return ids, np.arange(6) < len(codes)


@pytest.fixture
def settings(shards):
    sources = [Source(str(shards), "train")]
    return {"sources": sources, "batch_size": 4, "samples": SAMPLES, "seed": 5, "gain_db": 6.0, "tokenize": tokenize}


def test_a_batch_has_the_promised_arrays(settings):
    (batch,) = take(audio_batches(**settings), 1)
    assert batch["audio"].shape == (4, SAMPLES, 1) and batch["audio"].dtype == np.float32
    assert batch["tokens"].shape == (4, 6) and batch["tokens"].dtype == np.int32
    assert batch["text_mask"].dtype == bool and batch["valid"].dtype == np.int32
    assert np.isfinite(batch["audio"]).all() and np.abs(batch["audio"]).max() <= 1
    for audio, valid in zip(batch["audio"], batch["valid"], strict=True):
        assert (audio[valid:] == 0).all() and np.abs(audio[:valid]).max() > 0.01


def test_starting_at_a_step_gives_what_a_longer_run_gives_there(settings):
    whole = take(audio_batches(**settings), 6)
    for threads in (0, 1, 3):
        later = take(audio_batches(**settings, start_step=3, threads=threads), 3)
        for left, right in zip(later, whole[3:], strict=True):
            assert_equal(left, right)


def test_hosts_interleave_exactly_into_the_one_host_batch(settings):
    whole = take(audio_batches(**settings), 3)
    for host in range(2):
        for left, right in zip(
            take(audio_batches(**settings, process_index=host, process_count=2), 3), whole, strict=True
        ):
            assert_equal(left, {name: array[host::2] for name, array in right.items()})


def test_another_seed_gives_other_batches(settings):
    (first,), (second,) = take(audio_batches(**settings), 1), take(audio_batches(**{**settings, "seed": 6}), 1)
    assert not np.array_equal(first["audio"], second["audio"])


def test_every_epoch_has_every_clip_once_in_a_new_order_and_with_new_crops(shards):
    batches = audio_batches([Source(str(shards), "train")], batch_size=10, samples=2_000, seed=0)
    assert batches.records == 10
    first, second = take(batches, 2)

    def pitches(batch):
        return np.argmax(np.abs(np.fft.rfft(batch["audio"][..., 0], 48_000)), axis=1)

    assert sorted(pitches(first)) == sorted(pitches(second)) != list(pitches(first)) != list(pitches(second))
    assert not {row.tobytes() for row in first["audio"]} & {row.tobytes() for row in second["audio"]}


def test_sources_are_mixed_by_weight(shards):
    sources = [Source(str(shards), "train", 3.0), Source(str(shards), "val", 1.0)]
    batches = take(audio_batches(sources, batch_size=8, samples=9_600, seed=0, crop="start"), 5)
    audio = np.concatenate([batch["audio"][..., 0] for batch in batches])
    pitches = np.argmax(np.abs(np.fft.rfft(audio, 48_000)), axis=1)
    assert (pitches > 1000).sum() == 10  # the val sounds lie above 1 kHz: a quarter of 40


def test_an_active_crop_avoids_silence(tmp_path):
    audio = np.zeros(480_000, np.int16)
    audio[300_000:400_000] = 8000 * np.sin(np.arange(100_000) / 10)
    blob = records.pack_record({"id": "a", "caption": ["x"]}, {"audio": audio})
    records.write_shard(tmp_path / records.shard_name("train", 0, 1), [blob])
    records.write_meta(tmp_path, {"kind": "clips", "splits": {}})
    source = [Source(str(tmp_path))]
    (batch,) = take(audio_batches(source, batch_size=8, samples=96_000, seed=0, crop="active"), 1)
    assert (np.abs(batch["audio"]).max((1, 2)) > 0.1).all()
    salient = dict(crop="salient", loudness=lambda x: 20 * np.log10(np.abs(x).max() + 1e-9))
    batches = take(audio_batches(source, batch_size=8, samples=18_240, seed=0, **salient), 4)
    assert np.mean([np.abs(batch["audio"]).max((1, 2)) > 0.1 for batch in batches]) > 0.8
    (clip,) = ordered_clips(source[0], 96_000, crop="most_active")
    assert np.count_nonzero(clip["audio"]) > 90_000


def test_gain_never_raises_a_peak_over_minus_one_decibel():
    quiet, loud = np.full(10, 0.1, np.float32), np.full(10, 0.95, np.float32)
    assert gain_factor(quiet, 6.0) == pytest.approx(10 ** (6 / 20), rel=1e-5)
    assert gain_factor(loud, 6.0) == 1.0
    assert gain_factor(np.full(10, 0.8, np.float32), 6.0) * 0.8 == pytest.approx(10 ** (-1 / 20), rel=1e-5)
    assert gain_factor(loud, -6.0) == pytest.approx(10 ** (-6 / 20), rel=1e-5)


def test_an_ordered_pass_gives_each_clip_once_and_splits_over_hosts(shards):
    source = Source(str(shards), "train")
    clips = list(ordered_clips(source, SAMPLES))
    ids = [clip["id"] for clip in clips]
    assert len(set(ids)) == count_records(source) == 10
    assert all(clip["audio"].shape == (SAMPLES, 1) and clip["caption"] for clip in clips)
    assert [clip["id"] for clip in ordered_clips(source, SAMPLES, process_index=1, process_count=3)] == ids[1::3]
    whole = next(clip for clip in ordered_clips(source, None) if "siren" in clip["caption"])
    assert whole["audio"].shape == (72_000, 1) and whole["valid"] == 72_000


def test_captions_by_id_agree_with_the_clips(shards):
    source = Source(str(shards), "train")
    assert captions_of(source) == {clip["id"]: clip["captions"] for clip in ordered_clips(source, 10)}


@pytest.fixture
def cache(tmp_path):
    def items():
        for number in range(6):
            length = 12 if number else 5
            time = np.arange(length, dtype=np.float16)[:, None] + 100 * number
            yield {"id": str(number), "caption": [f"c{number}"]}, {
                "latent": time.repeat(3, 1), "phase": time[:, 0].astype(np.float32), "valid": np.int32(length - 1),
                "text": np.stack([np.full((2, 4), k, np.float16) for k in range(3)]),
                "text_mask": np.stack([np.arange(2) < k for k in range(3)]),
            }  # fmt: skip

    records.write_arrays(tmp_path, "train", items(), {"audio_ae": "x"}, shard_bytes=400)
    return [Source(str(tmp_path))]


def test_cached_arrays_share_one_window_and_one_caption(cache):
    names = ("text", "text_mask")
    batches = array_batches(cache, batch_size=6, crop_frames={"latent": 8, "phase": 8}, seed=1, choose=names)
    seen = set()
    for batch in take(batches, 6):
        assert batch["latent"].shape == (6, 8, 3) and batch["latent"].dtype == np.float32
        assert batch["text"].shape == (6, 2, 4) and batch["text_mask"].shape == (6, 2)
        np.testing.assert_array_equal(batch["latent"][..., 0], batch["phase"])
        np.testing.assert_array_equal(batch["text_mask"].sum(1), batch["text"][:, 0, 0])
        for latent, valid in zip(batch["latent"][..., 0], batch["valid"], strict=True):
            if latent.max() < 100:
                assert valid == 4 and (latent[5:] == 0).all()
            else:
                seen.add(int(latent[0]) % 100)
                assert valid == 8  # the window stays within the 11 frames of sound
    assert seen == {0, 1, 2, 3}


def test_cached_arrays_are_pure_in_the_step(cache):
    settings = {"batch_size": 2, "crop_frames": {"latent": 8}, "seed": 1, "keys": ["latent"]}
    whole = take(array_batches(cache, **settings), 5)
    for left, right in zip(take(array_batches(cache, **settings, start_step=2), 3), whole[2:], strict=True):
        assert_equal(left, right)
    assert whole[0].keys() == {"latent", "valid"}


def test_vectors_come_once_an_epoch_from_memory_or_a_mapped_file(tmp_path):
    vectors = np.arange(60, dtype=np.float16).reshape(30, 2)
    np.save(tmp_path / "v.npy", vectors)
    mapped = take(vector_batches(tmp_path / "v.npy", batch_size=10, seed=2), 6)
    later = take(vector_batches(vectors, batch_size=10, seed=2, start_step=3), 3)
    for left, right in zip(later, mapped[3:], strict=True):
        assert_equal(left, right)
    epoch = np.concatenate([batch["embedding"] for batch in mapped[:3]])
    assert epoch.dtype == np.float32 and sorted(epoch[:, 0]) == sorted(vectors[:, 0])
    halves = [take(vector_batches(vectors, batch_size=10, seed=2, process_index=h, process_count=2), 1) for h in (0, 1)]
    np.testing.assert_array_equal(halves[1][0]["embedding"], mapped[0]["embedding"][1::2])


def test_closing_ends_the_iteration_and_its_threads(settings):
    before = threading.active_count()
    batches = audio_batches(**settings)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before


def test_mistakes_are_named(settings, cache, shards, tmp_path):
    source = settings["sources"]
    good = {"batch_size": 4, "samples": 10, "seed": 0}
    for change, words in [
        ({"batch_size": 3, "process_count": 2}, "multiple of 2"),
        ({"process_index": 1}, "process_index"),
        ({"crop": "middle"}, "crop must be"),
        ({"crop": "salient"}, "loudness"),
        ({"samples": 0}, "samples"),
        ({"start_step": -1}, "start_step"),
        ({"gain_db": -1.0}, "gain_db"),
    ]:
        with pytest.raises(ValueError, match=words):
            audio_batches(source, **{**good, **change})
    with pytest.raises(ValueError, match="sources is empty"):
        audio_batches([], **good)
    with pytest.raises(ValueError, match="weight"):
        audio_batches([Source(str(shards), weight=0)], **good)
    with pytest.raises(records.ShardError, match="no split 'test'"):
        audio_batches([Source(str(shards), "test")], **good)
    with pytest.raises(records.ShardError, match="arrays, but clips"):
        audio_batches(cache, **good)
    with pytest.raises(records.ShardError, match="no array 'z'"):
        array_batches(cache, batch_size=2, seed=0, keys=["z"])
    with pytest.raises(ValueError, match="crop_frames"):
        array_batches(cache, batch_size=2, seed=0, crop_frames={"latent": 8, "phase": 4})
    with pytest.raises(records.ShardError, match="not a readable .npy"):
        vector_batches(tmp_path / "absent.npy", batch_size=2, seed=0)
    with pytest.raises(ValueError, match="crop must be"):
        ordered_clips(source[0], 10, crop="random")


def test_a_shard_that_is_damaged_while_training_stops_the_run_with_its_name(tmp_path):
    path = tmp_path / records.shard_name("train", 0, 1)
    audio = {"audio": np.arange(30_000, dtype=np.int16)}
    records.write_shard(path, [records.pack_record({"id": str(n)}, audio) for n in range(5)])
    records.write_meta(tmp_path, {"kind": "clips", "splits": {}})
    content = bytearray(path.read_bytes())
    content[100_000:100_100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(records.ShardError, match=path.name):
        take(audio_batches([Source(str(tmp_path))], batch_size=5, samples=100, seed=0), 2)
