"""What the three diffusion stages share: the weighted loss on cached latents, its validation by noise level, its averages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from spresso_jax.diffusion import edm, ema
from spresso_jax.dit.model import DiT
from spresso_jax.nn import magnitude
from spresso_jax.shapes import CLIP_FRAMES, LATENT_CHANNELS
from spresso_jax.train.stage import Batch, Metrics, Tree

Network = Callable[[jax.Array, jax.Array], jax.Array]

# One noise level per row of a validation batch, in turn: from nearly clean to nearly noise, at sigma_data 0.5.
VALIDATION_SIGMAS = (0.08, 0.15, 0.3, 0.5, 0.9, 1.6, 3.0, 6.0)


def batch_spec(size: int, text_tokens: int, text_width: int, pooled_width: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Cached latents with one caption each."""
    return {
        "latent": jax.ShapeDtypeStruct((size, CLIP_FRAMES, LATENT_CHANNELS), jnp.float32),
        "weight": jax.ShapeDtypeStruct((size, CLIP_FRAMES), jnp.float32),
        "text": jax.ShapeDtypeStruct((size, text_tokens, text_width), jnp.float32),
        "text_mask": jax.ShapeDtypeStruct((size, text_tokens), jnp.uint8),
        "pooled_text": jax.ShapeDtypeStruct((size, pooled_width), jnp.float32),
    }


def frame_weights(batch: Batch, padding_weight: float) -> jax.Array:
    """[B, T]: 1 on sound, `padding_weight` on the zeros after a short clip (1 in the paper: silence is data)."""
    return padding_weight + (1.0 - padding_weight) * batch["weight"]


def caption(batch: Batch) -> dict[str, jax.Array]:
    """The caption of each row, as keywords of the DiT."""
    return {"text": batch["text"], "text_mask": batch["text_mask"].astype(bool), "pooled_text": batch["pooled_text"]}


def training_loss(network: Network, uncertainty: Callable, key: jax.Array, batch: Batch, config: Any, precond: str):
    """EDM2 loss of one batch and what to log of it; `precond` is the DiT's."""
    result = edm.loss(
        network, key, batch["latent"],
        p_mean=config.p_mean, p_std=config.p_std, sigma_data=config.sigma_data, precond=precond,
        uncertainty=uncertainty, frame_weights=frame_weights(batch, config.padding_weight),
    )  # fmt: skip
    return result.loss, {"raw": jnp.mean(result.raw)}


def validation_losses(
    networks: Mapping[str, Network], key: jax.Array, batch: Batch, config: Any, precond: str
) -> Metrics:
    """Raw loss lambda * MSE of several conditionings under the same noise, in all and by noise level.

    Args:
      networks: name -> network. "own" is the conditioning that belongs to each clip; every other name gives the gain
        "<name>_gain" = its loss minus that of "own" (positive: the own conditioning helps).
      key: of noise and levels.
      batch: cached latents.
      config: with `sigma_data`.
      precond: of the DiT.

    Returns:
      {"raw": own loss, "raw_bin_<sigma>": ..., "<name>_gain": ..., "<name>_gain_bin_<sigma>": ...}.
    """
    x0 = batch["latent"]
    levels = jnp.asarray(VALIDATION_SIGMAS) * (config.sigma_data / 0.5)
    rows = jnp.arange(x0.shape[0])
    # Which rows get which level must differ between batches, or a bin would see the same few clips.
    which = (rows + jax.random.randint(key, (), 0, len(VALIDATION_SIGMAS))) % len(VALIDATION_SIGMAS)
    noise = jax.random.normal(jax.random.fold_in(key, 1), x0.shape)
    raws = {
        name: edm.loss_at(
            network, x0, noise, levels[which], sigma_data=config.sigma_data, precond=precond,
            frame_weights=batch["weight"],
        ).raw  # fmt: skip
        for name, network in networks.items()
    }
    metrics = _binned("raw", raws["own"], which)
    for name, raw in raws.items():
        if name != "own":
            metrics |= _binned(f"{name}_gain", raw - raws["own"], which)
    return metrics


def _binned(name: str, values: jax.Array, which: jax.Array) -> Metrics:
    out = {name: jnp.mean(values)}
    for index, sigma in enumerate(VALIDATION_SIGMAS):
        inside = which == index
        # A batch with no row at this level divides 0 by 0: NaN, which the loop leaves out of the mean.
        out[f"{name}_bin_{sigma}"] = jnp.sum(jnp.where(inside, values, 0.0)) / jnp.sum(inside)
    return out


def power_averages(lengths: tuple[float, ...]) -> dict[str, Callable[[jax.Array], jax.Array]]:
    """Power-function averages of relative lengths such as 0.05 and 0.10, for `Stage.ema`.

    Source: EDM2 section 3.1.
    """
    return {f"{length:g}": _decay(ema.exponent(length)) for length in lengths}


def power_lengths(lengths: tuple[float, ...]) -> dict[str, float]:
    """The same names -> their relative lengths, for `Stage.ema_lengths`."""
    return {f"{length:g}": float(length) for length in lengths}


def _decay(gamma: float) -> Callable[[jax.Array], jax.Array]:
    return lambda step: ema.beta(jnp.asarray(step, jnp.float32), gamma)


def projection(dit: DiT, optimizer: Any) -> Callable[[Tree], Tree] | None:
    """Forced weight normalisation for `Stage.project` of a magnitude-preserving DiT; None for the others.

    Raises:
      ValueError: for a magnitude-preserving DiT with adapters or weight decay.
    """
    if dit.block_style != "mp":
        return None
    if dit.lora_rank:
        raise ValueError(
            f"lora.lora_rank is {dit.lora_rank}, but an adapter of a weight-normalised layer is ill-defined, and the DiT "
            "has block_style mp: set lora.lora_rank=0 to train without adapters, or train text_to_audio with "
            "model.block_style=adaln"
        )
    if optimizer.weight_decay:
        raise ValueError(
            f"optimizer.weight_decay is {optimizer.weight_decay:g}, but the kernels of a DiT with block_style mp are "
            "normalised after every step, which leaves nothing to decay: set optimizer.weight_decay=0"
        )
    return magnitude.project_kernels
