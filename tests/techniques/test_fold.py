import numpy as np
import pytest
from onnx import helper

from mlflow_compress.techniques import Context, get
from mlflow_compress.techniques.fold import FoldSettings
from mlflow_compress.techniques.onnx_fold import fold
from mlflow_compress.techniques.onnx_quantize import quantize
from mlflow_compress.techniques.quantize import QuantizeSettings


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
