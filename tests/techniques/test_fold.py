import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, get, normalize
from mlflow_compress.techniques.fold import FoldSettings
from mlflow_compress.techniques.fold.onnx import fold
from mlflow_compress.techniques.graph.names import _letters, shorten_names
from mlflow_compress.techniques.graph.running import session
from mlflow_compress.techniques.quantize import QuantizeSettings
from mlflow_compress.techniques.quantize.onnx import quantize
from tests.techniques.graphs import ROWS, model_of, node, typed, weights


@pytest.fixture
def bn(build, rng):
    """Conv - BatchNormalization - Relu, a weight computed from constants, and twin biases."""
    f32 = np.float32
    arrays = {
        "w": rng.normal(size=(6, 2, 3, 3)).astype(f32),
        "gamma": rng.normal(1, 0.1, 6).astype(f32),
        "beta": rng.normal(size=6).astype(f32),
        "mean": rng.normal(size=6).astype(f32),
        "var": rng.uniform(0.5, 2, 6).astype(f32),
        "v": rng.normal(size=(5, 6)).astype(f32),
        "two": np.array(2, f32),
        "b1": np.zeros(5, f32),
        "b2": np.zeros(5, f32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("BatchNormalization", ["a", "gamma", "beta", "mean", "var"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Mul", ["v", "two"], ["u"]),
        helper.make_node("Gemm", ["e", "u", "b1"], ["p"], transB=1),
        helper.make_node("Gemm", ["e", "u", "b2"], ["q"], transB=1),
        helper.make_node("Sub", ["p", "q"], ["r"]),
        helper.make_node("Add", ["p", "r"], ["y"]),
    ]
    return build(nodes, arrays, [("x", ["n", 2, 8, 8])], [("y", ["n", 5])])


@pytest.fixture
def images(rng):
    return {"x": rng.normal(size=(9, 2, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("calibrated", [True, False])
def test_batch_norm_constants_and_twins_go_and_outputs_stay(
    bn, images, evaluate, arrays, calibrated
):
    made = fold(bn, FoldSettings(), Context(images if calibrated else None))
    kinds = [node.op_type for node in made.model.graph.node]
    assert "BatchNormalization" not in kinds and "Mul" not in kinds
    left = arrays(made.model)
    assert sum(a.size for a in left.values()) == 6 * 18 + 6 + 30 + 5
    np.testing.assert_allclose(evaluate(made.model, images), evaluate(bn, images), atol=1e-5)
    new = {name for name in left if name not in arrays(bn)}
    folded = next(name for name, a in left.items() if a.shape == (6, 2, 3, 3))
    assert folded in ({"w"} | new)
    assert set(made.origin) <= new
    assert {entry.domain for entry in made.model.opset_import} == {""}


def test_each_part_can_be_switched_off(bn, images, arrays):
    constants = fold(bn, FoldSettings(duplicates=False), Context(images)).model
    assert "BatchNormalization" not in [node.op_type for node in constants.graph.node]
    twins = fold(bn, FoldSettings(constants=False), Context(images)).model
    assert "b2" not in arrays(twins)
    assert "BatchNormalization" in [node.op_type for node in twins.graph.node]


def test_a_folded_model_can_be_quantized_although_biases_are_shared(bn, images, evaluate):
    folded = fold(bn, FoldSettings(), Context(images)).model
    made = quantize(folded, QuantizeSettings(), Context(images)).model
    before, after = evaluate(bn, images), evaluate(made, images)
    assert np.sqrt(((before - after) ** 2).mean()) < 0.2 * before.std()


def test_a_model_that_would_grow_is_not_folded(build, rng):
    nodes = [
        helper.make_node("Expand", ["one", "shape"], ["big"]),
        helper.make_node("Add", ["x", "big"], ["y"]),
    ]
    arrays = {"one": np.ones((1, 1), np.float32), "shape": np.array([300, 300], np.int64)}
    model = build(nodes, arrays, [("x", [300, 300])], [("y", [300, 300])])
    made = fold(model, FoldSettings(), Context())
    assert made.notes and "would grow" in made.notes[0]
    assert [node.op_type for node in made.model.graph.node] == ["Expand", "Add"]


def test_it_is_found_by_name_and_needs_no_data():
    assert not get("fold").needs_calibration(FoldSettings())


def test_short_names_leave_inputs_outputs_weights_and_results(bn, rng):
    x = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}
    for index, one in enumerate(bn.graph.node):
        one.name = f"node {index}"
    plain = fold(bn, FoldSettings(), Context()).model
    made = fold(bn, FoldSettings(names=True), Context()).model
    assert len(made.SerializeToString()) < len(plain.SerializeToString())
    assert [t.name for t in made.graph.initializer] == [t.name for t in plain.graph.initializer]
    assert not any(node.name for node in made.graph.node)
    (expected,), (given,) = (
        session(model).run(["y"], x) for model in (plain, made)
    )  # fmt: skip
    np.testing.assert_array_equal(given, expected)


def test_short_names_reach_into_branches_and_avoid_what_is_taken(build, rng):
    def branch(name, operator):
        node = helper.make_node(operator, ["a long name"], [f"{name} out"])
        out = helper.make_tensor_value_info(f"{name} out", TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [out])

    nodes = [
        helper.make_node("Mul", ["x", "b"], ["a long name"], name="scale"),
        helper.make_node("If", ["flag"], ["another long name"], then_branch=branch("yes", "Neg"),
                         else_branch=branch("no", "Abs")),
        helper.make_node("Add", ["another long name", "a"], ["y"]),
    ]  # fmt: skip
    arrays = {"a": np.ones(2, np.float32), "b": rng.normal(size=2).astype(np.float32)}
    model = build(nodes, arrays | {"flag": np.array(True)}, [("x", ["n", 2])], [("y", ["n", 2])])
    made = shorten_names(model)
    onnx.checker.check_model(made, full_check=True)
    assert [node.output[0] for node in made.graph.node] == ["c", "d", "y"]
    x = {"x": rng.normal(size=(3, 2)).astype(np.float32)}
    np.testing.assert_array_equal(session(made).run(None, x)[0], session(model).run(None, x)[0])


def test_letters_count_on_after_z():
    assert [_letters(n) for n in (0, 25, 26, 51, 52, 701, 702)] == [
        "a", "z", "aa", "az", "ba", "zz", "aaa",
    ]  # fmt: skip


@pytest.fixture
def unbent(build, rng):
    """Two Conv and two Gemm, with a Relu only before the last; all with biases."""
    f32 = np.float32
    arrays = {
        "w1": rng.normal(0, 0.3, (4, 1, 3, 3)).astype(f32),
        "b1": rng.normal(size=4).astype(f32),
        "w2": rng.normal(0, 0.3, (6, 4, 3, 3)).astype(f32),
        "w3": rng.normal(0, 0.3, (5, 24)).astype(f32),
        "b3": rng.normal(size=5).astype(f32),
        "w4": rng.normal(0, 0.3, (3, 5)).astype(f32),
        "b4": rng.normal(size=3).astype(f32),
    }
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["b"], **window),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["d"], **window),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "w3", "b3"], ["f"], transB=1),
        helper.make_node("Relu", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "w4", "b4"], ["y"], transB=1),
    ]
    return build(nodes, arrays, [("x", ["n", 1, 14, 14])], [("y", ["n", 3])])


def test_a_bias_goes_on_to_the_next_layer_as_far_as_it_can(unbent, rng, evaluate, arrays):
    x = {"x": rng.normal(size=(3, 1, 14, 14)).astype(np.float32)}
    made = fold(unbent, FoldSettings(constants=False, biases=True), Context(x)).model
    assert set(arrays(made)) == {"w1", "w2", "w3", "b3", "w4", "b4"}
    assert [len(node.input) for node in made.graph.node if node.op_type == "Conv"] == [2, 2]
    np.testing.assert_allclose(evaluate(made, x), evaluate(unbent, x), atol=1e-5)
    kept = fold(unbent, FoldSettings(constants=False), Context(x)).model
    np.testing.assert_array_equal(arrays(kept)["b1"], arrays(unbent)["b1"])


def test_a_bias_stays_before_a_padded_layer(unbent, rng, evaluate, arrays):
    unbent.graph.node[2].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    for tensor in unbent.graph.initializer:
        if tensor.name == "w3":
            wide = rng.normal(0, 0.3, (5, 54)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide, "w3"))
    made = fold(unbent, FoldSettings(constants=False, biases=True), Context()).model
    np.testing.assert_array_equal(arrays(made)["b1"], arrays(unbent)["b1"])


def half_net():
    return typed(model_of(
        [node("Gemm", "x w b", "h"), node("Relu", "h", "r"), node("Gemm", "r v", "y")],
        {"w": weights(16, 32), "b": weights(32), "v": weights(32, 8)},
    ), TensorProto.FLOAT16)  # fmt: skip


def test_folding_half_numbers_leaves_weights_where_techniques_find_them():
    """onnxruntime computes them in float32 and would hide each weight behind a Cast."""
    recipe = Recipe((Step("fold", {}), Step("prune", {"sparsity": 0.5})), "compact")
    rows = {"x": ROWS.astype(np.float16)}
    made = apply_recipe(normalize(half_net()), recipe, Context(calibration=rows))
    assert not any(n.op_type == "Cast" for n in made.model.graph.node)
    assert "constants were not folded: onnxruntime casts" in made.notes[0]
    with pytest.raises(TechniqueError, match=r"weight 'w' is float16 \(export the model in float"):
        recipe = Recipe((Step("fold", {}), Step("weight_only", {})), "compact")
        apply_recipe(normalize(half_net()), recipe, Context(calibration=rows))
