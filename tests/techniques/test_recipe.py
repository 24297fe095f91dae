import numpy as np
import pytest
from onnx import TensorProto, helper

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import (
    Context,
    OrderError,
    apply_recipe,
    get,
    names,
    needs_calibration,
    validate_recipe,
)


def recipe(*steps, **kwargs) -> Recipe:
    return Recipe(tuple(Step(name, settings) for name, settings in steps), **kwargs)


def test_the_shipped_techniques_are_found_by_entry_point():
    assert {"prune", "quantize", "share"} <= set(names())
    assert get("prune").name == "prune"


def test_an_unknown_technique_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"technique 'prun' does not exist \(did you mean 'prune"):
        get("prun")


def test_an_unknown_setting_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"prune\.sparsty: no such setting \(did you mean 'spar"):
        validate_recipe(recipe(("prune", {"sparsty": 0.5})))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("prune", {"sparsity": 90}, r"prune\.sparsity .* between 0 and 1, got 90\.0 .*mean 0\.9"),
        ("prune", {"sparsity": "0.9"}, r"prune\.sparsity must be a number, got '0\.9'"),
        ("prune", {"sparsity": True}, r"prune\.sparsity must be a number, got True"),
        ("prune", {"scope": "layers"}, r"prune\.scope must be one of global, layer.*mean 'layer'"),
        ("prune", {"exclude": "fc"}, r"prune\.exclude must be a list"),
        ("share", {"clusters": 1}, r"share\.clusters must be between 2 and 4096, got 1"),
        ("share", {"clusters": 2.5}, r"share\.clusters must be a whole number"),
        ("quantize", {"method": "distribution"}, r"quantize\.method must be one of minmax, perc"),
        ("quantize", {"per_channel": 1}, r"quantize\.per_channel must be true or false"),
        ("quantize", {"rows": 0}, r"quantize\.rows must be at least 1, got 0"),
    ],
)
def test_a_bad_setting_is_refused_with_key_value_and_what_is_allowed(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        validate_recipe(recipe((name, settings)))


def test_equal_recipes_have_equal_digests():
    spelled = validate_recipe(recipe(("prune", {"sparsity": 1, "scope": "global", "exclude": []})))
    short = validate_recipe(recipe(("prune", {"sparsity": 1.0})))
    assert spelled.digest == short.digest
    assert validate_recipe(recipe(("prune", {}))).label == "prune 0.8"
    assert spelled.digest != validate_recipe(recipe(("prune", {"sparsity": 0.5}))).digest


def test_validating_twice_changes_nothing_and_keeps_the_profile():
    once = validate_recipe(recipe(("share", {"clusters": 8}), profile="portable"))
    assert validate_recipe(once) == once
    assert once.label == "share 8 · portable"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("quantize", "prune", "prune cannot come after quantize: put prune first"),
        ("share", "prune", "prune cannot come after share"),
        ("quantize", "share", "share cannot come after quantize"),
        ("share", "share", "share cannot come after share: it would undo it"),
    ],
)
def test_a_wrong_order_is_refused_by_name(first, second, message):
    with pytest.raises(OrderError, match=message) as caught:
        validate_recipe(recipe((first, {}), (second, {})))
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, TechniqueError)


def test_only_recipes_that_look_at_activations_need_calibration():
    assert not needs_calibration(recipe(("prune", {}), ("share", {})))
    assert needs_calibration(recipe(("prune", {}), ("quantize", {})))


def test_stages_hold_the_model_after_each_step_and_the_source_is_unchanged(convnet, rows, arrays):
    before = convnet.SerializeToString()
    result = apply_recipe(
        convnet, recipe(("prune", {"sparsity": 0.5}), ("share", {"clusters": 4})), Context()
    )
    assert [name for name, _ in result.stages] == ["source", "prune", "share"]
    assert convnet.SerializeToString() == before
    assert (arrays(result.stages[1][1])["f1.w"] == 0).mean() > 0.4
    assert result.model is result.stages[-1][1]
    assert result.origin == {}


def test_the_origin_leads_back_through_all_steps(convnet, rows, arrays):
    steps = recipe(("prune", {"sparsity": 0.5}), ("quantize", {}))
    result = apply_recipe(convnet, steps, Context(calibration=rows))
    assert result.origin["f1.w_quantized"] == "f1.w"
    assert result.origin["c2.w_scale"] == "c2.w"
    assert set(result.origin.values()) <= set(arrays(convnet))


def test_an_error_names_the_step_and_the_steps_before_it(convnet):
    steps = recipe(("prune", {"sparsity": 0.5}), ("quantize", {}))
    with pytest.raises(
        TechniqueError, match=r"step 2 'quantize' \(after prune\): needs calibratio"
    ):
        apply_recipe(convnet, steps, Context())


def test_the_same_recipe_gives_the_same_bytes(convnet, rows):
    steps = recipe(("prune", {"sparsity": 0.7}), ("share", {"clusters": 64}), ("quantize", {}))
    made = [apply_recipe(convnet, steps, Context(calibration=rows)).model for _ in range(2)]
    assert made[0].SerializeToString() == made[1].SerializeToString()


def test_a_model_without_inputs_is_said_to_have_none():
    weight = helper.make_tensor("w", TensorProto.FLOAT, [8, 8], np.arange(64.0))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["w", "w"], ["y"])],
        "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8, 8])], [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(TechniqueError, match=r"the model takes no inputs .*: fold computes it"):
        apply_recipe(model, Recipe((Step("quantize", {}),), "compact"), Context())
    made = apply_recipe(model, Recipe((Step("fold", {}),), "compact"), Context()).model
    assert not made.graph.node and made.graph.initializer[0].name == "y"
