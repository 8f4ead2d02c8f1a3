"""Conditioning gain on a Gaussian model whose optimal denoiser is known; Wiener loss in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.evaluate import conditioning_gain as g

SIGMA_DATA = 0.5
CLIPS, FRAMES, CHANNELS = 24, 4, 3
RNG = np.random.default_rng(0)
CODES = RNG.standard_normal((CLIPS, 1, CHANNELS)).astype(np.float32) * 0.4
LATENTS = CODES + 0.3 * RNG.standard_normal((CLIPS, FRAMES, CHANNELS)).astype(np.float32)
TINY = dict(sigma_data=SIGMA_DATA, relative_edges=(0.1, 1.0, 10.0), repeats=2, batch=7)


def loss_of(used: float, spread: float = 0.3):
    """Denoiser of x0 ~ N(used * code, spread^2): the posterior mean."""

    @jax.jit
    def loss(x0, condition, key, sigma):
        s = sigma[:, None, None]
        x = x0 + s * jax.random.normal(key, x0.shape)
        mean = used * condition
        denoised = mean + (x - mean) * spread**2 / (spread**2 + s**2)
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        return weight * jnp.mean((denoised - x0) ** 2, axis=(1, 2))

    return loss


def test_a_decoder_that_ignores_its_code_has_a_gain_of_exactly_zero():
    gain = g.conditioning_gain(loss_of(0.0, 0.5), LATENTS, CODES, **TINY)
    assert gain.overall.mean == gain.overall.low == gain.overall.high == 0.0
    assert all(b.gain.mean == 0.0 for b in gain.bins) and gain.relative == 0.0


def test_a_decoder_that_uses_its_code_gains_most_at_high_noise():
    gain = g.conditioning_gain(loss_of(1.0), LATENTS, CODES, **TINY)
    assert gain.overall.clearly_positive and gain.overall.count == CLIPS
    assert gain.bins[1].gain.mean > gain.bins[0].gain.mean > 0
    np.testing.assert_allclose([b.gain.mean for b in gain.bins], [b.other.mean - b.own.mean for b in gain.bins])


def test_own_loss_is_the_posterior_variance():
    sigma = 1.0
    edges = (sigma / SIGMA_DATA * 0.999, sigma / SIGMA_DATA * 1.001)
    gain = g.conditioning_gain(
        loss_of(1.0), LATENTS, CODES, sigma_data=SIGMA_DATA, relative_edges=edges, repeats=12, batch=CLIPS
    )
    expected = (sigma**2 + 0.25) / (0.25 * sigma**2) * 0.09 * sigma**2 / (0.09 + sigma**2)
    assert gain.bins[0].own.mean == pytest.approx(expected, rel=0.15)


def test_the_same_condition_on_both_sides_gives_zero_because_the_noise_is_paired():
    gain = g.conditioning_gain(loss_of(1.0), LATENTS, CODES, other=CODES, **TINY)
    assert gain.overall.mean == 0.0


def test_conditions_and_latents_can_be_trees_and_seeds_matter():
    plain = loss_of(1.0)

    def loss(x0, condition, key, sigma):
        return plain(x0["latent"], condition["z"] + 0.0 * condition["text"], key, sigma)

    tree = {"z": CODES, "text": np.ones((CLIPS, 1, 1), np.float32)}
    first = g.conditioning_gain(loss, {"latent": LATENTS}, tree, **TINY)
    again = g.conditioning_gain(plain, LATENTS, CODES, **TINY)
    other = g.conditioning_gain(plain, LATENTS, CODES, seed=1, **TINY)
    assert first.overall == again.overall and first.overall != other.overall
    assert set(first.to_json()) == {"bins", "overall", "relative", "per_clip"}


def test_losses_of_models_and_conditions_are_compared_in_pairs():
    def facts(**own):
        return {"conditioning_gain": {k: {"per_clip": {"own": v, "gain": v}} for k, v in own.items()}}

    models = {"step2": facts(z=[1.0, 1.2], m4=[1.3, 1.6]), "step3": facts(z=[1.0, 1.2], m4=[1.2, 1.4]), "none": {}}
    models["other"] = facts(z=[0.0, 0.0]) | {"latents": "of another AudioAE"}
    rows = {(r["first"], r["second"]): r["improvement"]["mean"] for r in g.paired_losses(models)}
    assert rows == pytest.approx({
        ("step2: m4", "step2: z"): -0.35,
        ("step3: z", "step2: z"): 0.0,
        ("step3: m4", "step2: m4"): 0.15,
        ("step3: m4", "step3: z"): -0.2,
    })


def test_derangement_gives_everyone_another_clip():
    for count in (2, 3, 50):
        partner = g.derangement(count, 3)
        assert sorted(partner) == list(range(count)) and not np.any(partner == np.arange(count))


def test_wiener_loss_of_white_latents_is_one_at_every_sigma():
    sigma = np.array([0.01, 0.5, 30.0])
    np.testing.assert_allclose(g.wiener_loss(0.25 * np.eye(6), sigma, 0.5), 1.0)


def test_wiener_loss_equals_the_simulated_denoiser():
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((4, 4)) * 0.4
    covariance = mix @ mix.T
    x0 = rng.standard_normal((200_000, 4)) @ mix.T
    sigma = 0.7
    filter_ = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(4))
    denoised = (x0 + sigma * rng.standard_normal(x0.shape)) @ filter_.T
    simulated = np.mean((denoised - x0) ** 2) * (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    assert float(g.wiener_loss(covariance, sigma, 0.5)) == pytest.approx(simulated, rel=0.02)


def test_blocks_of_frames_lower_the_wiener_loss_of_latents_that_hang_together():
    rng = np.random.default_rng(2)
    latents = np.cumsum(rng.standard_normal((200, 8, 2)), axis=1) * 0.2
    one, four = (g.wiener_loss(g.latent_covariance(latents, block=b), 0.5, 0.5) for b in (1, 4))
    assert four < one


def test_covariance_counts_only_masked_frames():
    latents = np.zeros((3, 4, 2))
    latents[:, :2] = np.random.default_rng(3).standard_normal((3, 2, 2))
    mask = np.array([[1, 1, 0, 0]] * 3, bool)
    np.testing.assert_allclose(g.latent_covariance(latents, mask), np.cov(latents[:, :2].reshape(6, 2).T, bias=True))


def test_wiener_loss_in_bins_averages_over_log_sigma():
    covariance = np.diag([0.01, 0.5])
    fine = g.wiener_loss(covariance, np.exp(np.linspace(np.log(0.1), np.log(1.0), 4001)), 0.5).mean()
    assert g.wiener_loss_in_bins(covariance, [0.1, 1.0, 2.0], 0.5)[0] == pytest.approx(fine, rel=1e-3)


def test_arguments_that_make_no_sense_are_refused():
    loss = loss_of(1.0)
    with pytest.raises(ValueError, match="own"):
        g.conditioning_gain(loss, LATENTS, CODES[:3], sigma_data=0.5)
    with pytest.raises(ValueError, match="rising"):
        g.conditioning_gain(loss, LATENTS, CODES, sigma_data=0.5, relative_edges=(1.0, 0.5))
    with pytest.raises(ValueError, match="at least 2"):
        g.conditioning_gain(loss, LATENTS[:1], CODES[:1], sigma_data=0.5)
    with pytest.raises(ValueError, match="batch"):
        g.conditioning_gain(loss, LATENTS, CODES, sigma_data=0.5, batch=0)
    with pytest.raises(ValueError, match="square"):
        g.wiener_loss(np.zeros((2, 3)), 1.0, 0.5)
    with pytest.raises(ValueError, match="block"):
        g.latent_covariance(LATENTS, block=99)
