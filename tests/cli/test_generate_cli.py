"""`spresso generate` and captions of `spresso decode`, as a user calls them."""

import numpy as np
import pytest
import soundfile
from codec_program import program as codec_program
from codec_program import refused, write
from tiny_model import build_tiny_model
from typer.testing import CliRunner

from spresso_jax.cli.generate import slug
from spresso_jax.cli.main import app

QUICK = ("--steps", 3, "--sampler", "euler")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module", autouse=True)
def one_generator():
    """Loads and compiles each model once for all tests of this file."""
    from spresso_jax.codec.generator import Generator

    kept, load = {}, Generator.load

    def load_once(folder, weaker=None):
        if (folder, weaker) not in kept:
            kept[folder, weaker] = load(folder, weaker)
        return kept[folder, weaker]

    Generator.load = staticmethod(load_once)
    yield
    Generator.load = load


def program(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_sounds_are_written_under_the_captions_name(model, tmp_path):
    result = program(
        "generate", "Rain, on a ROOF!", "--seconds", 0.3, "--count", 2, "--model", model, "-o", tmp_path / "made", *QUICK
    )
    assert result.exit_code == 0, result.output
    files = sorted((tmp_path / "made").iterdir())
    assert [file.name for file in files] == ["rain-on-a-roof-1.wav", "rain-on-a-roof-2.wav"]
    first, second = (soundfile.read(file)[0] for file in files)
    assert soundfile.info(files[0]).samplerate == 48_000 and first.shape == (14_400,)
    assert np.abs(first - second).max() > 1e-3 and all(str(file) in result.stdout for file in files)
    one = tmp_path / "one.flac"
    result = program("generate", "Rain, on a ROOF!", "--seconds", 0.3, "--model", model, "-o", one, *QUICK)
    assert result.exit_code == 0, result.output
    # The formats round to 16 bits in different directions.
    np.testing.assert_allclose(soundfile.read(one)[0], first, atol=4e-5)


def test_nothing_is_overwritten_without_force(model, tmp_path):
    out = tmp_path / "a.wav"
    out.write_bytes(b"precious")
    command = ("generate", "rain", "--seconds", 0.1, "--model", model, "-o", out, *QUICK)
    refused(program(*command), "--force")
    assert out.read_bytes() == b"precious"
    assert program(*command, "--force").exit_code == 0
    assert soundfile.info(out).frames == 4_800


def test_guidance_and_a_weaker_model_change_the_sound(model, tmp_path):
    def made(name, *options):
        out = tmp_path / f"{name}.wav"
        result = program("generate", "rain", "--seconds", 0.1, "--model", model, "-o", out, *QUICK, *options)
        assert result.exit_code == 0, result.output
        return soundfile.read(out)[0]

    plain = made("plain")
    assert np.abs(made("guided", "--guidance", 3) - plain).max() > 1e-3
    assert np.abs(made("nowhere", "--guidance", 3, "--guidance-interval", "1e5,1e6") - plain).max() < 1e-3
    # A model is its own reference: guidance then changes nothing.
    assert np.abs(made("itself", "--guidance", 2, "--weaker", model) - plain).max() < 1e-3


def test_mistakes_are_one_sentence_before_anything_is_written(model, tmp_path):
    other = build_tiny_model(tmp_path / "other", seed=1)
    out = tmp_path / "out"
    common = ("--model", model, "-o", out)
    for words, message in (
        (("",), "the caption is empty"),
        (("  ",), "--unconditional"),
        ((), "the caption is empty"),
        (("rain", "--unconditional"), "takes no caption"),
        (("glass " * 500,), "tokens and tiny reads 16 at most"),
        (("rain", "--weaker", other, "--guidance", 2), "another AudioAE"),
        (("rain", "--weaker", model), "changes nothing at guidance 1"),
        (("--unconditional", "--guidance", 2), "guidance needs a reference"),
        (("rain", "--guidance", 2, "--guidance-interval", "1"), "two noise levels"),
        (("rain", "--guidance", 2, "--guidance-interval", "5,1"), "low < high"),
        (("rain", "--seconds", 0), "seconds must be within"),
        (("rain", "--sampler", "magic"), "sampler must be one of"),
        (("rain", "--model", tmp_path), "model.json is missing"),
    ):
        refused(program("generate", *words, *common) if "--model" not in words else program("generate", *words), message)
    refused(program("generate", "rain", "--model", model, "-o", tmp_path / "a.xyz"), "suffix")
    assert not out.exists()


def test_unconditional_sounds_need_no_caption(model, tmp_path):
    result = program("generate", "--unconditional", "--seconds", 0.1, "--model", model, "-o", tmp_path / "x", *QUICK)
    assert result.exit_code == 0, result.output
    assert soundfile.info(tmp_path / "x" / "sound.wav").frames == 4_800


def test_names_are_safe_and_keep_letters():
    assert slug("Glass, breaking on STONE!") == "glass-breaking-on-stone"
    assert slug("../../etc/passwd") == "etc-passwd" and slug("Tür knarrt") == "tür-knarrt" and slug("?!") == "sound"
    assert len(slug("ü" * 200).encode()) <= 60


def test_decoding_with_a_caption_follows_the_same_rules(model, tmp_path):
    sound = write(tmp_path / "a.wav")
    assert codec_program("encode", sound, "--model", model).exit_code == 0
    decode = ("decode", tmp_path / "a.spresso", "-o", tmp_path / "b.wav", "--model", model, "--steps", 3)
    for words, message in (
        (("--caption", ""), "the caption is empty"),
        (("--caption", "glass " * 500), "tokens and tiny reads 16 at most"),
        (("--guidance", 2), "leads towards a caption"),
    ):
        refused(codec_program(*decode, *words), message)
    assert not (tmp_path / "b.wav").exists()
    assert codec_program(*decode, "--caption", "rain", "--guidance", 2).exit_code == 0
