"""The printed figures against the formulas they follow from, and against the operating points of the package."""

import pytest

from spresso_jax.bitrate import PAPER_OPERATING_POINTS, bitrate_kbps, compression_ratio
from spresso_jax.evaluate.paper.published import published

PAPER = published()
ROWS = [row for table in PAPER.tables.values() for row in table.rows]


def test_every_row_has_every_column_and_known_notes():
    for row in ROWS:
        assert set(row.values) == {column.key for column in PAPER.columns}
        assert set(row.notes) <= set(PAPER.notes) and set(row.doubtful) <= set(row.values)
    assert len({row.key for row in ROWS}) == len(ROWS) == 13


def test_exact_sizes_follow_from_the_formulas():
    for row in PAPER.tables["table1"].rows:
        if "downsample" in row.target:
            rate = 100 / row.target["downsample"]
            assert row.exact["frame_rate"] == pytest.approx(rate)
            assert row.exact["R"] == pytest.approx(compression_ratio(64, rate))
            # What is printed are these, rounded (I3, I7), but for the AudioAE (I1).
            assert abs(row.printed["R"] - row.exact["R"]) <= 0.5
    for row in PAPER.tables["table2"].rows:
        if "codebooks" in row.target:
            m, k = row.target["codebooks"], 2 ** row.target["codebook_bits"]
            assert row.exact["kbps"] == pytest.approx(bitrate_kbps(m, k, 100 / row.target["downsample"]))
            assert row.printed["kbps"] == pytest.approx(bitrate_kbps(m, k, row.printed["frame_rate"]))


def test_rows_are_the_operating_points_of_the_package():
    targets = [row.target for row in PAPER.tables["table2"].rows if row.target["kind"] == "discrete"]
    found = {(t["downsample"], t["codebook_bits"], t["codebooks"]) for t in targets}
    assert found == {(p.downsample, p.codebook_bits, p.codebooks) for p in PAPER_OPERATING_POINTS}


def test_only_the_papers_own_embeddings_match_its_columns():
    columns = {column.key: column for column in PAPER.columns}
    assert columns["fad_vggish"].same_embedding("vggish") and not columns["fad_vggish"].same_embedding("yamnet")
    assert columns["kad_clap"].same_embedding("clap-laion-kadtk") and not columns["kad_clap"].same_embedding("clap-own")
    assert columns["si_sdr"].same_embedding(None) and not columns["fad_clap"].same_embedding(None)
