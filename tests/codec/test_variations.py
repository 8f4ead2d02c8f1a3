"""Many draws of one sound: independent of one another to the bit, in programs that are compiled once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import build_tiny_model

from spresso_jax.checkpoints.weights import Model, load_model
from spresso_jax.codec import latent_sampler
from spresso_jax.codec.codec import Codec
from spresso_jax.codec.latent_sampler import Settings
from spresso_jax.diffusion import edm
from spresso_jax.diffusion.sampler import heun, sigma_grid


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def codec(folder):
    return Codec.load(folder)


def sound(codec, samples, channels=1):
    rng = np.random.default_rng(samples)
    return codec.encode(rng.normal(0.0, 0.1, (samples, channels)).astype(np.float32), 48_000)


@pytest.mark.parametrize(
    "samples", [9_600, pytest.param(400_000, marks=pytest.mark.slow)], ids=["one window", "several windows"]
)
def test_a_variation_is_the_same_alone_and_among_others(codec, samples):
    encoded = sound(codec, samples)
    several = codec.decode(encoded, steps=3, variations=5)
    np.testing.assert_array_equal(several[0], codec.decode(encoded, steps=3))
    np.testing.assert_array_equal(several[:2], codec.decode(encoded, steps=3, variations=2))
    assert min(np.abs(several[i] - several[j]).max() for i in range(5) for j in range(i)) > 1e-3


def test_fixed_batches_give_the_same_bits_whatever_is_drawn_together(folder):
    codec = Codec.load(folder, window_batch=4)
    encoded = sound(codec, 9_600)
    six = codec.decode(encoded, steps=3, variations=6)
    for count in (1, 3):
        fewer = codec.decode(encoded, steps=3, variations=count)
        np.testing.assert_array_equal(fewer.reshape(count, -1, 1), six[:count])
    assert codec._programs.sampler._program._cache_size() == 1


def test_files_of_one_bucket_compile_nothing_new_and_wait_once_a_channel(codec, monkeypatch):
    codec.decode(sound(codec, 48_000, 2), steps=3, variations=3)
    encoded = sound(codec, 96_000, 2)
    compiled, fetched, fetch = [], [], jax.device_get
    listener = lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None  # noqa: E731
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(tree) or fetch(tree))
    before = codec._programs.sampler._program._cache_size()
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        codec.decode(encoded, steps=3, variations=4, seed=5)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert compiled == [] and codec._programs.sampler._program._cache_size() == before
    assert len(fetched) == 2 and all(isinstance(clip, jax.Array) for clips in fetched for clip in clips)


@pytest.mark.parametrize("isolated", [False, True])
def test_one_window_equals_plain_sampling_that_computes_everything_at_every_step(folder, isolated):
    model = load_model(folder)
    dit = model.networks["dit"]
    dit = dataclasses.replace(dit, config={**dit.config, "isolated": isolated})
    codec = Codec(Model({**model.networks, "dit": dit}, model.facts))
    programs, windows = codec._programs, codec.windows
    z = np.random.default_rng(0).normal(size=(1, windows.tokens, 64)).astype(np.float32)
    text = codec._captions.read("rain")
    drawn = programs.sampler.draw(text, Settings(seed=3, steps=4), windows, 1, 1, 0.5, z)[0]

    @jax.jit
    def plain(params):
        down = programs.modules["projector"].apply({"params": params["projector"]}, z)

        def network(x, c_noise):
            return programs.modules["dit"].apply({"params": params["dit"]}, x, c_noise, *text, down, windows.downsample)

        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 0), 0)
        noise = jax.random.normal(key, (500, 128))[None]
        return heun(lambda x, sigma: edm.denoise(network, x, sigma, 0.5), noise, sigma_grid(4))

    np.testing.assert_allclose(drawn, plain(programs._params), atol=2e-4)
    assert float(jnp.abs(drawn).max()) > 0.1


def test_only_guidance_evaluates_the_network_twice(codec, monkeypatch):
    encoded, rows, denoise = sound(codec, 9_600), [], edm.denoise

    def noted(network, x, *settings, **form):
        rows.append(x.shape[0])
        return denoise(network, x, *settings, **form)

    monkeypatch.setattr(latent_sampler.edm, "denoise", noted)
    plain = codec.decode(encoded, steps=4, caption="rain", guidance=1.0)
    assert set(rows) == {1}
    rows.clear()
    guided = codec.decode(encoded, steps=4, caption="rain", guidance=3.0)
    assert set(rows) == {2}
    assert np.abs(guided - plain).max() > 1e-4
    rows.clear()
    again = codec.decode(encoded, steps=4, caption="rain", guidance=0.0)
    assert rows == []  # another scale is the same program
    # Scale 0 is the reference: what the codes give without a caption.
    np.testing.assert_allclose(again, codec.decode(encoded, steps=4), atol=2e-4)


def test_captions_and_guidance_that_cannot_be_followed_are_refused(codec):
    encoded = sound(codec, 9_600)
    for caption, guidance, message in (
        ("", 1.0, "the caption is empty"),
        (" \n", 1.0, "the caption is empty"),
        ("glass " * 500, 1.0, r"the caption has \d{4} tokens and tiny reads 16"),
        (None, 2.0, "guidance 2 leads towards a caption"),
        ("rain", float("nan"), "guidance must be"),
        ("rain", -1.0, "guidance must be"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.decode(encoded, steps=3, caption=caption, guidance=guidance)
