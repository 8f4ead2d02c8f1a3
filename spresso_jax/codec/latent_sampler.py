"""Draws latents of whole sounds: one compiled program for all steps of the sampler, all windows and several draws.

What does not depend on the noised latent is computed before the first step: text tokens, the projected embeddings, the
modulation vectors of every noise level and, where the third stream is isolated, its keys and values. What comes out
stays on the device, so that nothing is waited for between the noise and the sound.
Source: S-PRESSO 4.2 (64 steps of Heun's method); Karras et al. 2024, "Guiding a diffusion model with a bad version of
itself" (autoguidance).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.codec.captions import Text
from spresso_jax.codec.windows import Windows, bucket, join, start_noise
from spresso_jax.diffusion import edm
from spresso_jax.diffusion.guidance import classifier_free, guided
from spresso_jax.diffusion.sampler import dpm_solver_pp_2m, euler, heun, sigma_grid
from spresso_jax.dit.model import Context
from spresso_jax.shapes import CLIP_FRAMES

SAMPLERS = {"heun": heun, "euler": euler, "dpm_solver_pp_2m": dpm_solver_pp_2m}
DRAWS_A_CALL, WINDOWS_A_CALL = 8, 64


class Settings(NamedTuple):
    """How a sampler draws.

    Attributes:
      seed: 0 to 2^32 - 1.
      steps: at least 2.
      sampler: one of `SAMPLERS`.
      guidance: 1 for none; above 1 goes beyond the condition, away from the reference.
      interval: noise levels (low, high) within which to guide; None for all.
    """

    seed: int = 0
    steps: int = 64
    sampler: str = "heun"
    guidance: float = 1.0
    interval: tuple[float, float] | None = None

    def check(self) -> None:
        """Raises ValueError for a setting that is out of range, naming it."""
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be within 0..{2**32 - 1}, got {self.seed}")
        if self.steps < 2:
            raise ValueError(f"need at least 2 steps, got {self.steps}")
        if not math.isfinite(self.guidance) or self.guidance < 0:
            raise ValueError(f"guidance must be a finite number of at least 0 (1 is none), got {self.guidance}")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise ValueError(f"the guidance interval must be two noise levels 0 <= low < high, got {self.interval}")


class LatentSampler:
    """A DiT with all that conditions it, ready to draw.

    Attributes:
      dit: the module.
    """

    def __init__(
        self,
        dit: Any,
        params: Any,
        projector: tuple[Any, Any] | None = None,
        weaker: tuple[Any, Any] | None = None,
        window_batch: int | None = None,
    ):
        """Nothing is compiled before the first draw.

        Args:
          dit, params: module and parameters.
          projector: f_phi and its parameters, for draws that are conditioned on embeddings.
          weaker: DiT and parameters of the reference of autoguidance; None guides away from the null caption.
          window_batch: windows that one network call evaluates, a power of two. A given number is kept whatever is drawn,
            so that draws are equal to the bit however many are made together; None chooses 1 on a CPU, where larger
            calls gain nothing, and up to 8 elsewhere, where other numbers of draws change rounding.
        """
        self.dit = dit
        self._projector = projector[0] if projector else None
        self._weaker = weaker[0] if weaker else None
        self._params = {"dit": params}
        if projector:
            self._params["projector"] = projector[1]
        if weaker:
            self._params["weaker"] = weaker[1]
        self._fixed = window_batch is not None and window_batch > 1
        self._batch = bucket(window_batch or (1 if jax.default_backend() == "cpu" else 8))
        static = ("windows", "size", "draws", "batch", "steps", "sampler", "sigma_data", "free", "auto")
        self._program = jax.jit(self._draw_program, static_argnames=static)

    def draw(
        self,
        text: Text,
        settings: Settings,
        windows: Windows,
        used: int,
        count: int,
        sigma_data: float,
        conditions: np.ndarray | None = None,
        reference_text: Text | None = None,
    ) -> list[jax.Array]:
        """Standardised latents of `count` sounds under the same conditions; draw k depends on the seed and on k alone.

        Args:
          text: caption [1, N, Dt].
          settings: of the sampler.
          windows: the cut.
          used: windows that a sound needs.
          count: of the draws.
          sigma_data: standard deviation of the latents.
          conditions: embeddings of every window [bucket(used), tokens, 64], or None.
          reference_text: what the reference of a guided draw is told: the null caption, or the same caption as the weaker
            model reads it.

        Returns:
          arrays [1, windows.frames(bucket(used)), C] on the device, of which the first windows.frames(used) count.
        """
        size = bucket(used)
        limit = max(1, self._batch // size) if self._fixed else min(DRAWS_A_CALL, max(1, WINDOWS_A_CALL // size))
        draws = limit if self._fixed else min(bucket(count), limit)
        guiding = settings.guidance != 1.0
        auto = guiding and self._weaker is not None
        texts = {"dit": text}
        if auto:
            texts["weaker"] = reference_text
        elif guiding:
            texts["dit"] = _stacked(text, reference_text)
        low, high = settings.interval or (0.0, math.inf)
        guidance = np.asarray([settings.guidance, low, high], np.float32)
        latents: list[jax.Array] = []
        for first in range(0, count, draws):
            sounds = min(draws, count - first)
            drawn = self._program(
                {name: part for name, part in self._params.items() if auto or name != "weaker"},
                texts, conditions, guidance, np.uint32(settings.seed), np.uint32(first), np.int32(sounds), np.int32(used),
                windows=windows, size=size, draws=draws, batch=min(self._batch, draws * size), steps=settings.steps,
                sampler=settings.sampler, sigma_data=sigma_data, free=guiding and not auto, auto=auto,
            )  # fmt: skip
            latents += drawn[:sounds]
        return latents

    def _draw_program(
        self, params: Any, texts: dict[str, Text], z: jax.Array | None, guidance: jax.Array, seed: jax.Array,
        first: jax.Array, sounds: jax.Array, used: jax.Array,
        *, windows: Windows, size: int, draws: int, batch: int, steps: int, sampler: str, sigma_data: float,
        free: bool, auto: bool,
    ) -> list[jax.Array]:  # fmt: skip
        sigmas = sigma_grid(steps, sigma_data=sigma_data)
        condition = None if z is None else self._projector.apply({"params": params["projector"]}, z)
        hoist = partial(_hoisted, windows=windows, sigmas=sigmas, sigma_data=sigma_data)
        main, entries = hoist(self.dit, params["dit"], texts["dit"], condition)
        scale, interval = guidance[0], (guidance[1], guidance[2])
        every = {"dit": entries}
        if auto:
            reference, every["weaker"] = hoist(self._weaker, params["weaker"], texts["weaker"], None)

        def denoise(x: jax.Array, sigma: jax.Array, entry: dict[str, Any]) -> jax.Array:
            def evaluate(noised: jax.Array, indices: jax.Array) -> jax.Array:
                def own(x: jax.Array, sigma: jax.Array, entry: dict[str, Any]) -> jax.Array:
                    return main(x, sigma, entry["dit"], indices)

                def weaker(x: jax.Array, sigma: jax.Array, entry: dict[str, Any]) -> jax.Array:
                    return reference(x, sigma, entry["weaker"], indices)

                combined = own
                if auto:
                    combined = guided(own, weaker, scale, interval)
                elif free:
                    combined = classifier_free(own, scale, interval)
                return combined(noised, sigma, entry)

            return join(evaluate, x, used, windows, size, batch, sounds)

        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), first + i))(jnp.arange(draws, dtype=jnp.uint32))
        channels = self.dit.latent_channels
        noise = jax.vmap(lambda key: start_noise(key, windows, size, channels)[0])(keys)
        x = SAMPLERS[sampler](denoise, noise, sigmas, entries=every)
        return [x[i : i + 1] for i in range(draws)]


def _hoisted(
    dit: Any, params: Any, text: Text, condition: jax.Array | None, windows: Windows, sigmas: np.ndarray, sigma_data: float
) -> tuple[Callable[..., jax.Array], Any]:
    """Denoiser of windows, and the entries that it needs at each noise level; all that x does not change is done here.

    The denoiser is `(x [R B, 500, C], sigma, entry, indices [B] of the windows) -> denoised`, R captions one after another.
    """
    variables = {"params": params}
    pooling = None if condition is None else windows.downsample
    context = dit.apply(variables, *text, condition, pooling, method="prepare")
    context = dit.apply(variables, context, CLIP_FRAMES, method="run_down")
    c_noise = edm.precondition(jnp.asarray(sigmas[:-1], jnp.float32), sigma_data, dit.precond).c_noise
    entries = dit.apply(variables, c_noise, context, method="modulations")

    def denoise(x: jax.Array, sigma: jax.Array, entry: Any, indices: jax.Array) -> jax.Array:
        told = _of_windows(context, indices)
        # One set of vectors serves all rows, unless pooled texts differ.
        rows = jax.tree.map(lambda v: v if v.shape[-2] == 1 else jnp.repeat(v, len(indices), axis=-2), entry)

        def network(x_in: jax.Array, _: jax.Array) -> jax.Array:
            return dit.apply(variables, x_in, rows, told, method="predict_modulated")

        return edm.denoise(network, x, sigma, sigma_data, precond=dit.precond)

    return denoise, entries


def _of_windows(context: Context, indices: jax.Array) -> Context:
    """The context of some windows: every caption goes with all of them, every embedding with its own."""
    captions = context.text.shape[0]
    chosen = jnp.tile(indices, captions)
    stored = context.down_keys_values
    if stored is not None:
        # Stacked blocks have their own axis before that of the windows.
        stored = {name: tuple(v[:, chosen] if name == "joint" else v[chosen] for v in pair) for name, pair in stored.items()}
    return context._replace(
        text=jnp.repeat(context.text, len(indices), axis=0),
        down=None if context.down is None else context.down[chosen],
        down_keys_values=stored,
    )


def _stacked(text: Text, reference: Text) -> Text:
    """Two captions as one batch; a pooled text that only one of them has is zero for the other."""
    states, mask = (jnp.concatenate([a, b]) for a, b in zip(text[:2], reference[:2], strict=True))
    if text[2] is None and reference[2] is None:
        return states, mask, None
    known = text[2] if text[2] is not None else reference[2]
    pooled = [jnp.zeros_like(known) if part is None else part for part in (text[2], reference[2])]
    return states, mask, jnp.concatenate(pooled)
