"""Bitrates, compression ratios and the operating points that the paper reports.

Source: S-PRESSO 3.4 (bitrate = M * log2 K * f) and Tables 1 and 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from spresso_jax.shapes import SAMPLE_RATE


@dataclass(frozen=True)
class OperatingPoint:
    """One row of the paper's tables.

    Attributes:
      frame_rate: nominal compressed frames per second (25, 11, 5 or 1).
      downsample: pooling factor t over 100 Hz latents.
      codebook_bits: log2 of the number of codewords K.
      codebooks: number of codebooks M that are sent.
    """

    frame_rate: int
    downsample: int
    codebook_bits: int
    codebooks: int

    @property
    def kbps(self) -> float:
        """Nominal bitrate in kbit/s."""
        return bitrate_kbps(self.codebooks, 2**self.codebook_bits, self.frame_rate)


PAPER_OPERATING_POINTS = (
    OperatingPoint(frame_rate=11, downsample=9, codebook_bits=10, codebooks=12),
    OperatingPoint(frame_rate=1, downsample=100, codebook_bits=12, codebooks=25),
    OperatingPoint(frame_rate=1, downsample=100, codebook_bits=12, codebooks=8),
)


def bitrate_kbps(codebooks: int, codewords: int, frame_rate: float) -> float:
    """Bitrate in kbit/s of M codebooks of K codewords at `frame_rate` frames per second.

    Raises:
      ValueError: if a count is not positive or K is smaller than 2.
    """
    if codebooks < 1 or codewords < 2 or frame_rate <= 0:
        raise ValueError(
            f"need codebooks >= 1, codewords >= 2 and frame_rate > 0, got {codebooks}, {codewords}, {frame_rate}"
        )
    return codebooks * math.log2(codewords) * frame_rate / 1000.0


def compression_ratio(channels: int, frame_rate: float, sample_rate: int = SAMPLE_RATE) -> float:
    """Number of audio samples per latent value, R of the paper's Table 1 (48000 / (64 * 11) = 68)."""
    if channels < 1 or frame_rate <= 0:
        raise ValueError(f"need channels >= 1 and frame_rate > 0, got {channels}, {frame_rate}")
    return sample_rate / (channels * frame_rate)
