"""int8 by onnxruntime's tools computes what the model does, or what it cannot is said."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from mlflow_compress.techniques import normalize
from tests.techniques.graphs import (
    ROWS,
    applied,
    attention,
    both_ways,
    choosing,
    model_of,
    node,
    weights,
)


def factors(alpha=0.5, beta=2.0):
    nodes = [
        node("Gemm", "x w b", "h", transB=1, alpha=alpha, beta=beta),
        node("Relu", "h", "r"),
        node("Gemm", "r v b", "y", beta=beta),
    ]
    return model_of(nodes, {"w": weights(16, 16), "v": weights(16, 16), "b": 4 * weights(16)})


def computed_factor():
    """The bias is computed, so that beta has nowhere to go."""
    nodes = [
        node("MatMul", "x w", "h"),
        node("Gemm", "x v h", "y", alpha=3.0, beta=0.25),
    ]
    return model_of(nodes, {"w": weights(16, 16), "v": weights(16, 16)})


def branch_reads_a_relu():
    nodes = [node("MatMul", "x w", "h0"), node("Relu", "h0", "h"), *choosing("h")]
    held = {"zero": np.float32(0), "w": weights(16, 16), "s": weights(16, 8), "t": weights(16, 8)}
    return model_of(nodes, held)


def clashing_names():
    nodes = [
        node("Gemm", "x w b", "w_quantized", transB=1),
        node("Relu", "w_quantized", "w_scale"),
        node("Gemm", "w_scale v b", "x_QuantizeLinear_Output"),
        node("Add", "x_QuantizeLinear_Output v_zero_point", "y"),
    ]
    held = {"w": weights(16, 16), "v": weights(16, 8), "v_zero_point": weights(8)}
    nodes[0].input[2], nodes[2].input[2] = "b", "v_zero_point"
    return model_of(nodes, held | {"b": weights(16)})


def weight_that_is_an_output():
    """It keeps its name, of which a quantizer makes one that there is."""
    nodes = [node("MatMul", "x w", "w_quantized"), node("MatMul", "w_quantized v", "y")]
    model = model_of(nodes, {"w": weights(16, 16), "v": weights(16, 8)})
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 16]))
    return model


def function_named_like_an_operator():
    """``own.MatMul`` adds."""
    opsets = [helper.make_opsetid("", 17)]
    body = helper.make_function(
        "own", "MatMul", ["a", "b"], ["o"], [node("Add", "a b", "o")], opsets
    )
    nodes = [
        helper.make_node("MatMul", ["x", "c"], ["h"], domain="own"),
        node("MatMul", "h w", "y"),
    ]
    held = {"c": weights(16), "w": weights(16, 8)}
    return model_of(nodes, held, functions=[body], domains=["own"])


def stacked():
    nodes = [
        node("Reshape", "x shape", "s"),
        node("MatMul", "s w", "h"),
        node("Relu", "h", "r"),
        node("MatMul", "r v", "y"),
    ]
    scales = np.array([0.1, 3], np.float32)[:, None, None]
    held = {"shape": np.array([-1, 2, 1, 8]), "w": scales * weights(2, 8, 8), "v": weights(8, 4)}
    return model_of(nodes, held, rank=4)


GRAPHS = {
    "alpha and beta": factors,
    "beta of what is computed": computed_factor,
    "a branch reads a Relu": branch_reads_a_relu,
    "infinite mask": lambda: attention(-np.inf),
    "mask of large numbers": lambda: attention(-1e9),
    "lowest number as a mask": lambda: attention(np.finfo(np.float32).min),
    "one weight both ways": both_ways,
    "names that a tool makes": clashing_names,
    "such a name for an output's": weight_that_is_an_output,
    "function called as an operator": function_named_like_an_operator,
    "stacked weights": stacked,
}


@pytest.mark.parametrize("technique", ["quantize", "dynamic"])
@pytest.mark.parametrize("kind", GRAPHS)
def test_int8_computes_what_the_model_does(kind, technique, evaluate):
    """With 7-bit weights, which no processor saturates, and all optimizations."""
    model = GRAPHS[kind]()
    made = applied(model, technique, reduce_range=True)
    before, after = evaluate(model, {"x": ROWS}), evaluate(made.model, {"x": ROWS})
    assert float(((before - after) ** 2).mean() / before.var()) < 0.01
    assert any(t.data_type == TensorProto.INT8 for t in made.model.graph.initializer)
    known = {tensor.name for tensor in normalize(model).graph.initializer}
    int8 = [t.name for t in made.model.graph.initializer if t.data_type == TensorProto.INT8]
    big = [n for n in int8 if "zero_point" not in n or n in known]
    assert {made.origin.get(name, name) for name in big} <= known


@pytest.mark.parametrize("technique", ["quantize", "dynamic"])
def test_metadata_stay_and_the_tool_s_own_do_not(technique):
    model = both_ways()
    model.metadata_props.add(key="names", value="{0: 'cat'}")
    made = applied(model, technique).model
    assert {one.key: one.value for one in made.metadata_props} == {"names": "{0: 'cat'}"}


def test_what_stays_in_float_is_said():
    notes = applied(branch_reads_a_relu(), "quantize").notes
    assert any("weights stay in float inside nodes: MatMul" in note for note in notes)
    notes = applied(stacked(), "dynamic").notes
    assert any("weights stay in float: MatMul" in note for note in notes)


@pytest.mark.parametrize("steps", [["quantize"], ["quantize", "repair"]])
def test_the_error_that_is_told_is_what_users_get(steps, evaluate):
    """onnxruntime's default optimizations turn this into products that may saturate."""
    model = model_of(
        [node("MatMul", "x w", "h"), node("Tanh", "h", "t"), node("MatMul", "t v", "y")],
        {"w": weights(16, 128), "v": weights(128, 8)},
    )
    made = applied(model, *steps)
    few = {"x": ROWS[:32]}
    before, after = evaluate(model, few), evaluate(made.model, few)
    error = float(((before - after) ** 2).mean() / before.var())
    told = made.notes[-1].removeprefix(
        f"{steps[-1]}: the outputs' error on 32 calibration rows is "
    )
    assert float(told.removesuffix(" of their variance")) == pytest.approx(error, rel=0.02)
