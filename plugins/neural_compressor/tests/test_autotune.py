"""The library's tuning drives a search: smallest weights first, until one is good enough."""

import pytest

from mlflow_compress.errors import ConfigError
from mlflow_compress.records import Accuracy, Interval, Report, Variant
from mlflow_compress.search import Space, get_strategy, violations
from mlflow_compress.targets import load_target
from mlflow_compress.testing import StrategyContract
from mlflow_compress.testing.strategy import MadeUpEvaluator

SPACE = [[{"neural_compressor": {"bits": {"choices": [8, 3, 2, 4]}}}]]
DROPS = {2: 0.12, 3: 0.03, 4: 0.006, 8: 0.0}


class ByBits(MadeUpEvaluator):
    """The fewer bits, the more is lost."""

    def evaluate(self, recipe, key):
        made, path = super().evaluate(recipe, key)
        bits = recipe.steps[0].settings["bits"]
        drop = DROPS[bits]
        rows = made.report.accuracy.dataset
        scored = Accuracy("accuracy", 0.98 - drop, 0.98, drop, Interval(drop, drop), rows)
        size = 100 * bits
        report = Report(size, 3200, 3200 / size, 1.0, "0" * 64, accuracy=scored)
        return Variant(key, recipe, report), path


def bits_tried(target=None, trials=50, space=SPACE):
    options = {}
    if target is not None:
        options["violations"] = lambda variant: violations(variant, [load_target(target)])
    search = StrategyContract().search
    found = search(
        lambda: get_strategy("autotune"), trials, evaluator=ByBits(), space=space, **options
    )
    return [trial.recipe.steps[0].settings["bits"] for trial in found]


@pytest.mark.parametrize(("drop", "tried"), [(0.2, [2]), (0.05, [2, 3]), (0.001, [2, 3, 4, 8])])
def test_it_ends_with_the_smallest_that_a_target_takes(drop, tried):
    assert bits_tried({"name": "device", "accuracy": {"max_drop": drop}}) == tried


def test_limits_on_size_count_too():
    target = {"name": "device", "limits": {"size": "250B"}, "accuracy": {"max_drop": 0.05}}
    assert bits_tried(target) == [2, 3, 4, 8]  # none is small enough and good enough


def test_without_limits_it_ends_within_one_point():
    assert bits_tried() == [2, 3, 4]


def test_the_budget_ends_it_too():
    assert bits_tried({"name": "device", "accuracy": {"max_drop": 0.001}}, trials=2) == [2, 3]


def test_recipes_without_the_library_are_refused():
    with pytest.raises(ConfigError, match=r"search\.strategy autotune tunes neural_compressor and"):
        get_strategy("autotune").points(Space.parse([[{"prune": {"sparsity": 0.5}}]]))
