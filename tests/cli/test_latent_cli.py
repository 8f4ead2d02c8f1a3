"""`spresso encode --continuous`, `decode` and `info` with a model folder that holds an AudioAE alone; folders of sounds."""

import json
import re

import numpy as np
import pytest
import soundfile
from codec_program import program, refused, write
from tiny_model import build_tiny_model

from spresso_jax.checkpoints.weights import load_model, save_model
from spresso_jax.cli import codec as commands
from spresso_jax.codec.embedding_file import EmbeddedAudio, EmbeddingFileError
from spresso_jax.codec.latent_codec import LatentCodec


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    whole = build_tiny_model(folder / "whole")
    model = load_model(whole)
    facts = {"name": "ae", "latent_statistics": model.facts["latent_statistics"]}
    alone = save_model(folder / "ae", {"audio_ae": model.networks["audio_ae"]}, facts)
    partly = {name: model.networks[name] for name in ("audio_ae", "clap", "dit")}
    return {"whole": whole, "ae": alone, "partly": save_model(folder / "partly", partly, facts)}


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Compiles each model once for all tests of this file."""
    kept = {}
    loaders = {name: getattr(commands, name) for name in ("_load", "_load_latent_codec")}
    for name, load in loaders.items():
        setattr(commands, name, lambda model, name=name, load=load: kept.setdefault((name, model), load(model)))
    yield
    for name, load in loaders.items():
        setattr(commands, name, load)


@pytest.mark.parametrize("name", ["ae", "partly"])
def test_latents_go_to_npz_and_back(models, tmp_path, name):
    sound = write(tmp_path / "a.wav", channels=2)
    result = program("encode", sound, "--continuous", "--mid-side", "--model", models[name])
    assert result.exit_code == 0 and "latents (2, 51, 128)" in result.stdout, result.output
    stored = EmbeddedAudio.load(tmp_path / "a.npz")
    assert (stored.kind, stored.samples, stored.sample_rate, stored.mid_side) == ("latent", 22_050, 44_100, True)
    result = program("decode", tmp_path / "a.npz", "-o", tmp_path / "b.wav", "--model", models[name])
    assert result.exit_code == 0 and "seed" not in result.stdout, result.output
    facts = soundfile.info(tmp_path / "b.wav")
    assert (facts.frames, facts.samplerate, facts.channels) == (22_050, 44_100, 2)


def test_latents_decode_alike_with_every_model_that_has_the_audio_ae(models, tmp_path):
    sound = write(tmp_path / "a.wav")
    program("encode", sound, "--continuous", "--model", models["ae"])
    decoded = {}
    for name, model in models.items():
        result = program("decode", tmp_path / "a.npz", "-o", tmp_path / f"{name}.wav", "--model", model)
        assert result.exit_code == 0, result.output
        decoded[name] = soundfile.read(tmp_path / f"{name}.wav")[0]
    np.testing.assert_array_equal(decoded["ae"], decoded["whole"])
    np.testing.assert_array_equal(decoded["ae"], decoded["partly"])
    audio = LatentCodec.load(models["ae"]).decode(EmbeddedAudio.load(tmp_path / "a.npz").z, 22_050, 44_100)
    np.testing.assert_allclose(decoded["ae"], np.clip(audio[:, 0], -1, 1), atol=1e-4)


def test_a_model_without_codes_says_what_it_lacks_and_what_works(models, tmp_path):
    sound = write(tmp_path / "a.wav")
    refused(program("encode", sound, "--model", models["ae"]), "holds no latent_encoder, projector, dit, quantizer")
    refused(program("encode", sound, "--model", models["partly"]), "with --continuous it writes the latents")
    assert not list(tmp_path.glob("*.spresso"))
    program("encode", sound, "--model", models["whole"])
    out = ("-o", tmp_path / "b.wav")
    refused(program("decode", tmp_path / "a.spresso", "--model", models["ae"], *out), "holds no latent_encoder")
    program("encode", sound, "--continuous", "--model", models["whole"])
    assert EmbeddedAudio.load(tmp_path / "a.npz").kind == "embedding"
    refused(program("decode", tmp_path / "a.npz", "--model", models["partly"], *out), "holds no latent_encoder")


def test_latents_of_another_audio_ae_and_settings_of_the_decoder_are_refused(models, tmp_path):
    sound = write(tmp_path / "a.wav")
    program("encode", sound, "--continuous", "--model", models["ae"])
    common = ("decode", tmp_path / "a.npz", "-o", tmp_path / "b.wav", "--model", models["ae"])
    refused(program(*common, "--variations", 2), "one sound")
    refused(program(*common, "--caption", "rain"), "one sound")
    refused(program(*common, "--codebooks", 1), "--codebooks")
    other = build_tiny_model(tmp_path / "other", seed=1)
    refused(program(*common[:-1], other), "encoded with the model")


def test_files_without_a_kind_hold_embeddings_and_unknown_kinds_are_refused(tmp_path):
    fields = dict(z=np.zeros((1, 3, 64), np.float32), samples=10_000, sample_rate=48_000, mid_side=False)
    identity = np.frombuffer(b"abc", np.uint8)
    np.savez(tmp_path / "old.npz", **fields, model_id=identity)
    assert EmbeddedAudio.load(tmp_path / "old.npz").kind == "embedding"
    np.savez(tmp_path / "new.npz", **fields, model_id=identity, kind="picture")
    with pytest.raises(EmbeddingFileError, match="'picture'"):
        EmbeddedAudio.load(tmp_path / "new.npz")


def test_info_tells_the_kind_of_a_file_and_what_a_model_lacks(models, tmp_path):
    sound = write(tmp_path / "a.wav", 48_000, 48_000)
    program("encode", sound, "--continuous", "--model", models["ae"])
    facts = json.loads(program("info", tmp_path / "a.npz", "--json").stdout)
    assert facts["kind"] == "latent" and facts["values"] == "1 channels x 101 frames x 128"
    assert facts["duration"] == "1.000 s"
    (tmp_path / "text.npz").write_text("hello")
    refused(program("info", tmp_path / "text.npz"), "not a readable")
    assert "quantizer missing" in json.loads(program("info", models["ae"], "--json").stdout)["codes"]
    assert "codes" not in json.loads(program("info", models["whole"], "--json").stdout)


def test_a_folder_is_counted_and_summed_up(models, tmp_path):
    for index in range(3):
        write(tmp_path / "in" / f"{index}.wav", 24_000, 48_000, seed=index)
    (tmp_path / "in" / "page.wav").write_text("<html>")
    result = program("encode", tmp_path / "in", "-o", tmp_path / "out", "--continuous", "--model", models["ae"])
    assert result.exit_code == 2 and "1 of 4 files failed" in result.stderr
    *lines, last = result.stdout.strip().splitlines()
    assert [line.split()[0] for line in lines] == ["[1/4]", "[2/4]", "[3/4]"]
    assert re.fullmatch(r"3 files, 1\.5 s of sound in [\d.]+ s: [\d.]+ clips/s, [\d.e+]+ x real time", last), last
    result = program("decode", tmp_path / "out", "-o", tmp_path / "back", "--model", models["ae"])
    assert result.exit_code == 0 and "3 files, 1.5 s of sound" in result.stdout


def test_files_coded_together_equal_files_coded_alone(models, tmp_path, monkeypatch):
    for index in range(11):
        write(tmp_path / "in" / f"{index:02}.wav", 2_000 + 999 * index, 48_000, 1 + index % 2, seed=index)
    write(tmp_path / "in" / "05-long.wav", 300_000, 48_000)
    write(tmp_path / "in" / "06-many.wav", 4_800, 48_000, 9)
    (tmp_path / "in" / "07-page.wav").write_text("<html>")
    common = ("encode", tmp_path / "in", "--continuous", "--mid-side", "--model", models["ae"], "-o")
    program(*common, tmp_path / "alone")
    calls = []
    encode_many = LatentCodec.encode_many

    def counted(self, sounds, *rest):
        calls.append(len(sounds))
        return encode_many(self, sounds, *rest)

    monkeypatch.setattr(LatentCodec, "sounds_a_call", 4)
    monkeypatch.setattr(LatentCodec, "encode_many", counted)
    result = program(*common, tmp_path / "together")
    assert result.exit_code == 2 and "2 of 14 files failed" in result.stderr and "06-many.wav: audio" in result.stderr
    assert calls == [4, 4, 4]
    alone = sorted((tmp_path / "alone").glob("*.npz"))
    assert len(alone) == 12
    for path in alone:
        one, many = EmbeddedAudio.load(path), EmbeddedAudio.load(tmp_path / "together" / path.name)
        np.testing.assert_allclose(one.z, many.z, atol=1e-5)
        assert (one.samples, one.mid_side, one.kind) == (many.samples, many.mid_side, many.kind)


def test_step_1s_model_writes_embeddings_and_reads_them_back(models, tmp_path):
    whole = load_model(models["whole"])
    networks = {name: network for name, network in whole.networks.items() if name != "quantizer"}
    known = {k: v for k, v in whole.facts.items() if k not in ("fingerprints", "values")}
    step_1 = save_model(tmp_path / "step-1", networks, known)
    sound = write(tmp_path / "a.wav", 9_600, 48_000)
    program("encode", sound, "--continuous", "--model", step_1)
    assert EmbeddedAudio.load(tmp_path / "a.npz").kind == "embedding"
    program("decode", tmp_path / "a.npz", "--model", step_1, "--steps", 3, "--force")
    assert soundfile.info(sound).frames == 9_600
    refused(program("encode", sound, "--model", step_1), "holds no quantizer")
    assert "embeddings" in program("encode", sound, "--model", step_1).stderr
