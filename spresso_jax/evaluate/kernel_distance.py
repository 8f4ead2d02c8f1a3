"""Kernel audio distance (KAD): squared maximum mean discrepancy of two sets of embeddings, times a scale.

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
    k(a, b) = exp(-gamma |a - b|^2),   gamma = 1 / (2 s^2 + 1e-8),   s a median distance within one set

This is the toolkit value. When y_i is made from x_i, the terms k(x_i, y_i) are near 1 and push it below zero by about
2 (k_paired - k_mean) / n, so that a codec looks better than the reference itself; the paired statistic leaves them out,
as the other two means leave out their diagonals. Kernels are computed and summed in blocks: memory grows with n, not
with n^2.

Source: Chung et al., KAD; kadtk 1.1.0 (scale, bandwidth, kernels); Gretton et al., A kernel two-sample test, whose
U-statistic over pairs (x_i, y_i) is the paired statistic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from spresso_jax.evaluate.embedded_set import finite_rows

SCALE = 100.0
KERNELS = ("gaussian", "iq", "imq")
PRECISIONS = ("float64", "float32")
BANDWIDTH_EPSILON = 1e-8
BLOCK_ROWS = 1024
EXACT_MEDIAN_ROWS = 8000
KEPT_ROWS = 2500
MEDIAN_PAIRS = 1_000_000


@dataclass(frozen=True)
class Bandwidth:
    """Median distance within a set.

    Attributes:
      value: the lower of the two middle distances where their number is even (as torch.median), rounded to float32.
      pairs: how many random pairs it rests on; None when on all pairs.
      seed: of these pairs, None when on all pairs.
      squares: [n (n - 1) / 2] the squared distances, float64, of sets small enough to keep them for the kernel.
    """

    value: float
    pairs: int | None = None
    seed: int | None = None
    squares: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Kernel:
    """A radial kernel.

    Attributes:
      bandwidth: s.
      kind: "gaussian" exp(-g), "iq" 1 / (1 + g) or "imq" (1 + g)^(-1/2), with g = gamma |a - b|^2.
      precision: of products and kernel values; sums are float64 either way. float32 is the toolkit's, with its noise.
    """

    bandwidth: float
    kind: str = "gaussian"
    precision: str = "float64"

    def __post_init__(self) -> None:
        """Raises ValueError for a bandwidth of zero, or an unknown kind or precision."""
        if self.kind not in KERNELS or self.precision not in PRECISIONS:
            raise ValueError(
                f"kernel must be one of {KERNELS} in one of {PRECISIONS}, got {self.kind}, {self.precision}"
            )
        if not (math.isfinite(self.bandwidth) and self.bandwidth > 0.0):
            raise ValueError(
                f"the bandwidth must be positive, got {self.bandwidth}: in the set that it was taken from at least half of "
                "all pairs of rows are equal"
            )

    @property
    def gamma(self) -> float:
        """1 / (2 s^2 + 1e-8), the toolkit's."""
        return 1.0 / (2.0 * self.bandwidth**2 + BANDWIDTH_EPSILON)

    def scaled(self, *sets: np.ndarray) -> list[np.ndarray]:
        """The sets' rows times sqrt(2 gamma), less the first set's mean, in the precision of the products."""
        centre, factor = np.asarray(sets[0]).mean(axis=0, dtype=np.float64), math.sqrt(2.0 * self.gamma)
        scaled = []
        for rows in sets:
            rows = rows.astype(np.float64)
            rows -= centre
            rows *= factor
            scaled.append(rows.astype(self.precision, copy=False))
        return scaled

    def of_exponents(self, exponents: np.ndarray) -> np.ndarray:
        """Kernel values from -gamma |a - b|^2, in place."""
        if self.kind == "gaussian":
            return np.exp(exponents, out=exponents)
        np.subtract(1.0, exponents, out=exponents)
        if self.kind == "imq":
            np.sqrt(exponents, out=exponents)
        return np.reciprocal(exponents, out=exponents)


@dataclass(frozen=True)
class KernelMeans:
    """Sums of kernel values over two sets.

    Attributes:
      within_reference, within_evaluation: over i != j.
      across: over all i, j.
      own_partner: over k(x_i, y_i) of paired sets, nan for others.
      reference_rows, evaluation_rows: m, n.
    """

    within_reference: float
    within_evaluation: float
    across: float
    own_partner: float
    reference_rows: int
    evaluation_rows: int

    @property
    def unbiased(self) -> float:
        """MMD^2 without the diagonals of the two sets: the toolkit's, for independent sets."""
        m, n = self.reference_rows, self.evaluation_rows
        within = self.within_reference / (m * (m - 1)) + self.within_evaluation / (n * (n - 1))
        return within - 2.0 * self.across / (m * n)

    @property
    def biased(self) -> float:
        """MMD^2 with the diagonals: never negative, too large by about 2 / n."""
        m, n = self.reference_rows, self.evaluation_rows
        return (self.within_reference + m) / m**2 + (self.within_evaluation + n) / n**2 - 2.0 * self.across / (m * n)

    @property
    def paired(self) -> float:
        """MMD^2 of paired sets without all three diagonals; nan for others."""
        m = self.reference_rows
        rest = self.across - self.own_partner
        return (self.within_reference + self.within_evaluation - 2.0 * rest) / (m * (m - 1))


def median_distance(
    rows: np.ndarray,
    *,
    exact_rows: int = EXACT_MEDIAN_ROWS,
    pairs: int = MEDIAN_PAIRS,
    seed: int = 0,
    role: str = "set",
) -> Bandwidth:
    """Lower median of the distances between all pairs of rows, or between random pairs of a large set.

    Args:
      rows: [n, D].
      exact_rows: up to so many rows all pairs count (4 bytes a pair: 128 MB at 8000 rows; 12 bytes up to KEPT_ROWS).
      pairs: random pairs of a larger set; a million put the median within about 0.05 % of the distances' ranks.
      seed: of these pairs.

    Raises:
      ValueError: if there are fewer than two rows, or a value is not finite.
    """
    rows = finite_rows(rows, role)
    count = len(rows)
    if count <= exact_rows:
        centred = rows - rows.mean(axis=0, dtype=np.float64)
        squares = np.empty(count * (count - 1) // 2, np.float64 if count <= KEPT_ROWS else np.float32)
        filled = 0
        for first, second, exponents in _exponent_blocks(centred, None):
            # Every pair once: of blocks on the diagonal what lies above it.
            for i, row in enumerate(exponents):
                part = row[i + 1 :] if first == second else row
                # Exponents of unscaled rows are minus half the squared distance.
                np.multiply(part, -2.0, out=squares[filled : filled + part.size], casting="same_kind")
                filled += part.size
        pairs, seed = None, None
    else:
        generator = np.random.default_rng(seed)
        first = generator.integers(0, count, pairs)
        second = (first + generator.integers(1, count, pairs)) % count
        squares = np.empty(pairs, np.float32)
        for start in range(0, pairs, 16_384):
            part = slice(start, start + 16_384)
            step = rows[first[part]].astype(np.float64) - rows[second[part]]
            squares[part] = np.einsum("nd,nd->n", step, step)
    kept, middle = (squares if squares.dtype == np.float64 else None), (squares.size - 1) // 2
    ordered = squares.astype(np.float32, copy=kept is not None)
    ordered.partition(middle)
    return Bandwidth(float(np.sqrt(ordered[middle])), pairs, seed, kept)


def kernel_means(
    reference: np.ndarray,
    evaluation: np.ndarray,
    kernel: Kernel,
    *,
    paired: bool = False,
    reference_squares: np.ndarray | None = None,
    evaluation_squares: np.ndarray | None = None,
) -> KernelMeans:
    """Sums of the kernel within and across two sets, in O(n) memory.

    Args:
      reference, evaluation: [m, D], [n, D].
      paired: row i of one belongs to row i of the other.
      reference_squares, evaluation_squares: `Bandwidth.squares` of a set, which save its products.

    Raises:
      ValueError: if the widths differ, paired sets have unequal numbers of rows, or `finite_rows` refuses a set.
    """
    x, y = _both(reference, evaluation, paired)
    m, n = len(x), len(y)
    x, y = kernel.scaled(x, y)
    within = [
        sum(twice * _total(k) for _, _, k, twice in kernel_blocks(kernel, rows))
        if squares is None
        else 2.0 * _total(kernel.of_exponents((-kernel.gamma * squares).astype(kernel.precision, copy=False)))
        for rows, squares in ((x, reference_squares), (y, evaluation_squares))
    ]
    across = sum(_total(k) for _, _, k, _ in kernel_blocks(kernel, x, y))
    own = math.nan
    if paired:
        exponents = -0.5 * np.sum((x - y) ** 2, axis=1, dtype=np.float64)
        own = float(kernel.of_exponents(exponents).sum())
    return KernelMeans(*within, across, own, m, n)


def kernel_blocks(
    kernel: Kernel, x: np.ndarray, y: np.ndarray | None = None
) -> Iterator[tuple[slice, slice, np.ndarray, float]]:
    """Kernel values block by block.

    Args:
      kernel: whose `scaled` gave the rows.
      x: [m, D] scaled rows.
      y: [n, D], or None for the kernel of x with itself: then blocks below the diagonal are left out, and the diagonal is 0.

    Yields:
      (rows of x, rows of y, values that the caller may overwrite, 2.0 where the block stands for its mirror image too).
    """
    for first, second, exponents in _exponent_blocks(x, y):
        values = kernel.of_exponents(exponents)
        if y is None and first == second:
            np.fill_diagonal(values, 0.0)
        yield first, second, values, 2.0 if y is None and first != second else 1.0


def _exponent_blocks(x: np.ndarray, y: np.ndarray | None) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """-|a - b|^2 / 2, at most 0, in blocks; on and above the diagonal where y is None."""
    other = x if y is None else y
    half_x, half_other = (0.5 * np.einsum("nd,nd->n", rows, rows) for rows in (x, other))
    for start in range(0, len(x), BLOCK_ROWS):
        first = slice(start, min(start + BLOCK_ROWS, len(x)))
        for begin in range(start if y is None else 0, len(other), BLOCK_ROWS):
            second = slice(begin, min(begin + BLOCK_ROWS, len(other)))
            exponents = x[first] @ other[second].T
            exponents -= half_x[first, None]
            exponents -= half_other[second]
            yield first, second, np.minimum(exponents, 0.0, out=exponents)


def _total(values: np.ndarray) -> float:
    return float(values.sum(dtype=np.float64))


def _both(reference: np.ndarray, evaluation: np.ndarray, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    x, y = finite_rows(reference, "reference"), finite_rows(evaluation, "evaluation")
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"the reference has {x.shape[1]} dimensions and the evaluation {y.shape[1]}: both must come from one embedding"
        )
    if paired and len(x) != len(y):
        raise ValueError(f"paired sets must have equally many rows, got {len(x)} and {len(y)}")
    return x, y
