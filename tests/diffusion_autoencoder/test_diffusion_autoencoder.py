"""The latent encoder, the projector and the composition, on networks of width 16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.diffusion import edm
from spresso_jax.diffusion.sampler import heun, sigma_grid
from spresso_jax.diffusion_autoencoder.encoder import LatentEncoder, Projector
from spresso_jax.diffusion_autoencoder.model import DiffusionAutoencoder, mix_quantized, null_caption
from spresso_jax.dit.model import DiT

X0 = 0.5 * jax.random.normal(jax.random.key(0), (2, 20, 4))


def small(patch=5):
    common = dict(width=16, heads=2, latent_channels=4, patch=patch)
    dit = DiT(
        **common, joint_blocks=1, audio_blocks=1, text_width=6, text_tokens=3, noise_features=8, uncertainty_hidden=8,
        third_stream=True,
    )
    encoder = LatentEncoder(**common, depth=1, downsample=3, embedding_channels=6)
    return DiffusionAutoencoder(encoder, Projector(16), dit)


def test_windows_stay_exact_to_the_frame_when_frames_are_grouped():
    options = dict(downsample=3, embedding_channels=2, latent_channels=4, patch=5, final_norm=False)
    encoder = LatentEncoder(20, 2, depth=0, **options)
    # The input layer passes the 20 numbers of a group; the output layer keeps the first two channels of every frame.
    keep = jnp.einsum("fg,cd->fcgd", jnp.eye(5), jnp.eye(4, 2))
    params = {
        "audio_in": {"kernel": jnp.eye(20), "bias": jnp.zeros(20)},
        "to_embedding": {"kernel": keep.reshape(20, 10), "bias": jnp.zeros(10)},
    }
    z = encoder.apply({"params": params}, X0)
    np.testing.assert_allclose(z, X0[:, :18, :2].reshape(2, 6, 3, 2).mean(axis=2), atol=1e-6)


def test_composition_trains_every_part_and_samples():
    auto = small()
    params = jax.jit(lambda key: auto.init(key, 20))(jax.random.key(0))

    def loss(p):
        network = auto.conditioned_network(p, auto.encode(p, X0))
        out = edm.loss(
            network, jax.random.key(1), X0, p_mean=0.3, p_std=1.0, sigma_data=0.5, uncertainty=auto.uncertainty(p)
        )
        return out.loss

    stirred = jax.tree.map(lambda v: v + np.float32(0.05), params)
    value, gradient = jax.jit(jax.value_and_grad(loss))(stirred)
    assert np.isfinite(value)
    for name in ("latent_encoder", "projector", "dit"):
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient[name]))
        assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(gradient[name]))

    def sample(p, z):
        return heun(auto.conditioned_denoiser(p, z, 0.5), 2.0 * X0, sigma_grid(3))

    assert jax.jit(sample)(params, auto.encode(params, X0)).shape == X0.shape


def test_quantized_embeddings_are_mixed_per_sample_and_reproducibly():
    z, z_q = jnp.ones((2000, 2, 3)), jnp.zeros((2000, 2, 3))
    mixed = mix_quantized(jax.random.key(0), z, z_q)
    assert set(np.unique(mixed.mean(axis=(1, 2)))) == {0.0, 1.0}
    assert float(mixed.mean()) == pytest.approx(0.1, abs=0.03)
    np.testing.assert_array_equal(mixed, mix_quantized(jax.random.key(0), z, z_q))


def test_batch_size_and_frames_must_be_known_and_fit():
    auto = small()
    with pytest.raises(ValueError, match="batch"):
        auto.conditioned_network({}, None)
    with pytest.raises(ValueError, match="21 frames"):
        auto.latent_encoder.init(jax.random.key(0), jnp.zeros((1, 21, 4)))
    text, mask = null_caption(auto.dit, 2)
    assert text.shape == (2, 3, 6) and not mask.any()
