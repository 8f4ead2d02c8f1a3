"""Bad input, refused by `spresso train` before any work, in one sentence: models, latents and configs that do not fit."""

import json

import numpy as np
import pytest
from cached_latents import write_latent_cache
from tiny_model import build_tiny_model
from typer.testing import CliRunner

from data_pipeline.vectors import open_vectors
from spresso_jax.checkpoints.weights import ModelFolderError, load_model
from spresso_jax.cli.admission import check_deviation
from spresso_jax.cli.main import app
from spresso_jax.cli.training import TrainingError
from spresso_jax.codec.codec import Codec
from spresso_jax.configuration import load_config

POINT = {"frame_rate": 11, "downsample": 9, "codebook_bits": 4, "codebooks": 3, "finetune_codebooks": 3}
ENCODER = ("encoder.width=16", "encoder.magnitude_input=false")
LORA = ("lora.lora_rank=2", "lora.lora_alpha=2.0", *ENCODER)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A whole tiny model; read it only."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return build_tiny_model(folder, facts={"text_tokens": 16, "operating_point": POINT})


@pytest.fixture(scope="module")
def latents(model, tmp_path_factory):
    return write_latent_cache(tmp_path_factory.mktemp("data") / "latents", load_model(model), clips=2)


def with_facts(model, target, **changes):
    """A copy of a model folder whose facts are others; None removes one."""
    target.mkdir()
    for file in model.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    facts = json.loads((target / "model.json").read_text())
    facts = {key: value for key, value in {**facts, **changes}.items() if value is not None}
    (target / "model.json").write_text(json.dumps(facts))
    return target


def refused(tmp_path, stage, config, upstream, data, message, *settings):
    words = ["train", stage, "--config", config, "--upstream", upstream, "--data", data, "--run", tmp_path / "run"]
    for setting in settings:
        words += ["--set", setting]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 2, done.output + done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    return tmp_path / "run"


@pytest.mark.parametrize(
    "statistics",
    [None, {"mean": [0.0] * 128, "std": [0.0] * 128, "sigma_data": 0.5}, {"mean": [0.0] * 128, "std": [1.0] * 128}],
    ids=["absent", "zero", "without sigma_data"],
)
def test_latents_whose_statistics_were_never_measured(statistics, model, latents, tmp_path):
    unmeasured = with_facts(model, tmp_path / "model", latent_statistics=statistics)
    for stage, preset in (("text_to_audio", "text_to_audio:tiny"), ("quantizer", "quantizer:tiny-11hz")):
        run = refused(tmp_path, stage, preset, unmeasured, latents, "the statistics of its latents were never measured")
        assert not run.exists()


def test_latents_of_another_audio_ae(model, tmp_path):
    other = build_tiny_model(tmp_path / "other", seed=1, facts={"text_tokens": 16, "operating_point": POINT})
    foreign = write_latent_cache(tmp_path / "foreign", load_model(other), clips=2)
    run = refused(tmp_path, "text_to_audio", "text_to_audio:tiny", model, foreign, "was made with audio_ae")
    assert not run.exists()


def test_a_sigma_data_that_is_not_that_of_the_latents(model, latents, tmp_path):
    run = refused(
        tmp_path, "text_to_audio", "text_to_audio:tiny", model, latents,
        "--set diffusion.sigma_data=0.5", "diffusion.sigma_data=1.0",
    )  # fmt: skip
    assert not run.exists()


@pytest.mark.parametrize("deviation", [0.1, 1.5])
def test_latents_that_are_far_from_sigma_data(deviation, model, tmp_path):
    wrong = write_latent_cache(tmp_path / "latents", load_model(model), clips=2, deviation=deviation)
    message = f"standard deviation of {deviation:.2g}"
    refused(tmp_path, "diffusion_ae", "diffusion_ae:tiny-11hz", model, wrong, message, *LORA)


def test_a_deviation_is_measured_on_sound_and_told_between_a_quarter_and_twice():
    config = load_config("text_to_audio:tiny")
    rng = np.random.default_rng(0)

    def draw(deviation):
        weight = np.repeat(np.asarray([[1.0, 0.0]]), 4, axis=0)
        latent = deviation * rng.normal(size=(4, 2, 5000)) * weight[..., None]  # half of it is padding
        return lambda step: iter([{"latent": latent, "weight": weight}] * 2)

    assert check_deviation(draw(0.5), config) is None and check_deviation(draw(0.58), config) is None
    assert "deviation of 0.7" in check_deviation(draw(0.7), config)
    assert "deviation of 0.3" in check_deviation(draw(0.3), config)
    for far in (0.2, 1.1):
        with pytest.raises(TrainingError, match="Make the cache of latents again"):
            check_deviation(draw(far), config)
    assert check_deviation(lambda step: iter([{"audio": np.zeros(3)}]), config) is None
    assert check_deviation(draw(9.0), load_config("quantizer:tiny-11hz")) is None


@pytest.mark.parametrize("downsample", [0, 501])
def test_a_pooling_window_longer_than_a_clip(downsample, model, latents, tmp_path):
    run = refused(
        tmp_path, "diffusion_ae", "diffusion_ae:tiny-11hz", model, latents,
        f"rate.downsample is {downsample}: a clip has 500 latent frames", f"rate.downsample={downsample}", *LORA,
    )  # fmt: skip
    assert not run.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("lora.lora_rank=4", "lora.lora_alpha=4.0", *ENCODER), "have rank 2 and alpha 2: --set lora.lora_rank=2"),
        (("lora.lora_rank=2", "lora.lora_alpha=8.0", *ENCODER), "have rank 2 and alpha 2: --set lora.lora_rank=2"),
        (("lora.lora_rank=2", "lora.lora_alpha=2.0", "encoder.width=32"), "latent_encoder/"),
    ],
)
def test_adapters_and_encoders_of_other_sizes_than_those_gone_on_with(settings, message, model, latents, tmp_path):
    run = refused(tmp_path, "diffusion_ae", "diffusion_ae:tiny-11hz", model, latents, message, *settings)
    assert not run.exists()


def test_a_quantizer_of_another_latent_encoder_is_refused_by_training_and_by_the_codec(model, latents, tmp_path):
    own = load_model(model).facts["values"]["latent_encoder.safetensors"]
    fitting = with_facts(model, tmp_path / "fitting", quantizer_trained_on={"latent_encoder": own})
    assert Codec.load(fitting).codebooks == 3
    foreign = with_facts(model, tmp_path / "foreign", quantizer_trained_on={"latent_encoder": "f" * 64})
    message = "its quantizer was trained on the latent_encoder ffffffffffff, but it holds"
    run = refused(tmp_path, "decoder_finetune", "decoder_finetune:tiny", foreign, latents, message, "codebooks=3")
    assert not run.exists()
    with pytest.raises(ModelFolderError, match="train the stage quantizer on this model again"):
        Codec.load(foreign)
    evaluated = CliRunner().invoke(
        app, ["evaluate", str(foreign), "--data", str(sounds(tmp_path)), "--out", str(tmp_path / "report"), "--clips", "2"]
    )
    assert evaluated.exit_code == 2 and message in evaluated.stderr


def sounds(folder):
    from data_pipeline.audio_files import write_audio

    (folder / "sounds").mkdir()
    for index in range(2):
        noise = np.random.default_rng(index).normal(size=24_000)
        write_audio(folder / "sounds" / f"{index}.wav", (0.1 * noise).astype(np.float32))
    return folder / "sounds"


def test_the_quantizer_says_which_latent_encoder_it_was_trained_on(model, latents, tmp_path):
    settings = ("model.codebooks=2", "model.codewords=4", "model.hidden_width=4", "model.embedding_width=4",
                "initialisation.rows=64", "data.batch_size=16", "loop.steps=1", "loop.save_every=0",
                "loop.validate_every=0", "crops=1", "train_search.preselect=2", "train_search.beam=2")  # fmt: skip
    words = ["train", "quantizer", "--config", "quantizer:tiny-11hz", "--upstream", model, "--data", latents]
    words += ["--run", tmp_path / "run", *(word for setting in settings for word in ("--set", setting))]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output + done.stderr
    facts = load_model(tmp_path / "run" / "model").facts
    own = load_model(model).facts["values"]["latent_encoder.safetensors"]
    assert facts["quantizer_trained_on"] == {"latent_encoder": own}
    (made,) = (tmp_path / "cache").iterdir()  # in the format of `spresso data embeddings`
    assert open_vectors(made).shape == open_vectors(made, "val").shape == (2 * 44, 64)
