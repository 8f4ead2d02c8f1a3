"""Counts of codes, and what ideal entropy coders spend, on codes whose statistics are known."""

import numpy as np
import pytest

from spresso_jax.evaluate import code_statistics
from spresso_jax.evaluate.code_statistics import CodeCounts, entropy_bits, expected_unused, ideal_coder_bits


def counted(codes, codewords, blocks=3):
    counts = CodeCounts(codes.shape[1], codewords)
    for block in np.array_split(codes, blocks):
        counts.add(block)
    return counts


def test_counts_of_blocks_are_those_of_the_whole(monkeypatch):
    monkeypatch.setattr(code_statistics, "_MERGE_AT", 50)
    codes = np.random.default_rng(0).integers(0, 7, (500, 3))
    counts = counted(codes, 7, blocks=40)
    assert counts.rows == 500
    np.testing.assert_array_equal(counts.usage, [np.bincount(column, minlength=7) for column in codes.T])
    before, code, count = counts.pairs(2)
    table = np.zeros((7, 7), int)
    table[before, code] = count
    expected = np.zeros((7, 7), int)
    np.add.at(expected, (codes[:, 1], codes[:, 2]), 1)
    np.testing.assert_array_equal(table, expected)


def test_entropy_of_known_counts():
    assert entropy_bits([5, 5, 5, 5]) == pytest.approx(2.0)
    assert entropy_bits([3, 0, 0]) == 0.0 and entropy_bits([0, 0]) == 0.0
    assert entropy_bits([1, 3]) == pytest.approx(0.811278, abs=1e-6)
    assert expected_unused(2, 1) == 1.0 and expected_unused(4, 2) == pytest.approx(2.25)


def test_dependence_on_the_previous_code_is_found_and_nothing_else():
    """Step 0 has probabilities 1/2, 1/4, 1/8, 1/8; step 1 is a function of it; step 2 flips a coin between two."""
    rng = np.random.default_rng(0)
    first = rng.choice(4, 40_000, p=[0.5, 0.25, 0.125, 0.125])
    second = np.array([2, 0, 3, 1])[first]
    third = (second + rng.integers(0, 2, len(first))) % 4
    codes = np.stack([first, second, third], axis=1)
    found = ideal_coder_bits(counted(codes[:20_000], 4), counted(codes[20_000:], 4))
    assert found["order0"][:2] == pytest.approx([1.75, 1.75], abs=0.02)
    assert found["order1"] == pytest.approx([1.75, 0.0, 1.0], abs=0.02)


def test_independent_codes_save_nothing_though_every_pair_is_rare():
    """K^2 = 65,536 pairs and 2,000 vectors: the entropy of the counts would promise 5 bits, there are none to save."""
    codes = np.random.default_rng(0).integers(0, 256, (4000, 2))
    train, held_out = counted(codes[:2000], 256), counted(codes[2000:], 256)
    _, _, count = train.pairs(1)
    optimistic = entropy_bits(count) - entropy_bits(train.usage[0])
    assert optimistic < 4
    found = ideal_coder_bits(train, held_out)
    for order in ("order0", "order1"):
        assert found[order] == pytest.approx([8.0, 8.0], abs=0.1)


def test_a_codeword_that_was_never_seen_costs_bits_and_not_infinity():
    train, held_out = np.zeros((50, 2), int), np.array([[0, 0], [3, 3]])
    found = ideal_coder_bits(counted(train, 4), counted(held_out, 4))
    assert np.isfinite(found["order0"]).all() and min(found["order0"]) > 2
    for wrong in (np.zeros((0, 2), int), np.zeros((5, 1), int)):
        with pytest.raises(ValueError, match="cannot compare"):
            ideal_coder_bits(counted(train, 4), counted(wrong, 4, blocks=1))
