"""Evaluation folders from anywhere: what cannot share a table is refused by name, and hostile files end in a sentence."""

import json
import math

import paper_evaluations as made
import pytest

from spresso_jax.evaluate.paper import measurements
from spresso_jax.evaluate.paper.measurements import read_measurements


def folder(path, **changes):
    entries = [(made.continuous(9), {"SI-SDR": -3.0}), (made.discrete(9, 12, 10), {"FAD[yamnet]": 0.5})]
    return made.write_evaluation(path, entries, **{"models": {"ours9": made.model(9, 10)}, **changes})


def test_systems_come_with_their_operating_point(tmp_path):
    found = read_measurements([folder(tmp_path / "a")])
    code = found.systems[1]
    assert (code.downsample, code.codebooks, code.codebook_bits, code.finetuned) == (9, 12, 10, True)
    assert code.kbps == pytest.approx(1.32) and code.exact_kbps == pytest.approx(4 / 3)
    assert found.labels() == ["SI-SDR", "FAD[yamnet]"] and found.clips == 6


def test_bits_are_found_without_the_models_facts(tmp_path):
    found = read_measurements([folder(tmp_path / "a", models={})])
    assert found.systems[1].codebook_bits == 10 and found.systems[1].finetuned is None


def test_two_folders_of_the_same_system_are_joined_and_must_agree(tmp_path):
    first = made.write_evaluation(tmp_path / "a", [(made.continuous(9), {"SI-SDR": -3.0})])
    second = made.write_evaluation(tmp_path / "b", [(made.continuous(9), {"SI-SDR": -3.0, "FAD[aisfx]": 2.0})])
    found = read_measurements([first, second])
    assert len(found.systems) == 1 and set(found.systems[0].scores) == {"SI-SDR", "FAD[aisfx]"}
    other = made.write_evaluation(tmp_path / "c", [(made.continuous(9), {"SI-SDR": -4.0})])
    with pytest.raises(ValueError, match=r"SI-SDR of 'ours9.continuous' is -3 in .* and -4 in"):
        read_measurements([first, other])


def test_the_control_of_step_3_is_neither_before_nor_after_it(tmp_path):
    control = made.model(9, 10) | {"finetuned": {"codebooks": 10, "keep_continuous": 1.0}}
    entries = [(made.discrete(9, 12, 10), {"SI-SDR": -3.0})]
    found = read_measurements([made.write_evaluation(tmp_path, entries, {"ours9": control})])
    assert found.systems[0].finetuned is None


def test_other_clips_are_refused(tmp_path):
    with pytest.raises(ValueError, match="other clips than .* one table needs one set of clips"):
        read_measurements([folder(tmp_path / "a"), folder(tmp_path / "b", fingerprint="0" * 16, clips=5)])


def test_two_sets_of_weights_under_one_name_are_refused(tmp_path):
    one = made.write_evaluation(tmp_path / "a", [(made.continuous(9), {"FAD[yamnet]": 1.0})])
    source = made.EmbeddingSource("yamnet", fingerprint="others")
    other = made.Score("FAD", 1.0, embedding=source)
    two = made.write_evaluation(tmp_path / "b", [(made.continuous(4), {"FAD[yamnet]": other})])
    with pytest.raises(ValueError, match="two sets of weights are called 'yamnet'"):
        read_measurements([one, two])


def test_options_that_differ_between_folders_are_told(tmp_path):
    one = made.score("KAD[yamnet]", 1.0, options={"scale": 100.0, "bootstrap": {"draws": 1}})
    two = made.score("KAD[yamnet]", 1.0, options={"scale": 1000.0, "bootstrap": {"draws": 2}})
    a = made.write_evaluation(tmp_path / "a", [(made.continuous(9), {"KAD[yamnet]": one})])
    b = made.write_evaluation(tmp_path / "b", [(made.continuous(4), {"KAD[yamnet]": two})])
    assert read_measurements([a, b]).remarks == ("KAD[yamnet] has other options in b than in a: scale",)


def test_a_set_is_chosen_by_name(tmp_path):
    path = folder(tmp_path, set_name="bbc")
    assert read_measurements([path]).chosen == "bbc"
    with pytest.raises(ValueError, match="no scores of a set 'union': choose one of bbc"):
        read_measurements([path], "union")


def change(key, value):
    def edit(content):
        content[key] = value

    return edit


def of_system(key, value):
    return lambda content: content["systems"][1].update({key: value})


def of_record(key, value):
    return lambda content: content["records"][0].update({key: value})


BROKEN = {
    "format": (change("format", 99), "format 99 is not 1"),
    "a list": (lambda content: None, "format 'list' is not 1"),
    "no records": (change("records", []), "holds no records"),
    "no clips": (change("clips", "many"), "clips is missing or not a list"),
    "unknown kind": (of_system("kind", "oracle"), "unknown kind 'oracle'"),
    "huge rate": (of_system("kbps", 10**400), "kbps is 1000.*not a positive number"),
    "negative M": (of_system("codebooks", -1), "codebooks is -1, not a positive number"),
    "half a codebook": (of_system("codebooks", 2.5), "codebooks is 2.5, not a positive number"),
    "two systems": (of_system("key", "ours9.continuous"), "two systems are called 'ours9.continuous'"),
    "strange system": (of_record("system", "nobody"), "record 0 names no set, or a system that is not listed"),
    "line breaks": (of_record("set", "a\nb"), "record 0 names no set"),
    "huge value": (of_record("value", 10**400), "record 0"),
    "false label": (of_record("label", "FAD[vggish]"), "label 'FAD.vggish.' should be 'SI-SDR'"),
    "twice": (lambda content: content["records"].append(content["records"][0]), "has SI-SDR of union twice"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_damaged_scores_end_in_a_sentence(tmp_path, fault):
    edit, told = BROKEN[fault]
    path = folder(tmp_path) / "scores.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps([content] if fault == "a list" else content))
    with pytest.raises(ValueError, match=told):
        read_measurements([tmp_path])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 200_000, '{"format": NaN}', '{"format": -Infinity}', '{"format": 1e999}', "9" * 6000, "\xff"],
)
def test_what_is_no_json_ends_in_a_sentence(tmp_path, text):
    (tmp_path / "scores.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="not JSON that can be used"):
        read_measurements([tmp_path])


def test_a_file_beyond_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(measurements, "MAX_RECORDS", 1)
    with pytest.raises(ValueError, match="2 systems with 2 records are more than a table takes"):
        read_measurements([folder(tmp_path)])
    with pytest.raises(ValueError, match="MB are no scores"):
        measurements.read_bounded_json(tmp_path / "scores.json", limit=10)
    with pytest.raises(ValueError, match="no such file: run `spresso evaluate"):
        read_measurements([tmp_path / "nothing"])


def test_a_score_that_could_not_be_measured_stays_nan(tmp_path):
    entries = [(made.continuous(9), {"SI-SDR": made.Score("SI-SDR", math.nan, notes=["all silent"])})]
    found = read_measurements([made.write_evaluation(tmp_path, entries)])
    assert math.isnan(found.systems[0].scores["SI-SDR"].value)
