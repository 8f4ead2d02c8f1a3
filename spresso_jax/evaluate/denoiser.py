"""The denoiser of a model folder as something that `conditioning_gain` can ask, and the conditions it can be given.

Loss and covariance count the frames of the clip itself, not its zero padding: on padding every denoiser is perfect.

Source: S-PRESSO 3.3; EDM 5 (loss per noise level).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.audio_ae.autoencoder import encode_hops
from spresso_jax.audio_ae.statistics import standardise
from spresso_jax.checkpoints.weights import Model, ModelFolderError, Network
from spresso_jax.codec.networks import build
from spresso_jax.diffusion import edm
from spresso_jax.diffusion_autoencoder.model import null_caption
from spresso_jax.evaluate.conditioning_gain import (
    conditioning_gain,
    latent_covariance,
    wiener_loss_in_bins,
)
from spresso_jax.quantizer import assign
from spresso_jax.shapes import CLIP_FRAMES, CLIP_SAMPLES, frames_of

WIENER_BLOCKS = (1, 4)


@dataclass(frozen=True)
class Probe:
    """Networks of one model folder, ready to measure on.

    Attributes:
      modules: name -> module.
      params: name -> parameters.
      facts: the model's facts.
    """

    modules: Mapping[str, Any]
    params: Mapping[str, Any]
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, model: Model) -> Probe:
        """Builds what the model has of: audio_ae, dit, latent_encoder, projector, quantizer, clap.

        Raises:
          ModelFolderError: if the AudioAE or the DiT is missing.
        """
        for name in ("audio_ae", "dit"):
            if name not in model.networks:
                raise ModelFolderError(f"the model has no network {name!r}: its denoising loss cannot be measured")
        modules, params = {}, {}
        for name, network in model.networks.items():
            config = dict(network.config)
            if jax.default_backend() == "cpu" and config.get("dtype") == "bfloat16":
                config["dtype"] = "float32"
            modules[name] = build(name, Network(config, {}, network.class_name))
            params[name] = jax.device_put(network.params)
        return cls(modules, params, model.facts)

    @property
    def sigma_data(self) -> float:
        """Deviation of the standardised latents."""
        return float(self.facts["latent_statistics"].get("sigma_data", 0.5))

    def latents(self, clips: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Clips [S] at 48 kHz, cut or padded to 5 s -> {"latent" [N, 500, C], "weight" [N, 500]}.

        The weight is 1 on the frames of the clip itself and 0 on its padding.
        """
        statistics = self.facts["latent_statistics"]
        mean, std = (jnp.asarray(statistics[key], jnp.float32) for key in ("mean", "std"))
        module = self.modules["audio_ae"]

        @jax.jit
        def encode(params: Any, audio: jax.Array) -> jax.Array:
            return standardise(encode_hops(module, params, audio), mean, std, self.sigma_data)

        latent, weight = [], np.zeros((len(clips), CLIP_FRAMES), np.float32)
        for row, clip in enumerate(clips):
            audio = np.zeros((1, CLIP_SAMPLES, 1), np.float32)
            audio[0, : min(clip.size, CLIP_SAMPLES), 0] = clip[:CLIP_SAMPLES]
            latent.append(np.asarray(encode(self.params["audio_ae"], audio))[0])
            weight[row, : min(CLIP_FRAMES, frames_of(clip.size))] = 1.0
        return {"latent": np.stack(latent), "weight": weight}

    def embeddings(self, latent: np.ndarray) -> np.ndarray:
        """[N, 500, C] -> continuous z [N, F, 64]."""
        module = self.modules["latent_encoder"]
        encode = jax.jit(lambda params, x: module.apply({"params": params}, x))
        rows = [np.asarray(encode(self.params["latent_encoder"], row[None]))[0] for row in latent]
        return np.stack(rows)

    def quantized(self, z: np.ndarray, codebooks: Sequence[int]) -> dict[int, np.ndarray]:
        """z [N, F, 64] -> M -> z_q [N, F, 64], each M searched on its own (the best beam of that prefix)."""
        module, params = self.modules["quantizer"], self.params["quantizer"]
        result = {}
        for used in codebooks:
            codes = assign.encode(module, params, z, used)
            result[used] = np.asarray(module.decode(params, codes))
        return result

    def captions(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        """Captions -> {"text" [N, L, Dt], "mask" [N, L], and "pooled" [N, E] if the DiT takes it}."""
        from spresso_jax.clap.tokenizer import Tokenizer

        dit, clap = self.modules["dit"], self.modules["clap"]
        tokenizer = Tokenizer.from_json(self.facts["tokenizer"])
        encode = jax.jit(lambda p, ids, valid: clap.apply({"params": p}, ids, valid, method="encode_text"))
        rows = []
        for caption in captions:
            ids, mask = tokenizer.encode(caption, dit.text_tokens)
            states, pooled = encode(self.params["clap"], ids[None], mask[None])
            rows.append((np.asarray(states[0], np.float32), np.asarray(mask), np.asarray(pooled[0], np.float32)))
        texts, masks, pooled = (np.stack(column) for column in zip(*rows, strict=True))
        return {"text": texts, "mask": masks} | ({"pooled": pooled} if dit.pooled_text_width else {})

    def denoising_loss(self) -> Callable[[Any, Any, jax.Array, jax.Array], jax.Array]:
        """(latents, condition, key, sigma [B]) -> [B] raw lambda * MSE over the clip's frames.

        The condition is {"z": ...}, or what `captions` returns; the other input is the null caption or absent.
        """
        dit, sigma_data = self.modules["dit"], self.sigma_data
        projector, downsample = self.modules.get("projector"), self._downsample()

        @jax.jit
        def loss(params: Any, x0: Any, condition: Any, key: jax.Array, sigma: jax.Array) -> jax.Array:
            latent = x0["latent"]
            text, mask, pooled = condition.get("text"), condition.get("mask"), condition.get("pooled")
            if text is None:
                text, mask = null_caption(dit, latent.shape[0])
            down = None
            if "z" in condition:
                down = projector.apply({"params": params["projector"]}, condition["z"])
            pooling = None if down is None else downsample
            variables = {"params": params["dit"]}
            context = dit.apply(variables, text, mask, pooled, down, pooling, method="prepare")

            def network(x_in: jax.Array, c_noise: jax.Array) -> jax.Array:
                return dit.apply(variables, x_in, c_noise, context, method="predict")

            noise = jax.random.normal(key, latent.shape, jnp.float32)
            return edm.loss_at(
                network, latent, noise, sigma, sigma_data=sigma_data, precond=dit.precond, frame_weights=x0["weight"]
            ).raw

        params = {name: self.params[name] for name in ("dit", "projector") if name in self.params}
        return lambda x0, condition, key, sigma: loss(params, x0, condition, key, sigma)

    def _downsample(self) -> int | None:
        encoder = self.modules.get("latent_encoder")
        return None if encoder is None else encoder.downsample


def measure_gain(
    model: Model,
    clips: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    codebooks: Sequence[int] = (),
    repeats: int = 2,
    batch: int = 4,
    seed: int = 0,
) -> dict:
    """Conditioning gain of every condition that the model takes, and the Wiener denoiser's loss in the same bins.

    Args:
      model: a finished codec (continuous z, and z_q for every M), or a text-to-audio model (captions).
      clips: [S] at 48 kHz, held-out.
      captions: one a clip; clips without a caption stay out of the caption gain.
      codebooks: numbers M; ignored without a quantizer.

    Returns:
      {"conditioning_gain": label -> ConditioningGain as JSON, "wiener": label -> loss per bin,
      "gain_clips": N, "sigma_data"}: what scores.json holds for a model.
    """
    probe = Probe.of(model)
    latents = probe.latents(clips)
    settings = dict(sigma_data=probe.sigma_data, repeats=repeats, batch=batch, seed=seed)
    loss = probe.denoising_loss()
    gains = {}
    if "latent_encoder" in probe.modules:
        z = probe.embeddings(latents["latent"])
        gains["continuous z"] = conditioning_gain(loss, latents, {"z": z}, **settings)
        if "quantizer" in probe.modules:
            for used, z_q in probe.quantized(z, sorted(codebooks)).items():
                gains[f"{used} codebooks"] = conditioning_gain(loss, latents, {"z": z_q}, **settings)
    elif "clap" in probe.modules and probe.facts.get("tokenizer") and sum(1 for c in captions if c) >= 2:
        kept = np.flatnonzero([bool(c) for c in captions])
        own = probe.captions([captions[i] for i in kept])
        rows = {name: array[kept] for name, array in latents.items()}
        gains["caption"] = conditioning_gain(loss, rows, own, **settings)
    if not gains:
        return {}
    bins = next(iter(gains.values())).bins
    edges = [b.low for b in bins] + [bins[-1].high]
    wiener = {}
    for block in WIENER_BLOCKS:
        covariance = latent_covariance(latents["latent"], latents["weight"] > 0, block)
        frames = "one frame" if block == 1 else f"{block} frames"
        wiener[f"Wiener, {frames}"] = wiener_loss_in_bins(covariance, edges, probe.sigma_data).tolist()
    return {
        "conditioning_gain": {label: gain.to_json() for label, gain in gains.items()},
        "wiener": wiener,
        "gain_clips": len(clips),
        "sigma_data": probe.sigma_data,
    }


def clap_embedding(model: Model) -> Callable[[np.ndarray], np.ndarray]:
    """The audio tower of a model's CLAP as an embedding for retrieval: [S] at 48 kHz -> [E] of unit length.

    A clip shorter than the tower's window is repeated, as in training ("repeatpad" would betray the exact length, so
    the repetition is cut at the window's end); a longer one is cut.

    Raises:
      ModelFolderError: if the model has no CLAP, or one without an audio tower.
    """
    if "clap" not in model.networks:
        raise ModelFolderError("the model has no network 'clap': give a model folder that a CLAP run wrote")
    network = model.networks["clap"]
    module = build("clap", network)
    if not hasattr(module, "encode_audio"):
        raise ModelFolderError(f"the network 'clap' is a {network.class_name}, which reads captions only: name another CLAP")
    params = jax.device_put(network.params)
    encode = jax.jit(lambda p, audio: module.apply({"params": p}, audio, method="encode_audio"))
    length = module.samples

    def embed(audio: np.ndarray) -> np.ndarray:
        whole = np.tile(audio, -(-length // audio.size))[:length].astype(np.float32)
        return np.asarray(encode(params, whole[None, :, None]))[0]

    return embed
