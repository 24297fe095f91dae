"""Walking a model from value to value gives what running it whole gives."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.techniques.fitting import walk as onnx_walk
from mlflow_compress.techniques.fitting.least_squares import Pair, layer_moments, refit_layer
from mlflow_compress.techniques.fitting.stream import Stream
from mlflow_compress.techniques.fitting.walk import Walk
from mlflow_compress.techniques.fitting.weights import LayerByLayer, refit_weights
from mlflow_compress.techniques.graph.layers import linear_layers
from mlflow_compress.techniques.graph.running import run, session
from mlflow_compress.techniques.graph.walk import clone, initializers, set_initializer

VALUES = ["h1", "h2", "joined", "chosen", "y"]


@pytest.fixture
def model():
    """Two layers, a skip over both, an If whose branches capture a value and a weight."""
    rng = np.random.default_rng(0)
    weights = {"w1": (6, 8), "w2": (8, 6), "w3": (6, 3)}

    def branch(name, operator):
        node = helper.make_node(operator, ["joined", "w1_scale"], [f"{name}_out"])
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [out])

    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("MatMul", ["r1", "w2"], ["h2"]),
        helper.make_node("Add", ["h2", "x"], ["joined"]),
        helper.make_node("If", ["flag"], ["chosen"], then_branch=branch("yes", "Mul"),
                         else_branch=branch("no", "Div")),
        helper.make_node("MatMul", ["chosen", "w3"], ["y"]),
    ]  # fmt: skip
    held = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    held += [
        numpy_helper.from_array(np.array(True), "flag"),
        numpy_helper.from_array(np.array(2.0, np.float32), "w1_scale"),
    ]
    graph = helper.make_graph(
        nodes,
        "walked",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        held,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def whole(model, name, batches):
    copy = clone(model)
    del copy.graph.output[:]
    copy.graph.output.add().name = name
    opened = session(copy)
    return [run(opened, [name], batch)[0] for batch in batches]


@pytest.fixture
def given():
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(4, 6)).astype(np.float32)} for _ in range(3)]


@pytest.mark.parametrize("room", [1 << 20, 300, 0])
def test_values_are_those_of_the_whole_model_however_little_is_kept(
    model, given, room, monkeypatch
):
    monkeypatch.setattr(onnx_walk, "_KEEP_BYTES", room)
    walk = Walk(model, given, VALUES)
    for name in VALUES:
        np.testing.assert_allclose(
            list(walk.values(name)), whole(model, name, given), rtol=1e-5, atol=1e-5
        )
        walk.leave(name)


def test_each_node_runs_once(model, given, monkeypatch):
    ran = []

    def counted(part):
        ran.extend(node.output[0] for node in part.graph.node)
        return session(part)

    monkeypatch.setattr(onnx_walk, "session", counted)
    walk = Walk(model, given, VALUES)
    for name in VALUES:
        list(walk.values(name))
    assert sorted(ran) == sorted(node.output[0] for node in model.graph.node)


def test_a_weight_that_changes_behind_the_walk_counts(model, given):
    walk = Walk(model, given, ["x", "r1", "chosen"])
    list(walk.values("x"))
    set_initializer(initializers(model)["w1"], np.ones((6, 8)))
    np.testing.assert_allclose(list(walk.values("r1")), whole(model, "r1", given), rtol=1e-5)


def test_what_is_not_final_is_computed_again(model, given):
    walk = Walk(model, given, ["h1", "h2"])
    before = list(walk.values("h1", keep=False))
    set_initializer(initializers(model)["w1"], np.ones((6, 8)))
    after = list(walk.values("h1"))
    assert not np.allclose(before, after)
    np.testing.assert_allclose(list(walk.values("h2")), whole(model, "h2", given), rtol=1e-5)


@pytest.mark.parametrize("zeros", [0.0, 0.5])
def test_moments_and_refits_are_those_of_running_from_the_inputs(model, zeros):
    rng = np.random.default_rng(2)
    inputs = {"x": rng.normal(size=(400, 6)).astype(np.float32)}
    slow, fast = clone(model), clone(model)
    layers = list(linear_layers(model))
    assert [layer.weight for layer in layers] == ["w1", "w2", "w3"]
    for changed in (slow, fast):
        for layer in layers:
            tensor = initializers(changed)[layer.weight]
            array = numpy_helper.to_array(tensor)
            mask = np.random.default_rng(3).random(array.shape) >= zeros
            set_initializer(tensor, np.round(array) * mask + 0.1 * mask)
    steps = LayerByLayer(model, fast, layers, inputs, rows=400, seed=0)
    pair = Pair.of(model, slow, inputs, 400)
    for layer in layers:
        expected = layer_moments(pair, layer, 0)
        made = steps.moments(layer)
        for one, other in zip(made, expected, strict=True):
            assert one.count == other.count
            np.testing.assert_allclose(one.gram, other.gram, rtol=1e-3, atol=1e-2)
            np.testing.assert_allclose(one.cross, other.cross, rtol=1e-3, atol=1e-2)
        array = numpy_helper.to_array(initializers(slow)[layer.weight])
        refit_layer(slow, layer, layer.matrix(array) != 0, *expected)
        refit_weights(fast, layer, *made)
        np.testing.assert_allclose(
            numpy_helper.to_array(initializers(fast)[layer.weight]),
            numpy_helper.to_array(initializers(slow)[layer.weight]),
            atol=1e-3,
        )


def test_outputs_of_one_node_are_asked_for_one_by_one(rng):
    """As YOLO's heads split what convolutions gave."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Split", ["h"], ["a", "b"], axis=1),
        helper.make_node("Relu", ["a"], ["ra"]),
        helper.make_node("MatMul", ["ra", "v"], ["p"]),
        helper.make_node("Relu", ["b"], ["rb"]),
        helper.make_node("MatMul", ["rb", "v2"], ["q"]),
        helper.make_node("Concat", ["p", "q", "a"], ["y"], axis=1),
    ]
    shapes = {"w": (6, 8), "v": (4, 4), "v2": (4, 4)}
    held = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 6])],
        [value("y", TensorProto.FLOAT, ["n", 12])],
        held,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    fed = [{"x": rng.normal(size=(5, 6)).astype(np.float32)} for _ in range(2)]
    stops = ["a", "y"]
    for given in (Walk(model, fed, stops), Stream(model, fed)):
        for name in stops:
            tapped = clone(model)
            del tapped.graph.output[:]
            tapped.graph.output.add().name = name
            for batch, got in zip(fed, given.values(name), strict=True):
                np.testing.assert_array_equal(got, run(session(tapped), [name], batch)[0])
