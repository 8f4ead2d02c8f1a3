"""`spresso import`: a folder of another project becomes a model folder that the stages start from."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner
from woosh_layout import woosh_state

from spresso_jax.audio_ae.autoencoder import AudioAutoencoder
from spresso_jax.checkpoints.weights import load_model
from spresso_jax.cli.main import app
from spresso_jax.codec.description import describe_model
from spresso_jax.codec.networks import build, check_parameters
from spresso_jax.export.model_card import model_card
from spresso_jax.stages.listening import Listener

runner = CliRunner()
SIZES = dict(dim=12, hidden=20, encoder_blocks=1, decoder_blocks=2, channels=128)


def run(*words):
    return runner.invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("woosh") / "Woosh-AE"
    folder.mkdir()
    save_file(woosh_state(**SIZES), str(folder / "weights.safetensors"))
    (folder / "config.yaml").write_text("z_dim: 128\nd_model: 12\nnum_layers: 2\nenc_num_layers: 1\n")
    return folder


@pytest.fixture(scope="module")
def imported(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "woosh"
    result = run("import", "woosh-ae", source, "--out", out)
    assert result.exit_code == 0, result.output
    return out, result.output


def test_the_model_folder_serves_the_later_stages(imported):
    out, text = imported
    assert "501 frames per 5 s" in text and "float32" in text and "CC-BY-NC-4.0" in text and "1 + 2 blocks" in text
    model = load_model(out)
    network = model.networks["audio_ae"]
    check_parameters("audio_ae", build("audio_ae", network), network.params)
    state = woosh_state(**SIZES)
    listener = Listener.of_model(model)
    assert listener.autoencoder == AudioAutoencoder(**network.config) and listener.sigma_data == 0.5
    np.testing.assert_array_equal(listener.mean, state["z_mean"])
    np.testing.assert_array_equal(listener.std, state["z_std"])
    (origin,) = model.facts["provenance"]
    assert origin["imported"] == "Woosh-AE" and len(origin["sha256"]) == 64
    assert "non-commercial" in model_card(model) and "CC-BY-NC" in describe_model(out)["licence"]


def test_a_stage_takes_it_as_upstream(imported, tmp_path):
    result = run(
        "train", "clap", "--config", "clap:tiny", "--upstream", imported[0], "--data", tmp_path, "--run",
        tmp_path / "r", "--dry-run",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    result = run(
        "train", "text_to_audio", "--upstream", imported[0], "--data", tmp_path, "--run", tmp_path / "r", "--dry-run"
    )
    assert result.exit_code == 2 and "lacks clap," in result.stderr


def test_mistakes_end_in_one_sentence(source, imported, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    save_file({"weight": np.zeros(3, np.float32)}, str(wrong / "weights.safetensors"))
    for words, message in (
        ((tmp_path / "missing", "--out", tmp_path / "o"), "no such folder"),
        ((wrong, "--out", tmp_path / "o"), "lacks 'autoencoder.encoder.backbone.embed.weight'"),
        ((source, "--out", imported[0]), "already exists"),
        ((source, "--out", tmp_path / "o", "--dtype", "int8"), "dtype must be"),
    ):
        result = run("import", "woosh-ae", *words)
        assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1, result.output
        assert not (tmp_path / "o").exists()


def test_other_latent_widths_are_imported_with_a_warning(tmp_path):
    folder = tmp_path / "Woosh-AE"
    folder.mkdir()
    save_file(woosh_state(**{**SIZES, "channels": 6}), str(folder / "weights.safetensors"))
    result = run("import", "woosh-ae", folder, "--out", tmp_path / "small", "--dtype", "float16")
    assert result.exit_code == 0 and "take 128 latent channels, not 6" in result.stderr
    assert json.loads((tmp_path / "small" / "model.json").read_text())["storage"] == "float16"
