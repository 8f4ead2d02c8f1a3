"""HTSAT, the audio tower of LAION-CLAP: a Swin transformer over a spectrogram folded into a square image.

Source: HTS-AT (arXiv:2202.00874), Swin (arXiv:2103.14030), LAION-CLAP (arXiv:2211.06687). The public towers have width
96 (tiny) or 128 (base), depths 2, 2, 6 (12), 2, heads 4, 8, 16, 32, window 8, patch 4, image 256 and 64 mel bins.
"""

from __future__ import annotations

from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from spresso_jax.clap.attention import biased_attention

NORM_EPS = 1e-5
# Swin's own number: attention between regions that the cyclic roll made neighbours is suppressed, not forbidden.
ROLLED_PENALTY = -100.0
CUBIC = -0.75
# A plain guess of level and spread in dB, so that the fixed norm is usable before statistics are stored.
DEFAULT_MEAN_DB, DEFAULT_STD_DB = -30.0, 20.0
SMALLEST_STD_DB = 1e-2


@lru_cache(maxsize=8)
def cubic_resize_matrix(target: int, source: int) -> np.ndarray:
    """Bicubic interpolation with aligned corners as a float64 `[target, source]` matrix (read-only).

    The kernel's coefficient is -0.75 and border samples repeat, which is torch's bicubic; `jax.image.resize` has
    half-pixel centres and -0.5 instead. HTSAT stretches time 1001 -> 1024 with it.
    """
    position = np.arange(target) * ((source - 1) / max(target - 1, 1))
    first = np.floor(position).astype(int)
    matrix = np.zeros((target, source))
    for tap in range(-1, 3):
        distance = np.abs(position - (first + tap))
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
        far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
        weight = np.where(distance <= 1, near, far)
        np.add.at(matrix, (np.arange(target), np.clip(first + tap, 0, source - 1)), weight)
    matrix.setflags(write=False)
    return matrix


def fold_spectrogram(features: Array, image_size: int) -> Array:
    """Folds `[B, T, mel]` features into a square image `[B, image_size, image_size]`.

    Time is stretched to image_size * ratio columns, ratio = image_size // mel, and cut into `ratio` consecutive blocks;
    the rows of the image are those blocks times the mel bands (block-major), the columns the frames inside a block.

    Raises:
      ValueError: if there are more frames than the image holds, or more mel bands than rows.
    """
    _, frames, bands = features.shape
    ratio = image_size // bands
    if ratio < 1:
        raise ValueError(f"{bands} mel bands do not fit into image_size {image_size}")
    columns, rows = image_size * ratio, image_size // ratio
    if frames > columns:
        raise ValueError(f"{frames} frames exceed {columns} (image_size {image_size}): cut samples or enlarge the hop")
    if frames < columns:
        stretch = jnp.asarray(cubic_resize_matrix(columns, frames), features.dtype)
        features = jnp.einsum("ot,btm->bom", stretch, features, precision="highest")
    if bands < rows:
        stretch = jnp.asarray(cubic_resize_matrix(rows, bands), features.dtype)
        features = jnp.einsum("om,btm->bto", stretch, features, precision="highest")
    blocks = features.reshape(-1, ratio, image_size, rows)
    return blocks.swapaxes(2, 3).reshape(-1, image_size, image_size)


def cut_windows(image: Array, window: int) -> Array:
    """`[B, height, width, C]` -> `[B, windows, window * window, C]`, row-major in windows and inside them."""
    batch, height, width, channels = image.shape
    tiles = image.reshape(batch, height // window, window, width // window, window, channels)
    return tiles.swapaxes(2, 3).reshape(batch, -1, window * window, channels)


def join_windows(windows: Array, height: int, width: int, window: int) -> Array:
    """Inverse of `cut_windows`."""
    batch, _, _, channels = windows.shape
    tiles = windows.reshape(batch, height // window, width // window, window, window, channels)
    return tiles.swapaxes(2, 3).reshape(batch, height, width, channels)


@lru_cache(maxsize=8)
def relative_positions(window: int) -> np.ndarray:
    """Row of the relative-position table for each (query, key) pair of a window, int `[window^2, window^2]`."""
    y, x = np.divmod(np.arange(window * window), window)
    return (y[:, None] - y + window - 1) * (2 * window - 1) + (x[:, None] - x + window - 1)


@lru_cache(maxsize=16)
def rolled_penalty(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """Additive penalty between tokens that only the cyclic roll put into one window, `[windows, 1, L, L]` float32."""

    def zone(size):
        index = np.arange(size)
        return (index >= size - window).astype(int) + (index >= size - shift)

    zones = np.asarray(3 * zone(height)[:, None] + zone(width)[None, :])
    tiles = cut_windows(zones[None, :, :, None], window)[0, :, :, 0]
    differ = tiles[:, :, None] != tiles[:, None, :]
    return np.where(differ, ROLLED_PENALTY, 0.0).astype(np.float32)[:, None]


class InputNorm(nn.Module):
    """Normalises each mel band with stored statistics, which are parameters that no gradient reaches.

    'batch' is inference-time batch norm (leaves mean, var, scale, bias), what imported towers have; 'fixed' is
    (x - mean) / std (leaves mean, std) for training from scratch. Neither keeps mutable state: measure the statistics
    once with `input_statistics`, and leave mean, var and std out of the trained parameters.
    """

    kind: str
    bins: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """`[B, T, mel]` in dB -> `[B, T, mel]`."""

        def leaf(name, value, *, trained=False):
            values = self.param(name, nn.initializers.constant(value), (self.bins,))
            return values if trained else lax.stop_gradient(values)

        mean = leaf("mean", DEFAULT_MEAN_DB)
        if self.kind == "fixed":
            return (features - mean) / leaf("std", DEFAULT_STD_DB)
        if self.kind == "batch":
            scale = leaf("scale", 1.0, trained=True) * lax.rsqrt(leaf("var", DEFAULT_STD_DB**2) + NORM_EPS)
            return (features - mean) * scale + leaf("bias", 0.0, trained=True)
        raise ValueError(f"input_norm must be 'batch' or 'fixed', got {self.kind!r}")


def input_statistics(features: Array, kind: str = "fixed") -> dict[str, Array]:
    """The statistics leaves of an `InputNorm` of that kind, measured on `[B, T, mel]` features, each `[mel]`.

    Returns:
      {"mean", "std"} for 'fixed', {"mean", "var"} for 'batch'; a band that never changes counts as spread 0.01 dB.

    Raises:
      ValueError: for another kind.
    """
    if kind not in ("fixed", "batch"):
        raise ValueError(f"input_norm must be 'batch' or 'fixed', got {kind!r}")
    std = jnp.maximum(features.std(axis=(0, 1)), SMALLEST_STD_DB)
    spread = {"std": std} if kind == "fixed" else {"var": std**2}
    return {"mean": features.mean(axis=(0, 1)), **spread}


class SwinBlock(nn.Module):
    """Pre-norm attention inside windows with a relative-position bias, then a GELU MLP, both residual."""

    heads: int
    window: int
    shift: int
    mlp_ratio: float = 4.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """`[B, height, width, C]` -> the same shape; both sides must be multiples of the window."""
        height, width, channels = image.shape[1:]

        def norm(name):
            return nn.LayerNorm(NORM_EPS, use_fast_variance=False, dtype=self.dtype, name=name)

        normed = norm("attention_norm")(image)
        if self.shift:
            normed = jnp.roll(normed, (-self.shift, -self.shift), axis=(1, 2))
        rows = (2 * self.window - 1) ** 2
        table = self.param("relative_bias", nn.initializers.truncated_normal(0.02), (rows, self.heads))
        bias = jnp.moveaxis(table[relative_positions(self.window)], -1, 0)
        if self.shift:
            bias = bias + rolled_penalty(height, width, self.window, self.shift)
        qkv = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(cut_windows(normed, self.window))
        mixed = nn.Dense(channels, dtype=self.dtype, name="out")(biased_attention(qkv, self.heads, bias))
        mixed = join_windows(mixed, height, width, self.window)
        if self.shift:
            mixed = jnp.roll(mixed, (self.shift, self.shift), axis=(1, 2))
        image = image + mixed
        hidden = nn.Dense(int(self.mlp_ratio * channels), dtype=self.dtype, name="fc1")(norm("mlp_norm")(image))
        return image + nn.Dense(channels, dtype=self.dtype, name="fc2")(jax.nn.gelu(hidden, approximate=False))


class PatchMerging(nn.Module):
    """Halves both sides: 2x2 neighbours side by side (column-major), LayerNorm, a linear map without bias to 2C."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """`[B, height, width, C]` -> `[B, height / 2, width / 2, 2 C]`."""
        batch, height, width, channels = image.shape
        pairs = image.reshape(batch, height // 2, 2, width // 2, 2, channels)
        merged = pairs.transpose(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * channels)
        merged = nn.LayerNorm(NORM_EPS, use_fast_variance=False, dtype=self.dtype, name="norm")(merged)
        return nn.Dense(2 * channels, use_bias=False, dtype=self.dtype, name="reduce")(merged)


class ClapAudioTower(nn.Module):
    """Log-mel features -> a map of frequency, time and channels, and its mean.

    Attributes:
      width: channels C after the patch embedding; doubles at every stage.
      depths: blocks of each stage.
      heads: attention heads of each stage.
      image_size: side of the folded spectrogram in pixels.
      mel_bins: mel bands of the features; image_size // mel_bins blocks of time are stacked.
      window: side of an attention window in patches.
      patch: side of a patch in pixels.
      mlp_ratio: hidden width of the MLPs over the width.
      input_norm: 'batch' or 'fixed', see `InputNorm`.
      dtype: "float32" or "bfloat16" for the products; the spectrogram, parameters and norms stay float32.
    """

    width: int
    depths: list[int]
    heads: list[int]
    image_size: int
    mel_bins: int
    window: int = 8
    patch: int = 4
    mlp_ratio: float = 4.0
    input_norm: str = "batch"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, features: Array) -> tuple[Array, Array]:
        """Runs the tower.

        Args:
          features: `[B, T, mel_bins]` in dB, from `log_mel_features`; T at most image_size * (image_size // mel_bins).

        Returns:
          states `[B, frequency, time, D]` with the folded time blocks put back in order, and pooled `[B, D]`, the mean
          over all positions; D = width * 2 ** (stages - 1).

        Raises:
          ValueError: if the features, the sizes of the stages or the norm do not fit together.
        """
        if features.shape[-1] != self.mel_bins:
            raise ValueError(f"the tower wants {self.mel_bins} mel bins, the features have {features.shape[-1]}")
        if len(self.depths) != len(self.heads):
            raise ValueError(f"depths {list(self.depths)} and heads {list(self.heads)} need the same number of stages")
        normed = InputNorm(self.input_norm, self.mel_bins, name="input_norm")(features)
        image = fold_spectrogram(normed, self.image_size)[..., None]
        patch = (self.patch, self.patch)
        image = nn.Conv(self.width, patch, patch, padding="VALID", dtype=self.dtype, name="patch_embedding")(image)
        image = nn.LayerNorm(NORM_EPS, use_fast_variance=False, dtype=self.dtype, name="patch_norm")(image)
        for s, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            side = image.shape[1]
            window = min(self.window, side)
            last = s + 1 == len(self.depths)
            if side % window or (side % 2 and not last):
                raise ValueError(
                    f"stage {s} has a map of {side} x {side}: a side must divide by the window {window} and, before "
                    "another stage, by 2; change image_size, patch or window"
                )
            for b in range(depth):
                shift = window // 2 if b % 2 and side > self.window else 0
                block = SwinBlock(heads, window, shift, self.mlp_ratio, dtype=self.dtype, name=f"stage_{s}_block_{b}")
                image = block(image)
            if not last:
                image = PatchMerging(dtype=self.dtype, name=f"stage_{s}_merge")(image)
        image = nn.LayerNorm(NORM_EPS, use_fast_variance=False, dtype=self.dtype, name="norm")(image)
        pooled = image.mean(axis=(1, 2))
        return unfold_map(image, self.image_size // self.mel_bins), pooled


def unfold_map(image: Array, ratio: int) -> Array:
    """`[B, ratio * frequency, time, C]` with stacked time blocks -> `[B, frequency, ratio * time, C]`."""
    batch, rows, columns, channels = image.shape
    if rows % ratio:
        return image
    blocks = image.reshape(batch, ratio, rows // ratio, columns, channels)
    return blocks.swapaxes(1, 2).reshape(batch, rows // ratio, ratio * columns, channels)
