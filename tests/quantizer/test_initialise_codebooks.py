"""Start from residual k-means, and revival of codewords that died."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spresso_jax.quantizer import assign, initialise
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


def test_every_codeword_is_used_after_k_means_and_the_error_is_small():
    rows = correlated_rows()
    mean, std = initialise.fit_standardisation(rows)
    standardised = (rows - mean) / std
    tables = initialise.residual_codebooks(jax.random.key(1), standardised, 2, 16)
    code, error = initialise.nearest(standardised, tables[0])
    assert len(np.unique(code)) == 16
    assert error.mean() < 0.35 * 6
    np.testing.assert_allclose(error, np.square(standardised - tables[0][code]).sum(-1), atol=1e-3)


def test_empty_clusters_move_to_rows():
    rows = jnp.asarray(correlated_rows(2048))
    table = jnp.concatenate([rows[:8], 1e3 + jnp.zeros((8, 6))])
    tiles = rows.reshape(2, 1024, 6)
    moved = initialise._lloyd_iteration(jax.random.key(0), tiles, jnp.ones((2, 1024)), table, 2)
    distance = np.square(np.asarray(moved[8:, None]) - np.asarray(rows)).sum(-1).min(-1)
    np.testing.assert_allclose(distance, 0, atol=1e-6)
    assert len(np.unique(np.asarray(moved), axis=0)) == 16


def test_official_start_keeps_the_random_projection_and_adds_noise():
    rows = correlated_rows()
    quantizer = Qinco(**SMALL, embedding_width=9)
    official = initialise.fit(quantizer, jax.random.key(0), rows, start="official")
    assert np.any(official["steps"]["out_proj"])
    np.testing.assert_array_equal(official["steps"]["codebook"], official["steps"]["preselection"])
    np.testing.assert_allclose(official["data_std"], rows.std(), rtol=1e-4)


def test_too_few_rows_constant_coordinates_and_unknown_starts_are_refused():
    quantizer, rows = Qinco(**SMALL), correlated_rows(100)
    with pytest.raises(ValueError, match="fewer codewords"):
        initialise.fit(quantizer, jax.random.key(0), rows[:10])
    with pytest.raises(ValueError, match="constant"):
        initialise.fit_standardisation(np.ones((10, 6)))
    with pytest.raises(ValueError, match="residual, official"):
        initialise.fit(quantizer, jax.random.key(0), rows, start="faiss")


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
    revived, dead = initialise.revive(quantizer, params, counts, residuals, jax.random.key(3))
    np.testing.assert_array_equal(dead, counts == 0)
    fresh = np.asarray(revived["steps"]["preselection"][0, :8])
    assert np.abs(fresh[:, None] - np.asarray(residuals[1])).max(-1).min(-1).max() == 0
    again = assign.usage_counts(assign.encode(quantizer, revived, rows), 16)
    assert (again[1] > 0).all()
    unchanged = ~np.asarray(dead[1])
    np.testing.assert_array_equal(revived["steps"]["codebook"][0][unchanged], params["steps"]["codebook"][0][unchanged])


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
