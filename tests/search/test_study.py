"""The study: each recipe once, reuse, failures, and records that never stay open."""

import pytest

from mlflow_compress.errors import ConfigError, DataError, TechniqueError, UnreachableError
from mlflow_compress.records import (
    Accuracy,
    DatasetRef,
    Interval,
    Report,
    Trial,
    Variant,
)
from mlflow_compress.search import (
    Evaluator,
    Observer,
    SearchInfo,
    SearchOptions,
    Space,
    front,
    get_strategy,
    run_search,
)

INFO = SearchInfo("t", "models:/t/1", "0" * 64, 1000, "random")
ROWS = DatasetRef("rows", "0" * 64, 10)


def variant_of(recipe, key="k", rate=2.0, accuracy=0.9):
    scored = Accuracy("accuracy", accuracy, 0.95, 0.95 - accuracy, Interval(0, 0.1), ROWS)
    report = Report(int(1000 / rate), 1000, rate, 1.0, "0" * 64, accuracy=scored)
    return Variant(key, recipe, report)


class FakeEvaluator(Evaluator):
    """Scores a recipe from its settings, and counts how often it is asked."""

    def __init__(self, fail_on=(), error=TechniqueError):
        self.recipes, self.fail_on, self.error = [], fail_on, error

    def key(self, recipe):
        return recipe.digest

    def evaluate(self, recipe, key):
        self.recipes.append(recipe)
        sparsity = recipe.steps[0].settings["sparsity"]
        if sparsity in self.fail_on:
            raise self.error(f"cannot prune\n to {sparsity}")
        return variant_of(recipe, key, rate=1 / (1 - sparsity), accuracy=1 - sparsity / 10), "p"


class Recorder(Observer):
    """An observer that remembers every call."""

    def __init__(self, earlier=(), fail_at=None):
        self.calls, self.earlier, self.fail_at = [], {t.key: t for t in earlier}, fail_at

    def finished_trials(self, keys):
        return {key: self.earlier[key] for key in keys if key in self.earlier}

    def search_started(self, info):
        self.calls.append("start")

    def trial_started(self, number, recipe, key):
        self.calls.append(number)
        if number == self.fail_at:
            raise KeyboardInterrupt

    def trial_finished(self, trial):
        return trial

    def search_finished(self, trials, status):
        self.calls.append((status, len(trials)))


SPARSITIES = [0.1, 0.2, 0.3, 0.4]
SPACE = [[{"prune": {"sparsity": {"choices": SPARSITIES}}}]]


def search(
    strategy="grid", spec=SPACE, trials=100, evaluator=None, observer=None, seed=0, **options
):
    evaluator, observer = evaluator or FakeEvaluator(), observer or Recorder()
    done = run_search(
        Space.parse(spec),
        get_strategy(strategy),
        evaluator,
        observer,
        INFO,
        SearchOptions(trials=trials, objectives=("rate", "accuracy"), **options, seed=seed),
    )
    return done, evaluator, observer


def test_grid_tries_every_point_once_in_order():
    done, evaluator, observer = search()
    assert [t.recipe.steps[0].settings["sparsity"] for t in done] == SPARSITIES
    assert len(evaluator.recipes) == 4
    assert observer.calls == ["start", 0, 1, 2, 3, ("FINISHED", 4)]


def test_random_exhausts_a_finite_space_without_repeating():
    done, evaluator, _ = search("random")
    assert sorted(t.recipe.steps[0].settings["sparsity"] for t in done) == SPARSITIES
    assert len(evaluator.recipes) == 4


def test_random_draws_the_same_recipes_for_the_same_seed():
    spec = [[{"prune": {"sparsity": {"low": 0.1, "high": 0.9}}}]]
    first, second, other = (search("random", spec, 5, seed=s)[0] for s in (1, 1, 2))
    assert [t.key for t in first] == [t.key for t in second]
    assert [t.key for t in first] != [t.key for t in other]
    assert all(0.1 <= t.recipe.steps[0].settings["sparsity"] <= 0.9 for t in first)


def test_equal_recipes_of_two_alternatives_are_tried_once():
    spec = [[{"prune": {"sparsity": 0.1}}], [{"prune": {"sparsity": 0.1}}]]
    done, evaluator, _ = search("manual", spec)
    assert len(done) == len(evaluator.recipes) == 1


def test_trials_limits_how_many_are_tried():
    assert len(search("grid", trials=2)[0]) == 2


def test_manual_refuses_ranges():
    with pytest.raises(ConfigError, match="has a range"):
        search("manual")


def test_finished_trials_are_reused_and_a_search_of_only_those_leaves_no_record():
    done, _, _ = search()
    again, evaluator, observer = search(observer=Recorder(earlier=done))
    assert [t.state for t in again] == ["reused"] * 4
    assert evaluator.recipes == []
    assert observer.calls == []


def test_unfinished_trials_are_run_when_others_are_reused():
    done, _, _ = search()
    again, evaluator, observer = search(observer=Recorder(earlier=done[:3]))
    assert [t.state for t in again] == ["reused"] * 3 + ["complete"]
    assert len(evaluator.recipes) == 1
    assert observer.calls == ["start", 3, ("FINISHED", 4)]


@pytest.mark.parametrize("error", [TechniqueError, RuntimeError, SystemExit])
def test_a_failed_trial_is_recorded_in_one_line_and_the_search_goes_on(error):
    done, _, _ = search(evaluator=FakeEvaluator(fail_on=(0.2,), error=error))
    assert [t.state for t in done] == ["complete", "failed", "complete", "complete"]
    assert "cannot prune to 0.2" in done[1].error
    assert done[1].variant is None


@pytest.mark.parametrize("window", [1, 4])
def test_ctrl_c_closes_the_record_as_killed(window):
    observer = Recorder()
    interrupted = FakeEvaluator(fail_on=(0.3,), error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        search(observer=observer, evaluator=interrupted, window=window)
    assert observer.calls == ["start", 0, 1, 2, ("KILLED", 2)]


def test_what_the_observer_raises_ends_the_search():
    observer = Recorder(fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        search(observer=observer)
    assert observer.calls[:4] == ["start", 0, 1, 2]
    assert observer.calls[-1][0] == "KILLED"


def test_strategy_names_are_checked():
    with pytest.raises(ConfigError, match="did you mean 'random'"):
        get_strategy("randon")


def trial(number, rate, accuracy):
    recipe = Space.parse([[{"prune": {"sparsity": 0.5}}]]).recipe({})
    made = variant_of(recipe, f"k{number}", rate, accuracy)
    return Trial(number, made.key, recipe, "complete", variant=made)


def test_front_keeps_what_nothing_beats():
    trials = [trial(0, 10, 0.9), trial(1, 20, 0.8), trial(2, 9, 0.9), trial(3, 20, 0.8)]
    trials.append(Trial(4, "k4", trials[0].recipe, "failed", error="no"))
    assert [t.number for t in front(trials, ("rate", "accuracy"))] == [0, 1]


def test_a_missing_objective_is_never_on_the_front():
    assert front([trial(0, 10, float("nan"))], ("rate", "accuracy")) == ()
    assert front([trial(0, 10, 0.9)], ("rate", "latency")) == ()


class Gone(Recorder):
    """An observer whose store no longer answers when the record is to be closed."""

    def search_finished(self, trials, status):
        self.calls.append((status, len(trials)))
        raise UnreachableError("the store")


@pytest.mark.parametrize(
    ("cause", "status"), [(KeyboardInterrupt(), "KILLED"), (DataError("no rows"), "FAILED")]
)
def test_what_ended_a_search_is_raised_though_its_record_cannot_be_closed(cause, status):
    def fail(trial):
        raise cause

    observer = Gone()
    with pytest.raises(type(cause)):
        search(observer=observer, on_trial=fail)
    assert observer.calls[-1][0] == status


def test_a_record_that_cannot_be_closed_after_all_went_well_is_said():
    with pytest.raises(UnreachableError, match="the store"):
        search(observer=Gone())
