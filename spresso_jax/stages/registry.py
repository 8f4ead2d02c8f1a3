"""Names of the stages, in the order in which they are trained, and what each one reads and needs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from spresso_jax.train.stage import Stage


@dataclass(frozen=True)
class Entry:
    """One stage of the chain.

    Attributes:
      name: as in `spresso train NAME`; also the module in `spresso_jax.stages` and the file in `experiments`.
      reads: "clips" (audio), "captioned_clips" (audio and tokens), "latents" (cached x0 and text), "vectors" (cached z) or
        "coded_latents" (cached x0 with codes).
      needs: networks that an upstream model must hold.
    """

    name: str
    reads: str
    needs: tuple[str, ...] = ()


STAGES = (
    Entry("audio_ae", "clips"),
    Entry("clap", "captioned_clips"),
    Entry("text_to_audio", "latents", ("audio_ae", "clap")),
    Entry("diffusion_ae", "latents", ("audio_ae", "clap", "dit")),
    Entry("quantizer", "vectors", ("audio_ae", "clap", "dit", "latent_encoder", "projector")),
    Entry("decoder_finetune", "coded_latents", ("audio_ae", "clap", "dit", "latent_encoder", "projector", "quantizer")),
)


def entry(name: str) -> Entry:
    """The entry called `name`.

    Raises:
      ValueError: if there is none.
    """
    for candidate in STAGES:
        if candidate.name == name:
            return candidate
    raise ValueError(f"unknown stage {name!r}: choose one of {', '.join(e.name for e in STAGES)}")


def build(name: str, config: Any, upstream: Any = None) -> Stage:
    """Builds a stage from its config and a loaded upstream model (`checkpoints.weights.Model`) or None.

    Raises:
      ValueError: if the name is unknown or the upstream model lacks a network that the stage needs.
    """
    found = entry(name)
    have = () if upstream is None else tuple(upstream.networks)
    missing = [network for network in found.needs if network not in have]
    if missing:
        where = "an --upstream model" if upstream is None else str(upstream.folder or "the upstream model")
        raise ValueError(f"stage {name} needs the networks {', '.join(missing)}, which {where} does not hold")
    return import_module(f"spresso_jax.stages.{name}").build(config, upstream)
