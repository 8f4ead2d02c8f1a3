"""How far a kernel distance scatters, and whether two sets differ at all: bootstrap and permutation by clip.

Every draw is a quadratic form w^T K w of clip weights or signs, so that thousands of draws share one pass over the
kernel's blocks: 2 n^2 B operations a matrix for B draws, next to 2 n^2 D for the kernel itself, and 8 n B bytes a set.

A bootstrap set holds clips several times. Pairs of copies of one clip (kernel 1, or the clip's own windows) are no pairs
of different clips and stay out, else every draw would be too large by about 2 / n; pairs within one copy stay in.

Source: Gretton et al., A kernel two-sample test (permutation); Efron and Tibshirani (bootstrap); swapping within pairs
is the usual test of exchangeable pairs. The weighted form is our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spresso_jax.evaluate.bootstrap import LEVEL, percentiles
from spresso_jax.evaluate.embedded_set import EmbeddedSet, check_paired
from spresso_jax.evaluate.kernel_distance import Kernel, kernel_blocks, median_distance

BOOTSTRAP_DRAWS = 1000
PERMUTATIONS = 999


@dataclass(frozen=True)
class PermutationTest:
    """Test of "the two sets come from one distribution".

    Attributes:
      statistic: MMD^2 (without the scale) of the sets as they are.
      p_value: (1 + draws at least as large) / (1 + draws); small when the sets differ.
      permutations: draws.
      bandwidth: of the pooled rows, so that it does not depend on which set a row is in.
      swapped_within_pairs: True for paired sets.
    """

    statistic: float
    p_value: float
    permutations: int
    bandwidth: float
    swapped_within_pairs: bool


def bootstrap_interval(
    reference: EmbeddedSet,
    evaluation: EmbeddedSet,
    kernel: Kernel,
    *,
    paired: bool,
    own_partners: bool = True,
    draws: int = BOOTSTRAP_DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of MMD^2 (without the scale) over draws of clips; the bandwidth stays as it is.

    Near zero distance the statistic is degenerate and the interval no test: ask `permutation_test` whether sets differ.

    Args:
      paired: draw the same clips on both sides.
      own_partners: the cross term includes k(x_i, y_i), as in the toolkit value; False gives the paired statistic.

    Raises:
      ValueError: if `paired` is set and the sets are not, or `own_partners` is off without it.
    """
    if paired:
        check_paired(reference, evaluation)
    elif not own_partners:
        raise ValueError("only paired sets can leave the terms k(x_i, y_i) out")
    generator = np.random.default_rng(seed)
    weights_x = _multiplicities(reference.clips, draws, generator)
    weights_y = weights_x if paired else _multiplicities(evaluation.clips, draws, generator)
    x, y = kernel.scaled(reference.rows, evaluation.rows)
    within = [
        _weighted_mean(kernel, (s, s), (rows, None), (w, w), True, s.counts**2 - s.counts)
        for s, rows, w in ((reference, x, weights_x), (evaluation, y, weights_y))
    ]
    counts = reference.counts * evaluation.counts if paired else np.zeros(reference.clips, np.int64)
    if not own_partners:
        counts = counts - reference.counts
    sides, weights = (reference, evaluation), (weights_x, weights_y)
    across = _weighted_mean(kernel, sides, (x, y), weights, paired, counts, zero_diagonal=not own_partners)
    return percentiles(within[0] + within[1] - 2.0 * across, level)


def permutation_test(
    reference: EmbeddedSet,
    evaluation: EmbeddedSet,
    *,
    paired: bool,
    kind: str = "gaussian",
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> PermutationTest:
    """Tests whether the evaluation differs from the reference.

    Independent sets: clips are dealt anew to the two sides. Paired sets: x_i and y_i of a clip change places or not,
    which finds small differences, because a clip and its reconstruction share what makes clips differ.

    Raises:
      ValueError: if `permutations` is below 1, or the sets are not paired as said.
    """
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    if paired:
        check_paired(reference, evaluation)
    pooled = np.concatenate([reference.rows, evaluation.rows])
    kernel = Kernel(median_distance(pooled, seed=seed).value, kind)
    generator = np.random.default_rng(seed)
    draw = _swapped if paired else _dealt_anew
    statistics = draw(reference, evaluation, kernel, permutations, generator)
    observed = float(statistics[0])
    # Draws that repeat the observed labels differ from it by rounding alone.
    as_large = int(np.sum(statistics[1:] >= observed - 1e-12))
    return PermutationTest(observed, (1 + as_large) / (1 + permutations), permutations, kernel.bandwidth, paired)


def _swapped(
    reference: EmbeddedSet, evaluation: EmbeddedSet, kernel: Kernel, permutations: int, generator: np.random.Generator
) -> np.ndarray:
    """[1 + permutations] paired MMD^2: swapping clip i changes the sign of its terms with all other clips."""
    signs = generator.choice([-1.0, 1.0], (permutations + 1, reference.clips))
    signs[0] = 1.0
    by_row = _by_row(signs, reference)
    x, y = kernel.scaled(reference.rows, evaluation.rows)
    total = np.zeros(permutations + 1)
    for first, second, values, twice in kernel_blocks(kernel, x):
        total += twice * _form(by_row[:, first], values, by_row[:, second])
    for first, second, values, twice in kernel_blocks(kernel, y):
        total += twice * _form(by_row[:, first], values, by_row[:, second])
    for first, second, values, _ in kernel_blocks(kernel, x, y):
        _clear_diagonal(values, first, second)
        total -= 2.0 * _form(by_row[:, first], values, by_row[:, second])
    rows = len(x)
    return total / (rows * (rows - 1))


def _dealt_anew(
    reference: EmbeddedSet, evaluation: EmbeddedSet, kernel: Kernel, permutations: int, generator: np.random.Generator
) -> np.ndarray:
    """[1 + permutations] unbiased MMD^2 with clips dealt to sides of as many clips as before."""
    (pooled,) = kernel.scaled(np.concatenate([reference.rows, evaluation.rows]))
    clip_of_row = np.concatenate([reference.clip_of_row, reference.clips + evaluation.clip_of_row])
    in_first = np.zeros((permutations + 1, reference.clips + evaluation.clips))
    in_first[0, : reference.clips] = 1.0
    in_first[1:] = generator.permuted(np.tile(in_first[0], (permutations, 1)), axis=1)
    labels = in_first[:, clip_of_row]
    both, of_row = np.zeros(permutations + 1), np.zeros(len(pooled))
    for first, second, values, twice in kernel_blocks(kernel, pooled):
        both += twice * _form(labels[:, first], values, labels[:, second])
        of_row[first] += values.sum(axis=1)
        if twice == 2.0:
            of_row[second] += values.sum(axis=0)
    # Sums of the zero-diagonal kernel over (first, first), (first, second) and (second, second).
    across = labels @ of_row - both
    rest = of_row.sum() - both - 2.0 * across
    m = labels.sum(axis=1)
    n = len(pooled) - m
    return both / (m * (m - 1)) + rest / (n * (n - 1)) - 2.0 * across / (m * n)


def _weighted_mean(
    kernel: Kernel,
    sides: tuple[EmbeddedSet, EmbeddedSet],
    rows: tuple[np.ndarray, np.ndarray | None],
    weights: tuple[np.ndarray, np.ndarray],
    same_clips: bool,
    pairs_within_clip: np.ndarray,
    zero_diagonal: bool = False,
) -> np.ndarray:
    """[B] mean kernel over pairs of drawn clips.

    Args:
      rows: scaled rows of both sides; None for the first side with itself.
      weights: [B, C] how often each clip was drawn.
      same_clips: clip i is one and the same on both sides: pairs of its rows count once a copy, not once a pair of copies.
      pairs_within_clip: [C] how many pairs a copy has.
      zero_diagonal: leave k(x_i, y_i) out.
    """
    clips = [side.clip_of_row for side in sides]
    by_row = [_by_row(w, side) for w, side in zip(weights, sides, strict=True)]
    total, own = np.zeros(len(weights[0])), np.zeros(sides[0].clips)
    for first, second, values, twice in kernel_blocks(kernel, *rows):
        if zero_diagonal:
            _clear_diagonal(values, first, second)
        # Clips are in order, so blocks of other clips are told by their ends.
        if (
            same_clips
            and clips[0][first.stop - 1] >= clips[1][second.start]
            and (clips[1][second.stop - 1] >= clips[0][first.start])
        ):
            same = clips[0][first, None] == clips[1][None, second]
            np.add.at(own, clips[0][first], twice * np.where(same, values, 0.0).sum(axis=1))
            values[same] = 0.0
        total += twice * _form(by_row[0][:, first], values, by_row[1][:, second])
    sizes = [w * side.counts for w, side in zip(weights, sides, strict=True)]
    pairs = sizes[0].sum(axis=1) * sizes[1].sum(axis=1)
    if same_clips:
        pairs = pairs - np.sum(sizes[0] * sizes[1], axis=1) + weights[0] @ pairs_within_clip
        total += weights[0] @ own
    # A draw of one clip of one row over and over has no pair at all: nan, which the percentiles leave out.
    return np.divide(total, pairs, out=np.full_like(total, np.nan), where=pairs > 0)


def _by_row(by_clip: np.ndarray, side: EmbeddedSet) -> np.ndarray:
    """[B, R] from [B, C]; the same array where every clip has one row."""
    return by_clip if len(side.rows) == side.clips else by_clip[:, side.clip_of_row]


def _form(left: np.ndarray, values: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[B] sum_ij left_bi values_ij right_bj."""
    return np.einsum("bi,bi->b", left, right @ values.T)


def _clear_diagonal(values: np.ndarray, first: slice, second: slice) -> None:
    """Zeroes k(x_i, y_i) where the block holds it: blocks of both sides start at the same rows."""
    if first == second:
        np.fill_diagonal(values, 0.0)


def _multiplicities(clips: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """[draws, clips] how often each clip is in a bootstrap draw."""
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    return generator.multinomial(clips, np.full(clips, 1.0 / clips), size=draws).astype(np.float64)
