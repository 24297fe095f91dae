from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.errors import ConfigError
from mlflow_compress.targets import AccuracyLimits, Execution, Target, load_target
from mlflow_compress.targets.runnable import DTYPES, why_not

TARGET = Target("pi", accuracy=AccuracyLimits(max_drop=0.01))


def target(**execution):
    return replace(TARGET, execution=Execution(**execution))


@pytest.fixture
def model():
    """A quantized weight, a cast, and a branch with a Relu in it."""
    branch = helper.make_graph(
        [helper.make_node("Relu", ["f"], ["b"], name="inner")],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [2])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["w"], ["f"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch, else_branch=branch),
        ],
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.ones(2, np.int8), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def test_any_runtime_takes_it_when_nothing_is_said(model):
    assert why_not(model, TARGET) == ""


def test_an_opset_that_is_too_new(model):
    assert why_not(model, target(opset=21)) == ""
    assert why_not(model, target(opset=18)) == (
        "onnxruntime of target 'pi' takes opset 18, the model is of opset 21"
    )


def test_an_operator_that_is_missing_is_found_in_a_subgraph(model):
    assert why_not(model, target(without_operators=("Loop",))) == ""
    assert why_not(model, target(without_operators=("Relu",))) == (
        "onnxruntime of target 'pi' has no operator Relu (node 'inner')"
    )


@pytest.mark.parametrize(
    ("dtypes", "message"),
    [
        (("float", "bool"), "weight 'w' is int8"),
        (("int8", "bool"), "output 'y' is float"),
        (("int8", "float"), "input 'c' is bool"),
        (("int8", "float", "bool"), ""),
    ],
)
def test_a_type_that_is_missing(model, dtypes, message):
    assert why_not(model, target(dtypes=dtypes)).endswith(message)
    assert bool(why_not(model, target(dtypes=dtypes))) == bool(message)


def test_the_type_of_a_constant_and_of_a_cast():
    node = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(1)))
    cast = helper.make_node("Cast", ["k"], ["y"], to=TensorProto.FLOAT16)
    graph = helper.make_graph(
        [node, cast], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1])]
    )
    model = helper.make_model(graph)
    assert "the constant of node 'k' is double" in why_not(model, target(dtypes=("float16",)))
    assert "is float16" in why_not(model, target(dtypes=("double",)))


def test_the_names_are_those_of_onnx():
    names = {number: name.lower() for name, number in TensorProto.DataType.items()}
    assert {number: names[number] for number in DTYPES} == DTYPES


def test_a_profile_names_them():
    made = load_target(
        {
            "name": "x",
            "accuracy": {"max_drop": 0.01},
            "execution": {"opset": 18, "dtypes": ["float"], "without_operators": ["Loop"]},
        }
    )
    assert made.execution == Execution(opset=18, dtypes=("float",), without_operators=("Loop",))
    with pytest.raises(ConfigError, match="got 'fp32'"):
        load_target({"name": "x", "accuracy": {"min": 0.5}, "execution": {"dtypes": ["fp32"]}})
