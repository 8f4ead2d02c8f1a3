"""Sizes of our AudioAE for the torch one (`audio_ae_torch.py`), and its weights as parameters of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from spresso_jax.interop.foreign_tensors import ForeignTensors
from spresso_jax.interop.vocos import backbone_params, decoder_from_state


def sizes_of(config: Any) -> dict[str, int]:
    """What the torch AudioAE needs of an experiment's config."""
    names = ("dim", "intermediate", "encoder_blocks", "decoder_blocks", "latent_channels")
    return {name: int(config.model[name]) for name in names}


def part(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def autoencoder_params(state: Mapping[str, np.ndarray], encoder_blocks: int, hop: int) -> dict[str, Any]:
    """Parameters of `AudioAutoencoder` from the tensors under `encoder.` and `decoder.`, each used once."""
    tensors = ForeignTensors(part(state, "encoder."), "the torch encoder")
    kernel, bias = tensors.take("projection.weight").T[None], tensors.take("projection.bias")
    backbone = backbone_params(tensors, "backbone.", encoder_blocks)
    tensors.finish()
    decoder = decoder_from_state(part(state, "decoder."), hop, padding="same")
    return {"encoder_backbone": backbone, "projection": {"kernel": kernel, "bias": bias}, **decoder.params}
