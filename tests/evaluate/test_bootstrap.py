"""Bootstrap intervals: coverage, pairing, clips without a value."""

import math

import numpy as np
import pytest

from spresso_jax.evaluate.bootstrap import Interval, mean_interval, paired_interval, statistic_interval


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        interval = mean_interval(rng.normal(3.0, 2.0, 60), seed=trial, draws=400)
        covered += interval.low <= 3.0 <= interval.high
    assert 0.89 <= covered / 300 <= 0.99


def test_interval_agrees_with_the_normal_one_for_many_clips():
    values = np.random.default_rng(1).normal(size=2000)
    interval = mean_interval(values, draws=4000)
    half = 1.96 * values.std() / math.sqrt(values.size)
    assert interval.high - interval.mean == pytest.approx(half, rel=0.1)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.1)
    assert interval.median == np.median(values)


def test_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(2).normal(size=30)
    assert mean_interval(values, seed=5) == mean_interval(values, seed=5)
    assert mean_interval(values, seed=5) != mean_interval(values, seed=6)


def test_values_that_are_not_finite_are_left_out_and_counted():
    interval = mean_interval(np.array([1.0, np.nan, 3.0, np.inf]))
    assert (interval.mean, interval.count, interval.left_out) == (2.0, 2, 2)


def test_no_value_at_all_gives_nan_and_count_zero():
    interval = mean_interval(np.array([np.nan]))
    assert math.isnan(interval.mean) and interval.count == 0 and interval.left_out == 1
    assert not interval.clearly_positive and not interval.clearly_negative


def test_paired_interval_is_narrow_where_clips_differ_more_than_systems():
    rng = np.random.default_rng(3)
    clips = rng.normal(0.0, 10.0, 80)
    first, second = clips + 0.5 + rng.normal(0.0, 0.2, 80), clips + rng.normal(0.0, 0.2, 80)
    paired = paired_interval(first, second)
    assert paired.clearly_positive and paired.mean == pytest.approx(0.5, abs=0.1)
    assert not mean_interval(first).clearly_positive
    assert paired_interval(second, first).clearly_negative


def test_statistic_interval_of_the_mean_is_the_mean_interval_up_to_chance():
    values = np.random.default_rng(4).normal(size=100)
    general = statistic_interval(lambda rows: float(values[rows].mean()), 100)
    plain = mean_interval(values)
    assert general.mean == pytest.approx(plain.mean)
    assert general.low == pytest.approx(plain.low, abs=0.05)


def test_interval_survives_json():
    interval = mean_interval(np.array([1.0, 2.0, np.nan]))
    assert Interval.from_json(interval.to_json()) == interval
    assert mean_interval(np.array([np.nan])).to_json()["mean"] is None


@pytest.mark.parametrize("call", [
    lambda: mean_interval(np.zeros((2, 2))),
    lambda: mean_interval(np.zeros(3), draws=0),
    lambda: mean_interval(np.zeros(3), level=1.0),
    lambda: paired_interval(np.zeros(3), np.zeros(4)),
    lambda: statistic_interval(lambda rows: 0.0, 0),
])
def test_arguments_that_make_no_sense_are_refused(call):
    with pytest.raises(ValueError):
        call()


def test_two_sets_are_drawn_apart_or_together_when_paired():
    first, second = np.arange(30.0), np.arange(30.0) + 1.0
    apart = statistic_interval(lambda x, y: float(second[y].mean() - first[x].mean()), (30, 30), draws=200)
    together = statistic_interval(lambda x, y: float(second[y].mean() - first[x].mean()), 30, draws=200, paired=True)
    assert apart.mean == together.mean == 1.0
    assert together.high - together.low < 1e-9 < 1.0 < apart.high - apart.low


def test_centred_interval_holds_a_statistic_whose_draws_are_biased():
    """How many different clips there are: never as many in a draw as in the set."""
    values = np.random.default_rng(5).normal(size=80)

    def statistic(rows):
        return len(set(rows)) / 80 + float(values[rows].mean())

    plain, centred = (statistic_interval(statistic, 80, draws=300, centred=c) for c in (False, True))
    assert plain.high < plain.mean == centred.mean
    assert centred.low < centred.mean < centred.high
    assert centred.high - centred.low == pytest.approx(plain.high - plain.low)
