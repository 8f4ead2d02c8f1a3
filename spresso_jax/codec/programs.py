"""The codec's compiled programs: its networks, their parameters on the device, and one jitted function for each task.

The AudioAE has its own in `latent_codec.py`, the sampler in `latent_sampler.py`. Parameters are arguments of every program,
so that no weight is baked into compiled code, and every program is compiled once for each shape and kept as long as its
`Programs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from spresso_jax.checkpoints.weights import ModelFolderError, Network
from spresso_jax.codec.completeness import CODEC_NETWORKS, EMBEDDING_NETWORKS
from spresso_jax.codec.latent_sampler import LatentSampler
from spresso_jax.codec.networks import prepared
from spresso_jax.codec.windows import bucket
from spresso_jax.quantizer import assign

# Rows of the shortest program that turns codes into embeddings: more than one clip of 5 s at 25 Hz.
LEAST_ROWS = 128

NETWORKS = tuple(name for name in CODEC_NETWORKS if name != "audio_ae")


class Programs:
    """Networks of one model beyond its AudioAE, ready to run.

    Attributes:
      modules: name -> Linen module (the quantizer: its sizes; absent where the model has none).
      sampler: draws latents under embeddings.
    """

    def __init__(self, networks: Mapping[str, Network], window_batch: int | None):
        """Checks and places the parameters of the codec's networks beyond the AudioAE; arguments as in `Codec`.

        Raises:
          ModelFolderError: if a network is missing or its parameters do not belong to its config.
        """
        on_cpu = jax.default_backend() == "cpu"
        self.modules: dict[str, Any] = {}
        self._params: dict[str, Any] = {}
        for name in NETWORKS:
            if name not in networks:
                if name not in EMBEDDING_NETWORKS:
                    continue
                raise ModelFolderError(f"the model has no network {name!r}, which the codec needs: export it again")
            self.modules[name], self._params[name] = prepared(name, networks[name], on_cpu)
        self._embed_window = jax.jit(self._embed_window_program)
        projector = self.modules["projector"], self._params["projector"]
        self.sampler = LatentSampler(
            self.modules["dit"], self._params["dit"], projector, window_batch=window_batch
        )

    def embedding(self, latent: np.ndarray) -> np.ndarray:
        """Standardised latent of one clip [500, C] -> z [tokens, 64]."""
        return np.asarray(self._embed_window(self._params["latent_encoder"], latent[None]))[0]

    def codes(self, z: np.ndarray, codebooks: int) -> np.ndarray:
        """Embeddings [..., 64] -> codes [..., M]; the quantizer standardises with its own statistics."""
        return np.asarray(assign.encode(self.modules["quantizer"], self._params["quantizer"], z, codebooks))

    def quantized(self, codes: np.ndarray) -> np.ndarray:
        """Codes [..., m] -> embeddings z_q [..., 64] in the units of z; a power of two of rows, so that few sizes compile."""
        rows = np.reshape(codes, (-1, codes.shape[-1]))
        padded = np.pad(rows, ((0, max(LEAST_ROWS, bucket(len(rows))) - len(rows)), (0, 0)))
        z = np.asarray(self.modules["quantizer"].decode(self._params["quantizer"], padded))
        return z[: len(rows)].reshape(*codes.shape[:-1], -1)

    def _embed_window_program(self, params: Any, latent: jax.Array) -> jax.Array:
        return self.modules["latent_encoder"].apply({"params": params}, latent)
