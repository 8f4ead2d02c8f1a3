"""Columns and denoiser of a real (tiny, random) model folder, and `spresso evaluate` on it from end to end."""

import json

import jax
import numpy as np
import pytest
import soundfile
import tiny_model
import typer
from typer.testing import CliRunner

from spresso_jax.checkpoints.weights import Model, ModelFolderError, Network, load_facts, load_model, save_model
from spresso_jax.cli import evaluate as commands
from spresso_jax.codec.codec import Codec
from spresso_jax.evaluate import denoiser, systems
from spresso_jax.evaluate.decoded import Clip

RNG = np.random.default_rng(0)
CLIPS = [
    Clip(f"{i}", (0.2 * RNG.standard_normal(24_000 + 4_800 * i)).astype(np.float32), c)
    for i, c in enumerate([*tiny_model.CAPTIONS, ""])
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model.build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def codec(folder):
    return Codec.load(folder)


def test_columns_of_a_codec_have_the_order_bitrates_and_lengths_of_the_page(codec):
    made = systems.codec_systems(codec, "tiny", codebooks=[3, 1], steps=2)
    assert [s.key for s in made] == ["tiny.continuous", "tiny.m1", "tiny.m3"]
    assert [s.kbps for s in made] == [None, pytest.approx(0.044), pytest.approx(0.132)]
    assert made[-1].frame_rate == pytest.approx(100 / 9) and made[-1].codebooks == 3
    for system in made:
        (audio,) = system.produce(CLIPS[:1], [0])
        assert audio.shape == CLIPS[0].audio.shape and np.isfinite(audio).all()


def test_each_clip_is_decoded_with_its_own_seed(codec):
    system = systems.codec_systems(codec, "tiny", steps=2)[-1]
    first, second = system.produce([CLIPS[0], CLIPS[0]], [0, 1])
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, system.produce([CLIPS[0]], [0])[0])


def test_fingerprints_tell_models_steps_and_codebooks_apart(codec):
    stamps = [s.fingerprint for n in (2, 3) for s in systems.codec_systems(codec, "x", codebooks=[1, 2], steps=n)]
    assert len(stamps) == 6 and len(set(stamps)) == 6


def test_codebooks_that_were_not_trained_are_refused(codec):
    with pytest.raises(ValueError, match="within 1..3 for tiny"):
        systems.codec_systems(codec, "tiny", codebooks=[4])


def test_linear_codec_keeps_the_low_band():
    seconds = np.arange(48_000) / 48_000
    low = Clip("low", (0.3 * np.sin(2 * np.pi * 1000 * seconds)).astype(np.float32))
    high = Clip("high", (0.3 * np.sin(2 * np.pi * 12_000 * seconds)).astype(np.float32))
    kept, lost = systems.linear_system().produce([low, high], [0, 1])
    assert np.abs(kept[4800:-4800] - low.audio[4800:-4800]).max() < 1e-3
    assert np.abs(lost[4800:-4800]).max() < 1e-2


def test_decoded_folder_without_a_file_names_it(tmp_path):
    (tmp_path / "0.wav").write_bytes(b"")
    with pytest.raises(ValueError, match="3 of 4 references have no decoded file, first '1'"):
        systems.folder_system(tmp_path, CLIPS, lambda path: np.zeros(1))


def test_probe_gives_the_codecs_own_latents_and_embeddings(folder, codec):
    probe = denoiser.Probe.of(load_model(folder))
    short = CLIPS[0].audio
    whole = (0.2 * np.random.default_rng(1).standard_normal(240_000)).astype(np.float32)
    latents = probe.latents([short, whole])
    assert latents["latent"].shape == (2, 500, 128)
    assert latents["weight"].sum(axis=1).tolist() == [short.size / 480, 500]
    z = probe.embeddings(latents["latent"])
    # Alike, not equal: the codec lets zeros follow the sound where a training clip simply ends.
    of_codec = codec.embed(whole, 48_000)[0, : z.shape[1]]
    assert np.corrcoef(z[1].ravel(), of_codec.ravel())[0, 1] > 0.9
    z_q = probe.quantized(z, [1, 3])
    assert z_q[3].shape == z.shape and not np.array_equal(z_q[1], z_q[3])
    np.testing.assert_allclose(z_q[3], codec._programs.quantized(codec._programs.codes(z, 3)), atol=1e-5)


def test_gain_is_measured_for_continuous_and_discrete_codes(folder):
    audio, captions = [c.audio for c in CLIPS], [c.caption for c in CLIPS]
    facts = denoiser.measure_gain(load_model(folder), audio, captions, codebooks=[2], repeats=1, batch=2)
    assert list(facts["conditioning_gain"]) == ["continuous z", "2 codebooks"] and facts["gain_clips"] == 4
    bins = facts["conditioning_gain"]["continuous z"]["bins"]
    assert len(bins) == 7 and all(b["own"]["count"] == 4 and b["own"]["mean"] > 0 for b in bins)
    assert any(b["gain"]["mean"] != 0.0 for b in bins)
    assert all(len(v) == 7 and min(v) > 0 for v in facts["wiener"].values())
    json.dumps(facts, allow_nan=False)


def test_a_velocity_network_is_measured_as_what_it_is(folder):
    model = load_model(folder)
    networks = {**model.networks, "dit": tiny_model.silent_velocity(model.networks["dit"])}
    loss = denoiser.Probe.of(Model(networks, model.facts)).denoising_loss()
    x0 = 0.5 * np.random.default_rng(0).standard_normal((3, 500, 128)).astype(np.float32)
    latents = {"latent": x0, "weight": np.ones((3, 500), np.float32)}
    losses = loss(latents, {}, jax.random.key(0), np.float32([0.05, 0.5, 5.0]))
    np.testing.assert_allclose(losses, [2 * 0.8347, 2 * 0.5, 2 * 0.8347], rtol=0.03)


def test_text_to_audio_models_are_measured_by_their_captions(folder, tmp_path):
    model = load_model(folder)
    kept = {name: model.networks[name] for name in ("audio_ae", "clap")}
    dit = model.networks["dit"]
    config = {**dit.config, "third_stream": False, "lora_rank": 0}
    params = without(dit.params, ("down", "lora"))
    save_model(tmp_path / "t2a", {**kept, "dit": Network(config, params, dit.class_name)}, model.facts)
    audio, captions = [c.audio for c in CLIPS], [c.caption for c in CLIPS]
    facts = denoiser.measure_gain(load_model(tmp_path / "t2a"), audio, captions, repeats=1, batch=3)
    assert list(facts["conditioning_gain"]) == ["caption"]
    assert facts["conditioning_gain"]["caption"]["overall"]["count"] == 3


def without(tree, words):
    if not isinstance(tree, dict):
        return tree
    return {k: without(v, words) for k, v in tree.items() if not any(w in k for w in words)}


def test_clap_embedding_has_unit_length_and_ignores_the_level_of_repetition(folder):
    embed = denoiser.clap_embedding(load_model(folder, only=["clap"]))
    vector = embed(CLIPS[0].audio)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(vector, embed(np.tile(CLIPS[0].audio, 2)), atol=1e-5)


def test_a_model_without_denoiser_or_clap_is_refused(folder):
    model = load_model(folder, only=["quantizer"])
    with pytest.raises(ModelFolderError, match="audio_ae"):
        denoiser.Probe.of(model)
    with pytest.raises(ModelFolderError, match="clap"):
        denoiser.clap_embedding(model)


def test_evaluate_command_measures_an_autoencoder_alone_and_shares_its_column(folder, tmp_path):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for clip in CLIPS[:2]:
        soundfile.write(sounds / f"{clip.name}.flac", clip.audio[:24_000], 48_000)
    model = load_model(folder, only=["audio_ae"])
    for name in ("one", "two"):
        save_model(tmp_path / name, model.networks, model.facts)
    app = typer.Typer()
    commands.register(app)
    models = [str(tmp_path / name) for name in ("one", "two")]
    result = CliRunner().invoke(app, ["evaluate", *models, "--data", str(sounds), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    labels = {system["key"]: system["label"] for system in scores["systems"]}
    assert list(labels)[:3] == ["source", "linear", "one.audio_ae"] and labels["one.audio_ae"] == "AudioAE bound"
    assert "two.audio_ae" not in labels


def test_evaluate_command_runs_a_model_folder_end_to_end(folder, tmp_path):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for clip in CLIPS[:2]:
        soundfile.write(sounds / f"{clip.name}.flac", clip.audio[:24_000], 48_000)
    app = typer.Typer()
    commands.register(app)
    arguments = ["evaluate", str(folder), "--data", str(sounds), "--out", str(tmp_path / "out"), "--steps", "2"]
    arguments += ["--codebooks", "3", "--gain-clips", "0"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    keys = [s["key"] for s in scores["systems"]]
    assert keys[:3] == ["source", "linear", "tiny.audio_ae"]
    assert keys[-2:] == ["control-shuffled", "control-noise-11.1hz"]
    assert "similarity_clap" in scores["figures"]["tiny.m3"]
    assert scores["models"]["tiny"]["provenance"] == load_facts(folder)["provenance"]
    assert scores["options"]["number_of_clips"] == 2 and scores["options"]["steps"] == 2
    gain = ["--gain-only", "--gain-clips", "2", "--codebooks", "3", "--out", str(tmp_path / "gain")]
    result = CliRunner().invoke(app, [*arguments[:4], *gain])
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "gain" / "scores.json").read_text())
    assert [s["key"] for s in scores["systems"]] == ["source"] and "Conditioning gain" in result.output
    result = CliRunner().invoke(app, [*arguments, "--gain-only", "--gain-clips", "2"])
    assert result.exit_code == 2 and "another --out" in result.output
    assert set(scores["models"]["tiny"]["conditioning_gain"]) == {"continuous z", "3 codebooks"}
    jax.clear_caches()
