"""What depends on inputs and what on weights, wherever these are kept."""

import numpy as np
import onnx.parser
from onnx import TensorProto, helper

from mlflow_compress.measure.outputs.reach import reached_by_inputs, reached_by_weights

HEAD = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'


def read(body, functions=""):
    return onnx.parser.parse_model(f"{HEAD}\n{body}\n{functions}")


def test_a_mask_that_is_passed_on_depends_on_no_weight():
    model = read(
        """
        agraph (float[N,2] x, int64[N,2] mask) => (float[N,3] y, int64[N,2] passed, float[N,2] neg)
        <float[2,3] w = {1, 2, 3, 4, 5, 6}, float one = {1}, int64[2] axes = {0, 1}>
        {
            y = MatMul(x, w)
            passed = Identity(mask)
            f = Cast<to = 1>(mask)
            neg = Sub(one, f)
        }
        """
    )
    assert reached_by_weights(model) & {"y", "passed", "neg"} == {"y"}
    assert reached_by_inputs(model) >= {"y", "passed", "neg"}


def test_weights_in_nodes_branches_functions_and_attributes_count():
    model = read(
        """
        agraph (float[2] x, bool c) => (float[2] a, float[2] b, float[2] d, float[2] e, float[2] f)
        {
            k = Constant<value = float[2] {1, 2}>()
            a = Add(x, k)
            b = If(c) <
                then_branch = g1 () => (float[2] t) {
                    w = Constant<value_floats = [1.0, 3.0]>()
                    t = Mul(x, w)
                },
                else_branch = g2 () => (float[2] u) { u = Identity(x) }
            >
            d = own.scaled(x)
            s = Constant<value = float {2}>()
            e = Mul(x, s)
            f = Add(e, k)
        }
        """,
        """
        <domain: "own", opset_import: ["" : 17]>
        scaled (z) => (r) {
            h = Constant<value = float[2] {1, 2}>()
            r = Mul(z, h)
        }
        """,
    )
    assert reached_by_weights(model) & set("abdef") == set("abdf")


def test_what_is_given_by_initializers_alone_depends_on_no_input():
    model = read(
        """
        agraph (float[2] x) => (float[2] y, float[2] anchors)
        <float[2] w = {1, 2}>
        {
            y = Add(x, w)
            anchors = Identity(w)
        }
        """
    )
    assert "anchors" not in reached_by_inputs(model)
    assert np.isin(["y", "anchors"], list(reached_by_weights(model))).all()


def test_a_sparse_weight_is_one():
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    places = helper.make_tensor("places", TensorProto.INT64, [2], [0, 3])
    sparse = helper.make_sparse_tensor(values, places, [4])
    held = helper.make_node("Constant", [], ["k"], sparse_value=sparse)
    made = [("Mul", ["x", "k"], "a"), ("Mul", ["x", "w"], "b"), ("Neg", ["x"], "c")]
    nodes = [held, *(helper.make_node(kind, read, [name]) for kind, read, name in made)]
    names = "abc"
    values_of = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in names]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])]
    graph = helper.make_graph(nodes, "g", given, values_of, sparse_initializer=[sparse])
    assert reached_by_weights(helper.make_model(graph)) & set(names) == {"a", "b"}
