"""Which networks coding needs, and what a model folder lacks of them; reads facts alone, loads no weights and no JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spresso_jax.checkpoints.weights import ModelFolderError

EMBEDDING_NETWORKS = ("audio_ae", "latent_encoder", "projector", "dit")
CODEC_NETWORKS = (*EMBEDDING_NETWORKS, "quantizer")


def missing_networks(facts: Mapping[str, Any]) -> list[str]:
    """Networks of the codec that the model folder with these facts does not hold."""
    return [name for name in CODEC_NETWORKS if f"{name}.safetensors" not in facts["fingerprints"]]


def is_codec(facts: Mapping[str, Any]) -> bool:
    """Whether the model folder with these facts holds every network that coding needs, trained for each other."""
    return not missing_networks(facts) and not _outdated(facts)


def embeds(facts: Mapping[str, Any]) -> bool:
    """Whether the model folder with these facts can turn sounds into continuous embeddings and back (step 1's model can)."""
    lacking = {*missing_networks(facts), *_outdated(facts)}
    return not lacking.intersection(EMBEDDING_NETWORKS)


def check_complete(facts: Mapping[str, Any], name: str) -> None:
    """Refuses a model that cannot make or read codes.

    Args:
      facts: of a model folder.
      name: of the model, for the message.

    Raises:
      ModelFolderError: naming the networks that are missing or outdated, and what the model can still do.
    """
    if missing := missing_networks(facts):
        listed = ", ".join(missing)
        able = "train or import an audio_ae first"
        if "audio_ae" not in missing:
            able = f"with --continuous it writes {'embeddings' if embeds(facts) else 'the latents of its AudioAE'}"
        raise ModelFolderError(f"{name} holds no {listed}, so it can neither make nor read codes: {able}")
    check_up_to_date(facts)
    if _outdated(facts):
        raise ModelFolderError(
            f"{name}: its quantizer was trained on other embeddings than its latent_encoder makes now: train the stage quantizer"
            " on it again; with --continuous it writes embeddings"
        )


def check_up_to_date(facts: Mapping[str, Any]) -> None:
    """Raises ModelFolderError if the codec would use a network from before a network under it was trained on.

    An outdated quantizer is let through: embeddings do without it, and the codec leaves it aside.
    """
    if outdated := [name for name in _outdated(facts) if name != "quantizer"]:
        raise ModelFolderError(
            f"{', '.join(outdated)}: trained before other networks of this model changed; train the stages that make them"
            " again (spresso info MODEL tells what was trained when)"
        )
    if not _outdated(facts):
        check_quantizer(facts, "the model")


def check_quantizer(facts: Mapping[str, Any], name: str) -> None:
    """Refuses a quantizer that was trained on the embeddings of another g_psi than the one beside it.

    Models that do not say what their quantizer was trained on are let through.

    Args:
      facts: of a model folder.
      name: of the model, for the message.

    Raises:
      ModelFolderError: with both fingerprints.
    """
    trained_on = (facts.get("quantizer_trained_on") or {}).get("latent_encoder")
    have = (facts.get("values") or {}).get("latent_encoder.safetensors")
    if trained_on and have and trained_on != have:
        raise ModelFolderError(
            f"{name}: its quantizer was trained on the latent_encoder {trained_on[:12]}, but it holds {have[:12]}: every code"
            " would mean something else; train the stage quantizer on this model again"
        )


def _outdated(facts: Mapping[str, Any]) -> list[str]:
    return [name for name in CODEC_NETWORKS if name in (facts.get("outdated") or ())]
