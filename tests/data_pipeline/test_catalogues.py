"""Folder scans and the tables of public collections."""

import json

import numpy as np
import pytest
import soundfile

from data_pipeline import catalogues
from data_pipeline.catalogues import CatalogueError, catalogue, path_words, scan_folder


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(8, 0.1), 48_000, format="WAV")


def test_a_scan_finds_upper_case_and_unicode_and_skips_dot_files_in_sorted_order(tmp_path):
    touch(tmp_path, "b/UPPER.WAV", "a/風 été #1.wav", ".hidden.wav", ".git/x.wav", "._b.wav", "c.Flac")
    (tmp_path / "notes.txt").write_text("x")
    assert scan_folder(tmp_path) == ["a/風 été #1.wav", "b/UPPER.WAV", "c.Flac"]


@pytest.mark.parametrize(
    "uri, words",
    [
        ("train/Dogs/BigBark_03.wav", "dogs big bark"),
        ("audio/door-slam (2).wav", "door slam"),
        ("footsteps/footsteps12.ogg", "footsteps"),
        ("x/4f2a91c07b3d.wav", ""),
        ("Wind/風 été.wav", "wind 風 été"),
        ("12345.wav", ""),
    ],
)
def test_words_of_a_path(uri, words):
    assert path_words(uri) == words


def test_a_table_gives_captions_split_group_and_licence_and_names_what_is_missing(tmp_path):
    touch(tmp_path, "audio/a.wav", "audio/b.wav")
    (tmp_path / "t.csv").write_text(
        'path,caption,split,license,group\naudio/a.wav,"A dog, barking",validation,CC0,g1\nabsent.wav,nothing,,,\n'
    )
    a, b, absent = sorted(catalogue(tmp_path, [tmp_path / "t.csv"]), key=lambda entry: entry.error or "")
    assert (a.captions, a.split, a.licence, a.group, a.captions_from) == (
        ("A dog, barking",), "val", "CC0", "g1", "table",
    )  # fmt: skip
    assert b.captions_from == "path"
    assert absent.uri == "absent.wav" and "no such file" in absent.error


def test_sidecars_are_used_where_no_table_speaks(tmp_path):
    touch(tmp_path, "a.wav", "b.wav", "c.wav")
    (tmp_path / "a.txt").write_text("rain on a roof\nheavy rain\n")
    (tmp_path / "b.json").write_text(json.dumps({"caption": "a bell", "licence": "CC0"}))
    found = {entry.uri: entry for entry in catalogue(tmp_path)}
    assert found["a.wav"].captions == ("rain on a roof", "heavy rain")
    assert found["b.wav"].captions == ("a bell",) and found["b.wav"].licence == "CC0"
    assert found["c.wav"].captions_from == "path"


def test_public_tables_are_understood_by_their_columns(tmp_path):
    touch(tmp_path, "fsd/64760.wav", "esc/1-100-A-0.wav", "clotho/my rain.wav", "wavcaps/77.flac", "bbc/07.wav")
    (tmp_path / "dev.csv").write_text('fname,labels,mids,split\n64760,"Electric_guitar,Music","/m/1,/m/2",train\n')
    (tmp_path / "esc50.csv").write_text("filename,fold,category,src_file\n1-100-A-0.wav,1,chirping_birds,100\n")
    (tmp_path / "clotho.csv").write_bytes(b"file_name,caption_1,caption_2\nmy rain.wav,Caf\xe9 rain,It rains\n")
    (tmp_path / "wavcaps.json").write_text(json.dumps({"data": [{"id": "77", "caption": "A cat."}]}))
    (tmp_path / "bbc.csv").write_text("location,description,secs\n07.wav,Two doors slam,3\n")
    tables = [tmp_path / name for name in ("dev.csv", "esc50.csv", "clotho.csv", "wavcaps.json", "bbc.csv")]
    found = {entry.uri: entry for entry in catalogue(tmp_path, tables)}
    assert found["fsd/64760.wav"].captions == ("electric guitar, music",)
    assert found["fsd/64760.wav"].split == "train"
    assert found["esc/1-100-A-0.wav"].captions == ("chirping birds",) and found["esc/1-100-A-0.wav"].group == "100"
    assert found["clotho/my rain.wav"].captions == ("Café rain", "It rains")
    assert found["wavcaps/77.flac"].captions == ("A cat.",)
    assert found["bbc/07.wav"].captions == ("Two doors slam",)


def test_a_later_table_fills_only_what_is_open(tmp_path):
    touch(tmp_path, "5.wav")
    (tmp_path / "a.csv").write_text("fname,labels,split\n5,Bark,train\n")
    (tmp_path / "b.json").write_text(json.dumps({"5": {"title": "x", "license": "CC0", "uploader": "ann"}}))
    (entry,) = catalogue(tmp_path, [tmp_path / "a.csv", tmp_path / "b.json"])
    assert (entry.captions, entry.licence, entry.group) == (("bark",), "CC0", "ann")


def test_a_row_of_another_folder_does_not_match_by_name(tmp_path):
    touch(tmp_path, "one/1.wav", "two/1.wav")
    (tmp_path / "t.csv").write_text("path,caption\none/1.wav,first\ntwo/1.wav,second\n")
    (entry,) = [entry for entry in catalogue(tmp_path / "two", [tmp_path / "t.csv"]) if not entry.error]
    assert entry.captions == ("second",)


def test_folders_and_tables_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(CatalogueError, match="no such folder"):
        catalogue(tmp_path / "absent")
    with pytest.raises(CatalogueError, match="no sound files"):
        catalogue(tmp_path)
    touch(tmp_path, "a.wav")
    (tmp_path / "bad.csv").write_text("colour,size\nred,2\n")
    with pytest.raises(CatalogueError, match="no column names the files"):
        catalogue(tmp_path, [tmp_path / "bad.csv"])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(CatalogueError, match="bad.json"):
        catalogues.read_table(tmp_path / "bad.json")
