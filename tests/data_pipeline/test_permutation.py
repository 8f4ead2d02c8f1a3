"""The permutation of huge row numbers."""

import numpy as np
import pytest

from data_pipeline import permutation


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_every_epoch_visits_every_row_once(count):
    rows = permutation.rows(np.arange(3 * count), count, seed=7).reshape(3, count)
    for epoch in rows:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(count))
    if count > 100:
        assert np.mean(rows[0] == rows[1]) < 0.02


def test_a_position_does_not_depend_on_how_it_is_reached_and_the_seed_matters():
    whole = permutation.rows(np.arange(200), 77, seed=3)
    np.testing.assert_array_equal(permutation.rows(np.arange(100, 130), 77, seed=3), whole[100:130])
    assert not np.array_equal(permutation.rows(np.arange(200), 77, seed=4), whole)


def test_order_is_close_to_random():
    rows = permutation.rows(np.arange(10_000), 10_000, seed=0)
    assert abs(np.corrcoef(np.arange(10_000), rows)[0, 1]) < 0.03
    steps = np.abs(np.diff(rows))
    assert 3_100 < steps.mean() < 3_570  # a third of N for independent neighbours


def test_row_numbers_beyond_32_bits_work():
    rows = permutation.rows(np.arange(1000), 5_000_000_000, seed=1)
    assert rows.min() >= 0 and rows.max() < 5_000_000_000 and rows.max() > 2**32 and len(set(rows.tolist())) == 1000
