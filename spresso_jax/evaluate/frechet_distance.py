"""Frechet distance of two sets of embeddings (FAD), without a square root of a matrix.

    FAD = |mu_x - mu_y|^2 + tr Cx + tr Cy - 2 tr (Cx Cy)^(1/2),    tr (Cx Cy)^(1/2) = || Fx Fy^T ||_*

for any roots with Cx = Rx^T Rx and Cy = Ry^T Ry, such as the centred rows divided by sqrt(n - 1); || . ||_* is the sum of the
singular values. This is exact for sets with fewer rows than dimensions, where the toolkits' square roots of singular
matrices lose digits or add 1e-6 to the diagonal. Where a bound on the rounding says that nothing is lost, the eigenvalues
of Lx^T Cy Lx (Lx the Cholesky factor of Cx) give the same sum in a third of the time. float64 throughout, in NumPy: jax would
need its global x64 flag.

Source: Kilgour et al., Frechet Audio Distance; Dowson and Landau (the distance); the nuclear norm is an own formula,
equal to kadtk's and fadtk's float64 values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg

from spresso_jax.evaluate.embedded_set import finite_rows

# Rounding that the fast way may leave in the distance, relative to it.
FAST_ERROR = 1e-10


@dataclass(frozen=True)
class Gaussian:
    """A set's mean and a root of its covariance.

    Attributes:
      mean: [D] float64.
      root: [K, D] float64 with root^T root = covariance (by 1 / (n - 1)).
      count: rows it was measured on.
    """

    mean: np.ndarray
    root: np.ndarray
    count: int

    @cached_property
    def covariance(self) -> np.ndarray:
        """[D, D]."""
        return self.root.T @ self.root

    @cached_property
    def small_root(self) -> np.ndarray:
        """[min(K, D), D] root: the triangle of the QR decomposition where there are more rows than dimensions."""
        width = self.root.shape[1]
        if len(self.root) <= width:
            return self.root
        return linalg.qr(self.root, mode="r", check_finite=False)[0][:width].copy()

    @property
    def trace(self) -> float:
        """Of the covariance."""
        return float(np.einsum("kd,kd->", self.root, self.root))


@dataclass(frozen=True)
class FrechetParts:
    """Terms of the distance.

    Attributes:
      mean_term: |mu_x - mu_y|^2.
      trace_reference, trace_evaluation: tr Cx, tr Cy.
      trace_root: tr (Cx Cy)^(1/2).
    """

    mean_term: float
    trace_reference: float
    trace_evaluation: float
    trace_root: float

    @property
    def distance(self) -> float:
        """FAD; never negative, as rounding of two equal sets could make it."""
        return max(0.0, self.mean_term + self.trace_reference + self.trace_evaluation - 2.0 * self.trace_root)


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter (sum of outer products of centred rows), for sets that do not fit into memory.

    Attributes:
      count: rows so far.
      mean: [D] float64.
      scatter: [D, D] float64.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, role: str = "set") -> Moments:
        """Of one batch of at least one row [n, D], of any floating type."""
        rows = finite_rows(rows, role, least=1).astype(np.float64)
        mean = rows.mean(axis=0)
        rows -= mean
        return cls(len(rows), mean, rows.T @ rows)

    def merged(self, other: Moments) -> Moments:
        """Of both sets together (Chan et al.'s pairwise update)."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"batches have {self.mean.size} and {other.mean.size} dimensions: use one embedding")
        count = self.count + other.count
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, self.mean + step * (other.count / count), scatter)


def streamed_moments(batches: Iterable[np.ndarray], role: str = "set") -> Moments:
    """Moments of all batches [n_i, D]; a batch may hold a single row, of which fadtk makes nan.

    Raises:
      ValueError: if there is no batch, or a row is not finite.
    """
    total: Moments | None = None
    for batch in batches:
        part = Moments.of(batch, role)
        total = part if total is None else total.merged(part)
    if total is None:
        raise ValueError(f"{role}: no rows at all")
    return total


def gaussian(rows: np.ndarray | Moments, role: str = "set", indices: np.ndarray | None = None) -> Gaussian:
    """Mean and root of the covariance of rows [n, D] with n >= 2, or of streamed moments.

    From moments the root comes from eigenvalues of the covariance: small ones are exact only to 1e-8 of the largest
    standard deviation, where rows give full precision.

    Args:
      indices: take these rows instead of all; a row that is drawn several times costs no more than once.

    Raises:
      ValueError: if there are fewer than two rows, or one is not finite.
    """
    if isinstance(rows, Moments):
        if rows.count < 2:
            raise ValueError(f"{role}: {rows.count} rows; a distance between sets needs at least 2")
        values, vectors = np.linalg.eigh(rows.scatter / (rows.count - 1))
        return Gaussian(rows.mean, np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T, rows.count)
    copies = None
    if indices is not None:
        distinct, copies = np.unique(indices, return_counts=True)
        rows = rows[distinct]
    centred = finite_rows(rows, role, least=1 if indices is not None else 2).astype(np.float64)
    count = len(centred) if indices is None else len(indices)
    mean = np.average(centred, axis=0, weights=copies)
    centred -= mean
    centred /= np.sqrt(max(count - 1, 1))
    if copies is not None:
        centred *= np.sqrt(copies)[:, None]
    return Gaussian(mean, centred, count)


def frechet_parts(
    reference: np.ndarray | Moments | Gaussian, evaluation: np.ndarray | Moments | Gaussian
) -> FrechetParts:
    """Terms of the Frechet distance between two sets.

    Args:
      reference, evaluation: rows [n, D], streamed moments, or Gaussians made earlier.

    Raises:
      ValueError: if the widths differ, a set has fewer than two rows, or a value is not finite.
    """
    first = reference if isinstance(reference, Gaussian) else gaussian(reference, "reference")
    second = evaluation if isinstance(evaluation, Gaussian) else gaussian(evaluation, "evaluation")
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"the reference has {first.mean.size} dimensions and the evaluation {second.mean.size}: "
            "both must come from one embedding"
        )
    step = first.mean - second.mean
    mean_term, traces = float(step @ step), (first.trace, second.trace)
    fast = _trace_root_by_eigenvalues(first, second, mean_term + sum(traces))
    root = float(linalg.svdvals(first.small_root @ second.small_root.T).sum()) if fast is None else fast
    return FrechetParts(mean_term, *traces, root)


def _trace_root_by_eigenvalues(first: Gaussian, second: Gaussian, rest: float) -> float | None:
    """tr (Cx Cy)^(1/2) as a sum of roots of eigenvalues, or None where rounding could show in rest - 2 tr.

    An eigenvalue is off by eps |Cx| |Cy| at most (times a small constant), its root by that over twice the root: harmless but
    for small eigenvalues, of which singular sets have many.
    """
    width = first.mean.size
    if min(len(first.root), len(second.root)) <= width:
        return None
    try:
        lower = np.linalg.cholesky(first.covariance)
    except np.linalg.LinAlgError:
        return None
    values = np.linalg.eigvalsh(lower.T @ second.covariance @ lower)
    if values[0] <= 0.0:
        return None
    roots = np.sqrt(values)
    size = np.linalg.norm(first.covariance) * np.linalg.norm(second.covariance)
    error = np.finfo(np.float64).eps * size * np.sum(1.0 / roots)
    value = float(roots.sum())
    return value if error <= FAST_ERROR * (rest - 2.0 * value) else None


def frechet_distance(reference: np.ndarray | Moments | Gaussian, evaluation: np.ndarray | Moments | Gaussian) -> float:
    """FAD of two sets; arguments and errors as `frechet_parts`."""
    return frechet_parts(reference, evaluation).distance
