import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress import packed
from mlflow_compress.errors import SourceError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, apply_recipe
from mlflow_compress.techniques.graph.normal import normalize


def held(model) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


def matmul(build, weight_nodes, name, arrays):
    nodes = [*weight_nodes, helper.make_node("MatMul", ["x", name], ["y"])]
    return build(nodes, arrays, [("x", ["n", 3])], [("y", ["n", 2])])


@pytest.fixture
def weight(rng):
    return rng.normal(size=(3, 2)).astype(np.float32)


@pytest.fixture
def inputs(rng):
    return {"x": rng.normal(size=(5, 3)).astype(np.float32)}


def test_a_constant_node_becomes_an_initializer(build, weight, inputs, evaluate):
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight, "v"))
    model = matmul(build, [constant], "w", {})
    made = normalize(model)
    assert held(made) == {"w"}
    assert [node.op_type for node in made.graph.node] == ["MatMul"]
    np.testing.assert_array_equal(evaluate(made, inputs), evaluate(model, inputs))


def test_a_weight_behind_identities_is_used_directly(build, weight, inputs, evaluate):
    nodes = [
        helper.make_node("Identity", ["w"], ["w1"]),
        helper.make_node("Identity", ["w1"], ["w2"]),
    ]
    model = matmul(build, nodes, "w2", {"w": weight})
    made = normalize(model)
    assert [node.op_type for node in made.graph.node] == ["MatMul"]
    assert made.graph.node[0].input[1] == "w"
    np.testing.assert_array_equal(evaluate(made, inputs), evaluate(model, inputs))


def test_an_identity_that_is_a_graph_output_stays(build, weight):
    nodes = [
        helper.make_node("Identity", ["w"], ["y"]),
        helper.make_node("MatMul", ["x", "w"], ["z"]),
    ]
    model = build(nodes, {"w": weight}, [("x", ["n", 3])], [("y", [3, 2]), ("z", ["n", 2])])
    assert [node.op_type for node in normalize(model).graph.node] == ["Identity", "MatMul"]


def branches(build, then_weight, else_weight):
    """Both branches hold an initializer of the same name."""

    def branch(name, array):
        return helper.make_graph(
            [
                helper.make_node("Identity", ["w"], [f"{name}_i"]),
                helper.make_node("MatMul", ["x", f"{name}_i"], [f"{name}_y"]),
            ],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, "w")],
        )

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node(
            "If", ["c"], ["y"], then_branch=branch("t", then_weight),
            else_branch=branch("e", else_weight),
        ),
    ]  # fmt: skip
    return build(nodes, {"zero": np.float32(0)}, [("x", ["n", 3])], [("y", ["n", 2])])


def test_weights_of_branches_move_to_the_main_graph(build, weight, evaluate):
    model = branches(build, weight, weight + 1)
    made = normalize(model)
    assert held(made) == {"zero", "w", "w_1"}
    onnx.checker.check_model(made, full_check=True)
    for sign in (1, -1):
        inputs = {"x": np.full((2, 3), sign, np.float32)}
        np.testing.assert_array_equal(evaluate(made, inputs), evaluate(model, inputs))


def test_text_and_shapes_that_inference_finds_again_are_dropped(convnet):
    convnet = onnx.shape_inference.infer_shapes(convnet)
    convnet.doc_string = "doc"
    convnet.graph.node[0].doc_string = "doc"
    convnet.graph.node[0].metadata_props.add(key="k", value="v")
    unused = numpy_helper.from_array(np.ones(3, np.float32), "unused")
    convnet.graph.initializer.append(unused)
    assert convnet.graph.value_info
    made = normalize(convnet)
    assert not made.graph.value_info
    assert not made.graph.node[0].metadata_props
    assert not made.graph.node[0].doc_string and not made.doc_string
    assert "unused" not in held(made)


def test_inputs_that_are_initializers_are_dropped(convnet):
    convnet.ir_version = 3
    unused = numpy_helper.from_array(np.ones(3, np.float32), "unused")
    convnet.graph.initializer.append(unused)
    for tensor in convnet.graph.initializer:
        convnet.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    made = normalize(convnet)
    assert [value.name for value in made.graph.input] == ["x"]
    assert made.ir_version == 4


def scaled(build, weight, exporters=False):
    """A model whose callers may give ``k``; exporters list weights too."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Mul", ["h", "k"], ["y"]),
    ]
    arrays = {"w": weight, "k": np.ones(1, np.float32), "m": np.ones(1, np.float32)}
    model = build(nodes, arrays, [("x", ["n", 3])], [("y", ["n", 2])])
    for name in ("k", "m", *(["w"] if exporters else [])):
        shape = list(arrays[name].shape)
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


def test_an_input_that_a_caller_may_give_stays_one(build, weight):
    made = normalize(scaled(build, weight))
    assert [value.name for value in made.graph.input] == ["x", "k", "m"]
    assert held(made) == {"w", "k", "m"}
    assert normalize(made).SerializeToString() == made.SerializeToString()
    listed = normalize(scaled(build, weight, exporters=True))
    assert [value.name for value in listed.graph.input] == ["x"]
    assert held(listed) == {"w", "k"}


@pytest.mark.parametrize("profile", ["compact", "portable"])
@pytest.mark.parametrize(
    "steps",
    [
        [Step("fold", {"names": True, "biases": True})],
        [Step("entropy_share", {"bits": 8.0})],
        [Step("quantize", {})],
        [Step("share", {"clusters": 64}), Step("repair", {}), Step("trim", {})],
    ],
    ids=lambda steps: steps[0].technique,
)
def test_no_technique_takes_what_a_caller_may_give_for_a_constant(
    build, weight, inputs, evaluate, steps, profile
):
    model = normalize(scaled(build, weight))
    rows = {"x": np.repeat(inputs["x"], 20, axis=0)}
    made = apply_recipe(model, Recipe(tuple(steps), profile), Context(calibration=rows)).model
    session = packed.load(packed.to_bytes(packed.pack(made, profile)), threads=1)
    assert [value.name for value in session.get_inputs()] == ["x"]
    for k in (None, 0.25):
        given = inputs if k is None else {**inputs, "k": np.full(1, k, np.float32)}
        expected = evaluate(model, given)
        np.testing.assert_allclose(session.run(None, given)[0], expected, atol=0.03)


def test_it_is_deterministic_and_idempotent_and_leaves_its_argument_alone(build, weight):
    model = branches(build, weight, weight + 1)
    before = model.SerializeToString()
    once = normalize(model)
    assert model.SerializeToString() == before
    assert normalize(model).SerializeToString() == once.SerializeToString()
    assert normalize(once).SerializeToString() == once.SerializeToString()


def test_a_file_that_is_no_model_is_refused():
    with pytest.raises(SourceError, match="no nodes"):
        normalize(onnx.ModelProto())


def test_external_data_that_was_not_loaded_is_refused(convnet):
    convnet.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(SourceError, match=r"tensor 'c1\.w' is in external data"):
        normalize(convnet)


def test_a_model_that_shape_inference_stumbles_over_is_left_to_whoever_runs_it(convnet):
    del convnet.opset_import[:]
    convnet.opset_import.append(helper.make_opsetid("elsewhere", 1))
    convnet.graph.value_info.append(
        helper.make_tensor_value_info("nowhere", TensorProto.FLOAT, ["n"])
    )
    made = normalize(convnet)
    assert [value.name for value in made.graph.value_info][-1:] == ["nowhere"]
