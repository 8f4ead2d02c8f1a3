"""Stage 6, decoder finetuning (the paper's step 3): LoRA and f_phi on quantized embeddings, the original z kept at times.

With `draw_codebooks` every sample draws its own M, so that one decoder serves every bitrate. z_q of M codebooks is always
the best code of that length, as the codec sends it (decision 19), never a prefix of a longer code.
Source: S-PRESSO 3.5 and 4.2.2 (M = 10 at 10 bits, 8 at 12 bits; z kept 10 % of the time).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from spresso_jax.diffusion.guidance import drop_text
from spresso_jax.diffusion_autoencoder.encoder import LatentEncoder, Projector
from spresso_jax.diffusion_autoencoder.model import DiffusionAutoencoder, mix_quantized
from spresso_jax.dit.model import DiT
from spresso_jax.quantizer import assign
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
    codebooks, low, high = codebook_range(config, upstream)
    if config.codes not in ("stored", "on_the_fly"):
        raise ValueError(f"codes must be 'stored' or 'on_the_fly', got {config.codes!r}")
    embeddings = Embeddings(model, quantizer, low, high, on_the_fly=config.codes == "on_the_fly")

    def init(key: jax.Array) -> Tree:
        fresh = model.init(key, CLIP_FRAMES)
        return {name: fresh[name] for name in TRAINED} | {"quantizer": quantizer.init(key)}

    def loss(networks: Tree, product: None, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        text_key, keep_key, loss_key = jax.random.split(key, 3)
        text = denoising.caption(batch)
        text["text_mask"] = drop_text(text_key, text["text_mask"], config.text_dropout)
        counts = draw_counts(jax.random.fold_in(keep_key, 1), batch["latent"].shape[0], low, high)
        z = mix_quantized(keep_key, *embeddings(networks, batch, counts), keep=config.keep_continuous)
        network = model.conditioned_network(networks, z, **text)
        uncertainty = model.uncertainty(networks)
        return denoising.training_loss(network, uncertainty, loss_key, batch, config.diffusion, model.dit.precond)

    def validate(networks: Tree, batch: Batch, key: jax.Array) -> Metrics:
        z, z_q = embeddings(networks, batch, codebooks)
        conditions = {
            "own": model.conditioned_network(networks, z_q),
            "other_embedding": model.conditioned_network(networks, jnp.roll(z_q, 3, axis=0)),
            "continuous": model.conditioned_network(networks, z),
        }
        for name, count in (("fewest_codebooks", low), ("most_codebooks", high)) if embeddings.drawn else ():
            conditions[name] = model.conditioned_network(networks, embeddings(networks, batch, count)[1])
        return denoising.validation_losses(conditions, key, batch, config.diffusion, model.dit.precond)

    def preview(networks: Tree, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        def condition(rows: Batch) -> denoising.Network:
            return model.conditioned_network(networks, embeddings(networks, rows, codebooks)[1])

        return listener.preview(networks, condition, batch, key, model.dit.precond)

    def finish(networks: Tree, draw: Callable[[], Iterator[dict]]) -> Finished:
        finetuned = {"codebooks": codebooks, "keep_continuous": float(config.keep_continuous), "codes": config.codes}
        finetuned |= {"draw_codebooks": [low, high]} if embeddings.drawn else {}
        return Finished({name: (configs[name], networks[name]) for name in TRAINED}, {"finetuned": finetuned})

    owned = rf"^projector/|{ADAPTERS}"
    if config.train_third_stream:
        owned += r"|^dit/.*(/|_)down|^dit/down"
    listener = listening.Listener.of_model(upstream)
    frames = pooled_length(CLIP_FRAMES, model.downsample)
    clap = upstream.networks["clap"].config
    size = config.data.batch_size
    spec = denoising.batch_spec(size, model.dit.text_tokens, model.dit.text_width, clap["channels"])
    if not embeddings.on_the_fly:
        prefixes = (high - low + 1,) if embeddings.drawn else ()
        spec |= {
            "embedding": jax.ShapeDtypeStruct((size, frames, EMBEDDING_CHANNELS), jnp.float32),
            "codes": jax.ShapeDtypeStruct((size, *prefixes, frames, high), embeddings.code_type),
        }
    frozen = ("quantizer", "latent_encoder") if embeddings.on_the_fly else ("quantizer",)
    return Stage(
        name="decoder_finetune",
        init=init,
        players=(Player("decoder", owned, loss, adamw_from(config.optimizer, config.loop.steps)),),
        batch_spec=spec,
        upstream={
            **{name: upstream.networks[name].params for name in (*TRAINED, *frozen)},
            listening.NETWORK: listener.params,
        },
        project=denoising.projection(model.dit, config.optimizer),
        ema=denoising.power_averages(tuple(config.ema_lengths)),
        ema_lengths=denoising.power_lengths(tuple(config.ema_lengths)),
        chosen_ema=f"{config.chosen_ema:g}",
        validate=validate,
        preview=preview,
        finish=finish,
    )


@dataclass(frozen=True)
class Embeddings:
    """Where the stage's z and z_q come from: stored embeddings and codes, or g_psi and the search within the step.

    Attributes:
      model, quantizer: both frozen.
      low, high: range of the number of codebooks.
      on_the_fly: code the batch's latents instead of reading "embedding" and "codes".
    """

    model: DiffusionAutoencoder
    quantizer: Qinco
    low: int
    high: int
    on_the_fly: bool = False

    @property
    def drawn(self) -> bool:
        """Whether samples differ in their number of codebooks."""
        return self.low < self.high

    @property
    def code_type(self) -> jnp.dtype:
        """Type of stored codes: those of every length are many, and kept small."""
        return jnp.dtype(assign.code_type(self.quantizer.codewords) if self.drawn else "int32")

    def __call__(self, networks: Tree, batch: Batch, counts: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        """(z, z_q), [B, F, D] each, constants for the gradient.

        Args:
          networks: "quantizer", and "latent_encoder" when coding on the fly.
          batch: "latent"; or "embedding" and "codes", [B, F, high], or of every length [B, high - low + 1, F, high].
          counts: codebooks of each sample, [B] or one for all, within low..high.
        """
        params = networks["quantizer"]
        z = self.model.encode(networks, batch["latent"]) if self.on_the_fly else batch["embedding"]
        if not self.drawn:
            codes = assign.encode(self.quantizer, params, z, self.high) if self.on_the_fly else batch["codes"]
            return jax.lax.stop_gradient((z, self.quantizer.decode(params, codes[..., : self.high])))
        counts = jnp.broadcast_to(jnp.asarray(counts), (z.shape[0],))
        if self.on_the_fly:
            sums = assign.encode_all_prefixes(self.quantizer, params, z)[1]
        else:
            codes = jax.vmap(lambda lengths, row: lengths[row])(batch["codes"], counts - self.low)
            # Beyond its length a code is -1; what is decoded there is not taken.
            sums = self.quantizer.partial_reconstructions(params, jnp.maximum(codes, 0).astype(jnp.int32))
        return jax.lax.stop_gradient((z, sums[counts - 1, jnp.arange(z.shape[0])]))


def codebook_range(config: Any, upstream: Any) -> tuple[int, int, int]:
    """(M, low, high): codebooks of validation and previews, and the range that each sample draws its own M from.

    Without `draw_codebooks` all three are equal, and nothing is drawn.

    Raises:
      ValueError: if the quantizer has fewer codebooks, or the range is empty or leaves `codebooks` out.
    """
    have = int(upstream.networks["quantizer"].config["codebooks"])
    default = config.codebooks or upstream.facts["operating_point"]["finetune_codebooks"]
    if default > have:
        raise ValueError(f"codebooks is {default}, but the quantizer was trained with {have}")
    if not len(config.draw_codebooks):
        return default, default, default
    if len(config.draw_codebooks) != 2:
        raise ValueError(f"draw_codebooks must be (low, high) or (), got {tuple(config.draw_codebooks)}")
    low, high = (int(end) for end in config.draw_codebooks)
    high = high or have
    if not 1 <= low <= high <= have:
        raise ValueError(f"draw_codebooks ({low}, {high}) must be a range within 1 to {have}, what the quantizer has")
    if config.codebooks and not low <= config.codebooks <= high:
        raise ValueError(f"codebooks is {config.codebooks}, which draw_codebooks ({low}, {high}) leaves out")
    return min(max(default, low), high), low, high


def draw_counts(key: jax.Array, size: int, low: int, high: int) -> jax.Array:
    """[B] int32: the number of codebooks of each sample, uniform over low..high."""
    return jax.random.randint(key, (size,), low, high + 1)
