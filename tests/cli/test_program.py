"""The program as a user meets it: help that starts fast, errors before anything starts, one sentence and exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import build_tiny_model
from typer.testing import CliRunner

from spresso_jax.cli.main import app

runner = CliRunner()
HEAVY = ("jax", "flax", "optax", "orbax", "grain", "librosa", "matplotlib", "tokenizers", "scipy")


def run(*words):
    return runner.invoke(app, [str(word) for word in words])


def test_help_and_import_load_nothing_heavy():
    program = (
        f"import sys, spresso_jax, spresso_jax.cli.main\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_help_lists_every_command():
    shown = run("--help").output
    for command in (
        "train", "encode", "decode", "generate", "info", "ema", "evaluate", "report", "export", "demo", "data", "import",
    ):  # fmt: skip
        assert command in shown
    assert run("--version").output.startswith("spresso_jax 0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "audio", "--run", "r", "--data", "d"), "unknown stage 'audio'"),
        (("train", "audio_ae", "--run", "r", "--data", "d", "--set", "lop.steps=3"), "did you mean 'loop.steps'"),
        (("train", "audio_ae", "--run", "r", "--data", "no-such-folder", "--dry-run"), "no such folder"),
        (("train", "audio_ae", "--config", "audio_a", "--run", "r", "--data", "d"), "did you mean 'audio_ae'"),
        (("train", "clap", "--config", "audio_ae:tiny", "--run", "r", "--data", "."), "config is for stage audio_ae"),
    ],
)
def test_a_mistake_fails_before_anything_starts(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_a_stage_without_its_upstream_model_says_what_it_needs(tmp_path):
    result = run("train", "text_to_audio", "--run", tmp_path / "r", "--data", tmp_path, "--dry-run")
    assert result.exit_code == 2 and "--upstream MODEL with audio_ae, clap" in result.stderr


def test_dry_run_shows_the_config(tmp_path):
    result = run(
        "train", "audio_ae", "--config", "audio_ae:tiny", "--run", tmp_path / "r", "--data", tmp_path, "--dry-run"
    )
    assert result.exit_code == 0 and "model.latent_channels = 128" in result.output
    assert not (tmp_path / "r").exists()


def test_export_writes_a_folder_with_a_card_and_refuses_to_overwrite(tmp_path):
    model = build_tiny_model(tmp_path / "model")
    done = run("export", model, "--out", tmp_path / "exported", "--licence", "CC0")
    assert done.exit_code == 0, done.output
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "| quantizer | Qinco |" in card and "CC0" in card
    again = run("export", model, "--out", tmp_path / "exported")
    assert again.exit_code == 2 and "exported" in again.stderr


def test_experiments_lie_beside_the_package():
    from spresso_jax.configuration import experiments_folder

    assert (Path(experiments_folder()) / "rates.py").is_file()
