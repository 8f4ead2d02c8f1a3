"""The table and picture of a sweep, from made-up runs whose means and spreads are known."""

import csv
import io

import numpy as np
import pytest
from matplotlib.image import imread
from sweeps.sweep_folder import FIELDS, make_plan, write_run

from spresso_jax.sweeps import folder
from spresso_jax.sweeps.collect import collect, csv_text, markdown, plot_png, point_figures
from spresso_jax.sweeps.grid import SweepError


@pytest.fixture
def out(tmp_path):
    """Depths 2 and 10 at 25 Hz with three and two seeds; one seed started, 1 Hz missing."""
    plan = make_plan()
    folder.write_plan(tmp_path, plan)
    for seed, raw in enumerate((0.30, 0.33, 0.36)):
        seconds = (9.0, 0.5, 0.5 + seed)
        write_run(tmp_path, f"25hz-depth2-seed{seed}", plan, [(0.9, 0.0), (0.2, 0.2), (raw, 0.1 * (seed + 1))], seconds)
    for seed, raw in enumerate((0.25, 0.27)):
        write_run(tmp_path, f"25hz-depth10-seed{seed}", plan, [(0.9, 0.0), (raw, 0.4)], (0.8, 0.8))
    run = write_run(tmp_path, "25hz-depth10-seed2", plan, [(0.9, 0.0)], done=False)
    (run / "checkpoints" / "20").mkdir(parents=True)
    return tmp_path


def test_rows_have_the_mean_and_the_spread_over_the_seeds(out):
    shallow, deep = collect(out).rows
    assert shallow.settings == {"rate": "25hz", "depth": 2} and deep.settings["depth"] == 10  # by size, not by letters
    raw = shallow.figures["raw"]
    assert (raw.mean, raw.low, raw.high, raw.n) == (pytest.approx(0.33), 0.30, 0.36, 3)
    assert str(raw) == "0.33 (0.3 to 0.36)"
    assert shallow.figures["raw, best"].high == 0.2  # the lowest of a run's validations
    assert shallow.figures["other_embedding_gain"].mean == pytest.approx(0.2)
    assert shallow.figures["other_embedding_gain, best"].low == 0.2  # the highest
    assert shallow.figures["raw_bin_0.3"].mean == pytest.approx(0.66)
    assert (shallow.figures["seconds_per_step"].low, shallow.figures["seconds_per_step"].high) == (0.5, 2.5)
    assert deep.seeds == (0, 1) and deep.figures["raw"].n == 2 and deep.trained == 5_000_000


def test_points_without_figures_are_named_with_their_state(out):
    found = collect(out)
    assert found.missing["25hz-depth10-seed2"] == "started, at step 20 of 40"
    assert found.missing["1hz-depth2-seed0"] == "missing" and len(found.missing) == 7
    run = out / "1hz-depth2-seed0"
    write_run(out, run.name, found.plan, [])
    assert "no validation" in collect(out).missing[run.name]


def test_the_table_and_the_csv_agree(out):
    found = collect(out)
    text = markdown(found)
    assert "| 25hz | 2 | 3 | 40 | 1 M | 2 M | 3 | 0.33 (0.3 to 0.36) |" in text
    assert "raw by noise level" in text and "- 1hz-depth10-seed2: missing" in text
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert [row["depth"] for row in rows] == ["2", "10"]
    assert (rows[0]["raw"], rows[0]["raw low"], rows[0]["raw high"], rows[0]["raw n"]) == ("0.33", "0.3", "0.36", "3")
    assert rows[1]["seeds"] == "0 1" and float(rows[0]["flops_per_step"]) == 3e9


def test_the_picture_has_a_line_a_rate_and_shows_the_spread(out, tmp_path):
    def pixels(found):
        return imread(io.BytesIO(plot_png(found)))

    one = pixels(collect(out))
    assert one.shape[:2] == (680, 1040) and one.std() > 0.01
    plan = folder.read_plan(out)
    write_run(out, "1hz-depth2-seed0", plan, [(0.5, 0.1)])
    assert np.abs(pixels(collect(out)) - one).max() > 0.1
    assert plot_png(collect(out), "raw") == plot_png(collect(out))  # the sweep's first metric
    assert plot_png(collect(out), "other_embedding_gain, best") != plot_png(collect(out))
    with pytest.raises(SweepError, match="no figure is called 'mel': choose one of raw"):
        plot_png(collect(out), "mel")


def test_sources_are_told_apart_and_values_that_are_not_numbers_are_left_out(tmp_path):
    plan = make_plan()
    extra = [
        {"step": 40, "split": "val/field", "time": 0, "raw": 0.5},
        {"step": 40, "split": "val/library", "time": 0, "raw": 0.7},
        {"step": 41, "split": "val/library", "time": 0, "raw": None},
    ]
    run = write_run(tmp_path, "1hz-depth2-seed0", plan, extra=extra)
    figures = point_figures(run, FIELDS["metrics"])
    assert (figures["raw on field"], figures["raw on library"]) == (0.5, 0.7) and "raw" not in figures
    folder.write_plan(tmp_path, plan)
    assert plot_png(collect(tmp_path)).startswith(b"\x89PNG")


def test_a_folder_without_a_sweep_or_without_results_says_so(tmp_path):
    with pytest.raises(SweepError, match="sweep.json: no such file"):
        collect(tmp_path)
    folder.write_plan(tmp_path, make_plan())
    with pytest.raises(SweepError, match="none of its 12 points is done"):
        collect(tmp_path)
