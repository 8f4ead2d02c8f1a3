"""Names of the stages, in the order in which they are trained, and what each one reads and needs."""

from __future__ import annotations

from collections.abc import Iterable
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
      outdates: networks of an upstream model that no longer fit what this stage has changed, until they are trained again.
      alone: the stage can also be trained without an upstream model, on data of any origin.
    """

    name: str
    reads: str
    needs: tuple[str, ...] = ()
    outdates: tuple[str, ...] = ()
    alone: bool = False


STAGES = (
    Entry("audio_ae", "clips", outdates=("dit", "latent_encoder", "projector", "quantizer")),
    Entry("clap", "captioned_clips", outdates=("dit",)),
    Entry("text_to_audio", "latents", ("audio_ae", "clap"), ("latent_encoder", "projector", "quantizer")),
    Entry("diffusion_ae", "latents", ("audio_ae", "clap", "dit"), ("quantizer",)),
    Entry("quantizer", "vectors", ("audio_ae", "clap", "dit", "latent_encoder", "projector"), alone=True),
    Entry("decoder_finetune", "coded_latents", ("audio_ae", "clap", "dit", "latent_encoder", "projector", "quantizer")),
)


def outdated_after(name: str, before: Iterable[str], inherited: Iterable[str], trained: Iterable[str]) -> list[str]:
    """Networks of a model that do not fit its others once stage `name` has run.

    Args:
      name: the stage.
      before: those of its upstream model.
      inherited: networks that the upstream model holds.
      trained: networks that the stage wrote.
    """
    return sorted((set(before) | set(entry(name).outdates) & set(inherited)) - set(trained))


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
    if missing and not (found.alone and upstream is None):
        where = "an --upstream model" if upstream is None else str(upstream.folder or "the upstream model")
        raise ValueError(f"stage {name} needs the networks {', '.join(missing)}, which {where} does not hold")
    return import_module(f"spresso_jax.stages.{name}").build(config, upstream)
