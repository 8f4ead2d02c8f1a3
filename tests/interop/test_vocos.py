"""Importing Vocos: only its decoder is taken, and what does not fit is named."""

import io
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from spresso_jax.audio_ae.autoencoder import AudioAutoencoder
from spresso_jax.checkpoints.trees import flatten
from spresso_jax.interop.foreign_tensors import read_tensors
from spresso_jax.interop.vocos import BackboneSizes, backbone_shapes, decoder_from_state, read_vocos_folder

SIZES = BackboneSizes(channels=5, dim=8, intermediate=12, blocks=2)


@pytest.fixture
def state():
    shapes = backbone_shapes(SIZES, "backbone.") | {"head.out.weight": (962, 8), "head.out.bias": (962,)}
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    state["head.istft.window"] = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(960) / 960)).astype(np.float32)
    return state | {"feature_extractor.mel_spec.spectrogram.window": np.zeros(3, np.float32)}


def test_a_decoder_of_our_spectrum_fits_our_autoencoder(state):
    import jax

    made = decoder_from_state(state, hop=480, padding="same")
    assert (made.n_fft, made.hop, made.dtypes) == (960, 480, ("float32",))
    module = AudioAutoencoder(encoder_blocks=1, **made.config)
    whole = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 4800, 1), np.float32))["params"]
    wanted = {name: whole[name] for name in made.params}
    assert {k: v.shape for k, v in flatten(made.params).items()} == {k: v.shape for k, v in flatten(wanted).items()}
    block = made.params["decoder_backbone"]["block_1"]
    np.testing.assert_array_equal(block["expand"]["kernel"][:, 3], state["backbone.convnext.1.pwconv1.weight"][3])
    np.testing.assert_array_equal(block["depthwise_kernel"][2], state["backbone.convnext.1.dwconv.weight"][:, 0, 2])


def test_what_does_not_fit_is_named(state):
    with pytest.raises(ValueError, match="1 unexpected: backbone.extra"):
        decoder_from_state(state | {"backbone.extra": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match="1 missing: head.out.bias"):
        decoder_from_state({name: value for name, value in state.items() if name != "head.out.bias"})
    with pytest.raises(ValueError, match="EnCodec"):
        decoder_from_state(state | {"backbone.norm.scale.weight": np.zeros((4, 8), np.float32)})
    with pytest.raises(ValueError, match="Hann"):
        decoder_from_state(state | {"head.istft.window": np.ones(960, np.float32)})


def test_a_folder_tells_hop_and_padding(state, tmp_path):
    save_file(state, str(tmp_path / "model.safetensors"))
    assert read_vocos_folder(tmp_path).hop == 240
    (tmp_path / "config.yaml").write_text("head: {init_args: {n_fft: 960, hop_length: 480, padding: same}}")
    made = read_vocos_folder(tmp_path)
    assert (made.hop, made.config["padding"]) == (480, "same")
    (tmp_path / "config.yaml").write_text("head: {init_args: {n_fft: 1024}}")
    with pytest.raises(ValueError, match="states n_fft 1024"):
        read_vocos_folder(tmp_path)
    with pytest.raises(ValueError, match="download the whole model folder"):
        read_vocos_folder(tmp_path / "missing")


def test_a_pickle_of_something_else_is_no_state_dict(tmp_path):
    import pickle

    stream = io.BytesIO()
    pickle.dump({"epoch": 3}, stream, protocol=2)
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
    with pytest.raises(ValueError, match="epoch hold no tensor"):
        read_tensors(tmp_path / "weights.pt")
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "missing.pt")
