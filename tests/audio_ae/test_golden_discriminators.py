"""Discriminators against DAC's reference implementation: every map, the scores, and gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import families
from hashed_audio_ae_weights import hashed_state, torch_layout

from spresso_jax.audio_ae.discriminators import (
    Discriminator,
    PeriodDiscriminator,
    RateDiscriminator,
    SpectrumDiscriminator,
    band_edges,
    level_audio,
)
from spresso_jax.audio_ae.losses import adversarial_loss, discriminator_loss, feature_matching_loss
from spresso_jax.interop.dac import discriminator_from_state, kernel_from_foreign, sub_discriminator_params

pytestmark = pytest.mark.golden
ALL = families("audio_ae", "disc_")
FULL = [path for path in ALL if "sd_keys" in np.load(path).files]
SMALL = [path for path in ALL if path not in FULL]
FAMILY = {"mpd": "period", "mrd": "spectrum", "msd": "rate"}


def relative_error(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-12))


def check_map(ours: np.ndarray, data: dict, key: str, tolerance: float) -> None:
    assert ours.shape == tuple(data[f"{key}/shape"])
    scale = np.abs(ours).max()
    mean, std = data[f"{key}/mean_std"]
    wide = ours.astype(np.float64)
    np.testing.assert_allclose([wide.mean(), wide.std()], [mean, std], atol=2e-5 * scale)
    head = data[f"{key}/head64"]
    assert np.abs(ours.ravel()[: head.size] - head).max() <= tolerance * scale


def gradient_errors(gradients, data: dict, case: str, kind: str, first: str) -> dict[str, float]:
    """Relative errors of the gradients that the file holds.

    A leaky ReLU has a kink at 0, and some activations of the files lie within float32 rounding of it: there the
    reference and any other implementation may take different sides, which moves the gradient by up to 1%. The caller
    therefore looks for the reference's gradient at inputs that differ by rounding only (1e-7 of the peak).
    """
    by_params, by_audio = gradients
    post = kernel_from_foreign(data[f"{case}/grad_conv_post.weight_v"], kind)
    return {
        "audio": relative_error(by_audio, data[f"{case}/grad_lsgan_g_wrt_input"][:, 0]),
        "first scale": relative_error(by_params[first]["scale"], data[f"{case}/grad_first_weight_g"].ravel()),
        "score kernel": relative_error(by_params["score"]["kernel"], post),
        "score bias": relative_error(by_params["score"]["bias"], data[f"{case}/grad_conv_post.bias"]),
    }


@pytest.mark.skipif(not SMALL, reason="no golden files of this family")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", SMALL, ids=lambda p: p.stem)
def test_sub_discriminators_equal_the_reference(path, capsys):
    data = dict(np.load(path))
    audio = data["in/audio_raw"][:, 0]
    levelled = data["in/audio_preprocessed"][:, 0]
    assert relative_error(level_audio(audio), levelled) < 2e-5
    cases = sorted({key.split("/")[0] for key in data if re.match(r"m[prs]d\d+/", key)})
    assert cases
    for case in cases:
        kind, number = FAMILY[case[:3]], int(case[3:])
        prefix = f"{case}/sd/"
        state = {key[len(prefix) :]: value for key, value in data.items() if key.startswith(prefix)}
        tree = sub_discriminator_params(state, kind)
        if kind == "spectrum":
            bands = [*data["cfg/bands"][:, 0].tolist(), float(data["cfg/bands"][-1, 1])]
            assert np.array_equal(band_edges(number, bands), data[f"{case}/band_bins"])
            module = SpectrumDiscriminator(number, tree["band_0_layer_0"]["bias"].size, tuple(bands))
            first = "band_0_layer_0"
        else:
            layers = sum(name.startswith("layer_") for name in tree)
            channels = tuple(tree[f"layer_{i}"]["bias"].size for i in range(layers))
            module = (PeriodDiscriminator if kind == "period" else RateDiscriminator)(number, channels)
            first = "layer_0"

        def score(params, x, module=module):
            maps = module.apply({"params": params}, x)
            return jnp.square(1.0 - maps[-1]).mean(), maps

        gradient_of = jax.jit(jax.value_and_grad(score, (0, 1), has_aux=True))
        (_, maps), gradients = gradient_of(tree, levelled)
        maps = [torch_layout(np.asarray(m), kind, len(audio)) for m in maps]
        assert len(maps) == int(data[f"{case}/n_maps"])
        for i, ours in enumerate(maps):
            check_map(ours, data, f"{case}/map{i}", 2e-5)
        assert relative_error(maps[-1], data[f"{case}/last_map"]) < 2e-5
        errors = gradient_errors(gradients, data, case, kind, first)
        for seed in range(64):
            if max(errors.values()) < 1e-4:
                break
            noise = 1e-7 * np.random.default_rng(seed).standard_normal(levelled.shape)
            errors = gradient_errors(gradient_of(tree, levelled + noise.astype(np.float32))[1], data, case, kind, first)
        assert max(errors.values()) < 1e-4, (case, errors)
    with capsys.disabled():
        print(f"\n[golden] {path.name}: {len(cases)} cases")


@pytest.mark.skipif(not FULL, reason="no golden files of this family")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", FULL, ids=lambda p: p.stem)
def test_the_full_discriminator_equals_the_reference(path, capsys):
    data = dict(np.load(path))
    shapes = {
        str(key): tuple(int(n) for n in str(shape).split(","))
        for key, shape in zip(data["sd_keys"], data["sd_shapes"], strict=True)
    }
    state = hashed_state(shapes, int(data["cfg/weight_seed"]))
    for key, first in zip(data["sd_keys"], data["sd_first4"], strict=True):
        np.testing.assert_allclose(np.resize(state[str(key)].ravel(), 4), first, rtol=1e-6)
    config, params = discriminator_from_state(state)
    module = Discriminator(**config)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(int(np.prod(s)) for s in shapes.values())
    real, fake = (data[f"in/audio_{name}"].transpose(0, 2, 1) for name in ("raw", "fake"))
    real_maps = jax.jit(lambda x: module.apply({"params": params}, x))(real)

    def generator_loss(x):
        maps = module.apply({"params": params}, x)
        generator, features = adversarial_loss(maps), feature_matching_loss(real_maps, maps)
        return generator + 2.0 * features, (maps, generator, features)

    (_, (fake_maps, generator, features)), gradient = jax.jit(jax.value_and_grad(generator_loss, has_aux=True))(fake)
    checked = 0
    for name, outputs in (("real", real_maps), ("fake", fake_maps)):
        for i, maps in enumerate(outputs):
            kind = "period" if i < len(module.periods) else "spectrum"
            for j, ours in enumerate(maps):
                check_map(torch_layout(np.asarray(ours), kind, len(real)), data, f"{name}/d{i}/map{j}", 2e-5)
                checked += 1
            last = torch_layout(np.asarray(maps[-1]), kind, len(real))
            assert relative_error(last, data[f"{name}/d{i}/last_map"]) < 2e-5
    np.testing.assert_allclose(generator, data["loss/gen"], rtol=1e-5)
    np.testing.assert_allclose(features, data["loss/feat"], rtol=1e-5)
    np.testing.assert_allclose(discriminator_loss(real_maps, fake_maps), data["loss/disc"], rtol=1e-5)
    assert relative_error(gradient.transpose(0, 2, 1), data["grad/gen+2feat_wrt_fake"]) < 1e-4
    with capsys.disabled():
        print(f"\n[golden] {path.name}: {checked} maps")
