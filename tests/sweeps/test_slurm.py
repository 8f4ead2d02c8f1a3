"""The files of a SLURM array, run by bash without SLURM."""

import os
import stat
import subprocess
import sys

import pytest

from spresso_jax.sweeps import slurm
from spresso_jax.sweeps.folder import model_file
from spresso_jax.sweeps.grid import SweepError

WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
# Every word of a command may hold what a shell would run, expand or split.
NASTY = "$(touch hacked) `touch hacked`; touch hacked & 'x' \"y\" %d | *"


def bash(script, cwd, task=None):
    env = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    env |= {"SLURM_ARRAY_TASK_ID": str(task)} if task is not None else {}
    return subprocess.run(["bash", str(script)], cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


def lines_of(tmp_path, values):
    runs = [tmp_path / "a sweep's $HOME" / f"point{i}" for i in range(len(values))]
    commands = [[sys.executable, "-c", WRITE, str(tmp_path / f"out{i}"), value] for i, value in enumerate(values)]
    return runs, [slurm.point_line(run, command) for run, command in zip(runs, commands, strict=True)]


def test_each_task_runs_its_own_line_and_a_finished_point_is_passed_over(tmp_path):
    runs, lines = lines_of(tmp_path, ["plain", NASTY, "third"])
    target = tmp_path / "array's $folder"
    points, script, submit = slurm.write_array(target, "depth:tiny", lines, "--partition=gpu --time=1:00:00", 2)
    assert bash(script, tmp_path, task=1).returncode == 0
    assert (tmp_path / "out1").read_text() == NASTY
    assert not (tmp_path / "out0").exists() and not list(tmp_path.rglob("hacked"))
    model_file(runs[2]).parent.mkdir(parents=True)
    model_file(runs[2]).touch()
    assert bash(script, tmp_path, task=2).returncode == 0 and not (tmp_path / "out2").exists()
    assert "no point has the number 3" in bash(script, tmp_path, task=3).stderr
    assert "submit this script with sbatch" in bash(script, tmp_path).stderr
    assert submit.stat().st_mode & stat.S_IXUSR and points.read_text().count("\n") == 3


def test_the_script_holds_the_array_and_the_options(tmp_path):
    _, lines = lines_of(tmp_path, ["a", "b", "c"])
    options = "--partition=gpu --gpus=1 --comment='two words'"
    text = slurm.write_array(tmp_path / "x", "encoder_depth:small", lines, options, 2)[1].read_text()
    header = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert "--array=0-2%2" in header and "--job-name=encoder_depth-small" in header and "--gpus=1" in header
    assert "'--comment=two words'" in header and "--signal=TERM@120" in header


@pytest.mark.parametrize(
    "options",
    ["--array=0-9", "--output=x", "-p gpu", "gpu", "--comment='a\nrm -rf x'", "--comment='unclosed", "--wrap=ls"],
)
def test_options_that_are_none_or_the_arrays_own_are_refused(options, tmp_path):
    with pytest.raises(SweepError, match="--slurm-options"):
        slurm.write_array(tmp_path / "x", "s", ["true"], options)
    assert not (tmp_path / "x").exists()


def test_a_later_submission_leaves_the_points_of_a_waiting_one_alone(tmp_path):
    first = slurm.write_array(tmp_path, "s", ["true", "false"])[0]
    second = slurm.write_array(tmp_path, "s", ["false"])[0]
    assert first != second and first.read_text() == "true\nfalse\n"
    with pytest.raises(SweepError, match="nothing to submit"):
        slurm.write_array(tmp_path, "s", [])
    with pytest.raises(SweepError, match="line break"):
        slurm.write_array(tmp_path, "s", ["echo 'a\nb'"])


def test_the_array_waits_for_the_job_that_makes_the_caches(tmp_path):
    made = [sys.executable, "-c", WRITE, str(tmp_path / "caches"), "ready"]
    *_, script, submit = slurm.write_array(tmp_path / "x", "s", ["true"], first=made)
    assert bash(script, tmp_path).returncode == 0 and (tmp_path / "caches").read_text() == "ready"
    tools, log = tmp_path / "bin", tmp_path / "log"
    tools.mkdir()
    (tools / "sbatch").write_text(f'#!/bin/bash\necho "$@" >> "{log}"\necho "41;cluster"\n')
    (tools / "sbatch").chmod(0o755)
    env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([str(submit)], env=env, check=True, capture_output=True, timeout=60)
    first, second = log.read_text().splitlines()
    assert first == f"--parsable {script}"
    assert second.startswith("--dependency=afterok:41 ") and second.endswith("sweep.sbatch")
