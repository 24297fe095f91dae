"""What ``trim`` takes away, what it leaves, and that outputs stay."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mlflow_compress import packed
from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, OrderError, apply_recipe, get
from mlflow_compress.techniques.graph.walk import attributes_of
from mlflow_compress.techniques.trim import TrimSettings
from mlflow_compress.techniques.trim import onnx as onnx_trim

UNITS = TrimSettings(attributes=False, names=False)
ATTRIBUTES = TrimSettings(units=False, names=False)


def trim(model, settings, inputs=None):
    return get("trim").apply(model, settings, Context(inputs))


def changed(model, **arrays):
    """Return the model with some initializers replaced."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return made


@pytest.fixture
def sparse(convnet, arrays):
    """The convnet with filters and hidden units that nothing reads, or that read nothing."""
    held = {name: array.copy() for name, array in arrays(convnet).items()}
    held["c2.w"][:, 1] = 0  # nothing reads filter 1 of the first layer
    held["c1.w"][2] = 0  # filter 2 gives its bias, whatever comes in
    held["c1.b"][2] = 0.7
    held["f1.w"][5:9] = 0  # four hidden units of fixed value, two of them 0 behind the Relu
    held["f1.b"][5:9] = 0.4, -0.4, 1.5, -1.5
    held["f2.w"][20] = 0  # nothing reads hidden unit 20
    return changed(convnet, **held)


def test_units_without_a_use_go_and_outputs_stay(sparse, rows, evaluate, arrays):
    made = trim(sparse, UNITS, rows)
    left = arrays(made.model)
    assert left["c1.w"].shape == (6, 1, 3, 3) and left["c2.w"].shape == (16, 6, 3, 3)
    assert left["f1.w"].shape == (59, 144) and left["f2.w"].shape == (59, 10)
    assert made.notes == ("removed 7 units without a use",)
    np.testing.assert_allclose(evaluate(made.model, rows), evaluate(sparse, rows), atol=2e-5)


def test_a_unit_of_fixed_value_stays_where_a_padded_layer_reads_it(sparse, rows, evaluate, arrays):
    nodes = [node for node in sparse.graph.node if node.op_type == "Conv"]
    nodes[1].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    width = 16 * 5 * 5
    weight = np.random.default_rng(0).normal(0, 0.1, (64, width)).astype(np.float32)
    padded = changed(sparse, **{"f1.w": weight})
    made = trim(padded, UNITS, rows)
    # filter 1 is unread and goes; filter 2 is a constant that the border cuts off
    assert arrays(made.model)["c1.w"].shape == (7, 1, 3, 3)
    np.testing.assert_allclose(evaluate(made.model, rows), evaluate(padded, rows), atol=2e-5)


def test_what_only_a_dead_unit_reads_goes_too(convnet, rows, evaluate, arrays):
    held = {name: array.copy() for name, array in arrays(convnet).items()}
    held["f2.w"][10:] = 0
    held["f1.w"][:10, : 9 * 12] = 0  # the ten units left read the last four filters only
    deep = changed(convnet, **held)
    made = trim(deep, UNITS, rows)
    left = arrays(made.model)
    assert left["f1.w"].shape == (10, 36) and left["c2.w"].shape == (4, 8, 3, 3)
    np.testing.assert_allclose(evaluate(made.model, rows), evaluate(deep, rows), atol=2e-5)


def test_one_unit_stays_in_a_layer_that_is_dead_altogether(convnet, rows, evaluate, arrays):
    dead = changed(convnet, **{"f2.w": np.zeros((64, 10), np.float32)})
    made = trim(dead, UNITS, rows)
    assert arrays(made.model)["f1.w"].shape[0] == 1
    np.testing.assert_allclose(evaluate(made.model, rows), evaluate(dead, rows), atol=2e-5)


def test_a_model_without_dead_units_is_left_as_it_is(convnet, rows):
    made = trim(convnet, UNITS, rows)
    assert made.model == convnet
    assert made.notes == ("no unit is without a use",)


def test_attributes_that_say_nothing_and_biases_of_zeros_go(build, rng, evaluate):
    f32 = np.float32
    window = {"kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w", "zeros"], ["a"], group=1, pads=[1, 1, 1, 1], **window),
        helper.make_node("MaxPool", ["a"], ["b"], storage_order=0, pads=[0, 0, 0, 0], **window),
        helper.make_node("Reshape", ["b", "shape"], ["c"], allowzero=1),
        helper.make_node("Gemm", ["c", "v", "bias"], ["y"], alpha=1.0, beta=0.5, transB=1),
    ]
    arrays = {
        "w": rng.normal(size=(4, 1, 3, 3)).astype(f32),
        "zeros": np.zeros(4, f32),
        "shape": np.array([-1, 64]),
        "v": rng.normal(size=(5, 64)).astype(f32),
        "bias": np.ones(5, f32),
    }
    model = build(nodes, arrays, [("x", ["n", 1, 6, 6])], [("y", ["n", 5])])
    made = trim(model, ATTRIBUTES).model
    conv, pool, flat, gemm = made.graph.node
    assert attributes_of(conv) == {"pads": [1, 1, 1, 1]} and list(conv.input) == ["x", "w"]
    assert attributes_of(pool) == {"kernel_shape": [3, 3]}
    assert flat.op_type == "Flatten" and list(flat.input) == ["b"] and not flat.attribute
    assert attributes_of(gemm) == {"beta": 0.5, "transB": 1}
    assert [tensor.name for tensor in made.graph.initializer] == ["w", "v", "bias"]
    x = {"x": rng.normal(size=(3, 1, 6, 6)).astype(f32)}
    np.testing.assert_array_equal(evaluate(made, x), evaluate(model, x))


@pytest.mark.parametrize(
    ("shape", "made"), [([2, 32], [2, 32]), ([-1, 32], [2, 32]), ([0, 4, 16], [1, 4, 16])]
)
def test_a_reshape_that_is_no_flatten_stays(build, shape, made):
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    arrays = {"shape": np.array(shape)}
    model = build(nodes, arrays, [("x", [1, 4, 16])], [("y", made)])
    assert trim(model, ATTRIBUTES).model.graph.node[0].op_type == "Reshape"


def test_names_are_short_and_their_origin_is_told(convnet, rows, evaluate):
    made = trim(convnet, TrimSettings(units=False, attributes=False), rows)
    names = [tensor.name for tensor in made.model.graph.initializer]
    assert all(len(name) == 1 for name in names)
    old = [tensor.name for tensor in convnet.graph.initializer]
    assert [made.origin[name] for name in names] == old
    assert [made.model.graph.input[0].name, made.model.graph.output[0].name] == ["x", "y"]
    np.testing.assert_array_equal(evaluate(made.model, rows), evaluate(convnet, rows))


def test_the_packed_file_of_a_sparse_model_shrinks(sparse, rows):
    made = trim(sparse, TrimSettings(), rows)
    before, after = packed.pack(sparse).ByteSize(), packed.pack(made.model).ByteSize()
    assert after < 0.93 * before
    assert packed.unpack(packed.pack(made.model)) == made.model


def test_it_comes_last(convnet):
    with pytest.raises(OrderError, match="prune cannot come after trim"):
        apply_recipe(convnet, Recipe((Step("trim"), Step("prune"))), Context())


def test_changed_outputs_are_refused(convnet, rows, monkeypatch):
    def broken(model):
        twice = [2 * numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "c1.b"]
        return changed(model, **{"c1.b": twice[0]})

    monkeypatch.setattr(onnx_trim, "without_defaults", broken)
    with pytest.raises(TechniqueError, match="trimming changes output 'y' by"):
        trim(convnet, ATTRIBUTES, rows)
