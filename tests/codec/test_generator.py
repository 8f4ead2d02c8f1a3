"""Sounds from a caption: lengths, independence, guidance, autoguidance, and models that are only text-to-audio."""

import numpy as np
import pytest
from tiny_model import build_tiny_model, tiny_networks

from spresso_jax.checkpoints.weights import Model, ModelFolderError, load_model, save_model
from spresso_jax.codec.generator import Generator
from spresso_jax.codec.networks import parameter_shapes, without_decoder_parts
from spresso_jax.dit.model import DiT

QUICK = dict(steps=3, sampler="euler")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def generator(folder):
    return Generator.load(folder)


def with_dit(model, dit):
    return Model({**model.networks, "dit": dit}, model.facts)


def weaker_of(model, seed=7):
    return with_dit(model, tiny_networks(seed=seed)["dit"])


def test_a_sound_depends_on_the_caption_the_seed_and_its_number_alone(generator):
    sounds = generator.generate("rain on a roof", 0.25, 3, **QUICK)
    assert sounds.shape == (3, 12_000) and sounds.dtype == np.float32 and np.isfinite(sounds).all()
    np.testing.assert_array_equal(sounds[:1], generator.generate("rain on a roof", 0.25, **QUICK))
    np.testing.assert_array_equal(sounds, generator.generate("rain on a roof", 0.25, 3, **QUICK))
    for other in (
        generator.generate("a dog barks", 0.25, **QUICK),
        generator.generate(None, 0.25, **QUICK),
        generator.generate("rain on a roof", 0.25, seed=1, **QUICK),
    ):
        assert np.abs(other[0] - sounds[0]).max() > 1e-4


def test_shorter_sounds_begin_longer_clips_and_long_ones_are_windows(generator):
    short, clip = (generator.generate("rain", seconds, **QUICK) for seconds in (0.01, 5.0))
    assert short.shape == (1, 480) and clip.shape == (1, 240_000)
    np.testing.assert_array_equal(short, clip[:, :480])
    long = generator.generate("rain", 11.5, **QUICK)
    assert long.shape == (1, 552_000) and np.isfinite(long).all()


def test_adapters_and_third_stream_of_a_codec_are_left_out(model, generator):
    dit = model.networks["dit"]
    bare = without_decoder_parts(dit)
    module = DiT(**bare.config)
    assert module.lora_rank == 0 and not module.third_stream
    shapes = parameter_shapes("dit", module)
    assert "down" not in shapes["joint_last"] and "lora_a" not in str(shapes)
    alone = Generator(with_dit(model, bare)).generate("rain", 0.1, **QUICK)
    np.testing.assert_array_equal(alone, generator.generate("rain", 0.1, **QUICK))


def test_a_text_to_audio_model_without_codec_networks_is_enough(model, generator, tmp_path):
    networks = {name: model.networks[name] for name in ("audio_ae", "clap", "dit")}
    facts = {key: model.facts[key] for key in ("name", "latent_statistics", "tokenizer")}
    loaded = Generator.load(save_model(tmp_path / "t2a", networks, facts))
    np.testing.assert_array_equal(loaded.generate("rain", 0.1, **QUICK), generator.generate("rain", 0.1, **QUICK))
    mute = Generator(Model({name: networks[name] for name in ("audio_ae", "dit")}, facts))
    assert mute.generate(None, 0.1, **QUICK).shape == (1, 4_800)
    with pytest.raises(ValueError, match="without a caption only"):
        mute.generate("rain", 0.1, **QUICK)


def test_guidance_leads_away_from_no_caption_and_stays_within_its_interval(generator):
    plain, none = generator.generate("rain", 0.1, **QUICK), generator.generate(None, 0.1, **QUICK)
    guided = generator.generate("rain", 0.1, guidance=3.0, **QUICK)
    assert np.abs(guided - plain).max() > 1e-4
    np.testing.assert_allclose(generator.generate("rain", 0.1, guidance=0.0, **QUICK), none, atol=2e-4)
    nowhere = generator.generate("rain", 0.1, guidance=3.0, interval=(1e5, 1e6), **QUICK)
    np.testing.assert_allclose(nowhere, plain, atol=2e-4)
    two = generator.generate("rain", 0.1, 2, guidance=3.0, **QUICK)
    np.testing.assert_array_equal(two[:1], guided)


@pytest.mark.slow
def test_autoguidance_leads_away_from_the_weaker_model_with_the_same_caption(model, generator):
    weaker = weaker_of(model)
    auto = Generator(model, weaker)
    reference = Generator(weaker).generate("rain", 0.1, **QUICK)
    np.testing.assert_allclose(auto.generate("rain", 0.1, guidance=0.0, **QUICK), reference, atol=2e-4)
    guided = auto.generate("rain", 0.1, guidance=2.0, **QUICK)
    assert np.abs(guided - generator.generate("rain", 0.1, **QUICK)).max() > 1e-4
    assert np.abs(guided - generator.generate("rain", 0.1, guidance=2.0, **QUICK)).max() > 1e-4
    assert auto.generate(None, 0.1, guidance=2.0, **QUICK).shape == (1, 4_800)
    with pytest.raises(ValueError, match="weaker model changes nothing at guidance 1"):
        auto.generate("rain", 0.1, **QUICK)


def test_a_weaker_model_of_other_latents_and_missing_networks_are_refused(folder, model, tmp_path):
    other = build_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="another AudioAE than tiny"):
        Generator.load(folder, weaker=other)
    networks = {name: model.networks[name] for name in ("audio_ae", "clap")}
    with pytest.raises(ModelFolderError, match="holds no dit"):
        Generator.load(save_model(tmp_path / "none", networks, {"latent_statistics": model.facts["latent_statistics"]}))
    with pytest.raises(ModelFolderError, match="dit: trained before"):
        Generator(Model(model.networks, {**model.facts, "outdated": ["dit"]}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"caption": " "}, "the caption is empty"), ({"caption": "glass " * 500}, "tokens and tiny reads 16 at most"),
        ({"seconds": 0.0}, "seconds"), ({"seconds": float("nan")}, "seconds"), ({"seconds": 601.0}, "seconds"),
        ({"count": 0}, "count"), ({"steps": 1}, "steps"), ({"seed": 2**32}, "seed"), ({"sampler": "x"}, "sampler"),
        ({"caption": None, "guidance": 2.0}, "guidance needs a reference"),
        ({"guidance": 2.0, "interval": (3.0, 1.0)}, "low < high"), ({"interval": (0.1, 1.0)}, "changes nothing"),
        ({"guidance": float("inf")}, "guidance must be"),
    ],
)  # fmt: skip
def test_what_cannot_be_generated_is_named(generator, settings, message):
    with pytest.raises(ValueError, match=message):
        generator.generate(**{"caption": "rain", "seconds": 0.1, **settings})
