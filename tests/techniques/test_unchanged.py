"""What must change no output is compared on inputs of every kind, and outputs of every kind."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe
from mlflow_compress.techniques.graph.running import as_rows, check_unchanged, largest_change

FLOAT = TensorProto.FLOAT
OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 1)]
MATRIX = helper.make_tensor_type_proto(FLOAT, ["n", 8])
SEQUENCE = helper.make_sequence_type_proto(MATRIX)
TEXTS = helper.make_tensor_type_proto(TensorProto.STRING, ["n"])


def model_of(nodes, inputs, outputs, held=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_value_info(name, kind) for name, kind in inputs],
        [helper.make_value_info(name, kind) for name, kind in outputs],
        [numpy_helper.from_array(array, name) for name, array in held],
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=9)


WEIGHT = ("w", np.arange(64, dtype=np.float32).reshape(8, 8))
PRODUCT = helper.make_node("MatMul", ["x", "w"], ["h"])
JOINED = helper.make_node("ConcatFromSequence", ["s"], ["x"], axis=0)
SOURCES = {
    "a tensor": ([], [("x", MATRIX)]),
    "a sequence": ([JOINED], [("s", SEQUENCE)]),
    "an optional tensor": (
        [helper.make_node("OptionalGetElement", ["o"], ["x"])],
        [("o", helper.make_optional_type_proto(MATRIX))],
    ),
    "texts": (
        [
            helper.make_node("StringNormalizer", ["t"], ["u"]),
            helper.make_node("Shape", ["u"], ["n"]),
            helper.make_node("Cast", ["n"], ["f"], to=FLOAT),
            helper.make_node("Expand", ["f", "eight"], ["x"]),
        ],
        [("t", TEXTS)],
    ),
}
RESULTS = {
    "a tensor": ([helper.make_node("Relu", ["h"], ["y"])], MATRIX),
    "a sequence": ([helper.make_node("SplitToSequence", ["h"], ["y"], axis=1)], SEQUENCE),
}
ZIPPED = helper.make_sequence_type_proto(
    helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
)
RESULTS["maps"] = (
    [helper.make_node("ZipMap", ["h"], ["y"], domain="ai.onnx.ml", classlabels_int64s=range(8))],
    ZIPPED,
)
EIGHT = ("eight", np.array([4, 8]))


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("source", SOURCES)
def test_a_change_is_found_on_invented_inputs(source, result):
    before, inputs = SOURCES[source]
    after, kind = RESULTS[result]
    held = [WEIGHT, *([EIGHT] if source == "texts" else [])]
    model = model_of([*before, PRODUCT, *after], inputs, [("y", kind)], held)
    assert largest_change(model, model, None, 0) == ("", 0.0)
    other = onnx.ModelProto.FromString(model.SerializeToString())
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHT[1] * 2, "w"))
    with pytest.raises(TechniqueError, match="folding changes output 'y' by 1"):
        check_unchanged(model, other, None, 0, "folding")


@pytest.mark.parametrize("name", ["fold", "trim"])
def test_inputs_that_are_the_same_for_every_row_are_one_row(name):
    """A model of switches and limits alone has no axis of rows."""
    number = helper.make_tensor_type_proto(FLOAT, [])
    model = model_of(
        [helper.make_node("Mul", ["limit", "w"], ["y"])],
        [("limit", number)], [("y", helper.make_tensor_type_proto(FLOAT, [8, 8]))], [WEIGHT],
    )  # fmt: skip
    rows = {"limit": np.float32(0.5)}
    assert as_rows(model, rows).count == 1
    made = apply_recipe(model, Recipe((Step(name, {}),), "compact"), Context(calibration=rows))
    assert made.model.graph.node


def test_calibration_data_without_rows_are_refused_by_that():
    model = model_of([PRODUCT], [("x", MATRIX)], [("h", MATRIX)], [WEIGHT])
    context = Context(calibration={"x": np.zeros((0, 8), np.float32)})
    with pytest.raises(TechniqueError, match="'fold': the calibration data have no rows"):
        apply_recipe(model, Recipe((Step("fold", {}),), "compact"), context)
