import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.audio_ae.discriminators import Discriminator, decimate, level_audio
from spresso_jax.audio_ae.folded_convolution import fold_of, folded_convolution
from spresso_jax.audio_ae.losses import (
    MEL_SCALES,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    multi_scale_log_mel,
    multi_scale_mel_loss,
    split_maps,
    waveform_error_db,
)

SMALL = Discriminator(1 / 32, periods=(2, 3), fft_sizes=(128,))


@pytest.fixture(scope="module")
def pair():
    real, fake = 0.1 * jax.random.normal(jax.random.key(0), (2, 2, 1500, 1))
    return jax.jit(SMALL.init)(jax.random.key(1), real)["params"], real, fake


@jax.jit
def maps_of(params, audio):
    return SMALL.apply({"params": params}, audio)


@pytest.mark.parametrize(("size", "stride", "fold"), [(9, 2, 4), (9, 2, 8), (9, 1, 8), (3, 1, 8), (3, 1, 1), (9, 2, 6)])
@pytest.mark.parametrize("length", [64, 37])
def test_folding_changes_no_number(size, stride, fold, length):
    x = jax.random.normal(jax.random.key(0), (2, 5, length, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, size, 3, 4))
    plain = folded_convolution(x, kernel, stride, 1)
    np.testing.assert_allclose(folded_convolution(x, kernel, stride, fold), plain, atol=2e-5)
    flat = folded_convolution(x[:, 0], kernel[0], stride, fold)
    np.testing.assert_allclose(flat, folded_convolution(x[:, 0], kernel[0], stride, 1), atol=2e-5)


def test_only_narrow_layers_are_folded():
    assert fold_of(9, 2, 32, 32) == 1 and fold_of(9, 2, 32, 32, axes=2) == 2 and fold_of(9, 1, 32, 32, axes=2) == 1
    assert fold_of(9, 2, 4, 4) % 2 == 0 and fold_of(5, 3, 1, 4) % 3 == 0


def test_full_width_has_the_published_number_of_parameters_and_maps():
    def shapes(module):
        def both(x):
            return module.init_with_output(jax.random.key(0), x)

        maps, variables = jax.eval_shape(both, jnp.zeros((1, 4800, 1)))
        return sum(leaf.size for leaf in jax.tree.leaves(variables)), [len(sub) for sub in maps]

    assert shapes(Discriminator()) == (42_519_760, [6] * 5 + [26] * 3)
    assert shapes(Discriminator(periods=(), fft_sizes=(), msd_rates=(1,))) == (5_641_362, [7])


def test_a_batch_of_both_gives_the_maps_of_each(pair):
    params, real, fake = pair
    both = maps_of(params, jnp.concatenate([real, fake]))
    for half, audio in zip(split_maps(both), (real, fake), strict=True):
        alone = maps_of(params, audio)
        for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_discriminators_are_blind_to_level_and_offset(pair):
    params, real, _ = pair
    maps = maps_of(params, real)
    moved = maps_of(params, 0.3 * real + 0.2)
    np.testing.assert_allclose(maps[0][-1], moved[0][-1], atol=1e-4)


def test_silence_gives_finite_maps_and_gradients(pair):
    params, real, _ = pair
    loss = lambda x: adversarial_loss(maps_of(params, x))  # noqa: E731
    assert np.isfinite(jax.grad(loss)(jnp.zeros_like(real))).all()
    assert np.abs(level_audio(jnp.zeros((1, 10)))).max() == 0.0


def test_weight_normalised_layers_start_like_torch(pair):
    params, _, _ = pair
    layer = params["period_2"]["layer_1"]
    norm = np.sqrt(np.square(layer["kernel"]).sum((0, 1)))
    np.testing.assert_allclose(layer["scale"], norm, rtol=1e-5)


def test_losses_of_ideal_scores_are_known(pair):
    params, real, _ = pair
    maps = maps_of(params, real)
    ones = [[*sub[:-1], jnp.ones_like(sub[-1])] for sub in maps]
    zeros = [[*sub[:-1], jnp.zeros_like(sub[-1])] for sub in maps]
    assert float(discriminator_loss(ones, zeros)) == 0.0
    assert float(adversarial_loss(ones)) == 0.0
    assert float(adversarial_loss(zeros)) == len(maps)
    assert float(feature_matching_loss(maps, maps)) == 0.0


def test_real_maps_get_no_gradient_from_feature_matching(pair):
    params, real, fake = pair
    maps = maps_of(params, fake)
    loss = lambda x: feature_matching_loss(maps_of(params, x), maps)  # noqa: E731
    assert np.abs(jax.grad(loss)(real)).max() == 0.0


def test_precomputed_log_mels_give_the_same_mel_loss(pair):
    _, real, fake = pair
    scales = MEL_SCALES[:4]
    direct = multi_scale_mel_loss(fake, real, scales=scales)
    once = multi_scale_mel_loss(fake, real_log_mel=multi_scale_log_mel(real, scales=scales), scales=scales)
    np.testing.assert_allclose(direct, once, rtol=1e-6)
    with pytest.raises(ValueError, match="real audio"):
        multi_scale_mel_loss(fake)


def test_waveform_error_is_the_negative_snr_of_each_clip_in_db(pair):
    _, real, _ = pair
    assert abs(float(waveform_error_db(jnp.zeros_like(real), real))) < 1e-2
    assert float(waveform_error_db(real, real)) == pytest.approx(-80.0, abs=1e-3)
    scales = jnp.asarray([0.99, 0.9])[:, None, None]  # 40 and 20 dB, whatever the level of the clip
    levels = jnp.asarray([1.0, 0.05])[:, None, None]
    assert float(waveform_error_db(scales * levels * real, levels * real)) == pytest.approx(-30.0, abs=0.1)
    gradient = jax.grad(waveform_error_db)(jnp.zeros_like(real), jnp.zeros_like(real))
    assert np.isfinite(gradient).all()


def test_decimation_keeps_low_tones_and_removes_high_ones():
    time = np.arange(4800) / 48000
    low, high = (np.sin(2 * np.pi * f * time)[None].astype(np.float32) for f in (1000.0, 20000.0))
    kept = np.asarray(decimate(low, 2))[0]
    np.testing.assert_allclose(kept[100:-100], low[0, ::2][100:-100], atol=1e-3)
    assert np.abs(np.asarray(decimate(high, 2))[0, 100:-100]).max() < 1e-3
