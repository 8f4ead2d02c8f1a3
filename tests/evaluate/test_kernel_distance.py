"""Kernel distance: blocks against the plain formula, medians, bootstrap and permutation by clip."""

import numpy as np
import pytest

from spresso_jax.evaluate import kernel_distance, kernel_resampling
from spresso_jax.evaluate.embedded_set import EmbeddedSet
from spresso_jax.evaluate.kernel_distance import Kernel, kernel_means, median_distance

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((37, 6)), 1.2 * RNG.standard_normal((29, 6)) + 0.4


def plain_kernel(a: np.ndarray, b: np.ndarray, kernel: Kernel) -> np.ndarray:
    scaled = kernel.gamma * np.sum((a[:, None] - b[None]) ** 2, axis=-1)
    return {"gaussian": np.exp(-scaled), "iq": 1 / (1 + scaled), "imq": (1 + scaled) ** -0.5}[kernel.kind]


def plain_paired(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> float:
    h = plain_kernel(x, x, kernel) + plain_kernel(y, y, kernel) - 2 * plain_kernel(x, y, kernel)
    n = len(x)
    return float((h.sum() - np.trace(h)) / (n * (n - 1)))


@pytest.fixture(params=[7, 16, 1024])
def block(request, monkeypatch):
    """Sets that end inside a block, at its end, and in one block."""
    monkeypatch.setattr(kernel_distance, "BLOCK_ROWS", request.param)


@pytest.mark.parametrize("kind", kernel_distance.KERNELS)
def test_blockwise_means_are_the_plain_formula(block, kind):
    kernel = Kernel(2.0, kind)
    means = kernel_means(X, Y, kernel)
    xx, yy, xy = (plain_kernel(a, b, kernel) for a, b in ((X, X), (Y, Y), (X, Y)))
    assert means.biased == pytest.approx(xx.mean() + yy.mean() - 2 * xy.mean(), abs=1e-13)
    within = (xx.sum() - 37) / (37 * 36) + (yy.sum() - 29) / (29 * 28)
    assert means.unbiased == pytest.approx(within - 2 * xy.mean(), abs=1e-13)
    assert np.isnan(means.paired)
    kept = {"reference_squares": median_distance(X).squares, "evaluation_squares": median_distance(Y).squares}
    assert kernel_means(X, Y, kernel, **kept).unbiased == pytest.approx(means.unbiased, abs=1e-13)
    assert kernel_means(X[:29], Y, kernel, paired=True).paired == pytest.approx(
        plain_paired(X[:29], Y, kernel), abs=1e-13
    )


@pytest.mark.parametrize("count", [2, 3, 36, 37])
def test_median_is_the_lower_middle_distance(block, count):
    rows = X[:count]
    distances = np.sort(np.linalg.norm(rows[:, None] - rows[None], axis=-1)[np.triu_indices(count, 1)])
    assert median_distance(rows).value == pytest.approx(distances[(distances.size - 1) // 2], rel=1e-6)


def test_median_of_random_pairs_is_near_seeded_and_recorded():
    rows = RNG.standard_normal((400, 6))
    sampled = median_distance(rows, exact_rows=100, pairs=40_000, seed=3)
    assert (sampled.pairs, sampled.seed) == (40_000, 3)
    assert median_distance(rows).pairs is None
    assert sampled.value == pytest.approx(median_distance(rows).value, rel=0.01)
    assert sampled == median_distance(rows, exact_rows=100, pairs=40_000, seed=3)


def test_large_offsets_do_not_cost_digits():
    kernel = Kernel(2.0)
    shifted = kernel_means(X + 1e5, Y + 1e5, kernel).unbiased
    assert shifted == pytest.approx(kernel_means(X, Y, kernel).unbiased, abs=1e-9)


def test_paired_statistic_is_zero_for_equal_sets_where_the_toolkit_value_is_negative():
    means = kernel_means(X, X, Kernel(2.0), paired=True)
    assert means.paired == pytest.approx(0.0, abs=1e-14)
    assert means.unbiased < -0.01


@pytest.mark.parametrize(("call", "message"), [
    (lambda: kernel_means(X, Y, Kernel(1.0), paired=True), "equally many rows, got 37 and 29"),
    (lambda: kernel_means(X, Y[:, :3], Kernel(1.0)), "6 dimensions and the evaluation 3"),
    (lambda: kernel_means(X[:1], Y, Kernel(1.0)), "reference: 1 rows"),
    (lambda: kernel_means(X, np.full((4, 6), np.inf), Kernel(1.0)), "not finite"),
    (lambda: Kernel(median_distance(np.ones((9, 6))).value), "half of all pairs"),
    (lambda: Kernel(1.0, "laplace"), "one of"),
])
def test_sets_and_kernels_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def several_rows_a_clip(rows: np.ndarray, role: str) -> EmbeddedSet:
    counts = [1 + i % 3 for i in range(len(rows))]
    while sum(counts) > len(rows):
        counts.pop()
    return EmbeddedSet.of(rows[: sum(counts)], counts=counts, role=role)


@pytest.mark.parametrize(("paired", "own_partners"), [(False, True), (True, True), (True, False)])
def test_bootstrap_weights_are_sums_over_copies(block, monkeypatch, paired, own_partners):
    """One given draw against loops over copies: pairs of copies of one clip are left out, pairs within a copy stay."""
    kernel = Kernel(2.0)
    x, y = several_rows_a_clip(X[:24], "reference"), several_rows_a_clip(Y[:24], "evaluation")
    drawn_x = np.array([2, 0, 1, 0, 3, 1, 2, 0, 1, 0, 1, 1])
    drawn_y = drawn_x if paired else np.roll(drawn_x, 2)
    weights = iter([drawn_x, drawn_y])
    monkeypatch.setattr(kernel_resampling, "_multiplicities", lambda *args: next(weights)[None].astype(float))
    interval = kernel_resampling.bootstrap_interval(x, y, kernel, paired=paired, own_partners=own_partners, draws=1)

    def copies(side, drawn):
        return [(c, copy, r) for c, n in enumerate(drawn) for copy in range(n)
                for r in range(side.starts[c], side.starts[c + 1])]

    def mean(a, b, first, second, same, skip_equal_rows):
        values = plain_kernel(a.rows, b.rows, kernel)
        kept = [values[r, s] for c, i, r in first for d, j, s in second
                if not (same and c == d and i != j) and not (skip_equal_rows and r == s and c == d and i == j)]
        return np.mean(kept)

    cx, cy = copies(x, drawn_x), copies(y, drawn_y)
    expected = mean(x, x, cx, cx, True, True) + mean(y, y, cy, cy, True, True)
    expected -= 2 * mean(x, y, cx, cy, paired, paired and not own_partners)
    assert interval == pytest.approx((expected, expected), abs=1e-12)


def test_bootstrap_covers_the_population_value():
    """Sets drawn again and again: the interval holds the distance of the populations about as often as it says."""
    kernel, covered = Kernel(1.5), 0
    large = np.random.default_rng(5)
    population = kernel_means(
        large.standard_normal((3000, 2)), large.standard_normal((3000, 2)) + 0.8, kernel
    ).unbiased
    for trial in range(40):
        rng = np.random.default_rng(trial)
        x, y = rng.standard_normal((50, 2)), rng.standard_normal((50, 2)) + 0.8
        low, high = kernel_resampling.bootstrap_interval(
            EmbeddedSet.of(x), EmbeddedSet.of(y), kernel, paired=False, draws=200
        )
        covered += low <= population <= high
    assert 0.85 <= covered / 40 <= 1.0


def test_permutation_test_is_exact_on_equal_distributions_and_finds_small_paired_differences():
    p_values = []
    for trial in range(60):
        rng = np.random.default_rng(trial)
        x, y = (EmbeddedSet.of(rng.standard_normal((12, 3))) for _ in range(2))
        p_values.append(kernel_resampling.permutation_test(x, y, paired=False, permutations=39).p_value)
    assert 0.3 < np.mean(p_values) < 0.7 and np.mean(np.array(p_values) <= 0.05) < 0.15
    noise = 0.2 * RNG.standard_normal(X.shape)
    near, shifted = EmbeddedSet.of(X + noise), EmbeddedSet.of(X + noise + 0.15)
    reference = EmbeddedSet.of(X)
    assert kernel_resampling.permutation_test(reference, near, paired=True).p_value > 0.05
    assert kernel_resampling.permutation_test(reference, shifted, paired=True).p_value <= 0.005
    assert kernel_resampling.permutation_test(reference, shifted, paired=False).p_value > 0.05


def test_permutations_are_the_statistic_of_the_relabelled_sets(block):
    """The draws by quadratic forms against the statistic computed anew on relabelled clips."""
    x, y = several_rows_a_clip(X[:20], "reference"), several_rows_a_clip(Y[:20], "evaluation")
    kernel = Kernel(1.7)

    class Chosen:
        def permuted(self, labels, axis):
            return labels[:, ::-1]

        def choice(self, values, shape):
            return np.where(np.arange(shape[1]) % 2, -1.0, 1.0) * np.ones(shape)

    dealt = kernel_resampling._dealt_anew(x, y, kernel, 1, Chosen())
    assert dealt[0] == pytest.approx(kernel_means(x.rows, y.rows, kernel).unbiased, abs=1e-13)
    assert dealt[1] == pytest.approx(kernel_means(y.rows, x.rows, kernel).unbiased, abs=1e-13)
    swapped = kernel_resampling._swapped(x, y, kernel, 1, Chosen())
    odd = (x.clip_of_row % 2 == 1)[:, None]
    first, second = np.where(odd, y.rows, x.rows), np.where(odd, x.rows, y.rows)
    assert swapped[0] == pytest.approx(plain_paired(x.rows, y.rows, kernel), abs=1e-13)
    assert swapped[1] == pytest.approx(plain_paired(first, second, kernel), abs=1e-13)
