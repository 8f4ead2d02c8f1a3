"""The job from folders to shards: repeatable, resumable, auditable."""

import dataclasses
import json
import types

import numpy as np
import pytest
import soundfile

from data_pipeline import ingest, inspection, manifest, records
from data_pipeline.catalogues import CatalogueError
from data_pipeline.ingest import IngestError, Settings, prepare, write_synthetic


def tone(seconds, frequency=440.0, level=0.4):
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * 48_000)) / 48_000)).astype(np.float32)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def fake_synthesise(index, seed):
    audio = tone(0.3, 200 + 10 * index + seed)
    return types.SimpleNamespace(audio=audio, caption=f"tone {index}", family="tones")


def test_two_runs_give_the_same_bytes(sounds, shards, tmp_path):
    prepare([sounds], tmp_path, shard_bytes=120_000)
    assert contents(tmp_path) == contents(shards)
    assert len(records.splits_of(tmp_path)["train"]) > 1


def test_two_processes_give_the_same_bytes(sounds, shards, tmp_path):
    prepare([sounds], tmp_path, shard_bytes=120_000, workers=2)
    assert contents(tmp_path) == contents(shards)


def test_records_hold_the_samples_of_the_files(sounds, shards):
    rows = {row.id: row for row in manifest.read_rows(shards / "manifest.jsonl")}
    reader = records.open_split(shards, "train")
    for index in range(len(reader)):
        record = reader[index]
        expected, _ = soundfile.read(sounds / rows[record.meta["parent"]].uri, dtype="int16")
        np.testing.assert_array_equal(record.array("audio"), expected)


def test_a_second_run_reads_no_sound_again(sounds, shards, monkeypatch):
    before = contents(shards)
    monkeypatch.setattr(ingest, "read_audio", lambda path: pytest.fail(f"{path} was read again"))
    prepare([sounds], shards, shard_bytes=120_000)
    assert contents(shards) == before


def test_a_stopped_job_goes_on_where_it_was(sounds, shards, tmp_path, monkeypatch):
    real, calls = ingest.read_audio, []

    def failing(path):
        calls.append(path)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(ingest, "read_audio", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare([sounds], tmp_path, shard_bytes=120_000)
    with pytest.raises(records.ShardError, match="not complete"):
        records.read_meta(tmp_path)
    prepare([sounds], tmp_path, shard_bytes=120_000)
    assert len(calls) < 8 + 13
    assert contents(tmp_path) == contents(shards)


def test_a_changed_file_is_made_again_and_old_shards_go(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(6):
        soundfile.write(tmp_path / "in" / f"{number}.wav", tone(0.2, 100 * number + 100), 48_000)
    prepare([tmp_path / "in"], tmp_path / "out", shard_bytes=20_000, val_fraction=0)
    assert len(records.splits_of(tmp_path / "out")["train"]) == 6
    soundfile.write(tmp_path / "in" / "0.wav", tone(0.25, 5000), 48_000)
    report = prepare([tmp_path / "in"], tmp_path / "out", val_fraction=0)
    (path,) = records.splits_of(tmp_path / "out")["train"]
    assert path.name == "train-00000-of-00001.array_record" and report["accepted"] == 6
    assert inspection.inspect(tmp_path / "out")["splits"]["train"]["records"] == 6


def test_what_was_left_out_stands_in_the_report(sounds, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    soundfile.write(source / "good.wav", tone(0.3), 48_000)
    soundfile.write(source / "silent.wav", np.zeros(9600), 48_000)
    (source / "page.mp3").write_text("<html>")
    report = prepare([source], tmp_path / "out", val_fraction=0)
    assert report["accepted"] == 1 and report["left_out"] == {"silent": 1, "unrecognised": 1}
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert {item["uri"] for item in report["reasons"]} == {"page.mp3", "silent.wav"}
    assert len(manifest.read_rows(tmp_path / "out" / "manifest.jsonl")) == 3


def test_long_files_become_segments_and_silent_parts_are_left_out(tmp_path):
    (tmp_path / "in").mkdir()
    sound = np.concatenate([tone(1), np.zeros(48_000, np.float32), tone(1), tone(0.3)])
    soundfile.write(tmp_path / "in" / "long.wav", sound, 48_000)
    prepare([tmp_path / "in"], tmp_path / "out", settings=Settings(segment_seconds=1), val_fraction=0)
    (row,) = manifest.read_rows(tmp_path / "out" / "manifest.jsonl")
    assert [record[1:] for record in row.records] == [(0, 48_000), (96_000, 48_000)]
    assert row.records[1][0] == f"{row.id}@96000" and "skipped_part" in row.flags


def test_offset_and_over_range_are_put_right_and_flagged(tmp_path):
    row = manifest.Row("a", "a.wav", "s", "train", "g")
    for audio, flag in ((0.8 + tone(0.2, level=0.1), "dc"), (tone(0.2, level=3.2), "over_range")):
        done, (blob,) = ingest.read_sound(row, audio, Settings())
        stored = records.Record(blob).array("audio").astype(np.float64)
        assert flag in done.flags and abs(stored.mean()) < 50
        assert np.corrcoef(stored, audio)[0, 1] > 0.9999


def test_bandwidth_is_measured_and_can_be_asked_for(tmp_path):
    low, high = tone(0.5, 1000), tone(0.5, 1000) + tone(0.5, 17_000, level=0.1)
    assert ingest.measure_bandwidth(low) < 1500 < 16_800 < ingest.measure_bandwidth(high) < 17_500
    row = manifest.Row("a", "a.wav", "s", "train", "g")
    assert ingest.read_sound(row, low, Settings(min_bandwidth=16_000))[0].kind == "bandwidth"
    assert ingest.read_sound(row, high, Settings(min_bandwidth=16_000))[0].error is None


def test_flac_records_hold_the_same_samples_in_less_space(sounds, shards, tmp_path):
    prepare([sounds], tmp_path, settings=Settings(codec="flac"))
    packed, plain = records.open_split(tmp_path, "val"), records.open_split(shards, "val")
    stored = {plain[index].meta["id"]: plain[index].array("audio") for index in range(len(plain))}
    for index in range(len(packed)):
        np.testing.assert_array_equal(packed[index].array("audio"), stored[packed[index].meta["id"]])


def test_folders_of_one_name_stay_apart(tmp_path):
    for parent in "ab":
        (tmp_path / parent / "sfx").mkdir(parents=True)
        soundfile.write(tmp_path / parent / "sfx" / "x.wav", tone(0.2, 300 + ord(parent)), 48_000)
    prepare([tmp_path / "a" / "sfx", tmp_path / "b" / "sfx"], tmp_path / "out", val_fraction=0)
    rows = manifest.read_rows(tmp_path / "out" / "manifest.jsonl")
    assert {row.source for row in rows} == {"sfx", "sfx-2"}


def test_jobs_that_cannot_start_say_why(tmp_path):
    with pytest.raises(CatalogueError, match="no folder was given"):
        prepare([], tmp_path)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "x.wav", np.zeros(9600), 48_000)
    with pytest.raises(IngestError, match="nothing was accepted .1 silent."):
        prepare([tmp_path / "in"], tmp_path / "out")
    with pytest.raises(IngestError, match="1 licence"):
        prepare([tmp_path / "in"], tmp_path / "out", licences=["CC0"])
    with pytest.raises(IngestError, match="codec"):
        Settings(codec="mp3")


def test_synthetic_shards_have_splits_and_more_clips_keep_the_first(tmp_path):
    few = write_synthetic(tmp_path / "few", 20, 3, val_fraction=0.3, synthesise=fake_synthesise)
    write_synthetic(tmp_path / "more", 30, 3, val_fraction=0.3, synthesise=fake_synthesise)
    assert set(few["splits"]) == {"train", "val"} and few["accepted"] == 20
    rows = [{row.id: dataclasses.asdict(row) for row in manifest.read_rows(tmp_path / name / "manifest.jsonl")}
            for name in ("few", "more")]  # fmt: skip
    assert rows[0].items() <= rows[1].items()
    reader = records.open_split(tmp_path / "few", "train")
    assert reader[0].meta["caption"][0].startswith("tone ")


def test_synthetic_files_can_be_prepared(tmp_path):
    ingest.write_synthetic_files(tmp_path / "files", 6, 1, val_fraction=0.4, synthesise=fake_synthesise)
    report = prepare([tmp_path / "files"], tmp_path / "out")
    assert report["accepted"] == 6 and report["captions_from"] == {"table": 6}


def test_inspection_counts_and_refuses_damage(shards, tmp_path):
    facts = inspection.inspect(shards, limit=5)
    assert facts["splits"]["train"]["records"] == 10 and facts["read"] == 8
    assert facts["splits"]["train"]["captioned"] == 1.0
    records.write_arrays(tmp_path, "train", [({"id": "a"}, {"x": np.zeros(2, np.float32)})], {})
    with pytest.raises(records.ShardError, match="not of clips"):
        inspection.inspect(tmp_path)
