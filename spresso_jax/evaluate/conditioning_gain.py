"""Conditioning gain: how much the denoiser's loss rises when a clip's own code is replaced by another clip's.

The measure needs no sampling, is paired (same clip, same noise, same sigma on both sides) and is exactly zero for a
decoder that ignores its code, so it sees a weak conditioning long before one hears it. Beside it stands the loss of a
full-covariance Wiener denoiser, the best that second-order statistics of the latents can do without any network.

Source: EDM 2.3 and appendix B (the loss lam(sigma) * MSE); own measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.evaluate.bootstrap import Interval, mean_interval, paired_interval

DenoisingLoss = Callable[[jax.Array, Any, jax.Array, jax.Array], jax.Array]

# Relative to sigma_data. The training density has 95 % of its mass between 0.09 and 4.8 times sigma_data (P_mean -0.4,
# P_std 1); the outer bins show what happens at the ends that the sampler also visits.
RELATIVE_SIGMA_EDGES = (0.02, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 20.0)


@dataclass(frozen=True)
class SigmaBin:
    """One range of noise levels.

    Attributes:
      low, high: ends of the bin, in units of the latents (not relative).
      own: loss lam * MSE with each clip's own condition.
      other: the same with another clip's condition.
      gain: other - own, per clip, with its interval; positive when the condition is used.
    """

    low: float
    high: float
    own: Interval
    other: Interval
    gain: Interval

    def to_json(self) -> dict:
        """Plain dictionary for scores.json."""
        return {
            "sigma_low": self.low,
            "sigma_high": self.high,
            "own": self.own.to_json(),
            "other": self.other.to_json(),
            "gain": self.gain.to_json(),
        }


@dataclass(frozen=True)
class ConditioningGain:
    """Gain per bin and over all bins.

    Attributes:
      bins: one entry a range of sigma, rising.
      overall: gain averaged over the bins, every bin with the same weight.
      relative: overall gain per clip divided by the mean loss with the other condition.
      own_per_clip, gain_per_clip: [N] loss with the own condition and gain, averaged over the bins; for pairing.
    """

    bins: tuple[SigmaBin, ...]
    overall: Interval
    relative: float
    own_per_clip: np.ndarray
    gain_per_clip: np.ndarray

    def to_json(self) -> dict:
        """Plain dictionary for scores.json."""
        relative = self.relative if math.isfinite(self.relative) else None
        return {
            "bins": [b.to_json() for b in self.bins],
            "overall": self.overall.to_json(),
            "relative": relative,
            "per_clip": {"own": self.own_per_clip.tolist(), "gain": self.gain_per_clip.tolist()},
        }


def paired_losses(models: Mapping[str, Mapping]) -> list[dict]:
    """Paired comparisons of the denoising loss: conditions of one model, and equal conditions of two models.

    Comparable because the same seed gives the same clips, sigmas and noise to every condition and model. Models with
    another AudioAE ("latents" differs) are not compared: their losses are not of the same latents.

    Args:
      models: name -> {"conditioning_gain": label -> `ConditioningGain.to_json()`, "latents": fingerprint, ...}.

    Returns:
      rows {"first", "second", "improvement": interval of (loss of second - loss of first)}; positive: first is better.
    """
    entries = {
        (name, label): np.asarray(entry["per_clip"]["own"])
        for name, facts in models.items()
        for label, entry in (facts.get("conditioning_gain") or {}).items()
    }
    keys, rows = list(entries), []
    for index, second in enumerate(keys):
        for first in keys[index + 1 :]:
            related = (first[0] == second[0]) != (first[1] == second[1])
            related = related and models[first[0]].get("latents") == models[second[0]].get("latents")
            if related and entries[first].shape == entries[second].shape:
                improvement = paired_interval(entries[second], entries[first])
                rows.append(
                    {"first": ": ".join(first), "second": ": ".join(second), "improvement": improvement.to_json()}
                )
    return rows


def derangement(count: int, seed: int) -> np.ndarray:
    """A random permutation [N] without fixed points (one cycle through all clips).

    Raises:
      ValueError: if there are fewer than two clips.
    """
    if count < 2:
        raise ValueError(f"a derangement needs at least 2 clips, got {count}")
    order = np.random.default_rng(seed).permutation(count)
    partner = np.empty(count, np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def conditioning_gain(
    denoising_loss: DenoisingLoss,
    latents: Any,
    own: Any,
    *,
    sigma_data: float,
    other: Any = None,
    relative_edges: Sequence[float] = RELATIVE_SIGMA_EDGES,
    repeats: int = 2,
    batch: int = 8,
    seed: int = 0,
) -> ConditioningGain:
    """Loss with another clip's condition minus the loss with the own one, per sigma bin.

    Args:
      denoising_loss: (x0 [B, T, C], condition, key, sigma [B]) -> [B] raw lam(sigma) * MSE; it draws its noise from
        `key` alone, so that the same key gives the same noise under both conditions. Jit it for speed.
      latents: [N, T, C] standardised latents x0; or a tree of arrays with first axis N that stays with the clip, such
        as the latents and the weights of their frames.
      own: condition of every clip; any tree of arrays whose first axis is N (z, z_q, or text and its mask).
      sigma_data: of the diffusion model; `relative_edges` are multiples of it.
      other: condition to put in the place of `own`, same tree. Default: `own` in another order, no clip with its own.
      relative_edges: rising edges of the bins. Within a bin, sigma is drawn log-uniformly.
      repeats: noise draws per clip and bin; averaged per clip before any interval is computed. With the default
        `other`, every repeat pairs the clips anew.
      batch: clips per call; the last batch is filled up so that only one shape is compiled.
      seed: of noise levels, noise and pairing.

    Raises:
      ValueError: if the trees do not have N rows, the edges do not rise, or there are too few clips.
    """
    count = np.shape(jax.tree.leaves(latents)[0])[0]
    for name, tree in (("latents", latents), ("own", own), ("other", other)):
        for leaf in jax.tree.leaves(tree):
            if np.shape(leaf)[:1] != (count,):
                raise ValueError(f"{name}: every array needs {count} rows, one a clip, got shape {np.shape(leaf)}")
    edges = np.asarray(relative_edges, np.float64) * sigma_data
    if edges.ndim != 1 or edges.size < 2 or edges[0] <= 0 or np.any(np.diff(edges) <= 0):
        raise ValueError(f"relative_edges must be at least two rising positive numbers, got {tuple(relative_edges)}")
    if repeats < 1 or batch < 1:
        raise ValueError(f"repeats and batch must be at least 1, got {repeats} and {batch}")

    losses = np.zeros((2, edges.size - 1, repeats, count))
    for repeat in range(repeats):
        if other is None:
            partner = derangement(count, seed * 1009 + repeat)
            swapped = _rows(own, partner)
        else:
            swapped = other
        for index in range(edges.size - 1):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), repeat), index)
            losses[:, index, repeat] = _paired_losses(
                denoising_loss, latents, own, swapped, key, edges[index], edges[index + 1], batch
            )
    per_clip = losses.mean(axis=2)
    gains = per_clip[1] - per_clip[0]
    bins = tuple(
        SigmaBin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            own=mean_interval(per_clip[0, i], seed),
            other=mean_interval(per_clip[1, i], seed),
            gain=mean_interval(gains[i], seed),
        )
        for i in range(edges.size - 1)
    )
    relative = float(gains.mean() / max(per_clip[1].mean(), 1e-12))
    overall = mean_interval(gains.mean(axis=0), seed)
    return ConditioningGain(bins, overall, relative, per_clip[0].mean(axis=0), gains.mean(axis=0))


def _paired_losses(
    denoising_loss: DenoisingLoss,
    latents: Any,
    own: Any,
    other: Any,
    key: jax.Array,
    low: float,
    high: float,
    batch: int,
) -> np.ndarray:
    """[2, N] losses under the own and the other condition, with the same noise and the same sigma."""
    count = np.shape(jax.tree.leaves(latents)[0])[0]
    result = np.zeros((2, count))
    for start in range(0, count, batch):
        rows = np.arange(start, start + batch) % count
        sigma_key, noise_key = jax.random.split(jax.random.fold_in(key, start))
        share = jax.random.uniform(sigma_key, (batch,))
        sigma = jnp.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        x0 = _rows(latents, rows)
        for side, tree in enumerate((own, other)):
            condition = _rows(tree, rows)
            values = np.asarray(denoising_loss(x0, condition, noise_key, sigma), np.float64)
            kept = min(batch, count - start)
            result[side, start : start + kept] = values[:kept]
    return result


def _rows(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[rows]), tree)


def latent_covariance(latents: np.ndarray, frame_mask: np.ndarray | None = None, block: int = 1) -> np.ndarray:
    """Covariance of `block` neighbouring frames, [block * C, block * C] float64.

    Args:
      latents: [N, T, C].
      frame_mask: [N, T] True where a frame counts; a block counts only when all its frames do.
      block: frames taken together; 1 ignores how frames depend on each other.

    Raises:
      ValueError: if fewer than two blocks are left.
    """
    latents = np.asarray(latents)
    clips, frames, channels = latents.shape
    if block < 1 or block > frames:
        raise ValueError(f"block must lie between 1 and the {frames} frames of a clip, got {block}")
    whole = frames // block * block
    rows = latents[:, :whole].reshape(clips * (whole // block), block * channels)
    if frame_mask is not None:
        counted = np.asarray(frame_mask, bool)[:, :whole].reshape(clips * (whole // block), block).all(axis=1)
        rows = rows[counted]
    if rows.shape[0] < 2:
        raise ValueError(f"a covariance needs at least 2 blocks of {block} frames, got {rows.shape[0]}")
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    return centred.T @ centred / rows.shape[0]


def wiener_loss(covariance: np.ndarray, sigma: np.ndarray | float, sigma_data: float) -> np.ndarray:
    """Expected lam(sigma) * MSE of the Wiener denoiser of a Gaussian with this covariance.

    The best linear denoiser leaves lambda_i sigma^2 / (lambda_i + sigma^2) in the direction of each eigenvalue
    lambda_i; white latents of deviation sigma_data give exactly 1 at every sigma, as a network that outputs zero does.
    The covariance of the very clips that the network is tested on is the strictest yardstick of this kind.

    Args:
      covariance: [D, D] from `latent_covariance`.
      sigma: noise levels, any shape.
      sigma_data: of the diffusion model.

    Returns:
      Array of the shape of `sigma`, in units of the denoising loss.
    """
    covariance = np.asarray(covariance, np.float64)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"covariance must be square, got shape {covariance.shape}")
    spectrum = np.maximum(np.linalg.eigvalsh(covariance), 0.0)
    variance = np.square(np.asarray(sigma, np.float64))[..., None]
    error = (spectrum * variance / (spectrum + variance)).mean(axis=-1)
    weight = (variance[..., 0] + sigma_data**2) / (variance[..., 0] * sigma_data**2)
    return weight * error


def wiener_loss_in_bins(
    covariance: np.ndarray, edges: Sequence[float], sigma_data: float, points: int = 33
) -> np.ndarray:
    """`wiener_loss` averaged over sigma log-uniform in each bin, as `conditioning_gain` draws it.

    Args:
      edges: rising edges of the bins in units of the latents, one more than there are bins.
      points: midpoints per bin.
    """
    logs = np.log(np.asarray(edges, np.float64))
    share = (np.arange(points) + 0.5) / points
    sigma = np.exp(logs[:-1, None] + share[None, :] * np.diff(logs)[:, None])
    return wiener_loss(covariance, sigma, sigma_data).mean(axis=-1)
