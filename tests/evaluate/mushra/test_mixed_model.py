"""The closed form against the restricted likelihood itself, and what must hold whatever the scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import t

from spresso_jax.evaluate.mushra.mixed_model import fit_mixed_model


def drawn(seed, shape=(5, 4, 3), listener=1.0, item=1.0):
    rng = np.random.default_rng(seed)
    listeners, items, conditions = shape
    scores = 10.0 * rng.normal(size=shape) + 30.0 * rng.normal(size=conditions)
    return scores + (8.0 * listener * rng.normal(size=(listeners, 1, 1)) + 8.0 * item * rng.normal(size=(1, items, 1)))


def restricted_deviance(variances, scores):
    """-2 log restricted likelihood, up to a constant; variances of listener, item, residual."""
    shape = scores.shape
    listener, item, condition = (np.eye(n)[i.ravel()] for n, i in zip(shape, np.indices(shape), strict=True))
    v = variances[0] * listener @ listener.T + variances[1] * item @ item.T + variances[2] * np.eye(scores.size)
    inverse = np.linalg.inv(v)
    information = condition.T @ inverse @ condition
    effects = np.linalg.solve(information, condition.T @ inverse @ scores.ravel())
    rest = scores.ravel() - condition @ effects
    return np.linalg.slogdet(v)[1] + np.linalg.slogdet(information)[1] + rest @ inverse @ rest, information


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), listener=st.sampled_from([0.0, 1.0]), item=st.sampled_from([0.0, 1.0]))
def test_no_other_variances_have_a_higher_restricted_likelihood(seed, listener, item):
    scores = drawn(seed, listener=listener, item=item)
    model = fit_mixed_model(scores)
    found = [model.variances[name] for name in ("listener", "item", "residual")]
    ours, information = restricted_deviance(found, scores)
    searched = minimize(
        lambda v: restricted_deviance(v, scores)[0], np.add(found, 5.0), bounds=[(0, None), (0, None), (1e-3, None)]
    )
    assert ours <= searched.fun + 1e-6
    spread = np.linalg.inv(information)
    contrast = np.sqrt(spread[0, 0] + spread[1, 1] - 2.0 * spread[0, 1])
    assert model.difference_half_width == pytest.approx(t.ppf(0.975, model.degrees_of_freedom) * contrast, rel=1e-6)
    assert model.mean_half_widths[0] >= t.ppf(0.975, scores.size) * np.sqrt(spread[0, 0]) - 1e-9


def test_a_negative_component_becomes_zero():
    scores = drawn(3)
    flat = scores - scores.mean(axis=(1, 2), keepdims=True)
    assert fit_mixed_model(flat).variances["listener"] == 0.0
    assert fit_mixed_model(scores).variances["listener"] > 0.0


def test_the_interval_covers_as_often_as_it_says():
    truth = np.array([20.0, 50.0, 70.0])
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        scores = (
            truth
            + 8.0 * rng.normal(size=(6, 1, 1))
            + 5.0 * rng.normal(size=(1, 5, 1))
            + 10.0 * rng.normal(size=(6, 5, 3))
        )
        model = fit_mixed_model(scores)
        hits += abs(model.means[1] - model.means[0] - 30.0) <= model.difference_half_width
    assert 0.92 <= hits / 400 <= 0.98


@pytest.mark.parametrize("scores", [np.zeros((1, 4, 3)), np.zeros((4, 3)), np.full((3, 3, 3), np.nan)])
def test_an_impossible_table_is_refused(scores):
    with pytest.raises(ValueError, match="mixed model needs"):
        fit_mixed_model(scores)
