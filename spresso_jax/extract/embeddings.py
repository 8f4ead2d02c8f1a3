"""Cached latents -> embeddings z of several crops a clip, and their codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.diffusion_autoencoder.encoder import LatentEncoder, mostly_sound
from spresso_jax.quantizer import assign
from spresso_jax.quantizer.qinco import Qinco
from spresso_jax.shapes import CLIP_FRAMES

Record = tuple[dict, dict[str, np.ndarray]]
BATCH = 32


@dataclass(frozen=True)
class EmbeddingExtractor:
    """The frozen g_psi of one model, and its quantizer once there is one."""

    encoder: LatentEncoder
    encoder_params: Any
    quantizer: Qinco | None = None
    quantizer_params: Any = None

    @classmethod
    def of_model(cls, model: Any) -> EmbeddingExtractor:
        """From a loaded model folder with latent_encoder, and quantizer if there is one."""
        encoder, quantizer = model.networks["latent_encoder"], model.networks.get("quantizer")
        return cls(
            LatentEncoder(**encoder.config),
            encoder.params,
            Qinco(**quantizer.config) if quantizer else None,
            quantizer.params if quantizer else None,
        )

    def crops(self, records: Iterable[Record], crops: int, seed: int) -> Iterator[Record]:
        """Windows of 500 frames with their embeddings, `crops` draws a clip.

        A clip of one window is given once at offset 0, and again with its start moved, when `crops` asks for more: the
        sound's beginning is then replaced by its own silence at the end, so that a codeword sees sounds at any phase of
        the pooling grid.

        Yields:
          meta with "crop", and arrays `latent` [500, 128], `weight` [500], the caption arrays, `embedding` [F, 64] float32.
        """
        encode = jax.jit(lambda params, x0: self.encoder.apply({"params": params}, x0))
        for group in _grouped(_windows(records, crops, seed), BATCH):
            latents = np.stack([arrays["latent"] for _, arrays in group]).astype(np.float32)
            padded = np.concatenate([latents, np.zeros((BATCH - len(group), *latents.shape[1:]), np.float32)])
            for (meta, arrays), z in zip(group, np.asarray(encode(self.encoder_params, padded)), strict=False):
                yield meta, {**arrays, "embedding": z.astype(np.float32)}

    def coded(self, records: Iterable[Record], codebooks: int) -> Iterator[Record]:
        """Adds `codes` [F, codebooks] int32 to what `crops` gives.

        Raises:
          ValueError: if the model has no quantizer.
        """
        yield from self._with_codes(records, lambda q, params, z: assign.encode(q, params, z, codebooks), "int32")

    def coded_by_length(self, records: Iterable[Record], low: int, high: int) -> Iterator[Record]:
        """Adds `codes` [high - low + 1, F, high] to what `crops` gives: the best code of every length (-1 beyond it).

        One search gives them all (decision 19). In 16 bits a code: 137 kB a window at 25 Hz for lengths
        4 to 25, about as much as its latents.

        Raises:
          ValueError: if the model has no quantizer.
        """

        def search(quantizer: Qinco, params: Any, z: jax.Array) -> jax.Array:
            found = assign.encode_all_prefixes(quantizer, params, z)[0]
            return jnp.moveaxis(found[low - 1 : high, ..., :high], 0, 1)

        dtype = assign.code_type(self.quantizer.codewords) if self.quantizer else "int32"
        yield from self._with_codes(records, search, dtype)

    def _with_codes(self, records: Iterable[Record], search: Callable, dtype: str) -> Iterator[Record]:
        if self.quantizer is None:
            raise ValueError("codes need a model with a quantizer: train the stage quantizer first")
        encode = jax.jit(lambda params, z: search(self.quantizer, params, z))
        for group in _grouped(records, BATCH):
            z = np.stack([arrays["embedding"] for _, arrays in group])
            padded = np.concatenate([z, np.zeros((BATCH - len(group), *z.shape[1:]), np.float32)])
            for (meta, arrays), codes in zip(group, np.asarray(encode(self.quantizer_params, padded)), strict=False):
                yield meta, {**arrays, "codes": codes.astype(dtype)}

    def rows(self, records: Iterable[Record]) -> Iterator[np.ndarray]:
        """Embeddings [n, 64] of the pooling windows that are mostly sound, a clip at a time.

        Raises:
          ValueError: naming the clip, if its embeddings are not finite.
        """
        for meta, arrays in records:
            found = arrays["embedding"][mostly_sound(arrays["weight"], self.encoder.downsample)]
            if not np.isfinite(found).all():
                raise ValueError(f"clip {meta['id']}: its embeddings are not finite: look at its latents, or leave it out")
            yield found


def _windows(records: Iterable[Record], crops: int, seed: int) -> Iterator[Record]:
    """Crops of 500 frames: the first at the start, the others at random starts, each a pure function of (seed, clip)."""
    for number, (meta, arrays) in enumerate(records):
        rng = np.random.default_rng((seed, number))
        latent, weight = arrays["latent"], arrays["weight"]
        captions = {name: arrays[name] for name in ("text", "text_mask", "pooled_text") if name in arrays}
        for crop in range(crops):
            sound = int(np.count_nonzero(weight))
            start = 0 if crop == 0 else int(rng.integers(0, max(sound - CLIP_FRAMES // 10, 1)))
            if weight[-1] > 0:  # no padding to run into: stay inside the sound
                start = min(start, len(latent) - CLIP_FRAMES)
            # Past the end of the record comes its last frame, which is padding, never its beginning.
            index = np.minimum(start + np.arange(CLIP_FRAMES), len(latent) - 1)
            yield {**meta, "crop": crop}, {"latent": latent[index], "weight": weight[index], **captions}


def _grouped(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    group: list[Record] = []
    for record in records:
        group.append(record)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
