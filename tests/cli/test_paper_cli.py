"""`spresso paper` as a user meets it: runs, sweeps and peers sorted out, evaluations read, mistakes in one sentence."""

import json
import shlex

import numpy as np
import paper_evaluations as made
import pytest
import soundfile
from sweeps.sweep_folder import FIELDS, make_plan, write_run
from tiny_model import build_tiny_model
from typer.testing import CliRunner

from spresso_jax.cli import paper_runs
from spresso_jax.cli.main import app
from spresso_jax.evaluate.peers.record import PeerRecord
from spresso_jax.sweeps import folder


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def model_facts(path, t=9, trained=25, networks=None, stages=("quantizer", "decoder_finetune")):
    """The facts of a model folder without its weights: enough for what happens before decoding."""
    everything = ("audio_ae", "latent_encoder", "projector", "dit", "quantizer")
    path.mkdir(parents=True)
    facts = {
        "format": 1,
        "fingerprints": {f"{name}.safetensors": "0" * 64 for name in networks or everything},
        "operating_point": {"downsample": t, "codebook_bits": 10, "codebooks": 8, "trained_codebooks": trained},
        "provenance": [{"stage": stage} for stage in stages],
    }
    (path / "model.json").write_text(json.dumps(facts))
    return path


@pytest.fixture
def evaluations(monkeypatch):
    """Stands in for `spresso evaluate`: remembers its command lines and writes scores for the codebooks asked for."""
    commands = []

    def evaluate(words, **_):
        commands.append(words)
        at = words.index("--out")
        entries = [
            (made.continuous(9), {"SI-SDR": -3.0, "KAD[aisfx]": 1.0}),
            (made.discrete(9, 12, 10), {"SI-SDR": -4.0}),
        ]
        made.write_evaluation(paper_runs.Path(words[at + 1]), entries, {"ours9": made.model(9, 10)})
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(paper_runs.subprocess, "run", evaluate)
    return commands


def test_a_table_from_evaluation_folders(tmp_path):
    made.write_evaluation(tmp_path / "ev", [(made.continuous(9), {"SI-SDR": -3.0})])
    done = run("paper", "table1", "--evaluation", tmp_path / "ev", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "−2.40" in done.output and "−0.6" in done.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"table1.{end}" for end in ("md", "tex", "json", "png")}


def test_runs_and_peers_are_evaluated_on_the_same_clips(tmp_path, evaluations):
    model_facts(tmp_path / "ft11" / "model")
    PeerRecord.new("dac-2", "dac", {}, 0, "cpu", False).finished({}).write(_made(tmp_path / "dac"))
    PeerRecord.new("m2l", "semanticodec", {}, 0, "cpu", False).unavailable("gated").write(_made(tmp_path / "sc"))
    done = run(
        "paper", "table2", tmp_path / "ft11", tmp_path / "dac", tmp_path / "sc", "--data", "bbc=sounds", "--data", "b",
        "--clips", 7, "--embedding", "aisfx", "--evaluate-options", "--workers 3", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    ours, peers = (" ".join(words[3:]) for words in evaluations)
    assert (
        f"evaluate {tmp_path}/ft11/model" in ours and "--data bbc=sounds --data b" in ours and "--codebooks 12" in ours
    )
    assert f"evaluate {tmp_path}/dac" in peers and "--reference bbc=sounds --reference b" in peers
    for line in (ours, peers):
        assert "--clips 7 --seed 0 --embedding aisfx --workers 3" in line
    assert "missing (sc: weights unavailable (gated))" in done.output


def test_the_points_of_an_unfinished_sweep_are_named(tmp_path, evaluations):
    axes = dict(rate=dict(values=("11hz", "5hz", "1hz")), depth=dict(key="rate.encoder_depth", values=(2,)))
    fields = dict(FIELDS, axes=axes, seeds=(0, 1))
    plan = make_plan(fields)
    folder.write_plan(tmp_path / "sweep", plan)
    model_facts(
        tmp_path / "sweep" / "11hz-depth2-seed0" / "model", networks=("audio_ae", "latent_encoder", "projector", "dit")
    )
    (write_run(tmp_path / "sweep", "5hz-depth2-seed0", plan, done=False) / "checkpoints" / "20").mkdir(parents=True)
    words = ("paper", "table1", tmp_path / "sweep", "--data", "d", "--out", tmp_path / "out")
    done = run(*words, "--where", "seed=0")
    assert done.exit_code == 0, done.output
    assert "missing (sweep/5hz-depth2-seed0: not finished, at step 20 of 40)" in done.output
    assert "missing (sweep/1hz-depth2-seed0: not started)" in done.output and "seed1" not in done.output
    assert len(evaluations) == 1
    done = run(*words, "--where", "width=3")
    assert done.exit_code == 2 and "the sweeps have the axes depth, rate, seed" in done.output


def test_two_models_of_one_row_are_refused_before_anything_is_decoded(tmp_path, evaluations):
    paths = [model_facts(tmp_path / name) for name in ("a", "b")]
    done = run("paper", "table1", *paths, "--data", "d", "--out", tmp_path / "out")
    assert done.exit_code == 2 and f"{paths[0]} and {paths[1]} are both at t = 9" in done.output
    before = model_facts(tmp_path / "before", stages=("quantizer",))
    given = paper_runs.gather([str(paths[0]), str(before)])
    paper_runs.refuse_duplicates(given.models, [[4], [4]], by_step_3=True)
    with pytest.raises(ValueError, match="with 4 codebooks"):
        paper_runs.refuse_duplicates(given.models, [[4], [4]], by_step_3=False)
    assert not evaluations


def test_codebooks_beyond_the_trained_ones_are_missing_rows(tmp_path, evaluations):
    long = model_facts(tmp_path / "ft1", t=100, trained=20)
    plain = model_facts(tmp_path / "dae", t=9, networks=("audio_ae", "latent_encoder", "projector", "dit"))
    done = run("paper", "table2", long, plain, "--data", "d", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    (words,) = evaluations
    assert words[words.index("--codebooks") + 1] == "8" and str(plain) not in words
    assert "ft1: has 20 trained codebooks, not 25" in done.output and "dae: has no quantizer" in done.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("table1 nowhere --data d", "no model folder 'nowhere'"),
        ("table1 RUN", "give --data (the test set)"),
        ("table1", "there is no evaluation to read"),
        ("table1 STARTED --data d", "nothing can be evaluated yet: started: not finished, at step 0"),
        ("table1 EVALUATION --data d", "give it with --evaluation"),
        ("table1 RUN --data d --where depth=2", "no sweep was given"),
        ("table1 --evaluation EVALUATION --column fad_vggish", "write COLUMN=EMBEDDING"),
        ("table1 --evaluation EVALUATION --set bbc", "no scores of a set 'bbc': choose one of union"),
        ("figure4 --evaluation EVALUATION", "no code was measured"),
        ("figure4 RUN --data d --codebooks four", "give whole numbers"),
        ("table1 SWEEP --data d", "holds no points with settings"),
        ("table1 ESCAPE --data d", "'../run' is no name of a point"),
        ("diversity AE --data d", "none of the models turns a sound into embeddings"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, words, told):
    places = {name: str(tmp_path / name.lower()) for name in ("RUN", "STARTED", "EVALUATION", "SWEEP", "ESCAPE", "AE")}
    model_facts(tmp_path / "run" / "model")
    model_facts(tmp_path / "ae" / "model", networks=("audio_ae",))
    (_made(tmp_path / "started") / "config.json").write_text("{}")
    (_made(tmp_path / "sweep") / "sweep.json").write_text("{}")
    (_made(tmp_path / "escape") / "sweep.json").write_text('{"points": {"../run": {"settings": {}}}}')
    made.write_evaluation(tmp_path / "evaluation", [(made.continuous(9), {"SI-SDR": -3.0})])
    done = run("paper", *[places.get(word, word) for word in shlex.split(words)], "--out", tmp_path / "out")
    assert done.exit_code == 2 and told in done.output and done.output.count("error:") == 1


@pytest.mark.slow
def test_diversity_of_a_model(tmp_path):
    model = build_tiny_model(tmp_path / "model", facts={"provenance": []})
    (tmp_path / "sounds").mkdir()
    for seed in range(2):
        sound = np.random.default_rng(seed).uniform(-0.3, 0.3, 24_000)
        soundfile.write(tmp_path / "sounds" / f"{seed}.wav", sound, 48_000)
    words = (
        "paper",
        "diversity",
        model,
        "--data",
        tmp_path / "sounds",
        "--draws",
        2,
        "--steps",
        2,
        "--out",
        tmp_path / "out",
    )
    done = run(*words, "--codebooks", "2")
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out" / "diversity.json").read_text())["rows"]
    assert [row["kind"] for row in rows] == ["continuous", "discrete"] and rows[1]["codebooks"] == 2
    # Two seeds of one code are two sounds.
    assert all(row["within"]["mean"] > 0.01 and row["draws"] == 2 for row in rows)


def _made(path):
    path.mkdir(parents=True)
    return path
