import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.errors import SourceError
from mlflow_compress.techniques.onnx_normalize import normalize


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
