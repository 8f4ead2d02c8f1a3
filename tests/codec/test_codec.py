"""The codec with a random tiny model: lengths, channels, seeds, long sounds, and what is refused."""

import shutil
import sys

import jax
import numpy as np
import pytest
from tiny_model import build_tiny_model, silent_velocity, tiny_networks

from spresso_jax.checkpoints.weights import Model, ModelFolderError, Network, load_model
from spresso_jax.codec.bitstream import BitstreamError, EncodedAudio
from spresso_jax.codec.codec import Codec
from spresso_jax.codec.latent_sampler import Settings
from spresso_jax.codec.programs import Programs
from spresso_jax.codec.windows import start_noise
from spresso_jax.diffusion.sampler import sigma_grid
from spresso_jax.diffusion_autoencoder.model import null_caption


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def codec(folder):
    return Codec.load(folder)


def noise(samples, channels=1, seed=0):
    return np.random.default_rng(seed).normal(0.0, 0.1, (samples, channels)).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "rate", "channels"),
    [(1, 48_000, 1), (479, 48_000, 1), (44_101, 44_100, 2), (7_999, 8_000, 1), (240_000, 48_000, 1), (333, 96_000, 3)],
)
def test_decoding_returns_the_exact_length_rate_and_channels(codec, samples, rate, channels):
    encoded = codec.encode(noise(samples, channels), rate)
    assert encoded.header.sample_rate == rate and encoded.codes.shape[0] == channels
    audio = codec.decode(bytes(encoded), steps=3)
    assert audio.shape == (samples, channels) and audio.dtype == np.float32 and np.isfinite(audio).all()


def test_an_uncommon_rate_is_decoded_at_48_khz(codec):
    encoded = codec.encode(noise(10_000), 40_000)
    assert (encoded.header.sample_rate, encoded.header.samples) == (48_000, 12_000)
    assert codec.decode(encoded, steps=3).shape == (12_000, 1)


def test_only_the_codes_of_the_sound_are_sent(codec):
    for samples, frames in ((1, 1), (9 * 480, 1), (9 * 480 + 1, 2), (240_000, 56), (495 * 480 + 1, 56), (700_000, 163)):
        assert codec.encode(noise(samples), 48_000).codes.shape == (1, frames, 3)


def test_the_same_codes_and_seed_give_the_same_sound_and_others_differ(codec):
    encoded = codec.encode(noise(20_000), 48_000)
    first = codec.decode(encoded, steps=3)
    np.testing.assert_array_equal(first, codec.decode(bytes(encoded), steps=3))
    assert np.abs(first - codec.decode(encoded, seed=1, steps=3)).max() > 1e-3
    other = codec.encode(noise(20_000, seed=9), 48_000)
    assert np.any(other.codes != encoded.codes)
    assert np.abs(first - codec.decode(other, steps=3)).max() > 1e-4


def test_variations_are_distinct_and_the_first_is_the_single_one(codec):
    encoded = codec.encode(noise(9_600), 48_000)
    drawn = codec.decode(encoded, steps=3, variations=3)
    assert drawn.shape == (3, 9_600, 1)
    np.testing.assert_array_equal(drawn[0], codec.decode(encoded, steps=3))
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3 and np.abs(drawn[1] - drawn[2]).max() > 1e-3


def test_a_channel_does_not_depend_on_its_neighbours(codec):
    stereo = noise(24_000, 2)
    together = codec.encode(stereo, 48_000)
    for channel in range(2):
        alone = codec.encode(stereo[:, channel], 48_000)
        np.testing.assert_array_equal(together.codes[channel], alone.codes[0])
        np.testing.assert_array_equal(
            codec.decode(together, steps=3)[:, channel], codec.decode(alone, steps=3)[:, 0]
        )


def test_equal_channels_stay_equal_and_survive_mid_and_side(codec):
    mono = noise(12_000)
    pair = np.concatenate([mono, mono], axis=1)
    plain = codec.decode(codec.encode(pair, 48_000), steps=3)
    np.testing.assert_array_equal(plain[:, 0], plain[:, 1])
    encoded = codec.encode(pair, 48_000, mid_side=True)
    assert encoded.header.mid_side
    np.testing.assert_array_equal(encoded.codes[0], codec.encode(mono, 48_000).codes[0])
    assert codec.decode(bytes(encoded), steps=3).shape == (12_000, 2)


def test_fewer_codebooks_send_fewer_bits_and_any_prefix_decodes(codec):
    audio = noise(48_000)
    one, three = codec.encode(audio, 48_000, codebooks=1), codec.encode(audio, 48_000)
    assert three.header.payload_bits == 3 * one.header.payload_bits
    for used in (1, 2, 3):
        assert codec.decode(three, steps=3, codebooks=used).shape == (48_000, 1)
    for wrong in (0, 4):
        with pytest.raises(ValueError, match="codebooks must be within"):
            codec.encode(audio, 48_000, codebooks=wrong)
        with pytest.raises(ValueError, match="codebooks must be within"):
            codec.decode(three, codebooks=wrong)


def test_a_caption_changes_the_sound_and_needs_no_bits(codec):
    encoded = codec.encode(noise(9_600), 48_000)
    told = codec.decode(encoded, steps=3, caption="a dog barks")
    np.testing.assert_array_equal(told, codec.decode(encoded, steps=3, caption="a dog barks"))
    assert np.abs(told - codec.decode(encoded, steps=3)).max() > 1e-4
    assert np.abs(told - codec.decode(encoded, steps=3, caption="rain")).max() > 1e-5


def test_continuous_embeddings_decode_too(codec):
    audio = noise(30_000, 2)
    z = codec.embed(audio, 44_100)
    encoded = codec.encode(audio, 44_100)
    assert z.shape == (2, encoded.header.frames, 64) and z.dtype == np.float32
    assert codec.decode_embeddings(z, 30_000, 44_100, steps=3).shape == (30_000, 2)
    assert codec.decode_embeddings(z, steps=3).shape == (encoded.header.frames * 9 * 480, 2)
    with pytest.raises(ValueError, match="do not belong"):
        codec.decode_embeddings(z, 300_000, 44_100)


def test_a_velocity_network_is_sampled_as_what_it_is(codec):
    networks = tiny_networks()
    programs = Programs({**networks, "dit": silent_velocity(networks["dit"])}, None)
    text = (*null_caption(programs.modules["dit"], 1), None)
    (drawn,) = programs.sampler.draw(
        text, Settings(steps=4, sampler="euler"), codec.windows, 1, 1, 0.5, np.zeros((1, 55, 64), np.float32)
    )
    # Velocity 0 leaves D = x s / (s + sigma); Euler's steps then scale the noise by numbers.
    grid = sigma_grid(4)
    share = 0.5 / (0.5 + grid)
    factor = grid[0] * np.prod(share[:3] + grid[1:4] / grid[:3] * (1.0 - share[:3])) * share[3]
    start = start_noise(jax.random.fold_in(jax.random.key(np.uint32(0)), 0), codec.windows, 1, 128)
    np.testing.assert_allclose(drawn[:, :500], factor * start[:, :500], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampler", ["euler", "dpm_solver_pp_2m"])
def test_other_samplers_give_whole_sounds(codec, sampler):
    encoded = codec.encode(noise(9_600), 48_000)
    audio = codec.decode(encoded, steps=3, sampler=sampler)
    assert audio.shape == (9_600, 1) and np.isfinite(audio).all()


def test_a_long_sound_begins_like_its_first_window_and_has_no_seams(codec):
    long = noise(48_000 * 14, seed=4)
    encoded = codec.encode(long, 48_000)
    assert codec.windows.count(1400) == 4
    audio = codec.decode(encoded, steps=3)
    assert audio.shape == long.shape and np.isfinite(audio).all()
    # Codes of whole windows before the end do not depend on what follows, beyond the AudioAE's reach.
    first = codec.encode(long[: 48_000 * 7], 48_000)
    np.testing.assert_array_equal(first.codes[0, :50], encoded.codes[0, :50])
    jumps = np.abs(np.diff(audio[:, 0]))
    seams = [index * codec.windows.stride * 480 for index in range(1, 4)]
    for seam in seams:
        assert jumps[seam - 480 : seam + 480].max() < 6 * np.quantile(jumps, 0.99)


def test_batches_of_windows_change_rounding_only(folder, codec):
    encoded = codec.encode(noise(48_000 * 11, seed=2), 48_000)
    one, four = codec.decode(encoded, steps=3), Codec.load(folder, window_batch=4).decode(encoded, steps=3)
    np.testing.assert_allclose(one, four, atol=2e-4)


def test_audio_ae_reconstruction_of_long_audio_equals_that_of_the_whole(codec):
    audio = noise(48_000 * 12)
    rebuilt = codec.reconstruct_audio_ae(audio, 48_000)
    network, params = codec.latent_codec._module, codec.latent_codec._params
    whole = network.apply({"params": params}, audio[None])
    np.testing.assert_allclose(rebuilt, np.asarray(whole)[0], atol=2e-4)
    assert codec.reconstruct_audio_ae(noise(1_000, 2), 22_050).shape == (1_000, 2)


def test_a_copied_folder_and_a_half_precision_copy_read_the_same_files(folder, codec, tmp_path):
    copied = Codec.load(shutil.copytree(folder, tmp_path / "copy"))
    encoded = codec.encode(noise(9_600), 48_000)
    np.testing.assert_array_equal(copied.decode(bytes(encoded), steps=3), codec.decode(encoded, steps=3))
    half = Codec.load(build_tiny_model(tmp_path / "half", dtype="float16"))
    assert half.model_id == codec.model_id
    np.testing.assert_allclose(half.decode(encoded, steps=3), codec.decode(encoded, steps=3), atol=0.05)


def test_a_file_of_another_model_is_refused(codec, tmp_path):
    other = Codec.load(build_tiny_model(tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match="encoded with the model"):
        other.decode(codec.encode(noise(9_600), 48_000), steps=3)


def test_damaged_bytes_are_refused(codec):
    data = bytes(codec.encode(noise(9_600), 48_000))
    with pytest.raises(BitstreamError):
        codec.decode(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BitstreamError):
        EncodedAudio.from_bytes(data[:-1])


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros(0), 48_000, "shape"),
        (np.zeros((10, 9)), 48_000, "1 to 8 channels"),
        (np.zeros((1, 10, 1)), 48_000, "shape"),
        (np.array([0.0, np.nan]), 48_000, "NaN"),
        (np.zeros(10), 0, "sample_rate"),
    ],
)
def test_bad_audio_is_named(codec, audio, rate, message):
    with pytest.raises(ValueError, match=message):
        codec.encode(audio, rate)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 1}, "steps"), ({"variations": 0}, "variation"), ({"seed": -1}, "seed"), ({"seed": 2**32}, "seed"),
        ({"sampler": "magic"}, "sampler must be one of"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(codec, settings, message):
    with pytest.raises(ValueError, match=message):
        codec.decode(codec.encode(noise(480), 48_000), **settings)


def test_mid_and_side_of_one_channel_are_refused(codec):
    with pytest.raises(ValueError, match="two channels"):
        codec.encode(noise(480), 48_000, mid_side=True)


def test_missing_networks_shapes_classes_and_facts_are_named(folder):
    model = load_model(folder)

    def broken(networks=None, **facts):
        return Model({**model.networks, **(networks or {})}, {**model.facts, **facts})

    without = {name: network for name, network in model.networks.items() if name != "projector"}
    with pytest.raises(ModelFolderError, match="no network 'projector'"):
        Codec(Model(without, model.facts))
    dit = model.networks["dit"]
    with pytest.raises(ModelFolderError, match="dit.safetensors.*shape"):
        Codec(broken({"dit": Network({**dit.config, "noise_features": 32}, dit.params, "DiT")}))
    with pytest.raises(ModelFolderError, match="class Other"):
        Codec(broken({"dit": Network(dit.config, dit.params, "Other")}))
    with pytest.raises(ModelFolderError, match="config of dit does not fit"):
        Codec(broken({"dit": Network({**dit.config, "wings": 2}, dit.params, "DiT")}))
    point = model.facts["operating_point"]
    for change, message in (
        ({"operating_point": {**point, "downsample": 4}}, "downsample differs"),
        ({"operating_point": {**point, "codebook_bits": 5}}, "codewords"),
        ({"operating_point": {}}, "operating_point.downsample"),
        ({"operating_point": {**point, "overlap": 40}}, "overlap"),
        ({"latent_statistics": {"mean": [0.0], "std": [1.0]}}, "latent_statistics"),
        ({"latent_statistics": None}, "latent_statistics"),
        ({"outdated": ["clap", "projector", "quantizer"]}, "^projector: trained before other networks"),
    ):
        with pytest.raises(ModelFolderError, match=message):
            Codec(broken(**change))


@pytest.mark.parametrize("outdated", [False, True])
def test_a_model_without_a_fitting_quantizer_embeds_but_makes_no_codes(folder, codec, outdated):
    model = load_model(folder)
    left = {name: network for name, network in model.networks.items() if outdated or name != "quantizer"}
    step_1 = Codec(Model(left, {**model.facts, "outdated": ["quantizer"] if outdated else []}))
    sound = noise(9600)
    z = step_1.embed(sound, 48_000)
    np.testing.assert_array_equal(z, codec.embed(sound, 48_000))
    decoded = step_1.decode_embeddings(z, len(sound), steps=3)
    np.testing.assert_array_equal(decoded, codec.decode_embeddings(z, len(sound), steps=3))
    with pytest.raises(ModelFolderError, match="no quantizer of its embeddings.*train the stage"):
        step_1.encode(sound, 48_000)


def test_a_model_without_captions_says_so(folder):
    model = load_model(folder)
    networks = {name: network for name, network in model.networks.items() if name != "clap"}
    codec = Codec(Model(networks, model.facts))
    with pytest.raises(ValueError, match="without a caption"):
        codec.decode(codec.encode(noise(480), 48_000), steps=3, caption="rain")


def test_the_silence_of_a_model_without_the_fact_is_computed(folder):
    model = load_model(folder)
    facts = {key: value for key, value in model.facts.items() if key != "silence_embedding"}
    silence = Codec(Model(model.networks, facts)).silence_embedding
    assert silence.shape == (55, 64) and np.isfinite(silence).all()


@pytest.mark.parametrize("downsample", [pytest.param(20, marks=pytest.mark.slow), 100])
def test_other_operating_points_work(tmp_path, downsample):
    codec = Codec.load(build_tiny_model(tmp_path / "model", downsample=downsample, codebooks=2, bits=5))
    encoded = codec.encode(noise(48_000 * 6), 48_000)
    assert encoded.codes.shape == (1, 600 // downsample, 2)
    assert codec.decode(bytes(encoded), steps=3).shape == (48_000 * 6, 1)


def test_the_tiny_model_has_all_networks():
    assert sorted(tiny_networks()) == ["audio_ae", "clap", "dit", "latent_encoder", "projector", "quantizer"]


def test_importing_the_package_loads_no_jax_and_the_codec_loads_no_training_library():
    import subprocess

    script = (
        "import sys, spresso_jax; assert 'jax' not in sys.modules and spresso_jax.__version__ == '0.1.0';"
        "spresso_jax.Codec; bad = {'optax', 'grain', 'orbax', 'torch', 'typer'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=".")
    assert done.returncode == 0, done.stderr
