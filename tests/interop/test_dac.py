"""Importing DAC's discriminators: all three kinds, both names of weight normalisation, refusals."""

import jax
import numpy as np
import pytest

from spresso_jax.audio_ae.discriminators import Discriminator
from spresso_jax.checkpoints.trees import flatten
from spresso_jax.interop.dac import discriminator_from_state, discriminator_layout, sub_discriminator_params

CONFIG = dict(
    periods=[2, 3], fft_sizes=[512], msd_rates=[2], period_channels=[4, 8], spectrum_channels=3,
    rate_channels=[4, 4, 4, 4, 4, 8],
)  # fmt: skip
SEQUENCES = {name: CONFIG[name] for name in ("periods", "fft_sizes", "msd_rates")}


@pytest.fixture(scope="module")
def layout():
    return discriminator_layout(CONFIG)


@pytest.fixture(scope="module")
def state(layout):
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, (shape, _) in layout.items()}


def test_the_published_layout_has_these_names_and_shapes():
    layout = {name: shape for name, (shape, _) in discriminator_layout({}).items()}
    assert layout["discriminators.4.convs.1.0.weight_v"] == (128, 32, 5, 1)
    assert layout["discriminators.0.conv_post.weight_v"] == (1, 1024, 3, 1)
    assert layout["discriminators.0.conv_post.weight_g"] == (1, 1, 1, 1)
    assert layout["discriminators.7.band_convs.4.0.0.weight_v"] == (32, 2, 3, 9)
    assert layout["discriminators.5.band_convs.0.4.0.weight_v"] == (32, 32, 3, 3)
    assert layout["discriminators.5.band_convs.0.4.0.bias"] == (32,)


def test_sizes_are_read_off_and_all_tensors_find_their_place(layout, state):
    config, params = discriminator_from_state(state, **SEQUENCES)
    assert config == CONFIG
    module = Discriminator(**config)
    wanted = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8192, 1), np.float32))["params"]
    assert {k: v.shape for k, v in flatten(params).items()} == {k: v.shape for k, v in flatten(wanted).items()}
    # rates stand before FFT sizes there and after them here
    np.testing.assert_array_equal(params["rate_2"]["score"]["bias"], state["discriminators.2.conv_post.bias"])
    for name, (_, (sub, layer, leaf)) in layout.items():
        assert np.isclose(params[sub][layer][leaf].sum(), state[name].sum(), atol=1e-4), name


def test_new_names_of_weight_normalisation_are_the_same_weights(state):
    new = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    renamed = {}
    for name, value in state.items():
        stem, leaf = name.rsplit(".", 1)
        renamed[f"{stem}.{new.get(leaf, leaf)}"] = value
    assert set(renamed) != set(state)
    ours, theirs = (flatten(discriminator_from_state(s, **SEQUENCES)[1]) for s in (renamed, state))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(ValueError, match="twice"):
        discriminator_from_state(renamed | state, **SEQUENCES)


def test_what_does_not_fit_is_named(state):
    name = "discriminators.1.convs.0.0.bias"
    with pytest.raises(ValueError, match=f"1 missing: {name}"):
        discriminator_from_state({k: v for k, v in state.items() if k != name}, **SEQUENCES)
    with pytest.raises(ValueError, match="1 unexpected: discriminators.0.extra"):
        discriminator_from_state(state | {"discriminators.0.extra": np.zeros(2, np.float32)}, **SEQUENCES)
    with pytest.raises(ValueError, match="ask for period, period, period, period, period, spectrum"):
        discriminator_from_state(state)
    with pytest.raises(ValueError, match="a period discriminator has no tensor"):
        sub_discriminator_params({"band_convs.0.0.0.bias": np.zeros(2)}, "period")
    with pytest.raises(ValueError, match="kind must be one of"):
        sub_discriminator_params({}, "mpd")
