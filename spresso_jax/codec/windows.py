"""Five-second windows over sounds of any length: arithmetic, filling, and the denoiser that joins overlapping windows.

The models know clips of 500 frames. Codes of consecutive windows never overlap, since overlap would cost bits. Only the
decoder's windows overlap, by about a second: one noise is drawn for the whole sound, every denoiser call sees all
windows of the one noised latent, and the *denoised* estimates are cross-faded across each seam. So both sides of a
seam agree at every noise level, and there is nothing to mend afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.shapes import CLIP_FRAMES, FRAME_RATE, pooled_length

Evaluate = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Windows:
    """How a sound is cut into clips of `CLIP_FRAMES` frames.

    Attributes:
      downsample: t, latent frames of a compressed frame.
      overlap: compressed frames that two decode windows share; None means about one second, at most half a clip.

    Raises:
      ValueError: if more than two windows would cover one frame.
    """

    downsample: int
    overlap: int | None = None

    def __post_init__(self):
        most = self.tokens - -(-CLIP_FRAMES // (2 * self.downsample))
        if self.overlap is None:
            object.__setattr__(self, "overlap", min(max(1, round(FRAME_RATE / self.downsample)), most))
        if not 0 <= self.overlap <= most:
            raise ValueError(f"overlap must be within 0..{most} compressed frames, got {self.overlap}")

    @property
    def tokens(self) -> int:
        """Compressed frames of a clip: floor(500 / t)."""
        return pooled_length(CLIP_FRAMES, self.downsample)

    @property
    def encode_stride(self) -> int:
        """Latent frames between encode windows: their codes are consecutive."""
        return self.tokens * self.downsample

    @property
    def token_stride(self) -> int:
        return self.tokens - self.overlap

    @property
    def stride(self) -> int:
        """Latent frames between decode windows."""
        return self.token_stride * self.downsample

    def encode_count(self, frames: int) -> int:
        """Windows that the encoder needs for `frames` latent frames."""
        return -(-frames // self.encode_stride)

    def encode_frames(self, frames: int) -> int:
        """Length to which `frames` are padded for the encoder."""
        return (self.encode_count(frames) - 1) * self.encode_stride + CLIP_FRAMES

    def count(self, frames: int) -> int:
        """Windows that the decoder needs to cover `frames` latent frames."""
        return 1 if frames <= CLIP_FRAMES else 1 + -(-(frames - CLIP_FRAMES) // self.stride)

    def frames(self, count: int) -> int:
        """Latent frames that `count` decode windows cover."""
        return CLIP_FRAMES + (count - 1) * self.stride

    def conditions(self, z: np.ndarray, silence: np.ndarray, count: int) -> np.ndarray:
        """Embeddings of every decode window: z [F, D] -> [count, tokens, D].

        Tokens beyond the end are those of a silent clip at the same place of the window, so that a short sound is
        decoded as the encoder saw it: followed by silence.

        Args:
          z: embedding of the whole sound.
          silence: embedding of a silent clip, [tokens, D].
          count: number of windows.
        """
        position = np.arange(count)[:, None] * self.token_stride + np.arange(self.tokens)[None, :]
        inside = position < len(z)
        return np.where(inside[..., None], z[np.minimum(position, len(z) - 1)], silence[None]).astype(np.float32)

    def fade(self) -> np.ndarray:
        """Weights of a window's frames, float32 [500]: two windows' weights add up to one across a seam."""
        shared = CLIP_FRAMES - self.stride
        weights = np.ones(CLIP_FRAMES, np.float32)
        if shared > 0:
            ramp = (np.arange(shared, dtype=np.float32) + 0.5) / shared
            weights[:shared] = ramp
            weights[-shared:] = ramp[::-1]
        return weights


def bucket(count: int) -> int:
    """The power of two that is at least `count`: few sizes, few compilations."""
    return 1 << (count - 1).bit_length()


def start_noise(key: jax.Array, windows: Windows, count: int, channels: int) -> jax.Array:
    """Unit noise of a whole sound, [1, frames(count), channels]; each stretch has its own key.

    A longer sound therefore begins with the noise of a shorter one.
    """
    total = windows.frames(count)
    stretches = -(-total // CLIP_FRAMES)
    draw = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (CLIP_FRAMES, channels)))
    return draw(jnp.arange(stretches)).reshape(1, -1, channels)[:, :total]


def join(
    evaluate: Evaluate,
    x: jax.Array,
    used: jax.Array,
    windows: Windows,
    size: int,
    batch: int,
    sounds: jax.Array | int = 1,
) -> jax.Array:
    """Denoised estimates of whole sounds from estimates of their windows, cross-faded where they overlap.

    Every call evaluates `batch` windows, sound by sound, so that what a window gives does not depend on how many sounds
    there are.

    Args:
      evaluate: (noised windows [batch, 500, C], their indices within the sound [batch]) -> denoised windows.
      x: noised latents [V, windows.frames(size), C].
      used: number of windows that a sound needs, at most `size`; no others are evaluated, so that the rounding up to a
        bucket costs memory but no time. May be traced.
      windows: the cut.
      size: static number of windows that a sound in x holds.
      batch: windows a call; must divide V * size.
      sounds: number of sounds that are needed, at most V. May be traced.

    Returns:
      [V, windows.frames(size), C]; zero beyond the last used window, and for sounds that are not needed (unless all V
      fit into one call).
    """
    if size == 1 and batch == len(x):
        return evaluate(x, jnp.zeros(batch, jnp.int32))
    fade = jnp.asarray(windows.fade() if size > 1 else np.ones(CLIP_FRAMES, np.float32))[:, None]

    def one_batch(i: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        total, weights = sums
        rows = i * batch + jnp.arange(batch)
        which, indices = jnp.minimum(rows // used, len(x) - 1), rows % used
        starts = indices * windows.stride
        noised = jax.vmap(lambda sound, start: jax.lax.dynamic_slice_in_dim(x[sound], start, CLIP_FRAMES))(which, starts)
        denoised = evaluate(noised, indices)
        for row in range(batch):
            share = jnp.where(rows[row] < used * sounds, fade, 0.0)
            total = _add(total, share * denoised[row], which[row], starts[row])
            weights = _add(weights, share, which[row], starts[row])
        return total, weights

    sums = jnp.zeros_like(x), jnp.zeros((*x.shape[:2], 1), x.dtype)
    total, weights = jax.lax.fori_loop(0, -(-used * sounds // batch), one_batch, sums)
    return total / jnp.where(weights > 0, weights, 1.0)


def map_chunks(
    function: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    units_in: int,
    units_out: int,
    halo: int,
    frames: int | None = None,
) -> np.ndarray:
    """Applies a function of limited reach to a long array in chunks of constant size, so that memory stays bounded.

    Beyond `x` and the result, no more than a chunk is held.

    Args:
      function: [1, L * units_in, C] -> [1, L * units_out, C'], whose outputs depend on at most `halo` frames either
        side. It is called with one L for short and one for long arrays.
      x: [S, C].
      units_in, units_out: rows of a frame before and after (480 for audio, 1 for latents).
      halo: frames of context that each chunk is given beyond what is kept, less than `CLIP_FRAMES` / 2.
      frames: of the result, at least ceil(S / units_in), which is the default; zeros follow x.

    Returns:
      [frames * units_out, C'], equal up to rounding to the function of the whole array, followed by zeros up to
      `CLIP_FRAMES` frames if it is shorter.
    """
    frames = -(-len(x) // units_in) if frames is None else frames
    # Sounds between the two lengths take overlapping short chunks, since zeros would hide their end from the function.
    length = CLIP_FRAMES if frames < CLIP_FRAMES + 2 * halo else CLIP_FRAMES + 2 * halo
    kept = length if frames <= length else length - 2 * halo
    result = None
    for first in range(0, frames, kept):
        start = max(0, min(first - halo, frames - length))
        out = np.asarray(function(_rows(x, start * units_in, length * units_in)[None]))[0]
        last = min(first + kept, frames)
        if result is None:
            result = np.empty((frames * units_out, out.shape[1]), out.dtype)
        result[first * units_out : last * units_out] = out[(first - start) * units_out : (last - start) * units_out]
    return result


def _rows(x: np.ndarray, start: int, count: int) -> np.ndarray:
    """Rows start..start + count of an array that zeros follow."""
    piece = x[start : start + count]
    return piece if len(piece) == count else np.pad(piece, ((0, count - len(piece)), (0, 0)))


def _add(total: jax.Array, piece: jax.Array, sound: jax.Array, start: jax.Array) -> jax.Array:
    """Adds piece [L, C] to rows start..start + L of one sound of total [V, T, C]."""
    corner = (sound, start, 0)
    before = jax.lax.dynamic_slice(total, corner, (1, *piece.shape))
    return jax.lax.dynamic_update_slice(total, before + piece[None], corner)
