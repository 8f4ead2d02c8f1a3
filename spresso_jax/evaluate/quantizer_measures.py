"""Errors and codes of a quantizer over blocks of vectors: every rate from one search, beside plain residual quantization."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from spresso_jax.evaluate.code_statistics import CodeCounts
from spresso_jax.evaluate.rate_distortion import Moments
from spresso_jax.quantizer import assign, initialise
from spresso_jax.quantizer.qinco import Params, Qinco
from spresso_jax.quantizer.residual_kmeans import KMeans

# Rows that plain residual quantization is fitted to, and its k-means iterations a step.
BASELINE_ROWS = 500_000
BASELINE_ITERATIONS = 10
BASELINE_SEED = 0


@dataclasses.dataclass(frozen=True)
class Search:
    """A and B of a report's search."""

    preselect: int
    beam: int


def search_of(quantizer: Qinco, preselect: int | None = None, beam: int | None = None) -> Search:
    """The search that a report uses; None takes the quantizer's own.

    Raises:
      ValueError: as `assign.encode`.
    """
    width = assign.SearchWidth.of(quantizer, None, preselect, beam, None)
    return Search(quantizer.preselect if preselect is None else preselect, width.beam)


def plain_residual_quantizer(
    quantizer: Qinco, params: Params, search: Search, blocks: Sequence[np.ndarray]
) -> tuple[Qinco, Params]:
    """Residual k-means of the same M and K as a quantizer without networks, to be searched with the same beam.

    The codewords nearest to a residual are the best ones here, so that a pre-selection of A = B loses nothing.

    Args:
      quantizer: gives M, K and D.
      params: gives the standardisation, within which both measure distances.
      search: gives B.
      blocks: training vectors [n, D].

    Raises:
      ValueError: if there are fewer than K vectors.
    """
    plain = dataclasses.replace(
        quantizer, blocks=0, embedding_width=None, outer_skip=True, preselect=search.beam, beam=search.beam
    )
    # One scale for all coordinates of standardised rows: distances stay those that the quantizer itself measures.
    fitted = initialise.fit(
        plain,
        jax.random.key(BASELINE_SEED),
        np.asarray(quantizer.standardise(params, np.concatenate(blocks))),
        kmeans=KMeans(iterations=BASELINE_ITERATIONS),
        scale="single",
    )
    fitted |= {
        "data_mean": quantizer.unstandardise(params, fitted["data_mean"]),
        "data_std": fitted["data_std"] * params["data_std"],
    }
    return plain, fitted


class SplitMeasures:
    """Everything that is summed up over the vectors of one split; sums are float64.

    Args:
      quantizer: the sizes.
      params: its tree.
      search: A and B.
      baseline: `plain_residual_quantizer`, or None.

    Attributes:
      rows: vectors so far.
      codes: counts of the codes of all M codebooks.
      moments: of the vectors.
    """

    def __init__(self, quantizer: Qinco, params: Params, search: Search, baseline: tuple[Qinco, Params] | None = None):
        self._quantizer, self._params, self._search, self._baseline = quantizer, params, search, baseline
        self._errors = np.zeros(quantizer.codebooks)
        self._prefix_errors = np.zeros(quantizer.codebooks)
        self._baseline_errors = np.zeros(quantizer.codebooks)
        self._fingerprints: list[np.ndarray] = []
        self.rows = 0
        self.codes = CodeCounts(quantizer.codebooks, quantizer.codewords)
        self.moments = Moments(quantizer.dimension)

    def add(self, block: np.ndarray) -> None:
        """Searches and counts a block [n, D] float32."""
        options = dataclasses.asdict(self._search)
        codes, reconstructions = assign.encode_all_prefixes(self._quantizer, self._params, block, **options)
        self.rows += len(block)
        self._errors += _squared_errors(reconstructions, block)
        self._prefix_errors += _squared_errors(self._quantizer.partial_reconstructions(self._params, codes[-1]), block)
        self.codes.add(np.asarray(codes[-1]))
        self.moments.add(block)
        self._fingerprints.append(_row_fingerprints(block))
        if self._baseline is not None:
            plain, fitted = self._baseline
            _, reconstructions = assign.encode_all_prefixes(plain, fitted, block)
            self._baseline_errors += _squared_errors(reconstructions, block)

    def mse(self) -> np.ndarray:
        """[M] squared error summed over coordinates, mean over vectors, of the best beam of every number of codebooks."""
        return self._errors / max(self.rows, 1)

    def prefix_mse(self) -> np.ndarray:
        """[M], of the first m codes of the M-codebook code."""
        return self._prefix_errors / max(self.rows, 1)

    def baseline_mse(self) -> np.ndarray | None:
        """[M], of plain residual quantization; None without a baseline."""
        return None if self._baseline is None else self._baseline_errors / max(self.rows, 1)

    def distinct(self) -> int:
        """Number of different vectors."""
        return len(np.unique(np.concatenate(self._fingerprints))) if self._fingerprints else 0


def _squared_errors(reconstructions: jax.Array, block: np.ndarray) -> np.ndarray:
    """[M, n, D] and [n, D] give [M] sums."""
    sums = []
    for reconstruction in np.asarray(reconstructions):
        error = reconstruction.astype(np.float64) - block
        sums.append(np.vdot(error, error))
    return np.array(sums)


def _row_fingerprints(block: np.ndarray) -> np.ndarray:
    """64 bits a row: a random linear combination of the bits of its numbers, equal for equal rows."""
    words = np.ascontiguousarray(block + np.float32(0), np.float32).view(np.uint32).astype(np.uint64)
    factors = np.random.default_rng(0).integers(0, 1 << 63, words.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(
        1
    )
    return (words * factors).sum(axis=1, dtype=np.uint64)
