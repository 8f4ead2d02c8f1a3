"""The linear codec: the lowest MDCT coefficients of every hop, companded. No parameters.

It is the yardstick in reports, and the path beside which a small AudioAE learns ("linear start"): with its networks at
zero the autoencoder equals this codec, so training begins at the best simple codec of the same width instead of at
noise.

A frame of 960 samples under a sine window gives 480 MDCT coefficients a hop that reconstruct exactly (Princen and
Bradley 1987); the lowest 128 keep 0 to 6.4 kHz. Frames lie where the 'same' STFT puts them. There the first and last
half frame have no neighbour to cancel their aliasing, so the signal is continued oddly before its first sample and
evenly after its last, and the two halves are divided by the gain that this leaves: no fade at the ends of a clip.
"""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import Array

from spresso_jax.audio.stft import frame, overlap_add
from spresso_jax.shapes import HOP, LATENT_CHANNELS, N_FFT, frames_of

COMPAND_EXPONENT = 0.35
# Companding is linear below this coefficient (quantisation noise of 16-bit audio), which keeps its slope finite at 0.
COMPAND_FLOOR = 1e-5


@lru_cache(maxsize=8)
def mdct_basis(coefficients: int, n_fft: int = N_FFT) -> np.ndarray:
    """Sine-windowed MDCT atoms, float32 `[n_fft, coefficients]` (read-only): analysis and synthesis are both this
    matrix.

    B[n, k] = sqrt(2/H) cos(pi/H (n + H/2 + 1/2)(k + 1/2)) sin(pi (n + 1/2)/N), H = N/2.

    Raises:
      ValueError: if there are not 1 to n_fft / 2 coefficients.
    """
    hop = n_fft // 2
    if not 1 <= coefficients <= hop:
        raise ValueError(f"an MDCT of {n_fft} samples has 1 to {hop} coefficients, got {coefficients}")
    n, k = np.arange(n_fft)[:, None], np.arange(coefficients)[None, :]
    cosine = np.cos(np.pi / hop * (n + hop / 2 + 0.5) * (k + 0.5))
    basis = (np.sqrt(2.0 / hop) * cosine * np.sin(np.pi * (n + 0.5) / n_fft)).astype(np.float32)
    basis.setflags(write=False)
    return basis


def compand(coefficients: Array, exponent: float = COMPAND_EXPONENT) -> Array:
    """sign(c) |c|^exponent, linear below `COMPAND_FLOOR`: makes latents far less heavy-tailed than coefficients."""
    return coefficients * jnp.maximum(jnp.abs(coefficients), COMPAND_FLOOR) ** (exponent - 1.0)


def expand(companded: Array, exponent: float = COMPAND_EXPONENT) -> Array:
    """Exact inverse of `compand`."""
    floor = COMPAND_FLOOR**exponent
    return companded * jnp.maximum(jnp.abs(companded), floor) ** (1.0 / exponent - 1.0)


def _check_padding(padding: str) -> None:
    if padding not in ("same", "center"):
        raise ValueError(f"padding must be 'same' or 'center', got {padding!r}")


def mdct_frames(audio: Array, padding: str = "same", n_fft: int = N_FFT) -> Array:
    """Unwindowed frames of whole hops of audio: `[B, S]` -> `[B, T, n_fft]`, continued oddly on the left, evenly right.

    Raises:
      ValueError: if S is not a multiple of the hop, or the padding is unknown.
    """
    _check_padding(padding)
    hop = n_fft // 2
    if audio.shape[-1] % hop or not audio.shape[-1]:
        raise ValueError(f"the audio must hold whole hops of {hop} samples, got {audio.shape[-1]}: use pad_to_frames")
    audio = jnp.asarray(audio, jnp.float32)
    side = hop // 2 if padding == "same" else hop
    left = -audio[:, :side][:, ::-1]
    right = audio[:, -side:][:, ::-1]
    return frame(jnp.concatenate([left, audio, right], axis=1), n_fft, hop)


@lru_cache(maxsize=4)
def _edge_gain(n_fft: int) -> np.ndarray:
    """1 / gain of the unpaired quarter frames: w (w + reversed w) at the last half hop of a rising window half."""
    hop = n_fft // 2
    rising = np.sin(np.pi * (np.arange(hop) + 0.5) / n_fft)
    gain = rising * (rising + rising[::-1])
    inverse = (1.0 / gain[hop // 2 :]).astype(np.float32)
    inverse.setflags(write=False)
    return inverse


def mdct_synthesis(frames: Array, padding: str = "same") -> Array:
    """Adds synthesised frames `[B, T, N]` to audio: T * hop samples with 'same', (T - 1) * hop with 'center'."""
    _check_padding(padding)
    n_fft = frames.shape[-1]
    hop = n_fft // 2
    audio = overlap_add(frames.astype(jnp.float32), hop)
    if padding == "center":
        return audio[:, hop:-hop]
    gain = _edge_gain(n_fft)
    side = hop // 2
    head, body, tail = audio[:, side:hop], audio[:, hop:-hop], audio[:, -hop:-side]
    return jnp.concatenate([head * gain, body, tail * gain[::-1]], axis=1)


def pad_to_frames(audio: Array, hop: int = HOP) -> Array:
    """Zeros on the right up to whole hops: `[B, S, ...]` -> `[B, frames_of(S) * hop, ...]`.

    Raises:
      ValueError: for an empty signal.
    """
    samples = audio.shape[1]
    total = frames_of(samples) * HOP if hop == HOP else max(1, -(-samples // hop)) * hop
    return jnp.pad(audio, ((0, 0), (0, total - samples)) + ((0, 0),) * (audio.ndim - 2))


def linear_codec_encode(
    audio: Array, channels: int = LATENT_CHANNELS, *, exponent: float = COMPAND_EXPONENT, padding: str = "same"
) -> Array:
    """Audio -> companded MDCT coefficients.

    Args:
      audio: `[B, S, 1]` at 48 kHz, any S >= 1 (padded with zeros to whole hops).
      channels: coefficients kept of the 480 of a hop; 128 keep 0 to 6.4 kHz.
      exponent: of the companding.
      padding: 'same' (T = ceil(S / 480)) or 'center' (one more).

    Returns:
      float32 `[B, T, channels]`.
    """
    frames = mdct_frames(pad_to_frames(audio)[..., 0], padding)
    return compand(jnp.matmul(frames, mdct_basis(channels), precision="highest"), exponent)


def linear_codec_decode(
    latent: Array, samples: int | None = None, *, exponent: float = COMPAND_EXPONENT, padding: str = "same"
) -> Array:
    """Inverse of `linear_codec_encode`: `[B, T, C]` -> audio `[B, S, 1]`, trimmed to `samples` when given."""
    frames = jnp.matmul(expand(latent, exponent), mdct_basis(latent.shape[-1]).T, precision="highest")
    return mdct_synthesis(frames, padding)[:, :samples, None]
