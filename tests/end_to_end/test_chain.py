"""The whole chain on the real command line, and every stage resumed after Ctrl-C and after kill -9. Slow: minutes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from spresso_jax.cli.demo import CHAIN
from spresso_jax.observe.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def spresso(*words, cwd, check=True):
    done = subprocess.run(
        [sys.executable, "-m", "spresso_jax.cli.main", *map(str, words)], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "CI": "true"}, timeout=1200,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    spresso("demo", "--out", folder / "demo", "--no-open", "--steps", "4", "--sounds", "4", cwd=folder)
    return folder / "demo"


def test_the_demo_leaves_models_a_file_and_a_page(demo):
    assert (demo / "report" / "index.html").stat().st_size > 50_000
    assert (demo / "clip.spresso").stat().st_size < 200
    for _, _, run in CHAIN:
        assert (demo / "runs" / run / "model" / "model.json").is_file()
        assert json.loads((demo / "runs" / run / "config.json").read_text())["loop"]["steps"] > 0


def test_an_exported_copy_decodes_an_earlier_file_to_the_same_samples(demo, tmp_path):
    model = demo / "runs" / CHAIN[-1][2] / "model"
    shutil.copytree(model, tmp_path / "elsewhere")
    for name, folder in (("a", model), ("b", tmp_path / "elsewhere")):
        spresso(
            "decode",
            demo / "clip.spresso",
            "-o",
            tmp_path / f"{name}.wav",
            "--model",
            folder,
            "--steps",
            "4",
            cwd=tmp_path,
        )
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize("number", range(len(CHAIN)), ids=[stage for stage, _, _ in CHAIN])
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_a_stage_resumes_to_the_losses_of_an_uninterrupted_run(demo, tmp_path, number, kill):
    stage, preset, run = CHAIN[number]
    words = ["train", stage, "--config", preset, "--data", demo / "shards", "--set", "loop.save_every=4"]
    words += ["--set", "loop.steps=16", "--set", "loop.log_every=1", "--set", "loop.validate_every=0"]
    words += ["--set", "loop.preview_every=0"]
    if number:
        words += ["--upstream", demo / "runs" / CHAIN[number - 1][2] / "model"]
    spresso(*words, "--run", tmp_path / "whole", cwd=tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "spresso_jax.cli.main", *map(str, words), "--run", str(tmp_path / "cut")], cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cpu"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        if any(p.name.isdigit() for p in (tmp_path / "cut" / "checkpoints").glob("*")):
            process.send_signal(kill)
            break
        time.sleep(0.01)
    process.wait(300)
    spresso(*words, "--run", tmp_path / "cut", "--resume", cwd=tmp_path)

    def losses(name):
        events = read_metrics(tmp_path / name / "metrics.jsonl")
        return {
            e["step"]: [v for k, v in sorted(e.items()) if k.endswith("loss")] for e in events if e["split"] == "train"
        }

    assert losses("cut") == losses("whole")
