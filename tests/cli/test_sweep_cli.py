"""`spresso sweep` as a user meets it; the trainings themselves in the slow test at the end."""

import csv
import json
import os
import subprocess
import sys

import pytest
from sweeps.sweep_folder import make_plan, write_run
from tiny_model import build_tiny_text_to_audio
from typer.testing import CliRunner

from spresso_jax.cli.main import app
from spresso_jax.observe.metrics import read_metrics
from spresso_jax.sweeps import folder, speed

runner = CliRunner()
ONE = ("--axis", "rate=1hz", "--axis", "depth=1", "--axis", "seed=0")


def run(*words):
    return runner.invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    return build_tiny_text_to_audio(tmp_path_factory.mktemp("models") / "dit")


@pytest.fixture
def words(upstream, tmp_path, monkeypatch):
    """A sweep whose data is an empty folder: enough for everything that happens before the first training."""
    made_up = speed.Speed({"float32": 1e9}, "made up")
    monkeypatch.setattr(speed, "measured_speed", lambda dtypes: made_up)
    (tmp_path / "shards").mkdir()
    return ("--data", tmp_path / "shards", "--upstream", upstream, "--out", tmp_path / "out")


def test_sweep_alone_and_its_commands_both_have_help():
    assert "collect" in run("sweep", "--help").output and "encoder_depth:small" not in run("sweep", "--help").output
    assert "--slurm-options" in run("sweep", "run", "--help").output
    assert "plot.png" in run("sweep", "collect", "--help").output


def test_the_grid_is_shown_before_anything_is_written(words, tmp_path):
    shown = run("sweep", *words, "encoder_depth:tiny", *ONE, "--dry-run")  # options may come first
    assert shown.exit_code == 0, shown.output
    row = next(line for line in shown.output.splitlines() if "1hz-depth1-seed0" in line)
    assert "missing" in row and " 8 " in row and " M" in row
    assert "to train: 1, about" in shown.output and "made up" in shown.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("encoder_dept",), "did you mean 'encoder_depth'"),
        (("encoder_depth:tiny", "--set", "lop.steps=3"), "did you mean 'loop.steps'"),
        (("encoder_depth:tiny", "--set", "seed=3"), "--axis seed="),
        (("encoder_depth:tiny", "--axis", "dept=3"), "did you mean 'depth'"),
        (("encoder_depth:tiny", "--axis", "rate=7hz"), "choose one of 25hz"),
        (("encoder_depth:tiny", "--slurm-options", "--gpus=1"), "needs --slurm"),
    ],
)
def test_a_mistake_fails_before_anything_starts(extra, message, words, tmp_path):
    result = run("sweep", *extra, *words)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_upstream_model_that_cannot_serve_is_told_first(words, tmp_path):
    result = run("sweep", "encoder_depth:tiny", "--data", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "--upstream MODEL" in result.stderr


def test_a_slurm_array_covers_what_is_missing_and_finished_points_are_refused_other_settings(words, tmp_path):
    two = ("sweep", "encoder_depth:tiny", *words, "--axis", "rate=1hz", "--axis", "depth=1", "--axis", "seed=0,1")
    done = run(*two, "--slurm", tmp_path / "array", "--slurm-options", "--gpus=1")
    assert done.exit_code == 0, done.output
    plan = folder.read_plan(tmp_path / "out")
    assert list(plan["points"]) == ["1hz-depth1-seed0", "1hz-depth1-seed1"]
    (points,) = (tmp_path / "array").glob("points-*.txt")
    assert [("seed=0" in line, "seed=1" in line) for line in points.read_text().splitlines()] == [(1, 0), (0, 1)]
    assert all(line.endswith("--resume") and " train diffusion_ae " in line for line in points.read_text().splitlines())
    assert "sweep prepare" in (tmp_path / "array" / "prepare.sbatch").read_text()
    write_run(tmp_path / "out", "1hz-depth1-seed0", plan, [(0.5, 0.1)], (0.1, 0.1))
    again = run(*two, "--slurm", tmp_path / "later")
    assert again.exit_code == 0 and "1 finished point" in again.output
    (points,) = (tmp_path / "later").glob("points-*.txt")
    assert "seed1" in points.read_text() and "seed0" not in points.read_text()
    changed = run(*two, "--set", "data.batch_size=4")
    assert changed.exit_code == 2 and "1hz-depth1-seed0: data.batch_size was 8 and is now 4" in changed.stderr


def test_collect_writes_the_table_and_the_picture(tmp_path):
    plan = make_plan()
    folder.write_plan(tmp_path, plan)
    for seed, raw in enumerate((0.2, 0.4)):
        write_run(tmp_path, f"25hz-depth2-seed{seed}", plan, [(raw, 0.1)], (1.0, 2.0))
    done = run("sweep", "collect", tmp_path)
    assert done.exit_code == 0, done.output
    assert "0.3 (0.2 to 0.4)" in done.output and "1hz-depth10-seed2: missing" in done.output
    assert (tmp_path / "table.md").read_text() in done.output and (tmp_path / "plot.png").stat().st_size > 5000
    (row,) = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert row["raw"] == "0.3" and row["seconds_per_step n"] == "2"
    wrong = run("sweep", "collect", tmp_path, "--figure", "mel")
    assert wrong.exit_code == 2 and "no figure is called 'mel'" in wrong.stderr
    assert run("sweep", "collect", tmp_path / "nowhere").exit_code == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_points_are_trained_share_their_latents_and_are_not_trained_twice(upstream, tmp_path):
    from data_pipeline import ingest

    def spresso(*words, check=True):
        done = subprocess.run(
            [sys.executable, "-m", "spresso_jax.cli.main", "sweep", *map(str, words)], cwd=tmp_path,
            capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}, timeout=900,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done

    ingest.write_synthetic(tmp_path / "shards", 24, seed=0, val_fraction=0.35)
    words = ["encoder_depth:tiny", "--data", "shards", "--upstream", upstream, "--out", "depth", "--axis", "rate=25hz"]
    words += ["--axis", "seed=0"]
    first = spresso(*words)
    assert first.stdout.count("model written to") == 2 and first.stdout.count("latents of") == 2  # train and val, once
    out = tmp_path / "depth"
    assert len(list((out / "cache").iterdir())) == 1
    depths = [json.loads((out / f"25hz-depth{d}-seed0" / "config.json").read_text())["rate"]["encoder_depth"] for d in (1, 2)]
    assert depths == [1, 2]
    again = spresso(*words)
    assert "every point is done" in again.stdout and "model written to" not in again.stdout
    spresso("collect", "depth")
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    final = [e for e in read_metrics(out / "25hz-depth2-seed0" / "metrics.jsonl") if e["split"] == "val"][-1]
    assert rows[1]["depth"] == "2" and float(rows[1]["raw"]) == pytest.approx(final["raw"]) and final["step"] == 8
    # One more point through the array's own line, and one that cannot be trained.
    spresso(*words[:-1], "seed=1", "--axis", "depth=1", "--slurm", "array")
    spresso("prepare", "depth")
    task = {**os.environ, "SLURM_ARRAY_TASK_ID": "0", "JAX_PLATFORMS": "cpu"}
    subprocess.run(["bash", str(tmp_path / "array" / "sweep.sbatch")], env=task, check=True, timeout=900)
    assert (out / "25hz-depth1-seed1" / "model" / "model.json").is_file()
    failed = spresso(*words[:-1], "seed=2", "--axis", "depth=1", "--set", "data.batch_size=7", check=False)
    assert failed.returncode == 2 and "another --set" in failed.stderr
