import math

import numpy as np
import pytest
from scipy import stats

from mlflow_compress.measure.bounds import (
    Bound,
    gamma_bound,
    mean_bound,
    mean_interval,
    ratio_bound,
    ratio_interval,
    rows_needed,
    share_bound,
)


def coverage(draw, mean, rows, level=0.95, times=400):
    rng = np.random.default_rng(rows)
    bounds = [mean_bound(draw(rng, rows), level=level).bound for _ in range(times)]
    return np.mean(np.array(bounds) >= mean)


def test_without_skew_the_bound_of_a_mean_is_students():
    values = np.array([-3.0, -1.0, 0.0, 1.0, 3.0]) + 10
    expected = 10 + stats.t.ppf(0.95, 4) * values.std(ddof=1) / math.sqrt(5)
    found = mean_bound(values - 10)
    assert found.bound == pytest.approx(expected - 10)
    assert (found.estimate, found.rows, found.side) == (0.0, 5, "upper")
    assert mean_bound(values - 10, side="lower").bound == pytest.approx(10 - expected)
    assert mean_interval(values - 10, level=0.9).high == pytest.approx(expected - 10)


def test_the_bound_of_a_mean_is_that_of_a_poisson_count_where_values_are_one_event_each():
    values = np.array([0.0] * 95 + [1.0] * 5)
    events = 0.05**2 * 100 / values.var(ddof=1)
    assert mean_bound(values).bound >= gamma_bound(0.05, events, 0.95)
    assert gamma_bound(0.05, 5, 0.95) == pytest.approx(0.105130, abs=1e-5)  # Garwood: 10.513 of 5


@pytest.mark.parametrize("rows", [8, 16, 64, 250])
def test_the_bound_of_a_skewed_mean_holds_as_often_as_it_says_and_students_does_not(rows):
    held = coverage(lambda rng, n: rng.exponential(size=n), 1.0, rows)
    assert held > (0.9 if rows == 8 else 0.92)
    rng = np.random.default_rng(0)
    skewed = [rng.lognormal(-0.5, 1, rows) for _ in range(400)]
    quantile = stats.t.ppf(0.95, rows - 1) / math.sqrt(rows)
    student = np.mean([v.mean() + quantile * v.std(ddof=1) >= 1 for v in skewed])
    assert np.mean([mean_bound(v).bound >= 1 for v in skewed]) > student + 0.015


def test_a_lower_bound_holds_too():
    rng = np.random.default_rng(1)
    low = [mean_bound(rng.exponential(size=32), side="lower").bound for _ in range(500)]
    assert 0.92 < np.mean(np.array(low) <= 1) < 0.99


def test_bounds_grow_with_the_level_and_shrink_with_rows():
    values = np.random.default_rng(0).gamma(0.5, size=64)
    at = [mean_bound(values, level=level).bound for level in (0.5, 0.8, 0.9, 0.95, 0.99)]
    assert at == sorted(at)
    assert mean_bound(np.tile(values, 4)).bound < mean_bound(values).bound
    ratios = [ratio_bound(values, values + 1, level=level).bound for level in (0.6, 0.9, 0.99)]
    assert ratios == sorted(ratios)


@pytest.mark.parametrize("bad", [[1.0], [], [1.0, math.nan, 2.0], [1.0, math.inf, 0.0]])
def test_what_cannot_be_bounded_never_passes(bad):
    values = np.array(bad)
    assert mean_bound(values).bound == math.inf
    assert mean_bound(values, side="lower").bound == -math.inf
    assert ratio_bound(values, np.ones_like(values)).bound == math.inf


def test_equal_values_are_their_own_lower_bound_and_more_than_that_above():
    assert mean_bound(np.zeros(16)).bound == 0
    assert mean_bound(np.full(16, 0.25), side="lower").bound == 0.25
    assert mean_bound(np.full(16, 0.25)).bound == pytest.approx(0.25)


def test_a_ratio_over_equal_denominators_is_a_mean():
    values = np.random.default_rng(0).normal(5, 1, 40)
    found = ratio_bound(values, np.full(40, 2.0))
    mean = mean_bound(values)
    assert found.estimate == pytest.approx(mean.estimate / 2)
    assert found.bound == pytest.approx(mean.bound / 2, rel=1e-6)
    interval = ratio_interval(values, np.full(40, 2.0), level=0.9)
    assert interval.high == pytest.approx(found.bound)
    assert interval.low == pytest.approx(mean_bound(values, side="lower").bound / 2, rel=1e-6)


def test_the_bound_of_a_ratio_holds():
    rng = np.random.default_rng(2)
    held = []
    for _ in range(200):
        base = rng.gamma(2, size=24)
        held.append(ratio_bound(base * 0.1 * rng.exponential(size=24), base).bound >= 0.1)
    assert np.mean(held) > 0.84


def test_no_edit_in_so_many_characters_is_the_bound_of_no_event():
    found = ratio_bound(np.zeros(16), np.full(16, 10.0), unit=1.0)
    assert found.estimate == 0
    assert found.bound == pytest.approx(-math.log(0.05) / 160)
    assert ratio_bound(np.zeros(16), np.full(16, 10.0)).bound == 0
    one = np.array([1.0] + [0.0] * 15)
    assert ratio_bound(one, np.full(16, 10.0), unit=1.0).bound > 4.7 / 160  # Garwood: 4.74 of 1


def test_a_ratio_over_nothing_is_unknown():
    assert ratio_bound(np.ones(4), np.zeros(4)).bound == math.inf


def test_a_ratio_whose_denominator_may_be_zero_is_unknown_above():
    top, base = np.array([1.0, 2.0, 1.5, 1.0]), np.array([0.0, 0.0, 1e-9, 50.0])
    assert ratio_bound(top, base).bound == math.inf
    assert ratio_bound(top * 1e-200, np.full(4, 1e-200)).bound < math.inf


def test_the_bound_of_a_share_is_that_of_clopper_and_pearson():
    expected = stats.binomtest(3, 40).proportion_ci(0.9, method="exact")
    assert share_bound(3, 40).bound == pytest.approx(expected.high)
    assert share_bound(3, 40, side="lower").bound == pytest.approx(expected.low)
    assert share_bound(4, 4).bound == 1
    assert share_bound(0, 4, side="lower").bound == 0


def test_rows_needed():
    bound = Bound(0.006, 0.014, 0.95, 100)
    assert rows_needed(bound, 0.014) == 0
    assert rows_needed(bound, 0.010) == 300  # half the distance, four times the rows
    assert rows_needed(bound, 0.006) is None
    assert rows_needed(Bound(0.001, math.inf, 0.95, 1), 0.01) is None
    assert rows_needed(Bound(0.0, 1.0, 0.95, 100), 1e-6) is None
    assert rows_needed(Bound(0.9, 0.8, 0.95, 50, "lower"), 0.85) == 150
