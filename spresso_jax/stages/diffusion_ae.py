"""Stage 4, diffusion autoencoder (the paper's step 1): g_psi, f_phi and the third stream, LoRA on the pretrained DiT.

Source: S-PRESSO 3.3 and 4.2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.audio_ae.statistics import LatentStatistics
from spresso_jax.configuration import to_plain
from spresso_jax.diffusion.guidance import drop_text
from spresso_jax.diffusion_autoencoder.encoder import LatentEncoder, Projector
from spresso_jax.diffusion_autoencoder.model import DiffusionAutoencoder
from spresso_jax.dit.model import DiT, init_down_from_audio
from spresso_jax.nn.lora import scaling
from spresso_jax.shapes import CLIP_FRAMES, CLIP_SAMPLES, EMBEDDING_CHANNELS, pooled_length
from spresso_jax.stages import denoising, listening
from spresso_jax.train.optimizers import adamw_from
from spresso_jax.train.stage import Batch, Finished, Metrics, Player, Stage, Tree

NETWORKS = ("latent_encoder", "projector", "dit")
NEW_LEAVES = r"^(latent_encoder|projector)/|^dit/.*(/|_)down|^dit/down"
ADAPTERS = r"^dit/.*lora_[ab]$|^dit/uncertainty_head/"


def build(config: Any, upstream: Any) -> Stage:
    """The stage of `experiments/diffusion_ae.py` on the text-to-audio DiT of an upstream model."""
    base = upstream.networks["dit"]
    _check_config(config, base.config)
    fields = {
        "latent_encoder": {
            **to_plain(config.encoder),
            "depth": config.rate.encoder_depth,
            "downsample": config.rate.downsample,
            "embedding_channels": EMBEDDING_CHANNELS,
        },
        "projector": {"width": base.config["width"]},
        "dit": {**base.config, **to_plain(config.third_stream), **to_plain(config.lora), "third_stream": True},
    }
    model = DiffusionAutoencoder(
        LatentEncoder(**fields["latent_encoder"]), Projector(**fields["projector"]), DiT(**fields["dit"])
    )
    fresh_dit = not base.config.get("third_stream", False)
    # A model that already has this autoencoder is gone on with; a text-to-audio model gets one.
    names = ("dit",) if fresh_dit else NETWORKS
    inherited = {name: upstream.networks[name].params for name in names}

    def start(networks: Tree, draw: Callable[[], Iterator[dict]]) -> Tree:
        return {**networks, "dit": init_down_from_audio(networks["dit"])} if fresh_dit else networks

    def loss(networks: Tree, product: None, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        text_key, loss_key = jax.random.split(key)
        text = denoising.caption(batch)
        text["text_mask"] = drop_text(text_key, text["text_mask"], config.text_dropout)
        network = model.conditioned_network(networks, model.encode(networks, batch["latent"]), **text)
        uncertainty = model.uncertainty(networks)
        return denoising.training_loss(network, uncertainty, loss_key, batch, config.diffusion, model.dit.precond)

    def validate(networks: Tree, batch: Batch, key: jax.Array) -> Metrics:
        z = model.encode(networks, batch["latent"])
        conditions = {
            "own": model.conditioned_network(networks, z),
            "other_embedding": model.conditioned_network(networks, jnp.roll(z, 3, axis=0)),
        }
        return denoising.validation_losses(conditions, key, batch, config.diffusion, model.dit.precond)

    def preview(networks: Tree, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        def condition(rows: Batch) -> denoising.Network:
            return model.conditioned_network(networks, model.encode(networks, rows["latent"]))

        return listener.preview(networks, condition, batch, key, model.dit.precond)

    def finish(networks: Tree, draw: Callable[[], Iterator[dict]]) -> Finished:
        facts = {
            "operating_point": operating_point(config),
            "embedding_statistics": _embedding_statistics(model, networks, draw, config.statistics_batches),
            "silence_embedding": _silence_embedding(model, networks, listener),
            "diffusion": to_plain(config.diffusion),
        }
        return Finished({name: (fields[name], networks[name]) for name in NETWORKS}, facts)

    listener = listening.Listener.of_model(upstream)
    clap = upstream.networks["clap"].config
    return Stage(
        name="diffusion_ae",
        init=lambda key: model.init(key, CLIP_FRAMES),
        players=(
            Player("autoencoder", f"{NEW_LEAVES}|{ADAPTERS}", loss, adamw_from(config.optimizer, config.loop.steps)),
        ),
        batch_spec=denoising.batch_spec(
            config.data.batch_size, model.dit.text_tokens, model.dit.text_width, clap["channels"]
        ),
        upstream={**inherited, listening.NETWORK: listener.params},
        start=start,
        project=denoising.projection(model.dit, config.optimizer),
        ema=denoising.power_averages(tuple(config.ema_lengths)),
        ema_lengths=denoising.power_lengths(tuple(config.ema_lengths)),
        # g_psi's average is fixed here, before any quantizer sees its embeddings (decision 17).
        chosen_ema=f"{config.chosen_ema:g}",
        validate=validate,
        preview=preview,
        finish=finish,
    )


def _check_config(config: Any, base: Any) -> None:
    """Refuses a frame rate without a frame, and adapters other than those of a DiT that has them already.

    Raises:
      ValueError: naming the key.
    """
    downsample = config.rate.downsample
    if not 1 <= downsample <= CLIP_FRAMES:
        raise ValueError(
            f"rate.downsample is {downsample}: a clip has {CLIP_FRAMES} latent frames, so that it must lie within 1 to"
            f" {CLIP_FRAMES}"
        )
    rank, alpha = base.get("lora_rank", 0), base.get("lora_alpha", 0.0)
    if base.get("third_stream", False) and rank:
        same_scale = scaling(config.lora.lora_rank, config.lora.lora_alpha) == scaling(rank, alpha)
        if config.lora.lora_rank != rank or not same_scale:
            raise ValueError(
                f"lora.lora_rank and lora.lora_alpha are {config.lora.lora_rank} and {config.lora.lora_alpha:g}, but the"
                f" adapters of the upstream DiT have rank {rank} and alpha {alpha or rank:g}: --set lora.lora_rank={rank}"
                f" --set lora.lora_alpha={float(alpha or rank)}, or start from a text_to_audio model"
            )


def operating_point(config: Any) -> dict[str, Any]:
    """The row of rates.py that the model serves, for `model.json`."""
    rate = to_plain(config.rate)
    return {
        "frame_rate": rate["frame_rate"],
        "downsample": rate["downsample"],
        "codebook_bits": rate["codebook_bits"],
        "codebooks": rate["decode_codebooks"][0],
        "decode_codebooks": rate["decode_codebooks"],
        "finetune_codebooks": rate["finetune_codebooks"],
    }


def _embedding_statistics(model: DiffusionAutoencoder, networks: Tree, draw: Callable, batches: int) -> dict[str, Any]:
    """Mean and standard deviation of z per channel, over windows that hold sound."""
    statistics = LatentStatistics(EMBEDDING_CHANNELS)
    encode = jax.jit(model.encode)
    stream = draw()
    for _ in range(batches):
        batch = next(stream)
        z = np.asarray(encode(networks, batch["latent"]))
        windows = pooled_length(batch["weight"].shape[1], model.downsample)
        share = batch["weight"][:, : windows * model.downsample].reshape(len(z), windows, -1).mean(-1)
        statistics.update(z, share > 0.5)
    facts = statistics.to_facts()
    return {name: facts[name] for name in ("mean", "std", "frames")}


def _silence_embedding(model: DiffusionAutoencoder, networks: Tree, listener: listening.Listener) -> list[list[float]]:
    """z of five seconds of silence: what stands for the windows after the end of a sound, which are never sent."""
    x0 = listener.latent(jnp.zeros((1, CLIP_SAMPLES, 1)))
    # Four decimals are finer than float16 weights resolve, and a fifth of the text.
    return np.round(np.asarray(model.encode(networks, x0), np.float64)[0], 4).tolist()
