"""int8 by onnxruntime's tools computes what the model does, or what it cannot is said."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, normalize

RNG = np.random.default_rng(3)
ROWS = RNG.normal(size=(96, 16)).astype(np.float32)


def node(kind, reads, makes, **attributes):
    return helper.make_node(kind, reads.split(), makes.split(), **attributes)


def weights(*shape):
    return (RNG.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)


def graph_of(nodes, held, output="y", inputs=(("x", ["n", 16]),), name="g", rank=2):
    return helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(array, key) for key, array in held.items()],
    )


def model_of(nodes, held, *, functions=(), domains=(), **options):
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in domains)]
    graph = graph_of(nodes, held, **options)
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)
    onnx.checker.check_model(model)
    return model


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
    def branch(name):
        return graph_of([node("MatMul", f"h {name}", "o")], {}, "o", (), name)

    nodes = [
        node("ReduceMean", "x", "m", keepdims=0),
        node("Greater", "m zero", "c"),
        node("MatMul", "x w", "h0"),
        node("Relu", "h0", "h"),
        node("If", "c", "y", then_branch=branch("s"), else_branch=branch("t")),
    ]
    held = {"zero": np.float32(0), "w": weights(16, 16), "s": weights(16, 8), "t": weights(16, 8)}
    return model_of(nodes, held)


def attention(hidden):
    nodes = [
        node("Reshape", "x shape", "s"),
        *(node("MatMul", f"s w{k}", k) for k in "qkv"),
        node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "q kt", "qk"),
        node("Add", "qk mask", "masked"),
        node("Softmax", "masked", "p"),
        node("MatMul", "p v", "y"),
    ]
    mask = np.triu(np.full((4, 4), hidden, np.float32), 1)
    held = {"shape": np.array([-1, 4, 4]), "mask": mask}
    return model_of(nodes, held | {f"w{k}": 2 * weights(4, 4) for k in "qkv"}, rank=3)


def both_ways():
    nodes = [
        node("Gemm", "x w", "h"),
        node("Relu", "h", "r"),
        node("Gemm", "r w", "y", transB=1),
    ]
    return model_of(nodes, {"w": weights(16, 16) * np.linspace(0.1, 3, 16, dtype=np.float32)})


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
    "function called as an operator": function_named_like_an_operator,
    "stacked weights": stacked,
}


def applied(model, *steps, **settings):
    recipe = Recipe(tuple(Step(name, settings) for name in steps), "compact")
    return apply_recipe(normalize(model), recipe, Context(calibration={"x": ROWS}))


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

    monkeypatch.setattr("mlflow_compress.techniques.onnx_share.share", fail)
    with pytest.raises(TechniqueError) as caught:
        applied(both_ways(), "share", clusters=16)
    assert str(caught.value) == (
        "step 1 'share': fails on this model: LinAlgError: Singular matrix"
    )


def typed(model, kind):
    """The model with all its floats of another type."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in made.graph.initializer:
        array = numpy_helper.to_array(tensor)
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(dtype), tensor.name))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = kind
    return made


def in_a_branch():
    def branch(name):
        return graph_of([node("MatMul", f"x {name}", "o")], {}, "o", (), name)

    nodes = [
        node("ReduceMean", "x", "m", keepdims=0),
        node("Greater", "m zero", "c"),
        node("If", "c", "y", then_branch=branch("s"), else_branch=branch("t")),
    ]
    return model_of(nodes, {"zero": np.float32(0), "s": weights(16, 8), "t": weights(16, 8)})


NOTHING = "found no weights to quantize in the main graph"
WITHOUT = {
    "half numbers": (lambda: typed(both_ways(), TensorProto.FLOAT16),
                     f"{NOTHING}: weight 'w' is float16 .export the model in float32"),
    "doubles": (lambda: typed(both_ways(), TensorProto.DOUBLE),
                f"{NOTHING}: weight 'w' is double .export the model in float32"),
    "weights in branches": (in_a_branch, f"{NOTHING}: MatMul '.*' is inside a node .weight_only"),
    "no weights": (lambda: model_of([node("Sign", "x", "y")], {}), f"{NOTHING} .leave this step"),
}  # fmt: skip
SETTINGS = {
    "minmax": {},
    "percentile": {"method": "percentile"},
    "entropy": {"method": "entropy"},
    "every option": {"equalize": True, "correct_bias": True, "keep_float": -1},
    "dynamic": None,
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("kind", WITHOUT)
def test_where_nothing_can_be_quantized_it_is_said_why(kind, settings):
    make, told = WITHOUT[kind]
    model = normalize(make())
    (value,) = model.graph.input
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    step = Step("dynamic", {}) if settings is None else Step("quantize", settings)
    context = Context(calibration={"x": ROWS.astype(dtype)})
    with pytest.raises(TechniqueError, match=told):
        apply_recipe(model, Recipe((step,), "compact"), context)


def scaled(by):
    """A layer between values at the end of single precision."""
    nodes = [
        node("Mul", "x by", "far"),
        node("MatMul", "far w", "h"),
        node("Mul", "h back", "near"),
        node("MatMul", "near v", "y"),
    ]
    held = {"by": np.float32(by), "back": np.float32(1 / by), "w": weights(16, 16)}
    return model_of(nodes, held | {"v": weights(16, 8)})


def passed_through():
    model = model_of([node("MatMul", "x w", "y")], {"w": weights(16, 8)})
    model.graph.output.append(model.graph.input[0])
    model.graph.output.add().CopyFrom(
        helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 8])
    )
    return model


def biases():
    """A Gemm's bias as one number, as a row, and as one for each row of the batch."""
    nodes = [
        node("Gemm", "x w one", "h"),
        node("Relu", "h", "r"),
        node("Gemm", "r w2 row", "g"),
        node("Gemm", "g w3 column", "y"),
    ]
    held = {"one": np.float32(0.3), "row": weights(1, 16), "column": weights(96, 1)}
    held |= {name: weights(16, 16) for name in ("w", "w2", "w3")}
    return model_of(nodes, held, inputs=(("x", [96, 16]),))


def grouped():
    nodes = [
        node("Reshape", "x shape", "i"),
        node("ConvTranspose", "i k b", "t", group=2),
        node("Relu", "t", "r"),
        node("Flatten", "r", "f"),
        node("MatMul", "f v", "y"),
    ]
    held = {"shape": np.array([-1, 4, 2, 2]), "k": weights(4, 3, 2, 2), "b": weights(6)}
    return model_of(nodes, held | {"v": weights(54, 8)})


def not_inferred():
    """onnx does not infer what an operator of onnxruntime's gives."""
    nodes = [
        node("MatMul", "x w", "h"),
        helper.make_node("QuickGelu", ["h"], ["g"], domain="com.microsoft"),
        node("Reshape", "g shape", "i"),
        node("InstanceNormalization", "i s t", "n"),
        node("Flatten", "n", "y"),
    ]
    held = {"shape": np.array([-1, 4, 4]), "w": weights(16, 16), "s": weights(4), "t": weights(4)}
    return model_of(nodes, held, domains=["com.microsoft"])


def vector():
    return model_of(
        [node("MatMul", "x w", "h"), node("MatMul", "h v", "s"), node("Unsqueeze", "s one", "y")],
        {"w": weights(16, 16), "v": weights(16), "one": np.array([1])},
    )


ODD = {
    "tiny values": lambda: scaled(1e-38),
    "huge values": lambda: scaled(1e37),
    "infinite mask": lambda: attention(-np.inf),
    "inputs and weights as outputs": passed_through,
    "biases that are no row": biases,
    "grouped ConvTranspose": grouped,
    "values of a type that is not inferred": not_inferred,
    "a weight that is a vector": vector,
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("kind", ODD)
def test_what_the_quantizers_trip_over_is_quantized_or_left_in_float(kind, settings, evaluate):
    model = ODD[kind]()
    less = {"reduce_range": True}
    step = Step("dynamic", less) if settings is None else Step("quantize", settings | less)
    made = apply_recipe(
        normalize(model), Recipe((step,), "compact"), Context(calibration={"x": ROWS})
    ).model
    assert [value.name for value in made.graph.output] == [v.name for v in model.graph.output]
    before, after = evaluate(model, {"x": ROWS}), evaluate(made, {"x": ROWS})
    assert float(((before - after) ** 2).mean() / before.var()) < 0.02
    assert any(t.data_type == TensorProto.INT8 for t in made.graph.initializer)


def test_sums_that_saturate_are_told_from_rounding(evaluate, monkeypatch):
    """Weights that are all alike round to nothing, and their products to the largest there are."""
    model = model_of(
        [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("MatMul", "r v", "y")],
        {"w": np.full((16, 32), 0.25, np.float32), "v": weights(32, 8)},
    )
    rounded = applied(model, "quantize", reduce_range=True)
    made = applied(model, "quantize")
    before, after = (evaluate(m, {"x": ROWS[:32]}) for m in (model, made.model))
    error = float(((before - after) ** 2).mean() / before.var())
    told = [note for note in made.notes if "saturate on this processor" in note]
    assert len(told) == (error > 0.01)  # a processor with VNNI adds them up in 32 bits
    assert not any("saturate" in note for note in rounded.notes)
    monkeypatch.setattr("mlflow_compress.techniques.onnx_sensitivity._WORTH_SAYING", -1)
    note = next(note for note in applied(model, "quantize").notes if "saturate" in note)
    lost = re.search(r"changes the outputs by (\S+) of their variance: reduce_range avoids", note)
    assert float(lost[1]) == pytest.approx(error, abs=0.02)


def half_net():
    return typed(model_of(
        [node("Gemm", "x w b", "h"), node("Relu", "h", "r"), node("Gemm", "r v", "y")],
        {"w": weights(16, 32), "b": weights(32), "v": weights(32, 8)},
    ), TensorProto.FLOAT16)  # fmt: skip


def test_folding_half_numbers_leaves_weights_where_techniques_find_them():
    """onnxruntime computes them in float32 and would hide each weight behind a Cast."""
    recipe = Recipe((Step("fold", {}), Step("prune", {"sparsity": 0.5})), "compact")
    rows = {"x": ROWS.astype(np.float16)}
    made = apply_recipe(normalize(half_net()), recipe, Context(calibration=rows))
    assert not any(n.op_type == "Cast" for n in made.model.graph.node)
    assert "constants were not folded: onnxruntime casts" in made.notes[0]
    with pytest.raises(TechniqueError, match=r"weight 'w' is float16 \(export the model in float"):
        recipe = Recipe((Step("fold", {}), Step("weight_only", {})), "compact")
        apply_recipe(normalize(half_net()), recipe, Context(calibration=rows))
