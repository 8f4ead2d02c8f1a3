"""Beam search: independence of rows, every width, prefixes, ties, usage."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.quantizer import assign
from spresso_jax.quantizer.qinco import Qinco

SMALL = {"codebooks": 4, "codewords": 16, "hidden_width": 6, "blocks": 1, "preselect": 4, "beam": 4, "dimension": 5}


def made(seed=0, **changes):
    """A quantizer with shrinking random codebooks and no zero weight, and rows for it."""
    quantizer = Qinco(**{**SMALL, **changes})
    leaves, shape = jax.tree.flatten(quantizer.init(jax.random.key(seed)))
    rng = np.random.default_rng(seed)
    params = shape.unflatten([leaf + 0.05 * rng.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves])
    # One scale for all coordinates: the least error in standardised space is then the least error of the vectors.
    params["data_std"] = np.full(quantizer.dimension, 1.3, np.float32)
    for name in ("codebook", "preselection"):
        if name in params.get("steps", {}):
            shrink = 0.5 ** np.arange(1, quantizer.codebooks)[:, None, None] / quantizer.codeword_gain
            params["steps"][name] = params["steps"][name] * shrink
    return quantizer, params, rng.standard_normal((70, quantizer.dimension)).astype(np.float32)


def error(quantizer, params, z, codes):
    return np.square(np.asarray(quantizer.decode(params, codes)) - z).sum(-1)


def test_one_row_has_the_codes_it_has_in_any_batch():
    quantizer, params, z = made()
    codes = assign.encode(quantizer, params, z)
    assert codes.shape == (70, 4) and codes.dtype == jnp.int32
    for row in (0, 33, 69):
        np.testing.assert_array_equal(assign.encode(quantizer, params, z[row]), codes[row])
    np.testing.assert_array_equal(assign.encode(quantizer, params, z.reshape(2, 35, 5)).reshape(70, 4), codes)
    order = np.random.default_rng(1).permutation(70)
    np.testing.assert_array_equal(assign.encode(quantizer, params, z[order], tile=16), codes[order])
    np.testing.assert_array_equal(jax.jit(lambda z: assign.encode(quantizer, params, z, tile=16))(z), codes)
    assert assign.encode(quantizer, params, z[:0]).shape == (0, 4)


def test_error_falls_with_every_further_codebook():
    quantizer, params, z = made()
    _, reconstructions = assign.encode_all_prefixes(quantizer, params, z)
    errors = np.square(np.asarray(reconstructions) - z).sum(-1).mean(-1)
    assert (np.diff(errors) < 0).all(), errors


def test_all_prefixes_equal_separate_searches_and_beat_prefixes_of_the_longest_code():
    quantizer, params, z = made()
    prefixes, reconstructions = assign.encode_all_prefixes(quantizer, params, z)
    assert prefixes.shape == (4, 70, 4) and reconstructions.shape == (4, 70, 5)
    for used in range(1, 5):
        codes = assign.encode(quantizer, params, z, used)
        np.testing.assert_array_equal(prefixes[used - 1, :, :used], codes)
        assert (prefixes[used - 1, :, used:] == -1).all()
        np.testing.assert_allclose(reconstructions[used - 1], quantizer.decode(params, codes), atol=1e-5)
        cut = error(quantizer, params, z, prefixes[-1][:, :used])
        assert (error(quantizer, params, z, codes) <= cut + 1e-5).all()


@pytest.mark.parametrize(
    "changes, widths",
    [
        ({"preselect": 0}, {}),
        ({}, {"preselect": 16}),
        ({}, {"preselect": 99, "beam": 99}),
        ({}, {"preselect": 0, "beam": 1}),
        ({"blocks": 0}, {}),
        ({"codebooks": 1}, {}),
        ({"codebooks": 1, "preselect": 0, "beam": 1}, {}),
        ({"embedding_width": 7}, {"beam": 9}),
        ({"outer_skip": False}, {}),
    ],
)
def test_every_width_gives_codes_that_decode_to_what_the_search_saw(changes, widths):
    quantizer, params, z = made(**changes)
    prefixes, reconstructions = assign.encode_all_prefixes(quantizer, params, z, **widths)
    codes = assign.encode(quantizer, params, z, **widths)
    np.testing.assert_array_equal(prefixes[-1], codes)
    assert codes.min() >= 0 and codes.max() < quantizer.codewords
    np.testing.assert_allclose(reconstructions[-1], quantizer.decode(params, codes), atol=1e-5)


def test_full_beam_and_no_preselection_find_the_best_of_all_codes():
    quantizer, params, z = made(codebooks=2, codewords=8)
    every = jnp.asarray(list(itertools.product(range(8), repeat=2)))
    all_errors = np.square(np.asarray(quantizer.decode(params, every))[None] - z[:, None]).sum(-1)
    codes = assign.encode(quantizer, params, z, preselect=0, beam=8)
    np.testing.assert_allclose(error(quantizer, params, z, codes), all_errors.min(-1), rtol=1e-4)


@pytest.mark.parametrize("candidate_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("preselect", [0, 6])
def test_of_equal_codewords_the_first_is_chosen(preselect, candidate_dtype):
    quantizer, params, z = made()
    double = lambda table: jnp.concatenate([table[..., :8, :], table[..., :8, :]], axis=-2)  # noqa: E731
    tables = {name: double(params["steps"][name]) for name in ("codebook", "preselection")}
    params = {**params, "first_codebook": double(params["first_codebook"]), "steps": {**params["steps"], **tables}}
    codes = assign.encode(quantizer, params, z, preselect=preselect, candidate_dtype=candidate_dtype)
    assert codes.max() < 8


def test_bfloat16_runs_the_network_and_float32_decides():
    quantizer, params, z = made(preselect=8, beam=2)
    codes = {}
    for name in ("float32", "bfloat16"):
        encode = jax.jit(lambda z, name=name: assign.encode(quantizer, params, z, candidate_dtype=name))
        assert ("bf16[" in str(jax.make_jaxpr(encode)(z))) == (name == "bfloat16")
        codes[name] = np.asarray(encode(z))
    assert (codes["bfloat16"] == codes["float32"]).all(-1).mean() > 0.9


def test_a_wider_beam_is_better_on_average():
    quantizer, params, z = made()
    errors = [error(quantizer, params, z, assign.encode(quantizer, params, z, beam=beam)).mean() for beam in (1, 4, 16)]
    assert errors[0] > errors[1] >= errors[2]


@pytest.mark.parametrize("length, count", [(64, 1), (128, 2), (1024, 8), (4096, 16), (96, 40)])
def test_grouped_selection_equals_a_stable_sort_even_with_ties(length, count):
    values = np.random.default_rng(length).integers(0, 40, (50, length)).astype(np.float32)
    expected = np.argsort(values, axis=-1, kind="stable")[:, :count]
    np.testing.assert_array_equal(assign.smallest(jnp.asarray(values), count), expected)


@pytest.mark.parametrize(
    "changes, arguments, word",
    [
        ({}, {"codebooks": 5}, "codebooks"),
        ({}, {"codebooks": 0}, "codebooks"),
        ({}, {"beam": 0}, "beam"),
        ({}, {"candidate_dtype": "float16"}, "bfloat16"),
        ({"preselect": 0}, {"preselect": 4}, "pre-selection"),
    ],
)
def test_impossible_search_is_refused_with_a_remedy(changes, arguments, word):
    quantizer, params, z = made(**changes)
    with pytest.raises(ValueError, match=word):
        assign.encode(quantizer, params, z, **arguments)


def test_wrong_dimension_is_refused():
    quantizer, params, z = made()
    with pytest.raises(ValueError, match="dimension 5"):
        assign.encode(quantizer, params, z[:, :4])


def test_usage_counts_and_entropy():
    codes = jnp.asarray([[0, 3], [1, 3], [0, 3], [1, 3]])
    counts = assign.usage_counts(codes, 4)
    np.testing.assert_array_equal(counts, [[2, 2, 0, 0], [0, 0, 0, 4]])
    found = assign.usage_statistics(counts)
    np.testing.assert_allclose(found["entropy_bits"], [1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(found["perplexity"], [2.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(found["used_fraction"], [0.5, 0.25])
    assert not np.any(assign.usage_statistics(jnp.zeros((1, 4)))["perplexity"])
