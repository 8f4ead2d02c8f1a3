"""`spresso ema` on a tiny run of the real command line: the model under another average, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from cached_latents import write_latent_cache
from tiny_model import build_tiny_model
from typer.testing import CliRunner

from spresso_jax.checkpoints.trees import flatten
from spresso_jax.checkpoints.weights import load_model
from spresso_jax.cli.main import app

# A whole run and several reconstructions; tests/train/test_snapshots.py holds the arithmetic through the loop by default.
pytestmark = pytest.mark.slow

# The third stream and LoRA of the tiny model are gone on with, so that no other sizes come in.
SMALL = (
    "encoder.width=16", "encoder.magnitude_input=false", "lora.lora_rank=2", "lora.lora_alpha=0.0",
    "data.batch_size=2", "data.validation_clips=2",
    "statistics_batches=2", "loop.steps=5", "loop.snapshot_every=2", "loop.save_every=5", "loop.validate_every=0",
    "loop.log_every=5", "optimizer.learning_rate=0.05",
)  # fmt: skip


def spresso(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the diffusion autoencoder with snapshots at steps 2, 4 and 5."""
    folder = tmp_path_factory.mktemp("ema")
    model = build_tiny_model(folder / "upstream", facts={"text_tokens": 16})
    latents = write_latent_cache(folder / "latents", load_model(model))
    words = [word for setting in SMALL for word in ("--set", setting)]
    done = spresso(
        "train", "diffusion_ae", "--config", "diffusion_ae:tiny-11hz", *words,
        "--data", latents, "--upstream", model, "--run", folder / "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output + done.stderr
    return folder / "run"


def values(folder, *networks):
    model = load_model(folder)
    return flatten({name: model.networks[name].params for name in networks or model.networks})


def test_the_tracked_length_gives_the_model_that_the_run_left(run, tmp_path):
    done = spresso("ema", run, "--length", "0.1", "--out", tmp_path / "again")
    assert done.exit_code == 0, done.output + done.stderr
    assert "from 3 snapshots" in done.output and "step 2  0.05: " in done.output
    assert "sum of the coefficients' magnitudes: 1.000" in done.output
    want, got = values(run / "model"), values(tmp_path / "again")
    assert want.keys() == got.keys()
    for path, leaf in want.items():
        np.testing.assert_allclose(got[path], leaf, atol=1e-6, err_msg=path)
    facts, own = load_model(tmp_path / "again").facts, load_model(run / "model").facts
    for name in ("mean", "std"):
        np.testing.assert_allclose(facts["embedding_statistics"][name], own["embedding_statistics"][name], rtol=1e-4)
    np.testing.assert_allclose(facts["silence_embedding"], own["silence_embedding"], atol=2e-4)
    assert facts["provenance"][-1] == {**own["provenance"][-1], "ema_length": 0.1}


def test_another_length_changes_what_was_trained_and_what_is_measured_of_it(run):
    done = spresso("ema", run, "--length", "0.2")
    assert done.exit_code == 0, done.output + done.stderr
    made, own = load_model(run / "model-ema-0.2"), load_model(run / "model")
    for name in ("audio_ae", "clap"):
        assert made.facts["values"][f"{name}.safetensors"] == own.facts["values"][f"{name}.safetensors"]
    for name in ("latent_encoder", "projector", "dit"):
        assert made.facts["values"][f"{name}.safetensors"] != own.facts["values"][f"{name}.safetensors"]
    frozen = [path for path in values(run / "model", "dit") if path.endswith("audio/attention/q/kernel")]
    assert frozen
    for path in frozen:
        np.testing.assert_array_equal(
            values(run / "model-ema-0.2", "dit")[path], values(run / "model", "dit")[path]
        )
    assert made.facts["embedding_statistics"] != own.facts["embedding_statistics"]
    assert made.facts["silence_embedding"] != own.facts["silence_embedding"]
    assert made.facts["provenance"][-1]["ema_length"] == 0.2 and made.facts["provenance"][-1]["steps"] == 5
    # The quantizer of the upstream model fits neither: it stays one to start from.
    assert made.facts["outdated"] == own.facts["outdated"] == ["quantizer"]
    again = spresso("ema", run, "--length", "0.2")
    assert again.exit_code == 2 and "already exists" in again.stderr
    earlier = spresso("ema", run, "--length", "0.2", "--step", "4")
    assert earlier.exit_code == 0, earlier.output + earlier.stderr
    assert load_model(run / "model-ema-0.2-step-4").facts["provenance"][-1]["steps"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--length", "0.3"), "--length 0.3: give a length above 0 and below 0.2887"),
        (("--length", "0"), "--length 0: give a length above 0"),
        (("--length", "0.1", "--step", "1"), "go from step 2 to 5"),
        (("--length", "0.1", "--step", "9"), "go from step 2 to 5"),
    ],
)
def test_a_length_or_step_that_no_average_has_is_refused(run, words, message):
    done = spresso("ema", run, *words)
    assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_runs_that_lack_something_are_refused_by_what_they_lack(run, tmp_path):
    def refused(message):
        done = spresso("ema", tmp_path / "copy", "--length", "0.12", "--out", tmp_path / "out")
        assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "out").exists()

    refused("is not a run folder")
    copy = shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints", "model-ema*"))
    (copy / "request.json").write_text(json.dumps({"data": [str(tmp_path / "moved")]}))
    refused("there is no folder")
    (copy / "request.json").unlink()
    refused("add --data SHARDS")
    shutil.rmtree(copy / "model")
    refused("has left no model yet")
    shutil.rmtree(copy / "snapshots")
    refused("has no snapshots")
