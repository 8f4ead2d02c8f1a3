"""The imported Woosh-AE against the reference's own outputs: latents, sound, head, and a folder in the published layout."""

import json

import jax
import numpy as np
import pytest
from golden_files import close, families, golden_root

from spresso_jax.audio.stft import istft, stft
from spresso_jax.audio_ae.autoencoder import AudioAutoencoder, spectrum_features, spectrum_of_head
from spresso_jax.audio_ae.statistics import standardise, unstandardise
from spresso_jax.interop.woosh import autoencoder_from_state, read_woosh_autoencoder
from spresso_jax.nn.convnext import ConvNeXtBackbone

pytestmark = pytest.mark.golden
ALL = families("woosh", "ae_")
HEADS = [path for path in ALL if "in/head_out" in np.load(path).files]
NETWORKS = [path for path in ALL if path not in HEADS]
PIPELINES = families("woosh", "pipeline")
LATENT_TOLERANCE, AUDIO_TOLERANCE, SPECTRUM_TOLERANCE = 5e-6, 2e-6, 2e-4


def frames_first(array):
    return np.moveaxis(array, 1, -1)


def audio_of(integers):
    return (integers / 32768.0).astype(np.float32)


def statistics_of(made):
    facts = made.latent_statistics()
    return np.float32(facts["mean"]), np.float32(facts["std"]), facts["sigma_data"]


@pytest.mark.skipif(not NETWORKS, reason="no golden files of this family")
@pytest.mark.parametrize("path", NETWORKS, ids=lambda p: p.stem)
def test_autoencoder_equals_the_reference(path, capsys):
    data = dict(np.load(path))
    stated = json.loads(str(data["settings_json"]))
    made = autoencoder_from_state({k[6:]: v for k, v in data.items() if k.startswith("state/")}, stated)
    module, params = AudioAutoencoder(**made.config), {"params": made.params}
    mean, std, sigma_data = statistics_of(made)
    encode = jax.jit(lambda x: module.apply(params, x, method="encode"))
    decode = jax.jit(lambda x0: module.apply(params, unstandardise(x0, mean, std, sigma_data), method="decode"))

    latent = encode(audio_of(data["in/audio_i16"]).transpose(0, 2, 1))
    worst = close(latent, frames_first(data["out/z_raw"]), LATENT_TOLERANCE)
    close(standardise(latent, mean, std, sigma_data) / sigma_data, frames_first(data["out/z"]), LATENT_TOLERANCE)
    pairs = [("out/z", "out/audio"), ("in/z_random", "out/audio_from_z_random")]
    errors = [
        close(decode(sigma_data * frames_first(data[z])), frames_first(data[audio]), AUDIO_TOLERANCE)
        for z, audio in pairs
    ]
    taps = ("tap/dec/head_out", "tap/dec/spec_real", "tap/dec/spec_imag")
    if set(taps) <= set(data):
        output, real, imaginary = (frames_first(data[tap]) for tap in taps)
        spectrum = spectrum_of_head(output, "circle")
        close(spectrum.real, real, SPECTRUM_TOLERANCE)
        close(spectrum.imag, imaginary, SPECTRUM_TOLERANCE)

    # Lengths that are no whole number of hops: the reference reflects at the true end, our autoencoder asks for padding.
    count = int(data["odd/n_samples"])
    odd = audio_of(data["in/audio_i16"][:1, 0, :count])
    features = spectrum_features(stft(odd, 960, 480, padding="center"), made.config["encoder_input"])
    backbone = ConvNeXtBackbone(made.config["dim"], made.config["intermediate"], made.config["encoder_blocks"])
    hidden = backbone.apply({"params": made.params["encoder_backbone"]}, features)
    padded = np.pad(hidden, ((0, 0), (1, 1), (0, 0)))
    kernel = made.params["projection"]["kernel"]
    frames = hidden.shape[1]
    latent = sum(padded[:, j : j + frames] @ kernel[j] for j in range(3)) + made.params["projection"]["bias"]
    close(standardise(latent, mean, std, 1.0), frames_first(data["odd/z"]), LATENT_TOLERANCE)
    close(decode(sigma_data * frames_first(data["odd/z"])), frames_first(data["odd/audio"]), AUDIO_TOLERANCE)
    with capsys.disabled():
        print(f"\n[golden] {path.name}: 3 encodings, 3 decodings; errors {worst:.1e} (latent), {max(errors):.1e} (audio)")


@pytest.mark.skipif(not HEADS, reason="no golden files of this family")
@pytest.mark.parametrize("path", HEADS, ids=lambda p: p.stem)
def test_the_head_equals_the_reference_at_its_edges(path, capsys):
    data = dict(np.load(path))
    settings = json.loads(str(data["settings_json"]))
    n_fft, hop = settings["n_fft"], settings["hop_length"]
    spectrum = spectrum_of_head(frames_first(data["in/head_out"]), "circle")
    close(spectrum.real, frames_first(data["out/spec_real"]), AUDIO_TOLERANCE)
    close(spectrum.imag, frames_first(data["out/spec_imag"]), AUDIO_TOLERANCE)
    close(istft(spectrum, n_fft, hop, padding="center"), data["out/audio"], AUDIO_TOLERANCE)
    with capsys.disabled():
        print(f"\n[golden] {path.name}: 1 case")


@pytest.mark.skipif(not PIPELINES, reason="no golden files of this family")
@pytest.mark.parametrize("path", PIPELINES, ids=lambda p: p.stem)
def test_a_folder_in_the_published_layout_equals_the_reference(path, capsys):
    data = dict(np.load(path))
    settings = json.loads(str(data["settings_json"]))
    made = read_woosh_autoencoder(golden_root() / "woosh" / settings["checkpoints"] / "Woosh-AE")
    module, params = AudioAutoencoder(**made.config), {"params": made.params}
    mean, std, sigma_data = statistics_of(made)
    latent = module.apply(params, audio_of(data["in/audio48k_i16"])[None, :, None], method="encode")
    worst = close(standardise(latent, mean, std, 1.0), frames_first(data["out/latent"]), LATENT_TOLERANCE)
    sampled = unstandardise(frames_first(data["out/z_euler8_cfg4.5"]), mean, std, 1.0)
    error = close(module.apply(params, sampled, method="decode"), frames_first(data["out/audio"]), AUDIO_TOLERANCE)
    with capsys.disabled():
        print(f"\n[golden] {path.name}: 1 encoding, 1 decoding; errors {worst:.1e} (latent), {error:.1e} (audio)")
