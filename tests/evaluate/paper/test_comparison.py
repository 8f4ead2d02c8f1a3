"""Ours beside the paper's: what is subtracted, what is not, what is missing, and whether the order agrees."""

import io
import json
import re

import numpy as np
import paper_evaluations as made
import pytest
from matplotlib.image import imread

from spresso_jax.evaluate.paper.comparison import Absent, compare
from spresso_jax.evaluate.paper.comparison_page import kbps_of_clip, write_comparison
from spresso_jax.evaluate.paper.measurements import read_measurements
from spresso_jax.evaluate.paper.published import published

PAPER = published()
NAMES = {
    "fad_vggish": "FAD[vggish]",
    "fad_clap": "FAD[clap]",
    "kad_clap": "KAD[clap]",
    "similarity_clap": "similarity[clap]",
}
NAMES |= {"si_sdr": "SI-SDR"}


def system_of(target):
    if target["kind"] == "continuous":
        return made.continuous(target["downsample"])
    if target["kind"] == "discrete":
        return made.discrete(target["downsample"], target["codebooks"], target["codebook_bits"])
    if target["kind"] == "peer":
        return made.system(f"peer-{target['peer']}-x-{target.get('kbps')}", "folder", kbps=target.get("kbps"))
    return made.system("ours.audio_ae", "audio_ae", "ours9")


def whole_table(name, change=lambda key, value: value, names=NAMES, leave_out=()):
    """Every row of the paper as if it had been measured."""
    rows = [row for row in PAPER.tables[name].rows if row.key not in leave_out]
    return [(system_of(r.target), {names[k]: change(k, v) for k, v in r.values.items()}) for r in rows]


def models(finetuned=True):
    return {f"ours{t}": made.model(t, 12 if t > 9 else 10, finetuned) for t in (4, 9, 20, 100)}


def compared(tmp_path, name, entries, absent=(), embeddings=None, **more):
    folder = made.write_evaluation(tmp_path / "evaluation", entries, more.pop("models", models()), **more)
    return compare(PAPER, name, read_measurements([folder]), absent=absent, embeddings=embeddings)


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_the_papers_own_figures_differ_by_nothing_and_stand_in_order(tmp_path, name):
    found = compared(tmp_path, name, whole_table(name))
    assert all(cell.difference == 0.0 for row in found.rows for cell in row.cells.values())
    assert [row.system is not None for row in found.rows] == [True] * len(PAPER.tables[name].rows)
    for agreement in found.agreements:
        assert agreement.same == agreement.pairs > 0 and not agreement.exchanged
        assert agreement.spearman == pytest.approx(1.0) and agreement.pearson == pytest.approx(1.0)
    # I10: the doubtful cells of SemantiCodec count in no order, its similarity and SI-SDR do.
    rows = {agreement.column: agreement.rows for agreement in found.agreements}
    assert rows["kad_clap"] == (7 if name == "table1" else 4) and rows["si_sdr"] == len(found.rows)


def test_another_embedding_is_never_subtracted(tmp_path):
    names = {**NAMES, "fad_vggish": "FAD[yamnet]", "fad_clap": "FAD[aisfx]"}
    del names["kad_clap"], names["similarity_clap"]
    entries = [(s, v) for s, v in whole_table("table1", lambda k, v: 10 * v, {**NAMES, **names})]
    entries = [(s, {k: x for k, x in v.items() if k in names.values()}) for s, v in entries]
    found = compared(tmp_path, "table1", entries)
    assert found.ours["fad_vggish"] == "FAD[yamnet]" and found.ours["fad_clap"] == "FAD[aisfx]"
    assert found.ours["kad_clap"] is None
    for row in found.rows:
        assert row.cells["fad_vggish"].score is not None and row.cells["fad_vggish"].difference is None
        assert row.cells["si_sdr"].difference == pytest.approx(9 * row.published.values["si_sdr"])
    # The order is what remains comparable.
    orders = {agreement.column: agreement for agreement in found.agreements}
    assert orders["fad_vggish"].spearman == pytest.approx(1.0) and orders["fad_vggish"].pearson == pytest.approx(1.0)
    assert any("no difference is taken" in remark for remark in found.remarks)


def test_a_stand_in_may_be_chosen_and_must_have_been_measured(tmp_path):
    entries = [(made.continuous(9), {"FAD[yamnet]": 1.0, "FAD[aisfx]": 2.0})]
    found = compared(tmp_path, "table1", entries, embeddings={"fad_vggish": "aisfx"})
    assert found.ours["fad_vggish"] == "FAD[aisfx]"
    with pytest.raises(ValueError, match="FAD was not measured in 'vggish' but in aisfx, yamnet"):
        compared(tmp_path, "table1", entries, embeddings={"fad_vggish": "vggish"})
    with pytest.raises(ValueError, match="no column 'fad'"):
        compared(tmp_path, "table1", entries, embeddings={"fad": "vggish"})


def test_exchanged_rows_are_named_and_ties_of_the_paper_do_not_count(tmp_path):
    values = {4: 0.60, 9: 0.70, 20: 0.71, 100: 0.71}
    entries = [(made.continuous(t), {"similarity[clap]": v}) for t, v in values.items()]
    (agreement,) = compared(tmp_path, "table1", entries).agreements
    # In the paper t = 4 and 9 are equal (0.76), t = 100 has 0.73, t = 20 has 0.71.
    assert agreement.pairs == 5 and agreement.same == 0
    assert ("S-PRESSO, t = 100", "S-PRESSO, t = 20") in agreement.exchanged
    assert agreement.spearman < 0 and agreement.left_out == ("AudioAE", "Stable Audio Open", "Music2Latent")


def test_two_shared_rows_have_no_correlation(tmp_path):
    entries = [(made.continuous(t), {"SI-SDR": -t}) for t in (4, 9)]
    (agreement,) = compared(tmp_path, "table1", entries).agreements
    assert (agreement.same, agreement.pairs, agreement.spearman, agreement.pearson) == (1, 1, None, None)


def test_missing_rows_are_printed_with_their_reason(tmp_path):
    absent = [
        Absent("depths/11hz-depth10-seed0", "not finished, at step 40 of 1000", 9),
        Absent("m2l", "no weights", peer="music2latent"),
    ]
    found = compared(tmp_path, "table1", [(made.continuous(4), {"SI-SDR": 1.0})], absent)
    reasons = {row.published.key: row.missing for row in found.rows}
    assert reasons["t9"] == "depths/11hz-depth10-seed0: not finished, at step 40 of 1000"
    assert reasons["music2latent"] == "m2l: no weights" and reasons["t20"] == "not given" and reasons["t4"] == ""
    text = write_comparison(found, PAPER, tmp_path)
    assert text.count("ours: missing (") == 6 and "Asked for and missing: m2l: no weights." in text


def test_two_systems_for_one_row_are_refused(tmp_path):
    entries = [(made.discrete(9, 12, 10, model), {"SI-SDR": 1.0}) for model in ("ours9", "other9")]
    facts = models() | {"other9": made.model(9, 10)}
    with pytest.raises(
        ValueError, match=r"2 systems stand for the row 'S-PRESSO, 1.32 kbps': 'ours9.m12' .* 'other9.m12'"
    ):
        compared(tmp_path, "table2", entries, models=facts)


def test_what_makes_a_row_another_one_is_remarked(tmp_path):
    dac = made.system("peer-dac-n_quantizers-2", "folder", kbps=1.95)
    entries = [
        (made.discrete(9, 12, 10), {"SI-SDR": made.score("SI-SDR", 1.0, exclusions={"silent reference": ["x"]})})
    ]
    entries += [
        (dac, {"SI-SDR": -4.0}),
        (made.discrete(9, 10, 10), {"SI-SDR": 0.5}),
        (made.system("opus", "folder"), {"SI-SDR": 3.0}),
    ]
    found = compared(tmp_path, "table2", entries, models=models(False), options=dict(steps=24, sampler="heun"))
    remarks = {row.published.key: row.remarks for row in found.rows}
    assert remarks["t9_m12"] == (
        "before step 3; the paper's row is after it",
        "SI-SDR leaves clips out: 1 silent reference",
    )
    assert remarks["dac"] == ("1.95 kbps were counted on these clips, not 1.723",)
    assert [system.key for system in found.others] == ["ours9.m10", "opus"]
    assert any("Decoded with heun in 24 steps, the paper with heun in 64" in remark for remark in found.remarks)
    assert any("clips, 6 for 1500" in remark for remark in found.remarks)


def test_a_peer_far_from_the_papers_bitrate_is_another_system(tmp_path):
    entries = [(made.system(f"peer-semanticodec-{k}", "folder", kbps=k), {"SI-SDR": -30.0}) for k in (0.33, 0.7)]
    found = compared(tmp_path, "table2", entries)
    taken = {row.published.key: row.system.key for row in found.rows if row.system}
    assert taken == {"semanticodec_0k31": "peer-semanticodec-0.33"} and len(found.others) == 1


def test_a_folder_named_like_a_peer_is_taken_with_a_remark(tmp_path):
    found = compared(tmp_path, "table1", [(made.system("folder-music2latent", "folder"), {"SI-SDR": -9.0})])
    (row,) = [row for row in found.rows if row.system]
    assert row.published.key == "music2latent" and "no record says what made it" in row.remarks[0]


def test_the_page_is_complete_in_all_forms(tmp_path):
    entries = whole_table("table2", lambda k, v: v + 0.01, leave_out=("dac",))
    entries[0][0]["label"] = "a|b & c_d [x](y) <i>"
    found = compared(tmp_path, "table2", entries)
    text = write_comparison(found, PAPER, tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head = lines[0]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines[: 2 + 3 * 5 + 2]}) == 1
    assert "<i>" not in text and "FAD\\[vggish] ↓" in head and "+0.01" in text
    assert "1.32 (exact 1.333)" in text and "I7: " in text and "I10: " in text
    tex = (tmp_path / "table2.tex").read_text()
    assert r"a\textbar{}b \& c\_d" in tex and tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2
    stored = json.loads((tmp_path / "table2.json").read_text())
    code = next(row for row in stored["rows"] if row["row"] == "t9_m12")
    # 5 s are 56 compressed frames of 12 x 10 bits once the last one is filled up (I20).
    assert code["ours"]["kbps"] == {
        "nominal": 1.32,
        "exact": pytest.approx(4 / 3),
        "of_a_5_s_clip": pytest.approx(1.344),
    }
    assert code["difference"]["si_sdr"] == pytest.approx(0.01) and stored["rows"][0]["ours"] is None
    pixels = imread(io.BytesIO((tmp_path / "table2.png").read_bytes()))
    assert pixels.shape[1] > 1000 and np.ptp(pixels) > 0.5


def test_only_codes_have_bits():
    from pathlib import Path

    from spresso_jax.evaluate.paper.measurements import Measured

    assert kbps_of_clip(Measured("z", "z", "continuous", Path(), "z", frame_rate=1.0)) is None
