"""The codec's compiled programs: its networks, their parameters on the device, and one jitted function for each task.

The AudioAE has its own in `latent_codec.py`. Parameters are arguments of every program, so that no weight is baked into
compiled code, and every program is compiled once for each shape and kept as long as its `Programs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.checkpoints.weights import ModelFolderError, Network
from spresso_jax.codec.completeness import CODEC_NETWORKS
from spresso_jax.codec.networks import prepared
from spresso_jax.codec.windows import Windows, bucket, join, start_noise
from spresso_jax.diffusion import edm
from spresso_jax.diffusion.sampler import dpm_solver_pp_2m, euler, heun, sigma_grid
from spresso_jax.diffusion_autoencoder.model import null_caption
from spresso_jax.quantizer import assign

SAMPLERS = {"heun": heun, "euler": euler, "dpm_solver_pp_2m": dpm_solver_pp_2m}

NETWORKS = tuple(name for name in CODEC_NETWORKS if name != "audio_ae")

Context = tuple[jax.Array, jax.Array, jax.Array | None]


class Programs:
    """Networks of one model beyond its AudioAE, ready to run.

    Attributes:
      modules: name -> Linen module (the quantizer: its sizes).
    """

    def __init__(self, networks: Mapping[str, Network], window_batch: int | None):
        """Checks and places the parameters of the codec's networks beyond the AudioAE; arguments as in `Codec`.

        Raises:
          ModelFolderError: if a network is missing or its parameters do not belong to its config.
        """
        self._on_cpu = jax.default_backend() == "cpu"
        self._batch = bucket(window_batch or (1 if self._on_cpu else 8))
        self.modules: dict[str, Any] = {}
        self._params: dict[str, Any] = {}
        for name in NETWORKS:
            if name not in networks:
                raise ModelFolderError(f"the model has no network {name!r}, which the codec needs: export it again")
            self.modules[name], self._params[name] = prepared(name, networks[name], self._on_cpu)
        self._embed_window = jax.jit(self._embed_window_program)
        self._sample = jax.jit(
            self._sample_program, static_argnames=("windows", "size", "batch", "steps", "sampler", "sigma_data")
        )

    def embedding(self, latent: np.ndarray) -> np.ndarray:
        """Standardised latent of one clip [500, C] -> z [tokens, 64]."""
        return np.asarray(self._embed_window(self._params["latent_encoder"], latent[None]))[0]

    def codes(self, z: np.ndarray, codebooks: int) -> np.ndarray:
        """Embeddings [..., 64] -> codes [..., M]; the quantizer standardises with its own statistics."""
        return np.asarray(assign.encode(self.modules["quantizer"], self._params["quantizer"], z, codebooks))

    def quantized(self, codes: np.ndarray) -> np.ndarray:
        """Codes [..., m] -> embeddings z_q [..., 64] in the units of z."""
        return np.asarray(self.modules["quantizer"].decode(self._params["quantizer"], jnp.asarray(codes)))

    def null_context(self) -> Context:
        """What the DiT is told about a sound without a caption."""
        return (*null_caption(self.modules["dit"], 1), None)

    def caption_context(self, caption: str, network: Network, tokenizer: str) -> Context:
        """Text states [1, N, Dt], mask [1, N] and pooled text (None if the DiT takes none) of a caption."""
        from spresso_jax.clap.tokenizer import Tokenizer

        dit = self.modules["dit"]
        module, params = prepared("clap", network, self._on_cpu)
        tokens, mask = Tokenizer.from_json(tokenizer).encode(caption, dit.text_tokens)
        encode = jax.jit(lambda p, ids, valid: module.apply({"params": p}, ids, valid, method="encode_text"))
        states, pooled = encode(params, tokens[None], mask[None])
        return states.astype(jnp.float32), jnp.asarray(mask[None]), pooled if dit.pooled_text_width else None

    def sample(
        self,
        conditions: np.ndarray,
        used: int,
        windows: Windows,
        context: Context,
        key: jax.Array,
        steps: int,
        sampler: str,
        sigma_data: float,
    ) -> np.ndarray:
        """Draws the standardised latent of one channel.

        Args:
          conditions: embeddings of every window [size, tokens, 64], size a power of two.
          used: windows that are needed.
          windows: the cut.
          context: caption.
          key: of the noise.
          steps, sampler, sigma_data: of the sampler.

        Returns:
          [windows.frames(used), C].
        """
        size = len(conditions)
        params = {name: self._params[name] for name in ("projector", "dit")}
        x = self._sample(
            params, conditions, context, key, used, windows=windows, size=size, batch=min(size, self._batch),
            steps=steps, sampler=sampler, sigma_data=sigma_data,
        )  # fmt: skip
        return np.asarray(x)[0, : windows.frames(used)]

    def _embed_window_program(self, params: Any, latent: jax.Array) -> jax.Array:
        return self.modules["latent_encoder"].apply({"params": params}, latent)

    def _sample_program(
        self, params: Any, z: jax.Array, context: Context, key: jax.Array, used: jax.Array,
        *, windows: Windows, size: int, batch: int, steps: int, sampler: str, sigma_data: float,
    ) -> jax.Array:  # fmt: skip
        dit, variables = self.modules["dit"], {"params": params["dit"]}
        condition = self.modules["projector"].apply({"params": params["projector"]}, z)
        prepared = dit.apply(variables, *context, method="prepare")

        def repeated(part: jax.Array | None) -> jax.Array | None:
            return None if part is None else jnp.broadcast_to(part, (batch, *part.shape[1:]))

        shared = prepared._replace(
            text=repeated(prepared.text), pooled=repeated(prepared.pooled), downsample=windows.downsample
        )

        def denoise(x: jax.Array, sigma: jax.Array) -> jax.Array:
            def evaluate(noised: jax.Array, indices: jax.Array) -> jax.Array:
                told = shared._replace(down=condition[indices].astype(dit.dtype))
                return edm.denoise(
                    lambda x_in, c_noise: dit.apply(variables, x_in, c_noise, told, method="predict"),
                    noised, sigma, sigma_data,
                )  # fmt: skip

            return join(evaluate, x, used, windows, size, batch)

        noise = start_noise(key, windows, size, dit.latent_channels)
        return SAMPLERS[sampler](denoise, noise, sigma_grid(steps, sigma_data=sigma_data))
