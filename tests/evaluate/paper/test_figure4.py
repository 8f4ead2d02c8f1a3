"""Figure 4 from made-up scores: lines, claims, and points that cannot share the picture."""

import io
import json

import paper_evaluations as made
import pytest
from matplotlib.image import imread

from spresso_jax.evaluate.paper.comparison import Absent
from spresso_jax.evaluate.paper.figure4 import claims, curves, rate_points, write_figure4
from spresso_jax.evaluate.paper.measurements import read_measurements

RATES = {4: (10, (1, 2, 4)), 9: (10, (1, 2, 4, 12)), 100: (12, (8, 25))}


def measured(tmp_path, value, leave_out=()):
    """`value(t, kbps, finetuned)` is the KAD of every point; SI-SDR is its negative."""
    entries, facts = [], {}
    for t, (bits, grid) in RATES.items():
        for finetuned in (False, True):
            name = f"{'ft' if finetuned else 'q'}{t}"
            facts[name] = made.model(t, bits, finetuned)
            for m in grid:
                kad = value(t, m * bits / t / 10, finetuned)
                code = made.discrete(t, m, bits, name)
                if code["key"] not in leave_out:
                    entries.append((code, {"KAD[aisfx]": kad, "SI-SDR": -kad, "log-spectral distance": 1.0}))
    return read_measurements([made.write_evaluation(tmp_path / "evaluation", entries, facts)])


def like_the_paper(t, kbps, finetuned):
    return 5.0 / (1 + kbps) + 0.01 * t - (0.3 if finetuned else 0.0)


def test_claims_that_hold_are_counted_in_full(tmp_path):
    points = rate_points(measured(tmp_path, like_the_paper))
    assert [(p.downsample, p.codebooks) for p in points] == [(t, m) for t, (_, grid) in RATES.items() for m in grid]
    helps, more, rates = claims(points, ["KAD[aisfx]", "SI-SDR"])
    for label in ("KAD[aisfx]", "SI-SDR"):
        assert helps.counts[label] == (9, 9) and more.counts[label] == (12, 12)
        # 25 Hz at 0.25, 0.5 and 1 kbps lies within 11 Hz's 0.11 to 1.33; 11 Hz at 0.11 and 0.22 within 1 Hz's 0.096 to 0.3,
        # so does 25 Hz at 0.25: twice, before and after.
        assert rates.counts[label] == (12, 12)


def test_claims_that_fail_are_counted_too(tmp_path):
    points = rate_points(measured(tmp_path, lambda t, kbps, finetuned: 9.0 - like_the_paper(t, kbps, finetuned)))
    assert [claim.counts["KAD[aisfx]"][0] for claim in claims(points, ["KAD[aisfx]"])] == [0, 0, 0]


def test_lines_are_by_rate_and_state(tmp_path):
    lines = curves(rate_points(measured(tmp_path, like_the_paper)), "KAD[aisfx]")
    assert [line.name for line in lines[:2]] == ["25 Hz, before step 3", "25 Hz, after step 3"]
    assert [line.dashed for line in lines] == [True, False] * 3
    # Exact bitrates, not the nominal 1.32.
    assert lines[3].points[-1][0] == pytest.approx(4 / 3)


def test_picture_table_and_record(tmp_path):
    found = measured(tmp_path, like_the_paper, leave_out=("ft9.m12",))
    text = write_figure4(found, tmp_path, absent=[Absent("sweep/5hz", "not started", 20)])
    assert "Only one of before and after step 3 is there at: 11.11 Hz, M = 12." in text
    assert "Asked for and missing: sweep/5hz: not started." in text and "| 8 of 8 | 8 of 8 |" in text
    stored = json.loads((tmp_path / "figure4.json").read_text())
    assert len(stored["points"]) == 17 and stored["claims"][0]["cases"]["SI-SDR"] == {"agree": 8, "of": 8}
    assert {score["label"] for score in stored["points"][0]["scores"]} == {"KAD[aisfx]", "SI-SDR"}
    assert imread(io.BytesIO((tmp_path / "figure4.png").read_bytes())).shape[1] > 800
    with pytest.raises(ValueError, match="'FAD' was not measured: choose one of KAD.aisfx."):
        write_figure4(found, tmp_path, metrics=["FAD"])


def test_a_point_twice_and_a_model_of_unknown_state_are_refused(tmp_path):
    facts = {"a": made.model(9, 10), "b": made.model(9, 10)}
    twice = [(made.discrete(9, 4, 10, name), {"SI-SDR": 1.0}) for name in "ab"]
    found = read_measurements([made.write_evaluation(tmp_path / "twice", twice, facts)])
    with pytest.raises(ValueError, match=r"'a.m4' .* and 'b.m4' .* are both after step 3 at t = 9 with 4 codebooks"):
        rate_points(found)
    found = read_measurements([made.write_evaluation(tmp_path / "unknown", twice[:1])])
    with pytest.raises(ValueError, match="nothing says whether step 3 was done"):
        rate_points(found)
    found = read_measurements([made.write_evaluation(tmp_path / "none", [(made.continuous(9), {"SI-SDR": 1.0})])])
    with pytest.raises(ValueError, match="no code was measured"):
        rate_points(found)
