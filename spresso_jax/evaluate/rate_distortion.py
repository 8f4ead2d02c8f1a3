"""What the second moments of vectors say of coding them: streaming covariance, and the Gaussian rate-distortion curve.

Source: Cover and Thomas, Elements of Information Theory, section 10.3.3 (parallel Gaussian sources, reverse
water-filling).
"""

from __future__ import annotations

import numpy as np


class Moments:
    """Mean and covariance of vectors that come in blocks, in float64.

    Args:
      dimension: D.
    """

    def __init__(self, dimension: int):
        self.rows = 0
        # Sums are taken around the first block's mean: a large common offset costs no digits.
        self._origin = np.zeros(dimension)
        self._sum = np.zeros(dimension)
        self._products = np.zeros((dimension, dimension))

    def add(self, block: np.ndarray) -> None:
        """Counts a block [n, D]."""
        block = np.asarray(block, np.float64)
        if not len(block):
            return
        if self.rows == 0:
            self._origin = block.mean(axis=0)
        shifted = block - self._origin
        self.rows += len(block)
        self._sum += shifted.sum(axis=0)
        self._products += shifted.T @ shifted

    def mean(self) -> np.ndarray:
        """[D]; zeros without vectors."""
        return self._origin + self._sum / max(self.rows, 1)

    def covariance(self) -> np.ndarray:
        """[D, D], divided by the number of vectors; its trace is the error of coding each vector as the mean."""
        mean = self._sum / max(self.rows, 1)
        return self._products / max(self.rows, 1) - np.outer(mean, mean)


def gaussian_distortion(eigenvalues: np.ndarray, bits: float) -> float:
    """Least squared error per vector at `bits` per vector, of a Gaussian source whose covariance has `eigenvalues`.

    Reverse water-filling: coordinates with variance above the water level theta are coded with distortion theta, the
    others not at all. With the n largest coded, bits = sum_i<=n log2(lambda_i / theta) / 2, so theta is known exactly;
    the right n is the largest for which lambda_n exceeds theta.

    Args:
      eigenvalues: [D] of the covariance; negative ones (rounding) count as zero.
      bits: R >= 0.

    Returns:
      D(R), summed over coordinates. Long blocks of Gaussian vectors can reach it, and nothing can go below. Of all
      sources with this covariance the Gaussian is the hardest, so real vectors may be coded with less.

    Raises:
      ValueError: if `bits` is negative.
    """
    if bits < 0:
        raise ValueError(f"bits per vector must not be negative, got {bits}")
    variances = np.sort(np.maximum(np.asarray(eigenvalues, np.float64), 0.0))[::-1]
    positive = variances[variances > 0]
    if not positive.size:
        return 0.0
    coded = np.arange(1, positive.size + 1)
    log_level = (np.cumsum(np.log2(positive)) - 2.0 * bits) / coded
    # At zero bits the level is the largest variance itself: one coordinate counts as coded, with its whole variance.
    above = np.flatnonzero(np.log2(positive) > log_level)
    count = int(above[-1]) + 1 if above.size else 1
    level = 2.0 ** log_level[count - 1]
    return float(count * level + positive[count:].sum())
