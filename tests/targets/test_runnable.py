from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import packed
from mlflow_compress.errors import ConfigError
from mlflow_compress.targets import AccuracyLimits, Execution, Target, load_target, shipped_names
from mlflow_compress.targets.computed import computed_types
from mlflow_compress.targets.dtypes import DTYPES
from mlflow_compress.targets.runnable import _types, needs_of, why_not
from tests.packed.portable_models import KINDS, chain

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


def graph_of(nodes, output=TensorProto.FLOAT, weights=(), **model):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", output, None)],
        list(weights),
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, **model)


QUANTIZES = [
    helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="dyn"),
    helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
]
PICKS = [
    helper.make_node("ArgMax", ["x"], ["i"], axis=1, name="arg"),
    helper.make_node("CastLike", ["i", "x"], ["y"]),
]


@pytest.mark.parametrize(
    ("nodes", "message", "dtypes"),
    [
        (
            [*QUANTIZES, helper.make_node("Relu", ["d"], ["y"])],
            "output 'q' of node 'dyn' is uint8",
            ("float", "uint8"),
        ),
        (PICKS, "output 'i' of node 'arg' is int64", ("float", "int64")),
        (
            [
                helper.make_node("Greater", ["x", "x"], ["m"], name="mask"),
                helper.make_node("Where", ["m", "x", "x"], ["y"]),
            ],
            "output 'm' of node 'mask' is bool",
            ("float", "bool"),
        ),
        (
            [
                helper.make_node("Greater", ["x", "x"], ["m"]),
                helper.make_node("SequenceConstruct", ["m"], ["l"], name="list"),
                helper.make_node("SequenceAt", ["l", "k"], ["n"]),
                helper.make_node("Where", ["n", "x", "x"], ["y"]),
            ],
            "output 'm' of node 'm' is bool",
            ("float", "bool", "int32"),
        ),
    ],
)
def test_a_type_that_only_a_node_computes(nodes, message, dtypes):
    model = graph_of(nodes)
    assert why_not(model, target(dtypes=("float",))) == (
        f"onnxruntime of target 'pi' takes float, {message}"
    )
    assert why_not(model, target(dtypes=dtypes)) == ""


def test_a_type_that_is_computed_within_a_branch():
    output = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    inner = [
        helper.make_node("ArgMax", ["x"], ["i"], axis=1, name="inner"),
        helper.make_node("CastLike", ["i", "x"], ["b"]),
    ]
    branch = helper.make_graph(inner, "branch", [], [output])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["c"], keepdims=0),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    message = why_not(graph_of(nodes), target(dtypes=("float",)))
    assert message.endswith("output 'i' of node 'inner' is int64")


def test_a_type_that_is_computed_within_a_function_of_the_file():
    opset = [helper.make_opsetid("", 18)]
    body = [helper.make_node("ArgMax", ["a"], ["i"], axis=1), *[
        helper.make_node("CastLike", ["i", "a"], ["b"])]]  # fmt: skip
    function = helper.make_function("own", "Pick", ["a"], ["b"], body, opset)
    model = graph_of([helper.make_node("Pick", ["x"], ["y"], domain="own")], functions=[function])
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert why_not(model, target(dtypes=("float",))).endswith("is int64")
    assert why_not(model, target(dtypes=("float", "int64"))) == ""


def test_arithmetic_on_shapes_and_unknown_operators_are_no_reason():
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Size", ["x"], ["size"]),
        helper.make_node("Equal", ["size", "size"], ["always"]),
        helper.make_node("Add", ["shape", "shape"], ["twice"]),
        helper.make_node("Sub", ["twice", "shape"], ["again"]),
        helper.make_node("Mystery", ["x"], ["u"], domain="com.microsoft"),
        helper.make_node("Relu", ["u"], ["r"]),
        helper.make_node("Where", ["always", "r", "x"], ["w"]),
        helper.make_node("Reshape", ["w", "again"], ["y"]),
    ]
    assert why_not(graph_of(nodes), target(dtypes=("float",))) == ""


@pytest.mark.parametrize("kind", ["Levels", "GapsLevels", "Huffman"])
def test_what_a_portable_file_decodes_with_is_as_before(kind):
    made = packed.pack(chain(*KINDS[kind]()), "portable")
    said = {name for what, number in _types(made) for name in [DTYPES[number]]}
    assert {"uint8", "float"} <= said
    assert set(needs_of(made).dtypes) == said


def test_types_are_found_whatever_the_weights_weigh(monkeypatch):
    sent = []
    real = onnx.shape_inference.infer_shapes
    monkeypatch.setattr(
        onnx.shape_inference, "infer_shapes", lambda m: sent.append(m.ByteSize()) or real(m)
    )
    large = numpy_helper.from_array(np.ones((4, 100_000), np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("ArgMax", ["p"], ["i"], axis=1, name="arg"),
        helper.make_node("CastLike", ["i", "x"], ["y"]),
    ]
    model = graph_of(nodes, weights=[large])
    assert "node 'arg' is int64" in why_not(model, target(dtypes=("float",)))
    assert max(sent) < 2000
    assert model.graph.initializer[0].dims == [4, 100_000]


def test_types_that_cannot_be_found_are_taken_by_no_target_that_names_its_types(monkeypatch):
    def fail(model):
        raise onnx.shape_inference.InferenceError("no")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", fail)
    model = graph_of([helper.make_node("Relu", ["x"], ["y"])])
    assert why_not(model, target(dtypes=("float",))) == (
        "onnxruntime of target 'pi' takes float, the type of what its nodes compute is unknown"
    )
    assert why_not(model, target(opset=18)) == ""


def test_no_shipped_profile_names_types():
    """One that does has to be tried on ordinary models of every kind first."""
    assert not any(load_target(name).execution.dtypes for name in shipped_names())


def test_types_that_a_function_has_by_default_count():
    """onnx's inliner leaves the default out, and with it the type."""
    cast = helper.make_node("Cast", ["a"], ["o"])
    cast.attribute.append(
        onnx.AttributeProto(name="to", type=onnx.AttributeProto.INT, ref_attr_name="to")
    )
    function = helper.make_function(
        "own", "Narrow", ["a"], ["o"], [cast], [helper.make_opsetid("", 17)],
        attribute_protos=[helper.make_attribute("to", TensorProto.FLOAT16)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Narrow", ["x"], ["h"], domain="own"),
        helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:]),
        functions=[function],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
    )
    assert ("output 'h' of node 'h'", TensorProto.FLOAT16) in list(computed_types(model))
