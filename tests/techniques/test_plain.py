"""What ONNX lets a model say in several ways is one model to every technique."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.errors import SourceError, TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe, normalize

RNG = np.random.default_rng(5)
ROWS = RNG.normal(size=(64, 16)).astype(np.float32)
HELD = {
    "w": (RNG.normal(size=(16, 16)) / 4).astype(np.float32),
    "b": RNG.normal(size=16).astype(np.float32),
    "v": (RNG.normal(size=(16, 8)) / 4).astype(np.float32),
}
NODES = (
    ("Gemm", ["x", "w", "b"], ["h"]),
    ("Relu", ["h"], ["r"]),
    ("MatMul", ["r", "v"], ["y"]),
)


def nodes(domain=""):
    return [helper.make_node(*parts, domain=domain) for parts in NODES]


def model_of(some, held=HELD, *, domain="", functions=(), domains=(), sparse=()):
    graph = helper.make_graph(
        some,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
        sparse_initializer=list(sparse),
    )
    opsets = [helper.make_opsetid(domain, 17), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)


def tensor_of(name):
    return numpy_helper.from_array(HELD[name], name)


def but(name):
    return {key: array for key, array in HELD.items() if key != name}


def sparse_of(linear):
    array = np.where(np.abs(HELD["w"]) > 0.3, HELD["w"], 0)
    places = np.argwhere(array) if not linear else np.flatnonzero(array)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(array[array != 0], "w"),
        numpy_helper.from_array(places.astype(np.int64), "places"),
        array.shape,
    )


def function_called_gemm():
    """``own.Gemm`` adds; its second input is no matrix."""
    opsets = [helper.make_opsetid("", 17)]
    body = helper.make_function(
        "own", "Gemm", ["a", "c"], ["o"], [helper.make_node("Add", ["a", "c"], ["o"])], opsets
    )
    row = {"c": RNG.normal(size=(1, 16)).astype(np.float32)}
    calls = [helper.make_node("Gemm", ["x", "c"], ["x2"], domain="own")]
    some = [*calls, helper.make_node("Gemm", ["x2", "w", "b"], ["h"]), *nodes()[1:]]
    return model_of(some, HELD | row, functions=[body], domains=["own"])


def constant(**values):
    return helper.make_node("Constant", [], ["b"], **values)


WAYS = {
    "the standard domain by its other name": lambda: model_of(nodes("ai.onnx"), domain="ai.onnx"),
    "nodes in no order": lambda: model_of(nodes()[::-1]),
    "sparse weights": lambda: model_of(nodes(), but("w"), sparse=[sparse_of(linear=True)]),
    "sparse weights by axes": lambda: model_of(nodes(), but("w"), sparse=[sparse_of(linear=False)]),
    "a sparse Constant": lambda: model_of(
        [
            helper.make_node("Constant", [], ["w"], sparse_value=sparse_of(linear=True)),
            *nodes(),
        ],
        but("w"),
    ),
    "numbers in a Constant": lambda: model_of(
        [constant(value_floats=HELD["b"].tolist()), *nodes()], but("b")
    ),
    "a number in a Constant": lambda: model_of([constant(value_float=0.5), *nodes()], but("b")),
    "a function called as an operator": function_called_gemm,
}
STEPS = {
    "fold": {},
    "trim": {},
    "prune": {"sparsity": 0.1, "repair": True},
    "share": {"clusters": 256},
    "entropy_share": {"bits": 8.0},
    "weight_only": {"bits": 8},
    "quantize": {},
    "quantize all": {"equalize": True, "correct_bias": True, "keep_float": 1},
    "dynamic": {},
    "shrink": {"ratio": 0.0},
    "portable": {},
}


def run(model, rows=ROWS):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": rows})[0]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("way", WAYS)
def test_every_technique_takes_it(way, name):
    source = WAYS[way]()
    steps = () if name == "portable" else (Step(name.split()[0], STEPS[name]),)
    context = Context(calibration={"x": ROWS})
    made = apply_recipe(normalize(source), Recipe(steps, "portable"), context)
    onnx.checker.check_model(made.model, full_check=True)
    before, after = run(source), run(made.model)
    assert ((before - after) ** 2).mean() < 0.05 * before.var()


@pytest.mark.parametrize("way", WAYS)
def test_the_normal_form_computes_the_same(way):
    source = WAYS[way]()
    made = normalize(source)
    onnx.checker.check_model(made, full_check=True)
    np.testing.assert_allclose(run(made), run(source), rtol=1e-5, atol=1e-5)
    assert {"w", "b"} <= {tensor.name for tensor in made.graph.initializer}


def test_a_circle_of_nodes_is_refused_and_stops_nothing():
    """As a value of a loop's body that is called as one outside is none, see test_scopes.py."""
    some = [*nodes(), helper.make_node("Add", ["y", "back"], ["z"])]
    some += [helper.make_node("Relu", ["z"], ["back"])]
    made = normalize(model_of(some))
    assert sorted(node.op_type for node in made.graph.node) == sorted(n.op_type for n in some)
    recipe = Recipe((Step("fold", {}),), "compact")
    with pytest.raises(TechniqueError, match="onnxruntime does not load the model"):
        apply_recipe(made, recipe, Context(calibration={"x": ROWS}))


def test_sparse_weights_that_ask_for_all_memory_are_refused():
    few = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "w"),
        numpy_helper.from_array(np.zeros(1, np.int64), "w_places"),
        [1 << 20, 1 << 20],
    )
    with pytest.raises(SourceError, match=r"the largest is 'w' of shape \[1048576, 1048576\]"):
        normalize(model_of(nodes(), but("w"), sparse=[few]))


@pytest.mark.parametrize(("place", "dims"), [(99, [4, 4]), (-1, [4, 4]), (0, [-4, 4])])
def test_sparse_weights_that_lie_outside_themselves_are_refused(place, dims):
    few = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "w"),
        numpy_helper.from_array(np.array([place]), "w_places"),
        dims,
    )
    with pytest.raises(SourceError, match=r"sparse weight 'w' is broken: \w+: Sparse tensor"):
        normalize(model_of(nodes(), but("w"), sparse=[few]))


def test_a_constant_that_names_the_standard_domain_is_a_weight_too():
    constant = helper.make_node("Constant", [], ["w"], value=tensor_of("w"), domain="ai.onnx")
    made = normalize(model_of([constant, *nodes()], but("w")))
    assert "w" in {tensor.name for tensor in made.graph.initializer}


def test_a_function_that_onnxruntime_does_not_run_is_none():
    """Of its own operators it computes its own, whatever the body says."""
    body = [helper.make_node("Neg", ["a"], ["b"])]
    gelu = helper.make_function("com.microsoft", "Gelu", ["a"], ["b"], body,
                                [helper.make_opsetid("", 17)])  # fmt: skip
    call = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    model = helper.make_model(
        helper.make_graph(
            [call],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        ),
        functions=[gelu],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=9,
    )
    x = {"x": np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)}
    one, two = (
        ort.InferenceSession(each.SerializeToString()).run(None, x)[0]
        for each in (model, normalize(model))
    )
    np.testing.assert_array_equal(one, two)


def test_sparse_weights_are_counted_together_before_any_is_made():
    def few(name):
        return helper.make_sparse_tensor(
            numpy_helper.from_array(np.ones(1, np.float32), name),
            numpy_helper.from_array(np.zeros(1, np.int64), f"{name}_places"),
            [1 << 14, 1 << 13],
        )

    normalize(model_of(nodes(), HELD, sparse=[few("s1")]))
    with pytest.raises(SourceError, match="the sparse weights take more than 2,147,483,647 bytes"):
        normalize(model_of(nodes(), HELD, sparse=[few(f"s{i}") for i in range(8)]))


def test_sizes_that_are_less_than_none_hide_no_others():
    wide, odd = (
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.ones(1, np.float32), name),
            numpy_helper.from_array(np.zeros(1, np.int64), f"{name}_places"),
            [size],
        )
        for name, size in (("s", 1 << 50), ("t", -(1 << 50)))
    )
    with pytest.raises(SourceError, match="the largest is 's' of shape"):
        normalize(model_of(nodes(), HELD, sparse=[wide, odd]))


def test_a_weight_that_is_dense_and_sparse_is_refused():
    with pytest.raises(SourceError, match="weight 'w' has two values, one of them sparse: keep"):
        normalize(model_of(nodes(), HELD, sparse=[sparse_of(linear=True)]))


@pytest.mark.parametrize(
    "attribute",
    [
        helper.make_attribute("value_floats", "abc"),
        helper.make_attribute("value_float", "abc"),
        helper.make_attribute("value_ints", ["a", "b"]),
    ],
    ids=lambda one: one.name,
)
def test_constants_that_give_nothing_readable_are_refused(attribute):
    constant = helper.make_node("Constant", [], ["w"], name="odd")
    constant.attribute.append(attribute)
    model = model_of(nodes(), but("w"))
    model.graph.node.insert(0, constant)
    with pytest.raises(SourceError, match="Constant 'odd' gives no value: "):
        normalize(model)


def test_a_constant_without_outputs_is_no_accident():
    model = model_of(nodes(), HELD)
    model.graph.node.insert(0, helper.make_node("Constant", [], [], value=tensor_of("w")))
    normalize(model)


def test_sparse_weights_of_a_type_that_is_none_are_refused():
    few = sparse_of(linear=True)
    few.values.data_type = 999
    with pytest.raises(SourceError, match="sparse weight 'w' is broken: "):
        normalize(model_of(nodes(), but("w"), sparse=[few]))
