"""The AudioAE alone with a random tiny network: any length, chunks against the whole, batches, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import build_tiny_model, tiny_networks

from spresso_jax.audio_ae.statistics import standardise, unstandardise
from spresso_jax.checkpoints.fingerprint import latent_id
from spresso_jax.checkpoints.weights import Model, ModelFolderError, Network, load_facts, load_model, save_model
from spresso_jax.codec.codec import Codec
from spresso_jax.codec.latent_codec import ROWS_A_CALL, LatentCodec, latent_frames

RNG = np.random.default_rng(0)
STATISTICS = {"mean": RNG.normal(0, 0.1, 128).tolist(), "std": RNG.uniform(0.5, 1.5, 128).tolist(), "sigma_data": 0.5}
FACTS = {"name": "tiny AudioAE", "latent_statistics": STATISTICS}


@pytest.fixture(scope="module")
def network():
    return tiny_networks()["audio_ae"]


def with_padding(network, padding):
    return Network({**network.config, "padding": padding}, network.params, network.class_name)


@pytest.fixture(scope="module")
def codecs(network):
    return {p: LatentCodec(Model({"audio_ae": with_padding(network, p)}, FACTS)) for p in ("same", "center")}


@pytest.fixture(scope="module")
def codec(codecs):
    return codecs["same"]


def noise(samples, channels=1, seed=0):
    return np.random.default_rng(seed).normal(0.0, 0.1, (samples, channels)).astype(np.float32)


def whole_file(codec, audio):
    """Latents and reconstruction of the network's one pass over the sound, followed by silence up to 5 s."""
    frames = max(500, -(-len(audio) // 480))
    padded = np.pad(audio, ((0, frames * 480 - len(audio)), (0, 0)))[None]
    module, variables = codec._module, {"params": codec._params}
    raw = np.asarray(module.apply(variables, padded, method="encode"))[:, :frames]
    mean, std = np.float32(STATISTICS["mean"]), np.float32(STATISTICS["std"])
    continued = np.concatenate([raw, raw[:, -1:]], axis=1) if module.padding == "center" else raw
    rebuilt = np.asarray(module.apply(variables, continued, method="decode"))[0, : len(audio)]
    return np.asarray(standardise(raw, mean, std))[0], rebuilt


@pytest.mark.parametrize("padding", ["same", "center"])
@pytest.mark.parametrize(
    "samples",
    [1, 240_000, 240_001, 262_079, 700_123, *(pytest.param(n, marks=pytest.mark.slow) for n in (30_001, 251_000, 262_081))],
)
def test_chunks_equal_the_whole_file(codecs, padding, samples):
    codec, audio = codecs[padding], noise(samples)
    latents, rebuilt = whole_file(codec, audio)
    encoded = codec.encode(audio, 48_000)
    assert encoded.shape == (1, latent_frames(samples), 128) and encoded.dtype == np.float32
    np.testing.assert_allclose(encoded[0], latents[: encoded.shape[1]], atol=2e-4)
    np.testing.assert_allclose(codec.reconstruct(audio, 48_000), rebuilt, atol=2e-4)
    if samples >= 240_000:
        np.testing.assert_allclose(codec.decode(encoded, samples), rebuilt, atol=2e-4)


@given(st.integers(1, 400_000), st.sampled_from(["same", "center"]), st.sampled_from([48_000, 44_100, 8_000, 11_025]))
@settings(max_examples=25, deadline=None)
def test_every_length_comes_back_exactly(codecs, samples, padding, rate):
    audio = noise(samples)
    latents = codecs[padding].encode(audio, rate)
    decoded = codecs[padding].decode(latents, samples, rate)
    assert decoded.shape == (samples, 1) and decoded.dtype == np.float32
    assert np.isfinite(latents).all() and np.isfinite(decoded).all()
    assert codecs[padding].decode(latents, None, rate).shape[0] >= samples - rate // 100


@pytest.mark.parametrize("samples", [*range(1, 4), 239, 240, 241, 479, 480, 481, 959, 960, 961, 239_999])
def test_lengths_at_the_borders_of_frames(codecs, samples):
    for codec in codecs.values():
        latents = codec.encode(noise(samples), 48_000)
        assert latents.shape[1] == -(-samples // 480) + (samples <= 239_520)
        assert codec.decode(latents, samples).shape == (samples, 1)


@pytest.mark.parametrize("kind", ["silence", "click", "dc", "full scale"])
@pytest.mark.parametrize("samples", [1, 700, 300_000])
def test_extreme_sounds_give_finite_audio(codecs, kind, samples):
    audio = np.zeros((samples, 1), np.float32)
    if kind == "click":
        audio[samples // 2] = 1.0
    elif kind == "dc":
        audio[:] = 1.0
    elif kind == "full scale":
        audio[:] = np.sign(noise(samples))
    for codec in codecs.values():
        decoded = codec.decode(codec.encode(audio, 48_000), samples)
        assert decoded.shape == audio.shape and np.isfinite(decoded).all()
        assert np.isfinite(codec.reconstruct(audio, 48_000)).all()


def test_the_frame_after_a_short_sound_holds_the_end_of_its_overlap(network):
    """With its networks silenced the linear codec remains: a low tone that stops abruptly keeps its last half frame."""
    config = {**network.config, "linear_start": True, "head": "complex"}
    params = {**network.params}
    for name in ("projection", "head_out"):
        params[name] = {key: np.zeros_like(value) for key, value in params[name].items()}
    params["head_out"] = {"kernel": np.zeros((1, 16, 962), np.float32), "bias": np.zeros(962, np.float32)}
    params["head_gain"] = np.ones(481, np.float32)
    codec = LatentCodec(Model({"audio_ae": Network(config, params, network.class_name)}, FACTS))
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(9_600) / 48_000))[:, None].astype(np.float32)
    latents = codec.encode(tone, 48_000)
    assert latents.shape[1] == 21
    kept, cut = (np.abs(codec.decode(z, 9_600) - tone)[-240:].mean() for z in (latents, latents[:, :20]))
    assert kept < 0.02 < cut


def test_channels_are_independent_and_mid_and_side_come_back(codec):
    stereo = noise(20_000, 2)
    together = codec.encode(stereo, 44_100)
    for channel in range(2):
        np.testing.assert_array_equal(together[channel], codec.encode(stereo[:, channel], 44_100)[0])
    pair = np.repeat(noise(20_000), 2, axis=1)
    decoded = codec.decode(codec.encode(pair, 44_100, mid_side=True), 20_000, 44_100, mid_side=True)
    assert decoded.shape == pair.shape
    np.testing.assert_array_equal(codec.encode(pair, 44_100, mid_side=True)[0], codec.encode(pair, 44_100)[0])


def test_sounds_encoded_together_equal_sounds_encoded_alone(codec):
    lengths = (1, 480, 10_000, 250_000, 100_000, 240_000, 3_000, 7, 99_999, 50_000, 600_000)
    sounds = [noise(length, 1 + (length % 3 == 0), seed=length) * 10.0 ** (index % 4 - 2)
              for index, length in enumerate(lengths)]  # fmt: skip
    together = codec.encode_many(sounds, 48_000)
    for sound, latents in zip(sounds, together, strict=True):
        np.testing.assert_allclose(latents, codec.encode(sound, 48_000), atol=1e-5)
    assert codec.encode_many([], 48_000) == []
    loud = [np.full(1_000, 1e4, np.float32), noise(1_000)]
    np.testing.assert_allclose(codec.encode_many(loud, 48_000)[1], codec.encode(noise(1_000), 48_000), atol=1e-5)
    mixed = codec.encode_many([noise(100, 2), noise(100)], 48_000, mid_side=True)
    np.testing.assert_allclose(mixed[0], codec.encode(noise(100, 2), 48_000, mid_side=True), atol=1e-5)
    assert mixed[1].shape == (1, 2, 128)


def test_mixed_lengths_compile_a_handful_of_programs(network):
    codec = LatentCodec(Model({"audio_ae": network}, FACTS))
    sounds = [noise(length) for length in (1, 5_000, 99_000, 240_000, 245_000, 300_000, 512_345)]
    for sound in sounds:
        codec.decode(codec.encode(sound, 48_000), len(sound))
    codec.encode_many(sounds * 3, 48_000)
    assert codec._encode_chunk._cache_size() == 3 and codec._decode_chunk._cache_size() == 2
    assert len([s for s in sounds * 3 if len(s) <= 240_000]) > ROWS_A_CALL


def test_a_folder_with_an_audio_ae_alone_is_enough(network, codec, tmp_path):
    folder = save_model(tmp_path / "ae", {"audio_ae": network}, FACTS)
    half = save_model(tmp_path / "half", {"audio_ae": network}, FACTS, dtype="float16")
    loaded = LatentCodec.load(folder)
    assert loaded.name == "tiny AudioAE" and loaded.latent_id == LatentCodec.load(half).latent_id
    np.testing.assert_array_equal(loaded.encode(noise(5_000), 48_000), codec.encode(noise(5_000), 48_000))
    loaded.check_latent_id(latent_id(load_facts(folder)))
    changed = {**STATISTICS, "std": [1.0] * 128}
    other = save_model(tmp_path / "other", {"audio_ae": network}, {**FACTS, "latent_statistics": changed})
    with pytest.raises(ValueError, match="encoded with the model"):
        LatentCodec.load(other).check_latent_id(loaded.latent_id)


def test_a_whole_model_has_the_same_latents(tmp_path):
    folder = build_tiny_model(tmp_path / "tiny")
    whole, alone, audio = Codec.load(folder), LatentCodec.load(folder), noise(30_000, 2)
    np.testing.assert_array_equal(whole.latent_codec.encode(audio, 48_000), alone.encode(audio, 48_000))
    np.testing.assert_array_equal(whole.reconstruct_audio_ae(audio, 48_000), alone.reconstruct(audio, 48_000))
    assert whole.latent_codec.latent_id == alone.latent_id != whole.model_id


def test_raw_latents_come_back_from_standardised_ones(codec):
    audio = noise(240_000)
    raw = codec._module.apply({"params": codec._params}, audio[None], method="encode")
    mean, std = np.float32(STATISTICS["mean"]), np.float32(STATISTICS["std"])
    np.testing.assert_allclose(unstandardise(codec.encode(audio, 48_000), mean, std), raw, atol=2e-4)


@pytest.mark.parametrize(
    ("latents", "samples", "settings", "message"),
    [
        (np.zeros((1, 10, 64)), None, {}, "channels, frames, 128"),
        (np.zeros((10, 128)), None, {}, "channels, frames, 128"),
        (np.zeros((1, 0, 128)), None, {}, "channels, frames, 128"),
        (np.full((1, 10, 128), np.nan), None, {}, "NaN"),
        (np.zeros((1, 10, 128)), 480 * 8, {}, "do not belong"),
        (np.zeros((1, 10, 128)), 480 * 11, {}, "do not belong"),
        (np.zeros((1, 10, 128)), None, {"mid_side": True}, "two channels"),
        (np.zeros((1, 10, 128)), None, {"sample_rate": 5}, "sample_rate"),
    ],
)
def test_bad_latents_are_named(codec, latents, samples, settings, message):
    with pytest.raises(ValueError, match=message):
        codec.decode(latents, samples, **settings)


def test_bad_audio_and_bad_models_are_named(codec, network, tmp_path):
    for audio, message in ((np.zeros(0), "shape"), (np.zeros((9, 9)), "1 to 8"), (np.array([np.inf]), "NaN")):
        with pytest.raises(ValueError, match=message):
            codec.encode(audio, 48_000)
        with pytest.raises(ValueError, match=message):
            codec.encode_many([noise(10), audio], 48_000)
    with pytest.raises(ValueError, match="two channels"):
        codec.encode(noise(10), 48_000, mid_side=True)
    with pytest.raises(ModelFolderError, match="no network 'audio_ae'"):
        LatentCodec(Model({}, FACTS))
    for change, message in (
        ({"latent_statistics": None}, "latent_statistics"),
        ({"latent_statistics": {**STATISTICS, "std": [0.0] * 128}}, "positive"),
        ({"outdated": ["audio_ae"]}, "audio_ae: trained before"),
    ):
        with pytest.raises(ModelFolderError, match=message):
            LatentCodec(Model({"audio_ae": network}, {**FACTS, **change}))
    without = save_model(tmp_path / "clap", {"clap": Network({}, {"x": np.ones(1)}, "Clap")}, FACTS)
    with pytest.raises(ModelFolderError, match="holds no audio_ae"):
        LatentCodec.load(without)
    assert sorted(load_model(without).networks) == ["clap"]
