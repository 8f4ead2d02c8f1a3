"""Unit facts of the loss, the samplers, guidance and averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.diffusion import edm, ema, guidance
from spresso_jax.diffusion.sampler import Churn, dpm_solver_pp_2m, euler, fresh_noise, heun, sigma_grid

SHAPE = (2, 4, 3)


def shrink(x, sigma):
    """Exact denoiser of N(0, 0.5^2)."""
    return x * 0.25 / (0.25 + sigma**2)


def test_a_network_that_returns_zero_scores_one_at_every_noise_level():
    key = jax.random.key(0)
    x0 = 0.5 * jax.random.normal(key, (64, 50, 8))
    for sigma in (0.002, 0.5, 80.0):
        noise = jax.random.normal(jax.random.key(1), x0.shape)
        out = edm.loss_at(lambda x, c: 0 * x, x0, noise, jnp.full((64,), sigma), sigma_data=0.5)
        assert float(out.loss) == pytest.approx(1.0, abs=0.02)


def test_a_velocity_network_that_returns_zero_scores_two_kappa():
    x0 = 0.5 * jax.random.normal(jax.random.key(0), (64, 50, 8))
    noise = jax.random.normal(jax.random.key(1), x0.shape)
    for sigma, kappa in ((0.002, 0.992), (0.5, 0.5), (1.5, 0.625), (80.0, 0.988)):
        level = jnp.full((64,), sigma)
        out = edm.loss_at(lambda x, c: 0 * x, x0, noise, level, sigma_data=0.5, precond="flow")
        assert float(out.loss) == pytest.approx(2.0 * kappa, rel=0.01)
        # At u = ln(2) + ln(kappa), its best constant, the loss is 1 + u.
        out = edm.loss_at(
            lambda x, c: 0 * x, x0, noise, level, sigma_data=0.5, precond="flow", uncertainty=lambda c: 0 * c + np.log(2.0)
        )
        assert float(out.loss) == pytest.approx(1.0 + np.log(2.0 * kappa), abs=0.02)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_a_velocity_network_denoises_the_same_inside_edms_own_form(sigma_data):
    def velocity(x, t):
        return jnp.sin(3.0 * x + t[:, None, None])

    def inside(u, c_noise):
        sigma = (jnp.exp(4.0 * c_noise) / sigma_data)[:, None, None]
        gain = jnp.sqrt(1.0 + sigma**2) / (1.0 + sigma)
        return (sigma - 1.0) / (sigma + 1.0) * u + gain * velocity(gain * u, (sigma / (1.0 + sigma))[:, 0, 0])

    x0, noise = (jax.random.normal(jax.random.key(i), (40, 4, 3)) for i in (0, 1))
    sigma = jnp.geomspace(0.002, 80.0, 40)
    x = sigma_data * x0 + sigma[:, None, None] * noise
    flow = edm.denoise(velocity, x, sigma, sigma_data, precond="flow")
    np.testing.assert_allclose(flow, edm.denoise(inside, x, sigma, sigma_data), atol=2e-5)
    # What flow matching itself says of its own noised point: x0 = x_t + t v.
    t = (sigma / (sigma_data + sigma))[:, None, None]
    point = (1 - t) * x0 + t * noise
    np.testing.assert_allclose(flow, sigma_data * (point + t * velocity(point, t[:, 0, 0])), atol=2e-5)
    losses = [
        edm.loss_at(network, sigma_data * x0, noise, sigma, sigma_data=sigma_data, precond=precond).raw
        for network, precond in ((velocity, "flow"), (inside, "edm"))
    ]
    np.testing.assert_allclose(*losses, rtol=2e-3)
    np.testing.assert_allclose(losses[0][10:30], losses[1][10:30], rtol=1e-4)


def test_an_unknown_form_is_refused_by_name():
    with pytest.raises(ValueError, match="precond must be edm or flow, got 'vp'"):
        edm.denoise(lambda x, c: x, jnp.zeros(SHAPE), 1.0, 0.5, precond="vp")


@pytest.mark.parametrize("precond", ["edm", "flow"])
def test_loss_equals_the_weighted_error_of_the_denoised_signal_with_frame_weights(precond):
    x0, noise = (jax.random.normal(jax.random.key(i), SHAPE) for i in (0, 1))
    sigma, share = jnp.array([0.3, 4.0]), jnp.array([[1.0, 1.0, 0.0, 0.0], [1.0, 2.0, 1.0, 0.0]])

    def network(x, c):
        return jnp.sin(x + c[:, None, None])

    form = dict(precond=precond)
    out = edm.loss_at(network, x0, noise, sigma, sigma_data=0.5, uncertainty=lambda c: c, frame_weights=share, **form)
    level = sigma[:, None, None]
    error = edm.weight(level, 0.5) * (edm.denoise(network, x0 + level * noise, sigma, 0.5, **form) - x0) ** 2
    t = sigma / (0.5 + sigma)
    u = {"edm": jnp.log(sigma) / 4, "flow": t + jnp.log((sigma**2 + 0.25) / (sigma + 0.5) ** 2)}[precond][:, None]
    error = error.mean(-1)
    np.testing.assert_allclose(out.raw, (error * share).sum(1) / share.sum(1), rtol=1e-4)
    np.testing.assert_allclose(out.loss, ((error * jnp.exp(-u) + u) * share).sum() / share.sum(), rtol=1e-4)


def test_noise_levels_scale_with_the_data():
    small, large = (edm.sample_sigma(jax.random.key(0), (5,), -0.4, 1.0, s) for s in (0.5, 1.0))
    np.testing.assert_allclose(2 * small, large, rtol=1e-6)
    np.testing.assert_allclose(sigma_grid(8, sigma_data=1.0), 2 * sigma_grid(8))


@pytest.mark.parametrize("method", [heun, euler, dpm_solver_pp_2m])
def test_samplers_follow_the_exact_flow_of_a_gaussian(method):
    noise, grid = jax.random.normal(jax.random.key(0), SHAPE), sigma_grid(64)
    exact = noise * 80.0 * 0.5 / np.sqrt(0.25 + 80.0**2)
    error = float(jnp.abs(jax.jit(lambda v: method(shrink, v, grid))(noise) - exact).max())
    assert error < {"heun": 0.005, "euler": 0.2, "dpm_solver_pp_2m": 0.02}[method.__name__]


def test_the_last_step_returns_the_denoised_signal_and_one_step_is_refused():
    assert float(heun(lambda x, sigma: 0 * x + 7.0, jnp.ones(SHAPE), sigma_grid(3)).max()) == 7.0
    with pytest.raises(ValueError, match="steps must be at least 2"):
        sigma_grid(1)
    with pytest.raises(ValueError, match="fresh noise"):
        heun(shrink, jnp.ones(SHAPE), sigma_grid(3), Churn(10.0))


def test_churn_of_a_clip_does_not_depend_on_its_neighbours():
    keys, noise = jax.random.split(jax.random.key(0), 2), jnp.ones(SHAPE)

    def run(rows):
        return heun(shrink, noise[rows], sigma_grid(4), Churn(10.0), fresh_noise(keys[rows], noise[rows].shape))

    np.testing.assert_array_equal(run(slice(0, 2))[1:], run(slice(1, 2)))


def test_text_is_dropped_per_caption():
    mask = jnp.ones((400, 3), bool)
    kept = guidance.drop_text(jax.random.key(0), mask, 0.8)
    assert (kept.all(axis=1) | ~kept.any(axis=1)).all()
    assert float(kept.mean()) == pytest.approx(0.2, abs=0.06)
    assert not guidance.drop_text(jax.random.key(0), mask, 1.0).any()


def test_guidance_of_one_is_the_denoiser_and_an_interval_limits_it():
    assert guidance.guided(shrink, shrink, 1.0) is shrink
    double = guidance.guided(lambda x, s: 2 * x, lambda x, s: x, 3.0, interval=(0.1, 1.0))
    assert float(double(jnp.ones(()), jnp.asarray(0.5))) == 4.0
    assert float(double(jnp.ones(()), jnp.asarray(5.0))) == 2.0
    both = guidance.classifier_free(lambda x, s: x * jnp.repeat(jnp.array([2.0, 1.0]), 2)[:, None], 3.0)
    np.testing.assert_allclose(both(jnp.ones((2, 1)), jnp.asarray(0.5)), 4.0)


def test_first_average_copies_and_unreachable_lengths_are_refused():
    out = ema.update({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, jnp.asarray(1), ema.exponent(0.05))
    np.testing.assert_array_equal(out["w"], 1.0)
    with pytest.raises(ValueError, match="sigma_rel"):
        ema.exponent(0.3)
    with pytest.raises(ValueError, match="no snapshot"):
        ema.posthoc_coefficients([10.0], [7.0], 5.0, 7.0)


@pytest.mark.parametrize("method", [heun, euler, dpm_solver_pp_2m])
def test_every_noise_level_is_given_its_own_entry(method):
    grid, noise = sigma_grid(6), jax.random.normal(jax.random.key(0), (2, 3))

    def told(levels):
        return method(lambda x, sigma, entry: shrink(x, entry["sigma"]), noise, grid, entries={"sigma": levels})

    levels = jnp.asarray(grid[:-1], jnp.float32)
    np.testing.assert_allclose(told(levels), method(shrink, noise, grid), rtol=1e-6)
    assert float(jnp.abs(told(2 * levels) - told(levels)).max()) > 1e-6


def test_entries_and_churn_exclude_each_other():
    with pytest.raises(ValueError, match="churn raises the noise levels"):
        heun(shrink, jnp.zeros(2), sigma_grid(3), Churn(1.0), lambda i: jnp.zeros(2), entries=jnp.zeros(3))
