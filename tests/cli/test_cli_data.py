"""`data prepare`, `data check`, `data synth` as a user sees them."""

import json
import types

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from spresso_jax.cli.data import data_app


def run(*arguments):
    return CliRunner().invoke(data_app, [str(argument) for argument in arguments])


@pytest.fixture
def sounds(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(8):
        audio = 0.3 * np.sin(np.arange(9_600) * (0.02 + 0.01 * number))
        soundfile.write(tmp_path / "in" / f"hum_{number}.wav", audio, 48_000)
    (tmp_path / "in" / "broken.wav").write_text("no sound")
    return tmp_path / "in"


def test_prepare_and_check_report_what_there_is(sounds, tmp_path):
    result = run("prepare", sounds, "--out", tmp_path / "out", "--val-fraction", 0.3)
    assert result.exit_code == 0, result.output
    assert "8 of 9 files" in result.output and "1 unrecognised" in result.output and "broken.wav" in result.output
    result = run("check", tmp_path / "out", "--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == 0 and facts["read"] == 8
    assert run("check", tmp_path / "out").exit_code == 0


def test_mistakes_are_one_sentence_on_standard_error_and_code_2(sounds, tmp_path):
    for arguments in (
        ("prepare", tmp_path / "absent", "--out", tmp_path / "out"),
        ("prepare", sounds, "--out", tmp_path / "out", "--captions", tmp_path / "absent.csv"),
        ("prepare", sounds, "--out", tmp_path / "out", "--licence", "CC0"),
        ("prepare", sounds, "--out", tmp_path / "out", "--val-fraction", "2"),
        ("prepare", sounds, "--out", tmp_path / "out", "--codec", "mp3"),
        ("check", tmp_path / "absent"),
    ):
        result = run(*arguments)
        lines = result.stderr.strip().splitlines()
        assert result.exit_code == 2 and lines[-1].startswith("error: "), (arguments, result.output)
        assert "Traceback" not in result.output


def test_synth_writes_shards_or_files(tmp_path, monkeypatch):
    def synthesise(index, seed):
        return types.SimpleNamespace(audio=0.3 * np.sin(np.arange(9_600) * 0.1 * (index + 1)), caption="a", family="b")

    module = types.ModuleType("data_pipeline.synth")
    module.synthesise = synthesise
    monkeypatch.setitem(__import__("sys").modules, "data_pipeline.synth", module)
    assert run("synth", "--out", tmp_path / "shards", "--clips", 5).exit_code == 0
    assert json.loads(run("check", tmp_path / "shards", "--json").stdout)["read"] == 5
    assert run("synth", "--out", tmp_path / "files", "--clips", 3, "--files").exit_code == 0
    assert len(list((tmp_path / "files").rglob("*.flac"))) == 3
