"""What a step tells of its result: how far the outputs are off, and what failed, in one line."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, Result, apply_recipe, normalize
from mlflow_compress.techniques.graph.running import share_changed
from tests.techniques.graphs import ROWS, applied, graph_of, model_of, node, weights


def tail_of(*nodes, output, kind, **held):
    """A network whose output is made of ``h`` by other operators."""
    opsets = [helper.make_opsetid("", 17)]
    graph = graph_of([node("MatMul", "x w", "h"), *nodes], {"w": weights(16, 8), **held})
    del graph.output[:]
    graph.output.append(helper.make_value_info(output, kind))
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


MATRIX = helper.make_tensor_type_proto(TensorProto.FLOAT, [None, None])


def test_sequences_have_an_error_too():
    model = tail_of(
        node("SplitToSequence", "h", "s", axis=1),
        output="s",
        kind=helper.make_sequence_type_proto(MATRIX),
    )
    (note,) = applied(model, "weight_only", bits=4, method="rtn").notes
    told = re.search(r"calibration rows is (\S+) of their variance", note)
    assert float(told[1]) > 1e-4


@pytest.mark.parametrize(
    ("after", "kind"),
    [
        ([node("ArgMax", "h", "y", axis=1)], TensorProto.INT64),
        ([node("Greater", "h limit", "y")], TensorProto.BOOL),
        (
            [node("ArgMax", "h", "i", axis=1), node("Gather", "words i", "y")],
            TensorProto.STRING,
        ),
        ([node("Greater", "h limit", "above"), node("NonZero", "above", "y")], TensorProto.INT64),
    ],
)
def test_what_is_no_float_is_told_to_change_too(after, kind, evaluate):
    words = np.array([f"class {k}" for k in range(8)], object)
    held = {"limit": np.float32(0.5), "words": words}
    read = {name for one in after for name in one.input}
    model = tail_of(
        *after,
        output="y",
        kind=helper.make_tensor_type_proto(kind, [None, None]),
        **{name: array for name, array in held.items() if name in read},
    )
    made = applied(model, "weight_only", bits=2, method="rtn")
    one, two = (evaluate(m, {"x": ROWS[:32]}) for m in (model, made.model))
    if one.shape != two.shape:
        assert "other shapes than the source's on 32 calibration rows" in made.notes[-1]
        return
    share = float((one != two).mean())
    told = f"{share:.3g} of the values that are no floats differ on 32 calibration rows"
    assert share and told in made.notes[-1]


def test_as_many_rows_as_are_found_fail_no_step():
    """After suppression a variant gives more boxes, or fewer."""
    model = tail_of(
        node("Greater", "h limit", "above"),
        node("NonZero", "above", "where"),
        node("Cast", "where", "y", to=TensorProto.FLOAT),
        output="y", kind=MATRIX, limit=np.float32(0.5),
    )  # fmt: skip
    (note,) = applied(model, "weight_only", bits=2, method="rtn").notes
    assert "other shapes than the source's on 32 calibration rows" in note


def test_outputs_that_numpy_has_no_word_for_are_refused_by_that():
    model = tail_of(
        node("Cast", "h", "y", to=TensorProto.BFLOAT16),
        output="y", kind=helper.make_tensor_type_proto(TensorProto.BFLOAT16, [None, None]),
    )  # fmt: skip
    with pytest.raises(TechniqueError, match=r"'fold': .*No corresponding Numpy .*cast to float32"):
        applied(model, "fold")
    (note,) = applied(model, "share", clusters=16).notes
    assert "by how much the outputs change is not known: the model does not run" in note


def test_a_source_that_declares_no_shapes_is_compressed_too():
    """onnxruntime runs it; onnx's checker does not like it, before and after."""
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    model = tail_of(node("Relu", "h", "y"), output="y", kind=kind)
    assert applied(model, "share", clusters=16).model.graph.node


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("technique", "settings"),
    [
        ("prune", {"sparsity": 0.5}),
        ("share", {"clusters": 16}),
        ("entropy_share", {"bits": 4.0}),
        ("weight_only", {"bits": 8}),
        ("quantize", {}),
        ("dynamic", {}),
        ("float16", {}),
    ],
)
def test_weights_that_are_not_finite_are_refused(technique, settings, broken):
    weight = weights(16, 16)
    weight[3, 4] = broken
    model = model_of([node("MatMul", "x w", "y")], {"w": weight})
    with pytest.raises(
        TechniqueError, match=f"'{technique}': weight 'w' has 1 values that are not"
    ):
        applied(model, technique, **settings)


def test_an_accident_in_a_technique_is_one_line(monkeypatch):
    def fail(*_):
        raise np.linalg.LinAlgError("Singular\nmatrix")

    monkeypatch.setattr("mlflow_compress.techniques.share.onnx.share", fail)
    with pytest.raises(TechniqueError) as caught:
        applied(model_of([node("MatMul", "x w", "y")], {"w": weights(16, 8)}), "share", clusters=16)
    assert str(caught.value) == (
        "step 1 'share': fails on this model: LinAlgError: Singular matrix"
    )


def test_rows_on_which_no_output_is_finite_tell_no_error():
    model = tail_of(node("Relu", "h", "y"), output="y", kind=MATRIX)
    recipe = Recipe((Step("share", {"clusters": 16}),), "compact")
    rows = {"x": np.full_like(ROWS, np.nan)}
    (note,) = apply_recipe(normalize(model), recipe, Context(calibration=rows)).notes
    assert "no output is finite on 32 calibration rows" in note


def test_maps_of_whole_numbers_are_compared_too():
    assert share_changed([[[{"a": 1, "b": 2}]]], [[[{"a": 1, "b": 3}]]]) == 0.5


def test_one_row_is_one_row():
    model = tail_of(node("Relu", "h", "y"), output="y", kind=MATRIX)
    recipe = Recipe((Step("share", {"clusters": 16}),), "compact")
    made = apply_recipe(normalize(model), recipe, Context(calibration={"x": ROWS[:1]}))
    assert "on 1 calibration row is" in made.notes[0]


@pytest.mark.parametrize("technique", ["fold", "dynamic", "prune", "share", "quantize"])
def test_an_input_that_the_rows_lack_is_named(technique):
    model = model_of([node("MatMul", "x w", "y")], {"w": weights(16, 8)})
    recipe = Recipe((Step(technique, {}),), "compact")
    says = "the calibration data lack the model's input 'x'; they have z"
    try:
        made = apply_recipe(normalize(model), recipe, Context(calibration={"z": ROWS}))
    except TechniqueError as error:
        assert technique in ("fold", "quantize") and says in str(error)
    else:  # it needs no rows, but to tell what it did
        assert f"by how much the outputs change is not known: {says}" in made.notes[-1]


def test_what_the_checker_has_against_the_source_hides_nothing_that_a_step_does(monkeypatch):
    model = model_of([node("MatMul", "x w", "y")], {"w": weights(16, 8)})
    model.graph.name = ""  # which the checker refuses, and onnxruntime runs
    applied(model, "share", clusters=16)

    def breaking(given, *_):
        made = onnx.ModelProto.FromString(given.SerializeToString())
        made.graph.node[0].input[0] = "nowhere"
        return Result(made)

    monkeypatch.setattr("mlflow_compress.techniques.share.onnx.share", breaking)
    recipe = Recipe((Step("share", {"clusters": 16}),), "compact")
    with pytest.raises(TechniqueError, match="made a model that is not valid ONNX: onnxruntime"):
        apply_recipe(normalize(model), recipe, Context())
