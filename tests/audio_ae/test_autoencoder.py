import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.audio_ae.autoencoder import CHOICES, AudioAutoencoder, decode_to_length, encode_any_length
from spresso_jax.audio_ae.linear_start import linear_codec_decode, linear_codec_encode
from spresso_jax.configuration import load_config, to_plain
from spresso_jax.shapes import frames_of

TINY = {"dim": 8, "intermediate": 16, "encoder_blocks": 1, "decoder_blocks": 1}
LINEAR = {**TINY, "head": "complex", "linear_start": True}


def start(samples: int = 1920, **config):
    module = AudioAutoencoder(**config)
    audio = 0.1 * jax.random.normal(jax.random.key(0), (2, samples, 1))
    return module, jax.jit(module.init)(jax.random.key(1), audio)["params"], audio


def run(module, params, x, method="__call__"):
    return jax.jit(lambda p, x: module.apply({"params": p}, x, method=method))(params, x)


@pytest.mark.parametrize("field", [f for f in CHOICES if f not in ("padding", "linear_start_path")])
def test_every_option_gives_finite_latents_and_audio(field):
    for value in CHOICES[field]:
        module, params, audio = start(960, **{**TINY, field: value})
        latent = run(module, params, audio, "encode")
        assert latent.shape == (2, 2, 128) and latent.dtype == jnp.float32
        decoded = run(module, params, latent, "decode")
        assert decoded.shape == (2, 960, 1) and np.isfinite(decoded).all()


@pytest.mark.parametrize(
    ("samples", "padding"), [(1, "same"), (480, "same"), (481, "same"), (5003, "same"), (1, "center"), (5003, "center")]
)
def test_any_length_comes_back_exactly(samples, padding):
    module, params, _ = start(**{**LINEAR, "padding": padding})
    audio = 0.1 * jax.random.normal(jax.random.key(0), (1, samples, 1))
    latent = jax.jit(lambda p, x: encode_any_length(module, p, x))(params, audio)
    if padding == "same":
        assert latent.shape[1] == frames_of(samples)
    decoded = jax.jit(lambda p, z: decode_to_length(module, p, z, samples))(params, latent)
    assert decoded.shape == audio.shape


@pytest.mark.parametrize(
    ("padding", "path", "bottleneck"),
    [("same", "frozen", "none"), ("center", "trained", "none"), ("same", "frozen", "noise"), ("same", "trained", "kl")],
)
def test_linear_start_equals_the_linear_codec_before_training(padding, path, bottleneck):
    config = {**LINEAR, "padding": padding, "linear_start_path": path, "bottleneck": bottleneck}
    module, params, audio = start(**config)
    latent = jax.jit(lambda x: linear_codec_encode(x, padding=padding))(audio)
    # two programs, so up to rounding; what the networks add is exactly zero
    np.testing.assert_allclose(run(module, params, audio, "encode"), latent, atol=1e-5)
    decoded = jax.jit(lambda z: linear_codec_decode(z, padding=padding))(latent)
    np.testing.assert_allclose(run(module, params, audio), decoded, atol=1e-6)


@pytest.mark.parametrize(
    "config", [TINY, {**LINEAR, "linear_start_path": "trained"}, {**LINEAR, "encoder_input": "compressed"}]
)
def test_gradients_of_silence_are_finite(config):
    module, params, _ = start(960, **config)
    loss = lambda p: jnp.square(module.apply({"params": p}, jnp.zeros((1, 960, 1)))).sum()  # noqa: E731
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


def test_every_parameter_learns_from_the_linear_start_after_one_step():
    module, params, audio = start(**LINEAR)
    loss = lambda p: jnp.abs(module.apply({"params": p}, audio) - audio).mean()  # noqa: E731
    slope = jax.jit(jax.grad(loss))
    moved = jax.tree.map(lambda p, g: p - 1e-2 * np.sign(g), params, slope(params))
    sizes = jax.tree.map(lambda g: float(np.abs(g).max()), slope(moved))
    still = jax.tree_util.tree_leaves_with_path(sizes)
    assert all(size > 0.0 for _, size in still), [path for path, size in still if size == 0.0]


def test_noise_needs_a_key_and_repeats_with_it():
    for bottleneck in ("noise", "kl"):
        module, params, audio = start(960, **{**TINY, "bottleneck": bottleneck})
        encode = jax.jit(lambda key, m=module, p=params, a=audio: m.apply({"params": p}, a, key, method="encode"))
        clean, noisy = encode(None), encode(jax.random.key(3))
        assert np.abs(clean - noisy).max() > 0.0
        np.testing.assert_array_equal(noisy, encode(jax.random.key(3)))


def test_bfloat16_networks_keep_float32_audio_near_the_float32_result():
    module, params, audio = start(**TINY)
    low = run(AudioAutoencoder(**TINY, dtype="bfloat16"), params, audio)
    exact = run(module, params, audio)
    assert low.dtype == jnp.float32
    assert np.linalg.norm(low - exact) < 0.1 * np.linalg.norm(exact)


def test_wrong_options_and_shapes_are_named():
    with pytest.raises(ValueError, match="encoder_input must be one of"):
        start(**{**TINY, "encoder_input": "mel"})
    with pytest.raises(ValueError, match="needs head 'complex'"):
        start(**{**TINY, "linear_start": True})
    with pytest.raises(ValueError, match="bottleneck 'tanh'"):
        start(**{**LINEAR, "bottleneck": "tanh"})
    module, params, _ = start(**TINY)
    with pytest.raises(ValueError, match="pad_to_frames"):
        module.apply({"params": params}, jnp.zeros((1, 500, 1)))
    with pytest.raises(ValueError, match="latent frames hold"):
        decode_to_length(module, params, jnp.zeros((1, 2, 128)), 961)


@pytest.mark.parametrize(("preset", "parameters"), [("paper", 31_483_458), ("woosh", 221_158_947)])
def test_presets_have_the_published_number_of_parameters(preset, parameters):
    """Vocos' decoder with its mirrored encoder; Woosh-AE as published."""
    module = AudioAutoencoder(**to_plain(load_config(f"audio_ae:{preset}").model))
    shapes = jax.eval_shape(lambda key: module.init(key, jnp.zeros((1, 4800, 1))), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters


LEVELS = {**LINEAR, "level_channels": 4}


def as_trained(params):
    """Last layers as training leaves them: not zero."""
    keys = iter(jax.random.split(jax.random.key(3), 2))
    for name in ("projection", "head_out"):
        kernel = params[name]["kernel"]
        params = {**params, name: {**params[name], "kernel": 0.3 * jax.random.normal(next(keys), kernel.shape)}}
    return params


@pytest.mark.parametrize("padding", ["same", "center"])
def test_beside_levels_the_networks_touch_only_what_the_linear_codec_drops(padding):
    module, params, audio = start(**LEVELS, padding=padding)
    linear = jax.jit(lambda x: linear_codec_decode(linear_codec_encode(x, 124, padding=padding), padding=padding))(audio)
    np.testing.assert_allclose(run(module, params, audio), linear, atol=1e-6)
    params = as_trained(params)
    latent = run(module, params, audio, "encode")
    np.testing.assert_allclose(latent[..., :124], linear_codec_encode(audio, 124, padding=padding), atol=1e-5)
    added = np.asarray(run(module, params, audio) - linear)[..., 0]
    power = np.square(np.abs(np.fft.rfft(added))).sum(0)
    frequency = np.fft.rfftfreq(added.shape[1], 1 / 48_000)
    assert power[frequency < 5_000].sum() < 1e-3 * power.sum()  # 124 coefficients reach 6.2 kHz
    assert np.sqrt(np.mean(added**2)) > 1e-3


def test_beside_levels_the_networks_follow_the_level_and_silence_stays_silent():
    module, params, audio = start(**LEVELS)
    params = as_trained(params)
    reconstruct = jax.jit(lambda p, x: module.apply({"params": p}, x))
    added = reconstruct(params, audio) - linear_codec_decode(linear_codec_encode(audio, 124), audio.shape[1])
    quiet = reconstruct(params, 1e-3 * audio) - 1e-3 * linear_codec_decode(
        linear_codec_encode(audio, 124), audio.shape[1]
    )
    ratio = float(jnp.linalg.norm(quiet) / jnp.linalg.norm(added))
    assert 3e-4 < ratio < 3e-3  # about the level, whatever the backbones make of the normalised frames
    silence = jnp.zeros_like(audio)
    np.testing.assert_array_equal(reconstruct(params, silence), 0.0)
    gradient = jax.jit(jax.grad(lambda p: reconstruct(p, silence).sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_hiss_above_the_kept_band_is_heard():
    """What the level of the kept band alone would lose: 10 kHz and up, nothing below."""
    module, params, audio = start(9600, **LEVELS)
    spectrum = jnp.fft.rfft(audio[..., 0]).at[:, : 10_000 * 9600 // 48_000].set(0.0)
    hiss = jnp.fft.irfft(spectrum, 9600)[..., None]
    decoded = run(module, as_trained(params), hiss)
    assert 0.1 < float(jnp.linalg.norm(decoded) / jnp.linalg.norm(hiss)) < 10.0


@pytest.mark.parametrize("channels", [-1, 128])
def test_level_channels_leave_some_for_coefficients(channels):
    with pytest.raises(ValueError, match="level_channels must be 0, or 1 to 127"):
        start(**{**LINEAR, "level_channels": channels})
    with pytest.raises(ValueError, match="beside linear_start"):
        start(**TINY, level_channels=4)
