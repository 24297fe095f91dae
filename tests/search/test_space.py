"""Spaces: what a configuration may say, and the recipes that come out of it."""

import pytest

from mlflow_compress.errors import ConfigError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.search import Choice, Range, Space


def recipes_of(spec):
    space = Space.parse(spec)
    return [space.recipe(point) for point in space.points()]


def test_fixed_recipes_are_points_in_order():
    space = Space.parse([["share"], [{"prune": {"sparsity": 0.5}}], []])
    assert space.is_fixed
    assert space.size == 3
    labels = [space.recipe(point).label for point in space.points()]
    assert labels[0].startswith("share")
    assert labels[1].startswith("prune 0.5")
    assert labels[2] == "lossless"


def test_choices_multiply_and_the_last_runs_fastest():
    spec = [
        [
            {"prune": {"sparsity": {"choices": [0.5, 0.7]}}},
            {"share": {"clusters": {"low": 4, "high": 8, "step": 2}}},
            {"pack": {"profile": "portable"}},
        ]
    ]
    recipes = recipes_of(spec)
    drawn = [(r.steps[0].settings["sparsity"], r.steps[1].settings["clusters"]) for r in recipes]
    assert drawn == [(0.5, 4), (0.5, 6), (0.5, 8), (0.7, 4), (0.7, 6), (0.7, 8)]
    assert {r.profile for r in recipes} == {"portable"}


def test_profile_may_be_a_choice():
    recipes = recipes_of([["share", {"pack": {"profile": {"choices": ["compact", "portable"]}}}]])
    assert [recipe.profile for recipe in recipes] == ["compact", "portable"]


def test_defaults_written_out_give_the_same_digest():
    spelt, short = (
        recipes_of([[{"prune": {"sparsity": 0.5, "scope": "global"}}]]),
        recipes_of([[{"prune": {"sparsity": 0.5}}]]),
    )
    assert spelt[0].digest == short[0].digest


def test_float_range_without_step_is_infinite_and_grid_refuses_it():
    space = Space.parse([[{"prune": {"sparsity": {"low": 0.1, "high": 0.9}}}]])
    assert space.size == float("inf")
    with pytest.raises(ConfigError, match="no step"):
        list(space.points())


@pytest.mark.parametrize(
    ("low", "high", "step", "expected"),
    [(0.1, 0.3, 0.1, (0.1, 0.2, 0.3)), (1, 4, None, (1, 2, 3, 4)), (0.5, 0.55, 0.1, (0.5,))],
)
def test_range_expansion_includes_both_ends(low, high, step, expected):
    assert Range(low, high, step).expand() == expected


def test_choice_expands_to_its_values():
    assert Choice((1, 2)).expand() == (1, 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([], "no recipe given"),
        (["share"], r"recipes\[0\]: a recipe is a list of steps, got 'share'"),
        ([[{"share": {}, "prune": {}}]], r"recipes\[0\]\[0\]: a step is"),
        ([[{"shar": {}}]], "did you mean 'share'"),
        ([[{"prune": {"sparsty": 0.5}}]], "did you mean 'sparsity'"),
        ([[{"prune": {"sparsity": 5}}]], "between 0 and 1, got 5"),
        ([[{"prune": {"sparsity": {"low": 0.5, "high": 1.5}}}]], "between 0 and 1, got 1.5"),
        ([[{"prune": {"sparsity": {"low": 0.5}}}]], "a range has low, high"),
        ([[{"prune": {"sparsity": {"low": 0.9, "high": 0.5}}}]], "low <= high"),
        ([[{"prune": {"sparsity": {"low": 0, "high": 0.5, "log": True}}}]], "log range needs"),
        ([[{"prune": {"sparsity": {"choices": []}}}]], "not empty"),
        ([[{"pack": {"profile": "portable"}}, "share"]], "pack must be the last step"),
        ([["share", {"pack": {"profile": "zip"}}]], "must be compact or portable, got 'zip'"),
        ([["share", {"pack": {"level": 9}}]], "unknown setting 'level'"),
        ([["share", {"prune": {"sparsity": 0.5}}]], "prune cannot come after share"),
    ],
)
def test_a_wrong_space_is_refused_in_one_line(spec, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Space.parse(spec)
    assert "\n" not in str(caught.value)


def test_recipe_labels_read_well():
    recipe = Recipe((Step("prune", {"sparsity": 0.9}), Step("share", {"clusters": 16})), "portable")
    assert recipe.label == "prune 0.9 · share 16 · portable"
