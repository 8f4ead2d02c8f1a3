"""Constants of the signal and arithmetic of frame counts, shared by every package.

Axis letters used in all docstrings: B batch, S samples, T latent frames (100 per second), F compressed frames,
C channels, D width, H heads, N text tokens, M codebooks, K codewords.

Source: S-PRESSO 4.1 (48 kHz, 5 s clips) and 4.2.1 (n_fft 960, hop 480, C = 128; c = 2 gives 64).
"""

from __future__ import annotations

SAMPLE_RATE = 48_000
N_FFT = 960
HOP = 480
FRAME_RATE = SAMPLE_RATE // HOP
LATENT_CHANNELS = 128
EMBEDDING_CHANNELS = 64
CLIP_SECONDS = 5.0
CLIP_SAMPLES = int(CLIP_SECONDS * SAMPLE_RATE)
CLIP_FRAMES = CLIP_SAMPLES // HOP


def frames_of(samples: int) -> int:
    """Number of latent frames that cover `samples` samples at 48 kHz: max(1, ceil(samples / 480)).

    Raises:
      ValueError: if `samples` is not positive (an empty signal has no latent).
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}: an empty signal cannot be encoded")
    return max(1, -(-samples // HOP))


def whole_hops(seconds: float) -> int:
    """Number of samples at 48 kHz of a duration, rounded to whole hops."""
    return int(round(seconds * SAMPLE_RATE / HOP)) * HOP


def pooled_length(frames: int, downsample: int) -> int:
    """Number of full windows of `downsample` frames in `frames` frames (the tail is dropped).

    Source: S-PRESSO 3.3 (average pooling with kernel and stride t); 500 frames give 125, 55, 25, 5 at t = 4, 9, 20, 100.

    Raises:
      ValueError: if not even one window fits.
    """
    if downsample < 1:
        raise ValueError(f"downsample must be at least 1, got {downsample}")
    if frames < downsample:
        raise ValueError(f"{frames} latent frames are fewer than one pooling window of {downsample}: pad the clip")
    return frames // downsample


def pooled_positions(frames: int, downsample: int) -> list[int]:
    """Index of the frame at the centre of each pooling window: i * t + t // 2.

    Source: S-PRESSO 3.3 ("selecting the central position of each temporal window").
    """
    return [i * downsample + downsample // 2 for i in range(pooled_length(frames, downsample))]
