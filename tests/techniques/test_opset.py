"""A portable file needs opset 13; older models are converted, or refused with the reason."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, checker, helper, numpy_helper
from onnx import version_converter as converter

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe
from mlflow_compress.techniques import Context, apply_recipe
from mlflow_compress.techniques.graph import opset as onnx_opset
from mlflow_compress.techniques.graph.opset import raise_opset

REAL = converter.convert_version


def old_model(*nodes, opset=11):
    weight = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "w")
    graph = helper.make_graph(
        nodes or [helper.make_node("Gemm", ["x", "w"], ["h"]), SQUEEZE],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight],
    )
    return helper.make_model(graph, ir_version=7, opset_imports=[helper.make_opsetid("", opset)])


# the axes of Squeeze became an input with opset 13
SQUEEZE = helper.make_node("Squeeze", ["h"], ["y"], axes=[0])


def run(model):
    x = np.array([[1, -2, 0.5]], np.float32)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def test_a_recipe_for_the_portable_profile_raises_the_opset():
    model = old_model()
    made = apply_recipe(model, Recipe((), "portable"), Context()).model
    assert made.opset_import[0].version == 13
    np.testing.assert_array_equal(run(made), run(model))


def test_a_recipe_for_the_compact_profile_leaves_it():
    model = old_model()
    assert apply_recipe(model, Recipe((), "compact"), Context()).model == model


def test_a_later_opset_stays():
    model = old_model(helper.make_node("MatMul", ["x", "w"], ["y"]), opset=20)
    assert raise_opset(model, 13) is model


def test_what_cannot_be_converted_is_refused_with_the_reason():
    model = old_model(helper.make_node("LSTM", ["x", "w", "w"], ["y"], hidden_size=1), opset=6)
    with pytest.raises(
        TechniqueError, match=r"opset 13.*from opset 6: .*LSTM.*\(pack compact, or export it with"
    ):
        raise_opset(model, 13)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [[2, 2], [1.5, 2.5], [0.6, 0.7]])
@pytest.mark.parametrize(("operator", "opset"), [("Upsample", 7), ("Upsample", 9), ("Resize", 10)])
def test_images_are_resized_as_before(mode, scales, operator, opset):
    """The converter takes the later version's defaults, by which half a pixel is missing."""
    if operator == "Upsample" and scales[0] < 1:
        pytest.skip("Upsample enlarges")
    factors = [1.0, 1.0, *map(float, scales)]
    values = [numpy_helper.from_array(np.array(factors, np.float32), "s")]
    node = helper.make_node(operator, ["x", "s"], ["y"], mode=mode)
    if opset == 7:
        values, node = [], helper.make_node(operator, ["x"], ["y"], mode=mode, scales=factors)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 10, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        values,
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, ir_version=5, opset_imports=opsets)
    x = np.random.default_rng(0).normal(size=(2, 3, 10, 12)).astype(np.float32)
    before, after = (
        ort.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0]
        for m in (model, raise_opset(model, 13))
    )
    np.testing.assert_array_equal(after, before)


def test_functions_are_converted_with_what_calls_them():
    body = [
        helper.make_node("Unsqueeze", ["a"], ["u"], axes=[1]),
        helper.make_node("Squeeze", ["u"], ["o"], axes=[1]),
    ]
    call = helper.make_node("Twice", ["h"], ["y"], domain="own")
    model = old_model(helper.make_node("Gemm", ["x", "w"], ["h"]), call)
    model.opset_import.append(helper.make_opsetid("own", 1))
    opsets = [helper.make_opsetid("", 11)]
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["o"], body, opsets))
    np.testing.assert_array_equal(run(raise_opset(model, 13)), run(model))


def damaged(model, version):
    made = REAL(model, version)
    for node in made.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Sigmoid"
    return made


@pytest.mark.parametrize("last", ["Relu", "Sqrt"])
def test_what_is_converted_wrongly_is_refused_by_its_operator(monkeypatch, last):
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["y" if last == "Relu" else "r"], name="act"),
    ]
    if last != "Relu":
        nodes.append(helper.make_node(last, ["r"], ["y"]))
    monkeypatch.setattr(onnx_opset.version_converter, "convert_version", damaged)
    said = "faithfully from opset 11: Relu 'act' gives something else"
    with pytest.raises(TechniqueError, match=said):
        raise_opset(old_model(*nodes), 13, {"x": np.array([[1, -2, 0.5]], np.float32)})


def test_what_cannot_be_compared_is_refused_where_there_are_no_rows():
    """Invented indices are beyond the table."""
    model = old_model(helper.make_node("Gather", ["w", "x"], ["y"]))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((1, 4), np.float32), "w"))
    assert raise_opset(model, 13).opset_import[0].version == 13
    with pytest.raises(TechniqueError, match="does not run on invented inputs"):
        raise_opset(model, 13, strict=True)


def test_what_the_checker_says_of_the_source_too_stops_nothing():
    """Outputs that declare no shape, and weights that are no inputs where IR 3 wants them."""
    model = old_model()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.ir_version = 3
    with pytest.raises(checker.ValidationError):
        checker.check_model(model)
    made = raise_opset(model, 13)
    assert made.opset_import[0].version == 13
    np.testing.assert_array_equal(run(made), run(model))
