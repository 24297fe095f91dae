"""A portable file needs opset 13; older models are converted, or refused with the reason."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe
from mlflow_compress.techniques import Context, apply_recipe
from mlflow_compress.techniques.onnx_opset import raise_opset


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
        TechniqueError, match=r"opset 13.*from opset 6: .*LSTM.*\(pack compact instead\)"
    ):
        raise_opset(model, 13)
