"""The search for a target's subnet, on made-up accuracies and latencies."""

import numpy as np
import pytest

from mlflow_compress.nas import (
    Evolution,
    LatencyTable,
    Predictor,
    Space,
    TargetSearch,
    shrink_path,
    specialize,
    spread,
)
from mlflow_compress.targets import load_target
from tests.nas.conftest import SPACE as PLAIN

SPACE = Space.model_validate(PLAIN)
TABLE = LatencyTable("here", 1, {})


def weights(subnet):
    return SPACE.spec(subnet, 1, 12, 4).weights


def score(subnet):
    """Larger is better, less and less so; the first stage matters most."""
    first, second = subnet.stages
    effort = sum(k * w for k, w in first) * 2 + sum(k * w for k, w in second)
    return 1 - np.exp(-effort / 20) / 2 - (0.02 if subnet.resolution == 8 else 0)


def milliseconds(subnet):
    return SPACE.spec(subnet, 1, 12, 4).multiply_adds / 1e5


def target(**keys):
    return load_target({"name": "pi", "measured_on": "local", "objective": "accuracy", **keys})


def search(wanted, measure=milliseconds):
    times = lambda subnets: [measure(subnet) for subnet in subnets]  # noqa: E731
    return TargetSearch(wanted, SPACE, score, times, weights, score(SPACE.subnet()))


def predictor():
    some = spread(SPACE, 60, 0)
    return Predictor.fit(SPACE, some, [score(subnet) for subnet in some])


def find(wanted, measure=milliseconds, **options):
    made = Evolution(40, 10, **options)
    return specialize(search(wanted, measure), predictor(), TABLE, milliseconds, made, 4)


def test_predictor_ranks_subnets_that_it_has_not_seen():
    others = [s for s in spread(SPACE, 160, 1) if s not in set(spread(SPACE, 60, 0))]
    made = predictor().predict(others)
    ranks = [np.argsort(np.argsort(v)) for v in (made, [score(s) for s in others])]
    assert np.corrcoef(*ranks)[0, 1] > 0.95
    # and knows beforehand how well, from each of its own left out in turn
    assert predictor().agreement == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=0.05)


def test_predictor_that_learnt_chance_says_so():
    some = spread(SPACE, 60, 0)
    made = Predictor.fit(SPACE, some, np.random.default_rng(0).normal(size=60).tolist())
    assert abs(made.agreement) < 0.4


@pytest.mark.parametrize("limit", [0.6, 1.0, 1.8])
def test_best_subnet_within_a_latency(limit):
    best = find(target(limits={"latency_p50": f"{limit}ms"}))[0]
    assert best.ms <= limit
    within = [s for s in spread(SPACE, SPACE.size, 2) if milliseconds(s) <= limit]
    assert best.accuracy >= max(map(score, within)) - 0.01


def test_objectives_of_targets_are_what_counts():
    smallest = find(target(objective="size", accuracy={"min": 0.8}))[0]
    assert smallest.accuracy >= 0.8
    assert smallest.weights < 1.2 * min(
        weights(s) for s in spread(SPACE, SPACE.size, 2) if score(s) >= 0.8
    )
    rewarded = target(objective="reward", reward={"latency": "1ms", "weight": -0.3})
    best = find(rewarded)[0]
    value = best.accuracy * best.ms**-0.3
    assert value >= 0.98 * max(
        score(s) * milliseconds(s) ** -0.3 for s in spread(SPACE, SPACE.size, 2)
    )


def test_finalists_that_are_slower_than_predicted_do_not_win():
    wanted = target(limits={"latency_p50": "1ms"})
    best = find(wanted, measure=lambda subnet: 1.04 * milliseconds(subnet) + 0.01)[0]
    assert best.ms <= 1


def test_nearest_miss_is_told_when_nothing_fits():
    wanted = target(limits={"latency_p50": "0.001ms"})
    made = search(wanted)
    best = find(wanted)[0]
    assert made.excess(best) > 0
    assert best.subnet == SPACE.smallest()


def test_size_limit_counts_what_a_weight_takes():
    wanted = target(limits={"size": "8kB"})
    best = find(wanted)[0]
    assert 4 * best.weights <= 8000


def test_shrink_goes_in_order_until_the_limit_is_met():
    steps = shrink_path(search(target(limits={"latency_p50": "0.4ms"})))
    assert [step.kind for step in steps][:3] == ["", "resolution", "kernel"]
    kinds = [step.kind for step in steps[1:]]
    assert kinds == sorted(kinds, key=["resolution", "kernel", "depth", "width"].index)
    assert steps[-1].found.ms <= 0.4 < steps[-2].found.ms
    other = shrink_path(search(target(limits={"latency_p50": "0.4ms"})), ("depth", "width"))
    assert {step.kind for step in other[1:]} <= {"depth", "width"}
    assert other[0].found.subnet == SPACE.subnet()


def test_shrink_takes_back_what_breaks_the_accuracy():
    least = score(SPACE.subnet()) - 0.01
    wanted = target(limits={"latency_p50": "0.4ms"}, accuracy={"min": least})
    steps = shrink_path(search(wanted))
    assert [(s.kind, s.kept) for s in steps[1:2]] == [("resolution", False)]
    for step in steps[2:]:
        assert step.found.subnet.resolution == 12
        assert step.kept == (step.found.accuracy >= least)
