"""Equality with the QINCo2 reference: codes, reconstructions, loss, gradients, optimizer steps, checkpoint import."""

import dataclasses

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spresso_jax.interop.qinco import load_checkpoint, params_from_state, quantizer_from_params
from spresso_jax.quantizer import assign
from spresso_jax.quantizer.qinco import FROZEN_LEAVES

pytestmark = pytest.mark.golden

AREA = "qinco2"
MARGIN = 1e-4
FILES = golden_files.families(AREA, "", suffix="")
CASES = [path for path in FILES if path.suffix == ".npz" and not path.stem.endswith("_io")]
CHECKPOINTS = [path for path in FILES if path.suffix == ".pt"]


def group(data, prefix):
    """Tensors of `data` below `prefix`, as numpy arrays under their short names."""
    return {name[len(prefix) :]: data[name] for name in data.files if name.startswith(prefix)}


def load_case(path):
    data = np.load(path)
    params = params_from_state(group(data, "state/"))
    beam, preselect = int(data["hp/B"]), int(data["hp/A"])
    quantizer = quantizer_from_params(params, preselect, beam, outer_skip=not int(data["hp/qinco1_mode"]))
    return data, quantizer, params


def scaled_error(found, expected, scale=None):
    """Largest deviation relative to `scale` (default: the largest expected magnitude)."""
    scale = np.abs(expected).max() if scale is None else scale
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / scale)


def same_rows(found, expected, margin):
    """Codes agree on every row whose selections are clear; found [N, m], expected [m, N]."""
    clear = margin >= MARGIN
    assert clear.any()
    np.testing.assert_array_equal(np.asarray(found)[clear], expected.T[clear])
    return clear


def named(tree):
    """Leaves of a parameter tree under readable names."""
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def mask_trained(params):
    return {name: name not in FROZEN_LEAVES for name in params}


def optimizer(data):
    rate = float(data["hp/lr"])
    if str(data["hp/optimizer"]) == "adam":
        inner = optax.adam(rate)
    elif str(data["hp/optimizer"]) == "adamw":
        inner = optax.chain(
            optax.clip(float(data["hp/grad_clip"])), optax.adamw(rate, weight_decay=float(data["hp/wd"]))
        )
    else:
        raise ValueError(f"unknown optimizer {data['hp/optimizer']}")
    return optax.masked(inner, mask_trained)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case_equals_reference(path):
    data, quantizer, params = load_case(path)
    sizes = {"D": quantizer.dimension, "K": quantizer.codewords, "M": quantizer.codebooks, "L": quantizer.blocks}
    for name, value in sizes.items():
        assert value == int(data[f"hp/{name}"]), name
    z, scale = data["x"], data["x"].std()
    codes = assign.encode(quantizer, params, z)
    clear = same_rows(codes, data["codes"], data["margin"])
    assert scaled_error(np.asarray(quantizer.decode(params, codes))[clear], data["recon"][clear], scale) < 2e-5
    steps = quantizer.partial_reconstructions(params, data["codes"].T)
    assert scaled_error(steps, data["recon_steps"], scale) < 2e-5
    assert scaled_error(steps, data["recon_steps_f64"], scale) < 5e-6
    mse = np.square(np.asarray(steps, np.float64) - z).sum(-1).mean(-1)
    np.testing.assert_allclose(mse, data["mse_steps"], rtol=1e-5)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_prefix_of_one_search_equals_the_truncated_reference(path):
    data, quantizer, params = load_case(path)
    scale = data["x"].std()
    prefixes, reconstructions = assign.encode_all_prefixes(quantizer, params, data["x"])
    lengths = sorted({int(name[len("trunc") :].split("/")[0]) for name in data.files if name.startswith("trunc")})
    for used in lengths:
        expected, margin = data[f"trunc{used}/codes"], data[f"trunc{used}/margin"]
        clear = same_rows(prefixes[used - 1][:, :used], expected, margin)
        found = np.asarray(reconstructions[used - 1])[clear]
        assert scaled_error(found, data[f"trunc{used}/recon"][clear], scale) < 2e-5
        same_rows(assign.encode(quantizer, params, data["x"], used), expected, margin)
        assert (np.asarray(prefixes[used - 1][:, used:]) == -1).all()
    same_rows(prefixes[-1], data["codes"], data["margin"])


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_candidates_in_bfloat16_lose_nothing_that_float32_would_keep(path):
    data, quantizer, params = load_case(path)
    z, scale = data["x"], data["x"].std()
    prefixes, reconstructions = assign.encode_all_prefixes(quantizer, params, z, candidate_dtype="bfloat16")
    # What the search recorded is float32: it is what decoding gives, to the rounding of the float32 search.
    decoded = np.asarray(quantizer.decode(params, prefixes[-1]))
    assert scaled_error(reconstructions[-1], decoded, scale) < 5e-6
    exact = np.asarray(quantizer.decode(params, data["codes"].T))
    errors = [np.square(np.asarray(found, np.float64) - z).sum(-1) for found in (decoded, exact)]
    assert errors[0].mean() < 1.005 * errors[1].mean()
    assert (np.asarray(prefixes[-1]) == data["codes"].T).all(-1).mean() > 0.9


@pytest.mark.parametrize("path", [path for path in CASES if "train/loss" in np.load(path).files], ids=lambda p: p.stem)
def test_loss_gradient_and_optimizer_steps_equal_reference(path):
    data, quantizer, params = load_case(path)
    z = jnp.asarray(data["x"][: int(data["hp/ntrain"])])
    params = jax.tree.map(jnp.asarray, params)
    codes = assign.encode(quantizer, params, z)
    clear = data["margin"][: len(z)] >= MARGIN
    np.testing.assert_array_equal(np.asarray(codes)[clear], data["train/codes"].T[clear])
    codes = jnp.asarray(data["train/codes"].T)
    update = optimizer(data)

    @jax.jit
    def learn(params, state, codes):
        (loss, parts), gradient = jax.value_and_grad(quantizer.training_loss, has_aux=True)(params, z, codes)
        change, state = update.update(gradient, state, params)
        return loss, parts, gradient, optax.apply_updates(params, change), state

    loss, parts, gradient, current, state = learn(params, update.init(params), codes)
    np.testing.assert_allclose(loss, data["train/loss"], rtol=1e-5)
    np.testing.assert_allclose(parts["mse_loss"], data["train/mse_loss"], rtol=1e-5)
    if "train/loss_substep" in data.files:
        np.testing.assert_allclose(parts["preselection_loss"], data["train/loss_substep"], rtol=1e-5)
    error = np.square(np.asarray(quantizer.decode(params, codes)) - z).sum(-1).mean()
    np.testing.assert_allclose(parts["error_per_step"][-1], error, rtol=1e-5)
    trained = {name: value for name, value in gradient.items() if name not in FROZEN_LEAVES}
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in named(trained).values()))
    np.testing.assert_allclose(norm, data["train/grad_norm"], rtol=1e-4)
    assert all(not np.any(gradient[name]) for name in FROZEN_LEAVES)

    zeros = {"data_mean": np.zeros_like(data["state/data_mean"]), "data_std": np.zeros(())}
    expected_gradient = named(params_from_state({**group(data, "grad/"), **zeros}))
    found_gradient = named(gradient)
    assert found_gradient.keys() == expected_gradient.keys()
    for name, expected in expected_gradient.items():
        norm = np.linalg.norm(expected)
        assert np.linalg.norm(found_gradient[name] - expected) <= 1e-4 * norm, name

    expected_params = named(params_from_state(group(data, "after1/")))
    for name, found in named(current).items():
        # Adam's first step is close to a sign: where the gradient is rounding, so is its direction.
        size = np.abs(expected_gradient[name])
        sure = (size >= 1e-6) | (size == 0)
        np.testing.assert_allclose(found[sure], expected_params[name][sure], atol=1e-6, err_msg=name)

    trajectory = [float(loss)]
    while len(trajectory) < len(data["train/loss_trajectory"]):
        loss, _, _, current, state = learn(current, state, assign.encode(quantizer, current, z))
        trajectory.append(float(loss))
    np.testing.assert_allclose(trajectory, data["train/loss_trajectory"], rtol=1e-4)


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_imported_checkpoint_equals_reference(path):
    quantizer, params = load_checkpoint(path)
    data = np.load(path.with_name(f"{path.stem}_io.npz"))
    codes = assign.encode(quantizer, params, data["x"])
    clear = same_rows(codes, data["codes"], data["margin"])
    scale = data["x"].std()
    assert scaled_error(np.asarray(quantizer.decode(params, codes))[clear], data["recon"][clear], scale) < 2e-5
    steps = quantizer.partial_reconstructions(params, data["codes"].T)
    assert scaled_error(steps, data["recon_steps"], scale) < 2e-5
    rebuilt = type(quantizer)(**dataclasses.asdict(quantizer))
    assert rebuilt == quantizer and hash(rebuilt) == hash(quantizer)


def test_every_golden_file_was_run():
    run = {path.name for path in CASES} | {path.name for path in CHECKPOINTS}
    run |= {f"{path.stem}_io.npz" for path in CHECKPOINTS}
    present = {path.name for path in FILES if path.suffix != ".md"}
    print(f"{AREA}: {len(run)} files, {len(CASES)} cases, {len(CHECKPOINTS)} checkpoints")
    assert present, f"no golden files in {golden_files.golden_root() / AREA}"
    assert present == run, f"not run: {sorted(present - run)}"
