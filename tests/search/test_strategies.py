"""Strategies that learn: the same contract for all, and better than chance."""

import warnings
from statistics import mean

import pytest

from mlflow_compress.search import (
    Budget,
    NullObserver,
    SearchInfo,
    SearchOptions,
    Space,
    get_strategy,
    run_search,
    strategy_names,
    violations,
    volume,
)
from mlflow_compress.targets import load_target
from tests.search.made_up import SPACE, MadeUp

INFO = SearchInfo("t", "models:/t/1", "0" * 64, 1000, "any")
OBJECTIVES = ("rate", "accuracy")
DRAWING = ["random", "gp", "tpe", "nsga2", "evolution"]
LEARNING = DRAWING[1:]


def search(strategy, trials, *, spec=SPACE, seed=0, observer=None, evaluator=None, **options):
    return run_search(
        Space.parse(spec),
        get_strategy(strategy) if isinstance(strategy, str) else strategy,
        evaluator or MadeUp(),
        observer or NullObserver(),
        INFO,
        SearchOptions(trials=trials, objectives=OBJECTIVES, seed=seed, **options),
    )


def keys(trials):
    return [trial.key for trial in trials]


@pytest.fixture(autouse=True)
def _one_thread():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)


def test_all_strategies_are_installed():
    assert set(strategy_names()) >= {"manual", "grid", *DRAWING}


@pytest.mark.parametrize("strategy", DRAWING)
def test_the_same_seed_gives_the_same_trials_in_the_same_order(strategy):
    first, second = search(strategy, 15, seed=3), search(strategy, 15, seed=3)
    assert keys(first) == keys(second)
    assert keys(first) != keys(search(strategy, 10, seed=4))[:10]


@pytest.mark.parametrize("strategy", DRAWING)
def test_no_recipe_is_tried_twice_and_a_finite_space_ends_when_it_is_exhausted(strategy):
    spec = [
        [{"prune": {"sparsity": {"choices": [0.5, 0.7, 0.9]}}}, {"share": {"clusters": 16}}],
        [{"share": {"clusters": {"low": 14, "high": 18, "log": True}}}],
        [{"share": {"clusters": 16}}],
    ]
    evaluator = MadeUp()
    trials = search(strategy, 1000, spec=spec, evaluator=evaluator)
    assert len(set(keys(trials))) == len(trials) == len(evaluator.recipes) == 8


@pytest.mark.parametrize("strategy", DRAWING)
def test_no_strategy_warns(strategy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spec = [*SPACE, [{"prune": {"sparsity": 0.5, "exclude": {"choices": [[], ["a"]]}}}]]
        search(strategy, 15, spec=spec)


class Earlier(NullObserver):
    def __init__(self, trials):
        self.trials = {trial.key: trial for trial in trials}

    def finished_trials(self, keys):
        return {key: self.trials[key] for key in keys if key in self.trials}


@pytest.mark.parametrize("strategy", DRAWING)
def test_a_resumed_search_goes_on_as_if_it_had_never_stopped(strategy):
    whole = search(strategy, 15)
    evaluator = MadeUp()
    again = search(strategy, 15, observer=Earlier(whole[:12]), evaluator=evaluator)
    assert keys(again) == keys(whole)
    assert [trial.state for trial in again] == ["reused"] * 12 + ["complete"] * 3
    assert len(evaluator.recipes) == 3


@pytest.mark.parametrize("strategy", DRAWING)
def test_failed_trials_do_not_stop_a_strategy(strategy):
    evaluator = MadeUp(fails=lambda recipe: recipe.profile == "portable")
    trials = search(strategy, 18, evaluator=evaluator)
    states = {trial.state for trial in trials}
    assert len(set(keys(trials))) == 18
    assert states == {"complete", "failed"}


def volume_of(trials):
    return volume([t.variant for t in trials if t.variant is not None], OBJECTIVES)


@pytest.mark.parametrize(("strategy", "trials", "seeds"), [("gp", 24, 1), ("tpe", 40, 5)])
def test_learning_gets_a_larger_front_than_chance(strategy, trials, seeds):
    learnt = mean(volume_of(search(strategy, trials, seed=seed)) for seed in range(seeds))
    assert learnt > mean(volume_of(search("random", trials, seed=seed)) for seed in range(5))


def test_evolution_reaches_in_a_large_space_what_chance_does_not():
    """Thirty settings: drawn at random they always come to the same mean."""
    sparsity = {"choices": [0.0, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95]}
    spec = [[*({"prune": {"sparsity": sparsity}} for _ in range(30))]]

    class Layers(MadeUp):
        def numbers(self, recipe):
            kept = [1 - step.settings["sparsity"] for step in recipe.steps]
            weights = [1 + index for index in range(len(kept))]  # later layers are larger
            rate = sum(weights) / sum(w * k for w, k in zip(weights, kept, strict=True))
            return rate, 0.98 - sum(0.002 * (1 - k) ** 8 for k in kept)

    volumes = {
        name: volume_of(search(name, 80, spec=spec, evaluator=Layers()))
        for name in ("random", "evolution")
    }
    assert volumes["evolution"] > 1.3 * volumes["random"]


WIDE = [
    [
        {"prune": {"sparsity": {"low": 0.0, "high": 0.99, "step": 0.005}}},
        {"share": {"clusters": {"low": 4, "high": 128}}},
    ]
]


@pytest.mark.parametrize(("strategy", "seeds"), [("tpe", 5), ("evolution", 10)])
def test_limits_of_a_target_draw_the_search_to_what_can_be_promoted(strategy, seeds):
    target = load_target(
        {
            "name": "tiny",
            "limits": {"size": "1400B"},
            "accuracy": {"max_drop": 0.03, "confidence": None},
        }
    )

    def feasible(found):
        return sum(max(violations(t.variant, [target]).values()) <= 0 for t in found)

    def count(**options):
        found = [search(strategy, 40, spec=WIDE, seed=s, **options) for s in range(seeds)]
        return sum(map(feasible, found))

    assert count(violations=lambda v: violations(v, [target])) > count()


def test_gp_without_torch_says_what_to_install(monkeypatch):
    from mlflow_compress.base import modules
    from mlflow_compress.errors import MissingDependencyError

    monkeypatch.setattr(modules, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"mlflow-compress\[torch\]"):
        get_strategy("gp")


class Stranger:
    """A strategy of another package needs no more than two methods."""

    def points(self, space):
        return None

    def sampler(self, seed):
        from optuna.samplers import QMCSampler

        with warnings.catch_warnings(action="ignore"):
            return QMCSampler(seed=seed, warn_independent_sampling=False)


def test_a_stranger_s_sampler_works_the_same():
    trials = search(Stranger(), 12)
    assert len(set(keys(trials))) == 12


def test_the_search_ends_when_the_front_no_longer_improves():
    trials = search("evolution", 10_000, evaluator=MadeUp())
    assert len(trials) == 13 * 5 * 2 + 5 + 7 + 1
    budget = Budget(trials=10_000, patience=15)
    settled = run_search(
        Space.parse(SPACE), get_strategy("evolution"), MadeUp(), NullObserver(), INFO,
        SearchOptions(objectives=OBJECTIVES, budget=budget),
    )  # fmt: skip
    assert 15 < len(settled) < 100
    assert keys(settled) == keys(trials)[: len(settled)]
