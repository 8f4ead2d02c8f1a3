"""`spresso encode`, `decode` and `info` on a tiny model: files, folders, messages and exit codes."""

import json
import zipfile

import numpy as np
import pytest
import soundfile
from codec_program import program, refused, write
from tiny_model import build_tiny_model

from spresso_jax.cli import codec as commands
from spresso_jax.codec.bitstream import EncodedAudio


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(build_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module", autouse=True)
def one_codec(model):
    """Loads and compiles the model once for all tests of this file."""
    from spresso_jax.codec.codec import Codec

    kept, load = {}, commands._load

    def load_once(name):
        if name == model:
            return kept.setdefault(name, Codec.load(name))
        return load(name)

    commands._load = load_once
    yield
    commands._load = load


def test_encode_and_decode_return_the_files_rate_channels_and_length(model, tmp_path):
    sound = write(tmp_path / "door.wav", 22_051, 44_100, 2)
    result = program("encode", sound, "--model", model)
    assert result.exit_code == 0, result.output
    assert "kbps" in result.stdout
    header = EncodedAudio.load(tmp_path / "door.spresso").header
    assert (header.samples, header.sample_rate, header.channels) == (22_051, 44_100, 2)
    out = tmp_path / "door.flac"
    result = program("decode", tmp_path / "door.spresso", "-o", out, "--model", model, "--steps", 3)
    assert result.exit_code == 0, result.output
    facts = soundfile.info(out)
    assert (facts.frames, facts.samplerate, facts.channels, facts.format) == (22_051, 44_100, 2, "FLAC")


def test_a_rate_that_is_not_common_becomes_48_khz(model, tmp_path):
    sound = write(tmp_path / "a.wav", 5_000, 10_000)
    assert program("encode", sound, "--model", model).exit_code == 0
    header = EncodedAudio.load(tmp_path / "a.spresso").header
    assert (header.samples, header.sample_rate) == (24_000, 48_000)


def test_seed_variations_codebooks_and_mid_side_reach_the_codec(model, tmp_path):
    sound = write(tmp_path / "a.wav", channels=2)
    assert program("encode", sound, "--model", model, "--codebooks", 2, "--mid-side").exit_code == 0
    header = EncodedAudio.load(tmp_path / "a.spresso").header
    assert header.codebooks == 2 and header.mid_side
    common = ("decode", tmp_path / "a.spresso", "--model", model, "--steps", 3)
    result = program(*common, "-o", tmp_path / "b.wav", "--variations", 2, "--seed", 7)
    assert result.exit_code == 0 and "seed 7" in result.stdout
    first, second = (soundfile.read(tmp_path / f"b-{index}.wav")[0] for index in (1, 2))
    assert np.abs(first - second).max() > 1e-3
    program(*common, "-o", tmp_path / "c.wav", "--seed", 7)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "c.wav")[0], first)
    program(*common, "-o", tmp_path / "d.wav", "--seed", 7, "--caption", "rain")
    assert np.abs(soundfile.read(tmp_path / "d.wav")[0] - first).max() > 1e-4


def test_continuous_embeddings_go_to_npz_and_back(model, tmp_path):
    sound = write(tmp_path / "a.wav")
    assert program("encode", sound, "--continuous", "--model", model).exit_code == 0
    result = program("decode", tmp_path / "a.npz", "-o", tmp_path / "b.wav", "--model", model, "--steps", 3)
    assert result.exit_code == 0, result.output
    assert soundfile.info(tmp_path / "b.wav").frames == 22_050
    refused(program("encode", sound, "--continuous", "--codebooks", 1, "--model", model), "--codebooks")


def test_a_folder_keeps_its_tree_and_a_bad_file_does_not_stop_the_others(model, tmp_path):
    write(tmp_path / "in" / "a.wav")
    write(tmp_path / "in" / "deep" / "er" / "b.flac", seed=1)
    (tmp_path / "in" / "page.mp3").write_text("<html>")
    (tmp_path / "in" / "notes.txt").write_text("not a sound")
    result = program("encode", tmp_path / "in", "-o", tmp_path / "out", "--model", model)
    assert result.exit_code == 2 and "page.mp3" in result.stderr and "1 of 3 files failed" in result.stderr
    made = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert made == ["a.spresso", "deep/er/b.spresso"]
    result = program("decode", tmp_path / "out", "-o", tmp_path / "back", "--model", model, "--steps", 3)
    assert result.exit_code == 0, result.output
    assert soundfile.info(tmp_path / "back" / "deep" / "er" / "b.wav").frames == 22_050


def test_nothing_is_overwritten_without_force(model, tmp_path):
    sound = write(tmp_path / "a.wav")
    (tmp_path / "a.spresso").write_bytes(b"precious")
    refused(program("encode", sound, "--model", model), "--force")
    assert (tmp_path / "a.spresso").read_bytes() == b"precious"
    assert program("encode", sound, "--model", model, "--force").exit_code == 0
    refused(program("decode", tmp_path / "a.spresso", "--model", model), "--force")
    refused(program("encode", sound, "-o", sound, "--model", model, "--force"), "itself")


def test_two_sounds_of_one_name_are_refused_before_any_work(model, tmp_path):
    write(tmp_path / "a.wav")
    write(tmp_path / "a.flac")
    refused(program("encode", tmp_path, "--model", model), "both be written")


def test_bad_input_is_one_sentence_and_exit_code_2(model, tmp_path):
    sound = write(tmp_path / "a.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "page.wav").write_text("<html></html>")
    (tmp_path / "none").mkdir()
    with_nan = tmp_path / "nan.wav"
    soundfile.write(with_nan, np.array([0.1, np.nan, 0.2]), 48_000, subtype="FLOAT")
    many = write(tmp_path / "many.wav", channels=9)
    for path, message in (
        (tmp_path / "absent.wav", "no such file"), (tmp_path / "empty.wav", "empty"), (with_nan, "NaN"),
        (tmp_path / "page.wav", "web page"), (tmp_path / "none", "holds no file"), (many, "1 to 8 channels"),
    ):  # fmt: skip
        refused(program("encode", path, "--model", model), message)
    refused(program("encode", sound, "--model", "no-such-model"), "no model folder")
    refused(program("encode", sound, "--model", tmp_path / "none"), "model.json is missing")
    refused(program("encode", sound, "--model", model, "--codebooks", 9), "codebooks must be within 1..3")
    assert not list(tmp_path.glob("*.spresso"))


def test_bad_codes_are_one_sentence_and_exit_code_2(model, tmp_path):
    sound = write(tmp_path / "a.wav")
    program("encode", sound, "--model", model)
    good = (tmp_path / "a.spresso").read_bytes()
    cases = {"short": good[:-1], "flipped": good[:-1] + bytes([good[-1] ^ 64]), "empty": b"", "foreign": b"RIFF" * 20}
    for name, data in cases.items():
        (tmp_path / f"{name}.spresso").write_bytes(data)
        refused(program("decode", tmp_path / f"{name}.spresso", "--model", model), "spresso file")
        refused(program("info", tmp_path / f"{name}.spresso"), "spresso file")
        assert not (tmp_path / f"{name}.wav").exists()
    for suffix in (".xyz", ""):
        out = tmp_path / f"out{suffix}"
        refused(program("decode", tmp_path / "a.spresso", "-o", out, "--model", model, "--steps", 3), "suffix")
    wrong = ("-o", tmp_path / "o.wav", "--model", model, "--sampler", "x")
    refused(program("decode", tmp_path / "a.spresso", *wrong), "sampler must be one of")


def test_forged_embedding_files_are_refused(model, tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", z=np.zeros((1, 10_000, 64), np.float32))
    np.savez(tmp_path / "pickled.npz", z=np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("z.npy", b"nonsense")
    for name, message in (
        ("bomb", "compressed"), ("pickled", "lacks"), ("other", "lacks"), ("text", "not a readable"), ("odd", "lacks"),
    ):  # fmt: skip
        refused(program("decode", tmp_path / f"{name}.npz", "--model", model), message)


def test_info_of_a_file_tells_shape_bits_and_bitrates(model, tmp_path):
    sound = write(tmp_path / "a.wav", 240_000, 48_000)
    program("encode", sound, "--model", model)
    facts = json.loads(program("info", tmp_path / "a.spresso", "--json").stdout)
    assert facts["samples"] == 240_000 and facts["codes"] == "1 channels x 56 frames x 3 codebooks"
    assert facts["nominal bitrate"] == "0.132 kbps" and facts["payload"] == f"{56 * 12} bits"
    table = program("info", tmp_path / "a.spresso").stdout
    assert "5.000 s" in table and "kbps" in table


def test_info_of_a_model_tells_operating_point_parameters_and_licence(model):
    facts = json.loads(program("info", model, "--json").stdout)
    assert facts["frame rate"] == "11 Hz (t = 9)" and facts["licence"] == "CC0" and len(facts["parameters"]) == 6
    assert facts["nominal bitrate"].endswith("0.132 kbps a channel") and facts["captions"] == "yes"
    assert "tiny" in program("info", model).stdout


def test_info_of_a_run_tells_stage_and_progress(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "20").mkdir(parents=True)
    (run / "config.json").write_text('{"stage": "quantizer", "seed": 3}')
    (run / "metrics.jsonl").write_text('{"step": 10, "loss": 2.5}\n{"step": 20, "loss": 1.5}\n{"step": 3')
    facts = json.loads(program("info", run, "--json").stdout)
    assert facts["stage"] == "quantizer" and facts["checkpoints"] == "20" and "step: 20" in facts["last metrics"]
    refused(program("info", tmp_path), "neither a model")
    refused(program("info", tmp_path / "absent"), "no model folder")


def test_info_loads_neither_jax_nor_weights(model):
    import subprocess
    import sys

    script = (
        "import sys, typer; from spresso_jax.cli import codec; app = typer.Typer(); codec.register(app);"
        f"sys.argv = ['spresso', 'info', {model!r}];"
        "import atexit; atexit.register(lambda: print('jax' in sys.modules)); app()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip().endswith("False"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("samples", "reason"),
    [(np.zeros(4_800), "silent"), (np.full(4_800, 2e-5), "silent"), (np.ones(1) * 0.5, "too short")],
    ids=["zeros", "noise floor", "one sample"],
)
def test_silent_and_too_short_files_are_refused_in_one_sentence(model, tmp_path, samples, reason):
    soundfile.write(tmp_path / "bad.wav", samples, 48_000, subtype="PCM_24")
    result = program("encode", tmp_path / "bad.wav", "--model", model)
    assert result.exit_code == 2 and reason in result.stderr and result.stderr.strip().count("\n") == 0
    assert not (tmp_path / "bad.spresso").exists()
