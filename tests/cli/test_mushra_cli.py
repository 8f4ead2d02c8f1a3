"""`spresso mushra` as a user meets it: export, check, score, and mistakes in one sentence."""

import csv
import json

import golden_files
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from spresso_jax.cli.main import app


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def folders(tmp_path):
    for name in ("ref", "ours"):
        (tmp_path / name).mkdir()
        for seed in range(2):
            sound = np.random.default_rng(seed).uniform(-0.1, 0.1, 48_000)
            soundfile.write(tmp_path / name / f"{seed}.wav", sound, 48_000)
    return tmp_path


def test_a_test_is_exported_checked_rated_and_scored(folders):
    done = run(
        "mushra", "export", "--reference", folders / "ref", "--system", f"ours={folders / 'ours'}", "--items", 1,
        "--title", "My Test", "--out", folders / "test",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "1 pages in random order and one to practise, 3 conditions of 5 s" in done.output
    assert "minutes a listener" in done.output and "my-test.yaml" in done.output
    checked = run("mushra", "check", folders / "test")
    assert checked.exit_code == 0 and checked.output.splitlines() == done.output.splitlines()[:2]
    plan = json.loads((folders / "test" / "plan.json").read_text())
    header = "session_test_id,session_uuid,trial_id,rating_stimulus,rating_score,rating_time,rating_comment".split(",")
    with (folders / "mushra.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for listener in range(3):
            for page in ("training", *plan["items"]):
                for condition, value in (("reference", 99), ("ours", 60 + listener), ("anchor35", 20)):
                    writer.writerow((plan["test_id"], f"u{listener}", page, condition, value, 8000, ""))
    scored = run("mushra", "score", folders / "mushra.csv", "--out", folders / "scores")
    assert scored.exit_code == 0, scored.output
    assert "- 9 training rows of 18" in scored.output and "3 of 3 listeners pass" in scored.output
    record = json.loads((folders / "scores" / "mushra.json").read_text())
    assert record["kept"]["conditions"]["ours"]["mean"] == 61.0 and record["systems"] == ["ours"]
    names = {path.name for path in (folders / "scores").iterdir()}
    assert names == {"mushra.json", "mushra.md", "conditions.csv", "boxes.png", "boxes.svg", "items.png", "items.svg"}


def test_mistakes_are_one_sentence_and_leave_nothing_behind(folders):
    bad = folders / "bad.csv"
    golden = golden_files.families("evaluation", "mushra", "results.csv")[0].read_text()
    bad.write_text(golden.replace(",reference,50,", ",reference,500,", 1))
    ours = f"ours={folders / 'ours'}"
    for words, message in (
        (("export", "--reference", folders / "ref", "--system", "ours", "--out", folders / "x"), "write NAME=FOLDER"),
        (
            ("export", "--reference", folders / "ref", "--system", ours, "--system", ours, "--out", folders / "x"),
            "twice",
        ),
        (("export", "--reference", folders / "no", "--system", ours, "--out", folders / "x"), "no such folder"),
        (("check", folders), "0 files configs/*.yaml"),
        (("score", folders / "none.csv", "--out", folders / "x"), "none.csv: no such file"),
        (("score", bad, "--out", folders / "x"), "bad.csv, line 4: rating_score '500' is not within 0 to 100"),
    ):
        result = run("mushra", *words)
        assert result.exit_code == 2, result.output
        assert message in result.stderr and result.stderr.count("\n") == 1
    assert not (folders / "x").exists()
