"""What can 128 numbers a hop do without learning? Bounds for an AudioAE that keeps the low band and makes up the rest.

    python benchmarks/linear_codec_bounds.py SHARDS [CLIPS]

The linear codec keeps the lowest K of 480 MDCT coefficients. The rest is dropped, or replaced from a first coefficient on by

  "sign"   the true coefficients with random signs: perfect magnitudes, no phase;
  "level"  noise at the true level of as many bands, widening geometrically, as channels are left of 128.

Either is scaled by a gain. Prints one JSON line a row: SI-SDR (dB, mean and median), multi-scale mel distance, and per band the
median SNR and energy over the source's (dB), over the clips that `spresso evaluate --data SHARDS --clips CLIPS` takes.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from spresso_jax.audio_ae.band_levels import level_edges
from spresso_jax.audio_ae.linear_start import mdct_basis, mdct_frames, mdct_synthesis
from spresso_jax.cli.evaluate import load_clips
from spresso_jax.evaluate.bands import band_profile, banded_source
from spresso_jax.evaluate.reconstruction import multi_scale_mel_distance, si_sdr
from spresso_jax.shapes import CLIP_SAMPLES, HOP, LATENT_CHANNELS

# kept coefficients, what fills the rest, its gain, the first coefficient that is filled
ROWS = (
    (128, None, 0.0, 480),
    (126, None, 0.0, 480),
    (124, None, 0.0, 480),
    (120, None, 0.0, 480),
    (128, "sign", 0.8, 160),
    (124, "sign", 0.8, 160),
    (124, "sign", 0.8, 124),
    (126, "level", 0.8, 126),
    (124, "level", 0.8, 124),
    (124, "level", 0.5, 124),
    (120, "level", 0.8, 120),
)


@jax.jit
def analysed(audio: jax.Array) -> jax.Array:
    return jnp.matmul(mdct_frames(audio[None]), mdct_basis(HOP), precision="highest")[0]


@jax.jit
def synthesised(coefficients: jax.Array) -> jax.Array:
    return mdct_synthesis(jnp.matmul(coefficients[None], mdct_basis(HOP).T, precision="highest"))[0]


def filled(
    true: np.ndarray, kept: int, fill: str | None, gain: float, first: int, rng: np.random.Generator
) -> np.ndarray:
    """Coefficients [T, 480] of one row of the table."""
    result = np.where(np.arange(HOP) < kept, true, 0.0)
    if fill == "sign":
        result[:, first:] = gain * true[:, first:] * rng.choice((-1.0, 1.0), true[:, first:].shape)
    elif fill == "level":
        edges = level_edges(first, LATENT_CHANNELS - kept)
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            band = true[:, low:high]
            level = np.sqrt(np.square(band).mean(-1, keepdims=True))
            result[:, low:high] = gain * level * rng.normal(size=band.shape)
    return result


def main(shards: str, count: int = 120) -> None:
    sounds = [clip.audio for clip in load_clips(Path(shards), count, seed=0)]
    spectra = [np.asarray(analysed(np.pad(sound, (0, CLIP_SAMPLES - len(sound))))) for sound in sounds]
    sources = [banded_source(sound) for sound in sounds]
    for row in ROWS:
        rng = np.random.default_rng(0)
        decoded = [
            np.asarray(synthesised(filled(c, *row, rng)))[: len(s)] for c, s in zip(spectra, sounds, strict=True)
        ]
        ratios = [float(si_sdr(a, b)) for a, b in zip(sounds, decoded, strict=True)]
        profiles = [band_profile(a, b) for a, b in zip(sources, decoded, strict=True)]
        print(
            json.dumps(
                {
                    "kept": row[0], "fill": row[1], "gain": row[2], "from_khz": row[3] * 0.05,
                    "si_sdr_mean": round(float(np.mean(ratios)), 2),
                    "si_sdr_median": round(float(np.median(ratios)), 2),
                    "mel": round(
                        float(np.mean([multi_scale_mel_distance(a, b) for a, b in zip(sounds, decoded, strict=True)])), 3
                    ),
                    "snr": np.nanmedian([p.snr for p in profiles], 0).round(1).tolist(),
                    "energy": np.nanmedian([p.energy_ratio for p in profiles], 0).round(1).tolist(),
                }
            ),
            flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], *(int(value) for value in sys.argv[2:3]))
