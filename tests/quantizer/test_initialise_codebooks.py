"""The two starts, and revival of codewords that died."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spresso_jax.quantizer import assign, initialise, revival
from spresso_jax.quantizer.qinco import Qinco

SMALL = {"codebooks": 3, "codewords": 16, "hidden_width": 8, "blocks": 1, "preselect": 8, "beam": 4, "dimension": 6}


def correlated_rows(count=3000, seed=0):
    rng = np.random.default_rng(seed)
    centres = 2.0 * rng.standard_normal((12, 6))
    rows = centres[rng.integers(0, 12, count)] + 0.4 * rng.standard_normal((count, 3)) @ rng.standard_normal((3, 6))
    return (rows * np.exp(rng.standard_normal(6) * 0.5) + 3.0).astype(np.float32)


@pytest.mark.parametrize("width", [None, 9])
def test_residual_start_equals_the_residual_quantizer(width):
    rows = correlated_rows()
    quantizer = Qinco(**SMALL, embedding_width=width)
    params = initialise.fit(quantizer, jax.random.key(0), rows)
    residual = np.asarray(quantizer.standardise(params, rows))
    codes = np.asarray(assign.encode(quantizer, params, rows, preselect=0, beam=1))
    for step in range(3):
        table = np.asarray(params["first_codebook"] if step == 0 else params["steps"]["preselection"][step - 1])
        nearest = np.square(residual[:, None] - table).sum(-1).argmin(-1)
        assert (nearest == codes[:, step]).mean() > 0.999
        residual = residual - table[codes[:, step]]
    found = quantizer.standardise(params, quantizer.decode(params, codes))
    np.testing.assert_allclose(found, quantizer.standardise(params, rows) - residual, atol=1e-5)


def test_the_official_start_is_the_references():
    rows = correlated_rows()
    quantizer = Qinco(**SMALL, embedding_width=9)
    official = initialise.fit(quantizer, jax.random.key(0), rows, start="official")
    assert np.any(official["steps"]["out_proj"])
    np.testing.assert_array_equal(official["steps"]["codebook"], official["steps"]["preselection"])
    np.testing.assert_allclose(official["data_std"], rows.std(), rtol=1e-4)
    # Without the noise, the tables are those of the raw vectors, moved and scaled afterwards.
    tables = np.asarray(official["steps"]["preselection"])
    assert np.abs(tables.mean(1)).max() < 0.5


def test_unfit_rows_and_unknown_starts_are_refused_before_the_work():
    quantizer, rows = Qinco(**SMALL), correlated_rows(100)
    with pytest.raises(ValueError, match="16 codewords .* 10 rows hold only 10"):
        initialise.fit(quantizer, jax.random.key(0), rows[:10])
    with pytest.raises(ValueError, match="dimension 0, 1, 2, 3, 4, 5 of"):
        initialise.fit(quantizer, jax.random.key(0), rows[:1] + np.arange(20)[:, None] * np.zeros(6))
    with pytest.raises(ValueError, match="5 dimensions, but the quantizer takes 6"):
        initialise.fit(quantizer, jax.random.key(0), rows[:, :5])
    with pytest.raises(ValueError, match="residual, official"):
        initialise.fit(quantizer, jax.random.key(0), rows, start="faiss")
    with pytest.raises(ValueError, match="dimension, single"):
        initialise.fit(quantizer, jax.random.key(0), rows, scale="none")


@pytest.mark.parametrize("width", [None, 9])
def test_revived_codewords_are_real_residuals_and_get_chosen(width):
    rows = correlated_rows()
    quantizer = Qinco(**SMALL, embedding_width=width)
    params = initialise.fit(quantizer, jax.random.key(0), rows)
    # Half of step 1 is put where nothing is ever coded.
    for name in ("codebook", "preselection"):
        params["steps"][name] = params["steps"][name].at[0, :8].set(50.0)
    codes = assign.encode(quantizer, params, rows)
    counts = assign.usage_counts(codes, 16)
    assert (counts[1, :8] == 0).all()
    residuals = quantizer.residuals(params, rows, codes)
    revived, dead = revival.revive(quantizer, params, counts, residuals, jax.random.key(3))
    np.testing.assert_array_equal(dead, counts == 0)
    fresh = np.asarray(revived["steps"]["preselection"][0, :8])
    assert np.abs(fresh[:, None] - np.asarray(residuals[1])).max(-1).min(-1).max() == 0
    again = assign.usage_counts(assign.encode(quantizer, revived, rows), 16)
    assert (again[1] > 0).all()
    unchanged = ~np.asarray(dead[1])
    np.testing.assert_array_equal(revived["steps"]["codebook"][0][unchanged], params["steps"]["codebook"][0][unchanged])


def test_the_references_reset_draws_noise_at_the_running_moments_of_the_residuals():
    rows = correlated_rows()
    quantizer = Qinco(**SMALL)
    params = initialise.fit(quantizer, jax.random.key(0), rows)
    codes = assign.encode(quantizer, params, rows)
    residuals = quantizer.residuals(params, rows, codes)
    first = revival.residual_moments(None, residuals[:, :1000])
    mean, std = revival.residual_moments(first, residuals[:, 1000:])
    later = np.asarray(residuals[:, 1000:])
    np.testing.assert_allclose(mean, 0.9 * first[0] + 0.1 * later.mean(1), atol=1e-5)
    np.testing.assert_allclose(std, 0.9 * first[1] + 0.1 * later.std(1, ddof=1), atol=1e-5)
    counts = jnp.ones((3, 16), jnp.int32).at[0, 3].set(0).at[2, :].set(0)
    revived, dead = revival.revive_from_noise(quantizer, params, counts, (mean, std), jax.random.key(1))
    np.testing.assert_array_equal(dead, counts == 0)
    kept = jnp.arange(16) != 3
    np.testing.assert_array_equal(revived["first_codebook"][kept], params["first_codebook"][kept])
    np.testing.assert_array_equal(revived["steps"]["codebook"][0], params["steps"]["codebook"][0])
    fresh, noisy = (np.asarray(revived["steps"][name][1]) for name in ("codebook", "preselection"))
    drawn = (fresh - mean[2]) / std[2]
    assert abs(drawn.mean()) < 1e-5 and abs(drawn.std() - 1) < 1e-5 and np.abs(drawn).max() < 2
    assert 0.5 * 0.025 < (noisy - fresh).std() / fresh.std() < 1.5 * 0.025


def test_training_from_the_residual_start_lowers_the_error():
    """Rows on a curved surface: the residual of a step depends on where the steps before led."""
    rng = np.random.default_rng(0)
    rows = jnp.asarray(np.sin(2.5 * rng.standard_normal((1024, 2)) @ rng.standard_normal((2, 6))), jnp.float32)
    quantizer = Qinco(**{**SMALL, "codebooks": 2, "hidden_width": 32}, embedding_width=12)
    params = initialise.fit(quantizer, jax.random.key(0), rows)
    update = optax.adam(3e-3)

    def step(carry, _):
        params, state = carry
        codes = assign.encode(quantizer, params, rows, tile=1024)
        gradient, parts = jax.grad(quantizer.training_loss, has_aux=True)(params, rows, codes)
        change, state = update.update(gradient, state, params)
        return (optax.apply_updates(params, change), state), parts["mse_per_step"][-1]

    train = jax.jit(lambda params: jax.lax.scan(step, (params, update.init(params)), length=100)[1])
    errors = train(params)
    assert errors[-1] < 0.85 * errors[0], errors[::10]
