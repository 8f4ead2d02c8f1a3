"""The Swin tower's geometry and its input norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.clap.htsat import (
    ClapAudioTower,
    InputNorm,
    cubic_resize_matrix,
    cut_windows,
    fold_spectrogram,
    input_statistics,
    join_windows,
    relative_positions,
    rolled_penalty,
    unfold_map,
)

TINY = {"width": 8, "depths": [2, 1], "heads": [2, 4], "image_size": 64, "mel_bins": 32, "input_norm": "fixed"}


def test_joining_windows_undoes_cutting_them():
    image = np.arange(2 * 8 * 16 * 3).reshape(2, 8, 16, 3)
    windows = cut_windows(image, 4)
    assert windows.shape == (2, 8, 16, 3)
    np.testing.assert_array_equal(windows[0, 1], image[0, :4, 4:8].reshape(16, 3))
    np.testing.assert_array_equal(join_windows(windows, 8, 16, 4), image)


def test_cubic_resize_keeps_constants_ends_and_equal_lengths():
    matrix = cubic_resize_matrix(1024, 1001)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
    assert matrix[0, 0] == 1.0 and matrix[-1, -1] == pytest.approx(1.0)
    np.testing.assert_array_equal(cubic_resize_matrix(7, 7), np.eye(7))


def test_folding_stacks_blocks_of_time_and_unfolding_puts_them_back():
    features = np.arange(128 * 32, dtype=np.float32).reshape(1, 128, 32)
    image = np.asarray(fold_spectrogram(jnp.asarray(features), 64))
    np.testing.assert_array_equal(image[0, :32], features[0, :64].T)
    np.testing.assert_array_equal(image[0, 32:], features[0, 64:].T)
    np.testing.assert_array_equal(unfold_map(image[..., None], 2)[0, ..., 0], features[0].T)


def test_relative_positions_depend_on_the_offset_only():
    table = relative_positions(3)
    assert table[0, 0] == table[8, 8] == 12
    assert table[0, 4] == table[4, 8] != table[4, 0]
    assert len(np.unique(table)) == 25


def test_rolled_penalty_is_symmetric_and_spares_inner_windows():
    penalty = rolled_penalty(16, 16, 8, 4)
    assert penalty.shape == (4, 1, 64, 64)
    assert not penalty[0].any() and penalty[3].min() == -100.0
    np.testing.assert_array_equal(penalty, penalty.swapaxes(-1, -2))


def test_shifted_block_lets_windows_exchange_information():
    module = ClapAudioTower(**TINY | {"depths": [2]} | {"heads": [2]})
    features = np.random.default_rng(0).normal(-40, 10, (1, 128, 32)).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), features)
    changed = features.copy()
    changed[0, 28:32, :4] += 30.0
    states_of = jax.jit(lambda values: module.apply(variables, values)[0])
    before, after = states_of(features), states_of(changed)
    moved = np.abs(np.asarray(after - before)).max(axis=(0, -1)) > 1e-5
    # The patch at mel 0, column 7 is in the first window; only the shifted block carries it on, and by half a window.
    assert moved[0, 7] and moved[0, 8:12].all() and not moved[0, 12:16].any()


@pytest.mark.parametrize(("kind", "frozen"), [("fixed", {"mean", "std"}), ("batch", {"mean", "var"})])
def test_no_gradient_reaches_the_statistics_of_the_input_norm(kind, frozen):
    features = np.random.default_rng(0).normal(-40, 10, (2, 16, 4)).astype(np.float32)
    norm = InputNorm(kind, 4)
    params = norm.init(jax.random.key(0), features)["params"]
    gradients = jax.grad(lambda p: (norm.apply({"params": p}, features) ** 2).sum())(params)
    assert all(not gradients[name].any() for name in frozen)
    assert all(gradients[name].any() for name in set(params) - frozen)
    measured = input_statistics(features, kind)
    assert set(measured) == frozen
    normed = norm.apply({"params": params | measured}, features)
    np.testing.assert_allclose(normed.std(axis=(0, 1)), 1.0, atol=1e-3)
    np.testing.assert_allclose(normed.mean(axis=(0, 1)), 0.0, atol=1e-3)


def test_errors_name_the_sizes_that_do_not_fit():
    features = np.zeros((1, 128, 32), np.float32)
    cases = {
        "mel bins": (TINY | {"mel_bins": 16}, features),
        "frames exceed": (TINY, np.zeros((1, 129, 32), np.float32)),
        "same number of stages": (TINY | {"heads": [2]}, features),
        "must divide by the window 6": (TINY | {"window": 6}, features),
        "input_norm": (TINY | {"input_norm": "layer"}, features),
        "does not divide by 3 heads": (TINY | {"heads": [3, 3]}, features),
        "mel bands": (TINY | {"image_size": 16}, features),
    }
    for message, (config, values) in cases.items():
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(ClapAudioTower(**config).init, jax.random.key(0), values)
