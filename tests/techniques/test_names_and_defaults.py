"""What a step makes up or leaves out must not meet what the model already has."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from mlflow_compress.measure.size import weight_bytes
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, normalize
from tests.techniques.graphs import ROWS, applied, graph_of, model_of, node, weights

ENDS = ("quantized", "scale", "zero_point", "half", "bias", "own", "s", "q", "dq")
STEPS = {
    "quantize": {"reduce_range": True},
    "quantize, layers kept": {"keep_float": 1, "reduce_range": True},
    "dynamic": {"reduce_range": True},
    "weight_only": {"bits": 8},
    "float16": {},
    "prune": {"sparsity": 0.1, "repair": True},
}
LAYERS = (node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("MatMul", "r v", "y"))


def named_alike(stem, end):
    """An input that nothing reads has such a name, and a value in each branch."""
    name = f"{stem}_{end}"
    branch = graph_of([node("Relu", "y", name), node("Add", f"y {name}", "o")], {}, "o", ())
    nodes = [
        *LAYERS,
        node("ReduceMean", "y", "m", keepdims=0),
        node("Greater", "m zero", "c"),
        node("If", "c", "z", then_branch=branch, else_branch=branch),
    ]
    held = {"zero": np.float32(0), "w": weights(16, 16), "v": weights(16, 8)}
    in_branch = model_of(nodes, held, output="z")
    inputs = (("x", ["n", 16]), (name, ["n", 16]))
    as_input = model_of(LAYERS, {"w": weights(16, 16), "v": weights(16, 8)}, inputs=inputs)
    return in_branch, as_input


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("stem", ["x", "w", "h"])
def test_names_that_steps_make_up_are_free(step, stem):
    technique = step.partition(",")[0]
    recipe = Recipe((Step(technique, STEPS[step]),), "compact")
    for end in ENDS:
        for model in named_alike(stem, end):
            rows = {value.name: ROWS for value in model.graph.input}
            made = apply_recipe(normalize(model), recipe, Context(calibration=rows)).model
            before, after = (run(one, rows)[0] for one in (model, made))
            assert ((before - after) ** 2).mean() < 0.05 * before.var(), (end, step)


def run(model, rows):
    return ort.InferenceSession(model.SerializeToString()).run(None, rows)


@pytest.mark.parametrize("kind", ["Relu", "Clip"])
def test_an_output_that_only_a_relu_reads_keeps_its_range(kind):
    limits = " low high" if kind == "Clip" else ""
    nodes = [LAYERS[0], node(kind, f"h{limits}", "r"), LAYERS[2]]
    held = {"w": weights(16, 16), "v": weights(16, 8)}
    if limits:
        held |= {"low": np.float32(-0.2), "high": np.float32(0.2)}
    model = model_of(nodes, held)
    model.graph.output.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [None, 16]))
    made = applied(model, "quantize", reduce_range=True).model
    for before, after in zip(run(model, {"x": ROWS}), run(made, {"x": ROWS}), strict=True):
        assert ((before - after) ** 2).mean() < 0.02 * before.var()


def with_default(alpha, *, inside=False):
    """A function that scales by a default, which one call leaves to it, in a branch too."""
    body = helper.make_node("Gemm", ["a", "b"], ["o"])
    body.attribute.append(AttributeProto(name="alpha", type=AttributeProto.FLOAT,
                                         ref_attr_name="al"))  # fmt: skip
    function = helper.make_function(
        "own", "Scaled", ["a", "b"], ["o"], [body], [helper.make_opsetid("", 17)],
        attribute_protos=[helper.make_attribute("al", alpha)],
    )  # fmt: skip
    one = helper.make_node("Scaled", ["x", "w"], ["h"], domain="own", al=2.0)
    other = helper.make_node("Scaled", ["h", "v"], ["o" if inside else "y"], domain="own")
    held = {"w": weights(16, 16), "v": weights(16, 8)}
    if not inside:
        return model_of([one, other], held, functions=[function], domains=["own"])
    branch = graph_of([other], {}, "o", ())
    nodes = [
        one,
        node("ReduceMean", "h", "m", keepdims=0),
        node("Greater", "m zero", "c"),
        node("If", "c", "y", then_branch=branch, else_branch=branch),
    ]
    return model_of(nodes, held | {"zero": np.float32(0)}, functions=[function], domains=["own"])


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("technique", ["quantize", "dynamic", "fold", "prune"])
def test_defaults_of_functions_hold_where_a_call_gives_none(technique, inside, evaluate):
    model = with_default(0.25, inside=inside)
    settings = {"prune": {"sparsity": 0.0}, "fold": {}}.get(technique, {"reduce_range": True})
    steps = ("fold", technique) if technique == "prune" else (technique,)
    recipe = Recipe(tuple(Step(s, settings if s == technique else {}) for s in steps), "compact")
    made = apply_recipe(normalize(model), recipe, Context(calibration={"x": ROWS})).model
    before, after = evaluate(model, {"x": ROWS}), evaluate(made, {"x": ROWS})
    assert ((before - after) ** 2).mean() < 0.02 * before.var()


@pytest.mark.parametrize("technique", ["prune", "share", "entropy_share", "weight_only"])
def test_weights_in_functions_are_said_to_be_there(technique):
    settings = {"weight_only": {"bits": 8}, "entropy_share": {"bits": 4.0}}.get(technique, {})
    with pytest.raises(Exception, match="functions of the model hold them: let step fold come"):
        applied(in_a_function(), technique, **settings)


def in_a_function():
    function = helper.make_function(
        "own", "Layer", ["a", "b"], ["o"], [helper.make_node("MatMul", ["a", "b"], ["o"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    call = helper.make_node("Layer", ["x", "w"], ["y"], domain="own")
    return model_of([call], {"w": weights(16, 8)}, functions=[function], domains=["own"])


def test_a_value_that_a_call_gives_is_counted_there():
    """The tensor in the function's body is only a name for it."""
    constant = helper.make_node("Constant", [], ["w"])
    constant.attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR,
                                             ref_attr_name="weight"))  # fmt: skip
    function = helper.make_function(
        "own", "Held", ["a"], ["o"], [constant, helper.make_node("MatMul", ["a", "w"], ["o"])],
        [helper.make_opsetid("", 17)], ["weight"],
    )  # fmt: skip
    weight = numpy_helper.from_array(weights(16, 8), "w")
    call = helper.make_node("Held", ["x"], ["y"], domain="own", weight=weight)
    model = model_of([call], {}, functions=[function], domains=["own"])
    assert weight_bytes(model) == 4 * 16 * 8


@pytest.mark.parametrize("technique", ["share", "entropy_share"])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_embedding_with_rows_that_are_none_stays_and_is_named(technique, broken):
    table = weights(32, 16)
    table[7] = broken
    graph = graph_of(
        [node("Gather", "table i", "e"), node("MatMul", "e w", "y")],
        {"table": table, "w": weights(16, 8)}, inputs=(),
    )  # fmt: skip
    graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, ["n"]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    recipe = Recipe((Step(technique, {"bits": 5.0} if technique == "entropy_share" else {}),),
                    "compact")  # fmt: skip
    rows = {"i": np.arange(64) % 7}
    made = apply_recipe(normalize(model), recipe, Context(calibration=rows))
    assert any("table has values that are not finite, and stays" in note for note in made.notes)
    kept = {tensor.name: tensor for tensor in made.model.graph.initializer}["table"]
    np.testing.assert_array_equal(numpy_helper.to_array(kept), table)
    assert np.isfinite(run(made.model, rows)[0]).all()


@pytest.mark.parametrize("second", ["mask", "indices"])
def test_channels_that_a_second_output_carries_stay_and_others_go(second):
    held = {"w": weights(16, 32), "k": weights(32, 40), "v": weights(40, 8)}
    nodes = [
        node("MatMul", "x w", "h"),
        node("Dropout", "h", "d mask") if second == "mask" else node("Unsqueeze", "h last", "u"),
        *([] if second == "mask" else [node("MaxPool", "u", "p indices", kernel_shape=[1]),
                                       node("Squeeze", "p last", "d")]),
        node("Relu", "d", "r"),
        node("MatMul", "r k", "s"),
        node("Relu", "s", "t"),
        node("MatMul", "t v", "y"),
    ]  # fmt: skip
    if second == "indices":
        held["last"] = np.array([2])
    model = model_of(nodes, held)
    kind = TensorProto.BOOL if second == "mask" else TensorProto.INT64
    model.graph.output.append(helper.make_tensor_value_info(second, kind, None))
    made = applied(model, "shrink", ratio=0.25)
    assert any("removed 10 of 40 channels" in note for note in made.notes)
    assert any(f"gives '{second}' too, which is not followed" in note for note in made.notes)
    for one, other in zip(run(model, {"x": ROWS})[1:], run(made.model, {"x": ROWS})[1:],
                          strict=True):  # fmt: skip
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("feedback", [True, False])
def test_a_large_mean_that_is_added_last_is_not_rounded_away(feedback):
    means = np.array([-0.0113, 99991.8, 1e-4], np.float32)
    spread = np.array([1, 1947, 1e-4], np.float32)
    held = {"w": weights(16, 16), "v": weights(16, 3), "sd": spread, "mu": means}
    nodes = [LAYERS[0], LAYERS[1], node("MatMul", "r v", "z"), node("Mul", "z sd", "u"),
             node("Add", "u mu", "y")]  # fmt: skip
    model = model_of(nodes, held)
    made = applied(model, "entropy_share", bits=8.0, feedback=feedback).model
    before, after = run(model, {"x": ROWS})[0], run(made, {"x": ROWS})[0]
    assert (((before - after) ** 2).mean(axis=0) / before.var(axis=0)).max() < 1e-3


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_biases_of_layers_are_still_rounded(batch):
    nodes = [node("Gemm", "x w b", "y")]
    held = {"w": weights(16, 16), "b": weights(16)}
    model = model_of(nodes, held, inputs=(("x", [batch, 16]),))
    made = applied(model, "entropy_share", bits=8.0).model
    bias = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}["b"]
    assert not (bias.view(np.uint32) & 0xFFFF).any()


def test_biases_that_a_branch_adds_are_rounded_with_care():
    branch = graph_of([node("Add", "h b", "o")], {}, "o", ())
    nodes = [
        LAYERS[0],
        node("ReduceMean", "h", "m", keepdims=0),
        node("Greater", "m zero", "c"),
        node("If", "c", "y", then_branch=branch, else_branch=branch),
    ]
    held = {"zero": np.float32(0), "w": weights(16, 16), "b": 1000 + weights(16)}
    made = applied(model_of(nodes, held), "entropy_share", bits=8.0).model
    bias = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}["b"]
    np.testing.assert_allclose(bias, held["b"], rtol=2e-5)
    assert not (bias.view(np.uint32) & 0xFF).any()


@pytest.mark.parametrize("technique", ["share", "entropy_share"])
def test_an_embedding_that_stays_may_be_excluded(technique):
    table = weights(32, 16)
    table[7] = np.nan
    graph = graph_of([node("Gather", "table i", "e"), node("MatMul", "e w", "y")],
                     {"table": table, "w": weights(16, 8)}, inputs=())  # fmt: skip
    graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, ["n"]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    settings = {"exclude": ["table"], **({"bits": 5.0} if technique == "entropy_share" else {})}
    recipe = Recipe((Step(technique, settings),), "compact")
    made = apply_recipe(normalize(model), recipe, Context(calibration={"i": np.arange(64) % 7}))
    assert not any("not finite, and stays" in note for note in made.notes)


def test_values_that_are_no_tensors_and_names_that_are_none_stay():
    """Identity takes no sequences before opset 14; an LSTM may give its last state alone."""
    clipped = graph_of([helper.make_node("Clip", ["y", "", "high"], ["o"])], {}, "o", ())
    rectified = graph_of([node("Relu", "y", "o")], {}, "o", ())
    nodes = [
        node("MatMul", "x w", "h"),
        helper.make_node("Unsqueeze", ["h", "first"], ["u"]),
        helper.make_node("LSTM", ["u", "lw", "lr"], ["", "state"], hidden_size=4),
        node("Squeeze", "state first", "s"),
        node("MatMul", "s v", "y"),
        helper.make_node("SplitToSequence", ["y", "one"], ["parts"], axis=0),
        helper.make_node("ReduceMean", ["y"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        node("If", "c", "z", then_branch=clipped, else_branch=rectified),
    ]  # fmt: skip
    held = {"w": weights(16, 16), "first": np.array([0]), "lw": weights(1, 16, 16),
            "lr": weights(1, 16, 4), "v": weights(4, 8), "one": np.array(1),
            "zero": np.float32(0), "high": np.float32(0.1)}  # fmt: skip
    graph = graph_of(nodes, held, output="z")
    parts = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    graph.output.append(parts)
    graph.node.append(helper.make_node("SequenceLength", ["parts"], ["count"]))
    graph.output.append(helper.make_tensor_value_info("count", TensorProto.INT64, []))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    made = applied(model, "quantize", reduce_range=True).model
    before, after = run(model, {"x": ROWS}), run(made, {"x": ROWS})
    assert len(before[1]) == len(after[1]) == before[2] == after[2] == len(ROWS)
    assert ((before[0] - after[0]) ** 2).mean() < 0.05 * before[0].var()


def test_the_model_is_valid_onnx():
    for model in (with_default(0.5), in_a_function(), *named_alike("x", "scale")):
        onnx.checker.check_model(model)
