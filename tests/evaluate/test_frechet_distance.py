"""The Frechet distance on Gaussians with known answers, streamed and redrawn; extrapolation over the number of clips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spresso_jax.evaluate import frechet_distance as module
from spresso_jax.evaluate.frechet_distance import (
    Moments,
    frechet_distance,
    frechet_parts,
    gaussian,
    streamed_moments,
)
from spresso_jax.evaluate.sample_size import toolkit_extrapolation, two_sided_extrapolation

RNG = np.random.default_rng(0)


def with_moments(mean, deviations, count: int, seed: int) -> np.ndarray:
    """Rows whose sample mean and covariance are exactly these (axes uncorrelated)."""
    rows = np.random.default_rng(seed).standard_normal((count, len(mean)))
    rows -= rows.mean(axis=0)
    white = np.linalg.qr(rows)[0] * np.sqrt(count - 1)
    return white * np.asarray(deviations) + np.asarray(mean)


def test_distance_of_axis_aligned_gaussians_is_the_closed_form():
    mean_x, mean_y = np.array([1.0, 0.0, -2.0]), np.array([0.0, 0.5, -2.0])
    s_x, s_y = np.array([1.0, 2.0, 0.1]), np.array([3.0, 2.0, 0.0])
    parts = frechet_parts(with_moments(mean_x, s_x, 40, 1), with_moments(mean_y, s_y, 60, 2))
    assert parts.mean_term == pytest.approx(1.25)
    assert parts.distance == pytest.approx(1.25 + np.sum((s_x - s_y) ** 2))


@settings(max_examples=25, deadline=None)
@given(
    count=st.tuples(st.integers(2, 30), st.integers(2, 30)),
    width=st.integers(1, 12),
    offset=st.floats(-1e3, 1e3),
    seed=st.integers(0, 99),
)
def test_symmetric_rotation_free_and_zero_for_equal_sets_even_with_few_rows(count, width, offset, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((count[0], width)), 2.0 * rng.standard_normal((count[1], width)) + 0.3
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
    value = frechet_distance(x, y)
    scale = 1.0 + value
    assert abs(frechet_distance(y, x) - value) < 1e-9 * scale
    assert abs(frechet_distance(x @ turn + offset, y @ turn + offset) - value) < 1e-7 * scale
    assert 0.0 <= frechet_distance(x, x[::-1]) < 1e-10 * scale
    assert abs(frechet_distance(Moments.of(x), Moments.of(y)) - value) < 1e-6 * scale


def test_streamed_moments_do_not_depend_on_the_batches_and_take_single_rows_and_float16():
    rows = (RNG.standard_normal((101, 5)) * 0.01 + 1000.0).astype(np.float64)
    whole = Moments.of(rows)
    for cuts in ([1, 2, 3, 50], list(range(1, 101)), [100]):
        merged = streamed_moments(np.split(rows, cuts))
        assert merged.count == 101
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
        np.testing.assert_allclose(merged.scatter, whole.scatter, atol=1e-9)
    np.testing.assert_allclose(whole.scatter / 100, np.cov(rows, rowvar=False), atol=1e-12)
    half = rows.astype(np.float16)
    assert streamed_moments([half[:1], half[1:]]).mean == pytest.approx(half.astype(np.float64).mean(axis=0))


def test_redrawn_rows_count_as_often_as_they_were_drawn():
    rows = RNG.standard_normal((30, 8))
    drawn = RNG.integers(0, 30, 25)
    ours, plain = gaussian(rows, "set", drawn), gaussian(rows[drawn])
    np.testing.assert_allclose(ours.mean, plain.mean, atol=1e-14)
    np.testing.assert_allclose(ours.covariance, plain.covariance, atol=1e-13)
    assert frechet_distance(gaussian(rows, "set", np.zeros(4, int)), gaussian(rows, "set", np.zeros(9, int))) == 0.0


def test_eigenvalues_are_used_only_where_they_give_what_the_singular_values_give(monkeypatch):
    """Well-conditioned sets take the fast way, dependent columns and equal sets the exact one; both agree."""
    x, y = RNG.standard_normal((80, 5)), 0.5 * RNG.standard_normal((70, 5)) + 1.0
    taken = []
    fast = module._trace_root_by_eigenvalues
    monkeypatch.setattr(module, "_trace_root_by_eigenvalues", lambda *a: taken.append(fast(*a)) or taken[-1])
    dependent = np.concatenate([x, x[:, :1] + x[:, 1:2]], axis=1)
    shrunk = np.concatenate([y, 1e-9 * y[:, :1] ** 2], axis=1)
    sets = ((x, y), (dependent, shrunk), (shrunk, dependent), (x, x), (x[:5], y))
    values = [frechet_distance(*pair) for pair in sets]
    assert taken[0] is not None and taken[1:] == [None] * 4
    monkeypatch.setattr(module, "_trace_root_by_eigenvalues", lambda *a: None)
    assert values == pytest.approx([frechet_distance(*pair) for pair in sets], rel=1e-10, abs=1e-13)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: frechet_distance(np.zeros((1, 3)), np.zeros((5, 3))), "reference: 1 rows; a distance"),
    (lambda: frechet_distance(np.zeros((5, 3)), np.full((5, 3), np.nan)), "evaluation: row 0 .*not finite"),
    (lambda: frechet_distance(np.zeros((5, 3)), np.zeros((5, 4))), "3 dimensions and the evaluation 4"),
    (lambda: frechet_distance(np.zeros(5), np.zeros((5, 4))), "shape"),
    (lambda: gaussian(Moments.of(np.zeros((1, 3)))), "1 rows"),
    (lambda: streamed_moments([]), "no rows"),
    (lambda: streamed_moments([np.zeros((2, 3)), np.zeros((2, 4))]), "dimensions"),
    (lambda: toolkit_extrapolation(500, lambda rows: 0.0), "more than 500, got 500"),
    (lambda: two_sided_extrapolation(40, 30, lambda x, y: 0.0, paired=True), "equally many"),
])
def test_sets_on_which_nothing_can_be_measured_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_toolkit_extrapolation_draws_like_numpys_legacy_generator_and_fits_a_line():
    seen = []
    line = toolkit_extrapolation(60, lambda rows: seen.append(rows) or 3.0 + 8.0 / len(rows), steps=5, least=20, seed=4)
    assert [len(rows) for rows in seen] == [20, 30, 40, 50, 60]
    legacy = np.random.RandomState(4)
    np.testing.assert_array_equal(seen[0], legacy.choice(60, 20, replace=True))
    assert (line.intercept, line.slope, line.r2) == pytest.approx((3.0, 8.0, 1.0))


def test_two_sided_extrapolation_draws_each_clip_once_and_the_same_ones_for_pairs():
    sizes = set()

    def score(x, y):
        assert len(set(x)) == len(x) == len(y) and (x == y).all()
        sizes.add(len(x))
        return 1.0 + 2.0 / len(x)

    line = two_sided_extrapolation(40, 40, score, paired=True, steps=4, draws=2)
    assert sizes == {10, 20, 30, 40}
    assert (line.intercept, line.slope) == pytest.approx((1.0, 2.0)) and line.interval is None


def test_two_sided_interval_holds_the_population_distance():
    x, y = RNG.standard_normal((160, 4)), RNG.standard_normal((160, 4)) + 0.25
    line = two_sided_extrapolation(
        160, 160, lambda i, j: frechet_distance(x[i], y[j]), steps=3, draws=2, interval_draws=40
    )
    assert line.interval.low < 0.25 < line.interval.high
    assert line.interval.mean == pytest.approx(line.intercept)
    assert line.interval.low < line.intercept < line.interval.high
