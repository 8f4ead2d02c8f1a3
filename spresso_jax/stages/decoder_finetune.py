"""Stage 6, decoder finetuning (the paper's step 3): LoRA and f_phi on quantized embeddings, the original z kept at times.

Source: S-PRESSO 3.5 and 4.2.2 (M = 10 at 10 bits, 8 at 12 bits; z kept 10 % of the time).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from spresso_jax.diffusion.guidance import drop_text
from spresso_jax.diffusion_autoencoder.encoder import LatentEncoder, Projector
from spresso_jax.diffusion_autoencoder.model import DiffusionAutoencoder, mix_quantized
from spresso_jax.dit.model import DiT
from spresso_jax.quantizer.qinco import Qinco
from spresso_jax.shapes import CLIP_FRAMES, EMBEDDING_CHANNELS, pooled_length
from spresso_jax.stages import denoising, listening
from spresso_jax.stages.diffusion_ae import ADAPTERS
from spresso_jax.train.optimizers import adamw_from
from spresso_jax.train.stage import Batch, Finished, Metrics, Player, Stage, Tree

TRAINED = ("projector", "dit")


def build(config: Any, upstream: Any) -> Stage:
    """The stage of `experiments/decoder_finetune.py` on a model that has its quantizer."""
    configs = {name: upstream.networks[name].config for name in ("latent_encoder", "projector", "dit", "quantizer")}
    model = DiffusionAutoencoder(
        LatentEncoder(**configs["latent_encoder"]), Projector(**configs["projector"]), DiT(**configs["dit"])
    )
    quantizer = Qinco(**configs["quantizer"])
    codebooks = config.codebooks or upstream.facts["operating_point"]["finetune_codebooks"]
    if codebooks > quantizer.codebooks:
        raise ValueError(f"codebooks is {codebooks}, but the quantizer was trained with {quantizer.codebooks}")

    def init(key: jax.Array) -> Tree:
        fresh = model.init(key, CLIP_FRAMES)
        return {name: fresh[name] for name in TRAINED} | {"quantizer": quantizer.init(key)}

    def embeddings(networks: Tree, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(z, z_q), both constants: g_psi and the quantizer are frozen."""
        z_q = quantizer.decode(networks["quantizer"], batch["codes"][..., :codebooks])
        return batch["embedding"], jax.lax.stop_gradient(z_q)

    def loss(networks: Tree, product: None, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        text_key, keep_key, loss_key = jax.random.split(key, 3)
        text = denoising.caption(batch)
        text["text_mask"] = drop_text(text_key, text["text_mask"], config.text_dropout)
        z = mix_quantized(keep_key, *embeddings(networks, batch), keep=config.keep_continuous)
        network = model.conditioned_network(networks, z, **text)
        return denoising.training_loss(network, model.uncertainty(networks), loss_key, batch, config.diffusion)

    def validate(networks: Tree, batch: Batch, key: jax.Array) -> Metrics:
        z, z_q = embeddings(networks, batch)
        conditions = {
            "own": model.conditioned_network(networks, z_q),
            "other_embedding": model.conditioned_network(networks, jnp.roll(z_q, 3, axis=0)),
            "continuous": model.conditioned_network(networks, z),
        }
        return denoising.validation_losses(conditions, key, batch, config.diffusion)

    def preview(networks: Tree, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        def condition(rows: Batch) -> denoising.Network:
            return model.conditioned_network(networks, embeddings(networks, rows)[1])

        return listener.preview(networks, condition, batch, key)

    def finish(networks: Tree, draw: Callable[[], Iterator[dict]]) -> Finished:
        facts = {"finetuned": {"codebooks": codebooks, "keep_continuous": float(config.keep_continuous)}}
        return Finished({name: (configs[name], networks[name]) for name in TRAINED}, facts)

    owned = rf"^projector/|{ADAPTERS}"
    if config.train_third_stream:
        owned += r"|^dit/.*(/|_)down|^dit/down"
    listener = listening.Listener.of_model(upstream)
    frames = pooled_length(CLIP_FRAMES, model.downsample)
    clap = upstream.networks["clap"].config
    size = config.data.batch_size
    spec = denoising.batch_spec(size, model.dit.text_tokens, model.dit.text_width, clap["channels"])
    spec |= {
        "embedding": jax.ShapeDtypeStruct((size, frames, EMBEDDING_CHANNELS), jnp.float32),
        "codes": jax.ShapeDtypeStruct((size, frames, codebooks), jnp.int32),
    }
    return Stage(
        name="decoder_finetune",
        init=init,
        players=(Player("decoder", owned, loss, adamw_from(config.optimizer, config.loop.steps)),),
        batch_spec=spec,
        upstream={
            **{name: upstream.networks[name].params for name in (*TRAINED, "quantizer")},
            listening.NETWORK: listener.params,
        },
        ema=denoising.power_averages(tuple(config.ema_lengths)),
        ema_lengths=denoising.power_lengths(tuple(config.ema_lengths)),
        chosen_ema=f"{config.chosen_ema:g}",
        validate=validate,
        preview=preview,
        finish=finish,
    )
