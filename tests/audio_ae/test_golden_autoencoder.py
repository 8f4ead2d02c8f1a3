"""Vocos backbone and head, the mirrored encoder, losses and training transforms against the references."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import families
from hashed_audio_ae_weights import hashed_state

from spresso_jax.audio.mel import mel_spectrum
from spresso_jax.audio.stft import istft, stft
from spresso_jax.audio_ae.autoencoder import AudioAutoencoder, spectrum_features, spectrum_of_head
from spresso_jax.audio_ae.discriminators import Discriminator
from spresso_jax.audio_ae.losses import (
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    multi_scale_mel_loss,
    multi_scale_stft_loss,
    split_maps,
)
from spresso_jax.audio_ae.transforms import limit_peak, normalise_loudness, shift_phase
from spresso_jax.interop.dac import discriminator_from_state, discriminator_layout
from spresso_jax.interop.foreign_tensors import ForeignTensors
from spresso_jax.interop.vocos import backbone_params, backbone_sizes, decoder_from_state
from spresso_jax.nn.convnext import ConvNeXtBackbone

pytestmark = pytest.mark.golden
VOCOS = families("audio_ae", "vocos_")
MIRROR = families("audio_ae", "encoder_mirror")
LOSSES = families("audio_ae", "losses_")
TRANSFORMS = families("audio_ae", "train_transforms")

# kinks of leaky ReLU and of |x| within rounding of 0 move single gradient values
ADVERSARIAL_TOLERANCE = 1e-3


def close(ours, theirs, tolerance: float = 2e-5) -> None:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def state_of(data: dict) -> dict:
    """The reference's state dict."""
    return {key.removeprefix("sd/"): value for key, value in data.items() if key.startswith("sd/")}


def backbone_tree(data: dict) -> dict:
    """Parameters of `ConvNeXtBackbone` from a file with a backbone."""
    tensors = ForeignTensors(state_of(data))
    return backbone_params(tensors, "backbone.", backbone_sizes(tensors, "backbone.").blocks)


@pytest.mark.skipif(not VOCOS, reason="no golden files of this family")
@pytest.mark.parametrize("path", VOCOS, ids=lambda p: p.stem)
def test_backbone_and_head_equal_vocos(path, capsys):
    data = dict(np.load(path))
    _, _, _, dim, intermediate, layers, n_fft, hop = data["cfg/B_T_cin_dim_inter_layers_nfft_hop"].tolist()
    padding = "same" if bool(data["cfg/padding_is_same"]) else "center"
    backbone = ConvNeXtBackbone(dim, intermediate, layers)
    decoder = decoder_from_state(state_of(data), hop, padding)
    assert (decoder.config["dim"], decoder.config["intermediate"], decoder.config["decoder_blocks"], decoder.n_fft) == (
        dim, intermediate, layers, n_fft,
    )  # fmt: skip
    tree = decoder.params["decoder_backbone"]
    kernel, bias = decoder.params["head_out"]["kernel"][0], decoder.params["head_out"]["bias"]
    features = data["in/features"].transpose(0, 2, 1)

    def audio_of(tree, bias, features):
        hidden, taps = backbone.apply({"params": tree}, features, capture_intermediates=True)
        output = jnp.matmul(hidden, kernel, precision="highest") + bias
        audio = istft(spectrum_of_head(output, "magnitude_phase"), n_fft, hop, padding=padding)
        return jnp.sum(data["grad/cotangent"] * audio), (audio, hidden, output, taps["intermediates"])

    run = jax.jit(jax.value_and_grad(audio_of, (0, 1, 2), has_aux=True))
    (_, (audio, hidden, output, taps)), (by_tree, by_bias, by_features) = run(tree, bias, features)
    close(taps["embed"]["__call__"][0].transpose(0, 2, 1), data["act/embed"])
    close(taps["norm"]["__call__"][0], data["act/norm"])
    for i in range(layers):
        close(taps[f"block_{i}"]["__call__"][0].transpose(0, 2, 1), data[f"act/block{i}"])
    close(hidden, data["out/backbone"])
    close(output, data["act/head_out"])
    close(audio, data["out/audio"])
    close(by_features.transpose(0, 2, 1), data["grad/features"], 1e-4)
    close(by_tree["embed"]["kernel"].transpose(2, 1, 0), data["grad/backbone.embed.weight"], 1e-4)
    close(by_tree["block_0"]["scale"], data["grad/backbone.convnext.0.gamma"], 1e-4)
    close(by_bias, data["grad/head.out.bias"], 1e-4)
    with capsys.disabled():
        print(f"\n[golden] {path.name}: 1 case, {layers} blocks, padding {padding}")


@pytest.mark.skipif(not MIRROR, reason="no golden files of this family")
@pytest.mark.parametrize("path", MIRROR, ids=lambda p: p.stem)
def test_the_encoder_equals_its_mirror_of_vocos(path, capsys):
    data = dict(np.load(path))
    dim, intermediate, layers, latent = data["cfg/dim_inter_layers_latent"].tolist()
    audio = data["in/audio"]
    spectrum = (data["stft/real"] + 1j * data["stft/imag"]).transpose(0, 2, 1)
    ours = stft(audio, 960, 480)
    assert np.abs(ours - spectrum).max() <= 2e-5 * np.abs(spectrum).max()
    close(spectrum_features(spectrum, "complex").transpose(0, 2, 1), data["feat/reim"])
    close(spectrum_features(spectrum, "log_phase").transpose(0, 2, 1), data["feat/logmag_cos_sin"])
    exponents = [key for key in data if key.startswith("feat/compressed_reim_p")]
    for key in exponents:
        exponent = float(key.rsplit("p", 1)[1])
        close(spectrum_features(spectrum, "compressed", exponent).transpose(0, 2, 1), data[key])
    features = data["feat/logmag_cos_sin"].transpose(0, 2, 1)
    hidden = jax.jit(ConvNeXtBackbone(dim, intermediate, layers).apply)({"params": backbone_tree(data)}, features)
    close(hidden, data["out/backbone"])
    close(hidden @ data["sd/proj.weight"].T + data["sd/proj.bias"], data["out/latent"])
    module = AudioAutoencoder(dim, intermediate, layers, layers, latent_channels=latent)
    tree = jax.jit(module.init)(jax.random.key(0), audio[..., None])["params"]
    tree = {
        **tree,
        "encoder_backbone": backbone_tree(data),
        "projection": {"kernel": data["sd/proj.weight"].T[None], "bias": data["sd/proj.bias"]},
    }
    whole = jax.jit(lambda p, x: module.apply({"params": p}, x, method="encode"))(tree, audio[..., None])
    # phases of near-silent bins are ill-conditioned, so the path from audio is held more loosely
    close(whole, data["out/latent"], 5e-3)
    with capsys.disabled():
        print(f"\n[golden] {path.name}: {2 + len(exponents)} inputs, 1 encoder")


@pytest.mark.skipif(not LOSSES, reason="no golden files of this family")
@pytest.mark.timeout(1200)  # the full-size discriminator, forward and three times backward
@pytest.mark.parametrize("path", LOSSES, ids=lambda p: p.stem)
def test_losses_and_their_gradients_equal_dac(path, capsys):
    data = dict(np.load(path))
    rate = int(re.search(r"_(\d+)k", path.stem).group(1)) * 1000
    real, fake = (data[f"in/{name}"].transpose(0, 2, 1) for name in ("real", "fake"))
    names = [m for key in data if (m := re.fullmatch(r"loss/mel_w(\d+)_m(\d+)", key))]
    scales = tuple(sorted((int(m.group(1)), int(m.group(2))) for m in names))
    for window, bands in scales:
        key = f"w{window}_m{bands}"
        loss = multi_scale_mel_loss(fake, real, sample_rate=rate, scales=((window, bands),))
        np.testing.assert_allclose(loss, data[f"loss/mel_{key}"], rtol=2e-5)
        mel = mel_spectrum(real[..., 0], rate, window, window // 4, bands)
        batch, _, theirs_bands, frames = data[f"mel/{key}_shape"].tolist()
        assert mel.shape == (batch, frames, theirs_bands)
        if f"mel/{key}_real0" in data:
            close(mel[0].T, data[f"mel/{key}_real0"])
    mel_of = jax.jit(jax.value_and_grad(lambda x: multi_scale_mel_loss(x, real, sample_rate=rate, scales=scales)))
    mel_loss, gradient = mel_of(fake)
    np.testing.assert_allclose(mel_loss, data["loss/mel"], rtol=1e-5)
    close(gradient.transpose(0, 2, 1), data["grad/mel_wrt_fake"], 1e-4)
    stft_loss, gradient = jax.jit(jax.value_and_grad(lambda x: multi_scale_stft_loss(x, real)))(fake)
    np.testing.assert_allclose(stft_loss, data["loss/stft_default"], rtol=1e-5)
    # d log|S| is 1 / |S|: in near-silent bins the rounding of any FFT shows, so this gradient is held more loosely
    close(gradient.transpose(0, 2, 1), data["grad/stft_wrt_fake"], 5e-3)
    np.testing.assert_allclose(np.abs(real - fake).mean(), data["loss/waveform_l1"], rtol=1e-5)

    module = Discriminator()
    params, torch_names = hashed_discriminator(int(data["cfg/disc_weight_seed"]))
    assert sorted(torch_names) == sorted(str(name) for name in data["grad/disc_param_names"])

    @jax.jit
    def gan_terms(params, fake):
        """Values and gradients of the three adversarial terms from one forward pass of both signals."""

        def terms(params, fake):
            maps = module.apply({"params": params}, jnp.concatenate([real, fake]))
            real_maps, fake_maps = split_maps(maps)
            return (
                discriminator_loss(real_maps, fake_maps),
                adversarial_loss(fake_maps),
                feature_matching_loss(real_maps, fake_maps),
            )

        values, pull = jax.vjp(terms, params, fake)
        by_params = pull((1.0, 0.0, 0.0))[0]
        return values, by_params, pull((0.0, 1.0, 0.0))[1], pull((0.0, 0.0, 1.0))[1]

    (disc_loss, generator, features), by_params, generator_slope, feature_slope = gan_terms(params, jnp.asarray(fake))
    np.testing.assert_allclose(disc_loss, data["loss/adv_disc"], rtol=1e-5)
    norm = np.sqrt(sum(float(jnp.sum(jnp.square(g))) for g in jax.tree.leaves(by_params)))
    np.testing.assert_allclose(norm, data["grad/disc_global_norm"], rtol=1e-4)
    for name, theirs in zip(data["grad/disc_param_names"], data["grad/disc_param_norms"], strict=True):
        sub, layer, leaf = torch_names[str(name)]
        ours = float(jnp.linalg.norm(by_params[sub][layer][leaf]))
        assert abs(ours - theirs) <= 1e-3 * theirs + 1e-6 * norm, (name, ours, theirs)
    np.testing.assert_allclose(generator, data["loss/adv_gen"], rtol=1e-5)
    np.testing.assert_allclose(features, data["loss/adv_feat"], rtol=1e-5)
    close(generator_slope.transpose(0, 2, 1), data["grad/adv_gen_wrt_fake"], ADVERSARIAL_TOLERANCE)
    close(feature_slope.transpose(0, 2, 1), data["grad/adv_feat_wrt_fake"], ADVERSARIAL_TOLERANCE)
    weights = data["cfg/lambdas_mel_feat_gen"]
    total = weights @ np.array([mel_loss, features, generator], np.float64)
    np.testing.assert_allclose(total, data["loss/total_G"], rtol=1e-5)
    with capsys.disabled():
        print(f"\n[golden] {path.name}: {len(scales)} mel scales, 5 other losses, {len(torch_names)} gradient norms")


def hashed_discriminator(seed: int) -> tuple[dict, dict]:
    """Full-size hashed parameters, and for every reference name the path of its leaf in ours."""
    layout = discriminator_layout({})
    _, tree = discriminator_from_state(hashed_state({name: shape for name, (shape, _) in layout.items()}, seed))
    return tree, {name: path for name, (_, path) in layout.items()}


@pytest.mark.skipif(not TRANSFORMS, reason="no golden files of this family")
@pytest.mark.parametrize("path", TRANSFORMS, ids=lambda p: p.stem)
def test_training_transforms_equal_audiotools(path, capsys):
    data = dict(np.load(path))
    audio = data["in/audio"].transpose(0, 2, 1)
    window, hop = data["stft_params_window_hop"].tolist()
    checked = 0
    for key in [k for k in data if k.startswith("volume_norm_")]:
        audio = normalise_loudness(audio, float(key.removeprefix("volume_norm_")))
        close(audio.transpose(0, 2, 1), data[key])
        checked += 1
    audio = limit_peak(audio)
    close(audio.transpose(0, 2, 1), data["then_rescale"])
    for key in [k for k in data if k.startswith("then_shift_phase_")]:
        phases = np.array([float(p) for p in key.removeprefix("then_shift_phase_").split("_")])
        close(shift_phase(audio, phases, window, hop).transpose(0, 2, 1), data[key])
        checked += 1
    assert checked >= 2
    with capsys.disabled():
        print(f"\n[golden] {path.name}: {checked + 1} transforms")
