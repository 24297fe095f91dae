"""MnasNet's reward as what a search goes for."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mlflow_compress.config.compress import parse_config
from mlflow_compress.errors import ConfigError
from mlflow_compress.jobs.prepare import make_plan
from mlflow_compress.measure import Dataset
from mlflow_compress.search import (
    Budget,
    Evaluator,
    NullObserver,
    Reward,
    SearchInfo,
    SearchOptions,
    Space,
    front,
    get_strategy,
    objective_values,
    run_search,
)
from mlflow_compress.search.goals import told_values
from mlflow_compress.targets import load_target


def target(weight=-0.07, latency="10ms", place="local"):
    return load_target(
        {
            "name": "pi",
            "measured_on": place,
            "objective": "reward",
            "reward": {"latency": latency, "weight": weight},
        }
    )


def timed(variant, accuracy, ms, device="local"):
    """Return a variant with an accuracy and a latency."""
    report = variant.report
    (latency,) = report.latency
    return replace(
        variant,
        report=replace(
            report,
            accuracy=replace(report.accuracy, value=accuracy),
            latency=(replace(latency, p50=ms, device=device, threads=1),),
        ),
    )


def test_doubled_latency_has_to_buy_five_percent(make_variant):
    goal = Reward(target())
    one = timed(make_variant(), 0.9, 10.0)
    assert goal(one) == pytest.approx(0.9)
    assert goal(timed(one, 0.9 * 2**0.07, 20.0)) == pytest.approx(0.9)
    assert goal(timed(one, 0.94, 20.0)) < goal(one) < goal(timed(one, 0.95, 20.0))
    assert pytest.approx(0.05, abs=0.001) == 2**0.07 - 1


def test_latency_counts_where_the_target_is_measured(make_variant):
    goal = Reward(target(place="ssh://pi@box"))
    here = timed(make_variant(), 0.9, 10.0)
    assert math.isnan(goal(here))
    assert math.isnan(told_values(here, [goal])[0])
    there = timed(here, 0.9, 10.0, device="ssh://pi@box")
    assert goal(there) == pytest.approx(0.9)


def test_strategies_are_told_the_order_of_rewards(make_variant):
    goal = Reward(target(weight=-0.2))
    made = [
        timed(make_variant(), accuracy, ms)
        for accuracy, ms in ((0.95, 40.0), (0.9, 10.0), (0.5, 9.0), (0.94, 5.0))
    ]
    told = [told_values(one, [goal])[0] for one in made]
    rewards = [objective_values(one, [goal])[0] for one in made]
    assert sorted(range(4), key=told.__getitem__) == sorted(range(4), key=rewards.__getitem__)


SPACE = Space.parse([[{"prune": {"sparsity": {"low": 0.0, "high": 0.9, "step": 0.1}}},
                      {"share": {"clusters": {"low": 2, "high": 16, "step": 1}}}]])  # fmt: skip


class MadeUp(Evaluator):
    """Accuracy and latency that follow from the settings; fewest clusters are the fastest."""

    def __init__(self, variant, folder):
        self.variant, self.work_dir = variant, folder

    def key(self, recipe):
        return recipe.digest

    def evaluate(self, recipe, key):
        sparsity = recipe.steps[0].settings["sparsity"]
        clusters = recipe.steps[1].settings["clusters"]
        accuracy = 0.9 + 0.004 * (clusters - 9) - 0.3 * max(0.0, sparsity - 0.5)
        made = timed(self.variant, accuracy, (2.0 + clusters) * (1.1 - sparsity))
        return replace(made, key=key, recipe=recipe), ""


def best(made, goal):
    return max(goal(trial.variant) for trial in made if trial.variant is not None)


@pytest.mark.parametrize("strategy", ["gp", "tpe", "evolution", "nsga2", "random"])
def test_every_strategy_searches_for_the_reward(strategy, make_variant, tmp_path):
    goal = Reward(target(weight=-0.3))
    evaluator = MadeUp(make_variant(), tmp_path)
    made = run_search(
        SPACE, get_strategy(strategy), evaluator, NullObserver(),
        SearchInfo("rewards", "made-up", "0" * 64, 1, strategy),
        SearchOptions(objectives=[goal], budget=Budget(45), seed=1),
    )  # fmt: skip
    every = [goal(evaluator.evaluate(SPACE.recipe(p), "")[0]) for p in SPACE.points()]
    # among the best fiftieth of 150 recipes; by chance, a third of 45 draws is needed for that
    share = {"random": 0.9}.get(strategy, 0.985)
    assert sum(best(made, goal) >= value for value in every) >= share * len(every)
    (chosen,) = front(made, [goal])
    assert goal(chosen.variant) == best(made, goal)


REWARDED = {
    "name": "pi",
    "measured_on": "local",
    "objective": "reward",
    "reward": {"latency": "5ms"},
}


def objectives_of(targets, **search):
    rows = Dataset({"x": np.zeros((4, 2), np.float32)}, np.zeros(4, np.int64), "rows")
    config = {
        "source": "net.onnx",
        "data": {"evaluation": "rows.npz"},
        "targets": targets,
        "search": search,
    }
    return make_plan(parse_config(config), {"evaluation": rows}).objectives


def test_targets_with_rewards_make_them_the_objectives():
    assert objectives_of([REWARDED]) == (Reward(load_target(REWARDED)),)
    hard = {"name": "hard", "measured_on": "local", "objective": "accuracy"}
    assert objectives_of([REWARDED, hard]) == ("rate", "accuracy")
    assert objectives_of([REWARDED, hard], objectives=["rate", "reward"]) == (
        "rate", Reward(load_target(REWARDED)),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="reward needs a target with objective: reward"):
        objectives_of([hard], objectives=["reward"])
    with pytest.raises(ConfigError, match=r"reward needs search\.latency_rounds above 0"):
        objectives_of([REWARDED], latency_rounds=0)
