"""Per-channel statistics of latents, accumulated in float64, and the standardisation that diffusion needs.

x0 = sigma_data (latent - mean) / std with sigma_data 0.5, so that diffusion sees unit-free channels. The numbers
are frozen with the model: the latent encoder, the DiT and the quantizer all depend on them.

Source: S-PRESSO 3.1 leaves the scale open; EDM2 (arXiv:2312.02696) normalises latents to mean 0 and std 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jax import Array

SIGMA_DATA = 0.5
HEAVY_KURTOSIS = 30.0
DEAD_RATIO = 1e-3


def standardise(latent: Array, mean: Array, std: Array, sigma_data: float = SIGMA_DATA) -> Array:
    """Latent `[..., C]` -> x0 = sigma_data (latent - mean) / std, float32."""
    return (latent.astype(jnp.float32) - jnp.asarray(mean)) * (sigma_data / jnp.asarray(std))


def unstandardise(x0: Array, mean: Array, std: Array, sigma_data: float = SIGMA_DATA) -> Array:
    """Inverse of `standardise`."""
    return x0.astype(jnp.float32) * (jnp.asarray(std) / sigma_data) + jnp.asarray(mean)


@dataclass
class LatentStatistics:
    """Running mean, standard deviation, kurtosis and correlation of latent channels, from central moments in float64.

    Batches are merged by the pairwise formulas of Chan et al. (1983) and Pebay (2008), so the result does not depend
    on how the data were split, and two halves computed on two machines merge exactly as one.

    Attributes:
      channels: C.
      count: frames seen.
      mean: `[C]`.
      moments: second, third and fourth central sums, `[3, C]`.
      products: sums of products of two centred channels, `[C, C]`.
      beyond: values further than 5 standard deviations from the mean of their own batch, `[C]`.
    """

    channels: int
    count: int = 0
    mean: np.ndarray = field(default=None)
    moments: np.ndarray = field(default=None)
    products: np.ndarray = field(default=None)
    beyond: np.ndarray = field(default=None)

    def __post_init__(self) -> None:
        if self.mean is None:
            self.mean = np.zeros(self.channels)
            self.moments = np.zeros((3, self.channels))
            self.products = np.zeros((self.channels, self.channels))
            self.beyond = np.zeros(self.channels)

    def update(self, latent: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Adds the frames of `[B, T, C]` where `mask` `[B, T]` is true (all without a mask): leave padding and
        silence out.

        Raises:
          ValueError: for a wrong shape, or values that are not finite.
        """
        latent = np.asarray(latent)
        if latent.ndim != 3 or latent.shape[-1] != self.channels:
            raise ValueError(f"latent must be [B, T, {self.channels}], got {latent.shape}")
        if mask is not None and np.shape(mask) != latent.shape[:2]:
            raise ValueError(f"mask must be {latent.shape[:2]}, got {np.shape(mask)}")
        rows = latent.reshape(-1, self.channels) if mask is None else latent[np.asarray(mask, bool)]
        if not len(rows):
            return
        rows = rows.astype(np.float64)
        if not np.isfinite(rows).all():
            raise ValueError("the latent holds values that are not finite: the encoder or its input is broken")
        mean = rows.mean(0)
        centred = rows - mean
        squared = centred * centred
        moments = np.stack([squared.sum(0), (squared * centred).sum(0), (squared * squared).sum(0)])
        beyond = (squared > 25.0 * np.maximum(squared.mean(0), 1e-30)).sum(0)
        self._add(len(rows), mean, moments, centred.T @ centred, beyond)

    def merge(self, other: LatentStatistics) -> None:
        """Adds the frames that another object has seen.

        Raises:
          ValueError: if the channels differ.
        """
        if other.channels != self.channels:
            raise ValueError(f"cannot merge statistics of {other.channels} channels into {self.channels}")
        if other.count:
            self._add(other.count, other.mean, other.moments, other.products, other.beyond)

    def _add(
        self, count: int, mean: np.ndarray, moments: np.ndarray, products: np.ndarray, beyond: np.ndarray
    ) -> None:
        n_a, n_b = self.count, count
        n = n_a + n_b
        delta = mean - self.mean
        second_a, third_a, fourth_a = self.moments
        second_b, third_b, fourth_b = moments
        second = second_a + second_b + delta**2 * n_a * n_b / n
        third = third_a + third_b + delta**3 * n_a * n_b * (n_a - n_b) / n**2
        third += 3.0 * delta * (n_a * second_b - n_b * second_a) / n
        fourth = fourth_a + fourth_b + delta**4 * n_a * n_b * (n_a**2 - n_a * n_b + n_b**2) / n**3
        fourth += 6.0 * delta**2 * (n_a**2 * second_b + n_b**2 * second_a) / n**2
        fourth += 4.0 * delta * (n_a * third_b - n_b * third_a) / n
        self.mean = self.mean + delta * n_b / n
        self.moments = np.stack([second, third, fourth])
        self.products = self.products + products + np.outer(delta, delta) * (n_a * n_b / n)
        self.beyond = self.beyond + beyond
        self.count = n

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation `[C]`, float64."""
        self._need_frames()
        return np.sqrt(self.moments[0] / self.count)

    @property
    def kurtosis(self) -> np.ndarray:
        """Fourth moment over squared variance `[C]`: 3 for a Gaussian, NaN for a constant channel."""
        self._need_frames()
        variance = self.moments[0] / self.count
        safe = np.where(variance > 0.0, variance, np.nan)
        return self.moments[2] / self.count / safe**2

    @property
    def correlation(self) -> np.ndarray:
        """Pearson correlation of every two channels `[C, C]`; 0 with a constant channel, 1 with itself."""
        self._need_frames()
        std = np.sqrt(np.diag(self.products))
        inverse = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0.0)
        correlation = self.products * inverse[:, None] * inverse
        np.fill_diagonal(correlation, 1.0)
        return correlation

    def effective_channels(self) -> float:
        """Participation ratio of the correlation's eigenvalues: C for independent channels, 1 if all say the same."""
        return float(self.channels**2 / np.square(self.correlation).sum())

    def dead_channels(self, ratio: float = DEAD_RATIO) -> list[int]:
        """Channels whose std is below `ratio` times the median std: they carry nothing, and explode if standardised."""
        std = self.std
        return np.flatnonzero(std <= ratio * np.median(std)).tolist()

    def heavy_channels(self, limit: float = HEAVY_KURTOSIS) -> list[int]:
        """Channels with a kurtosis above `limit`: rare huge values that a diffusion model handles badly."""
        return np.flatnonzero(self.kurtosis > limit).tolist()

    def usable_std(self, ratio: float = DEAD_RATIO) -> np.ndarray:
        """`std` with dead channels set to `ratio` times the median std (1 if all are dead), so nothing divides by 0."""
        std = self.std
        floor = ratio * np.median(std)
        return np.maximum(std, floor if floor > 0.0 else 1.0)

    def to_facts(self, sigma_data: float = SIGMA_DATA) -> dict:
        """JSON-able summary: the `latent_statistics` of `model.json`, with the warnings that a reader should see."""
        kurtosis, dead, heavy = self.kurtosis, self.dead_channels(), self.heavy_channels()
        others = np.abs(self.correlation - np.eye(self.channels))
        first, second = np.unravel_index(int(np.argmax(others)), others.shape)
        warnings = []
        if dead:
            warnings.append(f"{len(dead)} of {self.channels} latent channels are dead: {dead}")
        if heavy:
            worst = float(np.nanmax(kurtosis))
            warnings.append(
                f"{len(heavy)} of {self.channels} latent channels are heavy-tailed (kurtosis up to {worst:.0f}, 3 is "
                f"Gaussian): consider the bottleneck 'noise' or 'kl', or companding: {heavy}"
            )
        return {
            "mean": self.mean.tolist(),
            "std": self.usable_std().tolist(),
            "sigma_data": sigma_data,
            "frames": self.count,
            "kurtosis": [None if np.isnan(k) else round(float(k), 3) for k in kurtosis],
            "share_beyond_5_std": float(self.beyond.sum() / (self.count * self.channels)),
            "effective_channels": round(self.effective_channels(), 2),
            "strongest_correlation": {
                "channels": [int(first), int(second)],
                "value": round(float(self.correlation[first, second]), 4),
            },
            "dead_channels": dead,
            "heavy_channels": heavy,
            "warnings": warnings,
        }

    def _need_frames(self) -> None:
        if not self.count:
            raise ValueError("no latent frames were seen: update() the statistics first")
