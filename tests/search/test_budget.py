"""Budgets, the front's volume, and what samplers are told."""

import math

import numpy as np
import pytest

from mlflow_compress.records import Trial
from mlflow_compress.search import Budget, hypervolume, violations, volume
from mlflow_compress.search.goals import told_values
from mlflow_compress.targets import load_target
from tests.judged import fidelity as fidelity_of

NEVER = ("rate", "accuracy")


def trial(number, variant):
    return Trial(number, variant.key, variant.recipe, "complete", variant=variant)


def test_trials_bound_a_search(make_variant):
    watch = Budget(trials=2).start(NEVER)
    assert watch.ended() == ""
    watch.add(trial(0, make_variant()))
    assert watch.ended() == ""
    watch.add(trial(1, make_variant()))
    assert watch.ended() == "2 trials are done"


def test_time_bounds_a_search():
    now = [100.0]
    watch = Budget(seconds=60).start(NEVER, clock=lambda: now[0])
    now[0] = 159.0
    assert watch.ended() == ""
    now[0] = 160.0
    assert watch.ended() == "60 seconds have passed"


def test_patience_waits_for_a_front_and_ends_when_it_settles(make_variant):
    watch = Budget(patience=3).start(NEVER)
    useless = make_variant(accuracy=0.5)
    for number in range(5):
        watch.add(trial(number, useless))
        assert watch.ended() == ""
    watch.add(trial(5, make_variant(size=20_000)))
    for number in (6, 7):
        watch.add(trial(number, make_variant(size=30_000)))
        assert watch.ended() == ""
    watch.add(trial(8, make_variant(size=30_000)))
    assert "3 trials" in watch.ended()
    watch.add(trial(9, make_variant(size=10_000)))
    assert watch.ended() == ""


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], 0),
        ([(2, 3)], 6),
        ([(2, 3), (3, 2)], 8),
        ([(2, 3), (3, 2), (1, 1), (2, 3)], 8),
        ([(-1, 5), (2, 3)], 6),
        ([(1, 1, 3), (3, 1, 1), (1, 3, 1)], 7),
        ([(4.0,), (2.0,)], 4),
    ],
)
def test_hypervolume_of_known_fronts(points, expected):
    assert hypervolume(points) == pytest.approx(expected)


def test_hypervolume_agrees_with_counting():
    rng = np.random.default_rng(0)
    points = rng.random((12, 3))
    grid = rng.random((100_000, 3))
    inside = (points[:, None] >= grid[None]).all(axis=2).any(axis=0).mean()
    assert hypervolume([tuple(p) for p in points]) == pytest.approx(inside, abs=0.01)


def test_what_loses_more_than_ten_points_has_no_volume(make_variant):
    objectives = ("rate", "accuracy")
    assert volume([make_variant(accuracy=0.84)], objectives) == 0
    assert volume([make_variant(accuracy=0.9)], objectives) == pytest.approx(math.log10(50) * 0.05)
    worse, bad = (told_values(make_variant(accuracy=a), objectives) for a in (0.2, 0.8))
    assert worse[1] < bad[1] < 0, "samplers still hear which of two bad ones is better"


def test_volume_counts_agreement_and_speed(make_variant):
    variant = make_variant(
        ratio=(0.4, 0.6), fidelity=fidelity_of(0.95, 0.01, make_variant().report.accuracy.dataset)
    )
    expected = math.log10(50) * 0.05 * math.log10(2 / 0.5)
    assert volume([variant], ("rate", "agreement", "latency")) == pytest.approx(expected)
    assert volume([make_variant(latency=False)], ("rate", "latency")) == 0


def target(**keys):
    accuracy = {"max_drop": 0.02, "confidence": None}
    return load_target({"name": "device", "accuracy": accuracy, **keys})


def test_limits_become_violations_relative_to_each(make_variant):
    device = target(limits={"size": "10kB", "latency_p50": "2ms", "memory": "1MB"})
    found = violations(make_variant(size=20_000, accuracy=0.92, memory_bytes=3_000_000), [device])
    assert found["size"] == pytest.approx(math.log(2))
    assert found["accuracy_drop"] == pytest.approx(0.1)
    assert found["memory"] == pytest.approx(math.log(3))
    assert found["latency_p50"] < 0
    assert violations(make_variant(accuracy=math.nan), [device])["accuracy_drop"] > 0


def test_a_violation_counts_from_the_worse_end_of_the_interval(make_variant):
    sure = load_target({"name": "device", "accuracy": {"max_drop": 0.02}})
    variant = make_variant(accuracy=0.92)
    interval = variant.report.accuracy.drop_interval
    found = violations(variant, [sure])["accuracy_drop"]
    assert found == pytest.approx((interval.high - 0.02) / 0.1)
    assert found > violations(variant, [target()])["accuracy_drop"]


def test_of_several_targets_the_nearest_counts(make_variant):
    small, large = target(limits={"size": "1kB"}), target(name="large", limits={"size": "1MB"})
    found = violations(make_variant(), [small, large])
    assert list(found.values()) == [pytest.approx(-0.2)]
    assert violations(make_variant(), []) == {}
