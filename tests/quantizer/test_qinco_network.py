"""Sizes, start and training loss of the QINCo2 step network."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.quantizer.qinco import FROZEN_LEAVES, Qinco
from spresso_jax.quantizer.schedule import quarter_cosine

SMALL = {"codebooks": 3, "codewords": 8, "hidden_width": 7, "blocks": 2, "preselect": 4, "beam": 4, "dimension": 5}


def random_tree(quantizer, seed=0):
    """Parameters without a zero anywhere, so that every path carries a signal."""
    leaves, shape = jax.tree.flatten(quantizer.init(jax.random.key(seed)))
    rng = np.random.default_rng(seed)
    return shape.unflatten([leaf + 0.2 * rng.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves])


def test_config_survives_json():
    quantizer = Qinco(**SMALL, embedding_width=9)
    assert Qinco(**json.loads(json.dumps(dataclasses.asdict(quantizer)))) == quantizer


@pytest.mark.parametrize("field, value", [("codebooks", 0), ("beam", 0), ("blocks", -1), ("embedding_width", 0)])
def test_impossible_size_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        Qinco(**{**SMALL, field: value})


@pytest.mark.parametrize("width", [None, 5, 9])
@pytest.mark.parametrize("preselect", [0, 4])
def test_parameter_count_follows_the_formula(width, preselect):
    quantizer = Qinco(**{**SMALL, "preselect": preselect}, embedding_width=width)
    params = jax.eval_shape(quantizer.init, jax.random.key(0))
    d, k, e, h, blocks = 5, 8, quantizer.width, 7, 2
    step = k * d * (1 + (preselect > 0)) + (e != d) * 2 * d * e + e * (e + d) + e + 2 * blocks * e * h
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) - 2 * d
    assert count == k * d + (quantizer.codebooks - 1) * step


def test_untrained_square_network_doubles_the_codeword():
    quantizer = Qinco(**SMALL)
    step = jax.tree.map(lambda leaf: leaf[0], quantizer.init(jax.random.key(0))["steps"])
    codeword, sums = jnp.arange(5.0), jnp.ones(5)
    np.testing.assert_allclose(quantizer.step_output(step, codeword, sums), 2 * codeword, atol=1e-6)


@pytest.mark.parametrize("width, blocks, outer_skip", [(None, 0, True), (9, 1, True), (3, 3, True), (None, 2, False)])
def test_the_folded_step_equals_the_step(width, blocks, outer_skip):
    quantizer = Qinco(**{**SMALL, "blocks": blocks}, embedding_width=width, outer_skip=outer_skip)
    step = jax.tree.map(lambda leaf: leaf[0], random_tree(quantizer)["steps"])
    sums, codes = jax.random.normal(jax.random.key(1), (6, 5)), jax.random.randint(jax.random.key(2), (6, 4), 0, 8)
    expected = quantizer.step_output(step, step["codebook"][codes], jnp.broadcast_to(sums[:, None], (6, 4, 5)))
    found = quantizer.folded_output(quantizer.fold_step(step), codes, sums)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_no_leaf_is_empty_when_there_are_no_blocks_or_later_steps():
    for changes in ({"blocks": 0}, {"codebooks": 1}):
        params = jax.eval_shape(Qinco(**{**SMALL, **changes}).init, jax.random.key(0))
        assert all(leaf.size for leaf in jax.tree.leaves(params))


def test_decoding_a_prefix_equals_the_partial_reconstruction():
    quantizer = Qinco(**SMALL, embedding_width=9)
    params = random_tree(quantizer)
    codes = jax.random.randint(jax.random.key(1), (2, 6, 3), 0, 8)
    partial = quantizer.partial_reconstructions(params, codes)
    assert partial.shape == (3, 2, 6, 5)
    for used in (1, 2, 3):
        np.testing.assert_allclose(quantizer.decode(params, codes[..., :used]), partial[used - 1], atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 0), (4, 4), ()])
def test_wrong_number_of_codes_is_refused(shape):
    quantizer = Qinco(**SMALL)
    with pytest.raises(ValueError, match="codebooks"):
        quantizer.decode(quantizer.init(jax.random.key(0)), jnp.zeros(shape, jnp.int32))


def test_residuals_are_the_target_minus_the_sum_so_far():
    quantizer = Qinco(**SMALL)
    params = random_tree(quantizer)
    z = jax.random.normal(jax.random.key(2), (6, 5))
    codes = jax.random.randint(jax.random.key(1), (6, 3), 0, 8)
    residuals = quantizer.residuals(params, z, codes)
    partial = quantizer.partial_reconstructions(params, codes)
    np.testing.assert_allclose(residuals[0], quantizer.standardise(params, z), atol=1e-6)
    np.testing.assert_allclose(residuals[2] * params["data_std"], z - partial[1], atol=1e-5)


def test_preselection_loss_reaches_only_its_codebooks_and_statistics_get_no_gradient():
    quantizer = Qinco(**SMALL)
    params = random_tree(quantizer)
    z = jax.random.normal(jax.random.key(2), (6, 5))
    codes = jax.random.randint(jax.random.key(1), (6, 3), 0, 8)

    def gradient(sizes):
        return jax.jit(jax.grad(lambda tree: sizes.training_loss(tree, z, codes)[0]))(params)

    whole, without = gradient(quantizer), gradient(dataclasses.replace(quantizer, preselect=0))
    assert not any(np.any(whole[name]) for name in FROZEN_LEAVES)
    assert np.any(whole["steps"].pop("preselection")) and not np.any(without["steps"].pop("preselection"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, without)


def test_schedule_ramps_and_falls_by_a_quarter_cosine():
    factor = quarter_cosine(jnp.arange(800), steps_per_epoch=10, ramp_epochs=3, cosine_epochs=60, floor=1e-6)
    np.testing.assert_allclose(factor[0], 0.1 / 3, rtol=1e-5)
    np.testing.assert_allclose(factor[29], 1.0)
    np.testing.assert_allclose(factor[329], np.cos(np.pi / 4), rtol=1e-5)
    np.testing.assert_allclose(factor[629:], 1e-6)
    assert (np.diff(factor[30:630]) < 0).all()
