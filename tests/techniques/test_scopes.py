"""Values of nested graphs keep apart, whatever they are called."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.techniques import normalize
from mlflow_compress.techniques.graph.walk import walk_graphs

FLOAT = TensorProto.FLOAT


def info(name, shape):
    return helper.make_tensor_value_info(name, FLOAT, shape)


def model(nodes, weights, outputs=("y",), functions=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", ["n", 4])],
        [info(name, ["n", 3]) for name in outputs],
        [numpy_helper.from_array(np.asarray(array, np.float32), n) for n, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def branch(weight, name):
    """Return a branch whose own values are called alike in every branch."""
    return helper.make_graph(
        [
            helper.make_node("Identity", [weight], ["w"]),
            helper.make_node("MatMul", ["x", "w"], ["o"]),
        ],
        name,
        [],
        [info("o", ["n", 3])],
    )


def nested_if(depth, rng):
    """Return an If whose branches hold Ifs, all of them with equal local names."""
    weights = {"zero": np.zeros(()), "half": np.full((), 0.5)}

    def build(level, path):
        if level == 0:
            weights[f"w{path}"] = rng.normal(size=(4, 3))
            return branch(f"w{path}", f"b{path}")
        inner = [build(level - 1, f"{path}{side}") for side in "ab"]
        nodes = [
            helper.make_node("ReduceMean", ["x"], [f"m{level}"], keepdims=0),
            helper.make_node(
                "Greater", [f"m{level}", "zero" if level % 2 else "half"], [f"c{level}"]
            ),
            helper.make_node(
                "If", [f"c{level}"], ["o"], then_branch=inner[0], else_branch=inner[1]
            ),
        ]
        return helper.make_graph(nodes, f"b{path}", [], [info("o", ["n", 3])])

    top = build(depth, "")
    nodes = list(top.node)
    nodes[-1].output[0] = "y"
    return model(nodes, weights)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_branches_of_equal_local_names_keep_their_own_weights(depth, rng):
    made = nested_if(depth, rng)
    normal = normalize(made)
    for shift in (-2.0, -0.2, 0.2, 0.7, 2.0):
        x = (rng.normal(size=(5, 4)) * 0.1 + shift).astype(np.float32)
        before, after = (
            ort.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0]
            for m in (made, normal)
        )
        np.testing.assert_array_equal(before, after)


def test_a_body_that_names_its_values_as_a_later_one_outside(rng):
    body = helper.make_graph(
        [
            helper.make_node("Add", ["v_in", "one"], ["h"]),
            helper.make_node("Identity", ["keep_in"], ["keep"]),
            helper.make_node("Identity", ["h"], ["v"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep_in", TensorProto.BOOL, []),
            info("v_in", ["n", 4]),
        ],
        [helper.make_tensor_value_info("keep", TensorProto.BOOL, []), info("v", ["n", 4])],
    )
    made = model(
        [
            helper.make_node("Cast", ["trips_f"], ["trips"], to=TensorProto.INT64),
            helper.make_node("Loop", ["trips", "", "x"], ["looped"], body=body),
            helper.make_node("Mul", ["looped", "one"], ["h"]),
            helper.make_node("MatMul", ["h", "w"], ["y"]),
        ],
        {"one": np.ones(()), "trips_f": np.full((), 3.0), "w": rng.normal(size=(4, 3))},
    )
    normal = normalize(made)
    x = rng.normal(size=(5, 4)).astype(np.float32)
    before, after = (
        ort.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0] for m in (made, normal)
    )
    np.testing.assert_array_equal(before, after)
    names = [
        name for graph in walk_graphs(normal.graph) for node in graph.node for name in node.output
    ]
    assert len(names) == len(set(names))
