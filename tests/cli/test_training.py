"""What a run refuses before its first step."""

from pathlib import Path

import pytest

from spresso_jax.checkpoints.weights import Model
from spresso_jax.cli.training import RunRequest, TrainingError, refuse_outdated
from spresso_jax.configuration import load_config


@pytest.mark.parametrize(
    ("stage", "outdated", "refused"),
    [
        ("diffusion_ae", ["dit", "quantizer"], "dit was trained before"),
        ("decoder_finetune", ["quantizer"], "quantizer was trained before"),
        ("text_to_audio", ["dit"], None),  # trains the whole DiT
        ("quantizer", ["quantizer"], None),
    ],
)
def test_a_stage_does_not_build_on_networks_that_no_longer_fit(stage, outdated, refused):
    request = RunRequest(stage, load_config(f"{stage}:tiny"), Path("run"), (), "models/old")
    model = Model({}, {"outdated": outdated})
    if refused is None:
        refuse_outdated(request, model)
    else:
        with pytest.raises(TrainingError, match=f"models/old: {refused}"):
            refuse_outdated(request, model)
