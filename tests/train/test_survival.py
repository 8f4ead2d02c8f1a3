"""kill -9 in the middle of a run, SIGTERM, and a disk that refuses: the last checkpoint stays usable and the numbers repeat."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from train.test_loop import go, losses

from spresso_jax.checkpoints.store import CheckpointStore

SCRIPT = Path(__file__).parent / "toy_run.py"


def child(folder, steps, *words):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), str(steps), *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip


def wait_for_checkpoint(folder, process, step, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        names = [p.name for p in (folder / "checkpoints").glob("*")] if (folder / "checkpoints").exists() else []
        if any(name.isdigit() and int(name) >= step for name in names):
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"no checkpoint {step} came; output:\n{process.communicate()[0][-2000:]}")


def usable_steps(folder):
    store = CheckpointStore(folder / "checkpoints")
    try:
        return store.steps()
    finally:
        store.close()


def test_after_kill_9_the_run_goes_on_to_the_losses_of_an_uninterrupted_one(tmp_path):
    process = child(tmp_path / "killed", 500, "pause")
    wait_for_checkpoint(tmp_path / "killed", process, 4)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    last = usable_steps(tmp_path / "killed")[-1]
    go(tmp_path / "killed", last + 5, resume=True, validate_every=0, preview_every=0, save_every=2)
    go(tmp_path / "whole", last + 5, validate_every=0, preview_every=0, save_every=0)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_sigterm_saves_and_ends_cleanly(tmp_path):
    process = child(tmp_path, 500, "pause")
    wait_for_checkpoint(tmp_path, process, 2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "Resume with" in output
    assert usable_steps(tmp_path)[-1] == max(losses(tmp_path))


def test_a_full_disk_ends_the_run_with_a_message_and_keeps_the_checkpoint_before(tmp_path):
    go(tmp_path, 4, validate_every=0, preview_every=0, save_every=2)
    output, _ = (process := child(tmp_path, 8, "resume", "limit")).communicate(timeout=120)
    assert process.returncode != 0
    assert "could not be written" in output or "File too large" in output
    assert 4 in usable_steps(tmp_path)
    assert go(tmp_path, 6, resume=True)[0].finished
