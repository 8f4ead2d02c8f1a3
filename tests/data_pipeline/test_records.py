"""Records, shards and caches: what is written comes back, what is damaged is named."""

import numpy as np
import pytest

from data_pipeline import records
from data_pipeline.records import Record, ShardError, ShardReader, pack_record, write_arrays, write_shard


def test_arrays_of_every_dtype_come_back():
    arrays = {
        "latent": np.random.default_rng(0).normal(size=(7, 5)).astype(np.float16),
        "mask": np.array([True, False]),
        "tokens": np.arange(4, dtype=np.int32),
        "audio": np.arange(-5, 5, dtype=np.int16),
        "valid": np.int32(3),
        "none": np.zeros((0, 4), np.float32),
    }
    record = Record(pack_record({"id": "a", "caption": ["été"]}, arrays))
    assert record.meta == {"id": "a", "caption": ["été"]} and record.names == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(record.array(name), array)
        assert record.array(name).dtype == array.dtype and record.shape(name) == np.shape(array)


@pytest.mark.parametrize("codec", ["raw", "flac"])
def test_a_window_of_a_sound_is_read_without_the_rest(codec):
    audio = np.random.default_rng(1).integers(-9000, 9000, 20_000).astype(np.int16)
    record = Record(pack_record({"id": "a"}, {"audio": audio}, codec))
    np.testing.assert_array_equal(record.array("audio"), audio)
    np.testing.assert_array_equal(record.window("audio", 5_000, 9_000), audio[5_000:9_000])
    np.testing.assert_array_equal(record.window("audio", 19_000, 25_000), audio[19_000:])


def test_a_record_that_is_cut_or_foreign_is_named():
    blob = pack_record({"id": "a"}, {"x": np.zeros(10, np.float32)})
    for damaged in (blob[:-1], b"JUNK" + blob[4:], blob[:6], b""):
        with pytest.raises(ShardError, match="here: damaged record"):
            Record(damaged, "here")
    with pytest.raises(ShardError, match="no array 'y' in it, only x"):
        Record(blob).array("y")
    with pytest.raises(ValueError, match="complex128"):
        pack_record({"id": "a"}, {"x": np.zeros(2, complex)})


def test_shards_are_read_in_order_across_files(tmp_path):
    paths = []
    for number, ids in enumerate((["a", "b"], [], ["c"])):
        paths.append(tmp_path / records.shard_name("train", number, 3))
        assert write_shard(paths[-1], [pack_record({"id": name}, {}) for name in ids]) == len(ids)
    reader = records.open_split(tmp_path, "train")
    assert [reader[index].meta["id"] for index in range(len(reader))] == ["a", "b", "c"]
    with pytest.raises(IndexError):
        reader[3]


def test_damaged_and_missing_shards_are_named_and_never_read_as_empty(tmp_path):
    good = tmp_path / "good.array_record"
    write_shard(good, [np.random.default_rng(n).bytes(40_000) for n in range(8)])
    whole = good.read_bytes()
    for number, content in enumerate((b"", whole[:1000], whole[: len(whole) // 2], whole[:-65536], b"x" * 70_000)):
        path = tmp_path / f"bad{number}.array_record"
        path.write_bytes(content)
        with pytest.raises(ShardError, match=f"bad{number}.*not a complete shard"):
            ShardReader([good, path])
    with pytest.raises(ShardError, match="absent.array_record: no such shard"):
        ShardReader([tmp_path / "absent.array_record"])


def test_a_damaged_block_inside_a_shard_is_named_when_it_is_read(tmp_path):
    path = tmp_path / "x.array_record"
    write_shard(path, [pack_record({"id": str(n)}, {"x": np.full(30_000, n, np.int16)}) for n in range(5)])
    content = bytearray(path.read_bytes())
    content[100_000:100_100] = bytes(100)
    path.write_bytes(content)
    reader = ShardReader([path])
    with pytest.raises(ShardError, match=r"x.array_record \(record \d\): cannot be read"):
        [reader[index].array("x") for index in range(len(reader))]


def test_a_split_with_a_missing_or_left_over_shard_is_refused(tmp_path):
    for number in (0, 2):
        write_shard(tmp_path / records.shard_name("train", number, 3), [])
    with pytest.raises(ShardError, match="train-00001-of-00003.array_record: missing"):
        records.splits_of(tmp_path)
    write_shard(tmp_path / records.shard_name("train", 0, 1), [])
    with pytest.raises(ShardError, match="mixes shards"):
        records.splits_of(tmp_path)
    with pytest.raises(ShardError, match="no split 'val', there is: other"):
        (tmp_path / "o").mkdir()
        write_shard(tmp_path / "o" / records.shard_name("other", 0, 1), [])
        records.open_split(tmp_path / "o", "val")


def test_a_job_that_fails_leaves_no_shard(tmp_path):
    def broken():
        yield b"one"
        raise KeyError("producer")

    with pytest.raises(KeyError):
        write_shard(tmp_path / "x.array_record", broken())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ShardError, match="cannot be written"):
        write_shard(tmp_path / "no" / "x.array_record", [])


def cache(count, value=1.0):
    for number in range(count):
        yield {"id": f"c{number}"}, {"latent": np.full((4, 3), value, np.float16)}


def test_a_cache_is_cut_into_shards_keeps_other_splits_and_checks_fingerprints(tmp_path):
    assert write_arrays(tmp_path, "train", cache(10), {"audio_ae": "aaa"}, {"mean": 0.5}, shard_bytes=300) == 10
    assert write_arrays(tmp_path, "val", cache(2), {"audio_ae": "aaa"}) == 2
    meta = records.read_meta(tmp_path)
    assert meta["splits"]["train"]["records"] == 10 and meta["splits"]["train"]["shards"] > 1
    assert meta["mean"] == 0.5 and meta["kind"] == "arrays"
    reader = records.open_split(tmp_path, "train")
    assert [reader[n].meta["id"] for n in range(10)] == [f"c{n}" for n in range(10)]
    records.check_fingerprint(tmp_path, {"audio_ae": "aaa"})
    with pytest.raises(ShardError, match="made with audio_ae aaa, not with bbb"):
        records.check_fingerprint(tmp_path, {"audio_ae": "bbb"})
    with pytest.raises(ShardError, match="use another folder"):
        write_arrays(tmp_path, "val", cache(2), {"audio_ae": "bbb"})


def test_a_cache_can_be_written_anew_and_an_empty_one_is_refused(tmp_path):
    write_arrays(tmp_path, "train", cache(10), {"audio_ae": "aaa"}, shard_bytes=300)
    before = records.fingerprint_of(tmp_path)
    write_arrays(tmp_path, "train", cache(3), {"audio_ae": "bbb"})
    assert len(records.open_split(tmp_path, "train")) == 3 and records.fingerprint_of(tmp_path) != before
    with pytest.raises(ValueError, match="no records"):
        write_arrays(tmp_path, "train", iter(()), {})
    assert len(records.open_split(tmp_path, "train")) == 3


def test_a_folder_without_meta_or_of_another_format_is_refused(tmp_path):
    with pytest.raises(ShardError, match="meta.json: missing"):
        records.read_meta(tmp_path)
    (tmp_path / "meta.json").write_text('{"format": 99}')
    with pytest.raises(ShardError, match="format 99"):
        records.read_meta(tmp_path)
