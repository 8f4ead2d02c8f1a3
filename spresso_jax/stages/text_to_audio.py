"""Stage 3, D_theta: text-to-audio diffusion on AudioAE latents.

Source: S-PRESSO 3.2 (DiT) and 4.2.1 (EDM2 parametrisation, CLAP text, AdamW 1e-4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from spresso_jax.configuration import to_plain
from spresso_jax.diffusion.guidance import drop_text
from spresso_jax.dit.model import DiT
from spresso_jax.shapes import CLIP_FRAMES, LATENT_CHANNELS
from spresso_jax.stages import denoising, listening
from spresso_jax.train.optimizers import adamw_from
from spresso_jax.train.stage import Batch, Finished, Metrics, Player, Stage, Tree

NETWORK = "dit"
# What an upstream DiT is beyond the sizes that an experiment names; its weights mean nothing without it.
INHERITED = (
    "single_style", "single_text", "registers", "register_position", "rope_theta", "rope_dim", "yarn_factor", "yarn_length",
    "learned_noise_features", "uncertainty_hidden", "qk_norm", "precond",
)  # fmt: skip


def build(config: Any, upstream: Any) -> Stage:
    """The stage of `experiments/text_to_audio.py` on the latents and captions of an upstream model.

    If that model has a DiT, training goes on from it, in its own form.
    """
    clap = upstream.networks["clap"].config
    before = upstream.networks[NETWORK].config if NETWORK in upstream.networks else {}
    fields = {
        **{name: before[name] for name in INHERITED if name in before},
        **to_plain(config.model),
        "text_width": clap["text_width"],
        "pooled_text_width": clap["channels"] if config.pooled_text else 0,
        "text_tokens": upstream.facts["text_tokens"],
        "latent_channels": LATENT_CHANNELS,
    }
    dit = DiT(**fields)

    def init(key: jax.Array) -> Tree:
        x = jnp.zeros((1, CLIP_FRAMES, LATENT_CHANNELS))
        text = jnp.zeros((1, dit.text_tokens, dit.text_width)), jnp.zeros((1, dit.text_tokens), bool)
        return {NETWORK: dit.init(key, x, jnp.zeros((1,)), *text)["params"]}

    def network(networks: Tree, text: dict[str, jax.Array]) -> denoising.Network:
        return lambda x, c_noise: dit.apply({"params": networks[NETWORK]}, x, c_noise, **text)

    def loss(networks: Tree, product: None, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        text_key, loss_key = jax.random.split(key)
        text = denoising.caption(batch)
        text["text_mask"] = drop_text(text_key, text["text_mask"], config.text_dropout)

        def uncertainty(c_noise: jax.Array) -> jax.Array:
            return dit.apply({"params": networks[NETWORK]}, c_noise, method="uncertainty")

        return denoising.training_loss(
            network(networks, text), uncertainty, loss_key, batch, config.diffusion, dit.precond
        )

    def validate(networks: Tree, batch: Batch, key: jax.Array) -> Metrics:
        text = denoising.caption(batch)
        # Three rows on, so that neighbours of one family in the file order do not lend each other their captions.
        other = {name: jnp.roll(value, 3, axis=0) for name, value in text.items()}
        conditions = {"own": network(networks, text), "other_caption": network(networks, other)}
        return denoising.validation_losses(conditions, key, batch, config.diffusion, dit.precond)

    def preview(networks: Tree, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        def condition(rows: Batch) -> denoising.Network:
            return network(networks, denoising.caption(rows))

        return listener.preview(networks, condition, batch, key, dit.precond)

    def finish(networks: Tree, draw: Callable[[], Iterator[dict]]) -> Finished:
        return Finished({NETWORK: (fields, networks[NETWORK])}, {"diffusion": to_plain(config.diffusion)})

    listener = listening.Listener.of_model(upstream)
    inherited = {} if NETWORK not in upstream.networks else {NETWORK: upstream.networks[NETWORK].params}
    return Stage(
        name="text_to_audio",
        init=init,
        players=(Player("dit", rf"^{NETWORK}/", loss, adamw_from(config.optimizer, config.loop.steps)),),
        batch_spec=denoising.batch_spec(config.data.batch_size, dit.text_tokens, dit.text_width, clap["channels"]),
        upstream={**inherited, listening.NETWORK: listener.params},
        project=denoising.projection(dit, config.optimizer),
        ema=denoising.power_averages(tuple(config.ema_lengths)),
        ema_lengths=denoising.power_lengths(tuple(config.ema_lengths)),
        chosen_ema=f"{config.chosen_ema:g}",
        validate=validate,
        preview=preview,
        finish=finish,
    )
