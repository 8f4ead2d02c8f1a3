"""Importing Woosh-AE: the network of the description, every tensor accounted for, and clear refusals."""

import math

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from woosh_layout import TINY, reference_decode, reference_encode, woosh_shapes, woosh_state

from spresso_jax.audio_ae.autoencoder import AudioAutoencoder
from spresso_jax.audio_ae.statistics import standardise
from spresso_jax.checkpoints.trees import flatten
from spresso_jax.interop.woosh import autoencoder_from_state, read_woosh_autoencoder

STATED = {"z_dim": 6, "d_model": 12, "intermediate_dim": 20, "num_layers": 1, "enc_num_layers": 2, "n_fft": 960}
CONFIG = """
_target_: woosh.module.model.VocosAutoEncoder
istft_head: {_target_: woosh.module.model.vocos.ISTFTCircleHead, padding: center, conv_kernel: 1, softclip: softplus}
z_dim: 6
num_layers: 1
enc_num_layers: 2
"""


@pytest.fixture(scope="module")
def state():
    return woosh_state(**TINY)


def write(folder, state, config=CONFIG):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, str(folder / "weights.safetensors"))
    if config:
        (folder / "config.yaml").write_text(config)
    return folder


def test_the_imported_network_computes_what_the_description_says(state):
    made = autoencoder_from_state(state, STATED)
    module = AudioAutoencoder(**made.config)
    audio = (0.1 * np.random.default_rng(1).standard_normal(4800)).astype(np.float32)
    latent = module.apply({"params": made.params}, audio[None, :, None], method="encode")
    theirs = reference_encode(state, audio)
    assert latent.shape == (1, 11, 6)
    np.testing.assert_allclose(latent[0].T, theirs, atol=2e-5)
    decoded = module.apply({"params": made.params}, latent, method="decode")
    assert decoded.shape == (1, 4800, 1)
    np.testing.assert_allclose(decoded[0, :, 0], reference_decode(state, theirs), atol=2e-5)
    facts = made.latent_statistics()
    x0 = standardise(latent, np.array(facts["mean"]), np.array(facts["std"]), facts["sigma_data"])
    whitened = (theirs - state["z_mean"][:, None]) / state["z_std"][:, None]
    np.testing.assert_allclose(x0[0].T, 0.5 * whitened, atol=2e-5)


def test_statistics_have_the_fields_that_a_trained_model_stores(state):
    from spresso_jax.audio_ae.statistics import LatentStatistics

    trained = LatentStatistics(6)
    trained.update(np.random.default_rng(0).standard_normal((1, 50, 6)))
    facts = autoencoder_from_state(state).latent_statistics()
    assert list(facts) == list(trained.to_facts())
    np.testing.assert_array_equal(np.float32(facts["mean"]), state["z_mean"])
    np.testing.assert_array_equal(np.float32(facts["std"]), state["z_std"])


def test_the_published_sizes_are_used_up_to_the_last_key():
    shapes = woosh_shapes()
    # Matrices are one seeded row seen from everywhere: the published layout without its 0.9 GB.
    rows = np.random.default_rng(0).random(3072).astype(np.float32)
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(960) / 960)
    state = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            state[name] = np.broadcast_to(rows[: shape[-1]], shape)
        else:
            state[name] = (hann if name.endswith("window") else 0.1 + rows[: shape[0]]).astype(np.float16)
    assert len(state) == 164
    assert sum(map(math.prod, shapes.values())) == 221_158_947 + 2 * 128 + 2 * 960
    made = autoencoder_from_state(state)
    assert made.dtypes == ("float16", "float32")
    assert made.config == dict(
        dim=2048, intermediate=3072, encoder_blocks=8, decoder_blocks=8, latent_channels=128, encoder_input="complex",
        padding="center", head="circle", projection_kernel=3,
    )  # fmt: skip
    module = AudioAutoencoder(**made.config)
    example = jax.ShapeDtypeStruct((1, 4800, 1), np.float32)
    wanted = jax.eval_shape(module.init, jax.random.key(0), example)["params"]
    assert {k: v.shape for k, v in flatten(made.params).items()} == {k: v.shape for k, v in flatten(wanted).items()}
    assert sum(leaf.size for leaf in flatten(made.params).values()) == 221_158_947


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_upcast_and_reported(state, dtype, tmp_path):
    folder = write(tmp_path / "half", {name: value.astype(dtype) for name, value in state.items()})
    made = read_woosh_autoencoder(folder)
    assert made.dtypes == (np.dtype(dtype).name,)
    assert {leaf.dtype for leaf in flatten(made.params).values()} == {np.dtype(np.float32)}
    half = state["z_std"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(made.z_std, half)


PROJ, HEAD = "autoencoder.encoder.proj.weight", "autoencoder.decoder.head.out.weight"
GAMMA = "autoencoder.encoder.backbone.convnext.1.gamma"
WINDOW = "autoencoder.decoder.head.istft.window"


def without(*beginnings):
    return lambda state: {name: value for name, value in state.items() if not name.startswith(beginnings)}


def changed(name, change):
    return lambda state: state | {name: change(state[name])}


FAULTS = {
    "missing keys": (without(GAMMA, "autoencoder.encoder.proj.bias"), rf"2 missing: {GAMMA}, .*proj\.bias"),
    "missing size": (without(PROJ), rf"lacks '{PROJ}'"),
    "missing statistics": (without("z_std"), "1 missing: z_std"),
    "missing window": (without(WINDOW), f"1 missing: {WINDOW}"),
    "missing block": (without("autoencoder.encoder.backbone.convnext.0."), "lacks the block 0 .*encoder.backbone"),
    "missing last block": (without("autoencoder.encoder.backbone.convnext.1."), "states enc_num_layers = 2"),
    "unexpected key": (lambda s: s | {"autoencoder.extra": s["z_mean"]}, "1 unexpected: autoencoder.extra"),
    "wrong shape": (changed(HEAD, lambda v: v[:-1]), rf"of another shape: {HEAD} \(1442, 12, 1\) instead of \(1443,"),
    "wrong kernel": (changed(PROJ, lambda v: v[:, :, :1]), "of another shape"),
    "wrong axes": (changed(PROJ, lambda v: v[:, :, 0]), "expected 3 axes"),
    "other channels": (changed("z_mean", lambda v: v[:-1]), "gives 6 latent channels, the decoder reads 6, z_mean has 5"),
    "zero deviation": (changed("z_std", lambda v: np.where(np.arange(6) == 2, 0, v)), r"1 of 6 channels .*channel 2"),
    "never filled": (changed("z_std", np.zeros_like), "6 of 6 channels"),
    "not finite": (changed("z_std", lambda v: np.full_like(v, np.inf)), "finite"),
    "mean not finite": (changed("z_mean", lambda v: np.full_like(v, np.nan)), "finite"),
    "another window": (changed(WINDOW, lambda v: np.hanning(960).astype(np.float32)), "not the periodic Hann"),
    "whole numbers": (changed(GAMMA, lambda v: v.astype(np.int32)), "int32, not a floating tensor"),
}


@pytest.mark.parametrize(("break_it", "message"), FAULTS.values(), ids=FAULTS)
def test_weights_that_do_not_fit_are_refused_with_the_reason(state, break_it, message):
    with pytest.raises(ValueError, match=message):
        autoencoder_from_state(break_it(dict(state)), STATED)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"z_dim": 128}, "states z_dim = 128, the weights have 6"),
        ({"n_fft": 1024}, "states n_fft = 1024, supported is 960"),
        ({"istft_head": {"padding": "same"}}, "istft_head.padding = 'same'"),
        ({"istft_head": {"_target_": "vocos.ISTFTHead"}}, "only ISTFTCircleHead"),
        ({"istft_head": "circle"}, "istft_head of config.yaml"),
    ],
)
def test_a_config_that_contradicts_is_refused(state, stated, message):
    with pytest.raises(ValueError, match=message):
        autoencoder_from_state(state, stated)


def test_folders_that_are_no_model_are_refused(state, tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        read_woosh_autoencoder(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="neither weights.safetensors nor weights.pt"):
        read_woosh_autoencoder(tmp_path / "empty")
    (tmp_path / "empty" / "weights.pt").write_bytes(b"\x80\x04]\x94.")
    with pytest.raises(ValueError, match="cannot be read as a PyTorch checkpoint"):
        read_woosh_autoencoder(tmp_path / "empty")
    damaged = write(tmp_path / "damaged", state)
    content = (damaged / "weights.safetensors").read_bytes()
    (damaged / "weights.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="not a valid safetensors file"):
        read_woosh_autoencoder(damaged)
    with pytest.raises(ValueError, match="cannot be read as YAML"):
        read_woosh_autoencoder(write(tmp_path / "yaml", state, "a: [1"))
    with pytest.raises(ValueError, match="cannot be read as YAML"):
        read_woosh_autoencoder(write(tmp_path / "code", state, "a: !!python/object/apply:os.getcwd []"))
