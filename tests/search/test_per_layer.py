"""A value per layer: in a recipe, in a space, and from what each layer stands."""

import numpy as np
import pytest
from onnx import numpy_helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.search import Space
from mlflow_compress.techniques import Context, apply_recipe, normalize
from tests.tiny import tiny_model


def weights(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def applied(*steps, **context):
    return apply_recipe(normalize(tiny_model()), Recipe(steps), Context(**context))


def layers(technique, text, **more):
    return Step(f"{technique}_layers", {"layers": text, **more})


def test_each_layer_gets_its_own_sparsity():
    made = weights(applied(layers("prune", "w1=0.5, w2=0.25")).model)
    assert (made["w1"] == 0).mean() == pytest.approx(0.5)
    assert (made["w2"] == 0).mean() == pytest.approx(0.25)


def test_the_first_pattern_that_fits_counts_and_others_are_left_alone():
    source = weights(normalize(tiny_model()))
    made = weights(applied(layers("share", "w1=4, w*=8")).model)
    assert np.unique(made["w1"]).size == 4
    assert np.unique(made["w2"]).size == 8
    made = weights(applied(layers("share", "w2=8")).model)
    assert (made["w1"] == source["w1"]).all()


def test_a_layer_alone_comes_out_as_with_the_technique_itself():
    whole = weights(applied(Step("share", {"clusters": 4})).model)
    made = weights(applied(layers("share", "w1=4")).model)
    assert (made["w1"] == whole["w1"]).all()


def test_bits_per_layer_change_the_graph_and_name_where_tensors_come_from():
    result = applied(layers("weight_only", "w1=2, w2=8", options="method=rtn"))
    assert set(result.origin.values()) == {"w1", "w2"}
    made = weights(result.model)
    distinct = {
        old: np.unique(made[new]).size
        for new, old in result.origin.items()
        if made[new].size > 64 and made[new].dtype.kind in "iu"
    }
    assert distinct["w1"] <= 4 < distinct["w2"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (layers("prune", "w1=5"), r"prune.sparsity must be between 0 and 1, got 5"),
        (layers("prune", "w1"), "name=value pairs"),
        (layers("share", ""), "at least one layer"),
        (layers("share", "w1=4", options="clustres=2"), "did you mean 'clusters'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(step, message):
    from mlflow_compress.techniques import validate_recipe

    with pytest.raises(ConfigError, match=message):
        validate_recipe(Recipe((step,)))


def test_a_pattern_that_fits_no_layer_lists_what_there_is():
    with pytest.raises(TechniqueError, match=r"no layer is called 'w3'; there are w1, w2"):
        applied(layers("share", "w3=4"))


def test_options_that_need_calibration_say_so():
    with pytest.raises(TechniqueError, match="calibration"):
        applied(layers("prune", "w1=0.5", options="repair=true"))


def test_a_space_has_a_dimension_per_pattern():
    spec = [
        [
            {
                "prune": {
                    "sparsity": {
                        "layers": {"fc1*": {"choices": [0.8, 0.9]}, "conv?": {"low": 0, "high": 1}}
                    },
                    "repair": True,
                }
            },
            {"share": {"clusters": {"layers": {"fc1*": 4, "*": {"choices": [8, 16]}}}}},
        ]
    ]
    space = Space.parse(spec)
    assert space.size == 8
    recipe = space.recipe(next(iter(space.points())))
    assert recipe.steps == (
        Step("prune_layers", {"layers": "fc1*=0.8, conv?=0", "options": "repair=true"}),
        Step("share_layers", {"layers": "fc1*=4, *=8"}),
    )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"prune": {"scope": {"layers": {"*": "layer"}}}}, "prune.scope: takes no layers"),
        ({"prune": {"sparsity": {"layers": {}}}}, "layers must map patterns"),
        ({"prune": {"sparsity": {"layers": {"*": 5}}}}, "between 0 and 1, got 5"),
        ({"prune": {"sparsity": {"layers": {"*": {"low": 1}}}}}, "a range has low, high"),
    ],
)
def test_a_wrong_space_of_layers_is_refused(step, message):
    with pytest.raises(ConfigError, match=message):
        Space.parse([[step]])
