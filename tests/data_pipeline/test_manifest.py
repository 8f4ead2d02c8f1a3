"""Ids, splits, duplicates, licences, and the file itself."""

import pytest

from data_pipeline import manifest
from data_pipeline.catalogues import Entry
from data_pipeline.manifest import ManifestError, build_rows, read_rows, split_of, summary, write_rows


def entries(root, contents, **fields):
    found = []
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        found.append(Entry(str(root), name, "box", ("a caption",), "path", **fields))
    return found


def test_ids_come_from_the_content_and_not_from_the_name(tmp_path):
    (first,) = build_rows(entries(tmp_path, {"a.wav": b"one"}))
    (second,) = build_rows(entries(tmp_path, {"b.wav": b"one"}))
    assert first.id == second.id and first.id.startswith("box_")


def test_adding_files_moves_no_old_file_between_splits(tmp_path):
    few = {f"{number}.wav": f"{number}".encode() for number in range(40)}
    more = few | {f"{number}.wav": f"{number}".encode() for number in range(40, 200)}
    before = {row.id: row.split for row in build_rows(entries(tmp_path, few), 0.3)}
    after = {row.id: row.split for row in build_rows(entries(tmp_path, more), 0.3)}
    assert before.items() <= after.items()
    assert 0.2 < sum(split == "val" for split in after.values()) / 200 < 0.4


def test_a_larger_share_only_moves_groups_out_of_train():
    small = {name for name in map(str, range(500)) if split_of(name, 0.1) == "val"}
    large = {name for name in map(str, range(500)) if split_of(name, 0.3) == "val"}
    assert small < large


def test_a_group_is_never_in_two_splits(tmp_path):
    contents = {f"set{letter}/hit{number}.wav": f"{letter}{number}".encode() for letter in "abcdef" for number in "123"}
    rows = build_rows(entries(tmp_path, contents), 0.5, group_by="name")
    groups = {}
    for row in rows:
        groups.setdefault(row.group, set()).add(row.split)
    assert len(groups) == 6 and all(len(splits) == 1 for splits in groups.values())


def test_an_explicit_split_is_honoured(tmp_path):
    rows = build_rows(entries(tmp_path, {"a.wav": b"1", "b.wav": b"2"}, split="test"), 0.5)
    assert {row.split for row in rows} == {"test"}


def test_duplicates_missing_files_and_other_licences_stay_as_rows_with_reasons(tmp_path):
    found = entries(tmp_path, {"a.wav": b"1", "b.wav": b"1", "c.wav": b"2"}, licence="CC0")
    found += entries(tmp_path, {"d.wav": b"3"}, licence="GPL")
    found.append(Entry(str(tmp_path), "e.wav", "box", (), "path", error="listed in a table, but no such file"))
    rows = build_rows(found, licences=["cc0"])
    assert len(rows) == 5 and len({row.id for row in rows}) == 5
    assert summary(rows)["left_out"] == {"duplicate": 1, "licence": 1, "missing": 1}


def test_two_files_with_one_id_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="make ids unique"):
        build_rows(entries(tmp_path, {"a.wav": b"1", "b.wav": b"2"}, id="same"))


def test_a_manifest_comes_back_as_it_was_written(tmp_path):
    rows = build_rows(entries(tmp_path, {"été.wav": b"1", "b.wav": b"2"}))
    assert write_rows(tmp_path / "m.jsonl", rows) == write_rows(tmp_path / "n.jsonl", rows, None)
    assert read_rows(tmp_path / "m.jsonl") == rows
    (tmp_path / "m.jsonl").write_text('{"uri": "x"\n')
    with pytest.raises(ManifestError, match="line 1 is damaged"):
        read_rows(tmp_path / "m.jsonl")


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ManifestError, match="val_fraction"):
        build_rows([], val_fraction=1.5)
    with pytest.raises(ManifestError, match="group_by"):
        build_rows([], group_by="colour")
    assert manifest.GROUPINGS == ("file", "name", "folder")
