"""What docs/extending.md shows keeps the contracts."""

import itertools
from importlib.metadata import EntryPoint

import optuna
import pytest

from mlflow_compress.base import plugins
from mlflow_compress.errors import ConfigError
from mlflow_compress.search.moves import mutate
from mlflow_compress.search.observer import WINDOW
from mlflow_compress.testing import StrategyContract, TargetContract


class Eager:
    def points(self, space):
        return None

    def sampler(self, seed):
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=3)


class Coarse:
    def points(self, space):
        return itertools.islice(space.points(), 0, None, 2)


class Greedy:
    """Starts anywhere, changes the best so far, and ends after eight trials."""

    def points(self, space):
        return None

    def propose(self, space, history, rng):
        if len(history) == 8:
            return None
        tried = [one for one in history if one.values is not None]
        if not tried:
            points = list(space.points())
            return points[int(rng.integers(len(points)))]
        return mutate(space, max(tried, key=lambda one: sum(one.values)).point, rng)


class TestEager(StrategyContract):
    @pytest.fixture
    def strategy(self):
        return Eager


class TestCoarse(StrategyContract):
    @pytest.fixture
    def strategy(self):
        return Coarse


class TestGreedy(StrategyContract):
    @pytest.fixture
    def strategy(self):
        return Greedy

    def test_a_strategy_may_end_the_search(self, strategy):
        # it knows of eight when it ends, and three more are on their way
        assert len(self.search(strategy, 1000)) == 8 + WINDOW - 1

    def test_a_strategy_may_ask_for_all_outcomes_before_it_goes_on(self, strategy, monkeypatch):
        monkeypatch.setattr(strategy, "window", 1, raising=False)
        assert len(self.search(strategy, 1000)) == 8


KIOSK = {
    "description": "The kiosk in the hall: Raspberry Pi 4, 2 GB, two cores for the model",
    "extends": "raspberry-pi-4",
    "execution": {"threads": 2},
    "limits": {"size": "1MB", "latency_p50": "8ms"},
    "accuracy": {"max_drop": 0.005},
}


class TestKiosk(TargetContract):
    name = "kiosk"

    @pytest.fixture
    def target(self):
        return "kiosk"

    @pytest.fixture(autouse=True)
    def _installed(self, monkeypatch):
        point = EntryPoint("kiosk", f"{__name__}:KIOSK", "mlflow_compress.targets")
        monkeypatch.setattr(EntryPoint, "load", lambda self: KIOSK)
        monkeypatch.setattr(plugins, "_points", lambda group: {"kiosk": [point]})


def test_a_strategy_that_cannot_choose_is_refused_by_name():
    class Idle:
        def points(self, space):
            return None

    with pytest.raises(ConfigError, match=r"strategy Idle has no way to choose"):
        StrategyContract().search(Idle)


def test_a_strategy_needs_no_more_than_what_chooses():
    class Sampling:
        def sampler(self, seed):
            return optuna.samplers.RandomSampler(seed=seed)

    assert len(StrategyContract().search(Sampling)) > 1
