"""Clips -> standardised latents x0 and caption states, in float16, ready to train the diffusion stages from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.audio_ae.autoencoder import AudioAutoencoder, encode_hops
from spresso_jax.audio_ae.statistics import standardise
from spresso_jax.clap.classes import clap_class
from spresso_jax.clap.tokenizer import Tokenizer, empty_caption
from spresso_jax.shapes import CLIP_SAMPLES, HOP


@dataclass(frozen=True)
class LatentExtractor:
    """The frozen AudioAE and CLAP text tower of one model.

    Attributes:
      autoencoder, autoencoder_params: AudioAE.
      clap, clap_params: CLAP, or the text tower that stands in its place; all that counts is its `encode_text`.
      statistics: `latent_statistics` of the model's facts.
      tokenizer: of the captions, or None: then nothing can be read, and every clip has the null caption alone.
      text_tokens: N, fixed length of a tokenised caption.
    """

    autoencoder: AudioAutoencoder
    autoencoder_params: Any
    clap: Any
    clap_params: Any
    statistics: Mapping[str, Any]
    tokenizer: Tokenizer | None
    text_tokens: int

    @classmethod
    def of_model(cls, model: Any) -> LatentExtractor:
        """From a loaded model folder with audio_ae and clap.

        Raises:
          ValueError: if a network or a fact is missing.
        """
        for name in ("audio_ae", "clap"):
            if name not in model.networks:
                raise ValueError(f"{model.folder}: latents need the network {name}")
        for name in ("latent_statistics", "tokenizer", "text_tokens"):
            if name not in model.facts:
                raise ValueError(f"{model.folder}: model.json lacks {name}, which latents need")
        audio_ae, clap = model.networks["audio_ae"], model.networks["clap"]
        tokenizer = model.facts["tokenizer"]
        return cls(
            AudioAutoencoder(**audio_ae.config), audio_ae.params, clap_class(clap.class_name)(**clap.config), clap.params,
            model.facts["latent_statistics"], Tokenizer.from_json(tokenizer) if tokenizer else None,
            model.facts["text_tokens"],
        )  # fmt: skip

    def records(self, clips: Iterable[Mapping[str, Any]]) -> Iterator[tuple[dict, dict[str, np.ndarray]]]:
        """One (meta, arrays) a clip, in order.

        Args:
          clips: {"id", "captions", "audio" [S, 1], "valid"} as `data_pipeline.loader.ordered_clips` gives them.

        Yields:
          meta {"id", "caption"} and arrays: `latent` [T, 128] float16 (standardised; T a multiple of 500, so that a handful
          of programs is compiled), `weight` [T] float16 (1 on frames of sound, 0 on padding), and for each caption `text`
          [A, N, Dt] float16, `text_mask` [A, N] uint8, `pooled_text` [A, E] float16.
        """
        encode, read_text = jax.jit(self._encode), jax.jit(self._read_text)
        nothing = empty_caption(self.text_tokens)
        for clip in clips:
            audio, valid = np.asarray(clip["audio"], np.float32), int(clip["valid"])
            padded = np.zeros((1, -(-max(len(audio), 1) // CLIP_SAMPLES) * CLIP_SAMPLES, 1), np.float32)
            padded[0, : len(audio)] = audio
            latent = np.asarray(encode(self.autoencoder_params, padded))[0]
            captions = (list(clip["captions"]) if self.tokenizer else []) or [""]
            parts = []
            for caption in captions:
                tokens, mask = self.tokenizer.encode(caption, self.text_tokens) if self.tokenizer else nothing
                states, pooled = read_text(self.clap_params, tokens[None], mask[None])
                # An empty caption is the null caption: the DiT then sees its learned padding alone.
                parts.append((np.asarray(states)[0], mask & bool(caption.strip()), np.asarray(pooled)[0]))
            text, masks, pooled_text = (np.stack(column) for column in zip(*parts, strict=True))
            yield (
                {"id": clip["id"], "caption": captions},
                {
                    "latent": latent.astype(np.float16),
                    "weight": (np.arange(len(latent)) * HOP < valid).astype(np.float16),
                    "text": text.astype(np.float16),
                    "text_mask": masks.astype(np.uint8),
                    "pooled_text": pooled_text.astype(np.float16),
                },
            )

    def _encode(self, params: Any, audio: jax.Array) -> jax.Array:
        latent = encode_hops(self.autoencoder, params, audio)
        facts = self.statistics
        return standardise(latent, jnp.asarray(facts["mean"]), jnp.asarray(facts["std"]), facts["sigma_data"])

    def _read_text(self, params: Any, tokens: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.clap.apply({"params": params}, tokens, mask, method="encode_text")
