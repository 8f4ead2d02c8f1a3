"""Reading webMUSHRA's CSV: what is accepted, counted, and refused with its file and line."""

import csv
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spresso_jax.evaluate.mushra.report import write_scores
from spresso_jax.evaluate.mushra.results import read_results
from spresso_jax.evaluate.mushra.statistics import holm, paired_tests, score, screen

HEADER = ["session_test_id", "age", "session_uuid", "trial_id", "rating_stimulus", "rating_score", "rating_time"]
HEADER.append("rating_comment")
CONDITIONS = ("ours", "theirs", "reference", "anchor35")


def rows(listeners=4, items=("a", "b", "c"), scores=None):
    """Rows of a complete test; `scores` maps (listener, item, condition) to another score."""
    usual = {"ours": 60, "theirs": 50, "reference": 100, "anchor35": 20}
    return [
        [
            "t",
            "30",
            f"u{n}",
            item,
            condition,
            str((scores or {}).get((n, item, condition), usual[condition] - n)),
            "9000",
            "",
        ]
        for n in range(listeners)
        for item in items
        for condition in CONDITIONS
    ]


def write(path, content, header=HEADER):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *content])
    return path


def test_rows_become_a_table_whatever_their_order(tmp_path):
    content = rows()
    np.random.default_rng(0).shuffle(content)
    ratings = read_results([write(tmp_path / "r.csv", content)])
    assert ratings.conditions == ("reference", "ours", "theirs", "anchor35") and ratings.items == ("a", "b", "c")
    assert ratings.scores[ratings.listeners.index("u2"), 1].tolist() == [98.0, 58.0, 48.0, 18.0]
    assert ratings.seconds.max() == 9.0 and ratings.systems == ("ours", "theirs")


def test_a_later_questionnaire_and_files_put_together_are_read_by_position(tmp_path):
    wide = [[*row[:2], "often", "loud, far", *row[2:]] for row in rows(2)]
    narrow = [[row[0], row[2].replace("u", "v"), *row[3:]] for row in rows(1)]
    training = [["t", "30", "u0", "training", c, "100", "1", ""] for c in CONDITIONS]
    first = write(
        tmp_path / "a.csv", [*rows(1), HEADER, *[[*r[:4], r[4].replace("u", "w"), *r[5:]] for r in wide], *training]
    )
    record = score(read_results([first, write(tmp_path / "b.csv", narrow, [HEADER[0], *HEADER[2:]])]))
    assert record["listeners"] == ["u0", "w0", "w1", "v0"]
    assert record["read"] == {
        "files": 2,
        "rows": 52,
        "repeated_headers": 1,
        "training_rows": 4,
        "listeners_with_other_fields": 2,
        "incomplete_listeners_left_out": [],
    }


def changed(index, column, value):
    def change(content):
        content[index][column] = value

    return change


def only_training(content):
    content[:] = [[*row[:3], "training", *row[4:]] for row in content[:4]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(5, 5, "nan"), "line 7: rating_score 'nan' is not a number"),
        (changed(5, 5, ""), "line 7: rating_score '' is not a number"),
        (changed(5, 5, "=1+1"), "line 7: rating_score '=1+1' is not a number"),
        (changed(5, 5, "101"), "line 7: rating_score '101' is not within 0 to 100"),
        (changed(5, 5, "-1"), "is not within 0 to 100"),
        (changed(0, 6, "1e999"), "line 2: rating_time '1e999' is not a number"),
        (changed(0, 4, "=HYPERLINK(1)"), "line 2: rating_stimulus '=HYPERLINK(1)' is no name"),
        (changed(0, 4, ""), "rating_stimulus '' is no name"),
        (changed(0, 3, "x\ny"), "line 3: trial_id"),
        (changed(0, 2, "u" * 5000), "session_uuid"),
        (changed(0, 7, "x" * 200_000), "line 2: not readable as CSV"),
        (changed(3, 0, "other"), "line 5: test 'other', but"),
        (changed(1, 4, "ours"), "line 3: listener u0 rates 'ours' of 'a' a second time (first at"),
        (lambda content: content.append(content[0]), "line 50: listener u0 rates 'ours' of 'a' a second time"),
        (lambda content: content[7].pop(1), "line 9: 7 fields, but 8 in the same listener's row at"),
        (lambda content: content.insert(3, ["t", "u0"]), "line 5: 2 fields, at least 7 needed"),
        (lambda content: content.pop(20), "1 of 4 listeners lack ratings, first u1: 1 missing, such as 'ours' of 'c'"),
        (lambda content: content.clear(), "nobody has finished"),
        (only_training, "only training rows"),
        (lambda content: [row.__setitem__(4, "x") for row in content if row[4] == "reference"], "hidden reference"),
    ],
)
def test_hostile_and_damaged_rows_are_refused_by_line(tmp_path, change, message):
    content = rows()
    change(content)
    with pytest.raises(ValueError) as error:
        read_results([write(tmp_path / "r.csv", content)])
    assert message in str(error.value) and "r.csv" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nobody has finished"),
        (b"a,b\n1,2\n", "line 1: no header of webMUSHRA"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ((",".join(HEADER) + '\nt,30,u0,a,"ours').encode(), "not readable as CSV"),
        ((",".join(HEADER) + "\nt,30,u0,a,our\0s,1,1,\n").encode(), "line 2"),
    ],
)
def test_what_is_no_result_file_is_refused(tmp_path, content, message):
    path = tmp_path / "r.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="r.csv") as error:
        read_results([path])
    assert message in str(error.value)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tail=st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(["t", "u0", "reference", "50", '"', ",", "\n", "\r", "nan", "=", "ours"]), max_size=60
        ).map(lambda words: "".join(words).encode()),
    )
)
def test_any_bytes_are_a_table_or_one_clear_refusal(tmp_path, tail):
    path = tmp_path / "r.csv"
    path.write_bytes((",".join(HEADER) + "\nt,30,u0,a,reference,100,1,\n").encode() + tail)
    try:
        assert read_results([path]).scores.size >= 1
    except ValueError as error:
        assert "r.csv" in str(error) and type(error) is ValueError


def test_a_table_that_could_only_be_nonsense_is_refused_at_once(tmp_path):
    content = [["t", "30", f"u{n}", f"i{n}", "reference", "50", "1", ""] for n in range(2000)]
    with pytest.raises(ValueError, match="2000 listeners, 2000 items and 1 conditions are no listening test"):
        read_results([write(tmp_path / "r.csv", content)])


def test_incomplete_listeners_are_left_out_only_when_asked_and_are_named(tmp_path):
    content = rows()
    del content[20]
    path = write(tmp_path / "r.csv", content)
    ratings = read_results([path], leave_out_incomplete=True)
    assert ratings.listeners == ("u0", "u2", "u3")
    assert score(ratings)["read"]["incomplete_listeners_left_out"] == ["u1"]
    with pytest.raises(ValueError, match="second time"):
        read_results([path, path], leave_out_incomplete=True)


def ratings_of(tmp_path, listeners, items, scores):
    return read_results([write(tmp_path / "r.csv", rows(listeners, items, scores))])


def test_screening_follows_both_rules_and_spares_a_bad_item(tmp_path):
    items = tuple("abcdefghij")
    usual = {(n, i, "reference"): 100 for n in range(8) for i in items}
    slips = {(1, "a", "reference"): 89, (2, "a", "reference"): 89, (2, "b", "reference"): 89}
    anchors = {(3, "a", "anchor35"): 91, (4, "a", "anchor35"): 91, (4, "b", "anchor35"): 91}
    found = screen(ratings_of(tmp_path, 8, items, usual | slips | anchors))
    assert (found.by_reference, found.by_anchor, found.exempt_items) == (("u2",), ("u4",), ())
    assert found.kept == ("u0", "u1", "u3", "u5", "u6", "u7")
    many = {(n, "a", "anchor35"): 91 for n in (3, 4, 5)}
    found = screen(ratings_of(tmp_path, 8, items, usual | anchors | many))
    assert found.exempt_items == ("a",) and found.by_anchor == ()


def test_the_middle_anchor_is_the_one_that_screens(tmp_path):
    content = rows(4)
    content += [
        [*row[:4], "anchor70", "95" if row[2] == "u1" else "40", *row[6:]] for row in rows(4) if row[4] == "ours"
    ]
    found = screen(read_results([write(tmp_path / "r.csv", content)]))
    assert found.anchor == "anchor70" and found.by_anchor == ("u1",)


def test_holm_and_wilcoxon_at_their_edges():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    same = paired_tests({"a": np.arange(5.0), "b": np.arange(5.0)})[0]
    assert same["wilcoxon_p"] == same["holm"] == 1.0 and same["mean_difference"] == 0.0
    assert paired_tests({"a": np.ones(1), "b": np.zeros(1)}) == []


@pytest.mark.parametrize("listeners", [1, 2])
def test_few_listeners_and_nobody_left_still_give_a_whole_report(tmp_path, listeners):
    low = {(n, item, "reference"): 50 for n in range(listeners) for item in "ab"}
    record = write_scores(ratings_of(tmp_path, listeners, ("a", "b"), low), tmp_path / "out")
    assert record["kept"] is None and len(record["screening"]["by_reference"]) == listeners
    half_width = None if listeners == 1 else pytest.approx(12.706 * 0.5, abs=1e-3)
    assert record["all"]["conditions"]["ours"]["ci95_t_listener_means"] == half_width
    assert "Nobody passed the screening" in (tmp_path / "out" / "mushra.md").read_text()
    assert json.loads((tmp_path / "out" / "mushra.json").read_text())["all"]["listeners"] == listeners


def test_names_from_a_file_cannot_break_tables_or_figures(tmp_path):
    content = [[*row[:4], "$\\frac{|x" if row[4] == "ours" else row[4], *row[5:]] for row in rows()]
    write_scores(read_results([write(tmp_path / "r.csv", content)]), tmp_path / "out")
    assert "\\$" not in (tmp_path / "out" / "mushra.md").read_text()
    assert "$\\\\frac{\\|x" in (tmp_path / "out" / "mushra.md").read_text()
    for name in ("boxes", "items"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert b"<svg" in (tmp_path / "out" / f"{name}.svg").read_bytes()
    table = list(csv.DictReader((tmp_path / "out" / "conditions.csv").open()))
    assert {row["listeners"] for row in table} == {"all", "kept"} and len(table) == 2 * 4 * 4
