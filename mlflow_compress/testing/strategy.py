"""The contract of a search strategy."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.records import Accuracy, DatasetRef, Interval, Recipe, Report, Trial, Variant
from mlflow_compress.search import (
    Evaluator,
    NullObserver,
    SearchInfo,
    SearchOptions,
    Space,
    Strategy,
    get_strategy,
    run_search,
    violations,
)
from mlflow_compress.search.strategies import as_strategy
from mlflow_compress.targets import load_target

__all__ = ["MadeUpEvaluator", "StrategyContract"]

_INFO = SearchInfo("contract", "models:/contract/1", "0" * 64, 1000, "any")
_ROWS = DatasetRef("rows", "0" * 64, 1000)
_OBJECTIVES = ("rate", "accuracy")


class MadeUpEvaluator(Evaluator):
    """An evaluator whose numbers are made up from the recipe's digest: trials cost nothing.

    Attributes:
        recipes: what was tried, in order.
    """

    def __init__(self, fails: Callable[[Recipe], bool] = lambda recipe: False) -> None:
        """Refuse the recipes that ``fails`` says."""
        self.recipes: list[Recipe] = []
        self._fails = fails

    def key(self, recipe: Recipe) -> str:
        """Return the recipe's digest."""
        return recipe.digest

    def evaluate(self, recipe: Recipe, key: str) -> tuple[Variant, str]:
        """Return a variant with a rate of 1 to 17 and a drop of 0 to 25 points."""
        self.recipes.append(recipe)
        if self._fails(recipe):
            raise TechniqueError("cannot be done")
        rate = 1 + int(recipe.digest[:4], 16) / 0x1000
        drop = int(recipe.digest[4:8], 16) / 0x40000
        interval = Interval(drop - 0.01, drop + 0.01)
        scored = Accuracy("accuracy", 0.98 - drop, 0.98, drop, interval, _ROWS)
        size = int(100_000 / rate)
        report = Report(size, 100_000, rate, 1.0, "0" * 64, accuracy=scored)
        return Variant(key, recipe, report), "path"


class _Earlier(NullObserver):
    """An observer that remembers an earlier search."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = {trial.key: trial for trial in trials}

    def finished_trials(self, keys: Sequence[str]) -> Mapping[str, Trial]:
        """Return those of the trials that are asked for."""
        return {key: self._trials[key] for key in keys if key in self._trials}


class StrategyContract:
    """Every strategy passes these cases.

    A subclass says which strategy, with one fixture::

        class TestEager(StrategyContract):
            @pytest.fixture
            def strategy(self):
                return Eager

    Attributes:
        space: recipes as they stand in a configuration, finitely many, on which the strategy
            works; each recipe of it can be validated where the tests run.
        name: the name under which the strategy is installed, or empty.
        trials: how many of them are tried in most cases.
    """

    space: ClassVar[Sequence[Any]] = (
        [
            {"prune": {"sparsity": {"choices": [0.5, 0.7, 0.9]}}},
            {"share": {"clusters": {"choices": [4, 8, 16]}}},
            {"pack": {"profile": {"choices": ["compact", "portable"]}}},
        ],
        [{"share": {"clusters": {"choices": [4, 8, 16, 32]}}}],
        [{"share": {"clusters": 16}}],
        [],
    )
    name: ClassVar[str] = ""
    trials: ClassVar[int] = 10

    @pytest.fixture
    def strategy(self) -> Callable[[], Strategy]:
        """What makes a new strategy: its class; the one fixture that a subclass must give."""
        raise NotImplementedError("give a fixture `strategy`")

    def search(
        self, strategy: Callable[[], Strategy], trials: int | None = None, **options: Any
    ) -> tuple[Trial, ...]:
        """Run a search over the space with made-up numbers."""
        return run_search(
            Space.parse(options.pop("space", self.space)),
            strategy(),
            options.pop("evaluator", None) or MadeUpEvaluator(),
            options.pop("observer", NullObserver()),
            _INFO,
            SearchOptions(trials=trials or self.trials, objectives=_OBJECTIVES, **options),
        )

    def test_it_is_found_by_its_name(self, strategy: Callable[[], Strategy]) -> None:
        """The entry point leads to what makes it."""
        if self.name:
            assert get_strategy(self.name).label == as_strategy(strategy()).label

    def test_the_same_seed_gives_the_same_trials(self, strategy: Callable[[], Strategy]) -> None:
        """In the same order."""
        assert _keys(self.search(strategy, seed=3)) == _keys(self.search(strategy, seed=3))

    def test_a_new_search_starts_anew(self, strategy: Callable[[], Strategy]) -> None:
        """Strategies share nothing: what one was told, another does not know."""
        first = self.search(strategy, seed=1)
        self.search(strategy, seed=2)
        assert _keys(self.search(strategy, seed=1)) == _keys(first)

    def test_no_recipe_is_tried_twice(self, strategy: Callable[[], Strategy]) -> None:
        """And a finite space comes to an end."""
        evaluator = MadeUpEvaluator()
        trials = self.search(strategy, 1000, evaluator=evaluator)
        space = Space.parse(self.space)
        recipes = {space.recipe(point).digest for point in space.points()}
        assert 0 < len(trials) == len(evaluator.recipes) <= len(recipes)
        assert len(set(_keys(trials))) == len(trials)
        assert set(_keys(trials)) <= recipes

    def test_a_search_that_was_stopped_goes_on(self, strategy: Callable[[], Strategy]) -> None:
        """As if it never had been: what was finished is reused."""
        whole = self.search(strategy)
        done = max(1, len(whole) - 2)
        evaluator = MadeUpEvaluator()
        again = self.search(strategy, observer=_Earlier(whole[:done]), evaluator=evaluator)
        assert _keys(again) == _keys(whole)
        assert [trial.state for trial in again[:done]] == ["reused"] * done
        assert len(evaluator.recipes) == len(whole) - done

    def test_failed_trials_do_not_stop_it(self, strategy: Callable[[], Strategy]) -> None:
        """Recipes that cannot be applied are part of every search."""
        first = self.search(strategy)[0].recipe
        evaluator = MadeUpEvaluator(fails=lambda recipe: recipe == first)
        states = [trial.state for trial in self.search(strategy, evaluator=evaluator)]
        assert states[0] == "failed"
        assert "complete" in states or len(states) == 1

    def test_limits_of_targets_are_taken(self, strategy: Callable[[], Strategy]) -> None:
        """Whether a strategy heeds them or not, it works where there are some."""
        target = load_target(
            {"name": "tiny", "limits": {"size": "20kB"}, "accuracy": {"max_drop": 0.05}}
        )
        trials = self.search(strategy, violations=lambda v: violations(v, [target]))
        assert trials

    def test_it_does_not_warn(self, strategy: Callable[[], Strategy]) -> None:
        """A warning on every search is one that nobody reads."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.search(strategy)

    def test_a_space_it_cannot_search_is_refused_in_one_line(
        self, strategy: Callable[[], Strategy]
    ) -> None:
        """A range without a step has infinitely many points: it draws from them or says no."""
        space = [[{"prune": {"sparsity": {"low": 0.5, "high": 0.9}}}]]
        try:
            trials = self.search(strategy, 3, space=space)
        except ConfigError as error:
            assert "\n" not in str(error)
            assert str(error).startswith("search.strategy")
        else:
            assert len(trials) == 3


def _keys(trials: Sequence[Trial]) -> list[str]:
    return [trial.key for trial in trials]
