"""A space that is cut, and points that come first, from what each layer bears."""

import numpy as np
import pytest

from mlflow_compress import measure
from mlflow_compress.records import Output
from mlflow_compress.search import (
    NullObserver,
    SearchInfo,
    SearchOptions,
    Space,
    bind,
    get_strategy,
    levels_of,
    run_search,
    seed_points,
    sensitivity,
    shrink,
)
from mlflow_compress.targets import load_target
from mlflow_compress.techniques import Context, normalize
from tests.search.made_up import MadeUp
from tests.tiny import CLASSES, tiny_model

SPEC = [
    [
        {"prune": {"sparsity": {"layers": {"w1": {"choices": [0.99, 0.1, 0.5]}, "w2": 0.2}}}},
        {"share": {"clusters": {"layers": {"w*": {"low": 2, "high": 64}}}}},
    ]
]
W1, SHARED = "r0.0.prune.sparsity[w1]", "r0.1.share.clusters[w*]"
INFO = SearchInfo("t", "models:/t/1", "0" * 64, 1000, "any")


@pytest.fixture(scope="module")
def measured():
    model = normalize(tiny_model())
    x = np.random.default_rng(1).normal(size=(400, 16)).astype(np.float32)
    space = Space.parse(SPEC)
    bounds = bind(space, model)
    rows = measure.Dataset({"x": x})
    levels = levels_of(bounds)
    return space, bounds, sensitivity(model, rows, Context(), by_layer=levels, outputs=CLASSES)


def target(name="device", **accuracy):
    return load_target({"name": name, "accuracy": accuracy})


def test_values_of_the_space_are_measured_on_the_layers_they_are_for(measured):
    tried = {(e.layer, e.technique, e.level) for e in measured[2] if e.technique == "prune"}
    assert tried == {("w1", "prune", v) for v in (0.99, 0.1, 0.5)}
    assert {e.layer for e in measured[2] if e.technique == "share"} == {"w1", "w2"}
    assert len({e.level for e in measured[2] if e.technique == "share"}) == 5


def test_hopeless_values_go_and_what_may_do_stays(measured):
    space, bounds, effects = measured
    smaller, notes = shrink(space, bounds, effects, [target(min_agreement=0.9)], 400)
    left = smaller.dimensions_of(0)
    assert left[W1].values == (0.1, 0.5) or left[W1].values == (0.1,)
    assert left[SHARED].low > 2
    assert left[SHARED].high == 64
    assert len(notes) == 2
    assert smaller.recipe({"recipe": 0, W1: 0.1, SHARED: 64}).steps
    assert all(point[W1] != 0.99 for point in smaller.points())


def test_few_rows_cut_less_than_many():
    model, space = normalize(tiny_model()), Space.parse(SPEC)
    bounds = bind(space, model)
    sizes = []
    for rows in (8, 2000):
        x = np.random.default_rng(1).normal(size=(rows, 16)).astype(np.float32)
        effects = sensitivity(
            model,
            measure.Dataset({"x": x}),
            Context(),
            by_layer=levels_of(bounds),
            outputs=CLASSES,
        )
        limits = [target(min_agreement=0.9)]
        sizes.append(shrink(space, bounds, effects, limits, rows)[0].size)
    assert sizes[0] > sizes[1]


def test_values_cut_a_space_as_classes_do(measured):
    """Nothing here has a class: what a layer bears is the error of what comes out."""
    space, bounds, _ = measured
    x = np.random.default_rng(1).normal(size=(400, 16)).astype(np.float32)
    effects = sensitivity(
        normalize(tiny_model()),
        measure.Dataset({"x": x}),
        Context(),
        by_layer=levels_of(bounds),
        outputs=[Output("y", "values", axis=1)],
    )
    left = shrink(space, bounds, effects, [target(max_error=0.05)], 400)[0].dimensions_of(0)
    assert 0.99 not in left[W1].values
    assert left[SHARED].low > 2
    assert seed_points(space, bounds, effects)


def test_what_labels_judge_is_not_cut_by_the_default_of_its_kind(measured):
    space, bounds, effects = measured
    limits = [target(max_drop=0.9)]
    assert shrink(space, bounds, effects, limits, 400, "f1", ()) == (space, ())
    assert shrink(space, bounds, effects, limits, 400, "f1") != (space, ())


def test_the_gentlest_value_stays_whatever_the_limit(measured):
    space, bounds, effects = measured
    left = shrink(space, bounds, effects, [target(max_kl=1e-12)], 400)[0].dimensions_of(0)
    assert left[W1].values == (0.1,)
    assert left[SHARED].high == 64


@pytest.mark.parametrize(
    "targets", [[], [target(min_agreement=0.99), target("other", min_agreement=0.01)]]
)
def test_what_some_target_takes_stays(measured, targets):
    space, bounds, effects = measured
    assert shrink(space, bounds, effects, targets, 400) == (space, ())


@pytest.mark.parametrize("strategy", ["random", "tpe", "nsga2", "evolution"])
def test_budgets_become_the_first_points_of_a_strategy_that_draws(measured, strategy):
    space, bounds, effects = measured
    points = seed_points(space, bounds, effects)
    assert 2 <= len(points) <= 4
    assert points[0][SHARED] < points[-1][SHARED], "from the strongest to the gentlest"
    searches = [
        run_search(
            space, get_strategy(strategy), MadeUp(), NullObserver(), INFO,
            SearchOptions(("rate", "accuracy"), trials=8, seed=3, initial=points),
        )
        for _ in range(2)
    ]  # fmt: skip
    keys = [[trial.key for trial in trials] for trials in searches]
    assert keys[0] == keys[1]
    assert keys[0][: len(points)] == [space.recipe(point).digest for point in points]
    assert len(set(keys[0])) == 8


def test_a_grid_goes_its_own_way(measured):
    space, bounds, effects = measured
    points = seed_points(space, bounds, effects)
    grid = [
        [trial.key for trial in run_search(
            space, get_strategy("grid"), MadeUp(), NullObserver(), INFO, SearchOptions(trials=5,
            objectives=("rate", "accuracy"), initial=initial),
        )]
        for initial in ((), points)
    ]  # fmt: skip
    assert grid[0] == grid[1]


def test_points_of_a_space_that_was_cut_lie_in_it(measured):
    space, bounds, effects = measured
    smaller, _ = shrink(space, bounds, effects, [target(min_agreement=0.9)], 400)
    dimensions = smaller.dimensions_of(0)
    points = seed_points(smaller, bind(smaller, normalize(tiny_model())), effects)
    assert points
    for point in points:
        assert point[W1] in dimensions[W1].values
        assert point[SHARED] in dimensions[SHARED].expand()
